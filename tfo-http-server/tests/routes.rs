//! Routes that ask for a proof, and requests that are declared replayable.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(any(not(target_os = "linux"), tfo_fallback), allow(unused, reason = "no TCP Fast Open there"))]

mod support;

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::routing::{get, post};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use support::{GET, POST, RawClient, Runtime, WHILE, serve};
use tfo_http_server::{AcceptInfo, AcceptedStream, ListenerBuilder, ProofLayer, TfoListener};
use tfo_lab::{Packet, lab_tests};
use tokio::time::sleep;

use Runtime::MultiThread;

const CHANGE: &[u8] = b"GET /change HTTP/1.1\r\nHost: server\r\n\r\n";
const EARLY: &[u8] = b"GET /early HTTP/1.1\r\nHost: server\r\n\r\n";
const MARKED: &[u8] = b"GET /change HTTP/1.1\r\nHost: server\r\nEarly-Data: 1\r\n\r\n";
const MARKED_SAFE: &[u8] = b"GET / HTTP/1.1\r\nHost: server\r\nEarly-Data: 1\r\n\r\n";
const MARKED_POST: &[u8] =
    b"POST / HTTP/1.1\r\nHost: server\r\nEarly-Data: 1\r\nContent-Length: 4\r\n\r\nbody";
const SEARCH: &[u8] = b"POST /search HTTP/1.1\r\nHost: server\r\nContent-Length: 4\r\n\r\nbody";

#[cfg(tfo_fallback)]
fn main() {}

#[cfg(not(tfo_fallback))]
lab_tests! {
    fn a_route_that_needs_proof_runs_behind_the_ack() {
        for stack in [axum as Stack, plain_hyper, tower_under_hyper] {
            let lab = support::lab();
            serve(&lab, MultiThread, |builder| builder, async |listener| {
                let runs = stack(listener);
                let mut client = RawClient::v4(&lab, 1);
                client.syn(CHANGE);
                sleep(WHILE).await;
                assert_eq!(runs.load(Ordering::SeqCst), 0);
                client.ack(b"");
                client.wait_for("the answer", |packet| packet.payload().starts_with(b"HTTP/1.1 200 "));
                assert_eq!(runs.load(Ordering::SeqCst), 1);
                // And the control: a route that asks for nothing answers before.
                let mut client = RawClient::v4(&lab, 2);
                client.syn(GET);
                client.wait_for("the answer", |packet| packet.payload().starts_with(b"HTTP/1.1 200 "));
                assert_eq!(runs.load(Ordering::SeqCst), 2);
            });
        }
    }

    fn a_disproven_request_does_not_run() {
        for stack in [axum as Stack, plain_hyper, tower_under_hyper] {
            let lab = support::lab();
            let short = |builder: ListenerBuilder| builder.gate_deadline(Duration::from_millis(200));
            serve(&lab, MultiThread, short, async |listener| {
                let stats = listener.stats();
                let runs = stack(listener);
                let mut silent = RawClient::v4(&lab, 1);
                silent.syn(CHANGE);
                let mut reset = RawClient::v4(&lab, 2);
                reset.syn(CHANGE);
                sleep(WHILE).await;
                reset.rst();
                silent.wait_for("a RST", Packet::is_rst);
                sleep(WHILE).await;
                assert_eq!(runs.load(Ordering::SeqCst), 0);
                assert!(!silent.received().iter().any(|packet| !packet.payload().is_empty()), "no answer either");
                let stats = stats.snapshot();
                assert_eq!((stats.gate.reset, stats.gate.deadline, stats.limits.in_flight), (1, 1, 0), "{stats:?}");
            });
        }
    }

    fn too_early_is_a_choice_of_a_route_and_for_early_requests_alone() {
        let lab = support::lab();
        serve(&lab, MultiThread, |builder| builder, async |listener| {
            let runs = axum(listener);
            let mut client = RawClient::v4(&lab, 1);
            client.syn(EARLY);
            client.wait_for("425", |packet| packet.payload().starts_with(b"HTTP/1.1 425 "));
            assert_eq!(runs.load(Ordering::SeqCst), 0);
            // The same connection, once it is proven.
            client.ack(EARLY);
            client.wait_for("the answer", |packet| packet.payload().starts_with(b"HTTP/1.1 200 "));
            assert_eq!(runs.load(Ordering::SeqCst), 1);
        });
    }

    fn what_an_intermediary_has_marked_runs_only_if_it_is_safe() {
        let lab = support::lab();
        serve(&lab, MultiThread, |builder| builder, async |listener| {
            let runs = axum(listener);
            // On an ordinary connection: it is the intermediary's word that counts.
            for (port, request, status, ran) in
                [(1, MARKED, "425", 0), (2, MARKED_POST, "425", 0), (3, MARKED_SAFE, "200", 1), (4, POST, "200", 2)]
            {
                let mut client = RawClient::v4(&lab, port);
                client.syn(b"").ack(request);
                let line = format!("HTTP/1.1 {status} ");
                client.wait_for(status, |packet| packet.payload().starts_with(line.as_bytes()));
                assert_eq!(runs.load(Ordering::SeqCst), ran, "{}", request.escape_ascii());
            }
        });
    }

    fn a_service_that_does_not_know_its_connections_does_not_run() {
        let lab = support::lab();
        serve(&lab, MultiThread, |builder| builder, async |listener| {
            let runs = Runs::default();
            let needy = get(done).layer(ProofLayer::every_request());
            let app = Router::new().route("/change", needy).with_state(Arc::clone(&runs));
            tokio::spawn(async move { axum::serve(listener, app).await });
            let mut client = RawClient::v4(&lab, 1);
            client.syn(b"").ack(CHANGE);
            client.wait_for("500", |packet| packet.payload().starts_with(b"HTTP/1.1 500 "));
            assert_eq!(runs.load(Ordering::SeqCst), 0);
        });
    }

    fn what_was_declared_replayable_runs_before_the_ack_and_nothing_else() {
        let lab = support::lab();
        let rule = |builder: ListenerBuilder| builder.replayable(|request| request.path() == "/search");
        serve(&lab, MultiThread, rule, async |listener| {
            let runs = axum(listener);
            let mut search = RawClient::v4(&lab, 1);
            search.syn(SEARCH);
            search.wait_for("the answer", |packet| packet.payload().starts_with(b"HTTP/1.1 200 "));
            let mut both = RawClient::v4(&lab, 2);
            both.syn(&[SEARCH, POST].concat());
            both.wait_for("the answer", |packet| packet.payload().starts_with(b"HTTP/1.1 200 "));
            sleep(WHILE).await;
            assert_eq!(runs.load(Ordering::SeqCst), 2);
            both.ack(b"");
            sleep(WHILE).await;
            assert_eq!(runs.load(Ordering::SeqCst), 3);
        });
    }

    fn axum_gives_both_connect_infos() {
        let lab = support::lab();
        serve(&lab, MultiThread, |builder| builder, async |listener| {
            async fn who(
                ConnectInfo(info): ConnectInfo<AcceptInfo>,
                ConnectInfo(remote): ConnectInfo<std::net::SocketAddr>,
            ) -> String {
                format!("{} {}", info.arrived_in_syn(), remote == info.remote_addr())
            }
            let both = axum::middleware::map_request(tfo_http_server::with_socket_addr);
            let app = Router::new().route("/", get(who)).layer(both);
            let served = axum::serve(listener, app.into_make_service_with_connect_info::<AcceptInfo>());
            tokio::spawn(async move { served.await });
            let mut client = RawClient::v4(&lab, 1);
            client.syn(GET);
            client.wait_for("the answer", |packet| packet.payload().ends_with(b"true true"));
        });
    }
}

