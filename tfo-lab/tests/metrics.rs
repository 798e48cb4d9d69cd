//! The counters say what the wire saw, on good paths and bad ones.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::time::Duration;

use support::http::{Runtime, run};
use support::tcp::{GET, dial, fetch_cookie};
use support::web::Web;
use support::{flows, http};
use tfo_http::{Client, SynOutcome, TfoConnector, TfoMetrics};
use tfo_lab::{DropFastOpen, DropSynData, Lab, StripFastOpen, StripSynData, lab_tests};
use tokio::io::AsyncWriteExt as _;

const RTT: Duration = Duration::from_millis(10);
const VISITS: u64 = 6;

lab_tests! {
    fn nothing_is_claimed_where_the_option_is_stripped() {
        let metrics = visits(|lab| drop(lab.middlebox(StripFastOpen::new().experimental())));
        assert_eq!((metrics.rides(), metrics.saved_rtts, metrics.saved), (0, 0, Duration::ZERO), "{metrics:?}");
        assert_eq!(metrics.hedged, 0);
    }

    fn nothing_is_claimed_where_the_data_is_stripped() {
        let metrics = visits(|lab| drop(lab.middlebox(StripSynData::new())));
        assert_eq!((metrics.rides(), metrics.saved_rtts, metrics.saved), (0, 0, Duration::ZERO), "{metrics:?}");
        assert!(metrics.outcome(SynOutcome::SynDataNotAcked) > 0 && metrics.syn_data_bytes > 0, "{metrics:?}");
    }

    fn hedges_are_counted_where_syns_are_dropped() {
        let metrics = visits(|lab| drop(lab.middlebox(DropSynData::new())));
        assert_eq!((metrics.rides(), metrics.saved_rtts), (0, 0), "{metrics:?}");
        assert!(metrics.hedged > 0 && metrics.outcome(SynOutcome::Silent) == metrics.hedged, "{metrics:?}");
        let metrics = visits(|lab| drop(lab.middlebox(DropFastOpen::new())));
        assert_eq!((metrics.rides(), metrics.saved_rtts, metrics.syn_data_bytes), (0, 0, 0), "{metrics:?}");
        assert!(metrics.hedged > 0, "{metrics:?}");
    }

    fn rides_are_counted_where_nothing_is_in_the_way() {
        let metrics = visits(|_| {});
        assert_eq!((metrics.rides(), metrics.saved_rtts), (VISITS - 1, VISITS - 1), "{metrics:?}");
        assert!(metrics.saved >= RTT * (VISITS as u32 - 1), "{metrics:?}");
    }

    /// Clones count together; what was given up is counted as that, and what was never used apart.
    fn what_was_not_finished_is_counted_once_too() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, host) = (lab.host("client"), lab.host("server"));
        let addr = host.addr(80);
        let _web = Web::start(&host, addr);
        let metrics = run(&client, Runtime::CurrentThread, async move {
            fetch_cookie(addr).await;
            let connector = TfoConnector::new();
            drop(dial(&connector, addr).await);
            let mut given_up = dial(&connector.clone(), addr).await;
            given_up.write_all(GET).await.unwrap();
            given_up.flush().await.unwrap();
            drop(given_up);
            connector.metrics()
        });
        assert_eq!((metrics.unused, metrics.connections()), (1, 1), "{metrics:?}");
        assert_eq!(metrics.outcome(SynOutcome::Unknown), 1);
        assert_eq!((metrics.saved_rtts, metrics.syn_data_bytes), (0, GET.len() as u64));
        let in_syns: usize = flows(&lab, 80).iter().map(|flow| flow.syn().payload().len()).sum();
        assert_eq!(in_syns, GET.len());
    }
}

/// Visits on a bad path, or a good one: always answered, and counted as the wire has it.
fn visits(bend: impl FnOnce(&Lab)) -> TfoMetrics {
    let lab = Lab::builder().rtt(RTT).build().unwrap();
    let (client, host) = (lab.host("client"), lab.host("server"));
    let addr = host.addr(80);
    let server = http::Server::start(&host, addr);
    bend(&lab);
    let metrics = run(&client, Runtime::CurrentThread, async move {
        let client = Client::builder().pool_max_idle_per_host(0).build().unwrap();
        for _ in 0..VISITS {
            let answer = client.get(format!("http://{addr}/")).await.unwrap();
            assert_eq!(answer.into_body().bytes(5).await.unwrap(), "hello");
        }
        client.metrics()
    });
    assert_eq!(metrics.connections(), VISITS);
    assert!(server.seen().len() as u64 >= VISITS);
    // A SYN that the kernel sends again is one: only the first of each connection is the client's doing.
    let flows = flows(&lab, 80);
    let in_syns: usize = flows.iter().map(|flow| flow.syn().payload().len()).sum();
    assert_eq!(metrics.syn_data_bytes, in_syns as u64, "{}", lab.tap().ladder());
    let rides = flows.iter().filter(|flow| flow.syn_data_acked() > 0).count() as u64;
    assert_eq!(metrics.rides(), rides, "{}", lab.tap().ladder());
    metrics
}
