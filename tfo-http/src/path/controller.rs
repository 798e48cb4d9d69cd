//! One path: what is known of it, what may be sent on it now, and what an event makes of it. Pure:
//! no clock, no lock, no store.

use std::time::{Duration, Instant};

use super::table::{self, Phase, Step};
use super::{Advice, Event};

/// Strikes in a row that put an Unknown path off: they cost a dropper's victim one hedge delay, and
/// 20 ms because the second is in doubt.
const UNKNOWN_LIMIT: u8 = 2;
/// Strikes in a row that put a Capable path off: at 5 % loss once in 160,000 rides. Simulated with 20
/// seeds, at least 281 of 300 requests ride then (262 if SYN-ACKs are lost too); at 1 %, 293 and 288.
/// Fewer would cost rides; and four cost no more than one hedge delay and three times 20 ms, because
/// the other three are in doubt.
const CAPABLE_LIMIT: u8 = 4;
/// Strikes among the last 16 results that put a path off: what drops every second SYN never strikes
/// twice in a row.
const HISTORY_LIMIT: u32 = 8;
/// The same while the path has gone off before and is not [`WELL`] since.
const RELAPSE_LIMIT: u32 = 4;
/// Results without going off after which the back-off begins at its beginning again. More than the
/// 16 in which [`HISTORY_LIMIT`] shows.
pub(super) const WELL: u8 = 32;
/// Rides in a row that were not acked before they rest. One is normal: the server has a new key.
const WASTED_LIMIT: u8 = 3;

const FAILED_FIRST: Duration = Duration::from_secs(2);
const FAILED_MOST: Duration = Duration::from_secs(24 * 60 * 60);
const RESTING_FIRST: Duration = Duration::from_secs(60);
const RESTING_MOST: Duration = Duration::from_secs(60 * 60);

/// How long Capable lasts without a ride.
const CAPABLE_FOR: Duration = Duration::from_secs(60 * 60);
/// How long a back-off is remembered after its end.
const REMEMBERED_FOR: Duration = FAILED_MOST;

/// The longest round trip that is believed: beyond it, the kernel has repeated the SYN.
const RTT_MOST: Duration = Duration::from_secs(1);

/// How long something that was asked for and not reported holds its place.
pub(super) const LEASE: Duration = Duration::from_secs(10);

/// What is known of one path: what a [`PathStore`](super::PathStore) keeps. A plain value; it means
/// nothing in another process (there are instants in it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub(super) state: State,
    /// Strikes in a row, in the order in which the SYNs went.
    pub(super) silent: u8,
    /// Rides in a row that were not acked.
    pub(super) wasted: u8,
    /// The last 16 results since the path went off, newest lowest: 1 for a strike.
    pub(super) history: u16,
    /// Results since the path went off; stops at [`WELL`].
    pub(super) results: u8,
    /// How often it went off since it was last well: which back-off is next.
    pub(super) failures: u8,
    /// How often it rested since its last ride.
    pub(super) rests: u8,
    /// The handshake's round-trip time, in microseconds; 0: not known.
    pub(super) rtt: u32,
    /// The last report.
    pub(super) touched: Instant,
    /// Memory-wide order of writing: what is older than a change of network or a `forget`.
    pub(super) written: u64,
    /// Put by the memory since a file was written.
    pub(super) unsaved: bool,
    /// Negative events of older tickets count no more: they are of the time before a back-off.
    fence: u64,
    /// The newest ticket whose SYN with data was answered: silence of an older one is loss.
    answered: u64,
    /// Tickets that hold one of the places that a path under doubt has, and from which ticket on.
    places: u8,
    places_from: u64,
    places_until: Option<Instant>,
}

/// Each phase owns what exists in it. The ways between them: [`table::next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Unknown,
    Capable {
        ridden: Instant,
    },
    Failed {
        until: Instant,
    },
    Resting {
        until: Instant,
    },
    /// `canary`: the ticket that is under way, and until when it is waited for. `gently`: it was
    /// resting, so the option does no harm.
    Probing {
        canary: Option<(u64, Instant)>,
        gently: bool,
    },
}

