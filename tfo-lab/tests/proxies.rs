//! Through proxies: hyper-util's connectors on ours. They write, read, and never flush.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::proxy::{SocksV4, SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connect, Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::flows;
use support::http::{RUNTIMES, Runtime, Server, rode, run};
use support::tcp::{TcpServer, connect_proxy, socks5_proxy, uri};
use tfo_http::{ConnInfo, SynOutcome, TfoConnector, TfoStream, is_connect_error};
use tfo_lab::{Flow, Lab, lab_tests};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpStream;
use tower_service::Service;

const RTT: Duration = Duration::from_millis(10);
const PROXY: u16 = 3128;

lab_tests! {
    fn http_connect() {
        through(connect_proxy, Tunnel::new, b"CONNECT 10.0.0.3:80 ");
    }

    fn socks_5() {
        through(socks5_proxy, SocksV5::new, &[5, 1, 0]);
    }

    fn socks_5_all_at_once() {
        let optimistic = |proxy, connector| SocksV5::new(proxy, connector).send_optimistically(true);
        through(socks5_proxy, optimistic, &[5, 1, 0, 5, 1, 0, 1, 10, 0, 0, 3, 0, 80]);
    }

    fn socks_4() {
        through(socks4_proxy, SocksV4::new, &[4, 1, 0, 80, 10, 0, 0, 3]);
    }

    /// A proxy that is refused has to look like one, later visits included.
    fn a_proxy_that_has_gone_is_a_connect_error() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, host) = (lab.host("client"), lab.host("server"));
        let addr = host.addr(PROXY);
        let proxy = TcpServer::start(&host, addr, |_| async {});
        run(&client, Runtime::CurrentThread, async move {
            let tunnel = Tunnel::new(uri(addr), TfoConnector::new());
            let target = uri(SocketAddr::from(([10, 0, 0, 3], 80)));
            client_of(tunnel.clone()).get(target.clone()).await.unwrap_err();
            drop(proxy);
            let error = client_of(tunnel).get(target).await.unwrap_err();
            assert!(error.is_connect() && is_connect_error(&error), "{error:?}");
            assert!(all(&error).contains("refused"), "{}", all(&error));
        });
        // The last two: the deferred one, and a plain one after it was refused.
        let flows = flows(&lab, PROXY);
        let options: Vec<_> = flows.iter().rev().take(2).map(|flow| flow.syn().fast_open()).collect();
        let deferred = options[1].as_ref().is_some_and(|option| !option.is_request());
        assert!(options[0].is_none() && deferred, "{}", lab.tap().ladder());
    }

    /// The absolute form rides as the origin form does.
    fn a_forward_proxy() {
        for runtime in RUNTIMES {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            let (client, host) = (lab.host("client"), lab.host("server"));
            let addr = host.addr(PROXY);
            let server = Server::start(&host, addr);
            let infos = run(&client, runtime, async move {
                let mut infos = Vec::new();
                for _ in 0..3 {
                    let client = client_of(Forward { proxy: uri(addr), connector: TfoConnector::new() });
                    let response = client.get("http://elsewhere.test/page".parse().unwrap()).await.unwrap();
                    infos.push(response.extensions().get::<ConnInfo>().unwrap().clone());
                    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
                }
                infos
            });
            let flows = flows(&lab, PROXY);
            assert_eq!(infos[0].outcome(), SynOutcome::CookieRequested);
            for visit in 1..3 {
                rode(&infos[visit], &server.seen()[visit], &flows[visit]).unwrap();
                let syn = flows[visit].syn().payload();
                assert!(syn.starts_with(b"GET http://elsewhere.test/page HTTP/1.1\r\n"), "{syn:?}");
            }
        }
    }

    /// As a WebSocket's: the request rides, and the bytes behind the upgrade flow both ways.
    fn an_upgrade() {
        for runtime in RUNTIMES {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            let (client, host) = (lab.host("client"), lab.host("server"));
            let addr = host.addr(80);
            let server = Server::start(&host, addr);
            let infos = run(&client, runtime, async move {
                let mut infos = Vec::new();
                for visit in 0..3 {
                    let request = Request::get(uri(addr)).header("connection", "upgrade").header("upgrade", "echo");
                    let client = client_of(TfoConnector::new());
                    let response = client.request(request.body(Full::default()).unwrap()).await.unwrap();
                    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
                    infos.push(response.extensions().get::<ConnInfo>().unwrap().clone());
                    let upgraded = hyper::upgrade::on(response).await.unwrap();
                    if visit == 1 {
                        // The stream itself can be had back.
                        let parts = upgraded.downcast::<TokioIo<TfoStream>>().unwrap();
                        assert!(parts.io.inner().conn_info().same_connection(&infos[1]));
                        let mut stream = parts.io.into_inner();
                        exchange(&mut stream).await;
                    } else {
                        exchange(&mut TokioIo::new(upgraded)).await;
                    }
                }
                infos
            });
            let flows = flows(&lab, 80);
            for visit in 1..3 {
                rode(&infos[visit], &server.seen()[visit], &flows[visit]).unwrap();
            }
        }
    }
}

