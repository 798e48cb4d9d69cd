//! Whatever is asked and reported, at whatever times: no panic, and the promises hold. And no
//! allocation to ask.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tfo_http::path::{Advice, Event, NetworkId, Path, PathMemory, PathState, Ticket};

const EVENTS: [Event; 8] = [
    Event::Acked,
    Event::NotAcked,
    Event::Answered,
    Event::Silent,
    Event::Refused,
    Event::SilentAfterHandshake,
    Event::Abandoned,
    Event::Unused,
];

const DAY: Duration = Duration::from_secs(86_400);

#[derive(Clone, Debug)]
enum Op {
    Ask(u8),
    AskAgain(usize),
    Report(usize, Event),
    Lose(usize),
    Network(Option<u64>),
    Forget,
    ForgetPath(u8),
    Look,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => any::<u8>().prop_map(Op::Ask),
        1 => any::<usize>().prop_map(Op::AskAgain),
        6 => (any::<usize>(), proptest::sample::select(&EVENTS[..])).prop_map(|(at, event)| Op::Report(at, event)),
        1 => any::<usize>().prop_map(Op::Lose),
        1 => proptest::option::of(0..2_u64).prop_map(Op::Network),
        1 => Just(Op::Forget),
        1 => any::<u8>().prop_map(Op::ForgetPath),
        1 => Just(Op::Look),
    ]
}

/// Steps of milliseconds to days, and some to the ends of time.
fn time() -> impl Strategy<Value = Duration> {
    prop_oneof![
        8 => (0..5_000_u64).prop_map(Duration::from_millis),
        3 => (0..200_000_u64).prop_map(Duration::from_secs),
        1 => any::<u64>().prop_map(Duration::from_secs),
    ]
}

