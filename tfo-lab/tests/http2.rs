//! HTTP/2 in the SYN: preface, settings and the first request, through every client that people use.
//!
//! `TFO_LONG` in the environment makes it a thousand rides for each, instead of a few dozen.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::TokioExecutor;
use support::flows;
use support::http::{RUNTIMES, Runtime, Server, run};
use support::tcp::{TcpServer, fetch_cookie, uri};
use tfo_core::first_flight::{FirstFlight, Protocol};
use tfo_http::{ConnInfo, Hedge, Reason, SynData, SynOutcome, TfoConnector, is_connect_error};
use tfo_lab::{Flow, Lab, lab_tests};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tower_service::Service as _;

const RTT: Duration = Duration::from_millis(4);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The clients that people use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stack {
    Legacy,
    Conn,
    Tonic,
}

const STACKS: [Stack; 3] = [Stack::Legacy, Stack::Conn, Stack::Tonic];

lab_tests! {
    fn gets_ride_with_their_headers_through_every_client() {
        let rides = if long() { 1000 } else { 30 };
        for runtime in RUNTIMES {
            for stack in STACKS {
                let refused = gets(runtime, stack, &SynData::SafeMethods, rides);
                assert!(refused.is_empty(), "{runtime:?}, {stack:?}: {} of {rides}: {}", refused.len(), refused[0]);
            }
        }
    }

    /// The assertions above fail when nothing rides.
    fn switched_off_nothing_rides_and_the_assertion_says_so() {
        for stack in STACKS {
            let refused = gets(Runtime::MultiThread, stack, &SynData::Never, 3);
            assert_eq!(refused.len(), 3, "{stack:?}");
            assert!(refused[0].starts_with("not so: the SYN begins with the preface"), "{}", refused[0]);
        }
    }

    /// In one flight the GET rides and the POST follows; alone in the flight the POST waits with all of it.
    fn of_a_get_and_a_post_together_the_post_never_rides() {
        let times = if long() { 300 } else { 40 };
        let (mut gets, mut both) = (0, 0);
        for runtime in RUNTIMES {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            let (client, host) = (lab.host("client"), lab.host("server"));
            let (server, addr) = (Server::start(&host, host.addr(80)), host.addr(80));
            let infos = run(&client, runtime, async move {
                fetch_cookie(addr).await;
                let mut connector = TfoConnector::new();
                // On a busy machine an answer may be late, and its GET sent twice.
                connector.set_hedge(Hedge::Never);
                let mut infos = Vec::new();
                for round in 0..times / 2 {
                    infos.push(together(&connector, addr, round % 2 == 0).await);
                }
                infos
            });
            let flows = flows(&lab, 80);
            assert_eq!(flows.len(), 1 + infos.len());
            for (flow, info) in flows[1..].iter().zip(&infos) {
                let syn = flow.syn().payload();
                let class = FirstFlight::classify(syn);
                assert!(class.is_whole(), "a POST in the SYN: {class:?}\n{flow}");
                gets += class.requests();
                if class.requests() == 0 {
                    assert_eq!((syn.len(), info.outcome()), (0, SynOutcome::DataLess), "{flow}");
                } else {
                    assert_eq!(info.outcome(), SynOutcome::SynDataAcked, "{flow}");
                }
                let behind = info.reason().is_some_and(|reason| matches!(reason, Reason::NotReplaySafe(_)));
                both += usize::from(class.requests() > 0 && behind);
                assert!(info.saved_rtts() == 0 || !behind, "{info:?}");
            }
            let seen = server.seen();
            for method in [Method::GET, Method::POST] {
                let served = seen.iter().filter(|seen| seen.method == method).count();
                assert_eq!(served, times / 2, "{runtime:?}: {method} once each");
            }
            assert!(seen.iter().all(|seen| seen.method == Method::GET || seen.proven));
        }
        assert!(gets > times / 4 && both > 0, "GETs rode in {gets}, in front of a POST in {both} of {times}");
    }

    /// Without a request nobody waits for long: a connection that is made ahead.
    fn the_cork_is_pulled_when_there_is_no_request() {
        for runtime in RUNTIMES {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            let (client, host) = (lab.host("client"), lab.host("server"));
            let (_server, addr) = (Server::start(&host, host.addr(80)), host.addr(80));
            run(&client, runtime, async move {
                fetch_cookie(addr).await;
                let io = TfoConnector::new().call(uri(addr)).await.unwrap();
                let info = io.inner().conn_info().clone();
                let (mut send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
                tokio::spawn(connection);
                tokio::time::timeout(Duration::from_secs(5), async {
                    while info.outcome() == SynOutcome::Unknown {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }).await.expect("the preface does not wait for ever");
                assert_eq!(info.outcome(), SynOutcome::SynDataAcked);
                let request = Request::get(uri(addr)).body(Full::<Bytes>::default()).unwrap();
                assert_eq!(send.send_request(request).await.unwrap().status(), StatusCode::OK);
                // And a client that never flushes.
                let mut stream = TfoConnector::new().call(uri(addr)).await.unwrap().into_inner();
                stream.write_all(&[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat()).await.unwrap();
                stream.read_exact(&mut [0; 9]).await.expect("the server's settings");
            });
            let flow = &flows(&lab, 80)[1];
            assert_eq!(&flow.syn().payload()[..24], PREFACE, "{flow}");
            assert_eq!(FirstFlight::classify(flow.syn().payload()).requests(), 0);
        }
    }

    fn bad_peers_are_errors_and_nobody_hangs() {
        const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let goaway = [&SETTINGS[..], &GOAWAY].concat();
        let cases: [(&str, bool, Vec<u8>); 5] = [
            ("h1 answers h2", true, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec()),
            ("h2 answers h1", false, SETTINGS.to_vec()),
            ("GOAWAY at once", true, goaway),
            ("nonsense", true, vec![0xff; 100]),
            ("the end at once", true, Vec::new()),
        ];
        for (name, http2, answer) in cases {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            let (client, host) = (lab.host("client"), lab.host("server"));
            let addr = host.addr(80);
            let _server = TcpServer::start(&host, addr, move |mut stream: TcpStream| {
                let answer = answer.clone();
                async move {
                    let _ = stream.read(&mut [0; 4096]).await;
                    let _ = stream.write_all(&answer).await;
                    let _ = stream.shutdown().await;
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                }
            });
            run(&client, Runtime::CurrentThread, async move {
                for visit in 0..3 {
                    let ours = exchange(TfoConnector::new(), addr, http2, "x").await;
                    let theirs = exchange(HttpConnector::new(), addr, http2, "x").await;
                    let (ours, theirs) = (ours.expect_err(name), theirs.expect_err(name));
                    assert!(!is_connect_error(&ours), "{name}, {visit}: {ours:?}");
                    assert_eq!(ours.to_string(), theirs.to_string(), "{name}, {visit}");
                }
            });
            let last = flows(&lab, 80).into_iter().rfind(|flow| flow.syn().fast_open().is_some()).unwrap();
            assert!(last.request_delivered_in_syn(), "{name}\n{last}");
        }
    }

    fn large_headers_go_or_fail_as_with_plain_tcp() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, host) = (lab.host("client"), lab.host("server"));
        let (_server, addr) = (Server::start(&host, host.addr(80)), host.addr(80));
        run(&client, Runtime::CurrentThread, async move {
            fetch_cookie(addr).await;
            for length in [1_000, 3_000, 12_000, 20_000, 100_000] {
                let value = "v".repeat(length);
                let ours = exchange(TfoConnector::new(), addr, true, &value).await;
                let theirs = exchange(HttpConnector::new(), addr, true, &value).await;
                assert_eq!(ours.is_ok(), theirs.is_ok(), "{length}: {ours:?}, {theirs:?}");
                assert_eq!(ours.ok(), theirs.ok(), "{length}");
            }
        });
    }

    /// A refused connection is known for one, although hyper loses its error.
    fn a_refused_connection_is_a_connect_error() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, host) = (lab.host("client"), lab.host("server"));
        let addr = host.addr(80);
        let server = Server::start(&host, addr);
        run(&client, Runtime::CurrentThread, async move { fetch_cookie(addr).await });
        drop(server);
        run(&client, Runtime::CurrentThread, async move {
            let error = exchange(TfoConnector::new(), addr, true, "x").await.unwrap_err();
            assert!(is_connect_error(&error) && !error.is_connect(), "{error:?}");
            let mut extras = hyper::http::Extensions::new();
            error.connect_info().unwrap().get_extras(&mut extras);
            let why = extras.get::<ConnInfo>().unwrap().connect_error().unwrap();
            assert_eq!((why.address(), why.maybe_executed()), (Some(addr), false));
        });
    }
}