/// 200 kB and more, each way at once, and an orderly end.
async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    stream.write_all(b"ping").await.unwrap();
    stream.flush().await.unwrap();
    let mut echo = vec![0; 4];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(echo, b"ping");
    let bytes: Vec<_> = (0..=250).cycle().take(200_000).collect();
    let (mut read, mut write) = tokio::io::split(stream);
    let writer = async {
        write.write_all(&bytes).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut echo = Vec::new();
    let (_, result) = tokio::join!(writer, read.read_to_end(&mut echo));
    result.unwrap();
    assert!(echo == bytes, "{} of {}", echo.len(), bytes.len());
}

/// Visits through a proxy, until its cookie is cached and the connect deferred. What is said to a proxy
/// may not be delivered twice: the SYN has no data, and the proxy gets it at once all the same.
fn through<C, P, F>(proxy: P, connector: fn(Uri, TfoConnector) -> C, said: &'static [u8])
where
    C: Connect + Clone + Send + Sync + 'static,
    P: Fn(TcpStream) -> F + Copy + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    for runtime in RUNTIMES {
        let lab = Lab::builder().rtt(RTT).host("client").host("proxy").host("server").build().unwrap();
        let (client, middle, host) = (lab.host("client"), lab.host("proxy"), lab.host("server"));
        let server = Server::start(&host, host.addr(80));
        let _proxy = TcpServer::start(&middle, middle.addr(PROXY), proxy);
        let (addr, target) = (middle.addr(PROXY), host.addr(80));
        let infos = run(&client, runtime, async move {
            let mut infos = Vec::new();
            for _ in 0..3 {
                let client = client_of(connector(uri(addr), TfoConnector::new()));
                let response = client.get(uri(target)).await.unwrap();
                infos.push(response.extensions().get::<ConnInfo>().unwrap().clone());
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
            }
            infos
        });
        assert_eq!(server.seen().len(), 3, "each request once");
        let flows = flows(&lab, PROXY);
        assert_eq!((infos.len(), flows.len()), (3, 3));
        assert_eq!(infos[0].outcome(), SynOutcome::CookieRequested);
        for (visit, (info, flow)) in infos.iter().zip(&flows).enumerate() {
            assert_eq!(info.remote_addr(), addr);
            let data = data_of_client(flow);
            assert!(data.starts_with(said), "{data:?}\n{flow}");
            assert!(flow.syn().payload().is_empty() && info.saved_rtts() == 0, "{flow}");
            if visit > 0 {
                assert_eq!(info.outcome(), SynOutcome::DataLess, "{info:?}\n{flow}");
                assert!(!flow.syn().fast_open().unwrap().is_request(), "{flow}");
            }
        }
    }
}

/// What the client has sent, without what was sent again.
fn data_of_client(flow: &Flow) -> Vec<u8> {
    let mut next = flow.syn().seq().unwrap().wrapping_add(1);
    let mut data = Vec::new();
    for record in flow.sent_by_client() {
        let packet = record.packet();
        if !packet.is_syn() && packet.seq() == Some(next) {
            data.extend_from_slice(packet.payload());
            next = next.wrapping_add(packet.payload().len() as u32);
        }
    }
    data
}

fn client_of<C: Connect + Clone + Send + Sync + 'static>(connector: C) -> Client<C, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)
}

/// An error with all its sources.
fn all(error: &dyn Error) -> String {
    let sources = std::iter::successors(error.source(), |&source| source.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

async fn socks4_proxy(mut client: TcpStream) {
    let mut request = [0; 8];
    client.read_exact(&mut request).await.unwrap();
    let [4, 1, high, low, a, b, c, d] = request else { panic!("{request:?}") };
    while client.read_u8().await.unwrap() != 0 {}
    let target = SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])));
    let mut server = TcpStream::connect(target).await.unwrap();
    client.write_all(&[0, 90, 0, 0, 0, 0, 0, 0]).await.unwrap();
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

/// A connector that goes to a forward proxy, whatever the target.
#[derive(Clone)]
struct Forward {
    proxy: Uri,
    connector: TfoConnector,
}

impl Service<Uri> for Forward {
    type Response = Proxied;
    type Error = tfo_http::ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Proxied, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.connector.poll_ready(cx)
    }

    fn call(&mut self, _target: Uri) -> Self::Future {
        let connecting = self.connector.call(self.proxy.clone());
        Box::pin(async move { connecting.await.map(Proxied) })
    }
}

struct Proxied(TokioIo<TfoStream>);

impl Connection for Proxied {
    fn connected(&self) -> Connected {
        self.0.connected().proxy(true)
    }
}

impl hyper::rt::Read for Proxied {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Proxied {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
