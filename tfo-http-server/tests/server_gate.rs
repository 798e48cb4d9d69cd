//! The gate under `Server`, which reads what came in a SYN at once: nothing that must wait gets through.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(any(not(target_os = "linux"), tfo_fallback), allow(unused, reason = "no TCP Fast Open there"))]

mod support;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::UPGRADE;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use support::{GET, PATIENCE, POST, RawClient, WHILE, beside_server, lab, wait};
use tfo_http_server::server::{Limits, RequestBody, ServerBuilder, ServerHandle};
use tfo_http_server::{ListenerBuilder, TfoListener};
use tfo_lab::{Lab, Packet, lab_tests};
use tokio::io::AsyncReadExt;

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
            // What was read is withheld no longer: nothing is kept until the server's deadline.
            handle.shutdown();
            let begun = Instant::now();
            wait(|| handle.open_connections() == 0);
            assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
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

    fn what_is_refused_before_its_proof_is_reset_and_its_place_free_again() {
        let lab = lab();
        let small = |server: ServerBuilder| {
            server.listener(listener().fastopen_queue(1)).limits(limits().connections(1))
        };
        serve_with(&lab, small, |seen, handle| {
            RawClient::v4(&lab, 1).syn(b"").ack(b"");
            wait(|| handle.open_connections() == 1);
            // Each takes the only place.
            for port in 2..=4 {
                let mut post = RawClient::v4(&lab, port);
                post.syn(POST);
                post.wait_for("a 503", |packet| packet.payload().starts_with(b"HTTP/1.1 503"));
                post.wait_for("a RST", Packet::is_rst);
                wait(|| handle.listener_stats().limits.in_flight == 1);
                assert_eq!(handle.listener_stats().outcomes.syn_data, u64::from(port) - 1);
            }
            assert!(seen().is_empty());
            assert_eq!(handle.listener_stats().gate.closed, 3);
        });
    }

    fn what_is_cut_off_before_its_proof_is_reset_unless_something_was_answered() {
        let lab = lab();
        let at_once = |server: ServerBuilder| server.listener(listener()).shutdown_deadline(Duration::ZERO);
        serve_with(&lab, at_once, |seen, handle| {
            let mut post = RawClient::v4(&lab, 1);
            post.syn(POST);
            let mut both = RawClient::v4(&lab, 2);
            both.syn(&[GET, POST].concat());
            both.wait_for("the answer to the GET", |packet| packet.payload().ends_with(b"done\n"));
            wait(|| handle.listener_stats().gate.withheld == 2);
            handle.shutdown();
            post.wait_for("a RST", Packet::is_rst);
            wait(|| handle.open_connections() == 0);
            both.ack(b"");
            both.wait_for("a FIN", Packet::is_fin);
            assert!(!both.received().iter().any(Packet::is_rst), "{}", lab.tap().ladder());
            assert_eq!(seen(), ["GET 0"]);
        });
    }

    fn what_is_upgraded_in_its_syn_is_read_when_it_is_proven() {
        let lab = lab();
        let upgrade = b"GET / HTTP/1.1\r\nHost: server\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\n";
        serve(&lab, false, |seen, handle| {
            let mut client = RawClient::v4(&lab, 1);
            client.syn(&[upgrade, &b"early"[..]].concat());
            client.wait_for("a 101", |packet| packet.payload().starts_with(b"HTTP/1.1 101"));
            std::thread::sleep(WHILE);
            assert_eq!(seen(), ["GET 0"]);
            client.ack(b"");
            wait(|| seen() == ["GET 0", "early"]);
            client.ack(b"late");
            wait(|| seen() == ["GET 0", "early", "late"]);
            client.fin();
            wait(|| handle.listener_stats().limits.in_flight == 0);
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
        let trusting = |server: ServerBuilder| server.listener(listener().proxy_protocol(|_| true));
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

    /// Ten packets go before the first ACK (RFC 6928): settings and their acknowledgment take none of their own.
    fn an_answer_over_http2_that_fits_the_first_window_takes_one_round_trip() {
        let lab = lab();
        serve(&lab, false, |seen, _| {
            let mut get = RawClient::v4(&lab, 1);
            get.syn(&support::http2_get("/12500"));
            get.wait_for("the end before the ACK", |packet| packet.payload().ends_with(b"done\n"));
            assert_eq!(seen(), ["GET 0"]);
        });
    }

    fn what_is_never_proven_is_reset_at_the_deadline() {
        let lab = lab();
        serve(&lab, false, |seen, handle| {
            let mut post = RawClient::v4(&lab, 1);
            post.syn(POST);
            wait(|| handle.listener_stats().gate.withheld == 1);
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

fn serve(lab: &Lab, gate_off: bool, work: impl FnOnce(&dyn Fn() -> Vec<String>, &ServerHandle) + Send) {
    serve_with(lab, |server| server.listener(listener().danger_gate_off(gate_off)), work);
}

fn listener() -> ListenerBuilder {
    TfoListener::builder().danger_answer_forged_addresses(true)
}

/// Ten seconds at least are the gate's, whatever the header timeout is.
fn limits() -> Limits {
    Limits::default().header_timeout(Duration::from_secs(1))
}

/// Runs `work` beside a server; it is told what has run: method and length of the body.
fn serve_with(
    lab: &Lab,
    with: impl FnOnce(ServerBuilder) -> ServerBuilder + Send,
    work: impl FnOnce(&dyn Fn() -> Vec<String>, &ServerHandle) + Send,
) {
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&seen);
    let service = service_fn(move |mut request: Request<RequestBody>| {
        let noted = Arc::clone(&noted);
        async move {
            let upgrades = request.headers().contains_key(UPGRADE).then(|| hyper::upgrade::on(&mut request));
            let (method, blocks) = (request.method().clone(), request.uri().path() == "/block");
            let before = request.uri().path()[1..].parse::<usize>().map_or(0, |length| length - 5);
            let length = request.into_body().collect().await.unwrap().to_bytes().len();
            noted.lock().unwrap().push(format!("{method} {length}"));
            if blocks {
                std::thread::sleep(5 * WHILE);
            }
            let body = ["x".repeat(before).as_bytes(), b"done\n"].concat();
            let mut response = Response::new(Full::<Bytes>::from(body));
            if let Some(upgraded) = upgrades {
                tokio::spawn(read_raw(upgraded, noted));
                *response.body_mut() = Full::default();
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            }
            Ok::<_, Infallible>(response)
        }
    });
    beside_server(
        &lab.host("server"),
        |server| with(server.limits(limits())),
        service,
        |handle| {
            work(&|| seen.lock().unwrap().clone(), handle);
        },
    );
}

async fn read_raw(upgraded: OnUpgrade, noted: Arc<Mutex<Vec<String>>>) {
    let mut stream = TokioIo::new(upgraded.await.unwrap());
    let mut room = [0; 100];
    while let Ok(bytes @ 1..) = stream.read(&mut room).await {
        noted.lock().unwrap().push(String::from_utf8_lossy(&room[..bytes]).into_owned());
    }
}
