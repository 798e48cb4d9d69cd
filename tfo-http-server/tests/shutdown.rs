//! A graceful shutdown that begins while a request is withheld.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(any(not(target_os = "linux"), tfo_fallback), allow(unused, reason = "no TCP Fast Open there"))]

mod support;

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use support::{GET, PATIENCE, POST, RawClient, Runtime, WHILE, read, serve, stays_pending};
use tfo_http_server::TfoListener;
use tfo_lab::{Packet, lab_tests};
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use Runtime::{CurrentThread, MultiThread};

#[cfg(tfo_fallback)]
fn main() {}

#[cfg(not(tfo_fallback))]
lab_tests! {
    fn a_withheld_post_is_answered_after_the_shutdown_has_begun() {
        for stack in Stack::ALL {
            let lab = support::lab();
            serve(&lab, MultiThread, |builder| builder, async |listener| {
                let mut client = RawClient::v4(&lab, 1);
                client.syn(&stack.post());
                let running = Running::start(stack, listener, true, 1).await;
                let server = running.stop().await;
                assert!(!server.is_finished() && running.runs() == 0, "{stack:?}");
                assert!(!client.received().iter().any(Packet::is_rst), "{stack:?}\n{}", lab.tap().ladder());
                client.ack(b"");
                client.wait_for("the answer", |packet| stack.is_answer(packet));
                assert_eq!(running.runs(), 1, "{stack:?}");
                client.ack(b"").fin();
                timeout(PATIENCE / 2, server).await.expect("it ends with the last answer").unwrap();
            });
        }
    }

    fn without_waiting_the_client_is_reset() {
        // HTTP/2 says goodbye first, and takes what is on its way.
        for stack in [Stack::Hyper, Stack::Axum] {
            let lab = support::lab();
            let begun = Instant::now();
            serve(&lab, MultiThread, |builder| builder, async |listener| {
                let mut client = RawClient::v4(&lab, 1);
                client.syn(&stack.post());
                let running = Running::start(stack, listener, false, 1).await;
                let server = running.stop().await;
                client.wait_for("a RST", Packet::is_rst);
                assert_eq!(running.runs(), 0, "{stack:?}");
                server.await.unwrap();
                assert!(begun.elapsed().as_secs() < 5, "{stack:?}: long before the gate's deadline");
            });
        }
    }

    fn what_is_never_proven_holds_it_up_until_the_deadline() {
        const DEADLINE: Duration = Duration::from_millis(800);
        for stack in Stack::ALL {
            let lab = support::lab();
            serve(&lab, MultiThread, |builder| builder.gate_deadline(DEADLINE), async |listener| {
                let begun = Instant::now();
                let mut client = RawClient::v4(&lab, 1);
                client.syn(&stack.post());
                let running = Running::start(stack, listener, true, 1).await;
                let server = running.stop().await;
                timeout(PATIENCE / 2, server).await.expect("it ends at the deadline").unwrap();
                assert!(begun.elapsed() >= DEADLINE, "{stack:?}: {:?}", begun.elapsed());
                assert_eq!(running.runs(), 0, "{stack:?}");
                client.wait_for("a RST", Packet::is_rst);
            });
        }
    }

    fn only_what_is_withheld_is_waited_for() {
        let lab = support::lab();
        serve(&lab, CurrentThread, |builder| builder, async |listener| {
            let stats = listener.stats();
            stats.settled().await;
            // Ordinary connections, and a cookie without data.
            RawClient::v4(&lab, 1).syn(b"").ack(b"");
            RawClient::v4(&lab, 2).syn_with_option();
            let (_plain, (mut cookie, _)) = (listener.accept().await.unwrap(), listener.accept().await.unwrap());
            stays_pending(read(&mut cookie)).await;
            timeout(WHILE, stats.settled()).await.unwrap();
            // A GET, from the moment on that it is read.
            RawClient::v4(&lab, 3).syn(GET);
            let (mut get, _) = listener.accept().await.unwrap();
            stays_pending(stats.settled()).await;
            assert_eq!(read(&mut get).await.unwrap(), GET);
            timeout(WHILE, stats.settled()).await.unwrap();
            // A POST behind it keeps it from being settled; its reader closes.
            RawClient::v4(&lab, 4).syn(&[GET, POST].concat());
            let (mut both, _) = listener.accept().await.unwrap();
            assert_eq!(read(&mut both).await.unwrap(), GET);
            stays_pending(stats.settled()).await;
            drop(both);
            timeout(WHILE, stats.settled()).await.unwrap();
            // One that is reset, when its reader has heard of it.
            let mut reset = RawClient::v4(&lab, 5);
            reset.syn(POST);
            let (mut stream, _) = listener.accept().await.unwrap();
            stays_pending(stats.settled()).await;
            reset.rst();
            read(&mut stream).await.unwrap_err();
            timeout(WHILE, stats.settled()).await.unwrap();
        });
    }

    fn a_proof_is_not_enough_and_later_connections_do_not_count() {
        for runtime in [CurrentThread, MultiThread] {
            let lab = support::lab();
            serve(&lab, runtime, |builder| builder, async |listener| {
                let stats = listener.stats();
                let mut first = RawClient::v4(&lab, 1);
                first.syn(POST);
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut settled = pin!(stats.settled());
                stays_pending(&mut settled).await;
                let mut later = RawClient::v4(&lab, 2);
                later.syn(POST);
                let (_later, _) = listener.accept().await.unwrap();
                first.ack(b"");
                stream.info().proven().await.unwrap();
                // The framework has not seen the request yet.
                stays_pending(&mut settled).await;
                assert_eq!(read(&mut stream).await.unwrap(), POST);
                timeout(WHILE, settled).await.unwrap();
                stays_pending(stats.settled()).await;
                stream.shutdown().await.unwrap();
            });
        }
    }
}

