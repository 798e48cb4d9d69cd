//! What a connection costs the server, everything on: gate, limits, counters. System calls, counted.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(any(not(target_os = "linux"), tfo_fallback), allow(unused, reason = "no TCP Fast Open there"))]

mod support;

use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Request, Response};
use support::{GET, PORT, RawClient, lab};
use tfo_http_server::server::{RequestBody, Server};
use tfo_http_server::{AcceptInfo, TfoListener};
use tfo_lab::{Lab, lab_tests, syscalls};

#[cfg(tfo_fallback)]
fn main() {}

#[cfg(not(tfo_fallback))]
lab_tests! {
    fn what_a_short_connection_costs() {
        let trace = syscalls::trace_test("what_a_short_connection_costs", || measure(false));
        // accept4, TCP_INFO, the request, the answer, close; whether there is one more, and waiting for it.
        let expected = "accept4 1, close 1, epoll_wait 1, getsockopt 1, poll 1, recvfrom 1, writev 1";
        for name in ["ride", "plain"] {
            let calls = trace.section(name).unwrap();
            assert_eq!(calls.counts().to_string(), expected, "{name}:\n{calls}");
        }
        // The one before has its answer, and ends; then one whose request comes when it was accepted. Nothing is
        // read in vain, nothing taken out again, and no timer set.
        let calls = trace.section("late").unwrap();
        let expected = "accept4 1, close 1, epoll_ctl 1, epoll_pwait 1, epoll_wait 2, getsockopt 1, poll 2, \
                        recvfrom 1, writev 1";
        assert_eq!(calls.counts().to_string(), expected, "{calls}");
    }

    fn what_a_connection_costs_that_the_client_closes() {
        let trace = syscalls::trace_test("what_a_connection_costs_that_the_client_closes", || measure(true));
        for name in ["ride", "plain"] {
            let calls = trace.section(name).unwrap();
            // Watched, asked what has happened, and a look that finds the end. No `write`: no timer of its own
            // wakes the reactor.
            let counts = calls.counts().to_string();
            // How often it waits depends on the client; tokio looks at the flags in debug builds only.
            let other = |count: &&str| !count.starts_with("epoll_wait") && !count.starts_with("fcntl");
            let counts: Vec<_> = counts.split(", ").filter(other).collect();
            let expected = [
                "accept4 1",
                "close 1",
                "epoll_ctl 1",
                "epoll_pwait 1",
                "getsockopt 1",
                "poll 1",
                "recvfrom 2",
                "writev 1",
            ];
            assert_eq!(counts, expected, "{name}:\n{calls}");
        }
    }
}

thread_local! {
    /// From one request to the next: all that a connection costs, but in another order.
    static SECTION: RefCell<Option<syscalls::Section<'static>>> = const { RefCell::new(None) };
}

fn measure(keep_alive: bool) {
    const KINDS: [&str; 7] = ["warm", "warm", "ride", "plain", "late", "end", "end"];
    let lab = lab();
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let service = service_fn(move |request: Request<RequestBody>| {
        let index = count.fetch_add(1, SeqCst);
        let info = request.extensions().get::<AcceptInfo>().unwrap();
        assert_eq!(info.arrived_in_syn(), KINDS[index] != "plain" && KINDS[index] != "late", "{index}");
        SECTION.with(|section| {
            section.take();
            // From here on: the end of this connection, and the next up to its request.
            if let Some(next) = KINDS.get(index + 1) {
                section.replace(Some(syscalls::begin(next)));
            }
        });
        async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello\n"))) }
    });
    lab.host("server").run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TfoListener::builder().danger_answer_forged_addresses(true);
            let server = Server::builder().listener(listener).workers(1).keep_alive(keep_alive);
            let server = server.bind(([0; 16], PORT).into()).unwrap();
            let handle = server.handle();
            let serving = tokio::spawn(server.serve(service));
            let clients = tokio::task::spawn_blocking(move || clients(&lab, &KINDS, keep_alive));
            clients.await.unwrap();
            assert_eq!(handle.stats().statuses[1], 7);
            handle.shutdown();
            serving.await.unwrap().unwrap();
        });
    });
}

fn clients(lab: &Lab, kinds: &[&str], keep_alive: bool) {
    for (port, kind) in (1..).zip(kinds) {
        let mut client = RawClient::v4(lab, port);
        match *kind {
            "plain" => {
                client.syn(b"").ack(GET);
            }
            "late" => {
                client.syn(b"").ack(b"");
                // Accepted meanwhile.
                std::thread::sleep(support::WHILE);
                client.ack(GET);
            }
            _ => {
                client.syn(GET);
            }
        }
        client.wait_for("an answer", |packet| packet.payload().ends_with(b"hello\n"));
        if keep_alive {
            std::thread::sleep(support::WHILE);
            client.ack(b"").fin();
        }
        // Not to be seen: the close behind the answer, and the worker asleep.
        std::thread::sleep(support::WHILE);
    }
}
