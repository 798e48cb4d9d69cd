use super::*;

struct One {
    record: Record,
    now: Instant,
    next: u64,
}

impl One {
    fn new() -> Self {
        let now = Instant::now();
        Self { record: Record::new(now), now, next: 1 }
    }

    fn ask(&mut self) -> (Grant, Learnt) {
        self.record.settle(self.now, false);
        let grant = self.record.advise(self.now);
        let serial = self.next;
        self.next += 1;
        let reserved = grant == Grant::Trial;
        if reserved {
            self.record.reserve(serial, self.now);
        }
        (grant, Learnt { serial, reserved, struck: false })
    }

    fn tell(&mut self, event: Event, ticket: Learnt) {
        self.next += 1;
        self.record.settle(self.now, false);
        self.record.learn(event, ticket, self.now, self.next);
    }

    fn ride(&mut self, event: Event) -> Grant {
        let (grant, ticket) = self.ask();
        self.tell(event, ticket);
        grant
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn phase(&self) -> Phase {
        self.record.state.phase()
    }
}

#[test]
fn two_strikes_put_an_unknown_path_off_and_four_a_capable_one() {
    let mut one = One::new();
    assert_eq!((one.ride(Event::Silent), one.phase()), (Grant::Trial, Phase::Unknown));
    assert_eq!((one.ride(Event::Silent), one.phase()), (Grant::Trial, Phase::Failed));
    assert_eq!(one.ask().0, Grant::Avoid);
    let mut one = One::new();
    one.ride(Event::Acked);
    for _ in 0..3 {
        one.ride(Event::Silent);
        assert_eq!(one.phase(), Phase::Capable);
    }
    one.ride(Event::Acked);
    for _ in 0..3 {
        one.ride(Event::Silent);
    }
    assert_eq!(one.phase(), Phase::Capable, "one ride resets");
    one.ride(Event::Silent);
    assert_eq!(one.phase(), Phase::Failed);
}

#[test]
fn a_stall_or_a_refusal_is_no_lost_packet() {
    for event in [Event::Refused, Event::SilentAfterHandshake] {
        let mut one = One::new();
        one.ride(event);
        assert_eq!(one.phase(), Phase::Failed);
        let mut one = One::new();
        one.ride(Event::Acked);
        one.ride(event);
        assert_eq!(one.phase(), Phase::Capable);
        one.ride(event);
        assert_eq!(one.phase(), Phase::Failed);
    }
}

#[test]
fn the_back_off_doubles_to_a_day_and_is_never_early() {
    let mut one = One::new();
    one.ride(Event::Silent);
    one.ride(Event::Silent);
    let mut expected = 2;
    for _ in 0..40 {
        one.now += Duration::from_secs(expected) - Duration::from_nanos(1);
        assert_eq!(one.ask().0, Grant::Avoid);
        one.now += Duration::from_nanos(1);
        assert_eq!(one.ride(Event::Silent), Grant::Trial);
        expected = (expected * 2).min(86_400);
    }
    one.wait(86_400);
    assert_eq!(one.ride(Event::Acked), Grant::Trial);
    assert_eq!(one.ask().0, Grant::Proven);
}

#[test]
fn there_is_one_canary() {
    let mut one = One::new();
    one.ride(Event::Silent);
    one.ride(Event::Silent);
    one.wait(2);
    let grants: Vec<_> = (0..64).map(|_| one.ask()).collect();
    assert_eq!(grants[0].0, Grant::Trial);
    assert!(grants[1..].iter().all(|(grant, _)| *grant == Grant::Avoid));
    // Reported by the others, nothing changes.
    one.tell(Event::Silent, grants[5].1);
    assert_eq!(one.phase(), Phase::Probing);
    one.tell(Event::Unused, grants[0].1);
    let (grant, canary) = one.ask();
    assert_eq!(grant, Grant::Trial, "a canary that did not fly leaves its place");
    one.wait(9);
    assert_eq!(one.ask().0, Grant::Avoid);
    one.wait(1);
    let (grant, second) = one.ask();
    assert_eq!(grant, Grant::Trial, "and one that was lost leaves it after the lease");
    one.tell(Event::Silent, canary);
    assert_eq!(one.phase(), Phase::Probing, "it is not the canary any more");
    one.tell(Event::Silent, second);
    assert_eq!((one.phase(), one.record.failures), (Phase::Failed, 2));
}

#[test]
fn a_burst_costs_no_more_than_the_strikes_that_are_left() {
    let mut one = One::new();
    let grants: Vec<_> = (0..64).map(|_| one.ask()).collect();
    assert_eq!(grants.iter().filter(|(grant, _)| *grant == Grant::Trial).count(), 2);
    one.tell(Event::Acked, grants[0].1);
    // A burst on a Capable path rides; at the first silence at most three may follow.
    let burst: Vec<_> = (0..64).map(|_| one.ask()).collect();
    assert!(burst.iter().all(|(grant, _)| *grant == Grant::Proven));
    one.tell(Event::Silent, burst[0].1);
    let more: Vec<_> = (0..64).map(|_| one.ask()).collect();
    assert_eq!(more.iter().filter(|(grant, _)| *grant == Grant::Trial).count(), 3);
    for (_, ticket) in &burst[1..] {
        one.tell(Event::Silent, *ticket);
    }
    assert_eq!((one.phase(), one.record.failures), (Phase::Failed, 1), "a burst fails once");
    one.tell(Event::Acked, burst[63].1);
    assert_eq!(one.phase(), Phase::Capable, "a ride that arrives after all is proof");
}

#[test]
fn in_a_row_is_the_order_of_the_syns() {
    let mut one = One::new();
    one.ride(Event::Acked);
    let tickets: Vec<_> = (0..7).map(|_| one.ask().1).collect();
    one.tell(Event::Acked, tickets[6]);
    for ticket in &tickets[..6] {
        one.tell(Event::Silent, *ticket);
    }
    assert_eq!((one.phase(), one.record.silent), (Phase::Capable, 0));
}

#[test]
fn what_drops_every_second_is_found_out_and_its_back_off_grows() {
    let mut one = One::new();
    let (mut slow, mut rides) = (0, 0);
    for request in 0..10_000 {
        let (grant, ticket) = one.ask();
        if matches!(grant, Grant::Trial | Grant::Proven) {
            rides += 1;
            slow += rides % 2;
            one.tell(if rides % 2 == 1 { Event::Silent } else { Event::Acked }, ticket);
        }
        one.now += Duration::from_millis(100);
        assert!(slow <= 20 || request >= 200, "{slow} slow of {request}");
    }
    assert!(slow < 100, "{slow}");
}

#[test]
fn what_is_wasted_rests_gently() {
    let mut one = One::new();
    one.ride(Event::Acked);
    one.ride(Event::NotAcked);
    one.ride(Event::NotAcked);
    assert_eq!(one.ask().0, Grant::Proven, "a new key is normal");
    one.ride(Event::NotAcked);
    assert_eq!((one.ask().0, one.phase()), (Grant::AskCookie, Phase::Resting));
    one.wait(60);
    assert_eq!(one.ride(Event::NotAcked), Grant::Trial);
    one.wait(119);
    assert_eq!(one.ask().0, Grant::AskCookie);
    one.wait(1);
    assert_eq!(one.ride(Event::Acked), Grant::Trial);
    assert_eq!((one.phase(), one.record.rests), (Phase::Capable, 0));
}

#[test]
fn an_answer_without_data_proves_nothing() {
    let mut one = One::new();
    one.ride(Event::Silent);
    one.ride(Event::Answered);
    assert_eq!((one.phase(), one.record.silent, one.record.places), (Phase::Unknown, 1, 0));
    one.ride(Event::Silent);
    one.wait(2);
    one.ride(Event::Answered);
    assert_eq!(one.phase(), Phase::Probing);
    assert_eq!(one.ride(Event::Abandoned), Grant::Trial);
    assert_eq!((one.phase(), one.record.failures), (Phase::Failed, 1));
}

#[test]
fn knowledge_expires() {
    let mut one = One::new();
    one.ride(Event::Acked);
    one.wait(3599);
    assert_eq!(one.ride(Event::Acked), Grant::Proven);
    one.wait(3600);
    assert_eq!(one.ask().0, Grant::Trial);
    one.ride(Event::Acked);
    one.record.settle(one.now, true);
    assert_eq!(one.phase(), Phase::Unknown, "another network");
    one.ride(Event::Refused);
    one.record.settle(one.now, true);
    assert_eq!(one.phase(), Phase::Failed);
    one.wait(2 + 86_400);
    one.record.settle(one.now, false);
    assert_eq!((one.phase(), one.record.failures), (Phase::Unknown, 0));
}

#[test]
fn a_round_trip_rises_at_once_falls_slowly_and_expires() {
    let ms = Duration::from_millis;
    let mut one = One::new();
    assert_eq!(one.record.rtt(), None);
    for (sample, estimate) in [(80, 80), (200, 200), (40, 180), (180, 180), (5_000, 1_000)] {
        one.record.measured(ms(sample), one.now);
        assert_eq!(one.record.rtt(), Some(ms(estimate)));
    }
    for _ in 0..60 {
        one.record.measured(ms(5), one.now);
    }
    assert!(one.record.rtt().is_some_and(|rtt| rtt < ms(6)), "{:?}", one.record.rtt());
    one.record.measured(Duration::ZERO, one.now);
    assert!(one.record.rtt().is_some(), "under a microsecond is a time too");
    assert!(!one.record.is_blank());
    one.wait(3600);
    one.record.settle(one.now, false);
    assert_eq!((one.record.rtt(), one.record.is_blank()), (None, true));
    one.record.measured(ms(5), one.now);
    one.record.settle(one.now, true);
    assert_eq!(one.record.rtt(), None, "another network");
}

#[test]
fn a_ride_is_doubtful_after_a_strike_and_after_a_back_off() {
    let mut one = One::new();
    assert!(!one.record.is_in_doubt());
    one.ride(Event::Acked);
    one.ride(Event::Silent);
    assert!(one.record.is_in_doubt());
    one.ride(Event::Acked);
    assert!(!one.record.is_in_doubt());
    one.ride(Event::Refused);
    one.ride(Event::Refused);
    one.wait(2);
    assert!(one.record.is_in_doubt(), "its canary");
    one.ride(Event::Acked);
    assert!(!one.record.is_in_doubt());
    for _ in 0..3 {
        one.ride(Event::NotAcked);
    }
    one.wait(60);
    assert!(!one.record.is_in_doubt(), "nothing was lost but bytes");
}

#[test]
fn a_late_answer_takes_its_silence_back() {
    let mut one = One::new();
    let (_, ticket) = one.ask();
    one.tell(Event::Silent, ticket);
    one.tell(Event::Answered, Learnt { struck: true, reserved: false, ..ticket });
    assert_eq!((one.record.silent, one.record.history), (0, 0));
    one.ride(Event::Silent);
    one.ride(Event::Answered);
    assert_eq!(one.record.silent, 1, "another's answer does not");
}

#[test]
fn time_that_goes_back_puts_nothing_off_for_longer() {
    let mut one = One::new();
    one.wait(1_000_000);
    one.ride(Event::Refused);
    one.now -= Duration::from_secs(900_000);
    assert_eq!(one.ask().0, Grant::Avoid);
    one.wait(2);
    let (grant, _) = one.ask();
    assert_eq!(grant, Grant::Trial);
    one.now -= Duration::from_secs(50_000);
    assert_eq!(one.ask().0, Grant::Trial, "a lease from the future is none");
}
