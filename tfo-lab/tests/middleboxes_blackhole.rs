//! Middleboxes that let the handshake pass and then go silent, or go silent for good.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod middleboxes_common;
mod support;

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;

use middleboxes_common::{
    ANSWER, Family, RTT, SILENCE, Serving, Site, at_once, ms, on_both, plain, syns, went,
};
use socket2::{Domain, Socket, Type};
use support::REQUEST;
use tfo_core::{ClientFail, SynSend, TcpState, send_syn};
use tfo_lab::{
    AfterFastOpen, BlackholeAnswers, BlackholeClient, DelayFastOpen, DropSynData, FastOpenSign, Lab,
};

tfo_lab::lab_tests! {
    fn what_goes_silent_after_the_handshake() {
        at_once(&[answers_blackholed, answers_to_the_option_blackholed, turned_bad, turned_into_a_dropper]);
    }

    fn what_punishes_the_client() {
        at_once(&[client_blackholed, pair_blackholed, client_blackholed_everywhere, later_flows_blackholed, relenting]);
    }

    fn a_delay_looks_like_a_slow_server() {
        on_both(|family| {
            let site = Site::warm(family);
            let delay = DelayFastOpen::by(ms(200));
            let counts = delay.counts();
            let handle = site.lab.middlebox(delay);
            for _ in 0..2 {
                let took = site.plain().unwrap();
                site.accepted();
                assert!(took < ms(390), "not delayed twice: {took:?}");
            }
            assert_eq!(counts.acted(), 0);
            let went = site.visit();
            let (flow, _) = site.recovered(&went, ClientFail::Unspecified);
            // Acked in time, and the answer late.
            assert_eq!((went.visit.info.syn_data(), syns(&flow).len()), (Some(true), 1));
            let times: Vec<_> = flow.received_by_client().map(|record| record.time()).collect();
            assert!(times[0] - flow.records()[0].time() < ms(190), "{flow}");
            let late = flow.first_response_byte_received().unwrap().time() - times[0];
            assert!(late >= ms(190), "{late:?}: {flow}");
            assert!(went.took < ms(900), "{went:?}");
            assert!(counts.acted() >= 3);
            handle.remove();
            site.assert_rides();
        });
    }
}

/// The kernel calls it success.
fn answers_blackholed(family: Family) {
    let site = Site::warm(family);
    let blackhole = BlackholeAnswers::new();
    let counts = blackhole.counts();
    let handle = site.lab.middlebox(blackhole);
    site.assert_plain_is_quick();
    assert_eq!(counts.acted(), 0);
    let before = site.counters();
    let went = site.hopeless_visit();
    went.assert_silence();
    let info = &went.visit.info;
    assert_eq!((info.state(), info.syn_data()), (Some(TcpState::Established), Some(true)));
    assert_eq!(info.client_fail(), Some(ClientFail::Unspecified));
    let counted = site.counters().0.since(&before.0);
    assert_eq!((counted.active, counted.active_fail), (Some(1), Some(0)));
    assert_eq!(site.accepted().request, REQUEST, "executed");
    let flow = site.lab.tap().flow(went.local).unwrap();
    assert_eq!(syns(&flow).len(), 1, "{flow}");
    assert!(flow.received_by_client().all(|record| record.packet().is_syn_ack()), "{flow}");
    // The server tries again and again.
    let answers = flow.sent_by_server().filter(|record| record.packet().payload() == ANSWER).count();
    assert!(answers >= 2 && counts.acted() >= 2, "{flow}");
    println!("{family:?}: blackholed: the answer was sent {answers} times within {SILENCE:?}");
    site.assert_plain_is_quick();
    handle.remove();
    site.assert_rides();
}

/// Asking for a cookie is enough; and the other direction is gone too.
fn answers_to_the_option_blackholed(family: Family) {
    let site = Site::new(family);
    let blackhole = BlackholeAnswers::new().sign(FastOpenSign::Option).both_ways();
    let counts = blackhole.counts();
    let handle = site.lab.middlebox(blackhole);
    site.assert_plain_is_quick();
    let went = site.hopeless_visit();
    went.assert_silence();
    assert!(matches!(went.visit.sent, Ok(SynSend::NoCookie)), "{went:?}");
    assert_eq!(went.visit.info.state(), Some(TcpState::Established));
    assert!(site.serving.pending().is_none(), "the request did not arrive");
    assert!(counts.acted() >= 2);
    handle.remove();
    site.assert_rides();
}

/// Two connections ride; from the third on the path swallows answers. What was there before goes on.
fn turned_bad(family: Family) {
    let site = Site::warm(family);
    let blackhole = BlackholeAnswers::new();
    let (inner, path) = (blackhole.counts(), AfterFastOpen::connections(2, blackhole));
    let counts = path.counts();
    let handle = site.lab.middlebox(path);
    site.assert_rides();
    site.assert_plain_is_quick();
    let before = open(&site);
    assert_eq!((counts.acted(), inner.seen()), (0, 0));
    site.hopeless_visit().assert_silence();
    assert_eq!(site.accepted().request, REQUEST, "executed");
    assert!(counts.acted() >= 2 && counts.acted() == inner.acted());
    before();
    site.accepted();
    site.assert_plain_is_quick();
    handle.remove();
    site.assert_rides();
}