/// What a path says to who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    /// Ride, the path is Capable.
    Proven,
    /// Ride, if the budget has a token. It holds one of the path's places, or is its canary.
    Trial,
    /// The option, no data.
    AskCookie,
    /// Not even the option.
    Avoid,
}

impl Record {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: State::Unknown,
            silent: 0,
            wasted: 0,
            history: 0,
            results: 0,
            failures: 0,
            rests: 0,
            rtt: 0,
            touched: now,
            written: 0,
            unsaved: false,
            fence: 0,
            answered: 0,
            places: 0,
            places_from: 0,
            places_until: None,
        }
    }

    /// Whether it says no more than no record would.
    pub(super) fn is_blank(&self) -> bool {
        matches!(self.state, State::Unknown)
            && (self.silent, self.wasted, self.failures, self.rtt) == (0, 0, 0, 0)
    }

    /// Whether the next ride is more likely than others to be lost: the last one was, or the path
    /// was off.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.silent > 0 || matches!(self.state, State::Failed { .. } | State::Probing { gently: false, .. })
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        (self.rtt > 0).then(|| Duration::from_micros(self.rtt.into()))
    }

    /// A handshake has taken so long. The estimate rises at once and falls by eighths: one that is
    /// too small makes needless hedges, one that is too large makes a late one.
    pub(super) fn measured(&mut self, rtt: Duration, now: Instant) {
        let sample = u32::try_from(rtt.min(RTT_MOST).as_micros()).unwrap_or(u32::MAX).max(1);
        self.rtt = sample.max(self.rtt - (self.rtt.saturating_sub(sample)) / 8);
        self.touched = now;
    }

    pub(super) fn is_capable(&self) -> bool {
        matches!(self.state, State::Capable { .. })
    }

    /// What time alone changes. `strange`: it was learnt on another network.
    pub(super) fn settle(&mut self, now: Instant, strange: bool) {
        // Time went back: nothing lasts longer than from now on.
        self.touched = self.touched.min(now);
        match &mut self.state {
            State::Failed { until } => *until = (*until).min(after(now, back_off(self.failures))),
            State::Resting { until } => *until = (*until).min(after(now, rest(self.rests))),
            State::Capable { ridden } => *ridden = (*ridden).min(now),
            State::Probing { canary, .. } => {
                *canary = canary.filter(|(_, until)| in_time(*until, now));
            }
            State::Unknown => {}
        }
        if !self.places_until.is_some_and(|until| in_time(until, now)) {
            (self.places, self.places_until) = (0, None);
        }
        if strange || now.saturating_duration_since(self.touched) >= CAPABLE_FOR {
            self.rtt = 0;
        }
        let expired = match self.state {
            State::Unknown => false,
            State::Capable { ridden } => strange || now.saturating_duration_since(ridden) >= CAPABLE_FOR,
            State::Failed { until } | State::Resting { until } => {
                now.saturating_duration_since(until) >= REMEMBERED_FOR
            }
            State::Probing { .. } => now.saturating_duration_since(self.touched) >= REMEMBERED_FOR * 2,
        };
        if expired {
            let fence = self.fence;
            self.go(Step::Expired, State::Unknown);
            let Self { rtt, touched, written, unsaved, .. } = *self;
            *self = Self { rtt, touched, written, fence, unsaved, ..Self::new(now) };
        }
    }

    /// What may be sent now; changes nothing. To be settled before.
    pub(super) fn advise(&self, now: Instant) -> Grant {
        match self.state {
            State::Capable { .. } if self.silent == 0 => Grant::Proven,
            State::Unknown | State::Capable { .. }
                if self.places < self.limit().saturating_sub(self.silent) =>
            {
                Grant::Trial
            }
            State::Failed { until } | State::Resting { until } if now >= until => Grant::Trial,
            State::Probing { canary: None, .. } => Grant::Trial,
            State::Resting { .. } | State::Probing { gently: true, .. } => Grant::AskCookie,
            State::Unknown | State::Capable { .. } | State::Failed { .. } | State::Probing { .. } => {
                Grant::Avoid
            }
        }
    }

    /// What the option without data is good for where there is no token.
    pub(super) fn without_token(&self) -> Advice {
        match self.state {
            State::Failed { .. } | State::Probing { gently: false, .. } => Advice::Avoid,
            _ => Advice::AskCookie,
        }
    }

    /// Gives a [`Grant::Trial`] to the ticket.
    pub(super) fn reserve(&mut self, serial: u64, now: Instant) {
        let lease = after(now, LEASE);
        let gently = match self.state {
            State::Unknown | State::Capable { .. } => {
                self.places += 1;
                self.places_until = Some(lease);
                return;
            }
            State::Failed { .. } => false,
            State::Resting { .. } => true,
            State::Probing { gently, .. } => gently,
        };
        if !matches!(self.state, State::Probing { .. }) {
            self.go(Step::Due, State::Probing { canary: None, gently });
        }
        self.state = State::Probing { canary: Some((serial, lease)), gently };
        self.fence = serial;
        self.touched = now;
    }

    /// Takes back what [`Record::reserve`] gave.
    pub(super) fn release(&mut self, serial: u64) {
        if let State::Probing { canary: Some((canary, _)), gently } = self.state
            && canary == serial
        {
            self.go(Step::Vacated, State::Probing { canary: None, gently });
        } else if serial >= self.places_from {
            self.places = self.places.saturating_sub(1);
        }
    }

    /// What became of a ticket, whose reservation was not released yet. Whether a path that was
    /// Capable has gone off by it. `next` is the number of the next ticket.
    pub(super) fn learn(&mut self, event: Event, ticket: Learnt, now: Instant, next: u64) -> bool {
        let probing = matches!(self.state, State::Probing { .. });
        let canary =
            matches!(self.state, State::Probing { canary: Some((serial, _)), .. } if serial == ticket.serial);
        let strike = match event {
            Event::Acked => {
                self.acked(ticket, now);
                return false;
            }
            Event::NotAcked => {
                self.not_acked(ticket, canary, now, next);
                return false;
            }
            Event::Answered | Event::Unused => {
                if ticket.reserved {
                    self.release(ticket.serial);
                }
                // It was only late: what it was counted for was none.
                if event == Event::Answered && ticket.struck && ticket.serial >= self.fence {
                    self.silent = self.silent.saturating_sub(1);
                    self.history &= !1;
                }
                return false;
            }
            Event::Silent | Event::Abandoned => 1,
            // A whole handshake, or a RST, is no lost packet.
            Event::Refused | Event::SilentAfterHandshake => UNKNOWN_LIMIT,
        };
        if ticket.reserved && !canary {
            self.release(ticket.serial);
        }
        let counts = ticket.serial >= self.fence && !matches!(self.state, State::Failed { .. });
        if !counts || probing && !canary {
            return false;
        }
        self.touched = now;
        self.result(true);
        // A younger ride has arrived: this one was lost on its own. If it has arrived itself, its answer
        // has not.
        if ticket.serial >= self.answered {
            if self.is_capable() && self.silent == 0 {
                // From here on the places are counted.
                (self.places, self.places_from) = (0, next);
            }
            self.silent = self.silent.saturating_add(strike);
        }
        if !canary && self.silent < self.limit() && self.history.count_ones() < self.history_limit() {
            self.go(Step::Strike, self.state);
            return false;
        }
        let was_capable = self.is_capable();
        // Who gave up has not proven that it is as bad as before.
        if !(canary && event == Event::Abandoned) {
            self.failures = self.failures.saturating_add(1);
        }
        self.go(Step::Out, State::Failed { until: after(now, back_off(self.failures)) });
        self.off(next);
        was_capable && event != Event::Abandoned
    }

    fn acked(&mut self, ticket: Learnt, now: Instant) {
        if ticket.reserved {
            self.release(ticket.serial);
        }
        self.answered = self.answered.max(ticket.serial);
        (self.silent, self.wasted, self.rests, self.touched) = (0, 0, 0, now);
        self.go(Step::Acked, State::Capable { ridden: now });
        self.result(false);
        if self.results >= WELL {
            self.failures = 0;
        }
    }

    fn not_acked(&mut self, ticket: Learnt, canary: bool, now: Instant, next: u64) {
        if ticket.reserved && !canary {
            self.release(ticket.serial);
        }
        let old = ticket.serial < self.fence;
        if old || matches!(self.state, State::Failed { .. } | State::Resting { .. }) {
            return;
        }
        if matches!(self.state, State::Probing { .. }) && !canary {
            return;
        }
        // It was answered, so the path lets SYNs with data through.
        self.answered = self.answered.max(ticket.serial);
        self.silent = 0;
        self.wasted = self.wasted.saturating_add(1);
        self.touched = now;
        self.result(false);
        if !canary && self.wasted < WASTED_LIMIT {
            self.go(Step::Wasted, self.state);
            return;
        }
        self.rests = self.rests.saturating_add(1);
        self.go(Step::WastedOut, State::Resting { until: after(now, rest(self.rests)) });
        self.off(next);
    }

    /// A back-off begins: what is under way counts no more, unless it arrives.
    fn off(&mut self, next: u64) {
        self.fence = next;
        (self.silent, self.wasted, self.history, self.results) = (0, 0, 0, 0);
        (self.places, self.places_from, self.places_until) = (0, next, None);
    }

    fn result(&mut self, strike: bool) {
        self.history = self.history << 1 | u16::from(strike);
        self.results = (self.results + 1).min(WELL);
    }

    /// Strikes in a row that are too many.
    fn limit(&self) -> u8 {
        match self.state {
            State::Capable { .. } => CAPABLE_LIMIT,
            _ => UNKNOWN_LIMIT,
        }
    }

    /// Strikes among the last 16 results that are too many.
    fn history_limit(&self) -> u32 {
        if self.failures > 0 { RELAPSE_LIMIT } else { HISTORY_LIMIT }
    }

    /// How long the back-off is that the path is in, or had last.
    pub(super) fn back_off(&self) -> Duration {
        match self.state {
            State::Resting { .. } | State::Probing { gently: true, .. } => rest(self.rests),
            State::Unknown | State::Capable { .. } | State::Failed { .. } | State::Probing { .. } => {
                back_off(self.failures)
            }
        }
    }

    fn go(&mut self, step: Step, to: State) {
        debug_assert_eq!(
            table::next(self.state.phase(), step),
            Some(to.phase()),
            "{:?} {step:?}",
            self.state
        );
        self.state = to;
    }
}

