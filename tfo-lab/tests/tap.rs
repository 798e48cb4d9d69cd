//! The tap: what it keeps, what it answers, what it writes.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::net::UdpSocket;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{PATIENCE, Server, request};
use tfo_lab::test::need;
use tfo_lab::{End, Lab};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

tfo_lab::lab_tests! {
    fn both_ends_see_the_same_bytes() {
        let lab = Lab::builder().rtt(ms(10)).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let _serving = Server::start(&server, server.addr(80));
        request(&client, server.addr(80), b"x").unwrap();
        assert!(lab.tap().wait_quiet(ms(30), PATIENCE));
        let records = lab.tap().records();
        assert!(records.windows(2).all(|pair| pair[0].time() <= pair[1].time()));
        for (from, to) in [("client", "server"), ("server", "client")] {
            let bytes = |end, host| -> Vec<_> {
                let seen = records.iter().filter(|record| record.end() == end && record.host() == host);
                seen.map(|record| record.packet().bytes().to_vec()).collect()
            };
            assert_eq!(bytes(End::Sent, from), bytes(End::Received, to));
        }
        assert_eq!(lab.stats().sent, lab.stats().delivered);
    }

    fn flows_are_told_apart() {
        let lab = Lab::builder().rtt(ms(2)).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let _one = Server::start(&server, server.addr(80));
        let _two = Server::start(&server, server.addr_v6(81));
        let ports: Vec<_> = [server.addr(80), server.addr_v6(81), server.addr(80)]
            .map(|addr| request(&client, addr, b"x").unwrap().port)
            .into();
        let tap = lab.tap();
        assert_eq!(tap.flows().iter().map(|flow| flow.client().port()).collect::<Vec<_>>(), ports);
        assert_eq!(tap.flows_of(80).len(), 2);
        assert_eq!(tap.flow(80).unwrap().client().port(), ports[2]);
        assert_eq!(tap.flow(server.addr_v6(81)).unwrap().client().port(), ports[1]);
        assert!(tap.flow(82).is_none());
        tap.clear();
        assert!(tap.flows_of(ports[0]).is_empty());
    }

    fn the_ladder_tells_the_story() {
        let lab = Lab::builder().rtt(ms(10)).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let _serving = Server::start(&server, server.addr(80));
        request(&client, server.addr(80), b"first").unwrap();
        let went = request(&client, server.addr(80), b"second").unwrap();
        assert!(lab.tap().wait_quiet(ms(30), PATIENCE));
        let flow = lab.tap().flow(went.port).unwrap();
        let ladder = flow.ladder().to_string();
        println!("{ladder}");
        let first = ladder.lines().next().unwrap();
        for part in ["0.000 ms", "client → server", "SYN", "seq 0", "len 6", "tfo=cookie:", "(arrived 5."] {
            assert!(first.contains(part), "{part:?} is not in {first}");
        }
        assert!(lab.tap().ladder().to_string().contains("tfo=request"));
    }

    fn waiting_ends_when_it_should() {
        let lab = Lab::builder().rtt(ms(100)).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let tap = lab.tap();
        let socket = client.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        let _receiver = server.run(|| UdpSocket::bind(server.addr(9))).unwrap();
        let start = Instant::now();
        socket.send_to(b"x", server.addr(9)).unwrap();
        assert!(!tap.wait_until(ms(10), |tap| !tap.received_by("server").is_empty()));
        assert!(!tap.wait_quiet(ms(5), ms(20)), "something is on the wire");
        assert!(tap.wait_until(PATIENCE, |tap| !tap.received_by("server").is_empty()));
        assert!(tap.wait_quiet(ms(5), PATIENCE));
        assert!((ms(50)..PATIENCE / 2).contains(&start.elapsed()));
    }

    fn pcap_files_can_be_read() {
        let tshark = need("tshark");
        let lab = Lab::builder().rtt(ms(10)).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let _serving = [server.addr(80), server.addr_v6(80)].map(|addr| Server::start(&server, addr));
        for addr in [server.addr(80), server.addr_v6(80)] {
            request(&client, addr, b"first").unwrap();
            request(&client, addr, b"second").unwrap();
        }
        assert!(lab.tap().wait_quiet(ms(30), PATIENCE));
        let dir = tempfile::tempdir().unwrap();
        for host in ["client", "server"] {
            let file = dir.path().join(host);
            lab.tap().write_pcap(&file, host).unwrap();
            let output = Command::new(&tshark)
                .args(["-T", "fields", "-e", "tcp.options.tfo.cookie", "-e", "tcp.len"])
                .args(["-o", "tcp.check_checksum:TRUE", "-Y", "tcp.flags.syn==1 && tcp.flags.ack==0"])
                .args(["-e", "tcp.checksum.status", "-r"])
                .arg(&file)
                // Not the configuration of whoever runs this.
                .env("WIRESHARK_CONFIG_DIR", dir.path())
                .env("HOME", dir.path())
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let lines: Vec<Vec<_>> = text.lines().map(|line| line.split('\t').collect()).collect();
            let cookies: Vec<_> = lab
                .tap()
                .flows()
                .iter()
                .map(|flow| {
                    let option = flow.syn().fast_open().unwrap();
                    option.cookie().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
                })
                .collect();
            assert_eq!(lines.iter().map(|line| line[0]).collect::<Vec<_>>(), cookies, "{output:?}");
            assert_eq!(lines.iter().map(|line| line[1]).collect::<Vec<_>>(), ["0", "6", "0", "6"]);
            assert!(lines.iter().all(|line| line[2] == "1"), "good checksums: {text}");
        }
    }

    fn a_host_that_does_not_exist_has_no_packets_and_no_silence_either() {
        let lab = Lab::builder().build().unwrap();
        let tap = lab.tap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let questions: [&dyn Fn(); 3] = [
            &|| drop(tap.sent_by("clinet")),
            &|| drop(tap.received_by("clinet")),
            &|| drop(tap.write_pcap(file.path(), "clinet")),
        ];
        for question in questions {
            let panic = catch_unwind(AssertUnwindSafe(question)).unwrap_err();
            let said = panic.downcast_ref::<String>().unwrap();
            assert!(said.contains("no host is named \"clinet\"; there are client, server"), "{said}");
        }
    }

    fn waiting_for_ever_is_no_overflow() {
        let lab = Lab::builder().build().unwrap();
        let tap = lab.tap();
        assert!(tap.wait_quiet(ms(1), Duration::MAX));
        assert!(tap.wait_until(Duration::MAX, |_| true));
        assert!(!tap.wait_quiet(Duration::MAX, ms(1)));
        let (client, server) = (lab.host("client"), lab.host("server"));
        let waiting = std::thread::spawn(move || {
            tap.wait_until(Duration::MAX, |tap| !tap.received_by("server").is_empty())
        });
        client.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().send_to(b"x", server.addr(9)).unwrap();
        assert!(waiting.join().unwrap());
    }

    fn a_full_tap_counts() {
        let lab = Lab::builder().tap_limit(3).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        let _serving = Server::start(&server, server.addr(80));
        request(&client, server.addr(80), b"x").unwrap();
        assert_eq!(lab.tap().records().len(), 3);
        assert!(lab.tap().missed() > 0);
        lab.tap().clear();
        assert_eq!(lab.tap().missed(), 0);
    }
}
