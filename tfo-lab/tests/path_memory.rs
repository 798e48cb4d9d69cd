//! What the client remembers of paths, seen on the wire: round-trip times, lost rides, cookie
//! requests that nobody answers.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use support::http::{Runtime, Server, run};
use support::tcp::dial;
use tfo_http::path::PathState;
use tfo_http::{ConnInfo, Hedge, PathMemory, TfoConnector};
use tfo_lab::{BlackholeAnswers, DropFastOpen, DropSynData, Flow, Lab, lab_tests};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const MS: Duration = Duration::from_millis(1);

lab_tests! {
    fn a_hedge_waits_for_two_round_trips_as_they_were_measured() {
        // Not known, it would be 250 ms each time; the kernel repeats a SYN after a second.
        for (rtt, least, most) in [(20, 40, 240), (100, 200, 900), (600, 900, 990)] {
            let scene = Scene::new(rtt * MS);
            let warm = [scene.visit(), scene.visit()];
            assert_eq!(warm[1].outcome, "syn_data_acked", "{warm:?}");
            assert!(!warm[1].hedged && warm[1].flows.len() == 1, "{rtt}: {warm:?}");
            let known = scene.rtt().unwrap();
            assert!(known >= rtt * MS && known < (rtt + 200) * MS, "{known:?}");
            scene.lab.middlebox(DropSynData::new());
            let hedged = scene.visit();
            let after = hedged.hedge_after().unwrap_or_else(|| panic!("no hedge: {hedged:?}"));
            assert!(after >= least * MS && after < most * MS, "{rtt}: {after:?} {hedged:?}");
            assert_eq!((hedged.outcome.as_str(), hedged.reason.as_str()), ("silent", "silent"));
        }
    }

    fn a_path_that_goes_dark_costs_one_hedge_delay() {
        let scene = Scene::new(200 * MS);
        (0..3).for_each(|_| drop(scene.visit()));
        let dark = scene.lab.middlebox(DropSynData::new());
        let visits: Vec<_> = (0..6).map(|_| scene.visit()).collect();
        let hedges: Vec<_> = visits.iter().filter_map(Visit::hedge_after).collect();
        // Two round trips, but 300 ms at most; then a doubtful ride does not wait for the answer.
        assert_eq!(hedges.len(), 4, "{visits:#?}");
        assert!(hedges[0] >= 300 * MS && hedges[0] < 900 * MS, "{hedges:?}");
        assert!(hedges[1..].iter().all(|after| *after >= 20 * MS && *after < 250 * MS), "{hedges:?}");
        assert!(visits[4..].iter().all(|visit| visit.reason == "avoided" && visit.flows.len() == 1), "{visits:#?}");
        // The canary is doubtful too; when it arrives, nothing is any more.
        std::thread::sleep(2100 * MS);
        let canary = scene.visit();
        assert!(canary.hedge_after().is_some_and(|after| after < 250 * MS), "{canary:?}");
        std::thread::sleep(4100 * MS);
        dark.remove();
        let canary = scene.visit();
        assert!(canary.hedged && canary.outcome == "syn_data_acked", "{canary:?}");
        assert_eq!(scene.executed(), scene.visits(), "a companion that is not needed gets no request");
        let healed = scene.visit();
        assert!(!healed.hedged && healed.outcome == "syn_data_acked" && healed.flows.len() == 1, "{healed:?}");
    }

    fn a_path_that_becomes_longer_is_hedged_needlessly_once() {
        let scene = Scene::new(5 * MS);
        (0..3).for_each(|_| drop(scene.visit()));
        scene.lab.set_rtt(200 * MS);
        let visits: Vec<_> = (0..4).map(|_| scene.visit()).collect();
        let hedged: Vec<_> = visits.iter().map(|visit| visit.hedged).collect();
        assert_eq!(hedged, [true, false, false, false], "{visits:#?}");
        assert!(visits.iter().all(|visit| visit.outcome == "syn_data_acked"), "{visits:#?}");
        assert_eq!(scene.executed(), scene.visits());
    }

    fn a_path_that_begins_to_swallow_answers_is_found_out_by_who_gives_up() {
        let scene = Scene::new(20 * MS);
        (0..3).for_each(|_| drop(scene.visit()));
        scene.lab.middlebox(BlackholeAnswers::new());
        // No guard waits for the answer where answers have always come.
        let impatient = |patience: Duration| {
            let (connector, addr) = (scene.connector.clone(), scene.addr);
            run(&scene.lab.host("client"), Runtime::CurrentThread, async move {
                let mut stream = dial(&connector, addr).await;
                stream.write_all(b"GET / HTTP/1.1\r\nHost: s\r\n\r\n").await.unwrap();
                tokio::time::timeout(patience, stream.read(&mut [0])).await.is_err()
            })
        };
        assert!(impatient(100 * MS), "too soon to say anything");
        let strikes = || scene.connector.path_memory().snapshot(std::time::Instant::now()).paths[0].silent_in_a_row;
        assert_eq!(strikes(), 0);
        assert!(impatient(500 * MS));
        assert_eq!(strikes(), 1);
        let visits: Vec<_> = (0..4).map(|_| scene.visit()).collect();
        let told: Vec<_> = visits.iter().map(|visit| visit.reason.as_str()).collect();
        assert_eq!(told, ["stalled", "stalled", "avoided", "avoided"], "{visits:#?}");
    }

    /// `tcpi_client_fail` says "no cookie" of them, not "retransmitted".
    fn a_cookie_request_that_was_dropped_is_known_for_it() {
        let scene = Scene::new(20 * MS);
        scene.lab.middlebox(DropFastOpen::new().experimental());
        let never = scene.with(Hedge::Never);
        let visits: Vec<_> = (0..3).map(|_| scene.visit_by(&never)).collect();
        let told: Vec<_> = visits.iter().map(|visit| (visit.outcome.as_str(), visit.reason.as_str())).collect();
        let repeated = ("syn_retransmitted", "retransmitted");
        assert_eq!(told, [repeated, repeated, ("plain", "avoided")], "{visits:#?}");
        assert_eq!(scene.rtt_of(&never), None, "nobody knows which SYN was answered");
        // With a hedge nobody waits for the kernel.
        let auto = scene.with(Hedge::Auto);
        let visit = scene.visit_by(&auto);
        assert_eq!((visit.outcome.as_str(), visit.reason.as_str()), ("silent", "silent"), "{visit:?}");
        assert!(scene.rtt_of(&auto).is_some_and(|rtt| rtt >= 20 * MS), "the plain one's");
    }

    fn who_gives_up_a_silent_syn_has_seen_something() {
        for (patience, abandoned) in [(400 * MS, true), (60 * MS, false)] {
            let scene = Scene::new(20 * MS);
            scene.lab.middlebox(DropFastOpen::new().experimental());
            let mut connector = scene.with(Hedge::Never);
            connector.set_connect_timeout(Some(patience));
            for _ in 0..2 {
                assert!(scene.try_visit(&connector).is_none(), "it has no time for a second SYN");
            }
            let snapshot = connector.path_memory().snapshot(std::time::Instant::now());
            let failed = snapshot.paths.iter().any(|one| one.state == PathState::Failed);
            assert_eq!(failed, abandoned, "{snapshot:?}");
            // So that not all who are impatient fail for ever.
            assert_eq!(scene.try_visit(&connector).is_some(), abandoned);
        }
        // With a hedge there is time for both, however little there is.
        let scene = Scene::new(20 * MS);
        scene.lab.middlebox(DropFastOpen::new().experimental());
        let mut connector = scene.with(Hedge::Auto);
        connector.set_connect_timeout(Some(240 * MS));
        assert!(scene.try_visit(&connector).is_some());
    }

    fn a_deferred_connect_grows_old() {
        let scene = Scene::new(20 * MS);
        scene.visit();
        scene.visit();
        for (age, renewed) in [(0, false), (10_500, true)] {
            scene.lab.tap().clear();
            let (addr, client) = (scene.addr, scene.lab.host("client"));
            let ports = run(&client, Runtime::CurrentThread, async move {
                let mut stream = dial(&TfoConnector::new(), addr).await;
                let port = deferred_port(addr);
                tokio::time::sleep(age * MS).await;
                stream.write_all(b"GET / HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n").await.unwrap();
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await.unwrap();
                assert!(answer.ends_with(b"hello"));
                (port, stream.conn_info().local_addr().unwrap().port(), stream.conn_info().saved_rtts())
            });
            let (deferred, used, saved) = ports;
            assert_eq!((deferred != used, saved), (renewed, 1), "{ports:?}");
            assert!(scene.flows()[0].request_delivered_in_syn(), "{}", scene.flows()[0]);
        }
    }

    fn no_time_at_all_is_no_panic_and_loses_nothing_that_it_need_not() {
        let scene = Scene::new(20 * MS);
        let mut connector = scene.with(Hedge::After(Duration::ZERO));
        connector.set_happy_eyeballs_timeout(Some(Duration::ZERO));
        for _ in 0..3 {
            assert!(scene.try_visit(&connector).is_some());
        }
        connector.set_connect_timeout(Some(Duration::ZERO));
        assert!(scene.try_visit(&connector).is_none());
        connector.set_connect_timeout(Some(Duration::MAX));
        connector.set_hedge(Hedge::After(Duration::MAX));
        connector.set_happy_eyeballs_timeout(Some(Duration::MAX));
        assert!(scene.try_visit(&connector).is_some());
    }
}

