//! How a first flight is delivered when the path to the server may be bad: which attempts are made,
//! when, and which of them becomes the connection. Decisions only: no socket, no clock.
//!
//! An *attempt* is one socket. The first one's SYN may carry the first flight. Beside it there may
//! be one plain attempt to the same address (the hedge), and one to each further address
//! (RFC 8305). What has been sent once is sent again only if it is [repeatable](Plan::repeatable).

use std::time::{Duration, Instant};

/// What is known when the first SYN leaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// What the first SYN was.
    pub(super) first: Cargo,
    /// Whether this side may send the flight a second time: the server may process it twice.
    pub(super) repeatable: bool,
    /// Whether the path has carried a ride and its answer before: then no guard is needed.
    pub(super) capable: bool,
    /// How long a SYN may stay unanswered before a plain attempt joins it; `None`: never.
    pub(super) hedge: Option<Duration>,
    /// How long after the SYN a taken first flight may stay unanswered on a path that is not capable.
    pub(super) guard: Option<Duration>,
    /// How long an address may keep quiet before the next is tried beside it.
    pub(super) next_address: Option<Duration>,
    /// How long all of it may take until a handshake is complete.
    pub(super) patience: Option<Duration>,
    /// Further addresses.
    pub(super) others: usize,
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
    /// Time has passed.
    Timer,
}

