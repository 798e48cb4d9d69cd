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
