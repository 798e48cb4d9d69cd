//! Whatever happens in whatever order and at whatever time: the promises hold, and it ends.

use proptest::prelude::*;

use super::*;

fn plans() -> impl Strategy<Value = Plan> {
    let delay = || prop::option::of((0_u32..400).prop_map(|millis| millis * MS));
    let cargo = prop_oneof![3 => Just(Cargo::Data), 1 => Just(Cargo::Option), 1 => Just(Cargo::Nothing)];
    let flags = any::<(bool, bool)>();
    let probe = (0_u32..400, 0_u32..400, 0_u32..400, 0_u8..5).prop_map(|(after, within, interval, times)| {
        Probe { after: after * MS, within: within * MS, interval: interval * MS, times }
    });
    (cargo, flags, 0_u32..400, delay(), (delay(), prop::option::of(probe)), delay(), delay(), 0_usize..4)
        .prop_map(
            |(first, (repeatable, capable), due, hedge, (guard, probe), next_address, patience, others)| {
                Plan {
                    first,
                    repeatable,
                    capable,
                    due: due * MS,
                    hedge,
                    guard,
                    probe,
                    next_address,
                    patience,
                    others,
                }
            },
        )
}

/// What happens next, and how the clock has moved: a little on, at once to the timer, far ahead, or
/// back.
fn steps() -> impl Strategy<Value = Vec<(Clock, Event)>> {
    let clock = prop_oneof![
        6 => (0_u32..200).prop_map(|millis| Clock::On(millis * MS)),
        3 => Just(Clock::ToTimer),
        1 => any::<u64>().prop_map(|seconds| Clock::On(Duration::from_secs(seconds))),
        1 => (0_u64..100_000).prop_map(|seconds| Clock::Back(Duration::from_secs(seconds))),
    ];
    let event = (0_usize..6, any::<bool>()).prop_flat_map(|(id, taken)| {
        prop_oneof![
            3 => Just(Event::Established { id, taken }),
            1 => Just(Answered { id }),
            2 => Just(Failed { id }),
            1 => Just(if taken { ProbeAnswered } else { ProbeUnanswered }),
            1 => Just(Continued),
            4 => Just(Timer),
        ]
    });
    prop::collection::vec((clock, event), 0..60)
}

#[derive(Clone, Copy, Debug)]
enum Clock {
    On(Duration),
    Back(Duration),
    ToTimer,
}

/// A delivery, and what its sockets would know.
struct World {
    plan: Plan,
    delivery: Delivery,
    begun: Instant,
    now: Instant,
    latest: Instant,
    attempts: usize,
    hedges: usize,
    silences: usize,
    probes: usize,
    /// Whether the probe is looked at now.
    seen: bool,
    swallowed: bool,
    /// Attempts that the flight was sent on.
    carriers: Vec<usize>,
    established: [bool; 8],
    over: [bool; 8],
    ended: bool,
}

impl World {
    fn new(plan: Plan) -> Self {
        let begun = Instant::now();
        Self {
            plan,
            delivery: Delivery::begin(plan, begun),
            begun,
            now: begun,
            latest: begun,
            attempts: 1,
            hedges: 0,
            silences: 0,
            probes: 0,
            seen: false,
            swallowed: false,
            carriers: if plan.first == Cargo::Data { vec![0] } else { Vec::new() },
            established: [false; 8],
            over: [false; 8],
            ended: false,
        }
    }

    fn pass(&mut self, clock: Clock) {
        let moved = match clock {
            Clock::On(time) => self.now.checked_add(time),
            Clock::Back(time) => self.now.checked_sub(time),
            Clock::ToTimer => self.delivery.wake_at(),
        };
        self.now = moved.unwrap_or(self.now);
        self.latest = self.latest.max(self.now);
    }

