//! What a connector was told shows on the wire: with `HttpConnector`, and with ours on ordinary connections,
//! on deferred ones, and where one call connects and sends.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use hyper::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use support::flows;
use support::http::{Runtime, run};
use support::subject::{Names, Settings, Subject};
use support::tcp::{GET, TcpServer, fetch_cookie, phase, uri};
use tfo_http::path::{self, Path, PathMemory, PathStore};
use tfo_http::{TfoConnector, is_connect_error};
use tfo_lab::{Flow, Lab, Packet, Record, Verdict, lab_tests};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};
use tower_service::Service as _;

const RTT: Duration = Duration::from_millis(20);

lab_tests! {
    /// Without it the second small segment waits for the first one's acknowledgment (Nagle).
    fn nodelay() {
        for nodelay in [false, true] {
            every_way(move |connector| connector.set_nodelay(nodelay), move |mut stream, _| async move {
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
        every_way(|connector| {
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
            every_way(move |connector| connector.set_recv_buffer_size(size), |mut stream, _| async move {
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
            every_way(move |connector| connector.set_send_buffer_size(size), move |mut stream, cut| {
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
        every_way(|connector| {
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
        type Set = fn(&mut dyn Settings, Ipv4Addr, Ipv6Addr);
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
                // The ordinary connection brings the cookie of the deferred one.
                for way in WAYS {
                    let set_up = |connector: &mut dyn Settings| set(connector, v4, v6);
                    exchange(&mut way.connect(set_up, uri(addr)).await.unwrap()).await;
                }
            });
            let flows = flows(&lab, 80);
            let expected: IpAddr = if to == 0 { v4.into() } else { v6.into() };
            assert_eq!(flows.len(), WAYS.len());
            for flow in &flows {
                assert_eq!(flow.client().ip(), expected, "{flow}");
            }
        }
    }

    /// From the loopback interface nothing reaches the wire; from the device it does.
    fn interface() {
        every_way(|connector| { connector.set_interface("tun0"); }, |mut stream, _| async move {
            exchange(&mut stream).await;
        }, |_| {});
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let addr = server.addr(80);
        let (_server, _) = TcpServer::echo(&server, addr);
        run(&client, Runtime::CurrentThread, async move {
            for way in WAYS {
                if way == Way::Deferred {
                    fetch_cookie(addr).await;
                }
                let set_up = |connector: &mut dyn Settings| {
                    connector.set_connect_timeout(Some(Duration::from_millis(300)));
                    connector.set_interface("lo");
                };
                way.error(set_up, uri(addr)).await;
            }
        });
        assert_eq!(flows(&lab, 80).len(), 1, "{}", lab.tap().ladder());
    }

    /// Only what is marked finds a way.
    fn mark() {
        for way in WAYS {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            let (client, server) = (lab.host("client"), lab.host("server"));
            let addr = server.addr(80);
            let (_server, _) = TcpServer::echo(&server, addr);
            let ip = server.ipv4().to_string();
            run(&client, Runtime::CurrentThread, warm(way, addr));
            for rule in [&["fwmark", "42", "lookup", "main", "pref", "50"][..], &["to", &ip, "unreachable", "pref", "60"]] {
                assert!(client.command("ip").args(["rule", "add"]).args(rule).status().unwrap().success());
            }
            run(&client, Runtime::CurrentThread, async move {
                exchange(&mut way.connect(|connector| connector.set_mark(Some(42)), uri(addr)).await.unwrap()).await;
                way.error(|connector| connector.set_mark(Some(43)), uri(addr)).await;
            });
        }
    }

    /// There is one local port. With the option it serves connections to several servers. `HttpConnector`
    /// sets it behind its `bind`, where it is too late.
    fn reuse_address() {
        for (way, reuse) in WAYS[1..].iter().flat_map(|&way| [(way, false), (way, true)]) {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            let (client, server) = (lab.host("client"), lab.host("server"));
            let addrs = [server.addr(80), server.addr(81)];
            let _servers = addrs.map(|addr| TcpServer::echo(&server, addr));
            run(&client, Runtime::CurrentThread, warm(way, addrs[0]));
            client.set_sysctl("net.ipv4.ip_local_port_range", "40000 40000").unwrap();
            client.set_sysctl("net.ipv4.ip_autobind_reuse", 1).unwrap();
            let local = IpAddr::from(client.ipv4());
            run(&client, Runtime::CurrentThread, async move {
                let set_up = |connector: &mut dyn Settings| {
                    connector.set_reuse_address(reuse);
                    connector.set_local_address(Some(local));
                };
                let mut first = way.connect(set_up, uri(addrs[0])).await.unwrap();
                exchange(&mut first).await;
                // There is a cookie now, if there was none before.
                if reuse {
                    exchange(&mut Way::Deferred.connect(set_up, uri(addrs[1])).await.unwrap()).await;
                } else {
                    let error = Way::Deferred.error(set_up, uri(addrs[1])).await;
                    assert!(format!("{error:?}").contains("AddrInUse"), "{error:?}");
                }
            });
            let ports: Vec<_> = addrs.iter().filter_map(|addr| lab.tap().flow(*addr)).map(|flow| flow.client().port()).collect();
            assert_eq!(ports, if reuse { vec![40_000; 2] } else { vec![40_000] }, "{way:?}");
        }
    }

    fn connect_timeout() {
        for (way, patience) in WAYS.into_iter().flat_map(|way| [(way, 200), (way, 900)]) {
            let patience = Duration::from_millis(patience);
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            let (client, server) = (lab.host("client"), lab.host("server"));
            let addr = server.addr(80);
            let (_server, _) = TcpServer::echo(&server, addr);
            run(&client, Runtime::CurrentThread, warm(way, addr));
            lab.middlebox(|_: &Packet| Verdict::Drop);
            run(&client, Runtime::CurrentThread, async move {
                let begun = Instant::now();
                let set_up = |connector: &mut dyn Settings| connector.set_connect_timeout(Some(patience));
                let error = way.error(set_up, uri(addr)).await;
                let took = begun.elapsed();
                assert!(format!("{error:?}").contains("TimedOut") || format!("{error:?}").contains("Elapsed"), "{error:?}");
                assert!(took >= patience && took < patience + Duration::from_millis(600), "{way:?}: {took:?}");
            });
        }
    }

    /// IPv6 is silent. How much later IPv4 is tried.
    fn happy_eyeballs_timeout() {
        for (way, delay) in WAYS.into_iter().flat_map(|way| [(way, 100), (way, 900)]) {
            let delay = Duration::from_millis(delay);
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            let (client, server) = (lab.host("client"), lab.host("server"));
            let addrs = [server.addr_v6(80), server.addr(80)];
            let _servers = addrs.map(|addr| TcpServer::echo(&server, addr));
            for addr in addrs {
                run(&client, Runtime::CurrentThread, warm(way, addr));
            }
            let before = flows(&lab, 80).len();
            lab.middlebox(|packet: &Packet| match packet.src() {
                Some(src) if src.is_ipv6() => Verdict::Drop,
                _ => Verdict::Pass,
            });
            run(&client, Runtime::CurrentThread, async move {
                let set_up = |connector: &mut dyn Settings| connector.set_happy_eyeballs_timeout(Some(delay));
                let uri = "http://server.both.test/".parse().unwrap();
                exchange(&mut way.connect(set_up, uri).await.unwrap()).await;
            });
            let flows = lab.tap().flows_of(80).split_off(before);
            let first = |v6| flows.iter().find(|flow| flow.client().is_ipv6() == v6).unwrap().records()[0].time();
            let later = first(false) - first(true);
            assert!(later >= delay && later < delay + Duration::from_millis(600), "{way:?}: {later:?}");
            assert_eq!(flows[0].syn().payload().is_empty(), !way.rides(), "{}", flows[0]);
        }
    }
}

/// How a connection comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By `HttpConnector`.
    Theirs,
    /// By ours, without a cookie.
    Ordinary,
    /// By ours, with one.
    Deferred,
    /// By ours, with one, to where rides are known to arrive.
    Fresh,
}

const WAYS: [Way; 4] = [Way::Theirs, Way::Ordinary, Way::Deferred, Way::Fresh];

/// Of every path it is known what was learnt of the first: that rides arrive.
#[derive(Default)]
struct AllAlike {
    record: Option<path::Record>,
    taught: Arc<AtomicBool>,
}

impl AllAlike {
    fn capable() -> PathMemory {
        let taught = Arc::<AtomicBool>::default();
        let store = Self { record: None, taught: Arc::clone(&taught) };
        let memory = PathMemory::with_store(store, path::Settings::default());
        let mut ticket = memory.ask(&Path::new(([192, 0, 2, 1], 80).into()), Instant::now());
        memory.report(&mut ticket, path::Event::Acked, Instant::now());
        taught.store(true, Ordering::SeqCst);
        memory
    }
}

impl PathStore for AllAlike {
    fn get(&mut self, _: &Path) -> Option<path::Record> {
        self.record
    }

    fn put(&mut self, _: &Path, record: path::Record) {
        if !self.taught.load(Ordering::SeqCst) {
            self.record = Some(record);
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Way {
    fn rides(self) -> bool {
        matches!(self, Self::Deferred | Self::Fresh)
    }

    async fn connect(self, set_up: impl Fn(&mut dyn Settings), uri: Uri) -> io::Result<Box<dyn Stream>> {
        if self == Self::Theirs {
            let mut connector = <HttpConnector<Names> as Subject>::new();
            set_up(&mut connector);
            let io = connector.call(uri).await.map_err(io::Error::other)?;
            return Ok(Box::new(io.into_inner()));
        }
        let mut connector = <TfoConnector<Names> as Subject>::new();
        set_up(&mut connector);
        if self == Self::Fresh {
            connector.set_path_memory(AllAlike::capable());
        }
        let stream = connector.call(uri).await?.into_inner();
        assert_eq!(phase(&stream), if self.rides() { "Idle" } else { "Open" });
        Ok(Box::new(stream))
    }

    /// Why there is no connection; it may show with the first request.
    async fn error(self, set_up: impl Fn(&mut dyn Settings), uri: Uri) -> io::Error {
        let error = match self.connect(set_up, uri).await {
            Err(error) => error,
            Ok(mut stream) => {
                assert!(self.rides(), "it is connected");
                stream.write_all(GET).await.unwrap();
                stream.read(&mut [0]).await.unwrap_err()
            }
        };
        assert!(self == Self::Theirs || is_connect_error(&error), "{error:?}");
        error
    }
}

/// A cookie, where one is wanted.
async fn warm(way: Way, addr: SocketAddr) {
    if way.rides() {
        fetch_cookie(addr).await;
    }
}

/// Connections, set up in the same way: one of each way. Each does the work, and can cut the wire.
fn every_way<F>(
    set_up: impl Fn(&mut dyn Settings) + Copy + Send + 'static,
    work: impl Fn(Box<dyn Stream>, Arc<AtomicBool>) -> F + Clone + Send + 'static,
    look: impl Fn(&Flow),
) -> [Flow; 4]
where
    F: Future<Output = ()> + Send,
{
    WAYS.map(|way| {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let addr = server.addr(80);
        let (_server, _) = TcpServer::echo(&server, addr);
        let cut = Arc::new(AtomicBool::new(false));
        let is_cut = cut.clone();
        lab.middlebox(
            move |_: &Packet| if is_cut.load(Ordering::SeqCst) { Verdict::Drop } else { Verdict::Pass },
        );
        let work = work.clone();
        run(&client, Runtime::CurrentThread, async move {
            warm(way, addr).await;
            let stream = way.connect(set_up, uri(addr)).await.unwrap();
            work(stream, cut).await;
        });
        let flow = flows(&lab, 80).pop().unwrap();
        look(&flow);
        flow
    })
}

/// There and back, behind which the connection is open.
async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
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
