//! Too many: what happens at each limit, and that honest clients are served meanwhile.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(any(not(target_os = "linux"), tfo_fallback), allow(unused, reason = "no TCP Fast Open there"))]

mod support;

use std::convert::Infallible;
use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Socket, Type};
use support::{GET, POST, RawClient, Runtime, WHILE, lab, serve};
use tfo_core::{Counters, SynSend, TcpInfo, send_syn};
use tfo_http_server::{ListenerBuilder, TfoListener};
use tfo_lab::{Lab, Packet, Verdict, lab_tests};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use Runtime::MultiThread;

#[cfg(tfo_fallback)]
fn main() {}

#[cfg(not(tfo_fallback))]
lab_tests! {
    fn a_full_fastopen_queue_costs_honest_clients_the_ride_and_nothing_else() {
        let lab = lab();
        serve(&lab, MultiThread, |builder| builder.fastopen_queue(8), async |listener| {
            let stats = listener.stats();
            let before = overflows();
            serve_hyper(listener);
            // Children that never ACK.
            for port in 1..=8 {
                RawClient::v4(&lab, port).syn(POST);
            }
            sleep(WHILE).await;
            assert_eq!(stats.snapshot().gate.withheld, 8);
            for _ in 0..5 {
                let visit = visit(&lab, GET).await.unwrap();
                assert!(!visit.rode, "{visit:?}");
            }
            assert!(overflows() >= before + 5, "the kernel counts it");
            let stats = stats.snapshot();
            assert_eq!((stats.outcomes.syn_data, stats.outcomes.plain, stats.limits.shed), (8, 5, 0), "{stats:?}");
        });
    }

    fn a_flood_of_resets_with_valid_cookies_costs_the_ride_and_nothing_else() {
        let lab = Lab::builder().build().unwrap();
        serve(&lab, MultiThread, |builder| builder.fastopen_queue(16), async |listener| {
            let stats = listener.stats();
            serve_hyper(listener);
            let cookie = RawClient::v4(&lab, 1).fetch_cookie();
            // The first visit brings the cookie, the second rides.
            let rides = [visit(&lab, GET).await.unwrap().rode, visit(&lab, GET).await.unwrap().rode];
            assert_eq!(rides, [false, true]);
            let mut flood = Vec::new();
            for port in 0..200_u16 {
                flood.push(RawClient::v4(&lab, 2000 + port));
            }
            flood.iter_mut().for_each(|client| _ = client.syn_with_cookie(&cookie, POST));
            sleep(WHILE).await;
            flood.iter_mut().for_each(|client| _ = client.rst());
            sleep(WHILE).await;
            // The kernel keeps the place of a child that was reset for a minute.
            let mut served = Vec::new();
            for _ in 0..5 {
                served.push(visit(&lab, GET).await.unwrap().rode);
            }
            assert_eq!(served, [false; 5]);
            let stats = stats.snapshot();
            assert_eq!((stats.gate.reset, stats.gate.withheld), (16, 0), "{stats:?}");
        });
    }

    fn a_full_accept_queue_loses_syns_and_recovers() {
        const CLIENTS: u64 = 20;
        // The kernel queues one more than it is told; with room for all there is nothing to recover from.
        for (backlog, queued) in [(4, 5), (64, CLIENTS)] {
            let lab = Lab::builder().build().unwrap();
            serve(&lab, MultiThread, |builder| builder.backlog(backlog), async |listener| {
                let before = listen_overflows();
                let mut clients: Vec<_> = (1..=20).map(|port| RawClient::v4(&lab, 100 + port)).collect();
                for client in &mut clients {
                    client.syn(b"");
                }
                sleep(WHILE).await;
                for client in &mut clients {
                    if client.received().iter().any(Packet::is_syn_ack) {
                        client.ack(b"");
                    }
                }
                sleep(WHILE).await;
                assert_eq!(listen_overflows() - before, CLIENTS - queued, "the kernel counts it");
                let stats = listener.stats();
                assert_eq!(stats.snapshot().accepted, 0, "nobody has accepted yet");
                // Somebody comes while it is full: not refused, but late.
                let late = async {
                    sleep(4 * WHILE).await;
                    assert_eq!(stats.snapshot().accepted, 0);
                    serve_hyper(listener);
                };
                let (honest, ()) = tokio::join!(visit(&lab, GET), late);
                let honest = honest.unwrap();
                let syns = lab.tap().sent_by("client");
                let mine = |packet: &Packet| packet.src().is_some_and(|src| src.ip() == lab.host("client").ipv4());
                let syns = syns.iter().filter(|sent| sent.packet().is_syn() && mine(sent.packet())).count();
                assert_eq!(syns, if queued < CLIENTS { 2 } else { 1 }, "{honest:?}\n{}", lab.tap().ladder());
                assert_eq!(stats.snapshot().accepted, queued + 1, "those in the queue, and this one");
                // And it has recovered.
                let next = visit(&lab, GET).await.unwrap();
                assert!(next.took < Duration::from_millis(900), "{next:?}");
                assert_eq!((stats.snapshot().accepted, stats.snapshot().limits.shed), (queued + 2, 0));
            });
        }
    }

    fn beyond_the_limit_connections_are_reset_at_once() {
        let lab = lab();
        serve(&lab, MultiThread, |builder| builder.max_connections(10), async |listener| {
            let stats = listener.stats();
            serve_hyper(listener);
            let mut held: Vec<_> = (1..=10).map(|port| RawClient::v4(&lab, port)).collect();
            for (index, client) in held.iter_mut().enumerate() {
                // Gated ones are in flight as the others are.
                if index % 2 == 0 { client.syn(POST) } else { client.syn(b"").ack(b"") };
            }
            sleep(WHILE).await;
            assert_eq!(stats.snapshot().limits.in_flight, 10);
            for data in [GET, b"".as_slice()] {
                let mut late = RawClient::v4(&lab, 50 + u16::try_from(data.len()).unwrap());
                late.syn(data);
                if data.is_empty() {
                    late.ack(GET);
                }
                late.wait_for("a RST", Packet::is_rst);
            }
            let full = stats.snapshot();
            assert_eq!((full.limits.shed, full.limits.in_flight, full.accepted), (2, 10, 10), "{full:?}");
            for client in &mut held {
                client.rst();
            }
            sleep(WHILE).await;
            assert_eq!(stats.snapshot().limits.in_flight, 0);
            visit(&lab, GET).await.unwrap();
        });
    }

    fn ten_thousand_silent_connections() {
        let lab = Lab::builder().fastopen("server", 0x203).tap_limit(0).build().unwrap();
        let server = lab.host("server");
        server.set_sysctl("net.ipv4.tcp_max_syn_backlog", 65_536).unwrap();
        let wide = |builder: ListenerBuilder| {
            builder.backlog(4096).fastopen_queue(4096).gate_deadline(Duration::from_secs(60))
        };
        serve(&lab, MultiThread, wide, async |listener| {
            const SILENT: u64 = 10_000;
            const WAVE: u64 = 250;
            if !raise_descriptors(SILENT + 500) {
                eprintln!("not enough descriptors here: not tested");
                return;
            }
            let stats = listener.stats();
            serve_hyper(listener);
            visit(&lab, GET).await.unwrap();
            sleep(WHILE).await;
            let before = Memory::now();
            // One in five has a POST in its SYN, and is never heard of again. For the others the path answers
            // the SYN-ACK.
            lab.middlebox(|packet: &Packet| match acknowledge(packet) {
                Some(ack) => Verdict::Drop.and(ack),
                None => Verdict::Pass,
            });
            let knock = |index| {
                let port = 1000 + u16::try_from(index).unwrap();
                RawClient::v4(&lab, port).syn(if index % 5 == 0 { POST } else { b"" });
            };
            for wave in 0..SILENT / WAVE {
                let (first, end) = (wave * WAVE, (wave + 1) * WAVE);
                (first..end).for_each(knock);
                let mut begun = Instant::now();
                while stats.snapshot().limits.in_flight < end {
                    sleep(Duration::from_millis(1)).await;
                    // These clients repeat nothing by themselves, and a busy kernel loses some.
                    if begun.elapsed() > Duration::from_millis(500) {
                        (first..end).for_each(knock);
                        begun = Instant::now();
                    }
                }
            }
            let full = stats.snapshot();
            let per_connection = (Memory::now().resident.saturating_sub(before.resident)) / SILENT;
            println!("\n10,000 silent connections, {} gated: {per_connection} bytes each", full.gate.withheld);
            // When its queue is full for a moment the kernel sends SYN cookies, and takes no data.
            assert!(full.gate.withheld > 1000, "{full:?}");
            assert!(per_connection <= 20 * 1024, "{per_connection} bytes per idle connection");
            for _ in 0..20 {
                let visit = visit(&lab, GET).await.unwrap();
                // Before the kernel would have sent the SYN again.
                assert!(visit.took < Duration::from_millis(900), "{visit:?}");
            }
        });
    }
}

