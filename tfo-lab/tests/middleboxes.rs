//! The middleboxes: each does what its name says, on both address families, to checksums too.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use common::{ANSWER, PATIENCE, Server, request};
use tfo_lab::{
    DropSynData, DuplicateSyn, Flow, HoldProof, Host, Lab, LabError, Packet, StripFastOpen, Verdict,
};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn lab() -> (Lab, Host, Host) {
    let lab = Lab::builder().rtt(ms(10)).build().unwrap();
    let (client, server) = (lab.host("client"), lab.host("server"));
    (lab, client, server)
}

fn both(server: &Host) -> [SocketAddr; 2] {
    [server.addr(80), server.addr_v6(80)]
}

/// The connection of a request, after it has ended.
fn flow(lab: &Lab, port: u16) -> Flow {
    assert!(lab.tap().wait_quiet(ms(30), PATIENCE));
    lab.tap().flow(port).unwrap()
}

tfo_lab::lab_tests! {
    fn without_any_the_second_request_rides() {
        let (lab, client, server) = lab();
        lab.middlebox(HoldProof::new());
        for addr in both(&server) {
            let serving = Server::start(&server, addr);
            let first = request(&client, addr, b"first").unwrap();
            let flow_of_first = flow(&lab, first.port);
            assert_eq!(first.in_syn, 0);
            assert!(flow_of_first.syn().fast_open().unwrap().is_request(), "{flow_of_first}");
            let cookie = flow_of_first.syn_ack().unwrap().fast_open().unwrap();
            assert_eq!(cookie.cookie().len(), 8);
            assert!(!flow_of_first.request_delivered_in_syn());
            assert!(!flow_of_first.answered_before_any_further_client_packet());

            let second = request(&client, addr, b"second").unwrap();
            let flow = flow(&lab, second.port);
            assert_eq!((second.in_syn, flow.syn().payload()), (6, &b"second"[..]));
            assert_eq!(flow.syn().fast_open(), Some(cookie));
            assert_eq!(flow.syn_data_acked(), 6);
            assert!(flow.request_delivered_in_syn(), "{flow}");
            assert!(flow.answered_before_any_further_client_packet(), "{flow}");
            assert_eq!(flow.first_response_byte_received().unwrap().packet().payload(), ANSWER);
            let served = (serving.request().unwrap(), serving.request().unwrap());
            assert_eq!(served, (b"first".into(), b"second".into()));
        }
    }

    fn flushed_cookies_are_gone() {
        let (_lab, client, server) = lab();
        let _serving = Server::start(&server, server.addr(80));
        request(&client, server.addr(80), b"x").unwrap();
        match client.flush_cookies() {
            Ok(()) => assert_eq!(request(&client, server.addr(80), b"x").unwrap().in_syn, 0),
            // A rootless lab may not.
            Err(error) => assert!(matches!(error, LabError::FlushDenied { .. }), "{error}"),
        }
        assert_eq!(request(&client, server.addr(80), b"x").unwrap().in_syn, 1);
    }

    fn drop_syn_data_drops_syns_with_data_only() {
        let (lab, client, server) = lab();
        for addr in both(&server) {
            let serving = Server::start(&server, addr);
            let handle = lab.middlebox(DropSynData::new());
            // A cookie request has no data.
            request(&client, addr, b"first").unwrap();
            let second = request(&client, addr, b"second").unwrap();
            let flow_of_second = flow(&lab, second.port);
            assert_eq!((second.in_syn, second.answer), (6, ANSWER.to_vec()));
            assert_eq!(flow_of_second.syn().payload(), b"second");
            // What arrived is the kernel's second SYN.
            let arrived = flow_of_second.received_by_server().next().unwrap().packet();
            assert!(arrived.is_syn() && arrived.payload().is_empty(), "{flow_of_second}");
            assert!(flow_of_second.to_string().contains("never arrived"), "{flow_of_second}");
            handle.remove();
            let third = request(&client, addr, b"third").unwrap();
            assert!(flow(&lab, third.port).request_delivered_in_syn());
            assert_eq!(serving.request().unwrap(), b"first");
        }
        assert_eq!(lab.stats().dropped, 2);
    }

    fn strip_fastopen_strips_the_option_and_keeps_the_checksum() {
        let (lab, client, server) = lab();
        lab.middlebox(StripFastOpen::new().experimental());
        for addr in both(&server) {
            let _serving = Server::start(&server, addr);
            for _ in 0..4 {
                let went = request(&client, addr, b"x").unwrap();
                let flow = flow(&lab, went.port);
                assert_eq!(went.in_syn, 0, "no cookie ever comes: {flow}");
                assert!(flow.syn().fast_open().is_some(), "{flow}");
                let arrived = flow.received_by_server().next().unwrap().packet();
                assert_eq!(arrived.fast_open(), None);
                let shape = |packet: &Packet| (packet.mss(), packet.bytes().len());
                assert_eq!(shape(arrived), shape(flow.syn()));
                // The first SYN was good enough for the kernel, so its checksum was right.
                let syns = flow.sent_by_client().filter(|record| record.packet().is_syn());
                assert_eq!(syns.count(), 1, "{flow}");
            }
        }
    }

    fn strip_fastopen_by_itself_leaves_the_experimental_option() {
        let (lab, client, server) = lab();
        let _serving = Server::start(&server, server.addr(80));
        lab.middlebox(StripFastOpen::new());
        let went: Vec<_> = (0..3).map(|_| request(&client, server.addr(80), b"x").unwrap()).collect();
        assert_eq!(went.iter().map(|went| went.in_syn).collect::<Vec<_>>(), [0, 0, 1]);
        let rode = flow(&lab, went[2].port);
        assert!(rode.syn().fast_open().unwrap().is_experimental(), "{rode}");
        assert!(rode.request_delivered_in_syn(), "{rode}");
    }

    fn duplicate_syn_duplicates() {
        let (lab, client, server) = lab();
        for addr in both(&server) {
            let serving = Server::start(&server, addr);
            request(&client, addr, b"first").unwrap();
            lab.clear_middleboxes();
            lab.middlebox(DuplicateSyn::after(ms(2)));
            let went = request(&client, addr, b"second").unwrap();
            let flow = flow(&lab, went.port);
            let syns = flow.received_by_server().filter(|record| record.packet().payload() == b"second");
            assert_eq!(syns.count(), 2, "{flow}");
            let served = (serving.request().unwrap(), serving.request().unwrap());
            assert_eq!(served, (b"first".into(), b"second".into()));
            assert_eq!(serving.pending_request(), None, "the connection was alive");
        }
    }

    fn a_kept_syn_delivers_its_data_again_after_the_client_has_closed() {
        let (lab, client, server) = lab();
        let serving = Server::start(&server, server.addr(80));
        request(&client, server.addr(80), b"first").unwrap();
        let duplicates = DuplicateSyn::keep();
        let captured = duplicates.captured();
        lab.middlebox(duplicates);
        let went = request(&client, server.addr(80), b"pay").unwrap();
        assert_eq!((serving.request().unwrap(), serving.request().unwrap()), (b"first".into(), b"pay".into()));
        flow(&lab, went.port);
        assert_eq!(serving.pending_request(), None);

        lab.inject("client", captured.latest().unwrap());
        let again = serving.request();
        assert_eq!(again.as_deref(), Some(&b"pay"[..]), "not delivered twice: {}", flow(&lab, went.port));
        assert_eq!(captured.packets().len(), 1, "an injected duplicate is not captured again");
    }

    fn a_closure_can_refuse_connections() {
        let (lab, client, server) = lab();
        for addr in both(&server) {
            let _serving = Server::start(&server, addr);
            let handle = lab.middlebox(|packet: &Packet| match packet.reset_reply() {
                Some(reset) if packet.is_syn() => Verdict::Drop.and(reset),
                _ => Verdict::Pass,
            });
            assert_eq!(request(&client, addr, b"x").unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
            handle.remove();
            assert_eq!(request(&client, addr, b"x").unwrap().answer, ANSWER);
        }
    }

    fn a_closure_can_translate_addresses() {
        let (lab, client, server) = lab();
        for (addr, me, public) in [
            (server.addr(80), client.addr(0).ip(), "192.0.2.7".parse::<IpAddr>().unwrap()),
            (server.addr_v6(80), client.addr_v6(0).ip(), "2001:db8::7".parse().unwrap()),
        ] {
            let _serving = Server::start(&server, addr);
            lab.middlebox(move |packet: &Packet| {
                let (Some(src), Some(dst)) = (packet.src(), packet.dst()) else { return Verdict::Pass };
                let translated = packet.rewrite(|edit| {
                    if src.ip() == me {
                        edit.set_src((public, src.port()).into());
                    } else if dst.ip() == public {
                        edit.set_dst((me, dst.port()).into());
                    }
                });
                translated.map_or(Verdict::Pass, Verdict::Replace)
            });
            assert_eq!(request(&client, addr, b"x").unwrap().answer, ANSWER);
            let answers = lab.tap().sent_by("server");
            let mut sent_to = answers.iter().filter_map(|record| record.packet().dst());
            assert!(sent_to.any(|dst| dst.ip() == public), "{}", lab.tap().ladder());
        }
    }

    fn they_act_in_order_and_hold_packets_back() {
        let (lab, client, server) = lab();
        let _serving = Server::start(&server, server.addr(80));
        lab.middlebox(|packet: &Packet| {
            let cut = packet.rewrite(|edit| edit.payload.truncate(1));
            cut.filter(|_| packet.payload() == b"long").map_or(Verdict::Pass, Verdict::Replace)
        });
        lab.middlebox(|packet: &Packet| match packet.payload() {
            b"l" => Verdict::Delay(ms(50)),
            _ => Verdict::Pass,
        });
        // The server answers the one byte that it got.
        let went = request(&client, server.addr(80), b"long").unwrap();
        let flow = lab.tap().flow(went.port).unwrap();
        let cut = flow.received_by_server().find(|record| record.packet().payload() == b"l").unwrap();
        assert!(cut.time() - cut.packet().time() >= ms(55), "{flow}");
        assert!(flow.to_string().contains("changed; arrived"), "{flow}");
    }

    fn a_panic_in_a_middlebox_is_the_tests_panic() {
        let (lab, client, server) = lab();
        let _serving = Server::start(&server, server.addr(80));
        lab.middlebox(|_: &Packet| resume_unwind(Box::new("in the middle")));
        // The wire goes on without it.
        assert_eq!(request(&client, server.addr(80), b"x").unwrap().answer, ANSWER);
        let panic = catch_unwind(AssertUnwindSafe(|| drop(lab))).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"in the middle"));
    }
}
