//! Bad paths, and good ones to compare them with: one row each. `docs/outcomes.md` says what each observer sees
//! on each of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use hyper::Method;
use tfo_http::{SynData, TfoConnector};
use tfo_lab::{
    AfterFastOpen, BalanceServers, BlackholeAnswers, BlackholeClient, CorruptCookie, DelayFastOpen,
    DropDataSynAck, DropFastOpen, DropNthSyn, DropOversize, DropSynData, DuplicateSyn, Lab, LabError,
    ProxySynData, Reorder, ResetSyn, RewriteSynAck, RotateClient, StripFastOpen, StripSynData,
};

use super::http::Server;

/// The round-trip time where a row does not say otherwise.
pub(crate) const RTT: Duration = Duration::from_millis(20);
const MS: Duration = Duration::from_millis(1);

/// One kind of request.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) method: Method,
    pub(crate) body: &'static str,
    /// How long its path is, at least: 3000 do not fit into a SYN.
    pub(crate) length: usize,
    pub(crate) syn_data: SynData,
    /// How often a server may see it.
    pub(crate) executed: RangeInclusive<usize>,
}

pub(crate) static KINDS: [Kind; 4] = [
    kind("GET", Method::GET, "", 1, SynData::SafeMethods, 1..=2),
    kind("big GET", Method::GET, "", 3000, SynData::SafeMethods, 1..=2),
    kind("POST", Method::POST, "body", 1, SynData::SafeMethods, 1..=1),
    kind("danger POST", Method::POST, "body", 1, SynData::DangerEverything, 0..=1),
];

const fn kind(
    name: &'static str,
    method: Method,
    body: &'static str,
    length: usize,
    syn_data: SynData,
    executed: RangeInclusive<usize>,
) -> Kind {
    Kind { name, method, body, length, syn_data, executed }
}

impl Kind {
    /// Whether it may fail where plain TCP completes it, if it is said that it may have been executed; and take
    /// the kernel's time: nothing is sent twice.
    pub(crate) fn may_fail(&self) -> bool {
        self.syn_data == SynData::DangerEverything
    }

    pub(crate) fn connector(&self) -> TfoConnector {
        let mut connector = TfoConnector::new();
        connector.set_syn_data(self.syn_data.clone());
        connector
    }
}

/// How plain TCP fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plain {
    /// As if nothing were in the way.
    Well,
    /// It completes, with luck of its own: the kernel's second and more.
    Slowly,
    /// It does not complete either.
    Fails,
}

/// A path.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// How many requests may be hedged before the path is known.
    pub(crate) slow: usize,
    pub(crate) rtt: Duration,
    pub(crate) plain: Plain,
    /// How long a request may take because the peer's kernel is asked whether it is there.
    pub(crate) asks: Duration,
    /// It is hostile from the first visit on: there is no cookie yet.
    pub(crate) cold: bool,
    /// Chance or time has a say: `docs/outcomes.md` has no line for it.
    pub(crate) random: bool,
    /// Makes it hostile.
    pub(crate) turn: fn(&mut Net),
    /// What happens before the visit of this number, counted from 0.
    pub(crate) before: fn(&Net, usize),
    /// Whether anything does.
    pub(crate) changes: bool,
}

const fn row(name: &'static str, slow: usize, turn: fn(&mut Net)) -> Row {
    let plain = Plain::Well;
    let asks = Duration::ZERO;
    Row {
        name,
        slow,
        rtt: RTT,
        plain,
        asks,
        cold: false,
        random: false,
        turn,
        before: |_, _| {},
        changes: false,
    }
}

impl Row {
    const fn cold(mut self) -> Self {
        self.cold = true;
        self
    }

    const fn random(mut self) -> Self {
        self.random = true;
        self
    }

    const fn plain(mut self, plain: Plain) -> Self {
        self.plain = plain;
        self
    }

    const fn asks(mut self, asks: Duration) -> Self {
        self.asks = asks;
        self
    }

    const fn rtt(mut self, rtt: Duration) -> Self {
        self.rtt = rtt;
        self
    }

    const fn before(mut self, before: fn(&Net, usize)) -> Self {
        (self.before, self.changes) = (before, true);
        self
    }
}

/// The visit before which something happens in the middle.
const MIDDLE: usize = 1;
/// A path that turns bad when it is known to carry rides costs twice as many.
const CAPABLE: usize = 4;