/// Serves `/`, `/change` (needs proof), `/early` (425) and `/search`, and counts what ran.
type Stack = fn(TfoListener) -> Runs;

type Runs = Arc<AtomicUsize>;

async fn done(State(runs): State<Runs>) -> &'static str {
    runs.fetch_add(1, Ordering::SeqCst);
    "done\n"
}

fn axum(listener: TfoListener) -> Runs {
    let runs = Runs::default();
    let early = ProofLayer::every_request().answer_too_early();
    let app = Router::new()
        .route("/", get(done).post(done).layer(ProofLayer::unsafe_methods()))
        // Not below such a layer: it may run early.
        .route("/search", post(done))
        .route("/change", get(done).layer(ProofLayer::every_request()))
        .route("/early", get(done).layer(early))
        .with_state(Arc::clone(&runs));
    let app = app.into_make_service_with_connect_info::<AcceptInfo>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    runs
}

fn plain_hyper(listener: TfoListener) -> Runs {
    serve_hyper(listener, |stream, runs| async move {
        let layer = ProofLayer::every_request().of_connection(stream.info());
        let free = service_fn(move |_: Request<Incoming>| {
            runs.fetch_add(1, Ordering::SeqCst);
            ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("done\n"))))
        });
        let proven = layer.wrap(free.clone());
        let both = service_fn(move |request: Request<Incoming>| {
            let (free, proven) = (free.clone(), proven.clone());
            async move {
                match request.uri().path() {
                    "/change" => proven.call(request).await,
                    _ => free.call(request).await,
                }
            }
        });
        let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), both).await;
    })
}

/// The layer around a tower service under hyper, without connect info.
fn tower_under_hyper(listener: TfoListener) -> Runs {
    serve_hyper(listener, |stream, runs| async move {
        let layer = ProofLayer::every_request().of_connection(stream.info());
        let app: Router =
            Router::new().route("/", get(done)).route("/change", get(done).layer(layer)).with_state(runs);
        let app = TowerToHyperService::new(app);
        let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), app).await;
    })
}

fn serve_hyper<F>(listener: TfoListener, serve: fn(AcceptedStream, Runs) -> F) -> Runs
where
    F: Future<Output = ()> + Send + 'static,
{
    let runs = Runs::default();
    let counted = Arc::clone(&runs);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept_next().await;
            tokio::spawn(serve(stream, Arc::clone(&counted)));
        }
    });
    runs
}
