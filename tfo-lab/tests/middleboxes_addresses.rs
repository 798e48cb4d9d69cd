//! Addresses that change from connection to connection, and the settings that look the same from outside.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod middleboxes_common;
mod support;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use middleboxes_common::{
    Family, PATIENCE, Serving, Site, Went, assert_no_time_lost, on_both, plain, rode, went,
};
use support::{Accepted, REQUEST};
use tfo_core::{ClientFail, SynSend};
use tfo_lab::{BalanceServers, Host, Lab, LabError, RotateClient};

const KEY: [u8; 16] = *b"a key for cookie";
const OTHER_KEY: [u8; 16] = *b"quite other key!";

tfo_lab::lab_tests! {
    /// Carrier-grade NAT: each cookie is for the last address.
    fn a_new_client_address_makes_every_cookie_useless() {
        on_both(|family| {
            let site = Site::warm(family);
            let pool = pool(family, 4);
            let rotate = RotateClient::new(pool.clone());
            let counts = rotate.counts();
            let handle = site.lab.middlebox(rotate);
            site.assert_plain_is_quick();
            let before = site.counters();
            let mut cookies = HashSet::new();
            for _ in 0..4 {
                let went = site.visit();
                let (flow, accepted) = site.recovered(&went, ClientFail::DataNotAcked);
                assert_no_time_lost(&flow, &went);
                assert_eq!(accepted.info.tfo_child(), Some(false));
                cookies.insert(flow.syn().fast_open().unwrap().cookie().to_vec());
            }
            assert_eq!(cookies.len(), 4, "each time a new one was granted");
            assert_eq!(site.counters().1.since(&before.1).passive_fail, Some(4));
            let received = site.lab.tap().received_by("server");
            let syns = received.iter().filter(|record| record.packet().is_syn());
            let sources: Vec<_> = syns.filter_map(|record| record.packet().src()).map(|src| src.ip()).collect();
            // Two before it was there, the plain one, and four.
            assert_eq!(sources[2..], [pool[0], pool[1], pool[2], pool[3], pool[0]]);
            assert!(counts.acted() > 20);
            handle.remove();
            site.recovered(&site.visit(), ClientFail::DataNotAcked);
            site.assert_rides();
        });
    }

    /// A pool of one is ordinary NAT, which does no harm.
    fn one_public_address_does_no_harm() {
        on_both(|family| {
            let site = Site::new(family);
            let rotate = RotateClient::new(pool(family, 1));
            let counts = rotate.counts();
            site.lab.middlebox(rotate);
            site.assert_plain_is_quick();
            site.get_cookie();
            let went = site.visit();
            site.recovered(&went, ClientFail::Unspecified);
            assert_eq!(went.visit.info.syn_data(), Some(true));
            assert!(counts.acted() > 10);
        });
    }

    /// Translation: even with one key, a cookie of one server is nothing to the other.
    fn servers_behind_translation_share_no_cookies() {
        on_both(|family| {
            for shared_key in [false, true] {
                let farm = Farm::new(family, shared_key);
                let balance = BalanceServers::translating(farm.addr.ip(), farm.own_addresses());
                let counts = balance.counts();
                farm.lab.middlebox(balance);
                assert!(plain(&farm.client, farm.addr).is_ok());
                farm.served(0);
                let cold = farm.visit();
                assert!(matches!(cold.visit.sent, Ok(SynSend::NoCookie)), "{cold:?}");
                farm.served(1);
                for turn in 2..6 {
                    let went = farm.visit();
                    went.assert_answered();
                    assert_eq!(went.visit.sent.as_ref().unwrap(), &SynSend::Data(REQUEST.len()));
                    let fail = went.visit.info.client_fail();
                    assert_eq!(fail, Some(ClientFail::DataNotAcked), "{}", farm.lab.tap().ladder());
                    assert_eq!(farm.served(turn).info.tfo_child(), Some(false));
                }
                assert!(counts.acted() > 20);
            }
        });
    }

    fn one_server_behind_translation_rides() {
        on_both(|family| {
            let farm = Farm::new(family, false);
            let balance = BalanceServers::translating(farm.addr.ip(), [farm.own_addresses()[0]]);
            farm.lab.middlebox(balance);
            for turn in 0..3 {
                let went = farm.visit();
                went.assert_answered();
                farm.served(0);
                assert_eq!(went.visit.info.syn_data(), Some(turn > 0), "{}", farm.lab.tap().ladder());
            }
        });
    }

    /// The address is the same on all: one key is enough.
    fn servers_that_share_the_address_ride_with_one_key() {
        on_both(|family| {
            for shared_key in [false, true] {
                let farm = Farm::new(family, shared_key);
                let balance = BalanceServers::forwarding(farm.addr.ip(), ["server", "other"]);
                let counts = balance.counts();
                farm.lab.middlebox(balance);
                let cold = farm.visit();
                cold.assert_answered();
                assert!(matches!(cold.visit.sent, Ok(SynSend::NoCookie)), "{cold:?}");
                farm.served(0);
                for turn in 1..5 {
                    let went = farm.visit();
                    went.assert_answered();
                    let accepted = farm.served(turn);
                    let flow = farm.lab.tap().flow(went.local).unwrap();
                    assert_eq!(rode(&went, &accepted, &flow), shared_key, "{went:?}\n{flow}");
                    if !shared_key {
                        let fail = went.visit.info.client_fail();
                        assert_eq!(fail, Some(ClientFail::DataNotAcked), "{flow}");
                    }
                }
                assert!(counts.acted() > 10);
            }
        });
    }

    /// Without a box: the server has another key all of a sudden, with and without the old one as a backup.
    fn a_changed_key_costs_one_ride_unless_the_old_one_is_kept() {
        on_both(|family| {
            let site = Site::new(family);
            site.server.set_fastopen_key(KEY, None).unwrap();
            site.get_cookie();
            site.assert_rides();
            site.server.set_fastopen_key(OTHER_KEY, Some(KEY)).unwrap();
            let before = site.counters();
            site.assert_rides();
            assert_eq!(site.counters().1.since(&before.1).passive_alt_key, Some(1));
            site.assert_rides();
            site.server.set_fastopen_key(KEY, None).unwrap();
            let went = site.visit();
            let (flow, _) = site.recovered(&went, ClientFail::DataNotAcked);
            assert_no_time_lost(&flow, &went);
            site.assert_rides();
        });
    }

    /// A cookie covers addresses, not ports.
    fn another_port_without_fast_open_gets_the_data_and_refuses_it() {
        on_both(|family| {
            let site = Site::warm(family);
            let addr = family.addr(&site.server, 81);
            let serving = Serving::start_with(&site.server, addr, None);
            for _ in 0..2 {
                let went = went(&site.client, addr, REQUEST, PATIENCE);
                went.assert_answered();
                assert_eq!(went.visit.sent.as_ref().unwrap(), &SynSend::Data(REQUEST.len()));
                assert_eq!(went.visit.info.client_fail(), Some(ClientFail::DataNotAcked));
                let accepted = serving.accepted().unwrap();
                assert_eq!((&accepted.request[..], accepted.info.tfo_child()), (REQUEST, Some(false)));
            }
            site.assert_rides();
        });
    }

    fn switched_off_in_the_middle() {
        on_both(|family| {
            let site = Site::warm(family);
            site.server.set_fastopen(1).unwrap();
            let went = site.visit();
            let (flow, _) = site.recovered(&went, ClientFail::DataNotAcked);
            assert_no_time_lost(&flow, &went);
            site.server.set_fastopen(3).unwrap();
            site.assert_rides();
            site.client.set_fastopen(2).unwrap();
            let went = site.visit();
            assert!(went.visit.sent.as_ref().is_err_and(|error| error.is_unsupported()), "{went:?}");
            let (flow, _) = site.recovered(&went, ClientFail::Unspecified);
            assert_eq!(flow.syn().fast_open(), None);
            site.client.set_fastopen(3).unwrap();
            // The cookie is still there.
            site.assert_rides();
        });
    }

    fn flushed_in_the_middle() {
        on_both(|family| {
            let site = Site::warm(family);
            match site.client.flush_cookies() {
                Ok(()) => site.get_cookie(),
                // A rootless lab may not.
                Err(error) => assert!(matches!(error, LabError::FlushDenied { .. }), "{error}"),
            }
            site.assert_rides();
        });
    }
}

