//! Packets that are too large for the path, and packets that overtake each other.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod middleboxes_common;
mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use middleboxes_common::{
    ANSWER, Family, PATIENCE, SILENCE, Site, Went, assert_lost_a_second, assert_no_time_lost, at_once, ms,
    on_both, syns, went,
};
use support::Accepted;
use tfo_core::{ClientFail, SynSend, TcpState};
use tfo_lab::{DropOversize, Flow, Middlebox, Packet, Reorder, Verdict};

/// The largest packet that passes.
const LIMIT: u16 = 1300;

tfo_lab::lab_tests! {
    fn what_is_too_large_vanishes() {
        at_once(&[large_syns_vanish, everything_large_vanishes]);
    }

    /// The SYN without data comes at once, and the next one with data is small enough.
    fn with_icmp_no_time_is_lost() {
        on_both(|family| {
            let site = Site::warm(family);
            let drop = DropOversize::above(LIMIT).with_icmp();
            let counts = drop.counts();
            let handle = site.lab.middlebox(drop);
            site.assert_plain_is_quick();
            site.assert_rides();
            assert_eq!(counts.acted(), 0, "small ones pass");

            let request = request(1400);
            let went = visit(&site, &request);
            let (flow, _) = answered(&site, &went, &request);
            let syns = syns(&flow);
            println!("{family:?}: {:?}\n{flow}", went.visit.info.client_fail());
            assert_eq!((syns.len(), syns[0].1, syns[1].1, syns[1].2), (2, 1400, 0, false), "{flow}");
            assert!(syns[1].0 < ms(300), "at once: {flow}");
            assert_eq!(counts.acted(), 1, "the data then goes in smaller segments");
            let largest = flow.received_by_server().map(|record| record.packet().bytes().len()).max();
            assert!(largest.unwrap() <= LIMIT.into(), "{flow}");

            // The kernel knows the path's MTU now.
            let went = visit(&site, &request);
            let (flow, _) = answered(&site, &went, &request);
            let Ok(SynSend::Data(in_syn)) = went.visit.sent else { panic!("{went:?}") };
            assert!((1100..1300).contains(&in_syn), "{in_syn}: {flow}");
            println!("{family:?}: at an MTU of {LIMIT}, {in_syn} bytes go in the SYN");
            assert_eq!((went.visit.info.syn_data(), flow.syn_data_acked()), (Some(true), in_syn), "{flow}");
            assert_eq!(counts.acted(), 1);
            handle.remove();
            site.assert_rides();
        });
    }

    /// All the bytes, in order, once, and rides among the visits.
    fn what_is_overtaken_is_put_in_order() {
        on_both(|family| {
            let site = Site::warm(family);
            let reorder = Reorder::one_of_every(4, ms(8), 7413);
            let counts = reorder.counts();
            site.lab.middlebox(reorder);
            assert!(site.plain().unwrap() < ms(700));
            site.accepted();
            let request = request(4000);
            let mut rode = 0;
            for _ in 0..10 {
                let went = visit(&site, &request);
                let (flow, _) = answered(&site, &went, &request);
                assert_no_time_lost(&flow, &went);
                rode += u32::from(went.visit.info.syn_data() == Some(true));
            }
            assert_eq!(rode, 10, "reordering does not keep data out of a SYN");
            assert!(counts.acted() * 3 < counts.seen() && counts.acted() * 5 > counts.seen(), "{counts:?}");
            let bulk = bulk(&site, family);
            assert!(bulk, "later packets did overtake\n");
        });
    }

    /// With the same seed, the same packets are held back.
    fn reordering_follows_the_seed() {
        let held = |seed| {
            let mut reorder = Reorder::one_of_every(10, ms(1), seed);
            let packet = Packet::new(vec![]);
            (0..200).map(|_| matches!(reorder.handle(&packet), Verdict::Delay(_))).collect::<Vec<_>>()
        };
        assert_eq!(held(1), held(1));
        assert_ne!(held(1), held(2));
        assert!(held(1).chunks(10).all(|group| group.iter().filter(|held| **held).count() == 1));
    }
}

