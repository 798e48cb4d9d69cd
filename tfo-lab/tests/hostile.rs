//! The client on hostile paths: whatever plain TCP completes is completed, nothing is executed twice
//! that must not be, and after two slow requests a bad path costs what plain TCP costs.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use support::http::{Runtime, Server, run};
use tfo_http::{ConnInfo, SynData, SynOutcome, TfoConnector};
use tfo_lab::{
    AfterFastOpen, BlackholeAnswers, BlackholeClient, CorruptCookie, DelayFastOpen, DropDataSynAck,
    DropFastOpen, DropNthSyn, DropOversize, DropSynData, Lab, ProxySynData, Reorder, ResetSyn, RewriteSynAck,
    RotateClient, StripFastOpen, StripSynData, lab_tests,
};

const RTT: Duration = Duration::from_millis(20);
/// The hedge, and what this machine adds to it under load.
const SLOW: Duration = Duration::from_millis(150);
const VISITS: usize = 8;

/// A bad path: its name, how it is built, and how many slow requests it may cost.
struct Bad {
    name: &'static str,
    build: fn(&Lab),
    slow: usize,
    /// Outcomes that must be among those of the GETs.
    expected: &'static [SynOutcome],
}

const fn bad(name: &'static str, slow: usize, expected: &'static [SynOutcome], build: fn(&Lab)) -> Bad {
    Bad { name, build, slow, expected }
}

use SynOutcome as O;

fn paths() -> Vec<Bad> {
    vec![
        bad("nothing", 0, &[O::SynDataAcked], |_| {}),
        bad("SYN data dropped", 2, &[O::Silent], |lab| drop(lab.middlebox(DropSynData::new()))),
        bad("option dropped", 2, &[O::Silent], |lab| {
            drop(lab.middlebox(DropFastOpen::new().experimental()));
        }),
        bad("option stripped", 0, &[O::SynDataNotAcked], |lab| {
            drop(lab.middlebox(StripFastOpen::new().experimental()));
        }),
        bad("payload stripped", 0, &[O::SynDataNotAcked], |lab| drop(lab.middlebox(StripSynData::new()))),
        bad("cookie corrupted", 0, &[O::SynDataNotAcked], |lab| drop(lab.middlebox(CorruptCookie::new()))),
        bad("data SYN-ACK dropped", 2, &[O::Silent], |lab| drop(lab.middlebox(DropDataSynAck::new()))),
        bad("SYN-ACK rewritten", 0, &[O::SynDataNotAcked], |lab| {
            drop(lab.middlebox(RewriteSynAck::denying_data()));
        }),
        bad("SYN-ACK lies", 2, &[O::Stalled], |lab| {
            lab.host("server").set_fastopen(1).unwrap();
            drop(lab.middlebox(RewriteSynAck::claiming_data()));
        }),
        bad("proxy", 0, &[O::SynDataAcked], |lab| drop(lab.middlebox(ProxySynData::new()))),
        bad("RST to SYN data", 0, &[O::Refused], |lab| drop(lab.middlebox(ResetSyn::with_data()))),
        bad("RST to the option", 0, &[O::Refused], |lab| drop(lab.middlebox(ResetSyn::with_option()))),
        bad("answers blackholed", 2, &[O::Stalled], |lab| drop(lab.middlebox(BlackholeAnswers::new()))),
        bad("data delayed", 2, &[O::Stalled], |lab| {
            drop(lab.middlebox(DelayFastOpen::by(Duration::from_millis(400))));
        }),
        bad("every second SYN dropped", VISITS, &[], |lab| drop(lab.middlebox(DropNthSyn::every(2)))),
        bad("new address each time", 0, &[O::SynDataNotAcked], |lab| {
            let pool = (1..=4).map(|n| IpAddr::V4(Ipv4Addr::new(10, 1, 0, n)));
            drop(lab.middlebox(RotateClient::new(pool)));
        }),
        bad("oversize with ICMP", 0, &[O::SynDataAcked], |lab| {
            drop(lab.middlebox(DropOversize::above(1300).with_icmp()));
        }),
        bad("reordering", VISITS, &[O::SynDataAcked], |lab| {
            drop(lab.middlebox(Reorder::one_of_every(4, Duration::from_millis(5), 7)));
        }),
        bad("blackhole after two rides", 4, &[], |lab| {
            drop(lab.middlebox(AfterFastOpen::connections(2, DropSynData::new())));
        }),
        bad("client blackholed", 3, &[], |lab| {
            drop(lab.middlebox(BlackholeClient::new().per_pair().lasting(Duration::from_millis(400))));
        }),
    ]
}

lab_tests! {
    fn gets_are_completed_and_bad_paths_are_remembered() {
        for bad in paths() {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            let (visits, executed) = visit(&lab, &bad, &Method::GET);
            let slow = visits.iter().filter(|visit| visit.took > 2 * RTT + SLOW).count();
            let report = report(&bad, &visits);
            assert!(slow <= bad.slow, "{report}");
            assert!(executed.iter().all(|times| (1..=2).contains(times)), "{executed:?}\n{report}");
            for outcome in bad.expected {
                assert!(visits.iter().any(|visit| visit.info.outcome() == *outcome), "{outcome}\n{report}");
            }
        }
    }

    fn silent_addresses_hold_nobody_and_are_not_tried_first_again() {
        dead_addresses(false);
    }

    fn refusing_addresses_hold_nobody_and_are_not_tried_first_again() {
        dead_addresses(true);
    }

    fn posts_are_completed_and_executed_once() {
        for bad in paths() {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            let (visits, executed) = visit(&lab, &bad, &Method::POST);
            let report = report(&bad, &visits);
            assert!(executed.iter().all(|times| *times == 1), "{executed:?}\n{report}");
            assert!(visits.iter().all(|visit| visit.info.syn_data_bytes() == 0), "{report}");
        }
    }
}

