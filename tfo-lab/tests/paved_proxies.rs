//! The client through proxies, with TLS, and with what servers compress.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::{Request, Version};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use support::flows;
use support::http::{Runtime, run};
use support::tcp::{TcpServer, connect_proxy, socks5_proxy};
use support::web::Web;
use tfo_http::client::{ClientBuilder, Error, ErrorKind, NotInSyn, Timeout};
use tfo_http::{Client, ConnInfo, Reason, SynOutcome};
use tfo_lab::test::{Program, need};
use tfo_lab::{HoldProof, Host, Lab, lab_tests};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const RTT: Duration = Duration::from_millis(10);
const PROXY: u16 = 3128;
const CHILD: &str = "TFO_LAB_URL";

lab_tests! {
    /// The environment belongs to a process, so the client is one: this binary again.
    fn the_proxy_of_the_environment_is_used_and_gets_no_syn_data() {
        if let Ok(url) = env::var(CHILD) {
            return visit_three_times(url);
        }
        let lab = Lab::builder().rtt(RTT).host("client").host("proxy").host("server").build().unwrap();
        let (client, middle, host) = (lab.host("client"), lab.host("proxy"), lab.host("server"));
        let (proxy, web) = (Web::start(&middle, middle.addr(PROXY)), Web::start(&host, host.addr(80)));
        let visits = |no_proxy: &str| {
            let output = client
                .command(env::current_exe().unwrap())
                .args(["--exact", "the_proxy_of_the_environment_is_used_and_gets_no_syn_data"])
                .env("HTTP_PROXY", format!("http://me:secret@{}", middle.addr(PROXY)))
                .env("NO_PROXY", no_proxy)
                .env(CHILD, format!("http://{}/", host.addr(80)))
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        visits("");
        assert_eq!((proxy.asked().len(), web.asked().len()), (3, 0));
        for asked in proxy.asked() {
            assert_eq!(asked.line(), format!("GET http://{}/", host.addr(80)));
            assert_eq!(asked.header("proxy-authorization"), Some("Basic bWU6c2VjcmV0"));
        }
        for flow in flows(&lab, PROXY) {
            assert!(flow.syn().fast_open().is_none() && flow.syn().payload().is_empty(), "{flow}");
        }
        visits("10.0.0.0/8");
        assert_eq!((proxy.asked().len(), web.asked().len()), (3, 3));
        assert!(web.asked().iter().all(|asked| asked.header("proxy-authorization").is_none()));
        let rides: Vec<_> = flows(&lab, 80).iter().map(|flow| flow.request_delivered_in_syn()).collect();
        assert_eq!(rides, [false, true, true]);
    }

    fn requests_ride_to_a_proxy_where_the_caller_says_so() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, host) = (lab.host("client"), lab.host("server"));
        let web = Web::start(&host, host.addr(PROXY));
        let proxy = format!("http://{}", host.addr(PROXY));
        run(&client, Runtime::CurrentThread, async move {
            let client = Client::builder().proxy(proxy).proxy_syn_data(true).pool_max_idle_per_host(0);
            let client = client.build().unwrap();
            for _ in 0..2 {
                get(&client, "http://elsewhere.test/").await.unwrap();
            }
            let mut secret = Request::get("http://elsewhere.test/").body("").unwrap();
            secret.extensions_mut().insert(NotInSyn);
            client.request(secret).await.unwrap();
        });
        assert_eq!(web.lines(), ["GET http://elsewhere.test/"; 3]);
        let flows = flows(&lab, PROXY);
        let rides: Vec<_> = flows.iter().map(|flow| flow.request_delivered_in_syn()).collect();
        assert_eq!(rides, [false, true, false]);
        assert!(flows[2].syn().fast_open().is_none(), "no cookie is shown either");
    }

    fn bad_proxies_are_errors_of_their_kind() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, host) = (lab.host("client"), lab.host("server"));
        let says = |port, reply: &'static str| {
            TcpServer::start(&host, host.addr(port), move |mut stream| async move {
                let _ = stream.read(&mut [0; 1000]).await;
                let _ = stream.write_all(reply.as_bytes()).await;
                if reply.is_empty() {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
            })
        };
        let _proxies = [
            says(1, "HTTP/1.1 403 Forbidden\r\n\r\n"),
            says(2, "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"),
            says(3, "nonsense\r\n\r\n"),
            says(4, ""),
        ];
        let addr = move |port| SocketAddr::new(host.ipv4().into(), port);
        run(&client, Runtime::CurrentThread, async move {
            for (port, kind) in [
                (1, ErrorKind::Proxy),
                (2, ErrorKind::Proxy),
                (3, ErrorKind::Proxy),
                (4, ErrorKind::Timeout(Timeout::Connect)),
                (5, ErrorKind::Connect),
            ] {
                for scheme in ["http", "socks5h"] {
                    let client = Client::builder().proxy(format!("{scheme}://{}", addr(port)));
                    let client = client.connect_timeout(Some(Duration::from_millis(500))).build().unwrap();
                    let error = get(&client, "https://server.test/").await.unwrap_err();
                    assert_eq!(error.kind(), kind, "{scheme} {port}: {error:?}");
                    assert!(error.is_connect() && !error.maybe_executed(), "{error:?}");
                    assert_eq!(error.conn_info().unwrap().remote_addr(), addr(port));
                }
            }
        });
    }

    /// Through a tunnel nothing rides; the ClientHello does where it fits.
    fn a_client_hello_rides_if_it_fits() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, host) = (lab.host("client"), lab.host("server"));
        let nginx = Nginx::start(&host);
        let classical = CryptoProvider {
            kx_groups: vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1],
            ..aws_lc_rs::default_provider()
        };
        let _tunnel = TcpServer::start(&host, host.addr(PROXY), connect_proxy);
        let (url, proxy) = (format!("https://{}/", host.addr(8443)), format!("http://{}", host.addr(PROXY)));
        let (hybrid, classical) = (nginx.client(aws_lc_rs::default_provider()), nginx.client(classical));
        let infos = run(&client, Runtime::MultiThread, async move {
            let mut infos = Vec::new();
            let tunnelled = hybrid.clone().proxy(proxy);
            for builder in [hybrid.clone(), hybrid.clone(), classical, tunnelled] {
                infos.push(get(&builder.build().unwrap(), &url).await.unwrap());
            }
            let untrusting = get(&Client::new().unwrap(), &url).await.unwrap_err();
            assert_eq!(untrusting.kind(), ErrorKind::Tls, "{untrusting:?}");
            assert!(untrusting.is_connect() && !untrusting.maybe_executed());
            assert!(untrusting.conn_info().is_some());
            let plain = url.replace("https", "http");
            let error = get(&Client::new().unwrap(), &plain.replace("8443", "8080")).await;
            error.unwrap();
            infos
        });
        let told: Vec<_> = infos.iter().map(|info| (info.outcome(), info.reason(), info.saved_rtts())).collect();
        assert_eq!(told, [
            (SynOutcome::CookieRequested, Some(Reason::NoCookie), 0),
            (SynOutcome::SynDataAcked, Some(Reason::TooLarge), 0),
            (SynOutcome::SynDataAcked, None, 1),
            (SynOutcome::Plain, Some(Reason::Off), 0),
        ]);
        let syns: Vec<_> = flows(&lab, 8443).iter().map(|flow| flow.syn().payload().len()).collect();
        assert_eq!((syns[0], syns[1]), (0, 1420));
        assert!((200..500).contains(&syns[2]), "{syns:?}");
        assert!(flows(&lab, PROXY).iter().all(|flow| flow.syn().payload().is_empty()));
    }

    /// The name is resolved here or at the proxy, which is asked for an address in this lab.
    fn a_socks_proxy_carries_http_and_https_and_gets_no_syn_data() {
        let lab = Lab::builder().rtt(RTT).host("client").host("proxy").host("server").build().unwrap();
        let (client, middle, host) = (lab.host("client"), lab.host("proxy"), lab.host("server"));
        let nginx = Nginx::start(&host);
        let _proxy = TcpServer::start(&middle, middle.addr(PROXY), socks5_proxy);
        let (plain, tls) = (format!("http://{}/", host.addr(8080)), format!("https://{}/", host.addr(8443)));
        let builder = nginx.client(aws_lc_rs::default_provider()).pool_max_idle_per_host(0);
        let proxy = middle.addr(PROXY);
        run(&client, Runtime::CurrentThread, async move {
            for scheme in ["socks5", "socks5h"] {
                let client = builder.clone().proxy(format!("{scheme}://{proxy}")).build().unwrap();
                for url in [&plain, &tls] {
                    let info = get(&client, url).await.unwrap();
                    assert_eq!((info.remote_addr(), info.reason()), (proxy, Some(Reason::Off)), "{url}");
                }
            }
        });
        let to_proxy = flows(&lab, PROXY);
        assert_eq!(to_proxy.len(), 4);
        assert!(to_proxy.iter().all(|flow| flow.syn().fast_open().is_none()));
        let from = |port| flows(&lab, port).iter().map(|flow| flow.client().ip()).collect::<Vec<_>>();
        assert_eq!([from(8080), from(8443)], [[proxy.ip(); 2], [proxy.ip(); 2]], "none passes the proxy by");
    }

    /// By ALPN; a server that does not know it is spoken to in HTTP/1.1 by the same client.
    fn http2_is_agreed_on_by_tls_and_its_connection_is_shared() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, host) = (lab.host("client"), lab.host("server"));
        let nginx = Nginx::start(&host);
        let builder = nginx.client(aws_lc_rs::default_provider());
        let urls = [8444, 8443].map(|port| format!("https://{}/", host.addr(port)));
        let versions = run(&client, Runtime::MultiThread, async move {
            let client = builder.build().unwrap();
            let mut versions = Vec::new();
            for url in urls {
                for _ in 0..3 {
                    let answer = client.get(&url).await.unwrap();
                    versions.push(answer.version());
                    assert_eq!(answer.into_body().bytes(5).await.unwrap(), "hello");
                }
            }
            versions
        });
        assert_eq!(versions, [[Version::HTTP_2; 3], [Version::HTTP_11; 3]].concat());
        assert_eq!(flows(&lab, 8444).len(), 1);
    }

    fn what_nginx_compresses_is_read_and_a_get_rides_to_it() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        lab.middlebox(HoldProof::new());
        let (client, host) = (lab.host("client"), lab.host("server"));
        let _nginx = Nginx::start(&host);
        let url = format!("http://{}/page", host.addr(8080));
        let info = run(&client, Runtime::CurrentThread, async move {
            let client = Client::builder().pool_max_idle_per_host(0).build().unwrap();
            let page = "hello ".repeat(10_000);
            let mut last = None;
            for _ in 0..2 {
                let answer = client.get(&url).await.unwrap();
                last = answer.extensions().get::<ConnInfo>().cloned();
                assert_eq!(answer.into_body().bytes(page.len()).await.unwrap(), page);
            }
            // The limit is for what comes out.
            let answer = client.get(&url).await.unwrap();
            let error = answer.into_body().bytes(page.len() - 1).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BodyTooLarge);
            let head = client.head(&url).await.unwrap();
            assert_eq!(head.status(), 200);
            assert_eq!(head.into_body().bytes(0).await.unwrap(), "");
            last.unwrap()
        });
        assert_eq!((info.outcome(), info.saved_rtts()), (SynOutcome::SynDataAcked, 1));
        let flows = flows(&lab, 8080);
        let flow = &flows[flows.len() - 3];
        assert!(flow.request_delivered_in_syn() && flow.answered_before_any_further_client_packet(), "{flow}");
    }
}

