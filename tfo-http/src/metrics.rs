//! What a connector and its clones have done, counted.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::info::{ConnInfo, Facts, SynOutcome};

/// What a connector and its clones have done since it was made, all origins together; from
/// [`TfoConnector::metrics`](crate::TfoConnector::metrics).
///
/// A connection is counted once, when it is known what became of its SYN: at the end of the
/// handshake, when it fails, or when it is dropped before that. An attempt that lost against another
/// of the same connection is not counted. Nor is a name that was not resolved: there was no connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TfoMetrics {
    /// Connections that were dropped before anything was written on them: nothing was sent.
    pub unused: u64,
    /// Connections on which a plain attempt was begun beside the first, or in its place.
    pub hedged: u64,
    /// Round trips that were saved: [`ConnInfo::saved_rtts`] of all.
    pub saved_rtts: u64,
    /// Time that was saved: [`ConnInfo::saved`] of all.
    pub saved: Duration,
    /// Bytes that went out in SYNs, taken by the servers or not. Not counted again where the kernel
    /// sends a SYN again.
    pub syn_data_bytes: u64,
    /// Handshake round trips, from SYN to SYN-ACK, as the kernel measured them.
    pub handshake_rtt: RttHistogram,
    outcomes: [u64; OUTCOMES.len()],
}

impl TfoMetrics {
    /// Connections with this outcome. [`SynOutcome::Unknown`]: given up before the SYN was answered.
    pub fn outcome(&self, outcome: SynOutcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    /// Connections on which something was sent: those of all outcomes.
    pub fn connections(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// Connections whose first flight, or a part of it, was delivered in the SYN.
    pub fn rides(&self) -> u64 {
        self.outcome(SynOutcome::SynDataAcked)
    }
}

/// Round trips in fixed buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RttHistogram {
    /// How many there were.
    pub count: u64,
    /// All together.
    pub sum: Duration,
    counts: [u64; RTT_BOUNDS.len() + 1],
}

impl RttHistogram {
    /// The buckets in order: their upper bound, which belongs to them (`None`: all that are longer
    /// than the last), and how many are in that bucket alone.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        RTT_BOUNDS.into_iter().map(Some).chain([None]).zip(self.counts)
    }

    /// The mean, if there was any.
    pub fn mean(&self) -> Option<Duration> {
        (self.count > 0).then(|| self.sum.div_f64(self.count as f64))
    }
}

const fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// Upper bounds of the buckets, from a rack to a satellite.
const RTT_BOUNDS: [Duration; 14] = [
    micros(100),
    micros(250),
    micros(500),
    micros(1_000),
    micros(2_500),
    micros(5_000),
    micros(10_000),
    micros(25_000),
    micros(50_000),
    micros(100_000),
    micros(250_000),
    micros(500_000),
    micros(1_000_000),
    micros(2_500_000),
];

/// All outcomes, in their order.
const OUTCOMES: [SynOutcome; 11] = [
    SynOutcome::Unknown,
    SynOutcome::Plain,
    SynOutcome::CookieRequested,
    SynOutcome::DataLess,
    SynOutcome::SynDataAcked,
    SynOutcome::SynDataNotAcked,
    SynOutcome::SynRetransmitted,
    SynOutcome::Silent,
    SynOutcome::Refused,
    SynOutcome::Stalled,
    SynOutcome::Failed,
];

/// One of the names under which the `metrics` facade is given the same numbers (feature `metrics`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MetricName {
    /// The name.
    pub name: &'static str,
    /// `counter` or `histogram`.
    pub kind: &'static str,
    /// The unit; `1` for what is only counted.
    pub unit: &'static str,
    /// The labels, comma-separated.
    pub labels: &'static str,
    /// What it counts.
    pub meaning: &'static str,
}

const fn counter(
    name: &'static str,
    unit: &'static str,
    labels: &'static str,
    meaning: &'static str,
) -> MetricName {
    MetricName { name, kind: "counter", unit, labels, meaning }
}

const fn histogram(name: &'static str, meaning: &'static str) -> MetricName {
    MetricName { name, kind: "histogram", unit: "seconds", labels: "", meaning }
}

const CONNECTIONS: MetricName = counter(
    "tfo_client_connections_total",
    "1",
    "outcome",
    "connections on which something was sent, by what became of the SYN (`SynOutcome`)",
);
const UNUSED: MetricName =
    counter("tfo_client_unused_total", "1", "", "connections that were dropped before anything was sent");
