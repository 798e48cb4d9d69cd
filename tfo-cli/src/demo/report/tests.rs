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
    assert_eq!(claim(&[true; 5]), "one round trip (50.0 ms) saved on each of 5 repeat visits");
    assert_eq!(claim(&[true]), "one round trip (50.0 ms) saved on the repeat visit");
    assert_eq!(
        claim(&[true, false, true]),
        "one round trip (50.0 ms) saved on 2 of 3 repeat visits \
         (the others: no cookie for this address yet)"
    );
    assert_eq!(claim(&[false, false]), "nothing saved");
}

/// The clock may contradict the packets, and then both are told.
#[test]
fn a_busy_machine_is_called_that() {
    let place = Place::Lab { rtt: RTT };
    let mut visits = visits(&[true; 3]);
    assert_eq!(
        Report::new(&place, &visits).medians(),
        "medians: 101.0 ms plain, 51.0 ms with TCP Fast Open: 50.0 ms less"
    );
    for (late, more) in [(50, "101.0"), (70, "121.0")] {
        for visit in visits.iter_mut().filter(|visit| visit.saved_rtts > 0) {
            visit.elapsed = RTT + Duration::from_millis(1 + late);
        }
        let report = Report::new(&place, &visits);
        assert_eq!(
            report.medians(),
            format!(
                "medians: 101.0 ms plain, {more} ms with TCP Fast Open: no less.\n\
                 This machine is too busy for the clock to show what the packets do."
            )
        );
        assert_eq!(report.claim(), "one round trip (50.0 ms) saved on each of 3 repeat visits");
    }
}

#[test]
fn the_page_fits_eighty_columns() {
    let mut visits = visits(&[true; 30]);
    for (visit, reason) in visits.iter_mut().filter(|visit| visit.mode == Mode::Tfo).zip([
        Reason::Unsupported,
        Reason::TooLarge,
        Reason::NotAcked,
        Reason::Retransmitted,
        Reason::CookieVanished,
    ]) {
        (visit.saved_rtts, visit.reason, visit.elapsed) = (0, Some(reason), RTT * 36);
    }
    let page = Report::new(&Place::Lab { rtt: RTT }, &visits).table().trim_fmt();
    assert!(page.lines().all(|line| line.chars().count() <= usize::from(WIDTH)), "{page}");
    let loopback = Place::Loopback { why: String::new() };
    for (place, rides) in
        [(&Place::Lab { rtt: Duration::from_millis(900) }, [true; 25]), (&loopback, [false; 25])]
    {
        let mut visits = self::visits(&rides);
        visits.iter_mut().for_each(|visit| visit.elapsed = Duration::from_micros(1_801_400));
        let mut report = Report::new(place, &visits);
        report.problems.clear(); // with commands in them, which are not to be broken
        let page = report.page();
        assert!(page.lines().all(|line| line.chars().count() <= usize::from(WIDTH)), "{page}");
    }
}

#[test]
fn the_readme_shows_what_is_printed() {
    let readme = include_str!("../../../../README.md");
    let page = Report::new(&Place::Lab { rtt: RTT }, &visits(&[true; 5])).page();
    // All but the times, which are each run's own.
    for line in page.lines().filter(|line| !line.contains(" ms")) {
        assert!(readme.lines().any(|other| other == line), "not in README.md: {line:?}");
    }
    let rows = |text: &str| text.lines().filter(|line| line.starts_with(" repeat ")).count();
    assert_eq!((rows(readme), rows(&page)), (5, 5));
}

#[test]
fn agreeing_visits_leave_no_doubt() {
    let visits = visits(&[true, true]);
    let place = Place::Lab { rtt: RTT };
    let report = Report::new(&place, &visits);
    assert_eq!((report.doubt(), report.disagreements.len()), (None, 0));
    let page = report.page();
    assert!(
        page.contains("agree on all 6\nconnections") && page.contains("all 2 rides were answered"),
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
        assert!(report.claim().starts_with("nothing is claimed"));
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
