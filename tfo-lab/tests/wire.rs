//! The wire: what goes in comes out, when it should, in order, and where it should.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::{ANSWER, PATIENCE, Server, request};
use tfo_lab::{Extra, Host, Lab, LabError, MiddleboxHandle, Packet, Record, Tap, Verdict};

/// Long enough for anything that is on its way to show.
const QUIET: Duration = Duration::from_millis(60);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn udp(host: &Host, addr: SocketAddr) -> UdpSocket {
    let socket = host.run(|| UdpSocket::bind(addr)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The payloads of the datagrams that have reached a host.
fn datagrams(tap: &Tap, host: &str) -> Vec<Vec<u8>> {
    tap.received_by(host).iter().map(|record| record.packet().payload().to_vec()).collect()
}

/// How often the wire's thread has gone to sleep.
fn naps() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let mut wire = tasks
        .filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == "lab-wire"));
    let status = fs::read_to_string(wire.next().unwrap().join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Which of 1,000 datagrams arrive.
fn survivors(seed: u64) -> Vec<Vec<u8>> {
    let lab = Lab::builder().loss("client", "server", 0.1).seed(seed).build().unwrap();
    let (client, server) = (lab.host("client"), lab.host("server"));
    let _receiver = udp(&server, server.addr(9));
    let sender = udp(&client, client.addr(9));
    for number in 0..1000_u32 {
        sender.send_to(&number.to_be_bytes(), server.addr(9)).unwrap();
    }
    assert!(lab.tap().wait_until(PATIENCE, |_| lab.stats().sent == 1000), "{:?}", lab.stats());
    assert!(lab.tap().wait_quiet(QUIET, PATIENCE));
    let survivors = datagrams(&lab.tap(), "server");
    assert_eq!(lab.stats().lost as usize, 1000 - survivors.len());
    survivors
}

tfo_lab::lab_tests! {
    fn set_up_is_quick_and_the_wire_silent() {
        let start = Instant::now();
        let lab = Lab::builder().build().unwrap();
        println!("set up in {:?}", start.elapsed());
        assert!(start.elapsed() < ms(1000));
        // No router solicitation, no multicast report: only what tests send.
        assert!(lab.tap().wait_quiet(ms(300), PATIENCE));
        assert_eq!(lab.stats().sent, 0, "{}", lab.tap().ladder());
        let start = Instant::now();
        drop(lab);
        println!("gone in {:?}", start.elapsed());
    }

    fn tcp_works_over_both_families_and_loopback() {
        let lab = Lab::builder().rtt(ms(4)).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        for addr in [server.addr(80), server.addr_v6(80)] {
            let serving = Server::start(&server, addr);
            assert_eq!(request(&client, addr, b"over the wire").unwrap().answer, ANSWER);
            assert_eq!(serving.request().unwrap(), b"over the wire");
            assert_eq!(request(&server, addr, b"to itself").unwrap().answer, ANSWER);
            assert_eq!(serving.request().unwrap(), b"to itself");
        }
        assert_eq!(lab.tap().flows().len(), 2, "loopback does not touch the wire");
    }

    fn udp_works_over_both_families() {
        let lab = Lab::builder().build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        for (from, to) in [(client.addr(5), server.addr(7)), (client.addr_v6(5), server.addr_v6(7))] {
            let (sender, receiver) = (udp(&client, from), udp(&server, to));
            sender.send_to(b"ping", to).unwrap();
            let mut buffer = [0; 16];
            let (len, source) = receiver.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], source), (&b"ping"[..], from));
        }
        assert!(lab.tap().records().iter().all(|record| !record.packet().is_tcp()));
    }

    fn delays_are_accurate() {
        let delay = ms(5);
        let lab = Lab::builder().rtt(2 * delay).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let (here, there) = (udp(&client, client.addr(5)), udp(&server, server.addr(7)));
        let echo = server.spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((len, source)) = there.recv_from(&mut buffer) {
                if len == 0 {
                    return;
                }
                there.send_to(&buffer[..len], source).unwrap();
            }
        });
        let rtts = (0..250).map(|_| {
            let start = Instant::now();
            here.send_to(b"ping", server.addr(7)).unwrap();
            here.recv_from(&mut [0; 16]).unwrap();
            start.elapsed()
        });
        let rtt = median(rtts.collect());
        here.send_to(b"", server.addr(7)).unwrap();
        echo.join().unwrap();

        let tap = lab.tap();
        let one_way = |from: &str, to: &str| {
            let (sent, received) = (tap.sent_by(from), tap.received_by(to));
            let mut late: Vec<_> =
                sent.iter().zip(&received).map(|(sent, received)| received.time() - sent.time() - delay).collect();
            late.sort();
            (late[late.len() / 20], late[late.len() / 2])
        };
        let (there, back) = (one_way("client", "server"), one_way("server", "client"));
        println!("late by, best 5 % and median of 250: {there:?} there, {back:?} back; round trip, median: {:?}",
            rtt - 2 * delay);
        // Whatever else the machine does, one of twenty packets finds it idle.
        for (best, _) in [there, back] {
            assert!(best < Duration::from_micros(200), "{best:?}");
        }
    }

    fn a_name_that_no_thread_can_have_is_refused() {
        let error = Lab::builder().host("a\0b").build().unwrap_err();
        assert!(matches!(&error, LabError::Argument { problem } if problem.contains("NUL")), "{error}");
    }

    /// They arrive after the end of the world; those behind them are none the worse.
    fn endless_delays_do_not_stop_the_wire() {
        let lab = Lab::builder().rtt(Duration::MAX).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let (here, there) = (udp(&client, client.addr(5)), udp(&server, server.addr(7)));
        let send = |what: &[u8]| here.send_to(what, server.addr(7)).unwrap();
        let sent = |count| assert!(lab.tap().wait_until(PATIENCE, |tap| tap.sent_by("client").len() == count));
        send(b"rtt");
        sent(1);
        lab.set_delay("client", "server", Duration::MAX);
        send(b"delay");
        sent(2);
        let boxes = [
            lab.middlebox(|_: &Packet| Verdict::Delay(Duration::MAX)),
            lab.middlebox(|packet: &Packet| Verdict::Delay(Duration::MAX).and(Extra::new(packet.clone()).after(Duration::MAX))),
        ];
        send(b"middlebox");
        sent(3);
        boxes.into_iter().for_each(MiddleboxHandle::remove);
        lab.deliver("server", lab.tap().sent_by("client")[0].packet().clone());
        let mut buffer = [0; 16];
        let (len, _) = there.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"rtt");
    }

    fn each_direction_has_its_own_delay() {
        let builder = Lab::builder().delay("client", "server", ms(30)).delay("server", "client", ms(5));
        let lab = builder.build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let _serving = Server::start(&server, server.addr(80));
        request(&client, server.addr(80), b"x").unwrap();
        let flow = lab.tap().flow(80).unwrap();
        let took = |record: Option<&Record>| record.map(|it| it.time() - it.packet().time()).unwrap();
        let syn_took = took(flow.received_by_server().next());
        let syn_ack_took = took(flow.received_by_client().next());
        assert!(syn_took >= ms(30) && syn_ack_took >= ms(5) && syn_ack_took < ms(30), "{flow}");
    }

    fn losses_follow_the_seed() {
        let (first, again, other) = (survivors(1), survivors(1), survivors(2));
        assert_eq!(first, again);
        assert_ne!(first, other);
        for share in [first, other] {
            assert!((850..=950).contains(&share.len()), "{} of 1000 arrived at a loss of 10 %", share.len());
        }
    }

    fn tcp_survives_loss() {
        let lab = Lab::builder().rtt(ms(2)).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        lab.set_loss("client", "server", 0.03);
        lab.set_loss("server", "client", 0.03);
        let listener = server.run(|| TcpListener::bind(server.addr(80))).unwrap();
        let mut stream = client.run(|| TcpStream::connect(server.addr(80))).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        let sending = client.spawn(move || stream.write_all(&[7; 200_000]));
        let mut got = Vec::new();
        accepted.read_to_end(&mut got).unwrap();
        sending.join().unwrap().unwrap();
        assert_eq!(got.len(), 200_000);
        assert!(lab.stats().lost > 0);
    }

    fn order_is_kept() {
        let lab = Lab::builder().rtt(ms(40)).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let _receiver = udp(&server, server.addr(9));
        let sender = udp(&client, client.addr(9));
        for number in 0..300_u32 {
            if number == 200 {
                // A shorter delay must not let the rest overtake.
                assert!(lab.tap().wait_until(PATIENCE, |_| lab.stats().sent == 200));
                lab.set_rtt(ms(2));
            }
            sender.send_to(&number.to_be_bytes(), server.addr(9)).unwrap();
        }
        assert!(lab.tap().wait_until(PATIENCE, |tap| tap.received_by("server").len() == 300));
        let expected: Vec<_> = (0..300_u32).map(|number| number.to_be_bytes().to_vec()).collect();
        assert_eq!(datagrams(&lab.tap(), "server"), expected);
    }

    fn packets_are_as_large_as_the_mtu() {
        for mtu in [1280, 1500, 9000] {
            let lab = Lab::builder().mtu(mtu).build().unwrap();
            let (client, server) = (lab.host("client"), lab.host("server"));
            for (addr, headers) in [(server.addr(80), 40), (server.addr_v6(80), 60)] {
                let listener = server.run(|| TcpListener::bind(addr)).unwrap();
                let data = vec![7; 1_000_000];
                let mut stream = client.run(|| TcpStream::connect(addr)).unwrap();
                let (mut accepted, _) = listener.accept().unwrap();
                let sending = client.spawn(move || stream.write_all(&data));
                let mut got = Vec::new();
                accepted.read_to_end(&mut got).unwrap();
                sending.join().unwrap().unwrap();
                assert_eq!(got.len(), 1_000_000);
                let flow = lab.tap().flow(addr).unwrap();
                assert_eq!(flow.syn().mss(), Some(mtu - headers));
                let largest = flow.sent_by_client().map(|record| record.packet().bytes().len()).max();
                assert_eq!(largest, Some(usize::from(mtu)));
            }
            assert_eq!((lab.stats().overflowed, lab.stats().refused), (0, 0));
        }
    }

    fn bulk_transfers_get_through() {
        let lab = Lab::builder().rtt(ms(2)).tap_limit(0).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let listener = server.run(|| TcpListener::bind(server.addr(80))).unwrap();
        let mut stream = client.run(|| TcpStream::connect(server.addr(80))).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        let start = Instant::now();
        let sending = client.spawn(move || {
            let chunk = vec![7; 1 << 20];
            for _ in 0..32 {
                stream.write_all(&chunk).unwrap();
            }
        });
        let mut got = Vec::new();
        accepted.read_to_end(&mut got).unwrap();
        sending.join().unwrap();
        println!("{:.0} Mbit/s", got.len() as f64 * 8e-6 / start.elapsed().as_secs_f64());
        assert_eq!(got.len(), 32 << 20);
        assert_eq!(lab.tap().records().len(), 0);
        assert!(lab.tap().missed() > 0);
    }

    fn three_hosts_reach_each_other() {
        let lab = Lab::builder().host("a").host("b").host("c").build().unwrap();
        for server in lab.hosts() {
            let _serving = Server::start(server, server.addr(80));
            for client in lab.hosts() {
                assert_eq!(request(client, server.addr(80), b"x").unwrap().answer, ANSWER);
            }
        }
        let flow = lab.tap().flow(IpAddr::from(lab.host("c").ipv4())).unwrap();
        assert_eq!((flow.syn().from_host(), flow.syn().to_host()), (Some("b"), Some("c")));
    }

    fn an_address_moves() {
        let lab = Lab::builder().host("client").host("old").host("new").build().unwrap();
        let (client, old, new) = (lab.host("client"), lab.host("old"), lab.host("new"));
        let v4 = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1));
        let v6 = IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
        for ip in [v4, v6] {
            lab.add_address("old", ip).unwrap();
            assert!(matches!(lab.add_address("new", ip), Err(LabError::Argument { .. })));
            let addr = SocketAddr::new(ip, 80);
            let before = Server::start(&old, addr);
            request(&client, addr, b"before").unwrap();
            assert_eq!(before.request().unwrap(), b"before");
            lab.move_address("old", "new", ip).unwrap();
            assert!(lab.move_address("old", "new", ip).is_err());
            let after = Server::start(&new, addr);
            request(&client, addr, b"after").unwrap();
            assert_eq!(after.request().unwrap(), b"after");
            assert_eq!(before.pending_request(), None);
        }
        // The hosts' own addresses can go too, and come back.
        lab.move_address("old", "new", old.ipv4()).unwrap();
        lab.move_address("new", "old", old.ipv4()).unwrap();
        let _serving = Server::start(&old, old.addr(81));
        assert_eq!(request(&client, old.addr(81), b"x").unwrap().answer, ANSWER);
    }

    fn what_nobody_owns_is_dropped() {
        let lab = Lab::builder().build().unwrap();
        let client = lab.host("client");
        udp(&client, client.addr(9)).send_to(b"x", "192.0.2.9:9").unwrap();
        assert!(lab.tap().wait_until(PATIENCE, |_| lab.stats().unroutable == 1));
        assert_eq!(lab.stats().delivered, 0);
        assert_eq!(lab.tap().records()[0].packet().to_host(), None);
    }

    fn the_wire_is_bounded() {
        let lab = Lab::builder().rtt(ms(400)).capacity(10).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let _receiver = udp(&server, server.addr(9));
        let sender = udp(&client, client.addr(9));
        for _ in 0..25 {
            sender.send_to(b"x", server.addr(9)).unwrap();
        }
        assert!(lab.tap().wait_until(PATIENCE, |_| lab.stats().delivered == 10));
        assert_eq!(lab.stats().overflowed, 15);
    }

    fn bursts_fit_into_the_hosts_queue() {
        let lab = Lab::builder().build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let _receiver = udp(&server, server.addr(9));
        let sender = udp(&client, client.addr(9));
        // The wire is held up by the first packet, until the burst is over.
        let (go, wait) = mpsc::channel::<()>();
        lab.middlebox(move |_: &Packet| {
            let _ = wait.recv_timeout(PATIENCE);
            Verdict::Pass
        });
        for _ in 0..5000 {
            sender.send_to(b"x", server.addr(9)).unwrap();
        }
        drop(go);
        assert!(lab.tap().wait_until(PATIENCE, |_| lab.stats().delivered == 5000), "{:?}", lab.stats());
    }

    fn an_idle_wire_sleeps() {
        let lab = Lab::builder().rtt(ms(400)).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let _receiver = udp(&server, server.addr(9));
        // One packet on the wire, so that there is something to wait for.
        udp(&client, client.addr(9)).send_to(b"x", server.addr(9)).unwrap();
        assert!(lab.tap().wait_until(PATIENCE, |_| lab.stats().sent == 1));
        assert!(!lab.tap().wait_quiet(ms(0), ms(20)));
        let before = naps();
        assert!(!lab.tap().wait_quiet(ms(0), ms(100)), "the packet is on its way");
        assert!(naps() <= before + 1, "the wire woke up for nothing");
        assert!(lab.tap().wait_until(PATIENCE, |_| lab.stats().delivered == 1));
    }

    fn packets_can_be_injected_and_delivered() {
        let lab = Lab::builder().rtt(ms(10)).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let receiver = udp(&server, server.addr(9));
        udp(&client, client.addr(5)).send_to(b"once", server.addr(9)).unwrap();
        let mut buffer = [0; 16];
        receiver.recv_from(&mut buffer).unwrap();
        let packet = lab.tap().sent_by("client")[0].packet().clone();
        lab.inject("client", &packet);
        receiver.recv_from(&mut buffer).unwrap();
        lab.deliver("server", packet.bytes());
        receiver.recv_from(&mut buffer).unwrap();
        let tap = lab.tap();
        assert_eq!((tap.sent_by("client").len(), tap.received_by("server").len()), (2, 3));
        assert!(tap.ladder().to_string().contains("made on the way"), "{}", tap.ladder());
    }

    fn two_labs_never_meet() {
        let (one, two) = (Lab::builder().build().unwrap(), Lab::builder().build().unwrap());
        let server = one.host("server");
        let serving = Server::start(&server, server.addr(80));
        let error = request(&two.host("client"), server.addr(80), b"x").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        assert_eq!(one.stats().sent, 0);
        request(&one.host("client"), server.addr(80), b"x").unwrap();
        assert_eq!(serving.request().unwrap(), b"x");
    }

    fn commands_and_threads_run_in_their_host() {
        let lab = Lab::builder().host("a").host("b").build().unwrap();
        let (a, b) = (lab.host("a"), lab.host("b"));
        let output = a.command("cat").arg("/proc/net/fib_trie").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("10.0.0.1") && !text.contains("10.0.0.2"), "{text}");

        let enter = b.enter();
        let bind = std::thread::spawn(move || {
            enter();
            UdpSocket::bind("10.0.0.2:1").map(drop)
        });
        bind.join().unwrap().unwrap();
        let inner = b.run(|| std::thread::spawn(|| UdpSocket::bind("10.0.0.2:1").map(drop)).join());
        inner.unwrap().unwrap();
        assert!(a.run(|| UdpSocket::bind("10.0.0.2:1")).is_err());
        let borrowed = String::from("abc");
        assert_eq!(a.run(|| borrowed.len()), 3);
        assert_eq!(a.spawn(|| 4).join().unwrap(), 4);
    }

    fn a_panic_in_a_host_is_the_tests_panic() {
        let lab = Lab::builder().build().unwrap();
        let client = lab.host("client");
        // Unwinding without the hook, which would print a backtrace.
        let inside = AssertUnwindSafe(|| client.run(|| resume_unwind(Box::new("inside"))));
        let panic = catch_unwind(inside).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"inside"));
    }

    fn sysctls_are_the_hosts_own() {
        let lab = Lab::builder().fastopen("server", 0x203).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        assert_eq!(client.sysctl("net.ipv4.tcp_fastopen").unwrap(), "3");
        assert_eq!(server.sysctl("net.ipv4.tcp_fastopen").unwrap(), "515");
        client.set_sysctl("net.ipv4.tcp_fastopen", 1).unwrap();
        assert_eq!(client.sysctl("net.ipv4.tcp_fastopen").unwrap(), "1");
        assert_eq!(server.sysctl("net.ipv4.tcp_fastopen").unwrap(), "515");
        assert!(matches!(client.set_sysctl("kernel.hostname", "x"), Err(LabError::Argument { .. })));
        let error = client.sysctl("net.ipv4.no_such_thing").unwrap_err();
        assert!(error.to_string().contains("net.ipv4.no_such_thing"), "{error}");
    }

    fn nonsense_is_refused() {
        for builder in [
            Lab::builder().host("a").host("a"),
            Lab::builder().mtu(500),
            Lab::builder().loss("client", "server", 1.5),
            Lab::builder().delay("client", "nobody", ms(1)),
            Lab::builder().fastopen("nobody", 1),
        ] {
            let error = builder.build().unwrap_err();
            assert!(matches!(error, LabError::Argument { .. }), "{error}");
        }
    }
}
