//! All ways through a delivery, walked: what follows what is what is committed.

use std::collections::BTreeSet;

use super::*;
use crate::matrix;

const FROM: [&str; 3] = ["SynSent", "Guarded", "Racing"];
const EVENTS: [&str; 9] = [
    "Taken",
    "NotTaken",
    "Joined",
    "Answered",
    "Failed",
    "ProbeAnswered",
    "ProbeUnanswered",
    "Continued",
    "Timer",
];
const DEPTH: u32 = 7;

type Ways = BTreeSet<(String, &'static str, String)>;

/// One that is walked on from.
#[derive(Clone)]
struct Walk {
    delivery: Delivery,
    now: Instant,
    /// Of each attempt, whether its handshake is complete, and whether it has the flight.
    attempts: Vec<(bool, bool)>,
    /// The probe is to be looked at.
    seen: bool,
}

impl Walk {
    /// Whatever can happen now.
    fn events(&self) -> Vec<(&'static str, Event)> {
        let mut events = Vec::new();
        for (id, (established, carries)) in self.attempts.iter().enumerate() {
            if self.delivery.state(id) == State::Over {
                continue;
            }
            events.push(("Failed", Failed { id }));
            match (established, id) {
                (false, 0) => {
                    events.push(("NotTaken", Event::Established { id, taken: false }));
                    if self.delivery.carries_data() {
                        events.push(("Taken", Event::Established { id, taken: true }));
                    }
                }
                (false, _) => events.push(("Joined", Event::Established { id, taken: false })),
                (true, _) if *carries => events.push(("Answered", Answered { id })),
                (true, _) => {}
            }
        }
        if self.seen {
            // Nothing comes between.
            return vec![("ProbeAnswered", ProbeAnswered), ("ProbeUnanswered", ProbeUnanswered)];
        }
        events.push(("Continued", Continued));
        events.extend(self.delivery.wake_at().map(|_| ("Timer", Timer)));
        events
    }

    /// After an event: where it stands; `None`: it has come to this end.
    fn after(mut self, event: Event) -> Result<Self, &'static str> {
        if event == Timer {
            self.now = self.delivery.wake_at().unwrap().max(self.now);
        }
        if let Event::Established { id, .. } = event {
            self.attempts[id] = (true, id == 0 && self.delivery.carries_data());
        }
        let action = self.delivery.on(event, self.now);
        self.seen = action == Action::SeeProbe;
        match action {
            Action::Wait | Action::Silent | Action::Probe | Action::SeeProbe => {}
            Action::Hedge | Action::NextAddress => self.attempts.push((false, false)),
            Action::Send(id) => self.attempts[id].1 = true,
            Action::Win(_) => return Err("Won"),
            Action::GiveUp { .. } | Action::TimeOut => return Err("Lost"),
        }
        Ok(self)
    }

    fn walk(&self, depth: u32, ways: &mut Ways) {
        let from = format!("{:?}", self.delivery.stage());
        for (name, event) in self.events() {
            let (to, next) = match self.clone().after(event) {
                Ok(next) => (format!("{:?}", next.delivery.stage()), Some(next)),
                Err(end) => (end.to_owned(), None),
            };
            ways.insert((from.clone(), name, to));
            if let Some(next) = next.filter(|_| depth > 1) {
                next.walk(depth - 1, ways);
            }
        }
    }
}

fn all_ways() -> Ways {
    let (now, mut ways) = (Instant::now(), Ways::new());
    for first in [Cargo::Data, Cargo::Option, Cargo::Nothing] {
        for bits in 0..16 {
            let (repeatable, capable, hedges) = (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0);
            let others = bits >> 3;
            let plan = Plan {
                first,
                repeatable,
                capable,
                due: 2 * MS,
                hedge: hedges.then_some(2 * MS),
                guard: hedges.then_some(5 * MS),
                probe: hedges.then_some(Probe { after: 5 * MS, within: 5 * MS, interval: MS, times: 2 }),
                next_address: Some(3 * MS),
                patience: Some(20 * MS),
                others,
            };
            let attempts = vec![(false, false)];
            Walk { delivery: Delivery::begin(plan, now), now, attempts, seen: false }.walk(DEPTH, &mut ways);
        }
    }
    ways
}

#[test]
fn what_follows_what_is_what_is_committed() {
    let ways = all_ways();
    let next = |from: &&str, event: &&str| {
        let to = ways.iter().filter(|way| way.0 == *from && way.1 == *event);
        to.map(|way| way.2.clone()).collect::<Vec<_>>()
    };
    matrix::check(include_str!("../../stages.txt"), (16, 24), &FROM, &EVENTS, next);
    matrix::check_picture(include_str!("../../stages.mmd"), &FROM, &EVENTS, next);
}
