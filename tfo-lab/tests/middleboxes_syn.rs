//! Middleboxes that drop, change or refuse the SYN, and what Linux makes of it.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod middleboxes_common;
mod support;

use std::io::ErrorKind;

use middleboxes_common::{
    Family, Site, about_a_second, assert_lost_a_second, assert_no_time_lost, at_once, ms, on_both, syns,
};
use support::REQUEST;
use tfo_core::{ClientFail, SynSend, TcpState};
use tfo_lab::{
    CorruptCookie, DropFastOpen, DropNthSyn, DropSynData, FastOpenSign, ResetSyn, StripFastOpen, StripSynData,
};

tfo_lab::lab_tests! {
    fn what_drops_syns_costs_a_second_each_time() {
        at_once(&[data_dropped, option_dropped, every_option_dropped, use_dropped, grants_dropped, every_second_dropped]);
    }

    fn a_stripped_option_costs_nothing() {
        on_both(|family| {
            for strip in [StripFastOpen::new(), StripFastOpen::new().experimental()] {
                let site = Site::warm(family);
                let counts = strip.counts();
                let handle = site.lab.middlebox(strip);
                site.assert_plain_is_quick();
                assert_eq!(counts.acted(), 0);
                let before = site.counters();
                let went = site.visit();
                let (flow, accepted) = site.recovered(&went, ClientFail::DataNotAcked);
                assert_no_time_lost(&flow, &went);
                assert_eq!((went.visit.info.syn_data(), accepted.info.tfo_child()), (Some(false), Some(false)));
                // The data is sent again, although nothing was lost.
                assert_eq!(went.visit.info.total_retrans(), Some(1), "{flow}");
                assert_eq!(site.counters().0.since(&before.0).active_fail, Some(1));
                assert_eq!(counts.acted(), 1);
                handle.remove();
                site.assert_rides();
            }
        });
    }

    fn stripped_data_costs_nothing() {
        on_both(|family| {
            let site = Site::warm(family);
            let strip = StripSynData::new();
            let counts = strip.counts();
            let handle = site.lab.middlebox(strip);
            site.assert_plain_is_quick();
            let went = site.visit();
            let (flow, accepted) = site.recovered(&went, ClientFail::DataNotAcked);
            assert_no_time_lost(&flow, &went);
            let arrived = flow.received_by_server().next().unwrap().packet();
            assert!(arrived.payload().is_empty() && arrived.fast_open() == flow.syn().fast_open(), "{flow}");
            // The cookie was good: a Fast Open connection without data.
            assert_eq!((accepted.info.tfo_child(), accepted.info.syn_data()), (Some(true), Some(false)));
            assert_eq!(counts.acted(), 1);
            handle.remove();
            site.assert_rides();
        });
    }

    fn a_corrupted_cookie_is_replaced_at_once() {
        on_both(|family| {
            let site = Site::warm(family);
            let corrupt = CorruptCookie::new();
            let counts = corrupt.counts();
            let handle = site.lab.middlebox(corrupt);
            site.assert_plain_is_quick();
            let before = site.counters();
            let went = site.visit();
            let (flow, accepted) = site.recovered(&went, ClientFail::DataNotAcked);
            assert_no_time_lost(&flow, &went);
            assert_eq!(accepted.info.tfo_child(), Some(false));
            let (sent, granted) = (flow.syn().fast_open(), flow.syn_ack().unwrap().fast_open());
            assert_eq!(granted, sent, "the server grants what the client had sent: {flow}");
            let arrived = flow.received_by_server().next().unwrap().packet();
            let cookie = arrived.fast_open().unwrap();
            assert!(cookie.cookie().len() == 8 && Some(cookie) != sent, "{flow}");
            assert_eq!(arrived.payload(), REQUEST);
            assert_eq!(site.counters().1.since(&before.1).passive_fail, Some(1));
            assert_eq!(counts.acted(), 1);
            handle.remove();
            site.assert_rides();
        });
    }

    fn a_cookie_corrupted_when_granted_fails_once() {
        on_both(|family| {
            let site = Site::new(family);
            let corrupt = CorruptCookie::granted();
            let counts = corrupt.counts();
            let handle = site.lab.middlebox(corrupt);
            site.get_cookie();
            assert_eq!(counts.acted(), 1);
            handle.remove();
            let went = site.visit();
            let (flow, _) = site.recovered(&went, ClientFail::DataNotAcked);
            assert_no_time_lost(&flow, &went);
            site.assert_rides();
        });
    }

    fn a_reset_refuses_and_nothing_is_remembered() {
        on_both(|family| {
            let site = Site::warm(family);
            let reset = ResetSyn::with_data();
            let counts = reset.counts();
            let handle = site.lab.middlebox(reset);
            site.assert_plain_is_quick();
            assert_eq!(counts.acted(), 0);
            for _ in 0..3 {
                let went = site.visit();
                let flow = site.flow(&went);
                assert_eq!(went.kind(), Some(ErrorKind::ConnectionRefused), "{went:?}\n{flow}");
                assert!(went.took < ms(700), "{went:?}");
                // One SYN with the data, and no other attempt.
                assert_eq!(syns(&flow), [(ms(0), REQUEST.len(), true)], "{flow}");
            }
            assert!(site.serving.pending().is_none(), "none of them reached the server");
            assert_eq!(counts.acted(), 3);
            handle.remove();
            site.assert_rides();
        });
    }

    /// Why a RST is no proof that the data was not processed.
    fn a_reset_may_hide_that_the_request_was_executed() {
        on_both(|family| {
            for reset in [ResetSyn::with_data().deliver(), ResetSyn::with_data().both_ends()] {
                let site = Site::warm(family);
                let counts = reset.counts();
                site.lab.middlebox(reset);
                site.assert_plain_is_quick();
                let went = site.visit();
                assert_eq!(went.kind(), Some(ErrorKind::ConnectionRefused), "{went:?}");
                let accepted = site.accepted();
                assert_eq!(accepted.request, REQUEST, "executed: {}", site.flow(&went));
                assert_eq!(accepted.info.tfo_child(), Some(true));
                assert_ne!(accepted.info.state(), Some(TcpState::Established));
                assert_eq!(counts.acted(), 1);
            }
        });
    }

    fn a_reset_of_any_syn_refuses_plain_tcp_too() {
        on_both(|family| {
            let site = Site::warm(family);
            let reset = ResetSyn::any();
            let counts = reset.counts();
            let handle = site.lab.middlebox(reset);
            assert_eq!(site.plain().unwrap_err().kind(), ErrorKind::ConnectionRefused);
            assert_eq!(site.visit().kind(), Some(ErrorKind::ConnectionRefused));
            assert_eq!(counts.acted(), 2);
            handle.remove();
            site.assert_rides();
        });
    }

    fn a_reset_of_the_option_refuses_the_first_visit() {
        on_both(|family| {
            let site = Site::new(family);
            let reset = ResetSyn::with_option();
            let counts = reset.counts();
            let handle = site.lab.middlebox(reset);
            site.assert_plain_is_quick();
            let went = site.visit();
            assert!(matches!(went.visit.sent, Ok(SynSend::NoCookie)), "{went:?}");
            assert_eq!((went.kind(), counts.acted()), (Some(ErrorKind::ConnectionRefused), 1));
            handle.remove();
            site.get_cookie();
            site.assert_rides();
        });
    }
}

