//! The gate under hyper and axum, with the kernel's own client: what runs when, and how often.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(any(not(target_os = "linux"), tfo_fallback), allow(unused, reason = "no TCP Fast Open there"))]

mod support;

use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use axum::serve::ListenerExt;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use socket2::{Domain, Socket, Type};
use support::{GET, PATIENCE, PORT, POST, RawClient, Runtime, WHILE, serve};
use tfo_core::{SynSend, send_syn};
use tfo_http_server::{AcceptInfo, TfoListener};
use tfo_lab::{DuplicateSyn, Flow, Host, Lab, Packet, lab_tests};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use Runtime::{CurrentThread, MultiThread};

const RTT: Duration = Duration::from_millis(100);

#[cfg(tfo_fallback)]
fn main() {}

#[cfg(not(tfo_fallback))]
lab_tests! {
    fn a_get_is_answered_before_the_ack_and_a_post_behind_it() {
        for runtime in [CurrentThread, MultiThread] {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            serve(&lab, runtime, |builder| builder, async |listener| {
                let server = Server::start(listener);
                // The first visit brings the cookie.
                for (index, request) in [GET, GET, POST].into_iter().enumerate() {
                    let visit = visit(&lab, request).await;
                    assert_eq!(visit.in_syn, if index == 0 { 0 } else { request.len() });
                    assert_eq!(visit.answer, b"done\n");
                    let flow = flow(&lab, visit.port);
                    let early = flow.answered_before_any_further_client_packet();
                    assert_eq!(flow.request_delivered_in_syn(), index > 0, "{flow}");
                    assert_eq!(early, index == 1, "{flow}");
                }
                let handled = server.handled();
                let seen = handled.iter().map(|run| (run.method.as_str(), run.in_syn, run.proven));
                // What the handler could see when it ran.
                let expected = [("GET", false, true), ("GET", true, false), ("POST", true, true)];
                assert_eq!(seen.collect::<Vec<_>>(), expected);
            });
        }
    }

    fn a_post_that_is_never_acked_never_runs() {
        let lab = support::lab();
        let short = |builder: tfo_http_server::ListenerBuilder| builder.gate_deadline(Duration::from_millis(300));
        // The test itself blocks while it waits for packets: the server runs on other threads.
        serve(&lab, MultiThread, short, async |listener| {
            let server = Server::start(listener);
            let flight = [GET, POST].concat();
            let mut silent = RawClient::v4(&lab, 1);
            silent.syn(&flight);
            let mut reset = RawClient::v4(&lab, 2);
            reset.syn(POST);
            let mut real = RawClient::v4(&lab, 3);
            real.syn(POST);
            silent.wait_for("the answer to the GET", |packet| packet.payload().ends_with(b"done\n"));
            let handled = server.handled();
            assert_eq!(handled.len(), 1, "{handled:?}");
            reset.rst();
            real.ack(b"");
            real.wait_for("the answer to the POST", |packet| packet.payload().ends_with(b"done\n"));
            silent.wait_for("a RST", Packet::is_rst);
            sleep(WHILE).await;
            let handled = server.handled();
            let seen: Vec<_> = handled.iter().map(|run| (run.method.as_str(), run.proven)).collect();
            assert_eq!(seen, [("GET", false), ("POST", true)]);
        });
    }

    fn a_replayed_post_runs_once_and_without_the_gate_each_time() {
        const REPLAYS: usize = 2;
        for gate in [true, false] {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            serve(&lab, CurrentThread, |builder| builder.danger_gate_off(!gate), async |listener| {
                let server = Server::start(listener);
                let recorder = DuplicateSyn::keep();
                let captured = recorder.captured();
                lab.middlebox(recorder);
                visit(&lab, GET).await;
                let ride = visit(&lab, POST).await;
                assert_eq!(ride.in_syn, POST.len());
                assert_eq!(server.handled().len(), 2);
                for replay in 1..=REPLAYS {
                    // The client has closed; somebody sends its SYN again.
                    settle(&lab).await;
                    lab.inject("client", captured.latest().unwrap());
                    // The server did take it for a connection: there is something to withhold. It
                    // ends when the client's kernel has answered the SYN-ACK by RST.
                    let begun = Instant::now();
                    while server.ended() < 2 + replay && begun.elapsed() < PATIENCE {
                        sleep(Duration::from_millis(5)).await;
                    }
                    assert_eq!(server.ended(), 2 + replay, "{}", lab.tap().ladder());
                    let info = server.infos().pop().unwrap();
                    assert!(info.arrived_in_syn() && !info.is_proven(), "{info:?}");
                    assert_eq!(info.was_gated(), gate);
                }
                let posts = server.handled().iter().filter(|run| run.method == Method::POST).count();
                assert_eq!(posts, if gate { 1 } else { 1 + REPLAYS }, "gate {gate}\n{}", lab.tap().ladder());
            });
        }
    }

    fn axum_handlers_ask_and_wait() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        serve(&lab, MultiThread, |builder| builder, async |listener| {
            async fn now(ConnectInfo(info): ConnectInfo<AcceptInfo>) -> String {
                format!("{} {}", info.arrived_in_syn(), info.is_proven())
            }
            async fn later(ConnectInfo(info): ConnectInfo<AcceptInfo>) -> String {
                let before = info.is_proven();
                let result = info.proven().await;
                format!("{before} {result:?} {}", info.is_proven())
            }
            let app = Router::new().route("/", get(now)).route("/later", get(later));
            let served = axum::serve(listener, app.into_make_service_with_connect_info::<AcceptInfo>());
            tokio::spawn(async move { served.await });
            assert_eq!(visit(&lab, GET).await.answer, b"false true");
            let ride = visit(&lab, GET).await;
            assert_eq!(ride.answer, b"true false");
            assert!(flow(&lab, ride.port).answered_before_any_further_client_packet());
            let ride = visit(&lab, b"GET /later HTTP/1.1\r\nHost: server\r\n\r\n").await;
            assert_eq!(ride.answer, b"false Ok(()) true");
            let flow = flow(&lab, ride.port);
            assert!(flow.request_delivered_in_syn() && !flow.answered_before_any_further_client_packet(), "{flow}");
        });
    }

    fn axum_gives_socket_addresses_behind_tap_io() {
        let lab = Lab::builder().build().unwrap();
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            async fn who(ConnectInfo(remote): ConnectInfo<SocketAddr>) -> String {
                remote.port().to_string()
            }
            let app = Router::new().route("/", get(who));
            let service = app.into_make_service_with_connect_info::<SocketAddr>();
            let served = axum::serve(listener.tap_io(|_| {}), service);
            tokio::spawn(async move { served.await });
            let visit = visit(&lab, GET).await;
            assert_eq!(visit.answer, visit.port.to_string().into_bytes());
        });
    }
}

