//! What a server has done, counted: a worker each, so that they do not share a cache line.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::StatusCode;

/// What a [`Server`](super::Server) has done since it was made: [`ServerHandle::stats`](super::ServerHandle::stats).
/// All workers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Connections that spoke HTTP/1.
    pub http1: u64,
    /// Connections that spoke HTTP/2.
    pub http2: u64,
    /// Answers by the first digit of their status: `statuses[0]` is 1xx. Without those that were
    /// [refused](Self::refused), and without those that hyper gives to what is no HTTP.
    pub statuses: [u64; 5],
    /// Connections that were answered without the reactor, from the accept to the close.
    pub at_once: u64,
    /// What was refused.
    pub refused: RefusedStats,
}

/// What limits have refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefusedStats {
    /// Connections that were answered with 503, because there were too many.
    pub connections: u64,
    /// Heads that were too large, and were answered with 431.
    pub header_size: u64,
    /// What was no HTTP, and was answered with 400.
    pub malformed: u64,
    /// Heads that came too slowly.
    pub header_timeout: u64,
    /// Connections that were closed because nothing came.
    pub idle_timeout: u64,
    /// Bodies that were too large.
    pub body_size: u64,
    /// Bodies that came too slowly.
    pub body_rate: u64,
    /// Answers, or what a connection had left of them, that were not read.
    pub write_timeout: u64,
}

/// The counters of one worker.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Counts {
    pub(super) http1: AtomicU64,
    pub(super) http2: AtomicU64,
    statuses: [AtomicU64; 5],
    pub(super) at_once: AtomicU64,
    pub(super) connections: AtomicU64,
    pub(super) header_size: AtomicU64,
    pub(super) malformed: AtomicU64,
    pub(super) header_timeout: AtomicU64,
    pub(super) idle_timeout: AtomicU64,
    body_size: AtomicU64,
    body_rate: AtomicU64,
    pub(super) write_timeout: AtomicU64,
}

/// Counts one.
pub(super) fn one(count: &AtomicU64) {
    count.fetch_add(1, Relaxed);
}

impl Counts {
    pub(super) fn on_status(&self, status: StatusCode) {
        if let Some(count) = self.statuses.get(usize::from(status.as_u16() / 100).wrapping_sub(1)) {
            one(count);
        }
    }

    pub(super) fn on_body(&self, too_large: bool) {
        one(if too_large { &self.body_size } else { &self.body_rate });
    }

    pub(super) fn add_to(&self, stats: &mut ServerStats) {
        let get = |count: &AtomicU64| count.load(Relaxed);
        stats.http1 += get(&self.http1);
        stats.http2 += get(&self.http2);
        for (sum, count) in stats.statuses.iter_mut().zip(&self.statuses) {
            *sum += get(count);
        }
        stats.at_once += get(&self.at_once);
        let refused = &mut stats.refused;
        refused.connections += get(&self.connections);
        refused.header_size += get(&self.header_size);
        refused.malformed += get(&self.malformed);
        refused.header_timeout += get(&self.header_timeout);
        refused.idle_timeout += get(&self.idle_timeout);
        refused.body_size += get(&self.body_size);
        refused.body_rate += get(&self.body_rate);
        refused.write_timeout += get(&self.write_timeout);
    }
}