/// A server that counts the POSTs that ran.
struct Running {
    runs: Arc<AtomicUsize>,
    stop: std::cell::Cell<Option<oneshot::Sender<()>>>,
    server: std::cell::Cell<Option<JoinHandle<()>>>,
}

impl Running {
    /// Ready when so many requests are withheld.
    async fn start(stack: Stack, listener: TfoListener, waits: bool, withheld: u64) -> Self {
        let (runs, stats) = (Arc::<AtomicUsize>::default(), listener.stats());
        let (stop, stopped) = oneshot::channel();
        let stopped = {
            let stats = stats.clone();
            async move {
                let _ = stopped.await;
                if waits {
                    stats.settled().await;
                }
            }
        };
        let counted = Arc::clone(&runs);
        let server = match stack {
            Stack::Hyper => tokio::spawn(hyper(listener, counted, stopped)),
            Stack::Axum => tokio::spawn(axum(listener, counted, stopped)),
            Stack::Tonic => tokio::spawn(tonic(listener, counted, stopped)),
        };
        let begun = Instant::now();
        while stats.snapshot().gate.withheld < withheld {
            assert!(begun.elapsed() < PATIENCE / 2, "nothing is withheld");
            sleep(Duration::from_millis(1)).await;
        }
        Self { runs, stop: Some(stop).into(), server: Some(server).into() }
    }

    /// Begins the shutdown, and lets it come to where it waits.
    async fn stop(&self) -> JoinHandle<()> {
        self.stop.take().unwrap().send(()).unwrap();
        sleep(WHILE).await;
        self.server.take().unwrap()
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

#[derive(Clone, Copy, Debug)]
enum Stack {
    Hyper,
    Axum,
    Tonic,
}

impl Stack {
    const ALL: [Self; 3] = [Self::Hyper, Self::Axum, Self::Tonic];

    fn post(self) -> Vec<u8> {
        match self {
            Self::Hyper | Self::Axum => POST.to_vec(),
            Self::Tonic => support::grpc_call(),
        }
    }

    fn is_answer(self, packet: &Packet) -> bool {
        match self {
            Self::Hyper | Self::Axum => packet.payload().starts_with(b"HTTP/1.1 200 "),
            // HPACK's entry 8, as the first of a HEADERS frame: `:status: 200`.
            Self::Tonic => packet.payload().windows(10).any(|frame| frame[3] == 1 && frame[9] == 0x88),
        }
    }
}

type Runs = Arc<AtomicUsize>;

async fn hyper(listener: TfoListener, runs: Runs, stopped: impl Future<Output = ()>) {
    let graceful = GracefulShutdown::new();
    let mut stopped = pin!(stopped);
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept_next() => accepted,
            () = &mut stopped => break,
        };
        let runs = Arc::clone(&runs);
        let service = service_fn(move |request: Request<Incoming>| {
            runs.fetch_add(1, Ordering::SeqCst);
            async move {
                let _ = request.into_body().collect().await;
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("done\n")))
            }
        });
        let http1 = hyper::server::conn::http1::Builder::new();
        let connection = graceful.watch(http1.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move { _ = connection.await });
    }
    drop(listener);
    graceful.shutdown().await;
}

async fn axum(listener: TfoListener, runs: Runs, stopped: impl Future<Output = ()> + Send + 'static) {
    let run = move |_body: Bytes| {
        runs.fetch_add(1, Ordering::SeqCst);
        ready("done\n")
    };
    let app = Router::new().route("/", post(run));
    axum::serve(listener, app).with_graceful_shutdown(stopped).await.unwrap();
}

async fn tonic(listener: TfoListener, runs: Runs, stopped: impl Future<Output = ()>) {
    let server = tonic::transport::Server::builder();
    let incoming = listener.into_incoming();
    server.serve_with_incoming_shutdown(Counter(runs), incoming, stopped).await.unwrap();
}

/// A gRPC service that counts its calls.
#[derive(Clone)]
struct Counter(Runs);

impl tower_service::Service<Request<tonic::body::Body>> for Counter {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<tonic::body::Body>) -> Self::Future {
        self.0.fetch_add(1, Ordering::SeqCst);
        ready(Ok(tonic::Status::ok("").into_http()))
    }
}