    /// Whether sockets could tell this: an attempt that exists and is not over, a handshake once, an
    /// answer to what was sent.
    fn can_happen(&self, event: Event) -> bool {
        match event {
            Event::Established { id, .. } => id < self.attempts && !self.over[id] && !self.established[id],
            Answered { id } => {
                id < self.attempts && !self.over[id] && self.established[id] && self.carriers.contains(&id)
            }
            Failed { id } => id < self.attempts && !self.over[id],
            ProbeAnswered | ProbeUnanswered => self.seen,
            Continued | Timer => true,
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), TestCaseError> {
        match event {
            Event::Established { id, .. } => self.established[id] = true,
            Failed { id } => self.over[id] = true,
            ProbeUnanswered => self.swallowed = true,
            Answered { .. } | ProbeAnswered | Continued | Timer => {}
        }
        let plan = self.plan;
        self.seen = false;
        match self.delivery.on(event, self.now) {
            Action::Wait => {}
            Action::Silent => {
                self.silences += 1;
                prop_assert!(plan.first != Cargo::Nothing && !self.established[0] && !self.over[0]);
                prop_assert!(self.now >= self.begun + plan.due, "not due yet");
            }
            Action::Hedge => (self.hedges, self.attempts) = (self.hedges + 1, self.attempts + 1),
            Action::NextAddress => self.attempts += 1,
            action @ (Action::Probe | Action::SeeProbe) => {
                let others = self.carriers.iter().any(|id| *id != 0 && !self.over[*id]);
                prop_assert!(self.established[0] && !self.over[0] && !others);
                prop_assert!(plan.capable || !plan.repeatable, "the guard does it");
                self.seen = action == Action::SeeProbe;
                self.probes += usize::from(!self.seen);
            }
            Action::Send(id) => {
                prop_assert!(id < self.attempts && self.established[id] && !self.over[id]);
                prop_assert!(!self.carriers.contains(&id), "it has it");
                self.carriers.push(id);
            }
            Action::Win(id) => {
                prop_assert!(id < self.attempts && self.established[id] && !self.over[id]);
                // The winner gets what it does not have.
                if !self.carriers.contains(&id) {
                    self.carriers.push(id);
                }
                self.ended = true;
            }
            Action::GiveUp { maybe_executed } => {
                let alive = (0..self.attempts).any(|id| !self.over[id]);
                prop_assert!(!alive, "given up while there was hope");
                prop_assert!(!maybe_executed || (plan.first == Cargo::Data && !plan.repeatable));
                let refused = plan.first == Cargo::Data && !plan.repeatable && !self.established[0];
                prop_assert!(maybe_executed || !refused, "nobody knows, and it was not told");
                self.ended = true;
            }
            Action::TimeOut => {
                let patience = plan.patience;
                let late = patience.is_some_and(|patience| self.latest >= self.begun + patience);
                let late = late && !self.established.contains(&true);
                prop_assert!(late || self.swallowed && !plan.repeatable, "only handshakes have a deadline");
                self.ended = true;
            }
        }
        let live: Vec<_> = self.carriers.iter().filter(|id| !self.over[**id]).collect();
        prop_assert!(live.len() <= 2, "two at a time at most: {:?}", live);
        prop_assert!(plan.repeatable || plan.first != Cargo::Data || self.carriers == [0], "sent twice");
        prop_assert!(
            self.hedges <= 1 && self.silences <= 1 && self.probes <= 1 && self.attempts <= 2 + plan.others
        );
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn every_sequence_keeps_the_promises_and_ends(plan in plans(), steps in steps()) {
        let mut world = World::new(plan);
        for (clock, event) in steps {
            world.pass(clock);
            if world.can_happen(event) {
                world.happen(event)?;
            }
            if world.ended {
                return Ok(());
            }
            let alive = world.delivery.attempts().any(|attempt| attempt.state != State::Over);
            prop_assert!(alive, "nobody is left and nobody was told");
        }
        // Timers run out: each is asked for a bounded number of times, and the deadline is kept.
        for _ in 0..20 {
            if world.ended || world.delivery.wake_at().is_none() {
                break;
            }
            world.pass(Clock::ToTimer);
            // Who is asked to look answers.
            world.happen(if world.seen { ProbeUnanswered } else { Timer })?;
        }
        prop_assert!(world.ended || world.delivery.wake_at().is_none(), "a timer that never ends");
        if let (Some(_), false) = (plan.patience, world.established.contains(&true)) {
            prop_assert!(world.ended, "the deadline was not kept");
        }
        // And when all have failed, it is over.
        for id in 0..8 {
            if !world.ended && world.can_happen(Failed { id }) {
                world.happen(Failed { id })?;
            }
        }
        prop_assert!(world.ended, "all have failed and nobody was told");
    }
}
