//! How a first flight is delivered when the path to the server may be bad: which attempts are made,
//! when, and which of them becomes the connection. Decisions only: no socket, no clock.
//!
//! An *attempt* is one socket. The first one's SYN may carry the first flight. Beside it there may
//! be one plain attempt to the same address (the hedge), and one to each further address
//! (RFC 8305). What has been sent once is sent again only if it is [repeatable](Plan::repeatable).
//!
//! Where the path is known to carry answers, or the flight must not be repeated, a missing answer is no
//! reason to do anything before the [peer's kernel](Probe) has been asked: the server may be slow.
//!
//! What may follow what, over all plans: `Taken` and `NotTaken` are the first attempt's handshake,
//! `Joined` is that of another.
//!
#![doc = concat!("```mermaid\n", include_str!("stages.mmd"), "```")]
//!
#![doc = concat!("```text\n", include_str!("stages.txt"), "```")]

use std::time::{Duration, Instant};

/// What is known when the first SYN leaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// What the first SYN was.
    pub(super) first: Cargo,
    /// Whether this side may send the flight a second time: the server may process it twice.
    pub(super) repeatable: bool,
    /// Whether the path has carried a ride and its answer before: then the guard only asks.
    pub(super) capable: bool,
    /// When an answer to the first SYN is due.
    pub(super) due: Duration,
    /// How long a SYN may stay unanswered before a plain attempt joins it; `None`: never.
    pub(super) hedge: Option<Duration>,
    /// How long after the SYN a taken first flight may stay unanswered on a path that is not capable.
    pub(super) guard: Option<Duration>,
    /// Where the flight is not sent again when the guard's time is over, because the server may only be
    /// slow or must not get it twice: when the peer's kernel is asked instead.
    pub(super) probe: Option<Probe>,
    /// How long an address may keep quiet before the next is tried beside it.
    pub(super) next_address: Option<Duration>,
    /// How long all of it may take until a handshake is complete.
    pub(super) patience: Option<Duration>,
    /// Further addresses.
    pub(super) others: usize,
}

/// A question to the peer's kernel, which answers whatever the server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    /// How long after the handshake a taken first flight may stay unanswered before it is asked.
    pub(super) after: Duration,
    /// How long it has to answer.
    pub(super) within: Duration,
    /// After this time it is asked again.
    pub(super) interval: Duration,
    /// How often it is asked at most.
    pub(super) times: u8,
}

/// What an attempt's SYN was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cargo {
    /// It carried a cookie and the flight's first bytes.
    Data,
    /// It carried the option, but no data.
    Option,
    /// An ordinary SYN.
    Nothing,
}

/// The name of an attempt: 0 is the first, the others count up as they are begun.
pub(super) type Id = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The handshake of an attempt is complete. `taken`: the SYN's data was acked.
    Established { id: Id, taken: bool },
    /// The first byte of an answer, or its end, can be read.
    Answered { id: Id },
    /// An attempt is over.
    Failed { id: Id },
    /// The peer's kernel has been heard on the first attempt since it was asked.
    ProbeAnswered,
    /// It has not.
    ProbeUnanswered,
    /// The application has more to send than the flight, without which no answer may come.
    Continued,
    /// Time has passed.
    Timer,
}

/// What is to be done. One event may ask for several: ask again with [`Event::Timer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing, until the next event or [`Delivery::wake_at`].
    Wait,
    /// Nothing: but the first SYN's answer is overdue, which says something of its path.
    Silent,
    /// Begin a plain attempt to the first address; it gets the next free [`Id`].
    Hedge,
    /// Begin an attempt to the next address; it gets the next free [`Id`].
    NextAddress,
    /// Ask the peer's kernel on the first attempt whether it is there, again and again.
    Probe,
    /// See whether it has answered: [`Event::ProbeAnswered`] or [`Event::ProbeUnanswered`].
    SeeProbe,
    /// Send the whole flight on this attempt, and wait for an answer on all that have it.
    Send(Id),
    /// This attempt is the connection; all others are to be parked. Whatever of the flight it does
    /// not have yet follows.
    Win(Id),
    /// Nothing is left to try: tell the error. `maybe_executed`: the flight was in a SYN, must not be
    /// sent again, and nobody knows what became of it.
    GiveUp { maybe_executed: bool },
    /// Nothing answered within the patience; or there is a connection and the path swallows what comes
    /// back, and the flight must not be sent again.
    TimeOut,
}

