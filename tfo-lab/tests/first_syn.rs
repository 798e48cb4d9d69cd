//! What may go wrong around the first SYN: beside it, right behind it, or when there is nothing to send with it.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;
use socket2::SockRef;
use support::http::{RUNTIMES, Runtime, Server, run};
use support::tcp::{GET, TcpServer, dial, fetch_cookie, known, phase, uri};
use tfo_http::{Client, Reason, SynData, SynOutcome, TfoConnector, is_connect_error};
use tfo_lab::{Host, Lab, Packet, Verdict, lab_tests};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, split};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tower_service::Service;

const MS: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(10);

lab_tests! {
    /// An address that is slow, and behind it one with a cookie that refuses, or keeps quiet.
    fn a_cookie_for_a_dead_address_gives_no_handshake_up() {
        for refuses in [true, false] {
            let lab = Lab::builder().rtt(120 * MS).build().unwrap();
            let (client, server) = (lab.host("client"), lab.host("server"));
            let (v6, v4) = (server.addr_v6(80), server.addr(80));
            let _servers = [v6, v4].map(|addr| TcpServer::echo(&server, addr));
            run(&client, Runtime::CurrentThread, async move {
                fetch_cookie(v4).await;
                lab.middlebox(move |packet: &Packet| match packet.reset_reply() {
                    _ if packet.dst() != Some(v4) => Verdict::Pass,
                    Some(reset) if refuses && packet.is_syn() => Verdict::Drop.and(reset),
                    _ => Verdict::Drop,
                });
                let mut connector = TfoConnector::new_with_resolver(Fixed(vec![v6, v4]));
                connector.set_happy_eyeballs_timeout(Some(30 * MS));
                let mut stream = connector.call("http://name/".parse().unwrap()).await.unwrap().into_inner();
                assert_eq!((phase(&stream).as_str(), stream.remote_addr()), ("Idle", v4));
                stream.write_all(GET).await.unwrap();
                let mut echo = vec![0; GET.len()];
                timeout(PATIENCE, stream.read_exact(&mut echo)).await.unwrap().unwrap();
                assert_eq!((&echo[..], stream.remote_addr()), (GET, v6), "refuses {refuses}");
            });
        }
    }

    /// The SYN-ACK and a RST are there before anybody looks: the request was delivered, once.
    fn what_is_reset_behind_its_handshake_was_not_refused() {
        for danger in [false, true] {
            for is_known in [false, true] {
                let lab = Lab::builder().rtt(10 * MS).build().unwrap();
                let (client, server) = (lab.host("client"), lab.host("server"));
                let addr = server.addr(80);
                let seen = Seen::default();
                let _server = seen.resetting(&server, addr, Duration::ZERO);
                let delivered = seen.clone();
                run(&client, Runtime::CurrentThread, async move {
                    let _ = dial(&TfoConnector::new(), addr).await.shutdown().await;
                    let mut connector = TfoConnector::new();
                    let mut request = GET;
                    if danger {
                        connector.set_syn_data(SynData::DangerEverything);
                        request = b"POST / HTTP/1.1\r\nHost: server\r\nContent-Length: 2\r\n\r\nhi";
                    }
                    if is_known {
                        known(&connector, addr);
                    }
                    let mut stream = dial(&connector, addr).await;
                    stream.write_all(request).await.unwrap();
                    stream.flush().await.unwrap();
                    // The thread has other things to do.
                    std::thread::sleep(60 * MS);
                    let error = timeout(PATIENCE, stream.read(&mut [0; 10])).await.unwrap().unwrap_err();
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                    assert!(!is_connect_error(&error), "{error:?}");
                    sleep(50 * MS).await;
                    assert_eq!(delivered.requests(), 1, "danger {danger}, known {is_known}");
                    let info = stream.conn_info();
                    assert_eq!((info.outcome(), info.hedged()), (SynOutcome::SynDataAcked, false), "{info:?}");
                    let paths = connector.path_memory().snapshot(Instant::now()).paths;
                    assert!(paths.iter().all(|path| path.silent_in_a_row == 0), "{paths:?}");
                });
            }
        }
    }

    /// More than the send buffer takes at once. Its connection was one: nothing is sent again.
    fn what_breaks_while_the_rest_is_sent_is_no_connect_error() {
        let lab = Lab::builder().rtt(20 * MS).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let addr = server.addr(80);
        let seen = Seen::default();
        let _server = seen.slowly_resetting(&server, addr);
        run(&client, Runtime::CurrentThread, async move {
            let _ = dial(&TfoConnector::new(), addr).await.shutdown().await;
            let mut connector = TfoConnector::new();
            connector.set_send_buffer_size(Some(2048));
            known(&connector, addr);
            let client = Client::builder().connector(connector).no_proxy().build().unwrap();
            let error = timeout(PATIENCE, client.post(uri(addr), vec![b'x'; 14_000])).await.unwrap().unwrap_err();
            assert!(!error.is_connect() && error.maybe_executed(), "{error:?}");
        });
        assert_eq!(seen.requests(), 1);
    }

    fn a_server_that_speaks_first_is_heard() {
        let lab = Lab::builder().rtt(10 * MS).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let addr = server.addr(80);
        let _greeting = TcpServer::start(&server, addr, |mut stream: TcpStream| async move {
            let _ = stream.write_all(b"220 server").await;
            let _ = stream.read(&mut [0]).await;
        });
        run(&client, Runtime::CurrentThread, async move {
            fetch_cookie(addr).await;
            for is_known in [false, true] {
                let connector = TfoConnector::new();
                if is_known {
                    known(&connector, addr);
                }
                let mut stream = dial(&connector, addr).await;
                assert_eq!(phase(&stream), "Idle");
                let mut greeting = [0; 10];
                timeout(PATIENCE, stream.read_exact(&mut greeting)).await.unwrap().unwrap();
                assert_eq!(&greeting, b"220 server");
                let info = stream.conn_info();
                let told = (info.outcome(), info.reason(), info.first_flight_bytes(), info.saved_rtts());
                assert_eq!(told, (SynOutcome::DataLess, Some(Reason::NothingWritten), Some(0), 0), "{info:?}");
            }
        });
        assert!(support::flows(&lab, 80).iter().all(|flow| flow.syn().payload().is_empty()));
    }

    /// Longer than anything is waited for: the handshake is made, and the request follows it.
    fn a_connection_may_be_made_long_before_its_request() {
        for runtime in RUNTIMES {
            let lab = Lab::builder().rtt(10 * MS).build().unwrap();
            let (client, server) = (lab.host("client"), lab.host("server"));
            let addr = server.addr(80);
            let _server = Server::start(&server, addr);
            run(&client, runtime, async move {
                let mut connector = TfoConnector::new();
                connector.set_connect_timeout(Some(300 * MS));
                connector.warm(uri(addr)).await.unwrap();
                let request = || Request::get("/").header("host", "server").body(Full::<Bytes>::default()).unwrap();
                for wait in [0, 900, 1500] {
                    let io = connector.call(uri(addr)).await.unwrap();
                    let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
                    tokio::spawn(connection);
                    sleep(wait * MS).await;
                    let answer = timeout(PATIENCE, client.send_request(request())).await.unwrap().unwrap();
                    assert_eq!(answer.status(), StatusCode::OK, "{wait}");
                    let io = connector.call(uri(addr)).await.unwrap();
                    let executor = TokioExecutor::new();
                    let (mut client, connection) =
                        hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(executor, io).await.unwrap();
                    tokio::spawn(connection);
                    sleep(wait * MS).await;
                    let url = uri(addr);
                    let request = Request::get(url).body(Full::default()).unwrap();
                    let answer = timeout(PATIENCE, client.send_request(request)).await.unwrap().unwrap();
                    assert_eq!(answer.status(), StatusCode::OK, "{wait}");
                }
            });
        }
    }

    /// The reader has waited for so long that no timer of its own is near.
    fn a_reader_is_woken_for_a_write_that_nobody_flushes() {
        for wait in [0, 100, 600] {
            let lab = Lab::builder().rtt(10 * MS).build().unwrap();
            let (client, server) = (lab.host("client"), lab.host("server"));
            let addr = server.addr(80);
            let (_server, _) = TcpServer::echo(&server, addr);
            run(&client, Runtime::CurrentThread, async move {
                fetch_cookie(addr).await;
                let (mut read, mut write) = split(dial(&TfoConnector::new(), addr).await);
                let reader = tokio::spawn(async move { read.read_exact(&mut vec![0; GET.len()]).await });
                sleep(wait * MS).await;
                let begun = Instant::now();
                write.write_all(GET).await.unwrap();
                timeout(PATIENCE, reader).await.unwrap().unwrap().unwrap();
                assert!(begun.elapsed() < 300 * MS, "after {wait} ms: {:?}", begun.elapsed());
            });
        }
    }

    /// With the client's bit off no SYN has the option, and nothing is held against the path.
    fn a_slow_plain_handshake_is_no_strike() {
        let lab = Lab::builder().rtt(10 * MS).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let addr = server.addr(80);
        let (_server, _) = TcpServer::echo(&server, addr);
        let host = client.clone();
        run(&client, Runtime::CurrentThread, async move {
            fetch_cookie(addr).await;
            let connector = TfoConnector::new();
            known(&connector, addr);
            let mut stream = dial(&connector, addr).await;
            host.set_sysctl("net.ipv4.tcp_fastopen", 2).unwrap();
            lab.set_rtt(600 * MS);
            stream.write_all(GET).await.unwrap();
            timeout(PATIENCE, stream.read_exact(&mut vec![0; GET.len()])).await.unwrap().unwrap();
            drop(stream);
            let paths = connector.path_memory().snapshot(Instant::now()).paths;
            assert!(paths.iter().all(|path| path.silent_in_a_row == 0), "{paths:?}");
        });
    }
}

