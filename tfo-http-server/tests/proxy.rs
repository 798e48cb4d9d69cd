//! PROXY headers: in the SYN, in front of the request.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(any(not(target_os = "linux"), tfo_fallback), allow(unused, reason = "no TCP Fast Open there"))]

mod support;

use std::time::Instant;

use support::{GET, POST, RawClient, Runtime, lab, read, serve, stays_pending};
use tfo_http_server::ListenerBuilder;
use tfo_lab::{Packet, lab_tests};

use Runtime::{CurrentThread, MultiThread};

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\x03\xe8\0\x50";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

#[cfg(tfo_fallback)]
fn main() {}

#[cfg(not(tfo_fallback))]
lab_tests! {
    fn a_header_in_the_syn_names_the_client_and_the_request_is_classified_behind_it() {
        for runtime in [CurrentThread, MultiThread] {
            let lab = lab();
            serve(&lab, runtime, trusting, async |listener| {
                for (port, header) in [(1, V1), (2, V2)] {
                    let mut client = RawClient::v4(&lab, port);
                    client.syn(&[header, GET].concat());
                    let (mut stream, remote) = listener.accept().await.unwrap();
                    let info = stream.info();
                    assert_eq!(remote, "192.0.2.1:1000".parse().unwrap());
                    assert_eq!((info.remote_addr(), stream.peer_addr()), (remote, remote));
                    assert_eq!(info.proxied_destination(), Some("192.0.2.2:80".parse().unwrap()));
                    assert_eq!(info.proxy_addr().unwrap().port(), port);
                    assert!(info.arrived_in_syn() && !info.is_proven());
                    assert_eq!(read(&mut stream).await.unwrap(), GET);

                    let mut client = RawClient::v4(&lab, port + 10);
                    client.syn(&[header, GET, POST].concat());
                    let (mut stream, _) = listener.accept().await.unwrap();
                    assert_eq!(read(&mut stream).await.unwrap(), GET);
                    stays_pending(read(&mut stream)).await;
                    client.ack(b"");
                    assert_eq!(read(&mut stream).await.unwrap(), POST);
                }
            });
        }
    }

    fn a_header_in_pieces_holds_up_nobody_else() {
        let lab = lab();
        serve(&lab, MultiThread, trusting, async |listener| {
            let (begin, end) = V2.split_at(13);
            let mut slow = RawClient::v4(&lab, 1);
            slow.syn(begin);
            let mut other = RawClient::v4(&lab, 2);
            other.syn(&[LOCAL, GET].concat());
            let (_stream, remote) = listener.accept().await.unwrap();
            assert_eq!(remote.port(), 2, "a proxy that speaks for itself");
            slow.ack(&end[..5]);
            stays_pending(listener.accept()).await;
            slow.ack(&end[5..]);
            let (mut stream, remote) = listener.accept().await.unwrap();
            assert_eq!(remote.port(), 1000);
            slow.ack(POST);
            assert_eq!(read(&mut stream).await.unwrap(), POST);
        });
    }

    fn a_bad_header_and_none_are_reset() {
        let lab = lab();
        serve(&lab, MultiThread, trusting, async |listener| {
            let stats = listener.stats();
            let begun = Instant::now();
            let mut silent = RawClient::v4(&lab, 1);
            silent.syn(b"").ack(b"");
            let accepting = tokio::spawn(async move { listener.accept().await });
            for (port, bad) in [(2, GET), (3, b"PROXY TCP4 1.2.3.4 nobody 1 2\r\n"), (4, b"\r\n\r\n\0\r\nQUIX")] {
                let mut client = RawClient::v4(&lab, port);
                client.syn(bad);
                client.wait_for("a RST", Packet::is_rst);
            }
            silent.wait_for("a RST", Packet::is_rst);
            assert!(begun.elapsed().as_secs() >= 4, "{:?}", begun.elapsed());
            assert!(!accepting.is_finished());
            tokio::time::sleep(support::WHILE).await;
            let stats = stats.snapshot();
            assert_eq!((stats.limits.proxy_refused, stats.limits.in_flight), (4, 0), "{stats:?}");
        });
    }

    fn a_header_from_a_stranger_is_no_header() {
        let lab = lab();
        serve(&lab, CurrentThread, |builder| builder.proxy_protocol(|_| false), async |listener| {
            let mut client = RawClient::v4(&lab, 1);
            let flight = [V1, GET].concat();
            client.syn(&flight);
            let (mut stream, remote) = listener.accept().await.unwrap();
            assert_eq!((remote.port(), stream.info().proxy_addr()), (1, None));
            stays_pending(read(&mut stream)).await;
            client.ack(b"");
            assert_eq!(read(&mut stream).await.unwrap(), flight);
        });
    }
}

fn trusting(builder: ListenerBuilder) -> ListenerBuilder {
    builder.proxy_protocol(|peer| peer == std::net::IpAddr::from([10, 9, 9, 9]))
}