/// Where the delivery stands, as the stream's states name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// One SYN is out.
    SynSent,
    /// The flight was taken in the SYN; the path still has to prove that it carries the answer.
    Guarded,
    /// Several attempts are under way.
    Racing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The SYN is out.
    Connecting,
    /// Established, and kept without the flight: two others have it.
    Ready,
    /// Established, and it has the flight.
    Carrying,
    Over,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    cargo: Cargo,
    state: State,
}

/// The deliverer of one first flight.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    plan: Plan,
    begun: Instant,
    first: Attempt,
    /// Nothing is allocated while there is one attempt.
    more: Vec<Attempt>,
    others: usize,
    hedged: bool,
    /// The flight's bytes have left this host.
    sent: bool,
    due_at: Option<Instant>,
    hedge_at: Option<Instant>,
    guard_at: Option<Instant>,
    /// When the peer's kernel is to be asked.
    probe_at: Option<Instant>,
    /// When it is to have answered.
    verdict_at: Option<Instant>,
    /// How often it has not.
    unheard: u8,
    next_address_at: Option<Instant>,
    give_up_at: Option<Instant>,
}

impl Delivery {
    /// The first SYN has left.
    pub(super) fn begin(plan: Plan, now: Instant) -> Self {
        let after = |delay: Option<Duration>| delay.and_then(|delay| now.checked_add(delay));
        let data = plan.first == Cargo::Data;
        // Sent bytes that must not be sent again bind the delivery to the first attempt.
        let free = !data || plan.repeatable;
        Self {
            begun: now,
            first: Attempt { cargo: plan.first, state: State::Connecting },
            more: Vec::new(),
            others: plan.others,
            hedged: false,
            sent: data,
            due_at: after(Some(plan.due)).filter(|_| plan.first != Cargo::Nothing),
            hedge_at: after(plan.hedge).filter(|_| free && plan.first != Cargo::Nothing),
            guard_at: after(plan.guard).filter(|_| free && data && !plan.capable),
            probe_at: None,
            verdict_at: None,
            unheard: 0,
            next_address_at: after(plan.next_address).filter(|_| free && plan.others > 0),
            give_up_at: after(plan.patience),
            plan,
        }
    }

    /// What is to be done about an event.
    pub(super) fn on(&mut self, event: Event, now: Instant) -> Action {
        match event {
            Event::Established { id, taken } => self.established(id, taken, now),
            Event::Answered { id } if self.state(id) == State::Carrying => Action::Win(id),
            Event::Answered { .. } => Action::Wait,
            Event::Failed { id } => self.failed(id),
            Event::ProbeAnswered if self.is_watched() => Action::Win(0),
            Event::ProbeUnanswered if self.is_watched() => self.unheard(now),
            Event::ProbeAnswered | Event::ProbeUnanswered => Action::Wait,
            Event::Continued => self.last_carrying().map_or(Action::Wait, Action::Win),
            Event::Timer => self.timer(now),
        }
    }

