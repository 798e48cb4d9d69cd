//! What the caller allows to ride, and what becomes of it when the network is bad.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use support::flows;
use support::http::{RUNTIMES, Runtime, Server, run};
use support::tcp::{TcpServer, dial, fetch_cookie, uri};
use tfo_http::{
    ConnInfo, ConnectErrorKind, Reason, Ride, SynData, SynOutcome, TfoConnector, Warm, connect_error,
};
use tfo_http_server::TfoListener;
use tfo_lab::{
    BlackholeAnswers, DropDataSynAck, DropSynData, Flow, HoldProof, Host, Lab, ResetSyn, lab_tests,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::http;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::server::UnaryService;
use tonic::transport::{Endpoint, Server as Tonic};
use tonic_prost::ProstCodec;
use tower_service::Service;

const RTT: Duration = Duration::from_millis(20);
/// Set for a copy of this test that runs with TCP Fast Open switched off.
const SWITCHED_OFF: &str = "TFO_LAB_SWITCHED_OFF";

lab_tests! {
    /// Each policy with each method: what rides rides whole, what does not is data-less, all run once.
    fn each_policy_lets_its_methods_ride() {
        let by_path = || SynData::rule(|head| match head.uri.path() {
            "/ride" => Ride::Repeatable,
            _ => Ride::No,
        });
        let cases: [(SynData, &str, &[Method]); 6] = [
            (SynData::SafeMethods, "/", &[Method::GET]),
            (SynData::IdempotentMethods, "/", &[Method::GET, Method::PUT, Method::DELETE]),
            (by_path(), "/ride", &[Method::GET, Method::PUT, Method::DELETE, Method::POST, Method::PATCH]),
            (by_path(), "/", &[]),
            (SynData::DangerEverything, "/", &[Method::GET, Method::PUT, Method::DELETE, Method::POST, Method::PATCH]),
            (SynData::Never, "/", &[]),
        ];
        for (policy, path, riding) in cases {
            for http2 in [false, true] {
                let lab = Lab::builder().rtt(RTT).build().unwrap();
                let (client, host) = (lab.host("client"), lab.host("server"));
                let (server, addr) = (Server::start(&host, host.addr(80)), host.addr(80));
                run(&client, Runtime::CurrentThread, async move { fetch_cookie(addr).await });
                for method in [Method::GET, Method::PUT, Method::DELETE, Method::POST, Method::PATCH] {
                    let what = format!("{policy:?} {path} {method}, HTTP/2 {http2}");
                    let (connector, rides) = (by(&policy), riding.contains(&method));
                    let request = request(&method, addr, path);
                    let info = run(&client, Runtime::CurrentThread, async move {
                        send(connector, http2, request).await.unwrap()
                    });
                    let flow = flows(&lab, 80).pop().unwrap();
                    assert_eq!(in_syn(&flow, &info), rides, "{what}: {info:?}\n{flow}");
                    let seen = server.seen().pop().unwrap();
                    let body = if has_body(&method) { "body" } else { "" };
                    assert_eq!((&seen.method, &seen.body[..]), (&method, body.as_bytes()), "{what}");
                    // Our server acts on nothing it could be made to repeat, whatever the client says.
                    let safe = method == Method::GET;
                    assert!(safe || seen.proven, "{what}");
                    assert!(!rides || !safe || info.saved_rtts() == 1, "{what}: {info:?}");
                    // On a busy machine one handshake may take as long as two.
                    let noisy = info.handshake_rtt().is_some_and(|rtt| rtt > RTT * 3 / 2);
                    let doubted = info.saved_rtts() == 0 && info.reason() == Some(Reason::Held);
                    assert!(!rides || safe || doubted || (noisy && !http2), "{what}: {info:?}");
                }
                assert_eq!(server.seen().len(), 5, "each ran once");
            }
        }
    }

    /// A mistake of the caller's costs the ride, not the request.
    fn a_rule_that_panics_has_said_no() {
        for http2 in [false, true] {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            let (client, host) = (lab.host("client"), lab.host("server"));
            let (server, addr) = (Server::start(&host, host.addr(80)), host.addr(80));
            run(&client, Runtime::CurrentThread, async move { fetch_cookie(addr).await });
            let policy = SynData::rule(|_| panic!("as this test wants it"));
            for method in [Method::GET, Method::POST] {
                let (connector, request) = (by(&policy), request(&method, addr, "/"));
                let sent = run(&client, Runtime::CurrentThread, async move { send(connector, http2, request).await });
                let info = sent.unwrap_or_else(|error| panic!("{method}, HTTP/2 {http2}: {error:?}"));
                assert_eq!((info.outcome(), info.reason()), (SynOutcome::DataLess, Some(Reason::ByRule)));
                assert!(!in_syn(&flows(&lab, 80).pop().unwrap(), &info));
            }
            let methods: Vec<_> = server.seen().into_iter().map(|seen| seen.method).collect();
            assert_eq!(methods, [Method::GET, Method::POST], "HTTP/2 {http2}");
        }
    }

    /// A server without a gate acts at once, and then the round trip is saved.
    fn what_a_server_does_not_hold_is_saved() {
        let lab = Lab::builder().rtt(RTT * 10).build().unwrap();
        let (client, host) = (lab.host("client"), lab.host("server"));
        let addr = host.addr(80);
        let _server = TcpServer::start(&host, addr, |mut stream| async move {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            let _ = stream.read(&mut [0; 4096]).await;
        });
        let info = run(&client, Runtime::CurrentThread, async move {
            fetch_cookie(addr).await;
            send(by(&SynData::DangerEverything), false, request(&Method::POST, addr, "/")).await.unwrap()
        });
        assert_eq!((info.outcome(), info.reason(), info.saved_rtts()), (SynOutcome::SynDataAcked, None, 1));
    }

    /// What must not be repeated is not: refused or silent, the error says that it may have been executed, and
    /// the client sends nothing more.
    fn danger_is_never_repeated_and_says_so() {
        for http2 in [false, true] {
            for refused in [true, false] {
                let what = format!("HTTP/2 {http2}, refused {refused}");
                let (addr, error, flows, ran) = endangered(&SynData::DangerEverything, &Method::POST, http2, refused);
                let error = error.expect_err(&what);
                let lost;
                let why = match connect_error(&error) {
                    Some(why) => why,
                    None => {
                        assert!(http2, "only there hyper loses it: {what}: {error:?}");
                        lost = info_of(&error).connect_error().unwrap_or_else(|| panic!("{what}: {error:?}"));
                        &lost
                    }
                };
                assert!(why.maybe_executed(), "{what}: {why:?}");
                assert_eq!(why.address(), Some(addr));
                let kind = if refused { ConnectErrorKind::Connect } else { ConnectErrorKind::TimedOut };
                assert_eq!(why.kind(), kind, "{what}");
                assert_eq!(flows.len(), 1, "{what}: no second connection");
                assert!(!flows[0].syn().payload().is_empty(), "{what}");
                assert_eq!(ran, 0, "{what}");
            }
        }
    }

    /// The twin: what may be repeated is, and so is what has no byte in the SYN.
    fn what_is_repeatable_is_repeated() {
        let repeatable = SynData::rule(|_| Ride::Repeatable);
        for (policy, method, rode) in [
            (SynData::SafeMethods, Method::GET, true),
            (SynData::DangerEverything, Method::GET, true),
            (SynData::IdempotentMethods, Method::PUT, true),
            (repeatable, Method::POST, true),
            (SynData::SafeMethods, Method::POST, false),
        ] {
            for refused in [true, false] {
                let what = format!("{policy:?} {method}, refused {refused}");
                let (_, result, flows, ran) = endangered(&policy, &method, false, refused);
                let info = result.expect(&what);
                assert_eq!((ran, info.hedged()), (1, rode), "{what}: {info:?}");
                assert_eq!(flows.len(), 1 + usize::from(rode), "{what}");
                assert_eq!(!flows[0].syn().payload().is_empty(), rode, "{what}");
            }
        }
        // A rule that lets it ride once.
        let once = SynData::rule(|_| Ride::Once);
        let (_, result, flows, _) = endangered(&once, &Method::GET, false, true);
        assert!(connect_error(&result.unwrap_err()).unwrap().maybe_executed());
        assert_eq!(flows.len(), 1);
    }

    /// A GET rides and the POST behind it waits, also where the SYN is not answered, or nothing follows: it is
    /// executed once.
    fn what_follows_a_ride_goes_out_once_on_a_bad_path() {
        let bad: [(&str, Break); 5] = [
            ("nothing", |_| {}),
            ("RST", |lab| drop(lab.middlebox(ResetSyn::with_data()))),
            ("SYN dropped", |lab| drop(lab.middlebox(DropSynData::new()))),
            ("SYN-ACK dropped", |lab| drop(lab.middlebox(DropDataSynAck::new()))),
            ("answers dropped", |lab| drop(lab.middlebox(BlackholeAnswers::new()))),
        ];
        for (name, make) in bad {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            let (client, host) = (lab.host("client"), lab.host("server"));
            let (server, addr) = (Server::start(&host, host.addr(80)), host.addr(80));
            run(&client, Runtime::CurrentThread, async move { fetch_cookie(addr).await });
            make(&lab);
            run(&client, Runtime::CurrentThread, async move {
                let mut stream = dial(&TfoConnector::new(), addr).await;
                let get = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
                let post = b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx";
                stream.write_all(&[&get[..], post].concat()).await.unwrap();
                stream.flush().await.unwrap();
                let mut answers = String::new();
                stream.read_to_string(&mut answers).await.unwrap();
                assert_eq!(answers.matches("200 OK").count(), 2, "{answers}");
            });
            let posts = server.seen().iter().filter(|seen| seen.method == Method::POST).count();
            assert_eq!(posts, 1, "{name}: {}", lab.tap().ladder());
            let syn = flows(&lab, 80)[1].syn().payload().to_vec();
            assert_eq!(syn, b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n", "{name}");
        }
    }

    fn a_grpc_call_rides_by_its_rule_and_runs_once() {
        for runtime in RUNTIMES {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            let (client, host) = (lab.host("client"), lab.host("server"));
            let (server, addr) = (GrpcServer::start(&host, host.addr(80)), host.addr(80));
            let ride = SynData::rule(|head| match head.uri.path() {
                "/hello.Greeter/Hello" => Ride::Repeatable,
                _ => Ride::No,
            });
            run(&client, runtime, async move { fetch_cookie(addr).await });
            for (policy, rides) in [(ride, true), (SynData::SafeMethods, false), (SynData::DangerEverything, true)] {
                for round in 0..10 {
                    let before = server.calls.load(Ordering::SeqCst);
                    let connector = by(&policy);
                    let answer = run(&client, runtime, async move { greet(connector, addr).await.unwrap() });
                    assert_eq!(answer, "hello world");
                    assert_eq!(server.calls.load(Ordering::SeqCst), before + 1);
                    let flow = flows(&lab, 80).pop().unwrap();
                    let what = format!("{runtime:?} {policy:?} {round}\n{flow}");
                    let syn = flow.syn().payload();
                    assert_eq!(!syn.is_empty(), rides, "{what}");
                    if rides {
                        assert!(flow.request_delivered_in_syn(), "{what}");
                        // The whole call, with its message: nothing of it follows.
                        assert!(syn.windows(7).any(|bytes| bytes == b"\x0a\x05world" ), "{what}");
                    }
                }
            }
        }
    }

    fn without_cookies_the_first_visit_rides_where_that_is_allowed() {
        for (network, rides) in [("10.0.0.0/8", true), ("0.0.0.0/0", true), ("192.0.2.0/24", false), ("fd00::/8", false)] {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            lab.middlebox(HoldProof::new());
            let (client, host) = (lab.host("client"), lab.host("server"));
            // 0x200: data without a cookie, for every listener.
            host.set_fastopen(0x203).unwrap();
            let (server, addr) = (Server::start(&host, host.addr(80)), host.addr(80));
            let mut connector = TfoConnector::new();
            connector.set_no_cookie([network.parse().unwrap()]);
            let infos = run(&client, Runtime::CurrentThread, async move {
                let get = send(connector.clone(), false, request(&Method::GET, addr, "/")).await.unwrap();
                (get, send(connector, false, request(&Method::POST, addr, "/")).await.unwrap())
            });
            let flows = flows(&lab, 80);
            let what = format!("{network}: {infos:?}\n{}", flows[0]);
            assert_eq!(in_syn(&flows[0], &infos.0), rides, "{what}");
            assert_eq!(infos.0.saved_rtts(), u32::from(rides), "{what}");
            assert_eq!(flows[0].syn().fast_open().is_none(), rides, "no cookie and no request for one: {what}");
            assert!(flows[1].syn().payload().is_empty(), "{what}");
            assert_eq!(server.seen().len(), 2);
        }
    }

    fn a_server_that_wants_cookies_ignores_data_without() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, host) = (lab.host("client"), lab.host("server"));
        let (server, addr) = (Server::start(&host, host.addr(80)), host.addr(80));
        let mut connector = TfoConnector::new();
        connector.set_no_cookie(["10.0.0.0/8".parse().unwrap()]);
        let info = run(&client, Runtime::CurrentThread, async move {
            send(connector, false, request(&Method::GET, addr, "/")).await.unwrap()
        });
        assert_eq!((info.outcome(), info.saved_rtts()), (SynOutcome::SynDataNotAcked, 0));
        assert_eq!(server.seen().len(), 1);
    }

    fn after_a_warm_up_the_first_request_rides() {
        let asked = [Warm::Asked, Warm::Ready];
        for (client_bits, server_bits, policy, warm) in [
            (3, 3, SynData::SafeMethods, asked),
            (3, 1, SynData::SafeMethods, [Warm::Asked; 2]),
            (2, 3, SynData::SafeMethods, [Warm::Not(Reason::Unsupported); 2]),
            (3, 3, SynData::Never, [Warm::Not(Reason::Off); 2]),
        ] {
            let builder = Lab::builder().rtt(RTT).fastopen("client", client_bits).fastopen("server", server_bits);
            let lab = builder.build().unwrap();
            let (client, host) = (lab.host("client"), lab.host("server"));
            let (server, addr) = (Server::start(&host, host.addr(80)), host.addr(80));
            let what = format!("client {client_bits}, server {server_bits}, {policy:?}");
            let connector = by(&policy);
            let again = connector.clone();
            let done = run(&client, Runtime::CurrentThread, async move {
                [again.warm(uri(addr)).await.unwrap(), again.warm(uri(addr)).await.unwrap()]
            });
            assert_eq!(done, warm, "{what}");
            let before = flows(&lab, 80);
            let sent = warm.iter().filter(|warm| !matches!(warm, Warm::Ready | Warm::Not(Reason::Off))).count();
            assert_eq!(before.len(), sent, "{what}");
            assert!(before.iter().all(|flow| flow.syn().payload().is_empty()), "{what}");
            assert_eq!(server.seen().len(), 0, "{what}");
            let info = run(&client, Runtime::CurrentThread, async move {
                send(connector, false, request(&Method::GET, addr, "/")).await.unwrap()
            });
            let last = flows(&lab, 80).pop().unwrap();
            assert_eq!(in_syn(&last, &info), warm == asked, "{what}: {info:?}");
        }
    }

    fn a_warm_up_of_a_server_that_is_not_there_is_an_error() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, host) = (lab.host("client"), lab.host("server"));
        let addr = host.addr(81);
        run(&client, Runtime::CurrentThread, async move {
            let error = TfoConnector::new().warm(uri(addr)).await.unwrap_err();
            assert_eq!((error.kind(), error.address()), (ConnectErrorKind::Connect, Some(addr)));
        });
    }

    /// In a process of its own, since the environment is read once.
    fn the_environment_switches_all_of_it_off() {
        let mut outcomes = Vec::new();
        for value in ["off", "OFF", "on", ""] {
            let mut copy = Command::new(std::env::current_exe().unwrap());
            copy.args(["--exact", "a_probe_of_the_environment"]).env(SWITCHED_OFF, "1").env("TFO_HTTP", value);
            let output = copy.output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{text}");
            let found = text.lines().find_map(|line| line.strip_prefix("outcomes: ")).map(str::to_owned);
            outcomes.push(found.unwrap_or_else(|| panic!("{text}")));
        }
        let (off, on) = ("Not(Off) plain off plain off", "Asked syn_data_acked - syn_data_acked -");
        assert_eq!(outcomes, [off, off, on, on]);
    }

    fn a_probe_of_the_environment() {
        if std::env::var_os(SWITCHED_OFF).is_none() {
            return;
        }
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, host) = (lab.host("client"), lab.host("server"));
        let (_server, addr) = (Server::start(&host, host.addr(80)), host.addr(80));
        let text = run(&client, Runtime::CurrentThread, async move {
            let connector = TfoConnector::new();
            let mut text = format!("{:?}", connector.warm(uri(addr)).await.unwrap());
            for _ in 0..2 {
                let info = send(connector.clone(), false, request(&Method::GET, addr, "/")).await.unwrap();
                text += &format!(" {} {}", info.outcome(), info.reason().map_or("-", Reason::as_str));
            }
            text
        });
        eprintln!("outcomes: {text}");
        let options = flows(&lab, 80).iter().filter(|flow| flow.syn().fast_open().is_some()).count();
        assert_eq!(options > 0, text.starts_with("Asked"), "{}", lab.tap().ladder());
    }
}