/// A client, and two servers behind one address.
struct Farm {
    serving: [Serving; 2],
    servers: [Host; 2],
    client: Host,
    /// The address that the client knows.
    addr: SocketAddr,
    family: Family,
    lab: Lab,
}

impl Farm {
    fn new(family: Family, shared_key: bool) -> Self {
        let builder = Lab::builder().host("client").host("server").host("other");
        let lab = builder.rtt(middleboxes_common::RTT).build().unwrap();
        let servers = ["server", "other"].map(|name| lab.host(name));
        let ip: IpAddr = match family {
            Family::V4 => [198, 51, 100, 1].into(),
            Family::V6 => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x51].into(),
        };
        lab.share_address(&["server", "other"], ip).unwrap();
        if shared_key {
            servers.iter().for_each(|host| host.set_fastopen_key(KEY, None).unwrap());
        }
        let any = |family| if family == Family::V4 { "0.0.0.0:80" } else { "[::]:80" };
        let serving = servers.each_ref().map(|host| Serving::start(host, any(family).parse().unwrap()));
        Self { serving, servers, client: lab.host("client"), addr: (ip, 80).into(), family, lab }
    }

    fn own_addresses(&self) -> Vec<IpAddr> {
        self.servers.iter().map(|host| self.family.addr(host, 80).ip()).collect()
    }

    fn visit(&self) -> Went {
        went(&self.client, self.addr, REQUEST, PATIENCE)
    }

    /// The request arrived at the server whose turn it was, and at no other.
    fn served(&self, turn: usize) -> Accepted {
        let accepted = self.serving[turn % 2].accepted().expect("a request");
        assert_eq!(accepted.request, REQUEST);
        assert!(self.serving[(turn + 1) % 2].pending().is_none());
        accepted
    }
}

fn pool(family: Family, size: u8) -> Vec<IpAddr> {
    let address = |number: u8| match family {
        Family::V4 => [192, 0, 2, number].into(),
        Family::V6 => [0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()].into(),
    };
    (1..=size).map(address).collect()
}