    /// When [`Event::Timer`] is due.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let mut first = self.due_at;
        for other in [
            self.hedge_at,
            self.guard_at,
            self.probe_at,
            self.verdict_at,
            self.next_address_at,
            self.give_up_at,
        ] {
            if let Some(at) = other
                && first.is_none_or(|first| at < first)
            {
                first = other;
            }
        }
        first
    }

    /// Where it stands.
    pub(super) fn stage(&self) -> Stage {
        let mut alive = self.attempts().filter(|attempt| attempt.state != State::Over);
        match (alive.next(), alive.next()) {
            (_, Some(_)) => Stage::Racing,
            (Some(Attempt { state: State::Carrying, .. }), None) => Stage::Guarded,
            _ => Stage::SynSent,
        }
    }

    /// Whether the first SYN carried bytes of the flight.
    pub(super) fn carries_data(&self) -> bool {
        self.first.cargo == Cargo::Data
    }

    /// Whether the first attempt has the flight, and before anything else is done about a missing answer,
    /// the peer's kernel is asked.
    pub(super) fn is_watched(&self) -> bool {
        self.first.state == State::Carrying && (self.probe_at.is_some() || self.verdict_at.is_some())
    }

    /// Whether the time in which a taken flight is to be answered is over.
    pub(super) fn is_guard_over(&self, now: Instant) -> bool {
        self.plan.guard.and_then(|guard| self.begun.checked_add(guard)).is_some_and(|at| at <= now)
    }

    /// Whether a plain attempt has joined, or replaced, the first.
    pub(super) fn hedged(&self) -> bool {
        self.hedged
    }

    /// Whether bytes have left this host that must not be sent again.
    pub(super) fn must_not_repeat(&self) -> bool {
        self.sent && !self.plan.repeatable
    }

    fn established(&mut self, id: Id, taken: bool, now: Instant) -> Action {
        if self.state(id) != State::Connecting {
            return Action::Wait;
        }
        (self.give_up_at, self.next_address_at) = (None, None);
        if id != 0 || self.first.cargo != Cargo::Data {
            self.set(id, State::Ready);
            return self.employ(id);
        }
        (self.due_at, self.hedge_at) = (None, None);
        let rivals = self.carrying() > 0;
        // What was not taken has been sent again behind the handshake, by the kernel: an ordinary
        // connection. What was taken may have fallen into a hole behind it. On a path that is known, or
        // where nobody else could deliver it, the peer is asked before anything is done about that.
        let hedged = self.more.iter().any(|other| other.state != State::Over);
        let asks = self.plan.capable || self.must_not_repeat();
        let guarded = taken && !asks && (self.guard_at.is_some() || hedged);
        if taken && asks && !rivals {
            self.probe_at = self.plan.probe.and_then(|probe| now.checked_add(probe.after));
        }
        self.set(id, State::Carrying);
        if rivals || guarded || self.probe_at.is_some() { Action::Wait } else { Action::Win(id) }
    }

    /// What an established attempt without the flight is good for.
    fn employ(&mut self, id: Id) -> Action {
        let first_may_have_it = self.first.cargo == Cargo::Data && self.first.state != State::Over;
        let elsewhere = self.more.iter().filter(|other| other.state == State::Carrying).count();
        // A first flight that was taken is given the guard's time to be answered.
        let guarded = self.first.state == State::Carrying && self.guard_at.is_some() || self.is_watched();
        match (first_may_have_it, elsewhere) {
            (false, 0) => Action::Win(id),
            (true, 0) if guarded => Action::Wait,
            // From now on two have it, and the first to answer wins.
            (true, 0) => {
                self.guard_at = None;
                self.set(id, State::Carrying);
                Action::Send(id)
            }
            // Not a third.
            _ => Action::Wait,
        }
    }

    fn failed(&mut self, id: Id) -> Action {
        if self.state(id) == State::Over {
            return Action::Wait;
        }
        // What is reset behind its handshake would have been with plain TCP.
        let established = self.state(id) == State::Carrying;
        self.set(id, State::Over);
        if id == 0 {
            (self.due_at, self.probe_at, self.verdict_at) = (None, None, None);
        }
        if let Some(ready) = self.ready() {
            return self.employ(ready);
        }
        if self.attempts().any(|attempt| attempt.state != State::Over) {
            return Action::Wait;
        }
        if established || self.must_not_repeat() {
            return Action::GiveUp { maybe_executed: !established };
        }
        // A box on the way may have refused what a plain SYN can do.
        if !self.hedged && self.first.cargo != Cargo::Nothing {
            return self.hedge();
        }
        if self.others > 0 {
            return self.next_address(None);
        }
        Action::GiveUp { maybe_executed: false }
    }

    /// A probe was not answered. One may be lost; but if all are, what came with the SYN-ACK is all that
    /// comes, and the path swallows the rest.
    fn unheard(&mut self, now: Instant) -> Action {
        self.unheard += 1;
        let again = self.plan.probe.filter(|probe| self.unheard < probe.times);
        if let Some(again) = again.and_then(|probe| now.checked_add(probe.interval)) {
            self.verdict_at = Some(again);
            return Action::Wait;
        }
        (self.probe_at, self.verdict_at) = (None, None);
        if self.must_not_repeat() { Action::TimeOut } else { self.relieve() }
    }

    /// Somebody else is to deliver the flight too.
    fn relieve(&mut self) -> Action {
        match self.ready() {
            Some(ready) => self.employ(ready),
            None if self.hedged => Action::Wait,
            None => self.hedge(),
        }
    }

    fn timer(&mut self, now: Instant) -> Action {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.give_up_at) {
            return Action::TimeOut;
        }
        if due(self.hedge_at) {
            self.hedge_at = None;
            if !self.hedged && self.first.state == State::Connecting {
                return self.hedge();
            }
        }
        if due(self.due_at) {
            self.due_at = None;
            return Action::Silent;
        }
        if due(self.guard_at) {
            self.guard_at = None;
            if self.first.state == State::Carrying {
                return self.relieve();
            }
        }
        if due(self.probe_at) {
            self.probe_at = None;
            self.verdict_at = self.plan.probe.and_then(|probe| now.checked_add(probe.within));
            return Action::Probe;
        }
        if due(self.verdict_at) {
            return Action::SeeProbe;
        }
        if due(self.next_address_at) {
            return self.next_address(Some(now));
        }
        Action::Wait
    }

    /// The attempt that got the flight last: that before it was in doubt.
    fn last_carrying(&self) -> Option<Id> {
        (0..=self.more.len()).rev().find(|id| self.state(*id) == State::Carrying)
    }

    /// An attempt that waits to be employed.
    fn ready(&self) -> Option<Id> {
        (0..=self.more.len()).find(|id| self.state(*id) == State::Ready)
    }

    fn hedge(&mut self) -> Action {
        self.hedged = true;
        self.hedge_at = None;
        self.more.push(Attempt { cargo: Cargo::Nothing, state: State::Connecting });
        Action::Hedge
    }

    fn next_address(&mut self, now: Option<Instant>) -> Action {
        self.others -= 1;
        self.next_address_at = now
            .filter(|_| self.others > 0)
            .and_then(|now| self.plan.next_address.and_then(|delay| now.checked_add(delay)));
        self.more.push(Attempt { cargo: Cargo::Nothing, state: State::Connecting });
        Action::NextAddress
    }

    fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        std::iter::once(&self.first).chain(&self.more)
    }

    fn carrying(&self) -> usize {
        self.attempts().filter(|attempt| attempt.state == State::Carrying).count()
    }

    fn state(&self, id: Id) -> State {
        self.attempts().nth(id).map_or(State::Over, |attempt| attempt.state)
    }

    fn set(&mut self, id: Id, state: State) {
        let attempt = match id {
            0 => Some(&mut self.first),
            _ => self.more.get_mut(id - 1),
        };
        if let Some(attempt) = attempt {
            attempt.state = state;
        }
        self.sent |= state == State::Carrying;
    }
}

#[cfg(test)]
mod tests;