/// A client that knows nothing yet, and a server.
struct Scene {
    lab: Lab,
    server: Server,
    addr: SocketAddr,
    connector: TfoConnector,
    visits: std::cell::Cell<usize>,
}

/// One request, and its packets.
#[derive(Debug)]
struct Visit {
    outcome: String,
    reason: String,
    hedged: bool,
    flows: Vec<Flow>,
}

impl Visit {
    /// How long after the SYN of the first attempt that of the second left.
    fn hedge_after(&self) -> Option<Duration> {
        let sent = |flow: &Flow| flow.sent_by_client().next().map(|record| record.time());
        Some(sent(self.flows.get(1)?)? - sent(self.flows.first()?)?)
    }
}

impl Scene {
    fn new(rtt: Duration) -> Self {
        let lab = Lab::builder().rtt(rtt).build().unwrap();
        let addr = lab.host("server").addr(80);
        let server = Server::start(&lab.host("server"), addr);
        Self { lab, server, addr, connector: TfoConnector::new(), visits: Default::default() }
    }

    /// One with a memory of its own.
    fn with(&self, hedge: Hedge) -> TfoConnector {
        let mut connector = TfoConnector::new();
        connector.set_path_memory(PathMemory::new());
        connector.set_hedge(hedge);
        connector
    }

