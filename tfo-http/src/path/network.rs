//! The whole network: whether something near this host stops TCP Fast Open on all paths at once.

use std::time::{Duration, Instant};

use super::controller::{LEASE, after, in_time};
use super::key::Prefix;

/// Prefixes that have to fail, none riding, before the network is taken to be at fault.
pub(super) const SEVERAL: usize = 3;
/// Within what time.
const WINDOW: Duration = Duration::from_secs(60);
/// The first pause; it doubles to [`PAUSE_MOST`] while nothing rides.
const PAUSE_FIRST: Duration = Duration::from_secs(60);
const PAUSE_MOST: Duration = Duration::from_secs(60 * 60);

/// Bounded whatever happens: a few prefixes and times.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// Prefixes that were Capable and have failed since the last ride anywhere.
    suspects: Prefixes,
    state: State,
    pauses: u8,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Open,
    Paused {
        until: Instant,
    },
    /// A pause is over: one ride at a time on the whole network, and one per prefix, until one
    /// arrives. `until` is when the prefixes get another turn.
    Trial {
        until: Instant,
        tried: Prefixes,
        canary: Option<(u64, Instant)>,
    },
}

/// The last few distinct prefixes, and when.
#[derive(Debug, Default)]
struct Prefixes([Option<(Prefix, Instant)>; SEVERAL]);

/// Whether rides are possible at all now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Ask the path.
    Open,
    /// Ask the path; if it would ride, that ride is the network's canary.
    Canary,
    /// Not even the option.
    Shut,
}

impl Network {
    pub(super) fn gate(&mut self, prefix: Prefix, now: Instant) -> Gate {
        let length = self.pause_length();
        if let State::Paused { until } = &mut self.state {
            *until = (*until).min(after(now, length));
            if now < *until {
                return Gate::Shut;
            }
            let until = after(now, length);
            self.state = State::Trial { until, tried: Prefixes::default(), canary: None };
        }
        match &mut self.state {
            State::Trial { until, tried, canary } => {
                if now >= *until || *until > after(now, length) {
                    (*until, *tried) = (after(now, length), Prefixes::default());
                }
                *canary = canary.filter(|(_, until)| in_time(*until, now));
                if canary.is_some() || tried.has(prefix) { Gate::Shut } else { Gate::Canary }
            }
            State::Open | State::Paused { .. } => Gate::Open,
        }
    }

    pub(super) fn begin(&mut self, serial: u64, now: Instant) {
        if let State::Trial { canary, .. } = &mut self.state {
            *canary = Some((serial, after(now, LEASE)));
        }
    }

    /// The network's canary is no longer under way.
    pub(super) fn release(&mut self, serial: u64) {
        if let State::Trial { canary, .. } = &mut self.state {
            *canary = canary.filter(|(canary, _)| *canary != serial);
        }
    }

    /// A ride: the veto. The network lets TCP Fast Open through, whatever else it does.
    pub(super) fn rode(&mut self) {
        *self = Self::default();
    }

    /// A path that was Capable has failed.
    pub(super) fn failed(&mut self, prefix: Prefix, now: Instant) {
        if matches!(self.state, State::Open) {
            self.suspects.note(prefix, now);
            if self.suspects.within(now, WINDOW) == SEVERAL {
                self.pause(now);
            }
        }
    }

    /// The network's canary has failed.
    pub(super) fn canary_failed(&mut self, serial: u64, prefix: Prefix, now: Instant) {
        if let State::Trial { tried, canary, .. } = &mut self.state
            && canary.is_some_and(|(canary, _)| canary == serial)
        {
            *canary = None;
            tried.note(prefix, now);
            if tried.0.iter().all(Option::is_some) {
                self.pause(now);
            }
        }
    }

    /// How long there is nothing yet; `None` if there is no pause.
    pub(super) fn paused_for(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Paused { until } => Some(until.saturating_duration_since(now).min(self.pause_length()))
                .filter(|left| !left.is_zero()),
            State::Open | State::Trial { .. } => None,
        }
    }

    fn pause(&mut self, now: Instant) {
        self.pauses = self.pauses.saturating_add(1);
        self.suspects = Prefixes::default();
        self.state = State::Paused { until: after(now, self.pause_length()) };
    }

    fn pause_length(&self) -> Duration {
        let doublings = self.pauses.saturating_sub(1).min(10);
        PAUSE_FIRST.saturating_mul(1 << doublings).min(PAUSE_MOST)
    }
}

impl Prefixes {
    fn has(&self, prefix: Prefix) -> bool {
        self.0.iter().flatten().any(|(one, _)| *one == prefix)
    }

    /// In the place of itself, or of the oldest.
    fn note(&mut self, prefix: Prefix, now: Instant) {
        let own = self.0.iter().position(|one| one.is_some_and(|(one, _)| one == prefix));
        let oldest = (0..SEVERAL).min_by_key(|at| self.0[*at].map(|(_, when)| when));
        if let Some(at) = own.or(oldest) {
            self.0[at] = Some((prefix, now));
        }
    }

    fn within(&self, now: Instant, window: Duration) -> usize {
        self.0.iter().flatten().filter(|(_, when)| now.saturating_duration_since(*when) <= window).count()
    }
}
