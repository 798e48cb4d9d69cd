//! Middleboxes that drop or change the SYN-ACK that acks data, and what Linux makes of it.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod middleboxes_common;
mod support;

use middleboxes_common::{RTT, Site, about_a_second, assert_no_time_lost, ms, on_both, syns};
use support::REQUEST;
use tfo_core::{ClientFail, TcpState};
use tfo_lab::{DropDataSynAck, ProxySynData, RewriteSynAck};

tfo_lab::lab_tests! {
    /// The request is executed, the connection never established, and the kernel's own attempts are useless.
    fn without_the_syn_ack_that_acks_data_nothing_is_ever_established() {
        on_both(|family| {
            let site = Site::warm(family);
            let drop = DropDataSynAck::new();
            let counts = drop.counts();
            let handle = site.lab.middlebox(drop);
            site.assert_plain_is_quick();
            assert_eq!(counts.acted(), 0);
            let went = site.hopeless_visit();
            went.assert_silence();
            assert_eq!(went.visit.info.state(), Some(TcpState::SynSent));
            let accepted = site.accepted();
            assert_eq!(accepted.request, REQUEST, "executed");
            let flow = site.flow(&went);
            let syns = syns(&flow);
            println!("{family:?}: {flow}");
            // The first with data, then a plain one each second; all arrive.
            assert_eq!((syns[0].1, syns.len()), (REQUEST.len(), 3), "{flow}");
            assert!(syns[1..].iter().all(|(_, data, option)| *data == 0 && !option), "{flow}");
            assert!(about_a_second(syns[1].0) && about_a_second(syns[2].0 - syns[1].0), "{flow}");
            // Each is answered as the first was, which the client never gets to see.
            let after_data = flow.syn().seq().unwrap().wrapping_add(1 + REQUEST.len() as u32);
            let answers = flow.sent_by_server().filter(|record| record.packet().is_syn_ack());
            let acks: Vec<_> = answers.filter_map(|record| record.packet().ack()).collect();
            assert!(acks.len() >= 3 && acks.iter().all(|ack| *ack == after_data), "{flow}");
            let seen = flow.received_by_client().filter(|record| record.packet().is_syn_ack()).count();
            assert_eq!(seen, 0, "{flow}");
            assert!(counts.acted() >= 3);
            // A new connection without Fast Open is what helps.
            site.assert_plain_is_quick();
            handle.remove();
            site.assert_rides();
        });
    }

    fn a_denied_ack_is_recovered_and_nothing_is_delivered_twice() {
        on_both(|family| {
            let site = Site::warm(family);
            let rewrite = RewriteSynAck::denying_data();
            let counts = rewrite.counts();
            let handle = site.lab.middlebox(rewrite);
            site.assert_plain_is_quick();
            assert_eq!(counts.acted(), 0);
            let went = site.visit();
            let (flow, accepted) = site.recovered(&went, ClientFail::DataNotAcked);
            assert_no_time_lost(&flow, &went);
            assert_eq!((went.visit.info.syn_data(), accepted.info.syn_data()), (Some(false), Some(true)));
            assert_eq!(flow.syn_data_acked(), REQUEST.len(), "before the box");
            let arrived = flow.received_by_client().find(|record| record.packet().is_syn_ack()).unwrap();
            assert_eq!(arrived.packet().ack(), flow.syn().seq().map(|isn| isn.wrapping_add(1)));
            let again = flow.received_by_server().filter(|record| record.packet().payload() == REQUEST);
            assert_eq!(again.count(), 2, "sent again: {flow}");
            assert_eq!(counts.acted(), 1);
            handle.remove();
            site.assert_rides();
        });
    }

    /// To the kernel this is success; the request never arrives.
    fn a_claimed_ack_loses_the_request() {
        on_both(|family| {
            let site = Site::warm(family);
            let rewrite = RewriteSynAck::claiming_data();
            let counts = rewrite.counts();
            let handle = site.lab.middlebox(rewrite);
            site.assert_rides();
            assert_eq!(counts.acted(), 0, "what is true is left alone");
            site.server.set_fastopen(1).unwrap();
            site.assert_plain_is_quick();
            assert_eq!(counts.acted(), 0);
            let went = site.hopeless_visit();
            went.assert_silence();
            let flow = site.flow(&went);
            assert_eq!(went.visit.info.syn_data(), Some(true), "{flow}");
            assert_eq!(went.visit.info.client_fail(), Some(ClientFail::Unspecified), "{flow}");
            assert_eq!((flow.syn_data_acked(), counts.acted()), (0, 1), "{flow}");
            assert!(site.serving.pending().is_none());
            handle.remove();
            let went = site.visit();
            site.recovered(&went, ClientFail::DataNotAcked);
            site.server.set_fastopen(3).unwrap();
            site.assert_rides();
        });
    }

    /// A ride by all that the client's kernel says, and none.
    fn a_proxy_makes_the_client_believe_that_it_rode() {
        on_both(|family| {
            let site = Site::warm(family);
            let proxy = ProxySynData::new();
            let counts = proxy.counts();
            let handle = site.lab.middlebox(proxy);
            site.assert_plain_is_quick();
            assert_eq!(counts.acted(), 0);
            for _ in 0..3 {
                let went = site.visit();
                let (flow, accepted) = site.recovered(&went, ClientFail::Unspecified);
                assert_no_time_lost(&flow, &went);
                assert_eq!((went.visit.info.syn_data(), accepted.info.syn_data()), (Some(true), Some(false)));
                assert!(!flow.request_delivered_in_syn(), "{flow}");
                assert!(!flow.answered_before_any_further_client_packet(), "{flow}");
                let (asked, answered) = (flow.records()[0].time(), flow.first_response_byte_received());
                let took = answered.unwrap().time() - asked;
                assert!(took >= 2 * RTT, "{took:?}: {flow}");
                assert!(took < 2 * RTT + ms(300), "{took:?}: {flow}");
            }
            // The SYN, the SYN-ACK and the ACK of each.
            assert_eq!(counts.acted(), 9);
            handle.remove();
            site.assert_rides();
        });
    }
}
