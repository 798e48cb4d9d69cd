//! What a listener has done, counted.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::keys::{KeyStatus, Keys};
use crate::outcome::{AcceptOutcome, Disproven};
use crate::settle::Unsettled;

/// A live handle on a listener's counters: cheap to clone, and still good when the listener was moved
/// into a framework. From [`TfoListener::stats`](crate::TfoListener::stats).
#[derive(Clone)]
pub struct StatsHandle {
    counts: Arc<Counts>,
    gate_deadline: Duration,
    keys: Option<Keys>,
}

impl StatsHandle {
    pub(crate) fn new(counts: Arc<Counts>, gate_deadline: Duration, keys: Option<Keys>) -> Self {
        Self { counts, gate_deadline, keys }
    }

    /// The counters as they are now. Each is exact; together they may be some connections apart.
    pub fn snapshot(&self) -> ListenerStats {
        let Counts { accepted, plain, cookie_only, syn_data, unknown, gated, withheld, in_flight, .. } =
            &*self.counts;
        let get = |count: &AtomicU64| count.load(Relaxed);
        ListenerStats {
            accepted: get(accepted),
            outcomes: OutcomeStats {
                plain: get(plain),
                cookie_only: get(cookie_only),
                syn_data: get(syn_data),
                unknown: get(unknown),
            },
            gate: GateStats {
                gated: get(gated),
                withheld: get(withheld),
                reset: get(&self.counts.reset),
                deadline: get(&self.counts.deadline),
                closed: get(&self.counts.closed),
            },
            proofs: ProofStats {
                count: get(&self.counts.proofs),
                total: Duration::from_nanos(get(&self.counts.proof_nanos)),
                longest: Duration::from_nanos(get(&self.counts.proof_longest)),
            },
            limits: LimitStats {
                in_flight: get(in_flight),
                shed: get(&self.counts.shed),
                no_resources: get(&self.counts.no_resources),
                proxy_refused: get(&self.counts.proxy_refused),
            },
            keys: self.keys.as_ref().map(Keys::status),
        }
    }

    /// Waits until nothing is withheld any more of the connections that are accepted now: each of them
    /// is proven and was read from, or is over. Ready at once if nothing is, and when so long has passed
    /// as the gate's [deadline](crate::ListenerBuilder::gate_deadline) is.
    ///
    /// For a graceful shutdown. A request that is withheld has not been seen by the framework, which
    /// takes its connection for an idle one and closes it: the client sees a reset. So wait between the
    /// signal to stop and passing it on. The listener goes on meanwhile; those who come later are not
    /// waited for, unless somebody else waits already. At most it takes the gate's deadline, 10 s by
    /// default, for what is never proven.
    ///
    /// With axum; tonic's `serve_with_incoming_shutdown` takes the same:
    ///
    /// ```no_run
    /// # #[cfg(feature = "axum")] mod example {
    /// # use axum::Router;
    /// # use tfo_http_server::TfoListener;
    /// # async fn example(app: Router, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = TfoListener::bind("0.0.0.0:8080".parse()?)?;
    /// let stats = listener.stats();
    /// let stopped = async move {
    ///     stop.await;
    ///     stats.settled().await;
    /// };
    /// axum::serve(listener, app).with_graceful_shutdown(stopped).await?;
    /// # Ok(())
    /// # }
    /// # }
    /// ```
    ///
    /// With hyper, await it in front of `hyper_util::server::graceful::GracefulShutdown::shutdown`, or
    /// of a connection's `graceful_shutdown`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: another call begins anew, with the connections that are accepted then.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with time, if something is withheld.
    pub async fn settled(&self) {
        self.counts.unsettled.wait(self.gate_deadline).await;
    }
}

impl fmt::Debug for StatsHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.snapshot().fmt(f)
    }
}

/// What a listener has done since it was made; [`StatsHandle::snapshot`].
///
/// What the kernel refuses before the listener sees it (a full queue) is in the namespace's
/// counters: [`tfo_core::Counters::listen_overflow`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerStats {
    /// Connections that were handed to the application.
    pub accepted: u64,
    /// What became of TCP Fast Open on them.
    pub outcomes: OutcomeStats,
    /// What the gate did.
    pub gate: GateStats,
    /// How long proofs took.
    pub proofs: ProofStats,
    /// What limits did.
    pub limits: LimitStats,
    /// The keys that cookies are made with, by their ids, those of all listeners that share them; `None`
    /// where TCP Fast Open is off or not to be had.
    pub keys: Option<KeyStatus>,
}

/// Accepted connections by [`AcceptOutcome`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutcomeStats {
    /// An ordinary handshake.
    pub plain: u64,
    /// A cookie without data.
    pub cookie_only: u64,
    /// Data came in the SYN.
    pub syn_data: u64,
    /// The kernel did not say.
    pub unknown: u64,
}

