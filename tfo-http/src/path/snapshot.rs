use std::time::{Duration, Instant};

use super::controller::{Record, State};
use super::key::Path;

/// What a [`PathMemory`](super::PathMemory) knew at one time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PathMemorySnapshot {
    /// Every path that is kept, in no order. Empty if the store cannot list.
    pub paths: Vec<PathSnapshot>,
    /// How long all paths are avoided yet, because several prefixes failed together.
    pub paused_for: Option<Duration>,
    /// Rides that may be risked at once on paths that are not Capable.
    pub tokens: u32,
}

/// What is known of one path.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PathSnapshot {
    /// Which.
    pub path: Path,
    /// How it stands.
    pub state: PathState,
    /// For [`PathState::Failed`] and [`PathState::Resting`]: how long until the next try.
    pub retry_in: Option<Duration>,
    /// How long that back-off is as a whole, or the last one was.
    pub back_off: Duration,
    /// Strikes in a row: 2 put an Unknown path off, 4 a Capable one.
    pub silent_in_a_row: u32,
    /// Rides in a row that were not acked: 3 make a path rest.
    pub not_acked_in_a_row: u32,
    /// How long a handshake takes.
    pub rtt: Option<Duration>,
}

/// How a path stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PathState {
    /// Nothing is known, or no longer.
    Unknown,
    /// Rides arrive.
    Capable,
    /// Rides are lost: avoided.
    Failed,
    /// Rides are not taken: only cookies are asked for.
    Resting,
    /// A back-off is over; at most one ride at a time.
    Probing,
}

impl PathSnapshot {
    /// Of a settled record.
    pub(super) fn new(path: Path, record: &Record, now: Instant) -> Self {
        let (state, retry_at) = match record.state {
            State::Unknown => (PathState::Unknown, None),
            State::Capable { .. } => (PathState::Capable, None),
            State::Failed { until } => (PathState::Failed, Some(until)),
            State::Resting { until } => (PathState::Resting, Some(until)),
            State::Probing { .. } => (PathState::Probing, None),
        };
        Self {
            path,
            state,
            retry_in: retry_at.map(|at| at.saturating_duration_since(now)),
            back_off: record.back_off(),
            silent_in_a_row: record.silent.into(),
            not_acked_in_a_row: record.wasted.into(),
            rtt: record.rtt(),
        }
    }
}
