//! TLS on top: `hyper_rustls` and `hyper_tls` around the connector under test, to servers that we did not
//! write, with a CA of our own. The ClientHello rides if it fits.

#[cfg(feature = "native-tls")]
pub(crate) mod native;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use bytes::Bytes;
use hyper::{Response, Uri, Version};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::Connect;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ClientConfig, NamedGroup, RootCertStore, ServerConfig};
use tfo_http::{ConnInfo, Reason, is_connect_error};
use tfo_lab::test::{Program, need};
use tfo_lab::{Flow, Host};
use tokio_rustls::TlsAcceptor;

use crate::errors::all;
use crate::protocols::hello;
use crate::stage::{NOT_THESE, Stage, Syn, Watched, client, mirror, request, send, soon};
use crate::support::subject::Subject;

const NAME: &str = "server.v4.test";
const URI: &str = "https://server.v4.test:80/";

pub(crate) fn rustls_to_tokio_rustls<C: Subject>() {
    let stage = Stage::<C>::new();
    let ca = Ca::new();
    let acceptor = ca.acceptor(&[]);
    let _server = stage.serve(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                mirror(stream).await;
            }
        }
    });
    let response = visit(&stage, rustls_over(stage.watched_any(), ca.client(CLASSICAL)));
    assert!(response.body().starts_with(b"GET / HTTP/1.1\r\nhost: server.v4.test:80\r\n"), "{response:?}");
    hello_rode(&stage, &response);
}

pub(crate) fn rustls_to_tokio_rustls_over_http_2<C: Subject>() {
    let stage = Stage::<C>::new();
    let ca = Ca::new();
    let acceptor = ca.acceptor(&[b"h2"]);
    let _server = stage.serve(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let stream = acceptor.accept(stream).await.unwrap();
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = http.serve_connection(TokioIo::new(stream), hyper::service::service_fn(hello)).await;
        }
    });
    let response = visit(&stage, rustls_over(stage.watched_any(), ca.client(CLASSICAL)));
    assert_eq!((response.version(), &response.body()[..]), (Version::HTTP_2, &b"hello"[..]));
    hello_rode(&stage, &response);
}

pub(crate) fn rustls_to_nginx<C: Subject>() {
    let stage = Stage::<C>::new();
    let ca = Ca::new();
    let _server = nginx(&stage.server, stage.addr(), &ca);
    let response = visit(&stage, rustls_over(stage.watched_any(), ca.client(CLASSICAL)));
    assert_eq!(response.body(), "hello");
    hello_rode(&stage, &response);
}

pub(crate) fn rustls_to_openssl<C: Subject>() {
    let stage = Stage::<C>::new();
    let ca = Ca::new();
    let _server = openssl(&stage.server, stage.addr(), &ca);
    let response = visit(&stage, rustls_over(stage.watched_any(), ca.client(CLASSICAL)));
    assert!(response.body().starts_with(b"<HTML>"), "{response:?}");
    hello_rode(&stage, &response);
}

/// With a post-quantum key share it is larger than a SYN: what fits is in the SYN, the rest behind the
/// handshake, and nothing is claimed.
pub(crate) fn a_hello_that_does_not_fit<C: Subject>() {
    let stage = Stage::<C>::new();
    let ca = Ca::new();
    let acceptor = ca.acceptor(&[]);
    let _server = stage.serve(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let stream = acceptor.accept(stream).await.unwrap();
            assert_eq!(
                stream.get_ref().1.negotiated_key_exchange_group().unwrap().name(),
                NamedGroup::X25519MLKEM768
            );
            mirror(stream).await;
        }
    });
    let response = visit(&stage, rustls_over(stage.watched_any(), ca.client(HYBRID)));
    assert!(response.body().starts_with(b"GET / HTTP/1.1\r\n"), "{response:?}");
    stage.shows(&[Syn::Rode]);
    if let Some(info) = info_of(&response) {
        let flow = stage.flows().remove(0);
        assert!(hello_of(&flow).is_err_and(|missing| missing > 0), "{flow}");
        assert_eq!((info.reason(), info.saved_rtts()), (Some(Reason::TooLarge), 0), "{info:?}");
    }
}

pub(crate) fn a_certificate_that_nobody_signed<C: Subject>() {
    nobody_signed::<C, _>(|connector, other| rustls_over(connector, other.client(CLASSICAL)));
}

/// The handshake is inside of the connect: hyper-util's own question is answered right, also by ours.
pub(crate) fn refused_behind_tls<C: Subject>() {
    refused::<C, _>(|connector, ca| rustls_over(connector, ca.client(CLASSICAL)));
}

fn nobody_signed<C: Subject, T>(over: impl FnOnce(Watched<C>, &Ca) -> T)
where
    T: Connect + Clone + Send + Sync + 'static,
{
    let stage = Stage::<C>::new();
    let (ca, other) = (Ca::new(), Ca::new());
    let acceptor = ca.acceptor(&[]);
    let _server = stage.serve(move |stream| {
        let acceptor = acceptor.clone();
        async move { drop(acceptor.accept(stream).await) }
    });
    let connector = over(stage.watched_any(), &other);
    let error = stage.run(async move {
        let uri: Uri = URI.parse().unwrap();
        soon(send(&client(connector), request(&uri))).await.unwrap_err()
    });
    assert!(error.is_connect() && all(&error).contains("certificate"), "{}", all(&error));
    stage.shows(&[Syn::Rode]);
}