/// A hyper server that notes what it does.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Notes>>);

#[derive(Default)]
struct Notes {
    infos: Vec<AcceptInfo>,
    ended: usize,
    handled: Vec<Run>,
}

/// One request that ran, and what was known when it began.
#[derive(Clone, Debug)]
struct Run {
    method: Method,
    in_syn: bool,
    proven: bool,
}

impl Server {
    fn start(listener: TfoListener) -> Self {
        let server = Self::default();
        let accepting = server.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept_next().await;
                let info = stream.info();
                accepting.0.lock().unwrap().infos.push(info.clone());
                let server = accepting.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| server.clone().handle(request, info.clone()));
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                    server.0.lock().unwrap().ended += 1;
                });
            }
        });
        server
    }

    async fn handle(
        self,
        request: Request<Incoming>,
        info: AcceptInfo,
    ) -> hyper::Result<Response<Full<Bytes>>> {
        let (in_syn, proven) = (info.arrived_in_syn(), info.is_proven());
        self.0.lock().unwrap().handled.push(Run { method: request.method().clone(), in_syn, proven });
        request.into_body().collect().await?;
        Ok(Response::new(Full::from("done\n")))
    }

    fn handled(&self) -> Vec<Run> {
        self.0.lock().unwrap().handled.clone()
    }

    fn infos(&self) -> Vec<AcceptInfo> {
        self.0.lock().unwrap().infos.clone()
    }

    fn ended(&self) -> usize {
        self.0.lock().unwrap().ended
    }
}

#[derive(Debug)]
struct Visit {
    in_syn: usize,
    answer: Vec<u8>,
    port: u16,
}

/// One request on a new connection, in the SYN if there is a cookie; the client closes first.
async fn visit(lab: &Lab, request: &'static [u8]) -> Visit {
    let (client, to) = (lab.host("client"), lab.host("server").addr(PORT));
    let visit = spawn_blocking(move || visit_blocking(&client, to, request)).await.unwrap().unwrap();
    settle(lab).await;
    visit
}

fn visit_blocking(client: &Host, to: SocketAddr, request: &[u8]) -> io::Result<Visit> {
    client.run(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let in_syn = match send_syn(&socket, &to, &[IoSlice::new(request)])? {
            SynSend::Data(bytes) => bytes,
            _ => 0,
        };
        let mut stream = TcpStream::from(socket);
        stream.write_all(&request[in_syn..])?;
        let mut got = Vec::new();
        let answer = loop {
            let mut part = [0; 1024];
            let length = stream.read(&mut part)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            got.extend_from_slice(&part[..length]);
            if let Some(body) = body(&got) {
                break body.to_vec();
            }
        };
        Ok(Visit { in_syn, answer, port: stream.local_addr()?.port() })
    })
}

/// The body, when all of it is there.
fn body(response: &[u8]) -> Option<&[u8]> {
    let text = std::str::from_utf8(response).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
    (body.len() == length.parse().ok()?).then_some(body.as_bytes())
}

/// Waits until nothing is on the wire.
async fn settle(lab: &Lab) {
    let tap = lab.tap();
    let quiet = spawn_blocking(move || tap.wait_quiet(Duration::from_millis(30), PATIENCE)).await.unwrap();
    assert!(quiet, "the wire does not come to rest");
}

/// The connection from that port of the client.
fn flow(lab: &Lab, port: u16) -> Flow {
    lab.tap().flow(SocketAddr::new(lab.host("client").ipv4().into(), port)).unwrap()
}
