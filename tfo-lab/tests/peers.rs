//! Rides with programs that are not ours: curl and Python as clients, nginx as server.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::time::Duration;

use support::{Accepted, REQUEST, Until, flows, serve, visit};
use tfo_core::SynSend;
use tfo_lab::test::{Program, need};
use tfo_lab::{Flow, HoldProof, Lab, lab_tests};

const RTT: Duration = Duration::from_millis(20);

lab_tests! {
    fn curl_rides_to_us() {
        need("curl");
        let with = clients(&["curl", "--silent", "--show-error", "--tcp-fastopen"]);
        assert_rode(&with, true);
        // The same program without the switch: the same questions are answered by no.
        let without = clients(&["curl", "--silent", "--show-error"]);
        assert_rode(&without, false);
    }

    fn python_rides_to_us() {
        need("/usr/bin/python3");
        let script = "\
import socket, sys, urllib.parse
url = urllib.parse.urlsplit(sys.argv[1])
s = socket.socket()
request = b'GET / HTTP/1.1\\r\\nHost: ' + url.hostname.encode() + b'\\r\\n\\r\\n'
s.sendto(request, socket.MSG_FASTOPEN, (url.hostname, url.port))
while data := s.recv(4096):
    sys.stdout.write(data.decode())
";
        let with = clients(&["/usr/bin/python3", "-c", script]);
        assert_rode(&with, true);
        let plain = script.replace("s.sendto(request, socket.MSG_FASTOPEN, (url.hostname, url.port))", "\
s.connect((url.hostname, url.port))
s.sendall(request)");
        let without = clients(&["/usr/bin/python3", "-c", &plain]);
        assert_rode(&without, false);
    }

    fn we_ride_to_nginx() {
        for (listen, rides) in [("fastopen=64", true), ("", false)] {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            lab.middlebox(HoldProof::new());
            let (client, server) = (lab.host("client"), lab.host("server"));
            let served = format!("listen 8080 {listen}; return 200 hello;");
            let nginx = Program::nginx(&server, server.addr(8080), tempfile::tempdir().unwrap(), &served);
            let visits = [(); 2].map(|()| visit(&client, server.addr(8080), REQUEST));
            drop(nginx);
            for visit in &visits {
                let answer = String::from_utf8_lossy(&visit.answer);
                assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello"), "{answer}");
            }
            let flow = flows(&lab, 8080).into_iter().rfind(|flow| flow.client().ip() == client.ipv4()).unwrap();
            assert_eq!(visits[1].info.syn_data(), Some(rides), "{flow}");
            assert_eq!(matches!(visits[1].sent, Ok(SynSend::Data(_))), rides, "{flow}");
            assert_eq!(flow.request_delivered_in_syn(), rides, "{flow}");
            assert_eq!(flow.answered_before_any_further_client_packet(), rides, "{flow}");
        }
    }
}

/// Two visits of a foreign client to our server.
fn clients(command: &[&str]) -> Vec<(Accepted, Flow)> {
    let lab = Lab::builder().rtt(RTT).build().unwrap();
    lab.middlebox(HoldProof::new());
    let (client, server) = (lab.host("client"), lab.host("server"));
    let served = serve(&server, server.addr(8080), Until::EmptyLine, 2);
    for _ in 0..2 {
        let url = format!("http://{}/", server.addr(8080));
        let output = client.command(command[0]).args(&command[1..]).arg(url).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.ends_with("hello"), "{command:?}: {output:?}");
    }
    served.join().unwrap().into_iter().zip(flows(&lab, 8080)).collect()
}

fn assert_rode(visits: &[(Accepted, Flow)], rides: bool) {
    let (first, second) = (&visits[0], &visits[1]);
    assert!(
        !first.1.answered_before_any_further_client_packet(),
        "the first visit has no cookie\n{}",
        first.1
    );
    assert_eq!(second.0.info.syn_data(), Some(rides), "{}", second.1);
    assert_eq!(second.1.request_delivered_in_syn(), rides, "{}", second.1);
    assert_eq!(second.1.answered_before_any_further_client_packet(), rides, "{}", second.1);
    assert_eq!(second.1.syn().payload() == second.0.request, rides, "{}", second.1);
}