const HEDGED: MetricName = counter(
    "tfo_client_hedged_total",
    "1",
    "",
    "connections on which a plain attempt was begun beside the first, or in its place",
);
const SYN_DATA_BYTES: MetricName = counter(
    "tfo_client_syn_data_bytes_total",
    "bytes",
    "",
    "bytes that went out in SYNs, taken by the servers or not",
);
const SAVED_RTTS: MetricName = counter(
    "tfo_client_saved_round_trips_total",
    "1",
    "",
    "round trips that were saved, by the evidence of the kernel",
);
const SAVED: MetricName =
    histogram("tfo_client_saved_seconds", "time that a connection has saved, of those that saved some");
const HANDSHAKE_RTT: MetricName =
    histogram("tfo_client_handshake_rtt_seconds", "time from SYN to SYN-ACK, as the kernel measured it");

/// All names that the `metrics` facade is given. Counters have no label that grows with the number
/// of origins.
pub const METRIC_NAMES: [MetricName; 7] =
    [CONNECTIONS, UNUSED, HEDGED, SYN_DATA_BYTES, SAVED_RTTS, SAVED, HANDSHAKE_RTT];

/// Describes all names to the recorder of the `metrics` facade that is installed: call it once after
/// that was done.
#[cfg(feature = "metrics")]
pub fn describe() {
    for metric in METRIC_NAMES {
        let unit = match metric.unit {
            "bytes" => ::metrics::Unit::Bytes,
            "seconds" => ::metrics::Unit::Seconds,
            _ => ::metrics::Unit::Count,
        };
        match metric.kind {
            "histogram" => ::metrics::describe_histogram!(metric.name, unit, metric.meaning),
            _ => ::metrics::describe_counter!(metric.name, unit, metric.meaning),
        }
    }
}

/// Where a connector, its clones and their connections count.
#[derive(Clone, Default)]
pub(crate) struct Recorder(Arc<Counts>);

#[derive(Default)]
struct Counts {
    outcomes: [AtomicU64; OUTCOMES.len()],
    unused: AtomicU64,
    hedged: AtomicU64,
    saved_rtts: AtomicU64,
    saved_nanos: AtomicU64,
    syn_data_bytes: AtomicU64,
    rtt_nanos: AtomicU64,
    rtts: [AtomicU64; RTT_BOUNDS.len() + 1],
}

impl Recorder {
    /// The counters as they are now. Each is exact; together they may be some connections apart.
    pub(crate) fn snapshot(&self) -> TfoMetrics {
        let get = |count: &AtomicU64| count.load(Relaxed);
        let counts = self.0.rtts.each_ref().map(get);
        TfoMetrics {
            outcomes: self.0.outcomes.each_ref().map(get),
            unused: get(&self.0.unused),
            hedged: get(&self.0.hedged),
            saved_rtts: get(&self.0.saved_rtts),
            saved: Duration::from_nanos(get(&self.0.saved_nanos)),
            syn_data_bytes: get(&self.0.syn_data_bytes),
            handshake_rtt: RttHistogram {
                count: counts.iter().sum(),
                sum: Duration::from_nanos(get(&self.0.rtt_nanos)),
                counts,
            },
        }
    }

    /// A connection that has failed before there was a stream.
    pub(crate) fn failed(&self, info: &ConnInfo) {
        Tally::default().settle(self, info);
    }

    fn count(&self, facts: &Facts) {
        let (saved_rtts, saved) = (facts.saved_rtts(), facts.saved());
        let add = |count: &AtomicU64, number: u64| {
            count.fetch_add(number, Relaxed);
        };
        add(&self.0.outcomes[facts.outcome as usize], 1);
        add(&self.0.hedged, facts.hedged.into());
        add(&self.0.saved_rtts, saved_rtts.into());
        add(&self.0.saved_nanos, nanos(saved));
        add(&self.0.syn_data_bytes, facts.syn_data_bytes as u64);
        if let Some(rtt) = facts.handshake_rtt {
            add(&self.0.rtt_nanos, nanos(rtt));
            add(&self.0.rtts[RTT_BOUNDS.partition_point(|bound| *bound < rtt)], 1);
        }
        #[cfg(feature = "metrics")]
        facade(facts, saved_rtts, saved);
    }
}

#[cfg(feature = "metrics")]
fn facade(facts: &Facts, saved_rtts: u32, saved: Duration) {
    use ::metrics::{counter, histogram};
    counter!(CONNECTIONS.name, "outcome" => facts.outcome.as_str()).increment(1);
    counter!(HEDGED.name).increment(facts.hedged.into());
    counter!(SYN_DATA_BYTES.name).increment(facts.syn_data_bytes as u64);
    counter!(SAVED_RTTS.name).increment(saved_rtts.into());
    if saved_rtts > 0 {
        histogram!(SAVED.name).record(saved);
    }
    if let Some(rtt) = facts.handshake_rtt {
        histogram!(HANDSHAKE_RTT.name).record(rtt);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.snapshot().fmt(f)
    }
}

