//! Any bytes as a first flight: the classifier against real servers, as in `tests/first_flight_differential.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tfo_core::first_flight::{Classifier, FirstFlight, Methods};

#[path = "../../tests/support/mod.rs"]
mod support;

use support::oracle;

fuzz_target!(|input: &[u8]| {
    // The first byte says where the SYN ends, so that mutations can move it without moving anything else.
    let Some((&end, flight)) = input.split_first() else {
        return;
    };
    oracle::check(flight);
    let beginning = &flight[..flight.len() * usize::from(end) / 255];
    oracle::check(beginning);
    oracle::check_by(Methods::Idempotent, flight);
    oracle::check_by(Methods::Idempotent, beginning);
    let (fewer, more) = (FirstFlight::classify(beginning), FirstFlight::classify(flight));
    assert!(fewer.requests() <= more.requests(), "{fewer:?} became {more:?}");
    let vouched = Classifier::new().vouch_for_tls_early_data(true).classify(flight);
    assert!(vouched.cut() >= more.cut() && vouched.cut() <= flight.len());
});