/// Makes a path bad.
type Break = fn(&Lab);

fn by(policy: &SynData) -> TfoConnector {
    let mut connector = TfoConnector::new();
    connector.set_syn_data(policy.clone());
    connector.set_connect_timeout(Some(Duration::from_millis(700)));
    connector
}

fn has_body(method: &Method) -> bool {
    [Method::PUT, Method::POST, Method::PATCH].contains(method)
}

fn request(method: &Method, addr: SocketAddr, path: &str) -> Request<Full<Bytes>> {
    let body = if has_body(method) { "body" } else { "" };
    let builder = Request::builder().method(method).uri(format!("http://{addr}{path}"));
    builder.body(Full::from(body)).unwrap()
}

async fn send(
    connector: TfoConnector,
    http2: bool,
    request: Request<Full<Bytes>>,
) -> Result<ConnInfo, Error> {
    let client = Client::builder(TokioExecutor::new()).http2_only(http2).build(connector);
    let response = client.request(request).await?;
    let info = response.extensions().get::<ConnInfo>().unwrap().clone();
    response.into_body().collect().await.expect("the whole answer");
    Ok(info)
}

/// Whether all of a request rode, as client and wire say.
fn in_syn(flow: &Flow, info: &ConnInfo) -> bool {
    let rode = info.outcome() == SynOutcome::SynDataAcked
        && info.first_flight_bytes() == Some(info.syn_data_bytes());
    assert_eq!(rode, flow.request_delivered_in_syn(), "{info:?}\n{flow}");
    assert_eq!(flow.syn().payload().len(), info.syn_data_bytes(), "{info:?}\n{flow}");
    rode
}