/// All of them.
pub(crate) static ROWS: &[Row] = &[
    row("a good path", 0, |_| {}),
    row("SYN with data dropped", 2, |net| drop(net.lab.middlebox(DropSynData::new()))),
    row("SYN with the option dropped", 2, |net| drop(net.lab.middlebox(DropFastOpen::new().experimental()))),
    row("SYN with the option dropped, no cookie yet", 2, |net| {
        drop(net.lab.middlebox(DropFastOpen::new().experimental()));
    })
    .cold(),
    row("SYN with option 34 dropped, no cookie yet", 2, |net| drop(net.lab.middlebox(DropFastOpen::new())))
        .cold(),
    row("SYN-ACK with a cookie dropped, no cookie yet", 2, |net| {
        drop(net.lab.middlebox(DropFastOpen::new().experimental().grants()));
    })
    .cold(),
    row("option stripped", 0, |net| drop(net.lab.middlebox(StripFastOpen::new().experimental()))),
    row("option stripped, no cookie yet", 0, |net| {
        drop(net.lab.middlebox(StripFastOpen::new().experimental()));
    })
    .cold(),
    row("option 34 stripped, no cookie yet", 0, |net| drop(net.lab.middlebox(StripFastOpen::new()))).cold(),
    row("SYN data stripped", 0, |net| drop(net.lab.middlebox(StripSynData::new()))),
    row("cookie corrupted", 0, |net| drop(net.lab.middlebox(CorruptCookie::new()))),
    row("SYN-ACK that acks data dropped", 2, |net| drop(net.lab.middlebox(DropDataSynAck::new()))),
    row("SYN-ACK denies the data", 0, |net| drop(net.lab.middlebox(RewriteSynAck::denying_data()))),
    row("SYN-ACK claims the data", 2, |net| {
        net.lab.host("server").set_fastopen(1).expect("a sysctl");
        drop(net.lab.middlebox(RewriteSynAck::claiming_data()));
    }),
    row("a proxy acks the data", 0, |net| drop(net.lab.middlebox(ProxySynData::new()))),
    row("RST to SYN with data", 0, |net| drop(net.lab.middlebox(ResetSyn::with_data()))),
    row("RST to SYN with data, which arrives", 0, |net| {
        drop(net.lab.middlebox(ResetSyn::with_data().deliver()));
    }),
    row("RST to SYN with the option", 0, |net| drop(net.lab.middlebox(ResetSyn::with_option()))),
    row("RST to SYN with the option, no cookie yet", 0, |net| {
        drop(net.lab.middlebox(ResetSyn::with_option()));
    })
    .cold(),
    row("RST to any SYN", 0, |net| drop(net.lab.middlebox(ResetSyn::any()))).plain(Plain::Fails),
    row("answers blackholed after the handshake", 2, |net| drop(net.lab.middlebox(BlackholeAnswers::new()))),
    row("data delayed after the handshake", 2, |net| {
        drop(net.lab.middlebox(DelayFastOpen::by(Duration::from_millis(700))));
    }),
    row("every second SYN dropped", usize::MAX, |net| drop(net.lab.middlebox(DropNthSyn::every(2))))
        .plain(Plain::Slowly)
        .random(),
    row("new client address per connection", 0, |net| {
        let pool: Vec<_> = (1..=4).map(|last| net.strange(last)).collect();
        drop(net.lab.middlebox(RotateClient::new(pool)));
    }),
    row("server address changes per connection", 0, |net| {
        let servers = ["server", "other"].map(|name| net.of(name));
        net.addr.set_ip(net.strange(9));
        net.lab.middlebox(BalanceServers::translating(net.addr.ip(), servers));
    })
    .cold(),
    row("server keys not shared", 0, |net| {
        net.addr.set_ip(net.strange(9));
        net.lab.share_address(&["server", "other"], net.addr.ip()).expect("an address");
        net.lab.middlebox(BalanceServers::forwarding(net.addr.ip(), ["server", "other"]));
    })
    .cold(),
    row("oversize SYN dropped, no ICMP", 2, |net| {
        drop(net.lab.middlebox(DropOversize::above(1000).syns_only()));
    }),
    row("oversize packets dropped, with ICMP", 0, |net| {
        drop(net.lab.middlebox(DropOversize::above(1300).with_icmp()));
    }),
    row("SYN duplicated", 0, |net| drop(net.lab.middlebox(DuplicateSyn::after(MS)))),
    row("SYN duplicated, late", 0, |net| drop(net.lab.middlebox(DuplicateSyn::after(300 * MS)))),
    row("another port without TFO", 0, |net| {
        net.addr.set_port(81);
        let every = SocketAddr::new(net.every(), 81);
        net.servers.push(Server::without_fastopen(&net.lab.host("server"), every));
    }),
    row("5 % lost", usize::MAX, |net| {
        net.lab.set_loss("client", "server", 0.05);
        net.lab.set_loss("server", "client", 0.05);
    })
    .plain(Plain::Slowly)
    .random(),
    row("reordering", usize::MAX, |net| drop(net.lab.middlebox(Reorder::one_of_every(4, 5 * MS, 7))))
        .random(),
    row("the client's sysctl off in the middle", 0, |_| {}).before(|net, visit| {
        if visit == MIDDLE {
            net.lab.host("client").set_fastopen(2).expect("a sysctl");
        }
    }),
    row("the server's sysctl off in the middle", 0, |_| {}).before(|net, visit| {
        if visit == MIDDLE {
            net.lab.host("server").set_fastopen(1).expect("a sysctl");
        }
    }),
    row("cookies flushed in the middle", 0, |_| {}).before(|net, visit| {
        if visit == MIDDLE {
            match net.lab.host("client").flush_cookies() {
                Err(LabError::FlushDenied { .. }) => {}
                flushed => flushed.expect("a flush"),
            }
        }
    }),
    row("SYN with data dropped after two rides", CAPABLE, |net| {
        drop(net.lab.middlebox(AfterFastOpen::connections(2, DropSynData::new())));
    })
    .random(),
    row("answers blackholed after two rides", CAPABLE, |net| {
        drop(net.lab.middlebox(AfterFastOpen::connections(2, BlackholeAnswers::new())));
    })
    .random()
    // Who is known to answer is asked twice before.
    .asks(Duration::from_millis(2500)),
    row("the client blackholed for a while", 3, |net| {
        drop(net.lab.middlebox(BlackholeClient::new().per_pair().lasting(400 * MS)));
    })
    .plain(Plain::Slowly)
    .random(),
    // The round-trip time is not known before, so two are hedged: the hedge's silence counts, although they ride.
    row("a round trip of 600 ms", 2, |_| {}).rtt(Duration::from_millis(600)).random(),
];

