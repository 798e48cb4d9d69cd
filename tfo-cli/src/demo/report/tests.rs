use tfo_http::Reason;

use super::*;

const RTT: Duration = Duration::from_millis(50);

fn visit(number: u32, mode: Mode, rides: bool) -> Visit {
    let bytes = if rides { 34 } else { 0 };
    Visit {
        number,
        mode,
        elapsed: RTT * if rides { 1 } else { 2 } + Duration::from_millis(1),
        local_addr: Some(([10, 0, 0, 1], 1000).into()),
        outcome: match (mode, rides) {
            (Mode::Plain, _) => SynOutcome::Plain,
            (Mode::Tfo, true) => SynOutcome::SynDataAcked,
            (Mode::Tfo, false) => SynOutcome::CookieRequested,
        },
        reason: match (mode, rides) {
            (Mode::Plain, _) => Some(Reason::Off),
            (Mode::Tfo, true) => None,
            (Mode::Tfo, false) => Some(Reason::NoCookie),
        },
        syn_data_bytes: bytes,
        first_flight_bytes: rides.then_some(bytes),
        handshake_rtt: Some(RTT),
        saved_rtts: u32::from(rides),
        saved: if rides { RTT } else { Duration::ZERO },
        server_saw_syn_data: Some(rides),
        packets: Some(Packets {
            syn_data_bytes: bytes,
            syn_data_acked_bytes: bytes,
            delivered_in_syn: rides,
            answered_early: rides,
        }),
    }
}

/// A first visit, and one repeat visit for each answer to "does it ride?".
fn visits(rides: &[bool]) -> Vec<Visit> {
    let rides = [&[false], rides].concat();
    let pair = |(number, rides)| [visit(number, Mode::Plain, false), visit(number, Mode::Tfo, rides)];
    (1..).zip(rides).flat_map(pair).collect()
}

fn claim(rides: &[bool]) -> String {
    Report::new(&Place::Lab { rtt: RTT }, &visits(rides)).claim()
}

#[test]
fn the_claim_is_what_was_measured() {
    assert_eq!(
        claim(&[true; 5]),
        "repeat visits: 101.0 ms plain, 51.0 ms with TCP Fast Open: one round trip (50.0 ms) saved on each of 5"
    );
    assert_eq!(
        claim(&[true]),
        "repeat visit: 101.0 ms plain, 51.0 ms with TCP Fast Open: one round trip (50.0 ms) saved"
    );
    assert_eq!(
        claim(&[true, false, true]),
        "repeat visits: 101.0 ms plain, 51.0 ms with TCP Fast Open: one round trip saved on 2 of 3 \
         (the others: no cookie for this address yet)"
    );
    assert!(claim(&[false, false]).ends_with("101.0 ms with TCP Fast Open: nothing saved"));
}

#[test]
fn agreeing_visits_leave_no_doubt() {
    let visits = visits(&[true, true]);
    let place = Place::Lab { rtt: RTT };
    let report = Report::new(&place, &visits);
    assert_eq!((report.doubt(), report.disagreements.len()), (None, 0));
    let page = report.page();
    assert!(
        page.contains("agree on all 6 connections") && page.contains("all 2 rides were answered"),
        "{page}"
    );
    assert!(page.ends_with(&report.claim()));
}

#[test]
fn whoever_contradicts_the_others_is_quoted() {
    type Change = fn(&mut Visit);
    let contradictions: [(&str, Change); 8] = [
        ("the server says that no data", |visit| visit.server_saw_syn_data = Some(false)),
        ("the server has not seen", |visit| visit.server_saw_syn_data = None),
        ("carried 12 bytes", |visit| visit.packets.as_mut().unwrap().syn_data_bytes = 12),
        ("acked 0 bytes", |visit| visit.packets.as_mut().unwrap().syn_data_acked_bytes = 0),
        ("do not show that", |visit| visit.packets.as_mut().unwrap().delivered_in_syn = false),
        ("not on the wire", |visit| visit.packets = None),
        ("the server says that data", |visit| visit.outcome = SynOutcome::SynDataNotAcked),
        ("carried 34 bytes", |visit| visit.syn_data_bytes = 12),
    ];
    for (says, change) in contradictions {
        let mut visits = visits(&[true]);
        change(&mut visits[3]);
        let place = Place::Lab { rtt: RTT };
        let report = Report::new(&place, &visits);
        assert!(report.claim().ends_with("nothing is claimed, because the evidence disagrees"));
        let doubt = report.doubt().expect(says);
        assert!(
            doubt.starts_with("the evidence disagrees: visit 2") && doubt.contains(says),
            "{says}: {doubt}"
        );
    }
}

#[test]
fn a_plain_visit_must_be_plain_on_the_wire() {
    let mut visits = visits(&[true]);
    visits[2].packets.as_mut().unwrap().answered_early = true;
    let place = Place::Lab { rtt: RTT };
    assert!(Report::new(&place, &visits).doubt().unwrap().contains("visit 2 (plain)"));
}

#[test]
fn a_lab_in_which_nothing_was_saved_is_a_failure_and_loopback_is_not() {
    let visits = visits(&[false, false]);
    let lab = Place::Lab { rtt: RTT };
    let doubt = Report::new(&lab, &visits).doubt();
    assert_eq!(doubt.as_deref(), Some("no repeat visit saved a round trip: no cookie for this address yet"));
    let loopback = Place::Loopback { why: "no tun".to_owned() };
    let report = Report::new(&loopback, &visits);
    assert_eq!(report.doubt(), None);
    assert!(report.claim().ends_with("0 of 2 rode in the SYN, but loopback has no round trip worth saving"));
}

#[test]
fn medians() {
    assert_eq!(median(vec![3, 1, 2]), 2);
    assert_eq!(median(vec![4, 1, 2, 3]), 2);
    assert_eq!(median(vec![10, 20]), 15);
    assert_eq!(median(vec![7]), 7);
    assert_eq!(median(Vec::new()), 0);
}