    fn visit(&self) -> Visit {
        self.visit_by(&self.connector)
    }

    fn visit_by(&self, connector: &TfoConnector) -> Visit {
        self.lab.tap().clear();
        let info = self.try_visit(connector).expect("an answer");
        let reason = info.reason().map(|reason| reason.as_str()).unwrap_or_default();
        Visit {
            outcome: info.outcome().to_string(),
            reason: reason.to_owned(),
            hedged: info.hedged(),
            flows: self.flows(),
        }
    }

    fn try_visit(&self, connector: &TfoConnector) -> Option<ConnInfo> {
        let (connector, addr) = (connector.clone(), self.addr);
        let answered = run(&self.lab.host("client"), Runtime::CurrentThread, async move {
            let client: Client<_, Full<Bytes>> =
                Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
            let response = client.get(format!("http://{addr}/").parse().unwrap()).await.ok()?;
            let info = response.extensions().get::<ConnInfo>().unwrap().clone();
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
            Some(info)
        });
        self.visits.set(self.visits.get() + usize::from(answered.is_some()));
        answered
    }

    /// In the order of their SYNs.
    fn flows(&self) -> Vec<Flow> {
        self.lab.tap().flows()
    }

    fn rtt(&self) -> Option<Duration> {
        self.rtt_of(&self.connector)
    }

    fn rtt_of(&self, connector: &TfoConnector) -> Option<Duration> {
        connector.path_memory().snapshot(std::time::Instant::now()).paths.first()?.rtt
    }

    fn visits(&self) -> usize {
        self.visits.get()
    }

    fn executed(&self) -> usize {
        self.server.seen().len()
    }
}

/// The local port of the one socket whose connect to `addr` is deferred: the kernel lists it as
/// SYN_SENT.
fn deferred_port(addr: SocketAddr) -> u16 {
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let to = format!(":{:04X}", addr.port());
    let line = table.lines().find(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields[2].ends_with(&to) && fields[3] == "02"
    });
    let local = line.unwrap_or_else(|| panic!("{table}")).split_whitespace().nth(1).unwrap();
    u16::from_str_radix(local.rsplit(':').next().unwrap(), 16).unwrap()
}