/// What a record has to know of a ticket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Learnt {
    pub(super) serial: u64,
    pub(super) reserved: bool,
    /// It has been a strike before.
    pub(super) struck: bool,
}

impl State {
    pub(super) fn phase(&self) -> Phase {
        match self {
            Self::Unknown => Phase::Unknown,
            Self::Capable { .. } => Phase::Capable,
            Self::Failed { .. } => Phase::Failed,
            Self::Resting { .. } => Phase::Resting,
            Self::Probing { .. } => Phase::Probing,
        }
    }
}

/// 2 s, doubling to a day; nothing before the first failure.
fn back_off(failures: u8) -> Duration {
    doubled(FAILED_FIRST, failures, FAILED_MOST)
}

/// A minute, doubling to an hour: nothing was lost but bytes.
fn rest(rests: u8) -> Duration {
    doubled(RESTING_FIRST, rests, RESTING_MOST)
}

fn doubled(first: Duration, times: u8, most: Duration) -> Duration {
    let Some(doublings) = times.checked_sub(1) else { return Duration::ZERO };
    first.saturating_mul(1 << doublings.min(30)).min(most)
}

/// At the end of time there is no back-off.
pub(super) fn after(now: Instant, duration: Duration) -> Instant {
    now.checked_add(duration).unwrap_or(now)
}

/// Whether a lease that ends at `until` still runs; not if time went back behind its beginning.
pub(super) fn in_time(until: Instant, now: Instant) -> bool {
    now < until && until.duration_since(now) <= LEASE
}

#[cfg(test)]
mod tests;