fn data_dropped(family: Family) {
    let site = Site::warm(family);
    let drop = DropSynData::new();
    let counts = drop.counts();
    let handle = site.lab.middlebox(drop);
    site.assert_plain_is_quick();
    assert_eq!(counts.acted(), 0);
    // Again and again: nothing is learned.
    for acted in 1..=3 {
        let went = site.visit();
        let (flow, _) = site.recovered(&went, ClientFail::SynRetransmitted);
        assert_lost_a_second(&flow, REQUEST.len());
        println!("{family:?}: data dropped: answered after {:?}", went.took);
        assert_eq!((went.visit.info.syn_data(), counts.acted()), (Some(false), acted));
    }
    handle.remove();
    site.assert_rides();
}

/// A request is lost, and Linux does not even try the experimental form: it pays on every visit.
fn option_dropped(family: Family) {
    let site = Site::new(family);
    let drop = DropFastOpen::new();
    let counts = drop.counts();
    let handle = site.lab.middlebox(drop);
    site.assert_plain_is_quick();
    assert_eq!(counts.acted(), 0);
    for acted in 1..=3 {
        let went = site.visit();
        // No cookie was had, it says: that a SYN was lost shows in the retransmissions only.
        let (flow, _) = site.recovered(&went, ClientFail::CookieUnavailable);
        assert_eq!(went.visit.info.total_retrans(), Some(1), "{flow}");
        assert_lost_a_second(&flow, 0);
        let option = flow.syn().fast_open().unwrap();
        assert!(option.is_request() && !option.is_experimental(), "{flow}");
        println!("{family:?}: request dropped: answered after {:?}", went.took);
        assert_eq!(counts.acted(), acted);
    }
    handle.remove();
    site.get_cookie();
    site.assert_rides();
}

