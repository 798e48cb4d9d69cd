//! What holds for any bytes whatever.

mod support;

use proptest::prelude::*;
use support::dice::Dice;
use support::{generate, oracle};
use tfo_core::first_flight::{Classifier, FirstFlight, Methods, Protocol, Stop};

/// Bytes that have no, some or much to do with a protocol.
fn flights() -> impl Strategy<Value = Vec<u8>> {
    let front = prop::sample::select(vec![
        &b""[..],
        b"GET ",
        b"GET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x10\x01\x05\0\0\0\x01\x82",
        b"\x16\x03\x01\0\x05\x01\0\0\x01\0",
    ]);
    let alphabet = prop::sample::select(b"\r\n\0 \t:\x01\x05\x17\x16\x03\x80\xffGET/HP1.0ax-".to_vec());
    let tail =
        prop_oneof![prop::collection::vec(any::<u8>(), 0..200), prop::collection::vec(alphabet, 0..200),];
    prop_oneof![
        (front, tail).prop_map(|(front, tail)| [front, &tail].concat()),
        any::<u64>().prop_map(|seed| generate::flight(&mut Dice(seed))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_cut_is_inside_and_whole(flight in flights()) {
        let rules = Classifier::new();
        for rules in [rules, rules.vouch_for_tls_early_data(true), rules.methods(Methods::Idempotent)] {
            let class = rules.classify(&flight);
            prop_assert!(class.cut() <= flight.len());
            prop_assert_eq!(class.is_whole(), class.cut() == flight.len());
            prop_assert_eq!(class.is_whole(), class.stop().is_none());
            prop_assert_eq!(class, rules.classify(&flight.clone()));

            let again = rules.classify(&flight[..class.cut()]);
            prop_assert!(again.is_whole());
            prop_assert_eq!(again.cut(), class.cut());
            prop_assert_eq!(again.requests(), class.requests());
            if class.cut() > 0 {
                prop_assert_eq!(again.protocol(), class.protocol());
            }
        }
    }

    #[test]
    fn vouching_only_moves_the_cut_of_tls(flight in flights()) {
        let strict = FirstFlight::classify(&flight);
        let vouched = Classifier::new().vouch_for_tls_early_data(true).classify(&flight);
        prop_assert!(vouched.cut() >= strict.cut());
        prop_assert_ne!(vouched.stop(), Some(Stop::EarlyData));
        if strict.protocol() != Protocol::Tls {
            prop_assert_eq!(strict, vouched);
        }
    }

    #[test]
    fn more_methods_only_move_the_cut_back(flight in flights()) {
        let safe = FirstFlight::classify(&flight);
        let more = Classifier::new().methods(Methods::Idempotent).classify(&flight);
        prop_assert!(more.cut() >= safe.cut() && more.requests() >= safe.requests(), "{safe:?} became {more:?}");
    }

    /// What is known of the beginning stays true: a request that was counted is counted, and in front of the last
    /// byte of the last of them the cut never ends.
    #[test]
    fn more_bytes_take_nothing_back(flight in flights()) {
        let mut before = FirstFlight::classify(b"");
        for len in 1..=flight.len() {
            let class = FirstFlight::classify(&flight[..len]);
            prop_assert!(class.requests() >= before.requests(), "{before:?} became {class:?} at {len}");
            // An unfinished message may turn out to be unsafe. Bytes that were refused are never let through, but for
            // those that were too few to tell.
            let was_too_short = matches!(
                before.stop(),
                None | Some(Stop::UnfinishedMethod | Stop::MalformedFrame | Stop::UnknownProtocol | Stop::RequestBody)
            );
            prop_assert!(was_too_short || class.cut() <= before.cut(), "{before:?} became {class:?} at {len}");
            before = class;
        }
    }

    #[test]
    fn servers_agree_about_any_bytes(flight in flights()) {
        oracle::check(&flight);
        oracle::check_by(Methods::Idempotent, &flight);
    }
}