/// Whether a connection was counted: it is once.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    settled: bool,
}

impl Tally {
    /// The outcome is known.
    pub(crate) fn settle(&mut self, recorder: &Recorder, info: &ConnInfo) {
        if !std::mem::replace(&mut self.settled, true) {
            recorder.count(&info.facts());
            #[cfg(feature = "tracing")]
            event(info);
        }
    }

    /// The connection is over, whether its outcome is known or not.
    pub(crate) fn end(&mut self, recorder: &Recorder, info: &ConnInfo) {
        if self.settled {
            return;
        }
        if info.first_flight_bytes().is_some() {
            return self.settle(recorder, info);
        }
        recorder.0.unused.fetch_add(1, Relaxed);
        #[cfg(feature = "metrics")]
        ::metrics::counter!(UNUSED.name).increment(1);
    }
}

/// Names are those of OpenTelemetry's semantic conventions for networks, where it has some.
#[cfg(feature = "tracing")]
fn event(info: &ConnInfo) {
    let peer = info.remote_addr();
    tracing::event!(
        target: "tfo_http",
        tracing::Level::DEBUG,
        network.transport = "tcp",
        network.peer.address = %peer.ip(),
        network.peer.port = peer.port(),
        tfo.outcome = info.outcome().as_str(),
        tfo.reason = info.reason().map(|reason| reason.as_str()),
        tfo.syn_data.bytes = info.syn_data_bytes(),
        tfo.saved.round_trips = info.saved_rtts(),
        tfo.handshake.rtt_us = info.handshake_rtt().map(|rtt| rtt.as_micros() as u64),
        tfo.hedged = info.hedged(),
        "connection"
    );
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn info(outcome: SynOutcome, rtt: Duration) -> ConnInfo {
        let info = ConnInfo::new(SocketAddr::from(([192, 0, 2, 1], 80)), None);
        info.update(|facts| {
            facts.outcome = outcome;
            facts.first_flight_bytes = Some(100);
            facts.syn_data_bytes = 100;
            facts.handshake_rtt = Some(rtt);
        });
        info
    }

    #[test]
    fn every_outcome_has_a_place_of_its_own() {
        for (place, outcome) in OUTCOMES.into_iter().enumerate() {
            assert_eq!(outcome as usize, place, "{outcome}");
            let recorder = Recorder::default();
            Tally::default().settle(&recorder, &info(outcome, Duration::ZERO));
            let metrics = recorder.snapshot();
            assert_eq!((metrics.outcome(outcome), metrics.connections()), (1, 1));
        }
    }

    #[test]
    fn a_connection_is_counted_once_and_only_evidence_saves() {
        let recorder = Recorder::default();
        let ms = Duration::from_millis;
        for outcome in [SynOutcome::SynDataAcked, SynOutcome::SynDataNotAcked, SynOutcome::Unknown] {
            let (mut tally, info) = (Tally::default(), info(outcome, ms(40)));
            if outcome != SynOutcome::Unknown {
                tally.settle(&recorder, &info);
                tally.settle(&recorder, &info);
            }
            tally.end(&recorder, &info);
        }
        let never_sent = ConnInfo::new(SocketAddr::from(([192, 0, 2, 1], 80)), None);
        Tally::default().end(&recorder, &never_sent);
        let metrics = recorder.clone().snapshot();
        assert_eq!((metrics.connections(), metrics.rides(), metrics.unused), (3, 1, 1));
        assert_eq!((metrics.saved_rtts, metrics.saved), (1, ms(40)));
        assert_eq!((metrics.syn_data_bytes, metrics.hedged), (300, 0));
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let recorder = Recorder::default();
        let ms = Duration::from_millis;
        for rtt in [ms(25), ms(25) + Duration::from_nanos(1), ms(9000), Duration::ZERO] {
            Tally::default().settle(&recorder, &info(SynOutcome::Plain, rtt));
        }
        let rtts = recorder.snapshot().handshake_rtt;
        let used: Vec<_> = rtts.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(used, [(Some(micros(100)), 1), (Some(ms(25)), 1), (Some(ms(50)), 1), (None, 1)]);
        assert_eq!((rtts.count, rtts.mean().map(|mean| mean > ms(2000))), (4, Some(true)));
        assert_eq!(RttHistogram::default().mean(), None);
        assert!(RTT_BOUNDS.is_sorted());
    }
}