fn refused<C: Subject, T>(over: impl FnOnce(Watched<C>, &Ca) -> T)
where
    T: Connect + Clone + Send + Sync + 'static,
{
    let stage = Stage::<C>::new();
    let ca = Ca::new();
    let connector = over(stage.watched_any(), &ca);
    let error = stage.run(async move {
        let uri: Uri = URI.parse().unwrap();
        soon(send(&client(connector), request(&uri))).await.unwrap_err()
    });
    assert!(error.is_connect() && is_connect_error(&error), "{error:?}");
    assert!(all(&error).contains("refused"), "{}", all(&error));
    let first = Syn::of(&stage.flows()[0]);
    assert!(!C::DEFERS || first == Syn::NotAcked, "{NOT_THESE}{first:?}");
}

/// One request, on a client that is gone afterwards.
fn visit<C: Subject, S>(stage: &Stage<C>, connector: S) -> Response<Bytes>
where
    S: Connect + Clone + Send + Sync + 'static,
{
    let uri = URI.parse().unwrap();
    stage.run(async move { soon(send(&client(connector), request(&uri))).await.unwrap() })
}

/// The whole ClientHello was in the SYN, and nothing else; the handshake's round trip was saved.
fn hello_rode<C: Subject>(stage: &Stage<C>, response: &Response<Bytes>) {
    stage.shows(&[Syn::Rode]);
    if let Some(info) = info_of(response) {
        let flow = stage.flows().remove(0);
        assert_eq!(hello_of(&flow), Ok(()), "{flow}");
        assert_eq!((info.saved_rtts(), info.reason()), (1, None), "{info:?}\n{flow}");
    }
}

fn info_of(response: &Response<Bytes>) -> Option<ConnInfo> {
    response.extensions().get::<ConnInfo>().cloned()
}

/// Whether a SYN's data is a ClientHello; how many bytes are missing of it.
fn hello_of(flow: &Flow) -> Result<(), usize> {
    let data = flow.syn().payload();
    assert_eq!((data[0], data[1], data[5]), (22, 3, 1), "no ClientHello: {flow}");
    let length = 5 + usize::from(u16::from_be_bytes([data[3], data[4]]));
    if length == data.len() { Ok(()) } else { Err(length - data.len()) }
}

impl<C: Subject> Stage<C> {
    /// A connector for a TLS connector on top.
    fn watched_any(&self) -> Watched<C> {
        let mut connector = self.connector();
        connector.enforce_http(false);
        Watched::new(connector)
    }
}

fn rustls_over<T>(connector: T, config: ClientConfig) -> HttpsConnector<T> {
    let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_only();
    builder.enable_all_versions().wrap_connector(connector)
}

/// With the curve of the certificates, which TLS 1.2 asks for.
const CLASSICAL: &[NamedGroup] = &[NamedGroup::X25519, NamedGroup::secp256r1];
const HYBRID: &[NamedGroup] = &[NamedGroup::X25519MLKEM768];

/// A CA and a certificate of the server.
struct Ca {
    #[cfg_attr(not(feature = "native-tls"), expect(dead_code, reason = "OpenSSL reads it"))]
    root_pem: String,
    root: rustls::pki_types::CertificateDer<'static>,
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a CA of our own");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_key = KeyPair::generate().unwrap();
        let root = params.self_signed(&root_key).unwrap();
        let issuer = Issuer::new(params, root_key);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, NAME);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Self { root_pem: root.pem(), root: root.der().clone(), certificate, key }
    }

    fn client(&self, groups: &[NamedGroup]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let mut provider = provider();
        provider.kx_groups.retain(|known| groups.contains(&known.name()));
        let builder =
            ClientConfig::builder_with_provider(provider.into()).with_safe_default_protocol_versions();
        builder.unwrap().with_root_certificates(roots).with_no_client_auth()
    }

    fn acceptor(&self, protocols: &[&[u8]]) -> TlsAcceptor {
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der());
        let builder =
            ServerConfig::builder_with_provider(provider().into()).with_safe_default_protocol_versions();
        let builder = builder.unwrap().with_no_client_auth();
        let mut config = builder.with_single_cert(vec![self.certificate.der().clone()], key.into()).unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config).into()
    }

    fn write(&self, directory: &Path) {
        fs::write(directory.join("cert.pem"), self.certificate.pem()).unwrap();
        fs::write(directory.join("key.pem"), self.key.serialize_pem()).unwrap();
    }
}

fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

fn nginx(host: &Host, addr: SocketAddr, ca: &Ca) -> Program {
    let directory = tempfile::tempdir().unwrap();
    ca.write(directory.path());
    let served = format!(
        "listen {addr} ssl fastopen=256; ssl_certificate cert.pem; ssl_certificate_key key.pem;
         return 200 hello;"
    );
    Program::nginx(host, addr, directory, &served)
}

/// It does not know of TCP Fast Open: the sysctl gives it to every listener.
fn openssl(host: &Host, addr: SocketAddr, ca: &Ca) -> Program {
    host.set_sysctl("net.ipv4.tcp_fastopen", 0x403).unwrap();
    let directory = tempfile::tempdir().unwrap();
    ca.write(directory.path());
    let port = addr.port().to_string();
    let args = ["s_server", "-4", "-accept", &port, "-cert", "cert.pem", "-key", "key.pem", "-www", "-quiet"];
    let command = host.command(need("openssl")).args(args).current_dir(directory.path());
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Program::start(command, host, addr, directory)
}
