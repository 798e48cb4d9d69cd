//! The first ride: a request in the SYN over plain sockets, seen by everybody who can see it.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::time::Duration;

use support::{REQUEST, Until, answer, assert_exchanged, flows, listen, rode, serve, visit};
use tfo_core::{Ability, ClientFail, Counters, Support, SynSend, TcpState};
use tfo_lab::{HoldProof, Host, Lab, lab_tests};

const RTT: Duration = Duration::from_millis(20);
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

lab_tests! {
    fn the_second_visit_rides() {
        for family in FAMILIES {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            lab.middlebox(HoldProof::new());
            let (client, server) = (lab.host("client"), lab.host("server"));
            let before = (counters(&client), counters(&server));
            let served = serve(&server, family.addr(&server), Until::EmptyLine, 2);
            let visits = [(); 2].map(|()| visit(&client, family.addr(&server), REQUEST));
            let accepted = served.join().unwrap();
            let flows = flows(&lab, 80);
            for (visit, accepted) in visits.iter().zip(&accepted) {
                assert_exchanged(REQUEST, visit, accepted);
            }

            // The first visit's SYN asks for a cookie and carries nothing; the SYN-ACK brings it.
            let option = flows[0].syn().fast_open().expect("a request for a cookie");
            assert!(option.is_request() && flows[0].syn().payload().is_empty(), "{}", flows[0]);
            let cookie = flows[0].syn_ack().unwrap().fast_open().expect("a cookie").cookie().to_vec();
            assert_eq!(visits[0].info.client_fail(), Some(ClientFail::CookieUnavailable));
            assert!(rode(REQUEST, &visits[0], &accepted[0], &flows[0]).is_err());

            // The second visit's SYN carries that cookie and the request.
            rode(REQUEST, &visits[1], &accepted[1], &flows[1]).unwrap();
            assert_eq!(flows[1].syn().fast_open().unwrap().cookie(), cookie);
            assert_eq!(visits[1].info.client_fail(), Some(ClientFail::Unspecified));
            let rtt = visits[1].info.rtt().unwrap();
            assert!(rtt >= RTT, "{rtt:?}");

            let (client, server) = (counters(&client).since(&before.0), counters(&server).since(&before.1));
            assert_eq!((client.active, client.active_fail), (Some(1), Some(0)));
            assert_eq!((server.passive, server.cookie_reqd), (Some(1), Some(1)));
        }
    }

    /// The same, with the client's bit off: the exchange succeeds, and the assertion that it rode fails.
    fn without_the_client_bit_nothing_rides_and_the_assertion_says_so() {
        for family in FAMILIES {
            let lab = Lab::builder().rtt(RTT).fastopen("client", 2).build().unwrap();
            lab.middlebox(HoldProof::new());
            let (client, server) = (lab.host("client"), lab.host("server"));
            let served = serve(&server, family.addr(&server), Until::EmptyLine, 2);
            let visits = [(); 2].map(|()| visit(&client, family.addr(&server), REQUEST));
            let accepted = served.join().unwrap();
            let flows = flows(&lab, 80);
            for ((visit, accepted), flow) in visits.iter().zip(&accepted).zip(&flows) {
                assert_exchanged(REQUEST, visit, accepted);
                let denied = rode(REQUEST, visit, accepted, flow).unwrap_err();
                assert!(denied.starts_with("not so: sendmsg took the whole request"), "{denied}");
                assert!(!flow.answered_before_any_further_client_packet(), "{flow}");
            }
        }
    }

    /// What fits: one segment, less the 40 bytes that Linux keeps for options.
    fn exactly_one_segment_rides() {
        for mtu in [1280, 1500, 9000] {
            for (family, headers) in [(Family::V4, 20 + 20), (Family::V6, 40 + 20)] {
                let fits = usize::from(mtu) - headers - 40;
                for length in [fits, fits + 1] {
                    let lab = Lab::builder().rtt(RTT).mtu(mtu).build().unwrap();
                    lab.middlebox(HoldProof::new());
                    let (client, server) = (lab.host("client"), lab.host("server"));
                    let served = serve(&server, family.addr(&server), Until::Bytes(length), 2);
                    let request: Vec<u8> = (0..length).map(|at| b'a' + (at % 26) as u8).collect();
                    let visits = [(); 2].map(|()| visit(&client, family.addr(&server), &request));
                    let accepted = served.join().unwrap();
                    let flows = flows(&lab, 80);
                    assert_exchanged(&request, &visits[1], &accepted[1]);
                    let what = format!("MTU {mtu}, {family:?}, {length} bytes:\n{}", flows[1]);
                    assert_eq!(visits[1].sent.as_ref().unwrap(), &SynSend::Data(fits), "{what}");
                    assert_eq!(flows[1].syn().payload(), &request[..fits], "{what}");
                    assert_eq!(flows[1].syn().bytes().len(), usize::from(mtu) - spare(&flows[1]), "{what}");
                    let whole = rode(&request, &visits[1], &accepted[1], &flows[1]);
                    assert_eq!(whole.is_ok(), length == fits, "{what}{whole:?}");
                }
            }
        }
    }

    /// A server that is late, as on a busy machine: it looks when the client's ACK is under way, or there.
    fn a_late_server_accepts_in_syn_recv_if_the_proof_is_held_back() {
        for held in [false, true] {
            let lab = Lab::builder().rtt(Duration::from_millis(4)).build().unwrap();
            let (client, server) = (lab.host("client"), lab.host("server"));
            let addr = server.addr(80);
            let listener = listen(&server, addr);
            if held {
                lab.middlebox(HoldProof::new());
            }
            let visits = client.spawn({
                let client = client.clone();
                move || [(); 2].map(|()| visit(&client, addr, REQUEST))
            });
            answer(&listener, Until::EmptyLine).unwrap();
            let acked = lab.tap().wait_until(Duration::from_secs(10), |tap| {
                let flows = tap.flows_of(80);
                let is_more = |record: &tfo_lab::Record| !record.packet().is_syn();
                flows.get(1).is_some_and(|flow| match held {
                    true => flow.sent_by_client().any(is_more),
                    false => flow.received_by_server().any(is_more),
                })
            });
            assert!(acked, "{}", lab.tap().ladder());
            std::thread::sleep(Duration::from_millis(30));
            let accepted = answer(&listener, Until::EmptyLine).unwrap();
            let visits = visits.join().unwrap();
            let expected = if held { TcpState::SynRecv } else { TcpState::Established };
            assert_eq!(accepted.info.state(), Some(expected), "held {held}");
            let rode = rode(REQUEST, &visits[1], &accepted, &flows(&lab, 80)[1]);
            assert_eq!(rode.is_ok(), held, "{rode:?}");
        }
    }

    /// Sixteen hosts: each side's setting from 0 to 3.
    fn every_setting_exchanges_and_everybody_agrees_on_why() {
        for client_bits in 0..4 {
            for server_bits in 0..4 {
                for family in FAMILIES {
                    sixteenth(client_bits, server_bits, family);
                }
            }
        }
    }
}

