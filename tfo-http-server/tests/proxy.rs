//! PROXY headers: in the SYN, in front of the request.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(any(not(target_os = "linux"), tfo_fallback), allow(unused, reason = "no TCP Fast Open there"))]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

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
    fn a_header_in_the_syn_is_believed_when_the_connection_is_proven() {
        for runtime in [CurrentThread, MultiThread] {
            let lab = lab();
            serve(&lab, runtime, trusting, async |listener| {
                for (port, header) in [(1, V1), (2, V2)] {
                    let mut client = RawClient::v4(&lab, port);
                    client.syn(&[header, GET, POST].concat());
                    stays_pending(listener.accept()).await;
                    client.ack(b"");
                    let (mut stream, remote) = listener.accept().await.unwrap();
                    let info = stream.info();
                    assert_eq!(remote, "192.0.2.1:1000".parse().unwrap());
                    assert_eq!((info.remote_addr(), stream.peer_addr()), (remote, remote));
                    assert_eq!(info.proxied_destination(), Some("192.0.2.2:80".parse().unwrap()));
                    assert_eq!(info.proxy_addr().unwrap().port(), port);
                    assert!(info.arrived_in_syn() && info.is_proven());
                    let mut got = read(&mut stream).await.unwrap();
                    while got.len() < GET.len() + POST.len() {
                        got.extend(read(&mut stream).await.unwrap());
                    }
                    assert_eq!(got, [GET, POST].concat());
                }
            });
        }
    }

    fn a_forged_header_reaches_nobody() {
        let lab = lab();
        let short = |builder: ListenerBuilder| trusting(builder).gate_deadline(Duration::from_millis(300));
        serve(&lab, MultiThread, short, async |listener| {
            let stats = listener.stats();
            let accepting = tokio::spawn(async move { listener.accept_next().await.1 });
            // Whoever forges the proxy's address does not see the SYN-ACK. Its owner resets it, or is away.
            let mut reset = RawClient::v4(&lab, 1);
            reset.syn(&[V1, GET].concat());
            let mut silent = RawClient::v4(&lab, 2);
            silent.syn(&[V2, GET].concat());
            tokio::time::sleep(support::WHILE).await;
            assert_eq!(stats.snapshot().limits.in_flight, 2);
            reset.rst();
            silent.wait_for("a RST", Packet::is_rst);
            tokio::time::sleep(support::WHILE).await;
            let ended = stats.snapshot();
            assert_eq!((ended.gate.reset, ended.gate.deadline), (1, 1), "{ended:?}");
            assert_eq!((ended.limits.proxy_refused, ended.limits.in_flight), (0, 0), "{ended:?}");
            assert!(!accepting.is_finished());
            // The control: the same from the proxy itself.
            let mut real = RawClient::v4(&lab, 3);
            real.syn(&[V1, GET].concat()).ack(b"");
            assert_eq!(accepting.await.unwrap(), "192.0.2.1:1000".parse().unwrap());
        });
    }

    fn forgeries_take_no_places_from_the_proxy() {
        let lab = lab();
        serve(&lab, MultiThread, |builder| trusting(builder).backlog(4096), async |listener| {
            let stats = listener.stats();
            let accepting = tokio::spawn(async move { listener.accept_next().await.1 });
            for port in 1..=1100 {
                RawClient::v4(&lab, port).syn(&[V1, GET].concat());
                if port % 100 == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            let begun = Instant::now();
            while stats.snapshot().limits.in_flight < 1030 && begun.elapsed().as_secs() < 5 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let full = stats.snapshot();
            assert!(full.limits.in_flight >= 1030 && full.limits.proxy_refused == 0, "{full:?}");
            RawClient::v4(&lab, 2000).syn(b"").ack(&[V1, GET].concat());
            assert_eq!(accepting.await.unwrap(), "192.0.2.1:1000".parse().unwrap());
        });
    }

    fn a_header_in_pieces_holds_up_nobody_else() {
        let lab = lab();
        serve(&lab, MultiThread, trusting, async |listener| {
            let (begin, end) = V2.split_at(13);
            let mut slow = RawClient::v4(&lab, 1);
            slow.syn(b"").ack(begin);
            let mut other = RawClient::v4(&lab, 2);
            other.syn(&[LOCAL, GET].concat()).ack(b"");
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
                client.syn(bad).ack(b"");
                client.wait_for("a RST", Packet::is_rst);
            }
            let mut half = RawClient::v4(&lab, 5);
            half.syn(b"").ack(b"PROXY TCP4 ").fin();
            half.wait_for("a RST", Packet::is_rst);
            assert!(begun.elapsed().as_secs() < 4, "all those at once: {:?}", begun.elapsed());
            silent.wait_for("a RST", Packet::is_rst);
            assert!(begun.elapsed().as_secs() >= 4, "{:?}", begun.elapsed());
            assert!(!accepting.is_finished());
            tokio::time::sleep(support::WHILE).await;
            let stats = stats.snapshot();
            assert_eq!((stats.limits.proxy_refused, stats.limits.in_flight), (5, 0), "{stats:?}");
        });
    }

    fn many_bad_headers_at_once_are_all_reset_in_time() {
        const ROUNDS: u16 = 5;
        const EACH: u16 = 40;
        let lab = lab();
        serve(&lab, MultiThread, trusting, async |listener| {
            let stats = listener.stats();
            let accepting = tokio::spawn(async move {
                loop {
                    let (_stream, remote) = listener.accept_next().await;
                    assert_eq!(remote, "192.0.2.1:1000".parse().unwrap());
                }
            });
            // Others want the processors too.
            let stop = Arc::new(AtomicBool::new(false));
            let burning: Vec<_> = (0..4).map(|_| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || while !stop.load(Relaxed) { std::hint::spin_loop() })
            }).collect();
            let mut begun = Instant::now();
            for round in 0..ROUNDS {
                begun = Instant::now();
                for index in 0..EACH {
                    let port = 1 + round * EACH + index;
                    let mut client = RawClient::v4(&lab, port);
                    match index % 8 {
                        // In the SYN, behind it, over, in parts, and nothing at all.
                        0 => _ = client.syn(GET).ack(b""),
                        1 => _ = client.syn(b"").ack(b"PROXY TCP4 1.2.3.4 nobody 1 2\r\n"),
                        2 => _ = client.syn(b"").ack(b"PROXY TCP").fin(),
                        3 => _ = client.syn(b"").ack(b"PROXY TCP"),
                        4 => _ = client.syn(b"").ack(b""),
                        5 => _ = client.syn(b"").ack(b"PRO").ack(b"XY, but no such thing\r\n"),
                        6 => _ = client.syn(b"").ack(&[b' '; 3000]),
                        // Good ones between them.
                        _ => _ = client.syn(b"").ack(V2),
                    }
                }
            }
            // 5 s for the last of those who say too little.
            while stats.snapshot().limits.in_flight > 0 && begun.elapsed().as_secs() < 9 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            stop.store(true, Relaxed);
            burning.into_iter().for_each(|thread| thread.join().unwrap());
            let stats = stats.snapshot();
            let bad = u64::from(ROUNDS * EACH / 8 * 7);
            assert_eq!((stats.limits.proxy_refused, stats.limits.in_flight), (bad, 0), "{stats:?}");
            assert!(!accepting.is_finished());
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