/// The requests that a server has seen the beginning of.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<usize>>);

impl Seen {
    fn requests(&self) -> usize {
        *self.0.lock().unwrap()
    }

    /// A server that reads once, and resets.
    fn resetting(&self, host: &Host, addr: SocketAddr, after: Duration) -> TcpServer {
        let seen = self.clone();
        TcpServer::start(host, addr, move |mut stream: TcpStream| {
            let seen = seen.clone();
            async move {
                if let Ok(1..) = stream.read(&mut [0; 2000]).await {
                    *seen.0.lock().unwrap() += 1;
                    sleep(after).await;
                    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                }
            }
        })
    }

    /// The same after some kilobytes, with a receive buffer that does not take more. It ends with what it gives.
    fn slowly_resetting(&self, host: &Host, addr: SocketAddr) -> oneshot::Sender<()> {
        let seen = self.clone();
        let ((stop, stopped), (listens, wait)) = (oneshot::channel::<()>(), std::sync::mpsc::channel());
        host.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let socket = TcpSocket::new_v4().unwrap();
                socket.set_recv_buffer_size(4096).unwrap();
                socket.bind(addr).unwrap();
                let listener = socket.listen(100).unwrap();
                tfo_core::sockopt::set_fastopen(&listener, 100).unwrap();
                listens.send(()).unwrap();
                let serve = async {
                    while let Ok((mut stream, _)) = listener.accept().await {
                        let (mut all, mut part) = (0, [0; 1000]);
                        while all < 3000
                            && let Ok(count @ 1..) = stream.read(&mut part).await
                        {
                            all += count;
                        }
                        if all > 0 {
                            *seen.0.lock().unwrap() += 1;
                            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                        }
                    }
                };
                tokio::select! { () = serve => {}, _ = stopped => {} }
            });
        });
        wait.recv().unwrap();
        stop
    }
}

/// A resolver that knows one answer.
#[derive(Clone)]
struct Fixed(Vec<SocketAddr>);

impl Service<Name> for Fixed {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        ready(Ok(self.0.clone().into_iter()))
    }
}