fn path(i: u8) -> Path {
    Path::new(SocketAddr::from((Ipv4Addr::new(192, 0, i % 5, i % 3), 80)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_panics_and_nothing_is_off_for_ever(
        ops in proptest::collection::vec((op(), time(), any::<bool>()), 1..150)
    ) {
        let memory = PathMemory::new();
        let mut now = Instant::now();
        let mut tickets: Vec<Ticket> = Vec::new();
        for (op, step, back) in ops {
            let moved = if back { now.checked_sub(step) } else { now.checked_add(step) };
            now = moved.unwrap_or(now);
            match op {
                Op::Ask(i) => {
                    let known = memory.is_capable(&path(i), now);
                    let ticket = memory.ask(&path(i), now);
                    prop_assert!(!known || ticket.advice() == Advice::Ride && ticket.is_proven());
                    tickets.push(ticket);
                }
                Op::AskAgain(at) if !tickets.is_empty() => {
                    let at = at % tickets.len();
                    memory.ask_again(&mut tickets[at], now);
                }
                Op::Report(at, event) if !tickets.is_empty() => {
                    let at = at % tickets.len();
                    memory.report(&mut tickets[at], event, now);
                }
                Op::Lose(at) if !tickets.is_empty() => drop(tickets.swap_remove(at % tickets.len())),
                Op::Network(id) => memory.set_network(id.map(NetworkId::new)),
                Op::Forget => memory.forget(),
                Op::ForgetPath(i) => memory.forget_path(&path(i), now),
                Op::Look | Op::AskAgain(_) | Op::Report(..) | Op::Lose(_) => {
                    let snapshot = memory.snapshot(now);
                    prop_assert!(snapshot.tokens <= 64 && snapshot.paused_for <= Some(DAY));
                    for one in snapshot.paths {
                        prop_assert!(one.retry_in.is_none_or(|left| left <= one.back_off && left <= DAY), "{one:?}");
                        let limit = if one.state == PathState::Capable { 4 } else { 2 };
                        prop_assert!(one.silent_in_a_row < limit && one.not_acked_in_a_row < 3, "{one:?}");
                    }
                }
            }
        }
        // Whatever happened: in two days at the latest (an hour's pause, a day's back-off) each path
        // may ride again. Where time is at its end, it may at once.
        for i in 0..15 {
            let mut later = now;
            let rides = (0..3).any(|_| {
                later = later.checked_add(DAY).unwrap_or(later);
                let mut ticket = memory.ask(&path(i), later);
                memory.report(&mut ticket, Event::Unused, later);
                ticket.advice() == Advice::Ride
            });
            prop_assert!(rides || now.checked_add(DAY * 3).is_none(), "{:?}", memory.snapshot(now));
        }
    }

    /// No ride before the end of the back-off that the snapshot tells, and one at its end.
    #[test]
    fn none_is_tried_early(events in proptest::collection::vec((0..8_usize, 0..4_000_u64), 1..200)) {
        let memory = PathMemory::new();
        let mut now = Instant::now();
        for (event, wait) in events {
            let before = memory.snapshot(now).paths;
            let retry_in = before.first().and_then(|one| one.retry_in).filter(|left| !left.is_zero());
            let mut ticket = memory.ask(&path(0), now);
            if retry_in.is_some() {
                prop_assert_ne!(ticket.advice(), Advice::Ride, "{:?}", before);
            }
            memory.report(&mut ticket, EVENTS[event], now);
            now += Duration::from_millis(wait);
        }
        if let Some(left) = memory.snapshot(now).paths.first().and_then(|one| one.retry_in) {
            prop_assert_eq!(memory.ask(&path(0), now + left).advice(), Advice::Ride);
        }
    }
}

#[test]
fn to_ask_allocates_nothing() {
    let (memory, now) = (PathMemory::new(), Instant::now());
    for event in EVENTS {
        let one = path(0);
        memory.report(&mut memory.ask(&one, now), event, now);
        let counted = allocation_counter::measure(|| {
            let mut ticket = memory.ask(&one, now);
            memory.ask_again(&mut ticket, now);
            memory.report(&mut ticket, event, now);
        });
        assert_eq!(counted.count_total, 0, "{event:?}");
    }
    let unknown = allocation_counter::measure(|| {
        assert!(!memory.is_capable(&path(1), now));
    });
    assert_eq!(unknown.count_total, 0);
}

#[test]
fn clones_share_and_threads_may_ask() {
    let (memory, now) = (PathMemory::new(), Instant::now());
    let rides: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let memory = memory.clone();
                scope.spawn(move || {
                    let tickets = (0..100).map(|_| memory.ask(&path(0), now));
                    tickets.filter(|ticket| ticket.advice() == Advice::Ride).count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(rides, 2);
}

/// A ticket that is asked again for gets the answer that a new one would get, whatever happened meanwhile.
#[test]
fn who_asks_again_is_told_what_a_stranger_is_told() {
    type Change = fn(&PathMemory, &Path, Instant);
    let silences: Change = |memory, path, now| {
        for _ in 0..4 {
            let mut ticket = memory.ask(path, now);
            memory.report(&mut ticket, Event::Silent, now);
        }
    };
    let not_acked: Change = |memory, path, now| {
        for _ in 0..3 {
            let mut ticket = memory.ask(path, now);
            memory.report(&mut ticket, Event::NotAcked, now);
        }
    };
    let changes: [(Change, u64); 6] = [
        (|_, _, _| {}, 0),
        (|_, _, _| {}, 2 * 3600),
        (silences, 0),
        (not_acked, 0),
        (|memory, path, now| memory.forget_path(path, now), 0),
        (|memory, _, _| memory.set_network(Some(NetworkId::new(7))), 0),
    ];
    for (number, (change, seconds)) in changes.into_iter().enumerate() {
        let (memory, path) = (PathMemory::new(), Path::new("192.0.2.1:80".parse().unwrap()));
        let now = Instant::now();
        let mut ticket = memory.ask(&path, now);
        memory.report(&mut ticket, Event::Acked, now);
        let mut held = memory.ask(&path, now);
        assert!(held.is_proven());
        change(&memory, &path, now);
        let later = now + Duration::from_secs(seconds);
        let stranger = memory.ask(&path, later);
        let told = memory.ask_again(&mut held, later);
        assert_eq!((told, held.is_proven()), (stranger.advice(), stranger.is_proven()), "change {number}");
    }
}

/// The network's canary keeps its place as long as it asks.
#[test]
fn a_canary_that_asks_again_is_still_the_only_one() {
    let (memory, now) = (PathMemory::new(), Instant::now());
    let paths: Vec<_> = (1..=5).map(|net| Path::new(format!("10.0.{net}.1:80").parse().unwrap())).collect();
    for path in &paths {
        let mut ticket = memory.ask(path, now);
        memory.report(&mut ticket, Event::Acked, now);
    }
    for path in &paths[..3] {
        for _ in 0..4 {
            let mut ticket = memory.ask(path, now);
            memory.report(&mut ticket, Event::Silent, now);
        }
    }
    let at = |seconds| now + Duration::from_secs(seconds);
    assert_eq!(memory.ask(&paths[3], now).advice(), Advice::Avoid, "the network is paused");
    let mut canary = memory.ask(&paths[3], at(61));
    assert_eq!((canary.advice(), memory.ask(&paths[4], at(61)).advice()), (Advice::Ride, Advice::Avoid));
    assert_eq!(memory.ask_again(&mut canary, at(70)), Advice::Ride);
    assert_eq!(memory.ask(&paths[4], at(72)).advice(), Advice::Avoid, "its place was renewed");
}