/// Only SYNs are expected to be small: as a dropper of data, for large requests only.
fn large_syns_vanish(family: Family) {
    let site = Site::warm(family);
    let drop = DropOversize::above(LIMIT).syns_only();
    let counts = drop.counts();
    let handle = site.lab.middlebox(drop);
    site.assert_plain_is_quick();
    site.assert_rides();
    assert_eq!(counts.acted(), 0);
    let request = request(1400);
    let went = visit(&site, &request);
    let (flow, _) = answered(&site, &went, &request);
    assert_lost_a_second(&flow, 1400);
    assert_eq!(went.visit.info.client_fail(), Some(ClientFail::SynRetransmitted));
    assert_eq!(counts.acted(), 1);
    handle.remove();
    let went = visit(&site, &request);
    answered(&site, &went, &request);
    assert_eq!(went.visit.info.syn_data(), Some(true), "without the box it rides");
}

/// A hole: the SYN without data passes, and then the data does not. Plain TCP fares no better.
fn everything_large_vanishes(family: Family) {
    let site = Site::warm(family);
    let drop = DropOversize::above(LIMIT);
    let counts = drop.counts();
    let handle = site.lab.middlebox(drop);
    site.assert_plain_is_quick();
    site.assert_rides();
    let request = request(1400);
    let (client, addr) = (&site.client, site.addr);
    let stuck = client.run(|| {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(SILENCE)).unwrap();
        stream.write_all(&request).unwrap();
        stream.read(&mut [0; 9]).is_err()
    });
    assert!(stuck, "plain TCP");
    let acted = counts.acted();
    assert!(acted >= 2, "{counts:?}");
    let went = went(client, addr, &request, SILENCE);
    went.assert_silence();
    assert_eq!(went.visit.info.state(), Some(TcpState::Established), "{went:?}");
    assert!(counts.acted() > acted + 1);
    assert!(site.serving.pending().is_none());
    handle.remove();
    site.assert_rides();
}

/// A request of so many bytes.
fn request(length: usize) -> Vec<u8> {
    let mut request: Vec<u8> = (0..length).map(|at| b'a' + (at % 26) as u8).collect();
    request[length - 4..].copy_from_slice(b"\r\n\r\n");
    request
}

fn visit(site: &Site, request: &[u8]) -> Went {
    went(&site.client, site.addr, request, PATIENCE)
}

fn answered(site: &Site, went: &Went, request: &[u8]) -> (Flow, Accepted) {
    let flow = site.flow(went);
    assert!(went.error.is_none(), "{went:?}\n{flow}");
    assert_eq!(went.visit.answer, ANSWER);
    let accepted = site.accepted();
    assert!(accepted.request == request, "other bytes: {flow}");
    assert_eq!(site.serving.extra_bytes(), 0, "{flow}");
    (flow, accepted)
}

/// 200,000 bytes arrive as they were sent; whether any of their packets arrived before an earlier one.
fn bulk(site: &Site, family: Family) -> bool {
    let addr = family.addr(&site.server, 90);
    let listener = site.server.run(|| TcpListener::bind(addr)).unwrap();
    let data = request(200_000);
    let sent = data.clone();
    let sending = site.client.spawn(move || TcpStream::connect(addr)?.write_all(&sent));
    let (mut accepted, _) = listener.accept().unwrap();
    accepted.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut got = Vec::new();
    accepted.read_to_end(&mut got).unwrap();
    sending.join().unwrap().unwrap();
    assert!(got == data);
    let flow = site.lab.tap().flow(addr).unwrap();
    let times: Vec<_> = flow.received_by_server().map(|record| record.packet().time()).collect();
    times.windows(2).any(|pair| pair[1] < pair[0])
}