fn visit_three_times(url: String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::builder().pool_max_idle_per_host(0).build().unwrap();
        for _ in 0..3 {
            get(&client, &url).await.unwrap();
        }
    });
}

async fn get(client: &Client, url: &str) -> Result<ConnInfo, Error> {
    let answer = client.get(url).await?;
    let info = answer.extensions().get::<ConnInfo>().unwrap().clone();
    assert_eq!(answer.into_body().bytes(5).await?, "hello");
    Ok(info)
}

/// A running nginx: `hello` on 8080 and, with TLS, on 8443, on 8444 with HTTP/2, and a page that it compresses.
struct Nginx {
    _program: Program,
    certificate: CertificateDer<'static>,
}

impl Nginx {
    fn start(host: &Host) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let subject = format!("subjectAltName=IP:{}", host.ipv4());
        let mut openssl = std::process::Command::new(need("openssl"));
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        openssl.args([
            "-subj",
            "/CN=lab",
            "-addext",
            &subject,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]);
        openssl.arg("-keyout").arg(path.join("key")).arg("-out").arg(path.join("certificate"));
        let output = openssl.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        fs::create_dir(path.join("pages")).unwrap();
        fs::write(path.join("pages/page"), "hello ".repeat(10_000)).unwrap();
        let certificate = CertificateDer::from_pem_file(path.join("certificate")).unwrap();
        let program = Program::nginx(host, host.addr(8080), directory, NGINX);
        Self { _program: program, certificate }
    }

    /// One that trusts it.
    fn client(&self, provider: CryptoProvider) -> ClientBuilder {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider));
        let tls = tls.with_safe_default_protocol_versions().unwrap();
        Client::builder().tls_config(tls.with_root_certificates(roots).with_no_client_auth())
    }
}

const NGINX: &str = "
    listen 8080 fastopen=64;
    listen 8443 ssl fastopen=64;
    listen 8444 ssl http2 fastopen=64;
    ssl_certificate certificate; ssl_certificate_key key;
    default_type text/plain; gzip on; gzip_types text/plain;
    location = / { return 200 hello; }
    location / { root pages; }
";
