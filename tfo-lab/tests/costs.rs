//! System calls per connection, as exact numbers. One more is a failure.
//!
//! One request on a new connection, which the server closes.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::TokioExecutor;
use support::http::{Runtime, run};
use support::{Until, serve};
use tfo_http::{SynData, TfoConnector};
use tfo_lab::{Lab, lab_tests, syscalls};

lab_tests! {
    fn what_a_client_connection_costs() {
        let trace = syscalls::trace_test("what_a_client_connection_costs", || {
            let lab = Lab::builder().rtt(Duration::from_millis(40)).build().unwrap();
            let (client, host) = (lab.host("client"), lab.host("server"));
            let addr = host.addr(80);
            let server = serve(&host, addr, Until::EmptyLine, 7);
            run(&client, Runtime::CurrentThread, async move {
                let mut never = TfoConnector::new();
                never.set_syn_data(SynData::Never);
                // The first of each warms up: thread-locals, the runtime's own descriptors, the cookie.
                get("warm", HttpConnector::new(), addr).await;
                get("theirs", HttpConnector::new(), addr).await;
                get("warm", never.clone(), addr).await;
                get("plain", never, addr).await;
                // One path memory: the ride is on a path that has carried one.
                let tfo = TfoConnector::new();
                get("first visit", tfo.clone(), addr).await;
                get("warm", tfo.clone(), addr).await;
                get("ride", tfo, addr).await;
            });
            server.join().unwrap();
        });
        let cost = |name| trace.section(name).unwrap().counts().without(&NOT_COUNTED);
        let theirs = cost("theirs");
        for (name, committed, total) in [
            ("plain", PLAIN, 11),
            ("first visit", FIRST_VISIT, 13),
            ("ride", RIDE, 12),
        ] {
            let ours = cost(name);
            assert_eq!(ours.to_string(), committed, "{name}\n{}", trace.section(name).unwrap());
            assert_eq!(ours.total(), total, "{name}");
            assert!(ours.total() <= theirs.total() || name == "first visit", "{name}: {ours}; HttpConnector: {theirs}");
        }
    }
}

/// `write` is the runtime waking itself for the hedge's timer. The reactor's turns depend on timing; `fcntl` is tokio's check in debug builds.
const NOT_COUNTED: [&str; 2] = ["epoll_wait", "fcntl"];

const PLAIN: &str = "close 1, connect 1, epoll_ctl 2, getpeername 1, getsockname 1, getsockopt 1, \
                     recvfrom 1, shutdown 1, socket 1, writev 1";
const FIRST_VISIT: &str = "close 1, connect 1, epoll_ctl 2, getpeername 1, getsockname 1, getsockopt 1, \
                           recvfrom 1, setsockopt 1, shutdown 1, socket 1, write 1, writev 1";
const RIDE: &str = "close 1, connect 1, epoll_ctl 2, getsockname 1, getsockopt 1, recvfrom 1, \
                    sendmsg 1, setsockopt 1, shutdown 1, socket 1, write 1";

async fn get<C: Connect + Clone + Send + Sync + 'static>(name: &str, connector: C, addr: SocketAddr) {
    let client: Client<C, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let begun = syscalls::begin(name);
    let response = client.get(format!("http://{addr}/").parse().unwrap()).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    // The connection's own task closes it.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    drop(begun);
}