/// What the gate did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GateStats {
    /// Connections of which something was withheld.
    pub gated: u64,
    /// Those of which something is withheld now.
    pub withheld: u64,
    /// Connections that were found [`Disproven::Reset`]: replays and forgeries, and clients that
    /// gave up.
    pub reset: u64,
    /// Connections that were found [`Disproven::Deadline`].
    pub deadline: u64,
    /// Gated connections that the application closed before the proof.
    pub closed: u64,
}

/// Proofs that somebody waited for: the gate, or [`AcceptInfo::proven`](crate::AcceptInfo::proven).
/// Nobody asks whether a connection is proven that has nothing to hide from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProofStats {
    /// How many.
    pub count: u64,
    /// From the accept until the proof was noticed, all together.
    pub total: Duration,
    /// The longest.
    pub longest: Duration,
}

impl ProofStats {
    /// The mean, if there was any.
    pub fn mean(&self) -> Option<Duration> {
        (self.count > 0).then(|| self.total.div_f64(self.count as f64))
    }
}

/// What limits did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitStats {
    /// Connections that are open now, gated ones among them.
    pub in_flight: u64,
    /// Connections that were reset because of
    /// [`max_connections`](crate::ListenerBuilder::max_connections).
    pub shed: u64,
    /// How often there was no descriptor or no memory for a connection (`EMFILE`, `ENFILE`, `ENOMEM`).
    pub no_resources: u64,
    /// Connections from a trusted proxy that were reset because of their PROXY header: malformed, late,
    /// or too many at once without one.
    pub proxy_refused: u64,
}

/// The counters themselves.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    accepted: AtomicU64,
    plain: AtomicU64,
    cookie_only: AtomicU64,
    syn_data: AtomicU64,
    unknown: AtomicU64,
    gated: AtomicU64,
    withheld: AtomicU64,
    reset: AtomicU64,
    deadline: AtomicU64,
    closed: AtomicU64,
    proofs: AtomicU64,
    proof_nanos: AtomicU64,
    proof_longest: AtomicU64,
    in_flight: AtomicU64,
    shed: AtomicU64,
    no_resources: AtomicU64,
    proxy_refused: AtomicU64,
    pub(crate) unsettled: Unsettled,
}

impl Counts {
    /// Takes one of `most` places, or counts a connection that must be shed.
    pub(crate) fn enter(&self, most: u64) -> bool {
        let entered = self.in_flight.fetch_add(1, Relaxed) < most;
        if !entered {
            self.in_flight.fetch_sub(1, Relaxed);
            self.shed.fetch_add(1, Relaxed);
        }
        entered
    }

    pub(crate) fn leave(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub(crate) fn on_accepted(&self, outcome: AcceptOutcome) {
        self.accepted.fetch_add(1, Relaxed);
        let of_its_kind = match outcome {
            AcceptOutcome::Plain(_) => &self.plain,
            AcceptOutcome::CookieOnly => &self.cookie_only,
            AcceptOutcome::SynData { .. } => &self.syn_data,
            AcceptOutcome::Unknown => &self.unknown,
        };
        of_its_kind.fetch_add(1, Relaxed);
    }

    pub(crate) fn on_gated(&self) {
        self.gated.fetch_add(1, Relaxed);
        self.withheld.fetch_add(1, Relaxed);
    }

    pub(crate) fn on_ungated(&self) {
        self.withheld.fetch_sub(1, Relaxed);
    }

    pub(crate) fn on_proven(&self, after: Duration) {
        let nanos = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        self.proofs.fetch_add(1, Relaxed);
        self.proof_nanos.fetch_add(nanos, Relaxed);
        self.proof_longest.fetch_max(nanos, Relaxed);
    }

    pub(crate) fn on_disproven(&self, why: Disproven) {
        let cause = match why {
            Disproven::Reset => &self.reset,
            Disproven::Deadline => &self.deadline,
            Disproven::Closed => &self.closed,
        };
        cause.fetch_add(1, Relaxed);
    }

    pub(crate) fn on_no_resources(&self) {
        self.no_resources.fetch_add(1, Relaxed);
    }

    #[cfg(feature = "proxy")]
    pub(crate) fn on_proxy_refused(&self) {
        self.proxy_refused.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_proofs() {
        assert_eq!(ProofStats::default().mean(), None);
        let counts = Counts::default();
        for millis in [10, 30] {
            counts.on_proven(Duration::from_millis(millis));
        }
        let proofs = StatsHandle::new(Arc::new(counts), Duration::ZERO, None).snapshot().proofs;
        assert_eq!(proofs.mean(), Some(Duration::from_millis(20)));
        assert_eq!(proofs.longest, Duration::from_millis(30));
    }
}
