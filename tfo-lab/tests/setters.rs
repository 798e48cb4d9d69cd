//! What a connector was told shows on the wire, on ordinary connections and on deferred ones.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use support::flows;
use support::http::{Runtime, run};
use support::tcp::{GET, TcpServer, dial, fetch_cookie, phase, uri};
use tfo_http::{TfoConnector, TfoStream, is_connect_error};
use tfo_lab::{Flow, Lab, Packet, Record, Verdict, lab_tests};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};
use tower_service::Service as _;

const RTT: Duration = Duration::from_millis(20);

lab_tests! {
    /// Without it the second small segment waits for the first one's acknowledgment (Nagle).
    fn nodelay() {
        for nodelay in [false, true] {
            both_ways(move |connector| connector.set_nodelay(nodelay), move |mut stream, _| async move {
                exchange(&mut stream).await;
                stream.write_all(b"one").await.unwrap();
                stream.write_all(b"two").await.unwrap();
                stream.read_exact(&mut [0; 6]).await.unwrap();
            }, move |flow| {
                let data: Vec<_> = flow.sent_by_client().filter(|record| !record.packet().payload().is_empty()).collect();
                let (one, two) = (data[data.len() - 2], data[data.len() - 1]);
                assert_eq!((one.packet().payload(), two.packet().payload()), (&b"one"[..], &b"two"[..]), "{flow}");
                let between = flow.received_by_client().filter(|at| at.time() > one.time() && at.time() < two.time());
                assert_eq!(between.count() == 0, nodelay, "{flow}");
            });
        }
    }

    fn keepalive() {
        both_ways(|connector| {
            connector.set_keepalive(Some(Duration::from_secs(2)));
            connector.set_keepalive_interval(Some(Duration::from_secs(1)));
            connector.set_keepalive_retries(Some(2));
        }, |mut stream, cut| async move {
            exchange(&mut stream).await;
            sleep(2 * RTT).await;
            cut.store(true, Ordering::SeqCst);
            let begun = Instant::now();
            let error = timeout(Duration::from_secs(15), stream.read(&mut [0])).await.expect("an end").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(!is_connect_error(&error));
            assert!(begun.elapsed() > Duration::from_secs(3));
        }, |flow| {
            // A probe is the last acknowledged byte's number, without a byte.
            let next = flow.sent_by_client().map(|record| record.packet().seq().unwrap()).max().unwrap();
            let probe = |record: &&Record| {
                let packet = record.packet();
                packet.payload().is_empty() && !packet.is_syn() && packet.seq() == Some(next.wrapping_sub(1))
            };
            let probes: Vec<_> = flow.sent_by_client().filter(probe).map(Record::time).collect();
            assert_eq!(probes.len(), 2, "{flow}");
            let interval = probes[1] - probes[0];
            assert!(interval >= Duration::from_millis(900) && interval < Duration::from_millis(1900), "{interval:?}");
        });
    }

    fn receive_buffer() {
        let window = |size| {
            both_ways(move |connector| connector.set_recv_buffer_size(size), |mut stream, _| async move {
                exchange(&mut stream).await;
            }, |_| {}).map(|flow| window(flow.syn()))
        };
        let (small, default) = (window(Some(4096)), window(None));
        assert!(small.iter().all(|small| *small <= 8192), "{small:?}");
        assert!(default.iter().all(|default| *default > 16_384), "{default:?}");
    }

    /// How much the kernel takes while nothing arrives.
    fn send_buffer() {
        for (size, expected) in [(Some(4096), 0..60_000), (Some(500_000), 60_000..4_000_000)] {
            both_ways(move |connector| connector.set_send_buffer_size(size), move |mut stream, cut| {
                let expected = expected.clone();
                async move {
                    exchange(&mut stream).await;
                    cut.store(true, Ordering::SeqCst);
                    let mut taken = 0;
                    poll_fn(|cx| loop {
                        match Pin::new(&mut stream).poll_write(cx, &[b'x'; 1000]) {
                            Poll::Ready(count) => taken += count.unwrap(),
                            Poll::Pending => return Poll::Ready(()),
                        }
                    })
                    .await;
                    assert!(expected.contains(&taken), "{taken}, not {expected:?}");
                }
            }, |_| {});
        }
    }

    fn user_timeout() {
        both_ways(|connector| {
            connector.set_tcp_user_timeout(Some(Duration::from_millis(700)));
        }, |mut stream, cut| async move {
            exchange(&mut stream).await;
            cut.store(true, Ordering::SeqCst);
            stream.write_all(b"lost").await.unwrap();
            let error = timeout(Duration::from_secs(10), stream.read(&mut [0])).await.expect("an end").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }, |_| {});
    }

    fn local_addresses() {
        let (v4, v6) = (Ipv4Addr::new(10, 0, 0, 77), "fd00::77".parse::<Ipv6Addr>().unwrap());
        type Set = fn(&mut TfoConnector, Ipv4Addr, Ipv6Addr);
        let both: Set = |connector, v4, v6| connector.set_local_addresses(v4, v6);
        let one: Set = |connector, v4, _| connector.set_local_address(Some(v4.into()));
        let other: Set = |connector, _, v6| connector.set_local_address(Some(v6.into()));
        for (set, to) in [(both, 0), (both, 1), (one, 0), (other, 1)] {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            let (client, server) = (lab.host("client"), lab.host("server"));
            lab.add_address("client", v4).unwrap();
            lab.add_address("client", v6).unwrap();
            let addrs = [server.addr(80), server.addr_v6(80)];
            let addr = addrs[to];
            let (_server, _) = TcpServer::echo(&server, addr);
            run(&client, Runtime::CurrentThread, async move {
                let mut connector = TfoConnector::new();
                set(&mut connector, v4, v6);
                for visit in 0..2 {
                    let mut stream = dial(&connector, addr).await;
                    assert_eq!(phase(&stream), if visit == 0 { "Open" } else { "Idle" });
                    exchange(&mut stream).await;
                    let expected: IpAddr = if to == 0 { v4.into() } else { v6.into() };
                    assert_eq!(stream.conn_info().local_addr().unwrap().ip(), expected);
                }
            });
            let flows = flows(&lab, 80);
            let expected: IpAddr = if to == 0 { v4.into() } else { v6.into() };
            for flow in &flows[flows.len() - 2..] {
                assert_eq!(flow.client().ip(), expected, "{flow}");
            }
        }
    }

    /// From the loopback interface nothing reaches the wire; from the device it does.
    fn interface() {
        both_ways(|connector| { connector.set_interface("tun0"); }, |mut stream, _| async move {
            exchange(&mut stream).await;
        }, |_| {});
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let addr = server.addr(80);
        let (_server, _) = TcpServer::echo(&server, addr);
        run(&client, Runtime::CurrentThread, async move {
            fetch_cookie(addr).await;
            let mut connector = TfoConnector::new();
            connector.set_connect_timeout(Some(Duration::from_millis(300)));
            connector.set_interface("lo");
            let error = match connector.call(uri(addr)).await {
                Err(error) => io::Error::from(error),
                Ok(stream) => {
                    let mut stream = stream.into_inner();
                    stream.write_all(GET).await.unwrap();
                    stream.read(&mut [0]).await.unwrap_err()
                }
            };
            assert!(is_connect_error(&error), "{error:?}");
        });
        assert_eq!(flows(&lab, 80).len(), 1, "{}", lab.tap().ladder());
    }
}

