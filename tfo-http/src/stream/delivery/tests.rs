use super::*;

const MS: Duration = Duration::from_millis(1);

fn plan(first: Cargo) -> Plan {
    Plan {
        first,
        repeatable: true,
        capable: false,
        due: 100 * MS,
        hedge: Some(100 * MS),
        guard: Some(300 * MS),
        probe: None,
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

use Event::{Answered, Continued, Failed, ProbeAnswered, ProbeUnanswered, Timer};

/// On a path that has carried rides and their answers.
fn capable() -> Plan {
    let probe = Some(Probe { after: 1000 * MS, within: 100 * MS, interval: 1000 * MS, times: 2 });
    Plan { capable: true, probe, ..plan(Cargo::Data) }
}

#[test]
fn on_a_capable_path_the_peer_is_asked_before_anything_is_repeated() {
    let mut run = Run::of(capable());
    assert_eq!(run.wake_at(), Some(100 * MS));
    assert_eq!(run.at(40, established(0)), Action::Wait);
    assert_eq!((run.delivery.stage(), run.wake_at()), (Stage::Guarded, Some(1040 * MS)));
    assert_eq!(run.at(1000, Timer), Action::Wait, "no guard");
    let mut answered = Run { delivery: run.delivery.clone(), begun: run.begun };
    assert_eq!(answered.at(900, Answered { id: 0 }), Action::Win(0));
    assert_eq!((run.at(1040, Timer), run.wake_at()), (Action::Probe, Some(1140 * MS)));
    assert_eq!(run.at(1140, Timer), Action::SeeProbe);
    assert_eq!((run.at(1140, ProbeUnanswered), run.wake_at()), (Action::Wait, Some(2140 * MS)));
    assert_eq!(run.at(2139, Timer), Action::Wait);
    assert_eq!(run.at(2140, Timer), Action::SeeProbe);
    let mut slow = Run { delivery: run.delivery.clone(), begun: run.begun };
    assert_eq!(slow.at(2140, ProbeAnswered), Action::Win(0), "the server is slow");
    assert_eq!(run.at(2140, ProbeUnanswered), Action::Hedge);
    assert_eq!((run.delivery.stage(), run.wake_at()), (Stage::Racing, None));
    assert_eq!(run.at(2180, established(1)), Action::Send(1));
    assert_eq!(run.at(2220, Answered { id: 1 }), Action::Win(1));
    // Where nobody may ask, the SYN-ACK is enough.
    let mut run = Run::of(Plan { probe: None, ..capable() });
    assert_eq!(run.at(40, established(0)), Action::Win(0));
}

#[test]
fn a_probe_has_no_say_once_the_attempt_is_over_or_has_not_begun() {
    let mut run = Run::of(capable());
    assert_eq!(run.at(20, ProbeUnanswered), Action::Wait);
    assert_eq!(run.at(40, established(0)), Action::Wait);
    assert_eq!(run.at(60, Failed { id: 0 }), Action::GiveUp { maybe_executed: false });
    assert_eq!((run.at(2200, Timer), run.wake_at()), (Action::Wait, None));
    assert_eq!(run.at(2200, ProbeAnswered), Action::Wait);
}

#[test]
fn who_writes_on_waits_for_no_answer() {
    for plan in [capable(), plan(Cargo::Data)] {
        let mut run = Run::of(plan);
        assert_eq!(run.at(20, Continued), Action::Wait, "nobody has it yet");
        assert_eq!(run.at(40, established(0)), Action::Wait);
        assert_eq!(run.at(50, Continued), Action::Win(0));
    }
    // Two have the beginning: the first is in doubt.
    let mut run = Run::of(plan(Cargo::Data));
    assert_eq!(run.at(40, established(0)), Action::Wait);
    assert_eq!(run.at(300, Timer), Action::Hedge);
    assert_eq!(run.at(340, established(1)), Action::Send(1));
    assert_eq!(run.at(340, Continued), Action::Win(1));
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
fn a_late_syn_ack_before_the_hedge_is_there_is_the_only_one_to_carry() {
    let mut run = Run::of(capable());
    assert_eq!(run.at(100, Timer), Action::Hedge);
    assert_eq!(run.at(120, established(0)), Action::Wait);
    assert_eq!(run.at(140, established(1)), Action::Wait, "the peer is asked before");
    let mut run_on = Run { delivery: run.delivery.clone(), begun: run.begun };
    assert_eq!(run.at(160, Answered { id: 0 }), Action::Win(0));
    assert_eq!((run_on.at(1120, Timer), run_on.at(1220, Timer)), (Action::Probe, Action::SeeProbe));
    assert_eq!(run_on.at(1220, ProbeUnanswered), Action::Wait);
    assert_eq!(run_on.at(2220, ProbeUnanswered), Action::Send(1));
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
    let mut run = Run::of(Plan { repeatable: false, others: 1, next_address: Some(MS), ..plan(Cargo::Data) });
    assert_eq!(run.at(1000, Timer), Action::Silent);
    assert_eq!((run.at(1000, Timer), run.wake_at()), (Action::Wait, None));
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
    assert_eq!(run.at(250, Timer), Action::Silent);
    assert_eq!(run.at(250, Timer), Action::NextAddress);
    assert_eq!(run.at(300, Timer), Action::Wait, "nothing to guard");
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

#[test]
fn an_answer_is_overdue_once_whoever_may_hedge() {
    let mut run = Run::of(Plan { repeatable: false, ..plan(Cargo::Data) });
    assert_eq!(run.at(100, Timer), Action::Silent);
    assert_eq!((run.at(101, Timer), run.wake_at()), (Action::Wait, None));
    let mut run = Run::of(plan(Cargo::Nothing));
    assert_eq!((run.at(100, Timer), run.wake_at()), (Action::Wait, None), "a plain SYN says nothing");
}

#[test]
fn a_doubtful_ride_is_joined_early_and_sent_twice_only_if_it_is_late() {
    let doubtful = Plan { hedge: Some(20 * MS), ..plan(Cargo::Data) };
    // It arrives: the plain attempt is there, and waits.
    let mut run = Run::of(doubtful);
    assert_eq!(run.at(20, Timer), Action::Hedge);
    assert_eq!(run.at(40, established(0)), Action::Wait);
    assert_eq!(run.at(60, established(1)), Action::Wait);
    assert_eq!(run.at(80, Answered { id: 0 }), Action::Win(0));
    // It falls into a hole behind its handshake.
    let mut run = Run::of(doubtful);
    assert_eq!(run.at(20, Timer), Action::Hedge);
    assert_eq!(run.at(40, established(0)), Action::Wait);
    assert_eq!(run.at(60, established(1)), Action::Wait);
    assert_eq!(run.at(300, Timer), Action::Send(1));
    assert_eq!(run.at(340, Answered { id: 1 }), Action::Win(1));
    // It is lost.
    let mut run = Run::of(doubtful);
    assert_eq!(run.at(20, Timer), Action::Hedge);
    assert_eq!(run.at(60, established(1)), Action::Send(1));
    assert_eq!(run.at(100, Timer), Action::Silent);
    assert_eq!(run.at(101, Answered { id: 1 }), Action::Win(1));
}

/// The rows of a first flight that may ride and may not be repeated.
#[test]
fn a_flight_that_must_not_be_sent_again_is_bound_to_its_attempt() {
    let bound = Plan { repeatable: false, others: 2, next_address: Some(MS), ..plan(Cargo::Data) };
    // A RST to its SYN: it may have been executed.
    let mut run = Run::of(bound);
    assert_eq!(run.at(20, Failed { id: 0 }), Action::GiveUp { maybe_executed: true });
    // Silence: nobody joins, and patience ends it.
    let mut run = Run::of(Plan { patience: Some(900 * MS), ..bound });
    assert_eq!(run.at(500, Timer), Action::Silent);
    assert_eq!(run.at(500, Timer), Action::Wait);
    assert_eq!(run.at(900, Timer), Action::TimeOut);
    // What was not taken has gone behind an ordinary handshake.
    let mut run = Run::of(bound);
    assert_eq!(run.at(40, Event::Established { id: 0, taken: false }), Action::Win(0));
    // What was taken is asked after, and given up if there is a hole; nothing joins it.
    let mut run = Run::of(Plan { probe: capable().probe, ..bound });
    assert_eq!(run.at(40, established(0)), Action::Wait);
    assert_eq!((run.at(1040, Timer), run.at(1140, Timer)), (Action::Probe, Action::SeeProbe));
    assert_eq!(run.at(1140, ProbeUnanswered), Action::Wait);
    assert_eq!(run.at(2140, ProbeUnanswered), Action::TimeOut);
}

mod sequences;
mod stages;