fn sixteenth(client_bits: u32, server_bits: u32, family: Family) {
    let builder = Lab::builder().rtt(Duration::from_millis(4));
    let lab = builder.fastopen("client", client_bits).fastopen("server", server_bits).build().unwrap();
    lab.middlebox(HoldProof::new());
    let (client, server) = (lab.host("client"), lab.host("server"));
    let addr = family.addr(&server);
    let served = serve(&server, addr, Until::EmptyLine, 2);
    let visits = [(); 2].map(|()| visit(&client, addr, REQUEST));
    let accepted = served.join().unwrap();
    let flows = flows(&lab, 80);
    let (asks, grants) = (client_bits & 1 != 0, server_bits & 2 != 0);
    let what = format!("client {client_bits}, server {server_bits}, {family:?}:\n{}{}", flows[0], flows[1]);

    for (visit, accepted) in visits.iter().zip(&accepted) {
        assert_exchanged(REQUEST, visit, accepted);
    }
    // `Support` knew it before.
    let ability = |works| if works { Ability::Works } else { Ability::Off };
    assert_eq!(client.run(Support::probe).client, ability(asks), "{what}");
    assert_eq!(server.run(Support::probe).server, ability(grants), "{what}");
    // The client's socket: refused, no cookie, or a ride.
    match (&visits[1].sent, asks, grants) {
        (Err(error), false, _) => assert!(error.is_unsupported(), "{what}"),
        (Ok(SynSend::NoCookie), true, false) => {
            assert_eq!(visits[1].info.client_fail(), Some(ClientFail::CookieUnavailable), "{what}");
        }
        (Ok(SynSend::Data(_)), true, true) => {}
        (other, ..) => panic!("{other:?}: {what}"),
    }
    // The wire: the option is there if the client's bit is on, a cookie if the server's is on too.
    for flow in &flows {
        assert_eq!(flow.syn().fast_open().is_some(), asks, "{what}");
        let granted = flow.syn_ack().unwrap().fast_open().is_some_and(|option| !option.is_request());
        let first = flow.client() == flows[0].client();
        assert_eq!(granted, asks && grants && first, "{what}");
    }
    let ride = rode(REQUEST, &visits[1], &accepted[1], &flows[1]);
    assert_eq!(ride.is_ok(), asks && grants, "{what}{ride:?}");
}

#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn addr(self, host: &Host) -> std::net::SocketAddr {
        match self {
            Self::V4 => host.addr(80),
            Self::V6 => host.addr_v6(80),
        }
    }
}

fn counters(host: &Host) -> Counters {
    host.run(|| Counters::read().unwrap())
}

/// What the SYN's own options leave of the 40 bytes that Linux keeps for them.
fn spare(flow: &tfo_lab::Flow) -> usize {
    let syn = flow.syn();
    let ip_header = if flow.client().is_ipv4() { 20 } else { 40 };
    40 - (syn.bytes().len() - syn.payload().len() - ip_header - 20)
}