/// Linux turns to the experimental form only where option 34 was stripped.
fn every_option_dropped(family: Family) {
    let site = Site::new(family);
    let strip = site.lab.middlebox(StripFastOpen::new());
    site.get_cookie();
    strip.remove();
    let other_form = DropFastOpen::new();
    let spared = other_form.counts();
    let handle = site.lab.middlebox(other_form);
    site.get_cookie();
    site.assert_rides();
    assert_eq!(spared.acted(), 0, "option 34 only");
    handle.remove();

    let drop = DropFastOpen::new().experimental();
    let counts = drop.counts();
    let handle = site.lab.middlebox(drop);
    site.assert_plain_is_quick();
    for acted in 1..=2 {
        let went = site.visit();
        let (flow, _) = site.recovered(&went, ClientFail::SynRetransmitted);
        assert!(flow.syn().fast_open().unwrap().is_experimental(), "{flow}");
        assert_lost_a_second(&flow, REQUEST.len());
        assert_eq!(counts.acted(), acted);
    }
    handle.remove();
    site.assert_rides();
}

/// A cookie is had, and each use of it dropped.
fn use_dropped(family: Family) {
    let site = Site::new(family);
    let drop = DropFastOpen::new().spare_requests();
    let counts = drop.counts();
    let handle = site.lab.middlebox(drop);
    site.get_cookie();
    assert_eq!(counts.acted(), 0);
    let went = site.visit();
    let (flow, _) = site.recovered(&went, ClientFail::SynRetransmitted);
    assert_lost_a_second(&flow, REQUEST.len());
    assert_eq!(counts.acted(), 1);
    handle.remove();
    site.assert_rides();
}

fn grants_dropped(family: Family) {
    let site = Site::new(family);
    let drop = DropFastOpen::new().spare_requests().grants();
    let counts = drop.counts();
    site.lab.middlebox(drop);
    site.assert_plain_is_quick();
    let went = site.visit();
    let flow = site.flow(&went);
    went.assert_answered();
    println!("{family:?}: grant dropped: {:?}, after {:?}", went.visit.info.client_fail(), went.took);
    let syn_acks = flow.sent_by_server().filter(|record| record.packet().is_syn_ack());
    let granting: Vec<_> = syn_acks.map(|record| record.packet().fast_open().is_some()).collect();
    assert!(granting[0] && granting.len() > 1 && granting[1..].contains(&false), "{flow}");
    assert!(about_a_second(went.took), "{went:?}\n{flow}");
    assert!(counts.acted() >= 1);
}

fn every_second_dropped(family: Family) {
    let site = Site::warm(family);
    let drop = DropNthSyn::every(2);
    let counts = drop.counts();
    let handle = site.lab.middlebox(drop);
    // The first passes, the second is dropped; its retransmission passes, and so on.
    site.assert_rides();
    let went = site.visit();
    let (flow, _) = site.recovered(&went, ClientFail::SynRetransmitted);
    assert_lost_a_second(&flow, REQUEST.len());
    // Plain TCP fares as badly.
    let took = site.plain().unwrap();
    assert!(about_a_second(took), "{took:?}");
    site.accepted();
    assert_eq!(counts.acted(), 2);
    handle.remove();

    // Only those with data count.
    let handle = site.lab.middlebox(DropNthSyn::every(2).first().sign(FastOpenSign::Data));
    site.assert_plain_is_quick();
    site.recovered(&site.visit(), ClientFail::SynRetransmitted);
    site.assert_rides();
    handle.remove();
}
