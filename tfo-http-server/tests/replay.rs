//! Whoever has recorded a SYN sends it again, to the same server or to another with the same key: how often
//! does the request run?
//!
//! `TFO_REPLAYS` says how many replays of each kind under each framework; 48 by default.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(any(not(target_os = "linux"), tfo_fallback), allow(unused, reason = "no TCP Fast Open there"))]

mod support;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{Request, Response};
use axum::routing::{get, post};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use support::{POST, RawClient, Runtime, serve_on};
use tfo_http_server::server::{Limits, Server};
use tfo_http_server::{AcceptInfo, ListenerBuilder, ListenerStats, ProofLayer, ProofService, TfoListener};
use tfo_lab::{Lab, lab_tests};
use tokio::time::sleep;

#[cfg(tfo_fallback)]
fn main() {}

#[cfg(not(tfo_fallback))]
lab_tests! {
    fn a_replayed_post_never_runs_again() {
        for stack in Stack::ALL {
            let again = replay_all(stack, &stack.post(), true);
            assert_eq!(again.executions, 0, "{stack:?}: {again:?}");
        }
    }

    fn a_replayed_get_that_needs_proof_never_runs_again() {
        for stack in Stack::ALL {
            let again = replay_all(stack, &stack.get("/change"), true);
            assert_eq!(again.executions, 0, "{stack:?}: {again:?}");
        }
    }

    fn an_ordinary_get_may_run_again() {
        // It is safe by its method; this only shows that the replays above arrived.
        for stack in Stack::ALL {
            let again = replay_all(stack, &stack.get("/"), true);
            assert!(again.executions > 0, "{stack:?}: {again:?}");
        }
    }

    fn without_the_gate_posts_run_again() {
        for stack in Stack::ALL {
            let again = replay_all(stack, &stack.post(), false);
            // HTTP/2 writes first, and gives up a connection that was reset before it was accepted.
            let possible = if stack.writes_first() { again.replays * 3 / 4 } else { again.replays };
            assert!(again.executions * 100 >= possible * 95, "{stack:?}: {again:?}");
        }
    }
}

/// Whether somebody has asked for many.
fn is_long() -> bool {
    std::env::var_os("TFO_REPLAYS").is_some()
}

/// The gate's. Many clients' ACKs take their time.
fn deadline() -> Duration {
    Duration::from_millis(if is_long() { 2000 } else { 200 })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stack {
    Hyper,
    Axum,
    Tonic,
    /// [`Server`], with HTTP/1.1 and with HTTP/2.
    Server,
    ServerHttp2,
}

/// What becomes of a replayed connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    ResetBeforeAccept,
    ResetAfterAccept,
    Silence,
    /// The client is in TIME_WAIT: it answers with its old numbers, and then with a RST.
    ChallengeAckThenReset,
}

#[derive(Clone, Copy, Debug)]
struct Again {
    replays: usize,
    executions: usize,
}

fn replay_all(stack: Stack, request: &[u8], gate: bool) -> Again {
    let endings =
        [Ending::ResetBeforeAccept, Ending::ResetAfterAccept, Ending::Silence, Ending::ChallengeAckThenReset];
    let asked = std::env::var("TFO_REPLAYS").ok();
    let total: usize = asked.as_ref().map_or(48, |count| count.parse().unwrap());
    let each = (total / (2 * endings.len())).clamp(1, 500);
    let mut again = Again { replays: 0, executions: 0 };
    for ending in endings {
        for elsewhere in [false, true] {
            let executions = replay(stack, request, gate, ending, elsewhere, each);
            again.replays += each;
            again.executions += executions;
        }
    }
    if asked.is_some() {
        println!(
            "\n{stack:?}, gate {gate}: {again:?} of {}",
            request[..12.min(request.len())].escape_ascii()
        );
    }
    again
}

/// Each of `count` clients has its request executed once, and closes first; then its SYN is replayed. Returns
/// how many more executions that makes.
fn replay(stack: Stack, request: &[u8], gate: bool, ending: Ending, elsewhere: bool, count: usize) -> usize {
    let lab = Lab::builder().host("client").host("server").host("other").build().unwrap();
    for host in ["server", "other"] {
        lab.host(host)
            .set_sysctl("net.ipv4.tcp_fastopen_key", "00000001-00000002-00000003-00000004")
            .unwrap();
    }
    let mut clients: Vec<_> =
        (0..count).map(|index| RawClient::v4(&lab, 1000 + u16::try_from(index).unwrap())).collect();
    let builder = |builder: ListenerBuilder| builder.danger_gate_off(!gate).gate_deadline(deadline());
    let any = IpAddr::from([0; 16]);
    let (server, other) = (lab.host("server"), lab.host("other"));
    if !elsewhere {
        return serve_on(&server, Runtime::CurrentThread, any, builder, async |listener| {
            let serving = stack.serve(listener, gate);
            execute_once(&lab, &serving, &mut clients, request).await;
            replay_each(&lab, &serving, &mut clients, ending, gate).await
        });
    }
    serve_on(&server, Runtime::CurrentThread, any, builder, async |listener| {
        execute_once(&lab, &stack.serve(listener, gate), &mut clients, request).await;
    });
    lab.move_address("server", "other", server.ipv4()).unwrap();
    serve_on(&other, Runtime::CurrentThread, any, builder, async |listener| {
        replay_each(&lab, &stack.serve(listener, gate), &mut clients, ending, gate).await
    })
}