fn break_path(lab: &Lab, refused: bool) {
    match refused {
        true => drop(lab.middlebox(ResetSyn::with_data())),
        false => drop(lab.middlebox(DropSynData::new())),
    }
}

/// One request on a path that refuses or drops SYNs with data: the answer, its connections, and how often it ran.
fn endangered(
    policy: &SynData,
    method: &Method,
    http2: bool,
    refused: bool,
) -> (SocketAddr, Result<ConnInfo, Error>, Vec<Flow>, usize) {
    let lab = Lab::builder().rtt(RTT).build().unwrap();
    let (client, host) = (lab.host("client"), lab.host("server"));
    let (server, addr) = (Server::start(&host, host.addr(80)), host.addr(80));
    run(&client, Runtime::CurrentThread, async move { fetch_cookie(addr).await });
    break_path(&lab, refused);
    let (connector, request) = (by(policy), request(method, addr, "/"));
    let result = run(&client, Runtime::CurrentThread, async move { send(connector, http2, request).await });
    let ran = server.seen().len();
    let flows = lab.tap().flows_of(80).split_off(1);
    (addr, result, flows, ran)
}

fn info_of(error: &Error) -> ConnInfo {
    let mut extras = http::Extensions::new();
    error.connect_info().expect("a connection").get_extras(&mut extras);
    extras.get::<ConnInfo>().expect("its info").clone()
}