/// Two connections, set up in the same way: an ordinary one, and a deferred one. Each does the work, and
/// can cut the wire.
fn both_ways<F>(
    set_up: impl Fn(&mut TfoConnector),
    work: impl Fn(TfoStream, Arc<AtomicBool>) -> F + Clone + Send + 'static,
    look: impl Fn(&Flow),
) -> [Flow; 2]
where
    F: Future<Output = ()> + Send,
{
    ["Open", "Idle"].map(|state| {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let addr = server.addr(80);
        let (_server, _) = TcpServer::echo(&server, addr);
        let cut = Arc::new(AtomicBool::new(false));
        let is_cut = cut.clone();
        lab.middlebox(
            move |_: &Packet| if is_cut.load(Ordering::SeqCst) { Verdict::Drop } else { Verdict::Pass },
        );
        let mut connector = TfoConnector::new();
        set_up(&mut connector);
        let work = work.clone();
        run(&client, Runtime::CurrentThread, async move {
            if state == "Idle" {
                fetch_cookie(addr).await;
            }
            let stream = dial(&connector, addr).await;
            assert_eq!(phase(&stream), state);
            work(stream, cut).await;
        });
        let flow = flows(&lab, 80).pop().unwrap();
        look(&flow);
        flow
    })
}

/// There and back, behind which the connection is open.
async fn exchange(stream: &mut TfoStream) {
    stream.write_all(GET).await.unwrap();
    let mut echo = vec![0; GET.len()];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(echo, GET);
}

/// The window in a TCP header behind an IPv4 header.
fn window(packet: &Packet) -> u16 {
    let bytes = packet.bytes();
    let tcp = usize::from(bytes[0] & 0xF) * 4;
    u16::from_be_bytes([bytes[tcp + 14], bytes[tcp + 15]])
}
