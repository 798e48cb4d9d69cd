//! `tfo serve`, restarted under load: no request fails.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(any(not(target_os = "linux"), tfo_fallback), allow(unused, reason = "no TCP Fast Open there"))]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use support::{PATIENCE, TFO};
use tfo_core::{SynSend, send_syn};
use tfo_lab::{Lab, lab_tests};

const RTT: Duration = Duration::from_millis(40);
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

#[cfg(tfo_fallback)]
fn main() {}

#[cfg(not(tfo_fallback))]
lab_tests! {
    fn a_restart_under_load_fails_no_request() {
        // `TFO_LONG=1` for the whole number.
        let restarts = if std::env::var_os("TFO_LONG").is_some() { 10 } else { 3 };
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("index.html"), "hello").unwrap();
        let address = lab.host("server").addr(80);
        let mut serve = Serve::start(&lab, root.path().to_str().unwrap(), &address.to_string());
        let load = Load::start(&lab, address);
        load.wait_for(20);
        for _ in 0..restarts {
            let before = serve.pid;
            serve.restart();
            assert_ne!(serve.pid, before);
            load.wait_for(20);
        }
        let (plain, rides) = load.end();
        assert!(rides > 20 && plain > 20, "{plain} plain, {rides} rides");
    }

    /// What the load would notice.
    fn an_end_without_a_successor_fails_requests() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("index.html"), "hello").unwrap();
        let address = lab.host("server").addr(80);
        let serve = Serve::start(&lab, root.path().to_str().unwrap(), &address.to_string());
        let load = Load::start(&lab, address);
        load.wait_for(20);
        serve.signal("-TERM");
        for client in load.clients {
            assert!(client.join().is_err(), "a visit must fail");
        }
    }

    fn a_restart_that_fails_changes_nothing() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let root = tempfile::tempdir().unwrap();
        let page = root.path().join("root");
        fs::create_dir(&page).unwrap();
        fs::write(page.join("index.html"), "hello").unwrap();
        let address = lab.host("server").addr(80);
        let mut serve = Serve::start(&lab, page.to_str().unwrap(), &address.to_string());
        // The successor finds no directory.
        fs::rename(&page, root.path().join("elsewhere")).unwrap();
        serve.signal("-USR2");
        let said = serve.wait_for("not handed over: ");
        assert!(said.contains("ended before it was ready"), "{said}");
        assert!(lab.host("client").run(|| visit(address, false).unwrap().1).contains("200 OK"));
    }
}

/// A running `tfo serve`: whichever process that is now.
struct Serve {
    pid: u32,
    first: Child,
    stderr: BufReader<ChildStderr>,
}

impl Serve {
    fn start(lab: &Lab, root: &str, address: &str) -> Self {
        let command = lab.host("server").command(TFO);
        let command = command.args(["serve", "--listen", address, "--root", root, "--workers", "2"]);
        let mut first = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(first.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on"), "{line}");
        let stderr = BufReader::new(first.stderr.take().unwrap());
        Self { pid: first.id(), first, stderr }
    }

    fn signal(&self, signal: &str) {
        let kill = format!("kill {signal} {}", self.pid);
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    fn wait_for(&mut self, says: &str) -> String {
        let mut line = String::new();
        while !line.contains(says) {
            line.clear();
            assert!(self.stderr.read_line(&mut line).unwrap() > 0, "it ends without a word of {says:?}");
        }
        line
    }

    fn restart(&mut self) {
        self.signal("-USR2");
        let said = self.wait_for("handed over");
        let pid = said.trim_end().strip_prefix("handed over to process ").expect(&said);
        self.pid = pid.parse().unwrap();
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        if self.pid != self.first.id() {
            let _ = Command::new("sh").args(["-c", &format!("kill -KILL {}", self.pid)]).status();
        }
        let _ = self.first.kill();
        let _ = self.first.wait();
    }
}

/// Clients that ask without a pause, on a connection each: half of them ride.
struct Load {
    stop: Arc<AtomicBool>,
    visits: Arc<AtomicU32>,
    clients: Vec<std::thread::JoinHandle<(u32, u32)>>,
}

impl Load {
    const CLIENTS: usize = 8;

    fn start(lab: &Lab, address: SocketAddr) -> Self {
        let (stop, visits) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let clients = (0..Self::CLIENTS).map(|index| {
            let (stop, visits) = (Arc::clone(&stop), Arc::clone(&visits));
            lab.host("client").spawn(move || {
                let (mut plain, mut rides) = (0, 0);
                while !stop.load(SeqCst) {
                    let (rode, answer) = visit(address, index % 2 == 0).expect("a visit that does not fail");
                    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello"), "{answer}");
                    *(if rode { &mut rides } else { &mut plain }) += 1;
                    visits.fetch_add(1, SeqCst);
                }
                (plain, rides)
            })
        });
        let clients = clients.collect();
        Self { stop, visits, clients }
    }

    /// So many more visits.
    fn wait_for(&self, more: u32) {
        let until = self.visits.load(SeqCst) + more;
        while self.visits.load(SeqCst) < until {
            assert!(!self.clients.iter().any(|client| client.is_finished()), "a visit has failed");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn end(self) -> (u32, u32) {
        self.stop.store(true, SeqCst);
        let counts = self.clients.into_iter().map(|client| client.join().expect("no visit has failed"));
        counts.fold((0, 0), |sum, (plain, rides)| (sum.0 + plain, sum.1 + rides))
    }
}

/// One request on a connection of its own: whether it rode, and the answer.
fn visit(address: SocketAddr, tfo: bool) -> std::io::Result<(bool, String)> {
    let mut socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut sent = 0;
    if tfo {
        if let SynSend::Data(bytes) = send_syn(&socket, &address, &[IoSlice::new(GET)]).unwrap() {
            sent = bytes;
        } else {
            let stream = TcpStream::from(socket);
            while stream.peer_addr().is_err() {
                std::thread::sleep(Duration::from_millis(1));
            }
            socket = stream.into();
        }
    } else {
        socket.connect(&address.into())?;
    }
    socket.write_all(&GET[sent..])?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok((sent > 0, answer))
}
