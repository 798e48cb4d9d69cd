//! Where it is asked for, the end of the last answer and the FIN are one packet, and nothing of the answer is lost
//! for it.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(any(not(target_os = "linux"), tfo_fallback), allow(unused, reason = "no TCP Fast Open there"))]

mod support;

use std::convert::Infallible;
use std::time::Instant;

use futures_util::{StreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::header::CONNECTION;
use hyper::service::service_fn;
use hyper::{Request, Response};
use support::{GET, RawClient, WHILE, beside_server, lab, wait};
use tfo_http_server::TfoListener;
use tfo_http_server::server::{RequestBody, ServerBuilder, ServerHandle};
use tfo_lab::{Lab, Packet, lab_tests};
use tokio::time::sleep;

const DONE: &[u8] = b"done\n";

#[cfg(tfo_fallback)]
fn main() {}

#[cfg(not(tfo_fallback))]
lab_tests! {
    fn whoever_says_that_it_is_the_last() {
        let lab = lab();
        serve(&lab, true, |_| {
            let asks = [
                ("the client", "GET / HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n"),
                ("among others", "GET / HTTP/1.1\r\nHost: server\r\nConnection: te, Close\r\n\r\n"),
                ("an old client", "GET / HTTP/1.0\r\n\r\n"),
                ("the handler", "GET /close HTTP/1.1\r\nHost: server\r\n\r\n"),
            ];
            for (port, (who, ask)) in (1..).zip(asks) {
                let mut client = RawClient::v4(&lab, port);
                client.syn(ask.as_bytes());
                // Before the ACK.
                assert!(is_whole(&last(&client)), "{who}");
                client.ack(b"").fin();
            }
            // A connection that is kept alive, and ends later.
            let mut kept = RawClient::v4(&lab, 9);
            kept.syn(GET);
            kept.wait_for("the answer", |packet| packet.payload().ends_with(DONE));
            kept.ack(asks[0].1.as_bytes());
            assert!(is_whole(&last(&kept)));
        });
    }

    /// The client's kernel learns by it when the packet before it is lost.
    fn unless_asked_for_the_fin_is_a_packet_of_its_own() {
        let lab = lab();
        serve_with(&lab, false, false, |_| {
            let mut client = RawClient::v4(&lab, 1);
            client.syn(GET);
            assert!(last(&client).payload().is_empty());
            assert!(client.received().iter().any(is_whole));
        });
    }

    fn what_is_kept_alive_is_sent_at_once_without_an_end() {
        let lab = lab();
        serve(&lab, true, |handle| {
            let old = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
            for (port, ask) in [(1, GET), (2, &old[..])] {
                let mut client = RawClient::v4(&lab, port);
                client.syn(ask);
                let answer = client.wait_for("the answer", |packet| packet.payload().ends_with(DONE));
                std::thread::sleep(WHILE);
                assert!(!answer.is_fin() && handle.open_connections() == 1);
                client.ack(b"").fin();
                wait(|| handle.open_connections() == 0);
            }
        });
    }

    fn whichever_way_the_connection_is_served() {
        let lab = lab();
        serve(&lab, false, |handle| {
            let mut ride = RawClient::v4(&lab, 1);
            ride.syn(GET);
            assert!(is_whole(&last(&ride)));
            let mut plain = RawClient::v4(&lab, 2);
            plain.syn(b"").ack(GET);
            assert!(is_whole(&last(&plain)));
            assert_eq!(handle.stats().at_once, 2);
            // Those are tasks.
            let mut later = RawClient::v4(&lab, 3);
            later.syn(b"GET /late HTTP/1.1\r\nHost: server\r\n\r\n");
            assert!(is_whole(&last(&later)));
            let mut slow = RawClient::v4(&lab, 4);
            slow.syn(b"").ack(b"GET / HTTP/1.1\r\n");
            std::thread::sleep(WHILE);
            slow.ack(b"Host: server\r\n\r\n");
            assert!(is_whole(&last(&slow)));
            assert_eq!(handle.stats().at_once, 2);
        });
    }

    fn of_a_long_answer_it_is_the_last_packet() {
        let lab = lab();
        serve(&lab, false, |_| {
            let mut client = RawClient::v4(&lab, 1);
            client.syn(b"GET /10000 HTTP/1.1\r\nHost: server\r\n\r\n");
            let last = last(&client);
            assert!(last.payload().ends_with(DONE) && last.payload().len() < 1460, "{last:?}");
            let sent: usize = client.received().iter().map(|packet| packet.payload().len()).sum();
            assert!(sent > 10_000, "{sent}");
        });
    }

    fn a_part_of_an_answer_waits_for_nothing() {
        let lab = lab();
        serve(&lab, false, |_| {
            let mut client = RawClient::v4(&lab, 1);
            client.syn(b"GET /parts HTTP/1.1\r\nHost: server\r\n\r\n");
            let first = client.wait_for("the first part", |packet| packet.payload().ends_with(b"first\r\n"));
            assert!(!first.is_fin());
            let last = last(&client);
            assert!(last.payload().ends_with(b"done\n\r\n0\r\n\r\n"), "{last:?}");
        });
    }

    /// A close makes a RST of what is unread, and throws away what was not sent.
    fn what_is_unread_takes_no_answer_along() {
        let lab = lab();
        serve(&lab, false, |_| {
            for (port, path) in [(1, "block"), (2, "late")] {
                let mut client = RawClient::v4(&lab, port);
                client.syn(b"").ack(format!("GET /{path} HTTP/1.1\r\nHost: server\r\n\r\n").as_bytes());
                std::thread::sleep(WHILE);
                client.ack(GET);
                client.wait_for("the answer", |packet| packet.payload().ends_with(DONE));
            }
        });
    }

    /// The answer is complete, the request is not, and somebody reads it still: the end is far away. The kernel
    /// would hold the answer for 200 ms.
    fn an_answer_before_the_end_of_its_request_is_sent_at_once() {
        let lab = lab();
        serve(&lab, false, |_| {
            // A busy machine may be late now and then.
            let in_time = (1..=10).any(|port| {
                let mut client = RawClient::v4(&lab, port);
                let head = b"POST /read-on HTTP/1.1\r\nHost: server\r\nContent-Length: 8\r\n\r\nbody";
                client.syn(b"").ack(head);
                let begun = Instant::now();
                let answer = client.wait_for("the answer", |packet| packet.payload().ends_with(DONE));
                let took = begun.elapsed();
                assert!(!answer.is_fin());
                client.ack(b"body");
                last(&client);
                took < 2 * WHILE
            });
            assert!(in_time);
        });
    }

    /// The kernel takes a part, and the rest when there is room.
    fn an_answer_that_does_not_fit_into_the_kernel_arrives_whole() {
        const LENGTH: usize = 12_000_000;
        let lab = lab();
        serve(&lab, false, |_| {
            let url = format!("http://{}/{LENGTH}", lab.host("server").ipv4());
            let args = ["--silent", "--show-error", "--fail", "--output", "-", &url];
            let output = lab.host("client").run(|| std::process::Command::new("curl").args(args).output());
            let output = output.unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(output.stdout.len(), LENGTH + DONE.len());
            assert!(output.stdout.ends_with(DONE));
        });
    }
}

/// Its FIN.
fn last(client: &RawClient<'_>) -> Packet {
    client.wait_for("its end", Packet::is_fin)
}

/// Whether it is an answer, from its first byte to its last.
fn is_whole(packet: &Packet) -> bool {
    packet.payload().starts_with(b"HTTP/1.") && packet.payload().ends_with(DONE)
}

fn serve(lab: &Lab, keep_alive: bool, work: impl FnOnce(&ServerHandle) + Send) {
    serve_with(lab, keep_alive, true, work);
}

fn serve_with(lab: &Lab, keep_alive: bool, in_last_packet: bool, work: impl FnOnce(&ServerHandle) + Send) {
    let listener = TfoListener::builder().danger_answer_forged_addresses(true);
    let with = |server: ServerBuilder| {
        server.listener(listener).keep_alive(keep_alive).end_in_last_packet(in_last_packet)
    };
    beside_server(&lab.host("server"), with, service_fn(answer), work);
}

async fn answer(
    request: Request<RequestBody>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    let whole = |body: Vec<u8>| Full::new(Bytes::from(body)).boxed_unsync();
    let mut response = Response::new(whole(DONE.to_vec()));
    match &request.uri().path()[1..] {
        "block" => std::thread::sleep(3 * WHILE),
        "late" => sleep(3 * WHILE).await,
        "read-on" => _ = tokio::spawn(request.into_body().collect()),
        "close" => _ = response.headers_mut().insert(CONNECTION, "x, close".parse().unwrap()),
        "parts" => {
            let parts = stream::iter([&b"first"[..], DONE]).then(async |part| {
                if part == DONE {
                    sleep(WHILE).await;
                }
                Ok(Frame::data(Bytes::from_static(part)))
            });
            *response.body_mut() = StreamBody::new(parts).boxed_unsync();
        }
        length => {
            let length = length.parse().unwrap_or(0);
            *response.body_mut() = whole([vec![b'x'; length], DONE.to_vec()].concat());
        }
    }
    Ok(response)
}
