//! The classifier allocates nothing.

mod support;

use support::dice::Dice;
use support::generate;
use tfo_core::first_flight::{Classifier, FirstFlight, Protocol};

#[test]
fn classifying_does_not_allocate() {
    let mut protocols = Vec::new();
    for seed in 0..20_000 {
        let flight = generate::flight(&mut Dice(seed));
        let mut class = FirstFlight::classify(b"");
        let info = allocation_counter::measure(|| {
            class = Classifier::new().vouch_for_tls_early_data(true).classify(&flight);
        });
        assert_eq!((info.count_total, info.bytes_total), (0, 0), "{class:?}: {}", flight.escape_ascii());
        if !protocols.contains(&class.protocol()) {
            protocols.push(class.protocol());
        }
    }
    for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Tls, Protocol::Unknown] {
        assert!(protocols.contains(&protocol), "no case with {protocol}");
    }
}

#[test]
fn the_counter_counts() {
    let info = allocation_counter::measure(|| drop(std::hint::black_box(vec![0_u8; 100])));
    assert_eq!((info.count_total, info.bytes_total), (1, 100));
}