/// What is to be done. One event may ask for several: ask again with [`Event::Timer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing, until the next event or [`Delivery::wake_at`].
    Wait,
    /// Begin a plain attempt to the first address; it gets the next free [`Id`].
    Hedge,
    /// Begin an attempt to the next address; it gets the next free [`Id`].
    NextAddress,
    /// Send the whole flight on this attempt, and wait for an answer on all that have it.
    Send(Id),
    /// This attempt is the connection; all others are to be parked. Whatever of the flight it does
    /// not have yet follows.
    Win(Id),
    /// Nothing is left to try: tell the error. `maybe_executed`: the flight was in a SYN, must not be
    /// sent again, and nobody knows what became of it.
    GiveUp { maybe_executed: bool },
    /// Nothing answered within the patience.
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
    first: Attempt,
    /// Nothing is allocated while there is one attempt.
    more: Vec<Attempt>,
    others: usize,
    hedged: bool,
    /// The flight's bytes have left this host.
    sent: bool,
    hedge_at: Option<Instant>,
    guard_at: Option<Instant>,
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
            first: Attempt { cargo: plan.first, state: State::Connecting },
            more: Vec::new(),
            others: plan.others,
            hedged: false,
            sent: data,
            hedge_at: after(plan.hedge).filter(|_| free && plan.first != Cargo::Nothing),
            guard_at: after(plan.guard).filter(|_| free && data && !plan.capable),
            next_address_at: after(plan.next_address).filter(|_| free && plan.others > 0),
            give_up_at: after(plan.patience),
            plan,
        }
    }

    /// What is to be done about an event.
    pub(super) fn on(&mut self, event: Event, now: Instant) -> Action {
        match event {
            Event::Established { id, taken } => self.established(id, taken),
            Event::Answered { id } if self.state(id) == State::Carrying => Action::Win(id),
            Event::Answered { .. } => Action::Wait,
            Event::Failed { id } => self.failed(id),
            Event::Timer => self.timer(now),
        }
    }

    /// When [`Event::Timer`] is due.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        [self.hedge_at, self.guard_at, self.next_address_at, self.give_up_at].into_iter().flatten().min()
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

    /// Whether a plain attempt has joined, or replaced, the first.
    pub(super) fn hedged(&self) -> bool {
        self.hedged
    }

    /// Whether bytes have left this host that must not be sent again.
    pub(super) fn must_not_repeat(&self) -> bool {
        self.sent && !self.plan.repeatable
    }

    fn established(&mut self, id: Id, taken: bool) -> Action {
        if self.state(id) != State::Connecting {
            return Action::Wait;
        }
        (self.give_up_at, self.next_address_at) = (None, None);
        if id != 0 || self.first.cargo != Cargo::Data {
            self.set(id, State::Ready);
            return self.employ(id);
        }
        self.hedge_at = None;
        let rivals = self.carrying() > 0;
        self.set(id, State::Carrying);
        // What was not taken has been sent again behind the handshake, by the kernel: an ordinary
        // connection. What was taken may have fallen into a hole behind it.
        let guarded = taken && self.guard_at.is_some();
        if rivals || guarded { Action::Wait } else { Action::Win(id) }
    }

    /// What an established attempt without the flight is good for.
    fn employ(&mut self, id: Id) -> Action {
        let first_may_have_it = self.first.cargo == Cargo::Data && self.first.state != State::Over;
        let elsewhere = self.more.iter().filter(|other| other.state == State::Carrying).count();
        match (first_may_have_it, elsewhere) {
            (false, 0) => Action::Win(id),
            // From now on two have it, and the first to answer wins.
            (true, 0) => {
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
        if let Some(ready) = (0..=self.more.len()).find(|id| self.state(*id) == State::Ready) {
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
        if due(self.guard_at) {
            self.guard_at = None;
            if !self.hedged && self.first.state == State::Carrying {
                return self.hedge();
            }
        }
        if due(self.next_address_at) {
            return self.next_address(Some(now));
        }
        Action::Wait
    }

    fn hedge(&mut self) -> Action {
        self.hedged = true;
        (self.hedge_at, self.guard_at) = (None, None);
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
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn plan(first: Cargo) -> Plan {
        Plan {
            first,
            repeatable: true,
            capable: false,
            hedge: Some(100 * MS),
            guard: Some(300 * MS),
            next_address: None,
            patience: None,
            others: 0,
        }
    }

    /// A delivery and its clock.
    struct Run {
        delivery: Delivery,
        begun: Instant,
    }

    impl Run {
        fn of(plan: Plan) -> Self {
            let begun = Instant::now();
            Self { delivery: Delivery::begin(plan, begun), begun }
        }

        fn at(&mut self, millis: u32, event: Event) -> Action {
            self.delivery.on(event, self.begun + millis * MS)
        }

        fn wake_at(&self) -> Option<Duration> {
            self.delivery.wake_at().map(|at| at - self.begun)
        }
    }

    fn established(id: Id) -> Event {
        Event::Established { id, taken: true }
    }

    use Event::{Answered, Failed, Timer};

    #[test]
    fn on_a_capable_path_the_syn_ack_is_enough() {
        let mut run = Run::of(Plan { capable: true, ..plan(Cargo::Data) });
        assert_eq!(run.wake_at(), Some(100 * MS));
        assert_eq!(run.at(40, established(0)), Action::Win(0));
    }

    #[test]
    fn on_another_the_first_byte_decides() {
        let mut run = Run::of(plan(Cargo::Data));
        assert_eq!(run.at(40, established(0)), Action::Wait);
        assert_eq!((run.delivery.stage(), run.wake_at()), (Stage::Guarded, Some(300 * MS)));
        assert_eq!(run.at(81, Answered { id: 0 }), Action::Win(0));
        // Data that was not taken has gone behind an ordinary handshake.
        let mut run = Run::of(plan(Cargo::Data));
        assert_eq!(run.at(40, Event::Established { id: 0, taken: false }), Action::Win(0));
    }

    #[test]
    fn silence_is_hedged_once_and_the_first_answer_wins() {
        let mut run = Run::of(plan(Cargo::Data));
        assert_eq!(run.at(99, Timer), Action::Wait);
        assert_eq!(run.at(100, Timer), Action::Hedge);
        assert_eq!((run.delivery.stage(), run.delivery.hedged()), (Stage::Racing, true));
        assert_eq!(run.at(140, established(1)), Action::Send(1));
        assert_eq!(run.at(150, established(0)), Action::Wait);
        assert_eq!(run.at(160, Answered { id: 1 }), Action::Win(1));
        assert_eq!(run.wake_at(), None, "never a second hedge");
    }

    #[test]
    fn a_late_syn_ack_before_the_hedge_is_there_wins() {
        let mut run = Run::of(Plan { capable: true, ..plan(Cargo::Data) });
        assert_eq!(run.at(100, Timer), Action::Hedge);
        assert_eq!(run.at(120, established(0)), Action::Win(0));
    }

    #[test]
    fn a_hole_behind_the_handshake_is_left_by_a_plain_attempt() {
        let mut run = Run::of(plan(Cargo::Data));
        assert_eq!(run.at(40, established(0)), Action::Wait);
        assert_eq!(run.at(300, Timer), Action::Hedge);
        assert_eq!(run.at(340, established(1)), Action::Send(1));
        assert_eq!(run.at(380, Answered { id: 1 }), Action::Win(1));
    }

    #[test]
    fn a_syn_without_data_is_hedged_whatever_the_method_and_the_first_handshake_wins() {
        for first in [0, 1] {
            let mut run = Run::of(Plan { repeatable: false, ..plan(Cargo::Option) });
            assert_eq!(run.at(100, Timer), Action::Hedge);
            assert_eq!(run.at(140, established(first)), Action::Win(first));
        }
    }

    #[test]
    fn what_must_not_be_sent_twice_is_not() {
        let mut run =
            Run::of(Plan { repeatable: false, others: 1, next_address: Some(MS), ..plan(Cargo::Data) });
        assert_eq!(run.wake_at(), None);
        assert_eq!(run.at(1000, Timer), Action::Wait);
        assert_eq!(run.at(1000, Failed { id: 0 }), Action::GiveUp { maybe_executed: true });
    }

    #[test]
    fn a_refusal_is_tried_plain_and_then_elsewhere() {
        for cargo in [Cargo::Data, Cargo::Option] {
            let mut run = Run::of(Plan { others: 1, ..plan(cargo) });
            assert_eq!(run.at(20, Failed { id: 0 }), Action::Hedge);
            assert_eq!(run.at(40, Failed { id: 1 }), Action::NextAddress);
            assert_eq!(run.at(60, Failed { id: 2 }), Action::GiveUp { maybe_executed: false });
            let mut run = Run::of(plan(cargo));
            assert_eq!(run.at(20, Failed { id: 0 }), Action::Hedge);
            assert_eq!(run.at(40, established(1)), Action::Win(1));
        }
    }

    #[test]
    fn a_reset_behind_the_handshake_is_told() {
        let mut run = Run::of(plan(Cargo::Data));
        assert_eq!(run.at(40, established(0)), Action::Wait);
        assert_eq!(run.at(80, Failed { id: 0 }), Action::GiveUp { maybe_executed: false });
    }

    #[test]
    fn silent_addresses_are_joined_by_the_next() {
        let mut run = Run::of(Plan { others: 2, next_address: Some(250 * MS), ..plan(Cargo::Data) });
        assert_eq!(run.at(250, Timer), Action::Hedge);
        assert_eq!(run.at(250, Timer), Action::NextAddress);
        assert_eq!(run.wake_at(), Some(500 * MS));
        assert_eq!(run.at(500, Timer), Action::NextAddress);
        assert_eq!(run.at(540, established(3)), Action::Send(3));
        assert_eq!(run.at(541, established(2)), Action::Wait, "not a third");
        assert_eq!(run.at(550, Failed { id: 3 }), Action::Send(2));
        assert_eq!(run.at(560, Answered { id: 2 }), Action::Win(2));
    }

    #[test]
    fn patience_ends_with_the_first_handshake() {
        let mut run = Run::of(Plan { patience: Some(50 * MS), ..plan(Cargo::Data) });
        assert_eq!(run.at(50, Timer), Action::TimeOut);
        let mut run = Run::of(Plan { patience: Some(50 * MS), ..plan(Cargo::Data) });
        assert_eq!(run.at(40, established(0)), Action::Wait);
        assert_eq!(run.wake_at(), Some(300 * MS));
    }

    mod sequences {
        use proptest::prelude::*;

        use super::*;

        fn plans() -> impl Strategy<Value = Plan> {
            let delay = || prop::option::of((0_u32..400).prop_map(|millis| millis * MS));
            let cargo = prop_oneof![Just(Cargo::Data), Just(Cargo::Option), Just(Cargo::Nothing)];
            (cargo, any::<bool>(), any::<bool>(), delay(), delay(), delay(), delay(), 0_usize..4).prop_map(
                |(first, repeatable, capable, hedge, guard, next_address, patience, others)| Plan {
                    first,
                    repeatable,
                    capable,
                    hedge,
                    guard,
                    next_address,
                    patience,
                    others,
                },
            )
        }

        fn events() -> impl Strategy<Value = Vec<(u32, Event)>> {
            let event = (0_usize..6, any::<bool>()).prop_flat_map(|(id, taken)| {
                prop_oneof![
                    3 => Just(Event::Established { id, taken }),
                    1 => Just(Answered { id }),
                    2 => Just(Failed { id }),
                    4 => Just(Timer),
                ]
            });
            prop::collection::vec((0_u32..200, event), 0..60)
        }

        proptest! {
            #![proptest_config(ProptestConfig::with_cases(2000))]
            #[test]
            fn every_sequence_keeps_the_promises(plan in plans(), events in events()) {
                let begun = Instant::now();
                let mut delivery = Delivery::begin(plan, begun);
                let (mut attempts, mut hedges, mut now) = (1, 0, begun);
                let mut carriers = usize::from(plan.first == Cargo::Data);
                let mut established = [false; 8];
                for (millis, event) in events {
                    now += millis * MS;
                    // Only what can happen: an attempt that exists, an answer behind a handshake.
                    match event {
                        Event::Established { id, .. } | Answered { id } | Failed { id } if id >= attempts => continue,
                        Answered { id } if !established[id] => continue,
                        Event::Established { id, .. } => established[id] = true,
                        _ => {}
                    }
                    match delivery.on(event, now) {
                        Action::Wait => {}
                        Action::Hedge => { hedges += 1; attempts += 1; }
                        Action::NextAddress => attempts += 1,
                        Action::Send(id) => {
                            prop_assert!(id < attempts && established[id]);
                            prop_assert!(plan.repeatable, "sent twice");
                            carriers += 1;
                        }
                        Action::Win(id) => {
                            prop_assert!(id < attempts && established[id]);
                            let again = id != 0 && plan.first == Cargo::Data;
                            prop_assert!(plan.repeatable || !again, "sent twice");
                            return Ok(());
                        }
                        Action::GiveUp { maybe_executed } => {
                            prop_assert!(!maybe_executed || (carriers > 0 && !plan.repeatable));
                            return Ok(());
                        }
                        Action::TimeOut => {
                            prop_assert!(plan.patience.is_some());
                            return Ok(());
                        }
                    }
                    prop_assert!(hedges <= 1 && attempts <= 2 + plan.others);
                    // Nothing hangs: somebody is alive, or a timer runs.
                    let alive = delivery.attempts().any(|attempt| attempt.state != State::Over);
                    prop_assert!(alive, "nobody is left and nobody was told");
                }
            }
        }
    }
}