fn long() -> bool {
    std::env::var_os("TFO_LONG").is_some()
}

/// So many GETs on a connection each, with two busy threads beside; of those that did not ride, why.
fn gets(runtime: Runtime, stack: Stack, policy: &SynData, rides: usize) -> Vec<String> {
    let lab = Lab::builder().rtt(RTT).build().unwrap();
    let (client, host) = (lab.host("client"), lab.host("server"));
    let (server, addr) = (Server::start(&host, host.addr(80)), host.addr(80));
    let mut connector = TfoConnector::new();
    connector.set_syn_data(policy.clone());
    // What is late here is this busy machine, not the path.
    connector.set_hedge(Hedge::Never);
    run(&client, runtime, async move { fetch_cookie(addr).await });
    let _busy = Busy::start(2);
    let mut refused = Vec::new();
    let mut left = rides;
    while left > 0 {
        let some = left.min(50);
        left -= some;
        lab.tap().clear();
        let before = server.seen().len();
        let connector = connector.clone();
        run(&client, runtime, async move {
            for _ in 0..some {
                get(stack, &connector, addr).await;
            }
        });
        let flows = flows(&lab, 80);
        assert_eq!((flows.len(), server.seen().len() - before), (some, some), "{stack:?}: one each");
        refused.extend(flows.iter().filter_map(|flow| rode(flow).err()));
    }
    refused
}