async fn greet(connector: TfoConnector, addr: SocketAddr) -> Result<String, tonic::Status> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap();
    let mut client = Grpc::new(endpoint.connect_with_connector_lazy(connector));
    client.ready().await.unwrap();
    let method = PathAndQuery::from_static("/hello.Greeter/Hello");
    let call = tonic::Request::new("world".to_owned());
    let answer = client.unary(call, method, ProstCodec::<String, String>::default()).await?;
    Ok(answer.into_inner())
}

/// tonic's own server, on our listener.
struct GrpcServer {
    calls: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl GrpcServer {
    fn start(host: &Host, addr: SocketAddr) -> Self {
        let (calls, (stop, stopped)) = (Arc::new(AtomicUsize::new(0)), oneshot::channel());
        let (ready_sender, ready) = std::sync::mpsc::channel();
        let greeter = Greeter(calls.clone());
        let thread = host.spawn(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build().unwrap().block_on(async {
                let listener = TfoListener::bind(addr).unwrap();
                ready_sender.send(()).unwrap();
                tokio::select! {
                    _ = Tonic::builder().serve_with_incoming(greeter, listener.into_incoming()) => {}
                    _ = stopped => {}
                }
            });
        });
        ready.recv().unwrap();
        Self { calls, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for GrpcServer {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What a generated service is, and a count of its calls.
#[derive(Clone)]
struct Greeter(Arc<AtomicUsize>);

impl UnaryService<String> for Greeter {
    type Response = String;
    type Future = Ready<Result<tonic::Response<String>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<String>) -> Self::Future {
        self.0.fetch_add(1, Ordering::SeqCst);
        ready(Ok(tonic::Response::new(format!("hello {}", request.get_ref()))))
    }
}

impl Service<Request<Body>> for Greeter {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let greeter = self.clone();
        Box::pin(async move {
            Ok(tonic::server::Grpc::new(ProstCodec::<String, String>::default())
                .unary(greeter, request)
                .await)
        })
    }
}
