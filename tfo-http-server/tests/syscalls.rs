//! What an accepted connection costs: system calls, counted.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(any(not(target_os = "linux"), tfo_fallback), allow(unused, reason = "no TCP Fast Open there"))]

mod support;

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use support::{GET, POST, RawClient, Runtime, WHILE, read, serve};
use tfo_lab::{lab_tests, syscalls};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::sleep;

#[cfg(tfo_fallback)]
fn main() {}

#[cfg(not(tfo_fallback))]
lab_tests! {
    fn what_a_connection_costs() {
        let trace = syscalls::trace_test("what_a_connection_costs", measure);
        for (name, expected) in [
            // Accepting it is accept4, TCP_INFO and epoll_ctl; then the first read.
            ("plain", "accept4 1, epoll_ctl 1, getsockopt 1, recvfrom 1"),
            // MSG_PEEK is the second recvfrom.
            ("ride", "accept4 1, epoll_ctl 1, getsockopt 1, recvfrom 2"),
            // The look that finds it unproven, and clears the readiness.
            ("gated: begin", "accept4 1, epoll_ctl 1, getsockopt 2, recvfrom 1"),
            ("gated: woken by the ACK", "getsockopt 1, recvfrom 1"),
            ("waiting for a proof: ordinary", ""),
        ] {
            let calls = trace.section(name).unwrap();
            assert_eq!(calls.counts().to_string(), expected, "{name}:\n{calls}");
        }
    }
}

fn measure() {
    let lab = support::lab();
    serve(
        &lab,
        Runtime::CurrentThread,
        |builder| builder,
        async |listener| {
            // An earlier timer than the gate's, as a server with other connections has: where a new timer
            // is the next one to end, the runtime wakes itself, with a write.
            tokio::spawn(sleep(support::PATIENCE / 2));
            // All that is new to the thread is done once before.
            RawClient::v4(&lab, 1).syn(POST).ack(b"");
            let (mut warm, _) = listener.accept().await.unwrap();
            read(&mut warm).await.unwrap();

            let mut room = vec![0; 8192];
            for (port, name) in [(2, "plain"), (3, "ride"), (4, "gated: begin")] {
                let mut client = RawClient::v4(&lab, port);
                match name {
                    "plain" => client.syn(b"").ack(POST),
                    "ride" => client.syn(GET),
                    _ => client.syn(POST),
                };
                // In the accept queue, and the listener known to be readable.
                sleep(WHILE).await;
                let accepted = syscalls_of(name, &listener, &mut room).await;
                if name == "plain" {
                    let info = accepted.info();
                    let mut proven = std::pin::pin!(info.proven());
                    let proven = syscalls::section("waiting for a proof: ordinary", || {
                        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
                        Future::poll(proven.as_mut(), &mut cx)
                    });
                    assert_eq!(proven, Poll::Ready(Ok(())));
                }
                if name.starts_with("gated") {
                    let mut stream = accepted;
                    // The reactor's first event, and its look, go before.
                    support::stays_pending(read(&mut stream)).await;
                    client.ack(b"");
                    sleep(WHILE).await;
                    let got = poll_fn(|cx| {
                        let mut buf = ReadBuf::new(&mut room);
                        let polled = syscalls::section("gated: woken by the ACK", || {
                            Pin::new(&mut stream).poll_read(cx, &mut buf)
                        });
                        polled.map_ok(|()| buf.filled().to_vec())
                    });
                    assert_eq!(got.await.unwrap(), POST);
                }
            }
        },
    );
}

/// Accepts, and reads once, within one poll.
async fn syscalls_of(
    name: &'static str,
    listener: &tfo_http_server::TfoListener,
    room: &mut [u8],
) -> tfo_http_server::AcceptedStream {
    poll_fn(|cx| {
        syscalls::section(name, || {
            let Poll::Ready(accepted) = listener.poll_accept(cx) else { panic!("nothing to accept: {name}") };
            let (mut stream, _) = accepted.unwrap();
            let mut buf = ReadBuf::new(room);
            let polled = Pin::new(&mut stream).poll_read(cx, &mut buf);
            assert_eq!(polled.is_pending(), name.starts_with("gated"), "{name}");
            Poll::Ready(stream)
        })
    })
    .await
}
