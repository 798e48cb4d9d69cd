//! What leaves the server before a connection is proven: nothing where no cookie is required, and
//! elsewhere as much as the listener says.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(any(not(target_os = "linux"), tfo_fallback), allow(unused, reason = "no TCP Fast Open there"))]

mod support;

use std::io::{ErrorKind, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use support::{GET, POST, RawClient, Runtime, WHILE, accept_ride, lab, read, serve, serve_at, stays_pending};
use tfo_http_server::{Disproven, ListenerBuilder};
use tfo_lab::test::need;
use tfo_lab::{Lab, Packet, lab_tests};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::sleep;

use Runtime::{CurrentThread, MultiThread};

const ANY: [u8; 16] = [0; 16];

#[cfg(tfo_fallback)]
fn main() {}

#[cfg(not(tfo_fallback))]
lab_tests! {
    fn without_cookies_nothing_leaves_before_the_proof() {
        for (bits, no_cookie) in [(0x203, false), (3, true)] {
            for runtime in [CurrentThread, MultiThread] {
                let lab = Lab::builder().fastopen("server", bits).build().unwrap();
                serve_at(&lab, runtime, ANY.into(), |builder| builder.no_cookie(no_cookie), async |listener| {
                    let effect = listener.effect();
                    assert!(effect.is_cookie_less() && !effect.answers_unproven(), "{effect}");
                    assert!(effect.to_string().contains("answers wait"), "{effect}");
                    let mut client = RawClient::v4(&lab, 1);
                    client.syn(GET);
                    let mut stream = accept_ride(&listener, GET).await;
                    // The application works already.
                    assert_eq!(read(&mut stream).await.unwrap(), GET);
                    let writer = tokio::spawn(async move {
                        let polls = write_counted(&mut stream, b"answer").await.unwrap();
                        (polls, stream)
                    });
                    sleep(WHILE).await;
                    assert!(!writer.is_finished());
                    assert!(client.received().iter().all(|packet| packet.payload().is_empty()));
                    client.ack(b"");
                    let (polls, stream) = writer.await.unwrap();
                    client.wait_for("the answer", |packet| packet.payload() == b"answer");
                    assert!((2..=3).contains(&polls), "{polls} polls");
                    assert!(stream.info().is_proven());
                });
            }
        }
    }

    fn a_private_address_and_a_named_danger_answer_at_once() {
        let private: IpAddr = [10, 0, 0, 2].into();
        let danger: (IpAddr, bool) = (ANY.into(), true);
        for (ip, named) in [(private, false), danger] {
            let lab = lab();
            let builder = |builder: ListenerBuilder| builder.danger_answer_forged_addresses(named);
            serve_at(&lab, CurrentThread, ip, builder, async |listener| {
                let effect = listener.effect();
                assert!(effect.is_cookie_less() && effect.answers_unproven(), "{effect}");
                assert!(effect.to_string().contains("DANGER: no cookie"), "{effect}");
                let mut client = RawClient::v4(&lab, 1);
                client.syn(GET);
                let mut stream = accept_ride(&listener, GET).await;
                stream.write_all(b"answer").await.unwrap();
                client.wait_for("the answer", |packet| packet.payload() == b"answer");
                assert!(!stream.info().is_proven());
            });
        }
    }

    fn where_cookies_are_required_that_is_said() {
        let lab = Lab::builder().build().unwrap();
        serve_at(&lab, CurrentThread, ANY.into(), |builder| builder, async |listener| {
            let effect = listener.effect();
            assert!(!effect.is_cookie_less() && effect.answers_unproven(), "{effect}");
            // Nor does anyone get in without one.
            RawClient::v4(&lab, 1).syn(GET);
            stays_pending(listener.accept()).await;
        });
    }

    /// What the docs warn of: it is looked at once, and routes are not.
    fn a_later_setting_and_a_route_without_cookies_are_not_seen() {
        for route in [false, true] {
            let lab = Lab::builder().build().unwrap();
            let server = lab.host("server");
            serve_at(&lab, CurrentThread, ANY.into(), |builder| builder, async |listener| {
                RawClient::v4(&lab, 1).syn(GET);
                stays_pending(listener.accept()).await;
                if route {
                    let ip = |line: &str| server.command(need("ip")).args(line.split(' ')).output().unwrap();
                    let to = String::from_utf8(ip("route get 10.9.9.9").stdout).unwrap();
                    let (_, device) = to.split_once(" dev ").unwrap();
                    let device = device.split(' ').next().unwrap();
                    let done = ip(&format!("route add 10.9.9.9/32 dev {device} fastopen_no_cookie 1"));
                    assert!(done.status.success(), "{done:?}");
                } else {
                    server.set_sysctl("net.ipv4.tcp_fastopen", 0x203).unwrap();
                }
                let mut client = RawClient::v4(&lab, 2);
                client.syn(GET);
                let mut stream = accept_ride(&listener, GET).await;
                assert!(!listener.effect().is_cookie_less());
                stream.write_all(b"answer").await.unwrap();
                client.wait_for("the answer", |packet| packet.payload() == b"answer");
                assert!(!stream.info().is_proven());
            });
        }
    }

    fn an_early_answer_stops_at_its_limit() {
        for runtime in [CurrentThread, MultiThread] {
            let lab = lab();
            serve(&lab, runtime, |builder| builder.unproven_response(10), async |listener| {
                let mut client = RawClient::v4(&lab, 1);
                client.syn(GET);
                let mut stream = accept_ride(&listener, GET).await;
                assert_eq!(read(&mut stream).await.unwrap(), GET);
                let parts = [IoSlice::new(b""), IoSlice::new(b"0123"), IoSlice::new(b"456789 and the rest")];
                assert_eq!(stream.write_vectored(&parts).await.unwrap(), 4);
                assert_eq!(stream.write(b"456789 and the rest").await.unwrap(), 6);
                let writer = tokio::spawn(async move {
                    stream.write_all(b" and the rest").await.unwrap();
                    stream.shutdown().await.unwrap();
                    stream
                });
                sleep(WHILE).await;
                let early: Vec<u8> = client.received().iter().flat_map(|packet| packet.payload().to_vec()).collect();
                assert_eq!(early, b"0123456789");
                client.ack(b"");
                writer.await.unwrap();
                client.wait_for("the rest", |packet| packet.payload().ends_with(b" and the rest"));
            });
        }
    }

    fn a_write_that_waits_ends_as_the_connection_does() {
        let lab = lab();
        let mute = |builder: ListenerBuilder| builder.unproven_response(0).gate_deadline(Duration::from_millis(300));
        serve(&lab, CurrentThread, mute, async |listener| {
            for (port, kind, why) in
                [(1, ErrorKind::ConnectionReset, Disproven::Reset), (2, ErrorKind::TimedOut, Disproven::Deadline)]
            {
                let mut client = RawClient::v4(&lab, port);
                client.syn(GET);
                let mut stream = accept_ride(&listener, GET).await;
                assert_eq!(read(&mut stream).await.unwrap(), GET);
                stays_pending(stream.write(b"x")).await;
                if why == Disproven::Reset {
                    client.rst();
                }
                let error = stream.write(b"x").await.unwrap_err();
                assert_eq!(error.kind(), kind, "{error}");
                assert_eq!(stream.info().proven().await, Err(why));
                if why == Disproven::Deadline {
                    client.wait_for("a RST", Packet::is_rst);
                }
            }
            let stats = listener.stats().snapshot();
            assert_eq!((stats.gate.reset, stats.gate.deadline, stats.gate.gated), (1, 1, 0), "{stats:?}");
        });
    }

    fn the_limit_does_not_touch_others() {
        let lab = lab();
        serve(&lab, CurrentThread, |builder| builder.unproven_response(0), async |listener| {
            let mut client = RawClient::v4(&lab, 1);
            client.syn(b"").ack(POST);
            let (mut stream, _) = listener.accept().await.unwrap();
            assert_eq!(read(&mut stream).await.unwrap(), POST);
            stream.write_all(b"answer").await.unwrap();
            client.wait_for("the answer", |packet| packet.payload() == b"answer");
        });
    }
}

/// Writes all in one write, and counts how often it was polled.
async fn write_counted(stream: &mut tfo_http_server::AcceptedStream, bytes: &[u8]) -> std::io::Result<usize> {
    let mut polls = 0;
    std::future::poll_fn(|cx| {
        polls += 1;
        match Pin::new(&mut *stream).poll_write(cx, bytes) {
            Poll::Ready(result) => Poll::Ready(result.map(|written| assert_eq!(written, bytes.len()))),
            Poll::Pending => Poll::Pending,
        }
    })
    .await?;
    Ok(polls)
}
