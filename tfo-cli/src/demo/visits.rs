//! The visits: a first one, then repeat visits, plain TCP beside TCP Fast Open.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::service::service_fn;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tfo_http::{Hedge, PathMemory, Reason, SynData, SynOutcome};
use tfo_http_server::AcceptInfo;
use tfo_http_server::server::{RequestBody, Server as HttpServer, ServerError};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::network::Network;
use crate::failure::{Code, Failure, chain};
use crate::fetch::{Answer, Fetcher, Settings};

/// More than enough on a network without losses.
const PATIENCE: Duration = Duration::from_secs(60);
/// Who waits longer than this is told how far it has come.
const LONG: Duration = Duration::from_secs(2);

/// How a visit is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mode {
    /// Without TCP Fast Open.
    Plain,
    /// With it.
    Tfo,
}

/// One request on a new connection, and what each observer says of it.
#[derive(Clone, Debug)]
pub(super) struct Visit {
    /// 1 is the first.
    pub(super) number: u32,
    pub(super) mode: Mode,
    pub(super) elapsed: Duration,
    // The client's kernel, by TCP_INFO:
    pub(super) local_addr: Option<SocketAddr>,
    pub(super) outcome: SynOutcome,
    pub(super) reason: Option<Reason>,
    pub(super) syn_data_bytes: usize,
    pub(super) first_flight_bytes: Option<usize>,
    pub(super) handshake_rtt: Option<Duration>,
    pub(super) saved_rtts: u32,
    pub(super) saved: Duration,
    /// The server's kernel: whether data came in the SYN; `None` if it did not see the connection.
    pub(super) server_saw_syn_data: Option<bool>,
    /// The wire, where there is a tap.
    pub(super) packets: Option<Packets>,
}

/// What the packets of one visit show.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Packets {
    pub(super) syn_data_bytes: usize,
    pub(super) syn_data_acked_bytes: usize,
    /// The SYN brought data to the server, and its SYN-ACK acked all of it.
    pub(super) delivered_in_syn: bool,
    /// The answer left before anything but the SYN had arrived.
    pub(super) answered_early: bool,
}

/// A first visit and `repeats` more, each way. A pair of them takes about `pair`.
pub(super) fn run(network: &Network, repeats: u32, pair: Duration) -> Result<Vec<Visit>, Failure> {
    let server = Server::start(network)?;
    let uri: Uri = format!("http://{}/", server.address)
        .parse()
        .map_err(|error| Failure::because(Code::General, "the server's address is no URL", &error))?;
    let progress = progress(repeats, pair);
    let result = network.run_client(|| {
        let runtime = runtime()?;
        let visits = all(uri, repeats, progress.clone());
        runtime.block_on(async {
            tokio::spawn(visits)
                .await
                .unwrap_or_else(|error| Err(Failure::because(Code::General, "the client failed", &error)))
        })
    });
    progress.finish_and_clear();
    let mut visits = result?;
    let seen = server.stop();
    for visit in &mut visits {
        visit.server_saw_syn_data = visit.local_addr.and_then(|address| seen.get(&address)).copied();
    }
    Ok(visits)
}

async fn all(uri: Uri, repeats: u32, progress: ProgressBar) -> Result<Vec<Visit>, Failure> {
    let fetcher = |syn_data| {
        Fetcher::new(Settings {
            syn_data,
            // Nothing is bad about this network: what is late is a busy machine.
            hedge: Hedge::Never,
            memory: PathMemory::new(),
            no_cookie: Vec::new(),
            http2: false,
            reuse: false,
            connect_timeout: PATIENCE,
            max_time: Some(PATIENCE),
        })
    };
    let plain = fetcher(SynData::Never);
    let tfo = fetcher(SynData::SafeMethods);
    let mut visits = Vec::new();
    for number in 1..=repeats + 1 {
        for (mode, fetcher) in [(Mode::Plain, &plain), (Mode::Tfo, &tfo)] {
            let mut request = Request::new(Full::default());
            *request.uri_mut() = uri.clone();
            let answer = fetcher.fetch(request, None).await.map_err(|unanswered| unanswered.failure)?;
            visits.push(Visit::of(number, mode, &answer)?);
            progress.inc(1);
        }
    }
    Ok(visits)
}

impl Visit {
    fn of(number: u32, mode: Mode, answer: &Answer) -> Result<Self, Failure> {
        let Some(info) = &answer.info else {
            return Err(Failure::new(Code::General, "the client's connector tells nothing of a connection"));
        };
        if !answer.status.is_success() {
            let message = format!("the demo's server answered {}", answer.status);
            return Err(Failure::new(Code::General, message));
        }
        Ok(Self {
            number,
            mode,
            elapsed: answer.elapsed,
            local_addr: info.local_addr(),
            outcome: info.outcome(),
            reason: info.reason(),
            syn_data_bytes: info.syn_data_bytes(),
            first_flight_bytes: info.first_flight_bytes(),
            handshake_rtt: info.handshake_rtt(),
            saved_rtts: info.saved_rtts(),
            saved: info.saved(),
            server_saw_syn_data: None,
            packets: None,
        })
    }

    pub(super) fn is_repeat(&self) -> bool {
        self.number > 1
    }
}

/// On standard error, if that is a terminal and it takes long.
fn progress(repeats: u32, pair: Duration) -> ProgressBar {
    let visits = 2 * (u64::from(repeats) + 1);
    if pair * (repeats + 1) < LONG {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{pos} of {len} visits {wide_bar} {eta} left");
    ProgressBar::new(visits).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// What the server's kernel saw: by client address, whether data came in the SYN.
type Seen = HashMap<SocketAddr, bool>;

/// The demo's server, on a thread of its own.
struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
    seen: Arc<Mutex<Seen>>,
}

impl Server {
    fn start(network: &Network) -> Result<Self, Failure> {
        let (tell, told) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let seen = Arc::<Mutex<Seen>>::default();
        let (address, noted) = (network.address(), seen.clone());
        let thread = network.spawn_server(move || match runtime() {
            Ok(runtime) => runtime.block_on(serve(address, &tell, stopped, noted)),
            Err(failure) => drop(tell.send(Err(failure))),
        });
        let address = told
            .recv()
            .unwrap_or_else(|_| Err(Failure::new(Code::General, "the demo's server does not start")))?;
        Ok(Self { address, stop, thread, seen })
    }

    fn stop(self) -> Seen {
        let _ = self.stop.send(());
        let _ = self.thread.join();
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn serve(
    address: SocketAddr,
    tell: &mpsc::Sender<Result<SocketAddr, Failure>>,
    stopped: oneshot::Receiver<()>,
    seen: Arc<Mutex<Seen>>,
) {
    let server = match HttpServer::bind(address) {
        Ok(server) => server.shutdown_on(async { drop(stopped.await) }),
        Err(error) => return drop(tell.send(Err(cannot_listen(&error)))),
    };
    let _ = tell.send(Ok(server.local_addr()));
    let service = service_fn(move |request: Request<RequestBody>| {
        if let Some(info) = request.extensions().get::<AcceptInfo>() {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.insert(info.remote_addr(), info.arrived_in_syn());
        }
        async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello\n"))) }
    });
    // What could go wrong with workers does not without them.
    let _ = server.serve(service).await;
}

fn cannot_listen(error: &ServerError) -> Failure {
    Failure::new(Code::General, chain(error))
}

fn runtime() -> Result<Runtime, Failure> {
    let failed = |error: io::Error| Failure::because(Code::General, "cannot start", &error);
    Builder::new_current_thread().enable_all().build().map_err(failed)
}