async fn execute_once(lab: &Lab, serving: &Serving, clients: &mut [RawClient<'_>], request: &[u8]) {
    let cookie = RawClient::v4(lab, 1).fetch_cookie();
    for client in &mut *clients {
        client.syn_with_cookie(&cookie, request);
    }
    until(|| serving.stats().outcomes.syn_data == clients.len() as u64).await;
    for client in &mut *clients {
        client.ack(b"");
    }
    until(|| serving.runs() == clients.len()).await;
    rest(lab).await;
    for client in &mut *clients {
        client.fin();
    }
    until(|| serving.stats().limits.in_flight == 0).await;
    rest(lab).await;
    for client in &mut *clients {
        client.ack(b"");
    }
    rest(lab).await;
}

async fn replay_each(
    lab: &Lab,
    serving: &Serving,
    clients: &mut [RawClient<'_>],
    ending: Ending,
    gate: bool,
) -> usize {
    let mut executions = 0;
    // Few at a time: without the gate, of 125 that were reset before they were accepted hyper reads 60.
    let at_once = if ending == Ending::Silence { clients.len() } else { 25 };
    for some in clients.chunks_mut(at_once) {
        executions += replay_some(lab, serving, some, ending, gate).await;
    }
    executions
}

async fn replay_some(
    lab: &Lab,
    serving: &Serving,
    clients: &mut [RawClient<'_>],
    ending: Ending,
    gate: bool,
) -> usize {
    let (runs, before) = (serving.runs(), serving.stats());
    for client in &mut *clients {
        client.replay();
    }
    if ending == Ending::ResetBeforeAccept {
        // The server has this thread only.
        lab.tap().wait_quiet(Duration::from_millis(20), support::PATIENCE);
        clients.iter_mut().for_each(|client| _ = client.rst());
        lab.tap().wait_quiet(Duration::from_millis(20), support::PATIENCE);
    }
    let taken = || serving.stats().outcomes.syn_data - before.outcomes.syn_data;
    until(|| taken() == clients.len() as u64).await;
    rest(lab).await;
    match ending {
        Ending::ResetBeforeAccept => {}
        Ending::ResetAfterAccept => clients.iter_mut().for_each(|client| _ = client.rst()),
        Ending::Silence => sleep(serving.silence).await,
        Ending::ChallengeAckThenReset => {
            clients.iter_mut().for_each(|client| _ = client.forged_ack(b""));
            rest(lab).await;
            clients.iter_mut().for_each(|client| _ = client.rst());
        }
    }
    if ending != Ending::Silence {
        until(|| serving.stats().limits.in_flight == 0).await;
    }
    rest(lab).await;
    let (runs, after) = (serving.runs() - runs, serving.stats());
    if gate && runs == 0 && (ending != Ending::Silence || serving.silence > serving.deadline) {
        let disproven = |stats: ListenerStats| stats.gate.reset + stats.gate.deadline;
        assert_eq!(disproven(after) - disproven(before), clients.len() as u64, "{after:?}");
    }
    runs
}

/// Lets the server work until the wire is at rest.
async fn rest(lab: &Lab) {
    for _ in 0..3 {
        sleep(Duration::from_millis(10)).await;
        lab.tap().wait_quiet(Duration::from_millis(2), support::PATIENCE);
    }
}

async fn until(mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < support::PATIENCE / 2, "that does not happen");
        sleep(Duration::from_millis(1)).await;
    }
}

struct Serving {
    runs: Runs,
    stats: Box<dyn Fn() -> ListenerStats>,
    deadline: Duration,
    /// How long a client is silent that never answers.
    silence: Duration,
}

type Runs = Arc<AtomicUsize>;

impl Serving {
    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    fn stats(&self) -> ListenerStats {
        (self.stats)()
    }
}

impl Stack {
    const ALL: [Self; 5] = [Self::Hyper, Self::Axum, Self::Tonic, Self::Server, Self::ServerHttp2];

    fn writes_first(self) -> bool {
        matches!(self, Self::Tonic | Self::ServerHttp2)
    }

    /// A POST as this framework takes it.
    fn post(self) -> Vec<u8> {
        match self {
            Self::Hyper | Self::Axum | Self::Server => POST.to_vec(),
            Self::Tonic | Self::ServerHttp2 => support::grpc_call(),
        }
    }

    fn get(self, path: &str) -> Vec<u8> {
        match self {
            Self::Hyper | Self::Axum | Self::Server => {
                format!("GET {path} HTTP/1.1\r\nHost: server\r\n\r\n").into_bytes()
            }
            Self::Tonic | Self::ServerHttp2 => support::http2_get(path),
        }
    }

    fn serve(self, listener: TfoListener, gate: bool) -> Serving {
        let (runs, stats) = (Runs::default(), listener.stats());
        let counted = Arc::clone(&runs);
        match self {
            Self::Hyper => tokio::spawn(hyper(listener, counted)),
            Self::Axum => tokio::spawn(axum(listener, counted)),
            Self::Tonic => tokio::spawn(tonic(listener, counted)),
            Self::Server | Self::ServerHttp2 => return server(listener, runs, gate),
        };
        let stats = Box::new(move || stats.snapshot());
        Serving { runs, stats, deadline: deadline(), silence: deadline() * 3 / 2 }
    }
}

/// In this runtime, whose only thread polls connections where it accepts them.
fn server(listener: TfoListener, runs: Runs, gate: bool) -> Serving {
    // Its gate waits as long at least. Only the long run waits so long, too.
    let long = Duration::from_secs(10);
    let silence = if is_long() { long * 5 / 4 } else { 3 * deadline() };
    let server = Server::builder()
        .listener(TfoListener::builder().danger_gate_off(!gate))
        .limits(Limits::default().header_timeout(Duration::from_secs(1)))
        .from_std(vec![listener.danger_into_std_ungated().unwrap()])
        .unwrap();
    let handle = server.handle();
    tokio::spawn(server.serve_tower(app(Arc::clone(&runs))));
    Serving { runs, stats: Box::new(move || handle.listener_stats()), deadline: long, silence }
}

async fn hyper(listener: TfoListener, runs: Runs) {
    loop {
        let (stream, _) = listener.accept_next().await;
        let runs = Arc::clone(&runs);
        let layer = ProofLayer::every_request().of_connection(stream.info());
        tokio::spawn(async move {
            let free = service_fn(move |request: Request<Incoming>| {
                runs.fetch_add(1, Ordering::SeqCst);
                async move {
                    let _ = request.into_body().collect().await;
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("done\n")))
                }
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
            let _ =
                auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), both).await;
        });
    }
}

