//! The gate under `Server`, which reads what came in a SYN at once: nothing that must wait gets through.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(any(not(target_os = "linux"), tfo_fallback), allow(unused, reason = "no TCP Fast Open there"))]

mod support;

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Request, Response};
use support::{GET, PATIENCE, PORT, POST, RawClient, WHILE, lab};
use tfo_http_server::server::{Limits, RequestBody, Server, ServerHandle};
use tfo_http_server::{ListenerBuilder, TfoListener};
use tfo_lab::{Lab, Packet, lab_tests};

#[cfg(tfo_fallback)]
fn main() {}

#[cfg(not(tfo_fallback))]
lab_tests! {
    fn a_post_in_a_syn_waits_for_the_ack_and_a_get_does_not() {
        let lab = lab();
        serve(&lab, false, |seen, handle| {
            let mut get = RawClient::v4(&lab, 1);
            get.syn(GET);
            get.wait_for("the answer before the ACK", |packet| packet.payload().ends_with(b"done\n"));
            assert_eq!(seen(), ["GET 0"]);
            // Never acked: it never runs, and its place is freed by a RST at the deadline or when it is reset.
            let mut reset = RawClient::v4(&lab, 2);
            reset.syn(POST);
            let mut both = RawClient::v4(&lab, 3);
            both.syn(&[GET, POST].concat());
            both.wait_for("the answer to the GET", |packet| packet.payload().ends_with(b"done\n"));
            let mut post = RawClient::v4(&lab, 4);
            post.syn(POST);
            std::thread::sleep(WHILE);
            assert_eq!(seen(), ["GET 0", "GET 0"]);
            let gate = handle.listener_stats().gate;
            assert_eq!((gate.gated, gate.withheld), (3, 3));
            reset.rst();
            post.ack(b"");
            post.wait_for("the answer to the POST", |packet| packet.payload().ends_with(b"done\n"));
            both.ack(b"");
            wait(|| seen().len() == 4);
            assert_eq!(seen()[2..], ["POST 4", "POST 4"]);
            wait(|| handle.listener_stats().gate.withheld == 0);
            assert_eq!(handle.listener_stats().gate.reset, 1);
        });
    }

    fn what_is_reset_never_runs() {
        let lab = lab();
        serve(&lab, false, |seen, handle| {
            for (port, flight) in [(1, POST.to_vec()), (2, [GET, POST].concat()), (3, support::grpc_call())] {
                let mut replayed = RawClient::v4(&lab, port);
                replayed.syn(&flight);
                wait(|| handle.listener_stats().gate.withheld == 1);
                replayed.rst();
                wait(|| handle.listener_stats().gate.reset == u64::from(port));
                wait(|| handle.open_connections() == 0);
            }
            std::thread::sleep(WHILE);
            assert_eq!(seen(), ["GET 0"]);
        });
    }

    fn what_is_behind_a_large_flight_waits_too() {
        let lab = Lab::builder().fastopen("server", 0x203).mtu(9000).build().unwrap();
        serve(&lab, false, |seen, handle| {
            // As much as is read at once; the POST is still in the kernel then.
            let head = "GET / HTTP/1.1\r\nHost: server\r\nX-Fill: ";
            let get = format!("{head}{}\r\n\r\n", "x".repeat(4096 - 4 - head.len()));
            let mut both = RawClient::v4(&lab, 1);
            both.syn(&[get.as_bytes(), POST].concat());
            both.wait_for("the answer to the GET", |packet| packet.payload().ends_with(b"done\n"));
            std::thread::sleep(WHILE);
            assert_eq!(seen(), ["GET 0"]);
            assert_eq!(handle.listener_stats().gate.withheld, 1);
            both.ack(b"");
            wait(|| seen() == ["GET 0", "POST 4"]);
        });
    }

    fn without_the_gate_it_would_run() {
        let lab = lab();
        serve(&lab, true, |seen, _| {
            let mut post = RawClient::v4(&lab, 1);
            post.syn(POST);
            wait(|| seen() == ["POST 4"]);
        });
    }

    fn what_is_withheld_is_in_flight_at_the_end() {
        let lab = lab();
        serve(&lab, false, |seen, handle| {
            let mut post = RawClient::v4(&lab, 1);
            post.syn(POST);
            // No connection without a request, which would have some time for its first.
            let mut both = RawClient::v4(&lab, 2);
            both.syn(&[GET, POST].concat());
            wait(|| handle.listener_stats().gate.withheld == 2 && seen().len() == 1);
            handle.shutdown();
            std::thread::sleep(WHILE);
            assert_eq!(seen(), ["GET 0"]);
            post.ack(b"");
            post.wait_for("the answer to the POST", |packet| packet.payload().ends_with(b"done\n"));
            both.ack(b"");
            wait(|| seen() == ["GET 0", "POST 4", "POST 4"]);
        });
    }

    fn what_is_proven_is_read_before_the_end() {
        let lab = lab();
        serve(&lab, false, |seen, handle| {
            let mut both = RawClient::v4(&lab, 1);
            both.syn(&[GET, POST].concat());
            both.wait_for("the answer to the GET", |packet| packet.payload().ends_with(b"done\n"));
            let mut slow = RawClient::v4(&lab, 2);
            slow.syn(b"GET /block HTTP/1.1\r\nHost: server\r\n\r\n");
            wait(|| seen() == ["GET 0", "GET 0"]);
            // The worker learns of the end before it learns of the ACK.
            both.ack(b"");
            handle.shutdown();
            wait(|| seen() == ["GET 0", "GET 0", "POST 4"]);
        });
    }

    fn behind_a_proxy_too() {
        let lab = lab();
        let trusting = |listener: ListenerBuilder| listener.proxy_protocol(|_| true);
        serve_with(&lab, trusting, |seen, handle| {
            let mut post = RawClient::v4(&lab, 1);
            post.syn(&[b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n", POST].concat());
            wait(|| handle.listener_stats().limits.in_flight == 1);
            std::thread::sleep(WHILE);
            handle.shutdown();
            std::thread::sleep(WHILE);
            assert!(seen().is_empty());
            post.ack(b"");
            post.wait_for("the answer to the POST", |packet| packet.payload().ends_with(b"done\n"));
            assert_eq!(seen(), ["POST 4"]);
        });
    }

    fn what_is_never_proven_is_reset_at_the_deadline() {
        let lab = lab();
        serve(&lab, false, |seen, handle| {
            let mut post = RawClient::v4(&lab, 1);
            post.syn(POST);
            wait(|| handle.listener_stats().gate.withheld == 1);
            // Ten seconds at least, whatever the header timeout is.
            let begun = Instant::now();
            while handle.open_connections() > 0 {
                assert!(begun.elapsed() < 2 * PATIENCE);
                std::thread::sleep(WHILE);
            }
            assert!(begun.elapsed() > Duration::from_secs(8), "{:?}", begun.elapsed());
            post.wait_for("a RST", Packet::is_rst);
            assert_eq!(handle.listener_stats().gate.deadline, 1);
            assert!(seen().is_empty());
        });
    }
}

fn wait(until: impl Fn() -> bool) {
    let begun = Instant::now();
    while !until() {
        assert!(begun.elapsed() < PATIENCE, "it does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn serve(lab: &Lab, gate_off: bool, work: impl FnOnce(&dyn Fn() -> Vec<String>, &ServerHandle) + Send) {
    serve_with(lab, |listener| listener.danger_gate_off(gate_off), work);
}

/// Runs `work` beside a server with one worker; it is told what has run: method and length of the body.
fn serve_with(
    lab: &Lab,
    with: impl FnOnce(ListenerBuilder) -> ListenerBuilder + Send,
    work: impl FnOnce(&dyn Fn() -> Vec<String>, &ServerHandle) + Send,
) {
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&seen);
    let service = service_fn(move |request: Request<RequestBody>| {
        let noted = Arc::clone(&noted);
        async move {
            let (method, blocks) = (request.method().clone(), request.uri().path() == "/block");
            let length = request.into_body().collect().await.unwrap().to_bytes().len();
            noted.lock().unwrap().push(format!("{method} {length}"));
            if blocks {
                std::thread::sleep(5 * WHILE);
            }
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("done\n")))
        }
    });
    lab.host("server").run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let inside = runtime.enter();
        let listener = with(TfoListener::builder().danger_answer_forged_addresses(true));
        let limits = Limits::default().header_timeout(Duration::from_secs(1));
        let server = Server::builder().listener(listener).limits(limits).workers(1);
        let server = server.bind(([0; 16], PORT).into()).unwrap();
        let handle = server.handle();
        drop(inside);
        std::thread::scope(|scope| {
            let serving = scope.spawn(move || runtime.block_on(server.serve(service)));
            let worked = catch_unwind(AssertUnwindSafe(|| work(&|| seen.lock().unwrap().clone(), &handle)));
            // Whatever has failed: the scope waits for the server.
            handle.shutdown();
            serving.join().unwrap().unwrap();
            worked.unwrap_or_else(|panic| resume_unwind(panic));
        });
    });
}