/// Whether preface, settings and a GET rode, as the wire says.
fn rode(flow: &Flow) -> Result<(), String> {
    let syn = flow.syn().payload();
    let class = FirstFlight::classify(syn);
    let questions = [
        ("the SYN begins with the preface", syn.starts_with(PREFACE)),
        ("it is HTTP/2 and safe", class.protocol() == Protocol::Http2 && class.is_whole()),
        ("the HEADERS of one request are in it", class.requests() == 1),
        ("the SYN-ACK acks the data", flow.request_delivered_in_syn()),
    ];
    match questions.iter().find(|(_, yes)| !yes) {
        None => Ok(()),
        Some((question, _)) => Err(format!("not so: {question}\n{flow}")),
    }
}

async fn get(stack: Stack, connector: &TfoConnector, addr: SocketAddr) {
    match stack {
        Stack::Legacy => {
            let client: Client<_, Full<Bytes>> =
                Client::builder(TokioExecutor::new()).http2_only(true).build(connector.clone());
            assert_eq!(client.get(uri(addr)).await.unwrap().status(), StatusCode::OK);
        }
        Stack::Conn => {
            let io = connector.clone().call(uri(addr)).await.unwrap();
            let (mut send, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            let request = Request::get(uri(addr)).body(Full::<Bytes>::default()).unwrap();
            assert_eq!(send.send_request(request).await.unwrap().status(), StatusCode::OK);
        }
        Stack::Tonic => {
            let endpoint = Endpoint::from_shared(format!("http://{addr}/")).unwrap();
            let mut channel = endpoint.connect_with_connector_lazy(connector.clone());
            std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
            let request = Request::get("/").body(tonic::body::Body::empty()).unwrap();
            assert_eq!(channel.call(request).await.unwrap().status(), StatusCode::OK);
        }
    }
}

/// A GET and a POST on one connection, started together.
async fn together(connector: &TfoConnector, addr: SocketAddr, get_first: bool) -> ConnInfo {
    let io = connector.clone().call(uri(addr)).await.unwrap();
    let info = io.inner().conn_info().clone();
    let (send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let one = |method: Method| {
        let mut send = send.clone();
        let request =
            Request::builder().method(method).uri(uri(addr)).body(Full::<Bytes>::default()).unwrap();
        async move { assert_eq!(send.send_request(request).await.unwrap().status(), StatusCode::OK) }
    };
    let (get, post) = (one(Method::GET), one(Method::POST));
    if get_first {
        tokio::join!(get, post);
    } else {
        tokio::join!(post, get);
    }
    info
}

async fn exchange<C>(
    connector: C,
    addr: SocketAddr,
    http2: bool,
    value: &str,
) -> Result<(StatusCode, Bytes), hyper_util::client::legacy::Error>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let client = Client::builder(TokioExecutor::new()).http2_only(http2).build(connector);
    let request = Request::get(uri(addr)).header("x-large", value).body(Full::<Bytes>::default()).unwrap();
    let response = tokio::time::timeout(Duration::from_secs(10), client.request(request));
    let response = response.await.expect("nobody hangs")?;
    let status = response.status();
    Ok((status, response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default()))
}

/// Threads that compute for nothing.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn start(threads: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..threads {
            let stop = stop.clone();
            thread::spawn(move || {
                let begun = Instant::now();
                while !stop.load(Ordering::Relaxed) && begun.elapsed() < Duration::from_secs(600) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(stop)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