async fn axum(listener: TfoListener, runs: Runs) {
    let app = app(runs).into_make_service_with_connect_info::<AcceptInfo>();
    let _ = axum::serve(listener, app).await;
}

fn app(runs: Runs) -> Router {
    async fn done(State(runs): State<Runs>, _body: Bytes) -> &'static str {
        runs.fetch_add(1, Ordering::SeqCst);
        "done\n"
    }
    Router::new()
        .route("/", get(done).post(done))
        .route("/counter.Counter/Count", post(done))
        .route("/change", get(done).layer(ProofLayer::every_request()))
        .with_state(runs)
}

async fn tonic(listener: TfoListener, runs: Runs) {
    let server = tonic::transport::Server::builder();
    let free = Counter(runs);
    let both = Routes { proven: ProofLayer::every_request().wrap(free.clone()), free };
    let _ = server.serve_with_incoming(both, listener.into_incoming()).await;
}

type Call = Request<tonic::body::Body>;
type Answer = Response<tonic::body::Body>;

/// A gRPC service that counts its calls.
#[derive(Clone)]
struct Counter(Runs);

impl tower_service::Service<Call> for Counter {
    type Response = Answer;
    type Error = Infallible;
    type Future = Ready<Result<Answer, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Call) -> Self::Future {
        assert!(request.extensions().get::<AcceptInfo>().is_some(), "tonic's connect info");
        self.0.fetch_add(1, Ordering::SeqCst);
        ready(Ok(tonic::Status::ok("").into_http()))
    }
}

/// The same, with and without a proof.
#[derive(Clone)]
struct Routes {
    free: Counter,
    proven: ProofService<Counter>,
}

impl tower_service::Service<Call> for Routes {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Call) -> Self::Future {
        match request.uri().path() {
            "/change" => Box::pin(tower_service::Service::call(&mut self.proven, request)),
            _ => Box::pin(tower_service::Service::call(&mut self.free, request)),
        }
    }
}
