//! The classifier against real servers: whatever it lets through, no server finds an unsafe request in it.
//!
//! `TFO_CASES` sets the number of cases, `TFO_SEED` the first of the seeds, which count up. A failure prints the seed
//! of its case.

mod support;

use support::dice::Dice;
use support::{generate, hpack, oracle};
use tfo_core::first_flight::{FirstFlight, Methods, Stop};

#[test]
fn servers_find_nothing_unsafe_in_front_of_the_cut() {
    let cases = number("TFO_CASES", 30_000);
    let first = number("TFO_SEED", 0);
    let mut tally = Tally::default();
    for seed in first..first + cases {
        let outcome = std::panic::catch_unwind(|| case(seed));
        match outcome {
            Ok(case) => tally.add(&case),
            Err(panic) => {
                eprintln!("the case has TFO_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{cases} cases from seed {first}: {tally:?}");
    // The figures are stable to a per cent or so. They keep the test from becoming vacuous.
    assert!(tally.with_released * 2 > cases, "servers saw safe requests in too few cases");
    assert!(tally.released * 3 > cases * 2, "servers saw too few safe requests");
    assert!(tally.more_released * 300 > cases, "servers saw too few idempotent requests");
    assert!(
        tally.unsafe_whole * 15 > tally.looked_whole,
        "servers saw too few unsafe requests behind the cut"
    );
    assert!(tally.stopped * 4 > cases && tally.whole * 4 > cases, "too one-sided");
}

/// What the cases were like.
#[derive(Debug, Default)]
struct Tally {
    /// Requests that servers saw in front of the cut, and in how many cases.
    released: u64,
    with_released: u64,
    /// Cases in which servers saw more by the wider rules.
    more_released: u64,
    whole: u64,
    stopped: u64,
    /// Whole flights shown to a server, regardless of the cut, and in how many it saw something unsafe.
    looked_whole: u64,
    unsafe_whole: u64,
}

impl Tally {
    fn add(&mut self, case: &Case) {
        self.released += case.released as u64;
        self.with_released += u64::from(case.released > 0);
        self.more_released += u64::from(case.more_released);
        self.whole += u64::from(case.is_whole);
        self.stopped += u64::from(!case.is_whole);
        self.looked_whole += u64::from(case.is_unsafe.is_some());
        self.unsafe_whole += u64::from(case.is_unsafe == Some(true));
    }
}

struct Case {
    more_released: bool,
    released: usize,
    is_whole: bool,
    is_unsafe: Option<bool>,
}

fn case(seed: u64) -> Case {
    let dice = &mut Dice(seed);
    let flight = generate::flight(dice);
    let class = FirstFlight::classify(&flight);
    let seen = oracle::check(&flight);

    // A SYN ends anywhere. What is released of the beginning must be safe by itself, and no request that the beginning
    // counts as safe may be judged otherwise when more is there.
    let beginning = &flight[..dice.below(flight.len() + 1)];
    oracle::check(beginning);
    let fewer = FirstFlight::classify(beginning);
    assert!(fewer.requests() <= class.requests(), "{fewer:?} became {class:?}: {}", flight.escape_ascii());

    // By the wider rules too: what else they let through is idempotent, and no body is taken for a request.
    let wider = oracle::check_by(Methods::Idempotent, &flight);
    oracle::check_by(Methods::Idempotent, beginning);
    let is_unsafe = dice.one_in(8).then(|| oracle::see(&flight).violation.is_some());
    Case {
        more_released: wider.requests > seen.requests,
        released: seen.requests,
        is_whole: class.is_whole(),
        is_unsafe,
    }
}

/// The oracle is not blind: with cuts that are too long it finds unsafe requests of every kind.
#[test]
fn the_oracle_sees_through_broken_classifiers() {
    let mut kinds = std::collections::BTreeMap::<&str, u32>::new();
    for seed in 0..20_000 {
        let flight = generate::flight(&mut Dice(seed));
        for seen in [oracle::see(&flight), oracle::see_all(&flight)] {
            if let Some(kind) = seen.violation {
                *kinds.entry(kind).or_default() += 1;
            }
        }
    }
    println!("what a classifier that lets all through would have released: {kinds:?}");
    for kind in [
        "unsafe method",
        "body",
        "method override",
        "content length",
        "transfer encoding",
        "behind an upgrade",
        "extended CONNECT",
        "not one method",
        "line end in a value",
    ] {
        assert!(kinds.get(kind).is_some_and(|&count| count >= 5), "{kind}: {kinds:?}");
    }
}

/// What is safe and well-formed rides: being safe by refusing everything is easy. Only HPACK's table may end the cut.
#[test]
fn clean_flights_ride() {
    let mut hidden = 0;
    for seed in 0..10_000 {
        let flight = generate::clean(&mut Dice(seed));
        let class = FirstFlight::classify(&flight);
        assert!(
            matches!(class.stop(), None | Some(Stop::CompressedHeaders)),
            "{class:?}: {}",
            flight.escape_ascii()
        );
        hidden += u32::from(!class.is_whole());
        let seen = oracle::see_all(&flight);
        assert_eq!(seen.violation, None);
        assert!(!class.is_whole() || class.requests() == seen.requests, "{class:?}, {seen:?}");
    }
    println!("HPACK's table ended the cut in {hidden} of 10000 flights");
    assert!(hidden < 3_000);
}

/// hyper itself acts on something unsafe in each of these whole flights, and on nothing unsafe in front of the cut.
#[test]
fn the_oracle_notices_what_a_lenient_parser_makes_of_it() {
    let lenient: [&[u8]; 5] = [
        // In front of these the cut of a classifier that is not strict would be the whole flight.
        b"GET / HTTP/1.1\r\nHost: h\n\nPOST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n\r\nPOST / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\nX-HTTP-Method-Override: DELETE\n\n",
        b"GET / HTTP/1.1\r\nx_http_method: DELETE\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody",
    ];
    for flight in lenient {
        assert!(oracle::see(flight).violation.is_some(), "{}", flight.escape_ascii());
        assert!(oracle::check(flight).requests <= 1);
    }
}

/// The writer of the tests and the h2 crate agree about the Huffman code, so the tests do not go astray together with
/// the classifier.
#[test]
fn the_huffman_code_is_that_of_h2() {
    let value: Vec<u8> = (b' '..=0xff).filter(|&byte| byte != 0x7f).collect();
    let coded = hpack::huffman(&value);
    let rest = coded.len() - 127;
    let len = [0xff, rest as u8 | 0x80, u8::try_from(rest >> 7).unwrap()];
    let block = [&b"\x82\x84\x86\x41\x01h\x00\x01a"[..], &len, &coded].concat();
    let size = u16::try_from(block.len()).unwrap().to_be_bytes();
    let head = [0, size[0], size[1], 1, 5, 0, 0, 0, 1];
    let flight = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..], &head, &block].concat();
    let class = FirstFlight::classify(&flight);
    assert!(class.is_whole() && class.requests() == 1, "{class:?}");
    assert_eq!(oracle::check(&flight).requests, 1);
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.replace('_', "").parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}
