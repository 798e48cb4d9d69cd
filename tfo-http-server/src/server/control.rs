//! Who may tell a running server to end, and what all of it has in common.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};

use super::limits::Limits;
use super::progress::RequestRecord;
use super::stats::{Counts, ServerStats};
use crate::{ListenerStats, StatsHandle};

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Serving,
    /// No connection is accepted any more, requests under way are answered.
    Draining,
    /// The deadline has passed: what is still there is closed.
    Ending,
}

/// What all workers have in common.
pub(super) struct Control {
    stage: watch::Sender<Stage>,
    /// As `stage` says, for those who ask often.
    draining: AtomicBool,
    /// Connections that are open.
    open: AtomicU64,
    counts: Vec<Arc<Counts>>,
    listeners: Mutex<Vec<StatsHandle>>,
    /// The listening sockets, for a successor; gone when the end has begun.
    #[cfg(unix)]
    sockets: Mutex<Vec<std::net::TcpListener>>,
}

/// What a worker's connections have in common.
pub(super) struct Context {
    pub(super) limits: Limits,
    pub(super) keep_alive: bool,
    pub(super) half_close: bool,
    pub(super) end_in_last_packet: bool,
    pub(super) counts: Arc<Counts>,
    pub(super) control: Arc<Control>,
    pub(super) on_request: Option<OnRequest>,
}

pub(super) type OnRequest = Arc<dyn Fn(&RequestRecord) + Send + Sync>;

impl Control {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            stage: watch::Sender::new(Stage::Serving),
            draining: AtomicBool::new(false),
            open: AtomicU64::new(0),
            counts: (0..workers).map(|_| Arc::default()).collect(),
            listeners: Mutex::default(),
            #[cfg(unix)]
            sockets: Mutex::default(),
        }
    }

    pub(super) fn counts(&self, worker: usize) -> Arc<Counts> {
        Arc::clone(&self.counts[worker])
    }

    pub(super) fn add_listener(&self, stats: StatsHandle) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(stats);
    }

    pub(super) fn listeners(&self) -> Vec<StatsHandle> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[cfg(unix)]
    pub(super) fn sockets(&self) -> std::sync::MutexGuard<'_, Vec<std::net::TcpListener>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Goes on to a later stage; there is no way back.
    pub(super) fn advance(&self, to: Stage) {
        self.draining.store(true, Relaxed);
        // Held any longer they would keep the queue open in which nobody is served.
        #[cfg(unix)]
        self.sockets().clear();
        self.stage.send_if_modified(|stage| {
            let later = to > *stage;
            *stage = to.max(*stage);
            later
        });
    }

    pub(super) fn watch(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    pub(super) fn open(&self) -> u64 {
        self.open.load(Relaxed)
    }
}

/// Ready when `stage` is there, or a later one.
pub(super) async fn reached(watch: &mut watch::Receiver<Stage>, stage: Stage) {
    // The sender lives as long as the server; without it the end has come, too.
    let _ = watch.wait_for(|now| *now >= stage).await;
}

/// Where a listener's connections have their places.
pub(super) struct Places {
    control: Arc<Control>,
    /// Dropped when nothing is left that has a part of it.
    _alive: mpsc::Sender<()>,
}

/// One open connection among those that are counted, and waited for at the end.
pub(super) struct Place(Arc<Places>);

impl Places {
    pub(super) fn new(control: &Arc<Control>, alive: mpsc::Sender<()>) -> Arc<Self> {
        Arc::new(Self { control: Arc::clone(control), _alive: alive })
    }
}

impl Place {
    /// One of `most` places; none if they are all taken.
    pub(super) fn take(places: &Arc<Places>, most: u64) -> Option<Self> {
        let open = &places.control.open;
        if open.fetch_add(1, Relaxed) < most {
            return Some(Self(Arc::clone(places)));
        }
        open.fetch_sub(1, Relaxed);
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.control.open.fetch_sub(1, Relaxed);
    }
}

/// A handle on a [`Server`](super::Server): tells it to end, and what it has done. Cheap to clone.
#[derive(Clone)]
pub struct ServerHandle(pub(super) Arc<Control>);

impl ServerHandle {
    /// Begins the graceful end, once: [`Server::serve`](super::Server::serve) returns when it is over.
    ///
    /// Connections that wait to be accepted are accepted, and the listeners closed. Requests under way
    /// are answered, those that the gate withholds among them. Connections without a request are closed;
    /// those that have not brought their first get 3 s for it. What is left at the
    /// [deadline](super::ServerBuilder::shutdown_deadline) is cut off.
    pub fn shutdown(&self) {
        self.0.advance(Stage::Draining);
    }

    /// Whether the end has begun.
    pub fn is_shutting_down(&self) -> bool {
        self.0.is_draining()
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> u64 {
        self.0.open()
    }

    /// The server's counters as they are now.
    pub fn stats(&self) -> ServerStats {
        let mut stats = ServerStats::default();
        self.0.counts.iter().for_each(|counts| counts.add_to(&mut stats));
        stats
    }

    /// Its listeners' counters as they are now, all workers together.
    pub fn listener_stats(&self) -> ListenerStats {
        let mut sum = ListenerStats::default();
        for stats in self.0.listeners() {
            sum.add(&stats.snapshot());
        }
        sum
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle")
            .field("open_connections", &self.open_connections())
            .finish_non_exhaustive()
    }
}

impl ListenerStats {
    fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.outcomes.plain += other.outcomes.plain;
        self.outcomes.cookie_only += other.outcomes.cookie_only;
        self.outcomes.syn_data += other.outcomes.syn_data;
        self.outcomes.unknown += other.outcomes.unknown;
        self.gate.gated += other.gate.gated;
        self.gate.withheld += other.gate.withheld;
        self.gate.reset += other.gate.reset;
        self.gate.deadline += other.gate.deadline;
        self.gate.closed += other.gate.closed;
        self.proofs.count += other.proofs.count;
        self.proofs.total += other.proofs.total;
        self.proofs.longest = self.proofs.longest.max(other.proofs.longest);
        self.limits.in_flight += other.limits.in_flight;
        self.limits.shed += other.limits.shed;
        self.limits.no_resources += other.limits.no_resources;
        self.limits.proxy_refused += other.limits.proxy_refused;
    }
}