/// A network of a client and two servers, which have seen what has come to them.
pub(crate) struct Net {
    pub(crate) lab: Lab,
    pub(crate) row: &'static Row,
    /// Where the requests go.
    pub(crate) addr: SocketAddr,
    /// As the requests have it, in place of the address.
    pub(crate) name: Option<&'static str>,
    /// No request takes as long, unless very many packets are lost.
    pub(crate) patience: Duration,
    servers: Vec<Server>,
}

impl Net {
    pub(crate) fn new(row: &'static Row, v6: bool, seed: u64) -> Self {
        let hosts = Lab::builder().host("client").host("server").host("other");
        let lab = hosts.rtt(row.rtt).seed(seed).build().expect("a lab");
        let server = lab.host("server");
        let addr = if v6 { server.addr_v6(80) } else { server.addr(80) };
        let mut net =
            Self { lab, row, addr, name: None, patience: Duration::from_secs(12), servers: Vec::new() };
        let every = SocketAddr::new(net.every(), 80);
        net.servers = ["server", "other"].map(|name| Server::start(&net.lab.host(name), every)).into();
        net
    }

    /// Makes it hostile.
    pub(crate) fn turn(&mut self) {
        (self.row.turn)(self);
    }

    /// What became of a request at the servers: each of its executions.
    pub(crate) fn executions(&self, path: &str) -> Vec<super::http::Seen> {
        let seen = self.servers.iter().flat_map(Server::seen);
        seen.filter(|seen| seen.path == path).collect()
    }

    fn every(&self) -> IpAddr {
        match self.addr {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    fn of(&self, host: &str) -> IpAddr {
        let host = self.lab.host(host);
        if self.addr.is_ipv4() { host.ipv4().into() } else { host.ipv6().into() }
    }

    /// An address that no host has.
    fn strange(&self, last: u8) -> IpAddr {
        match self.addr {
            SocketAddr::V4(_) => Ipv4Addr::new(10, 9, 0, last).into(),
            SocketAddr::V6(_) => Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, last.into()).into(),
        }
    }
}