fn serve_hyper(listener: TfoListener) {
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept_next().await;
            tokio::spawn(async move {
                let service = service_fn(|_: Request<Incoming>| {
                    std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("done\n"))))
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
}

#[derive(Debug)]
struct Visit {
    rode: bool,
    took: Duration,
}

/// An honest client with the kernel's own TCP Fast Open.
async fn visit(lab: &Lab, request: &'static [u8]) -> io::Result<Visit> {
    let (client, to) = (lab.host("client"), lab.host("server").addr(support::PORT));
    let visit = move || {
        client.run(|| {
            let begun = Instant::now();
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            socket.set_read_timeout(Some(support::PATIENCE))?;
            let sent = match send_syn(&socket, &to, &[IoSlice::new(request)])? {
                SynSend::Data(bytes) => bytes,
                _ => 0,
            };
            let mut stream = TcpStream::from(socket);
            stream.write_all(&request[sent..])?;
            let mut room = [0; 1024];
            let length = stream.read(&mut room)?;
            assert!(room[..length].starts_with(b"HTTP/1.1 200 "), "{}", room[..length].escape_ascii());
            let rode = TcpInfo::read(&stream)?.syn_data() == Some(true);
            Ok(Visit { rode, took: begun.elapsed() })
        })
    };
    spawn_blocking(visit).await.unwrap()
}

/// The ACK to a SYN-ACK for a made-up client that sent no data.
fn acknowledge(packet: &Packet) -> Option<Packet> {
    let (from, to) = (packet.src()?, packet.dst()?);
    let (IpAddr::V4(server), IpAddr::V4(client)) = (from.ip(), to.ip()) else { return None };
    let number = packet.ack().filter(|number| packet.is_syn_ack() && *number == 1001)?;
    let tcp = PacketBuilder::ipv4(client.octets(), server.octets(), 64)
        .tcp(to.port(), from.port(), number, 65535)
        .ack(packet.seq()?.wrapping_add(1));
    let mut bytes = Vec::new();
    tcp.write(&mut bytes, b"").ok()?;
    (client.octets() == [10, 9, 9, 9]).then(|| Packet::new(bytes))
}

/// Called in the server's namespace.
fn overflows() -> u64 {
    Counters::read().unwrap().listen_overflow.unwrap()
}

fn listen_overflows() -> u64 {
    Counters::read().unwrap().listen_overflows.unwrap()
}

fn raise_descriptors(most: u64) -> bool {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    soft >= most || setrlimit(Resource::RLIMIT_NOFILE, most, hard.max(most)).is_ok()
}

/// This process's.
struct Memory {
    /// Bytes.
    resident: u64,
}

impl Memory {
    fn now() -> Self {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        Self { resident: pages * 4096 }
    }
}