/// Opens a connection by a ride, of which the answer is still to be asked for.
fn open(site: &Site) -> impl FnOnce() {
    let begun = &REQUEST[..REQUEST.len() - 2];
    let addr = site.addr;
    let socket = site.client.run(|| {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
        let sent = send_syn(&socket, &addr, &[IoSlice::new(begun)]).unwrap();
        assert_eq!(sent, SynSend::Data(begun.len()));
        socket
    });
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    let serving = &site.serving;
    move || {
        stream.write_all(b"\r\n").unwrap();
        let mut answer = vec![0; ANSWER.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!((&answer[..], serving.extra_bytes()), (ANSWER, 0));
    }
}

fn turned_into_a_dropper(family: Family) {
    let site = Site::warm(family);
    let path = AfterFastOpen::connections(1, DropSynData::new());
    let counts = path.counts();
    site.lab.middlebox(path);
    site.assert_rides();
    assert_eq!(counts.acted(), 0);
    site.recovered(&site.visit(), ClientFail::SynRetransmitted);
    assert_eq!(counts.acted(), 1);
}

/// One SYN with data, and nothing of that client passes any more.
fn client_blackholed(family: Family) {
    let site = Site::warm(family);
    let blackhole = BlackholeClient::new();
    let (counts, blacklist) = (blackhole.counts(), blackhole.blacklist());
    let handle = site.lab.middlebox(blackhole);
    site.assert_plain_is_quick();
    assert!(counts.acted() == 0 && blacklist.is_empty());
    let went = site.hopeless_visit();
    went.assert_silence();
    assert_eq!(went.visit.info.state(), Some(TcpState::SynSent));
    let flow = site.flow(&went);
    // Even the SYNs that the kernel sends again without data are gone.
    let syns = syns(&flow);
    assert_eq!((syns.len(), syns[0].1, syns[1].1), (3, REQUEST.len(), 0), "{flow}");
    assert_eq!(flow.received_by_server().count(), 0, "{flow}");
    assert_eq!((blacklist.len(), counts.acted()), (1, 3));
    assert_eq!(site.plain().unwrap_err().kind(), ErrorKind::TimedOut, "plain TCP too");
    assert!(counts.acted() > 3);
    blacklist.relent();
    site.assert_plain_is_quick();
    assert!(blacklist.is_empty());
    // It has forgiven, not forgotten how.
    site.hopeless_visit().assert_silence();
    handle.remove();
    site.assert_rides();
}

/// Another server is still reached.
fn pair_blackholed(family: Family) {
    second_server(family, BlackholeClient::new().per_pair(), true);
}

/// No other server is reached either.
fn client_blackholed_everywhere(family: Family) {
    second_server(family, BlackholeClient::new(), false);
}

fn second_server(family: Family, blackhole: BlackholeClient, reached: bool) {
    let builder = Lab::builder().host("client").host("server").host("other").rtt(RTT);
    let site = Site::build(builder, family);
    site.get_cookie();
    site.assert_rides();
    let other = site.lab.host("other");
    let addr = family.addr(&other, 80);
    let serving = Serving::start(&other, addr);
    let counts = blackhole.counts();
    site.lab.middlebox(blackhole);
    site.hopeless_visit().assert_silence();
    assert_eq!(plain(&site.client, addr).is_ok(), reached, "{}", site.lab.tap().ladder());
    assert_eq!(serving.pending().is_some(), reached);
    assert_eq!(site.plain().unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(counts.acted() >= 4);
}

/// What gives the client away still succeeds; the next connections do not.
fn later_flows_blackholed(family: Family) {
    let site = Site::warm(family);
    let blackhole = BlackholeClient::new().later_flows_only();
    let (counts, blacklist) = (blackhole.counts(), blackhole.blacklist());
    let handle = site.lab.middlebox(blackhole);
    site.assert_plain_is_quick();
    site.assert_rides();
    assert_eq!((blacklist.len(), counts.acted()), (1, 0));
    site.hopeless_visit().assert_silence();
    assert_eq!(site.plain().unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(counts.acted() >= 4);
    handle.remove();
    site.assert_rides();
}

/// The punishment ends by itself; with the option as the sign, asking for a cookie is enough for it.
fn relenting(family: Family) {
    let site = Site::new(family);
    let blackhole = BlackholeClient::new().sign(FastOpenSign::Option).lasting(ms(400));
    let counts = blackhole.counts();
    let handle = site.lab.middlebox(blackhole);
    site.assert_plain_is_quick();
    assert_eq!(counts.acted(), 0);
    // The SYN that the kernel sends again after a second has no option, and meets a box that has relented.
    let went = site.visit();
    site.recovered(&went, ClientFail::CookieUnavailable);
    assert_eq!(counts.acted(), 1);
    site.assert_plain_is_quick();
    let asked = went.visit.info.total_retrans();
    assert_eq!(asked, Some(1));
    handle.remove();
    let second = went_again(&site);
    assert!(second, "a cookie is had in the end");
}

/// Visits until one rides.
fn went_again(site: &Site) -> bool {
    (0..3).any(|_| {
        let went = went(&site.client, site.addr, REQUEST, SILENCE);
        went.assert_answered();
        site.accepted();
        matches!(went.visit.sent, Ok(SynSend::Data(_))) && went.visit.info.syn_data() == Some(true)
    })
}