/// Two of three addresses fall silent, or refuse, after all three have carried rides.
fn dead_addresses(refuse: bool) {
    let lab = Lab::builder().rtt(RTT).build().unwrap();
    let (client, host) = (lab.host("client"), lab.host("server"));
    let alive: IpAddr = host.ipv4().into();
    let dead = [50, 51].map(|last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)));
    dead.iter().for_each(|ip| lab.add_address("server", *ip).unwrap());
    let _server = Server::start(&host, SocketAddr::from(([0, 0, 0, 0], 80)));
    let mut connector = TfoConnector::new_with_resolver(Fixed(vec![dead[0], dead[1], alive]));
    connector.set_happy_eyeballs_timeout(Some(Duration::from_millis(250)));
    let first = connector.clone();
    run(&client, Runtime::CurrentThread, async move {
        for ip in [dead[0], dead[1], alive] {
            for _ in 0..2 {
                // The same path memory, one address at a time.
                let mut one = TfoConnector::new_with_resolver(Fixed(vec![ip]));
                one.set_path_memory(first.path_memory().clone());
                named(&one).await;
            }
        }
    });
    lab.middlebox(move |packet: &tfo_lab::Packet| {
        match packet.dst().is_some_and(|dst| dead.contains(&dst.ip())) {
            false => tfo_lab::Verdict::Pass,
            true if refuse => match packet.reset_reply() {
                Some(reset) => tfo_lab::Verdict::Drop.and(reset),
                None => tfo_lab::Verdict::Drop,
            },
            true => tfo_lab::Verdict::Drop,
        }
    });
    let took = run(&client, Runtime::CurrentThread, async move {
        [named(&connector).await, named(&connector).await, named(&connector).await]
    });
    let most = if refuse { 12 * RTT } else { 2 * Duration::from_millis(250) + 2 * RTT } + SLOW;
    assert!(took[0] <= most, "{took:?}");
    assert!(took[1] <= 2 * RTT + SLOW && took[2] <= 2 * RTT + SLOW, "not tried first again: {took:?}");
}

/// A resolver that always answers the same.
#[derive(Clone)]
struct Fixed(Vec<IpAddr>);

impl tower_service::Service<hyper_util::client::legacy::connect::dns::Name> for Fixed {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: hyper_util::client::legacy::connect::dns::Name) -> Self::Future {
        let addresses: Vec<_> = self.0.iter().map(|ip| SocketAddr::new(*ip, 0)).collect();
        std::future::ready(Ok(addresses.into_iter()))
    }
}

async fn named(connector: &TfoConnector<Fixed>) -> Duration {
    let client: Client<_, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector.clone());
    let begun = Instant::now();
    let response = client.get("http://named/".parse().unwrap()).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    begun.elapsed()
}

struct Visit {
    took: Duration,
    info: ConnInfo,
}

/// One visit to learn the cookie, then the path turns bad, then so many visits; how often each
/// request was executed.
fn visit(lab: &Lab, bad: &Bad, method: &Method) -> (Vec<Visit>, Vec<usize>) {
    let (client, host) = (lab.host("client"), lab.host("server"));
    let addr = host.addr(80);
    let server = Server::start(&host, addr);
    run(&client, Runtime::CurrentThread, async move {
        request(&TfoConnector::new(), addr, &Method::GET, "/cookie").await.unwrap();
    });
    (bad.build)(lab);
    // The control: plain TCP completes them all.
    let of = method.clone();
    run(&client, Runtime::CurrentThread, async move {
        let mut plain = TfoConnector::new();
        plain.set_syn_data(SynData::Never);
        request(&plain, addr, &of, "/control").await.expect("plain TCP completes it");
    });
    let (of, name) = (method.clone(), bad.name);
    let visits = run(&client, Runtime::CurrentThread, async move {
        let connector = TfoConnector::new();
        let mut visits = Vec::new();
        for number in 0..VISITS {
            match request(&connector, addr, &of, &format!("/{number}")).await {
                Ok(visit) => visits.push(visit),
                Err(error) => panic!("{name}: {of} {number} failed: {error}"),
            }
        }
        visits
    });
    let seen = server.seen();
    let executed =
        (0..VISITS).map(|number| seen.iter().filter(|seen| seen.path == format!("/{number}")).count());
    (visits, executed.collect())
}

async fn request(
    connector: &TfoConnector,
    addr: SocketAddr,
    method: &Method,
    path: &str,
) -> Result<Visit, String> {
    let client: Client<_, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector.clone());
    let body = if method == Method::POST { "body" } else { "" };
    let request =
        Request::builder().method(method).uri(format!("http://{addr}{path}")).body(Full::from(body));
    let begun = Instant::now();
    let response = client.request(request.unwrap()).await.map_err(|error| format!("{error:?}"))?;
    let info = response.extensions().get::<ConnInfo>().unwrap().clone();
    let body = response.into_body().collect().await.map_err(|error| format!("{error:?}"))?;
    assert_eq!(body.to_bytes(), "hello");
    Ok(Visit { took: begun.elapsed(), info })
}

fn report(bad: &Bad, visits: &[Visit]) -> String {
    let mut lines = format!("{}:", bad.name);
    for visit in visits {
        let (took, info) = (visit.took, &visit.info);
        let reason = info.reason().map(|reason| reason.as_str());
        lines += &format!("\n  {took:>8.1?} {} {reason:?} hedged {}", info.outcome(), info.hedged());
    }
    lines
}
