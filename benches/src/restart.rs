//! A server that is restarted under load, by the descriptors of its listeners: what its clients notice.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tfo_lab::{Host, Lab};

use crate::load::visit;
use crate::result::{Entry, Set};
use crate::run::{Effort, Progress, our_command};
use crate::stats::Figure;

const RTT: Duration = Duration::from_millis(40);
const PORT: u16 = 80;
/// Of each kind; none of them pauses.
const CLIENTS: usize = 4;
/// From one restart to the next: time for every client to visit.
const BETWEEN: Duration = Duration::from_millis(300);
/// For one read of an answer. It fails then, and is counted.
const PATIENCE: Duration = Duration::from_secs(10);
const WHO: [(&str, bool); 2] = [("plain", false), ("TFO", true)];
/// What is counted, and in which unit.
const PARTS: [(&str, &str); 4] =
    [("requests", "requests"), ("in the SYN", "requests"), ("failed", "requests"), ("worst latency", "ms")];

/// Runs the set.
pub fn run(effort: Effort, progress: &Progress) -> Vec<Entry> {
    let restarts = if effort == Effort::Smoke { 2 } else { 10 };
    progress.begin("restart", restarts);
    let measured = measure(restarts, progress);
    let mut entries = Vec::new();
    for (at, (who, _)) in WHO.iter().enumerate() {
        for (part, (what, unit)) in PARTS.iter().enumerate() {
            let value = match &measured {
                Ok(seen) => Figure::of(&[seen[at].parts()[part]], f64::INFINITY),
                Err(why) => Figure::missing(why),
            };
            let entry = Entry::new(Set::Restart, what, who, unit, value);
            entries.push(entry.case("RTT ms", RTT.as_millis()).case("restarts", restarts));
        }
    }
    entries
}

/// What the clients of one kind have seen.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    requests: u32,
    rode: u32,
    failed: u32,
    worst: Duration,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.rode += other.rode;
        self.failed += other.failed;
        self.worst = self.worst.max(other.worst);
    }

    /// In the order of [`PARTS`].
    fn parts(&self) -> [f64; 4] {
        let worst = self.worst.as_secs_f64() * 1000.0;
        [f64::from(self.requests), f64::from(self.rode), f64::from(self.failed), worst]
    }
}

fn measure(restarts: u64, progress: &Progress) -> Result<[Seen; 2], String> {
    let lab = Lab::builder().rtt(RTT).tap_limit(0).build().map_err(|error| format!("no lab: {error}"))?;
    let (client, server) = (lab.host("client"), lab.host("server"));
    let root = tempfile::tempdir().map_err(|error| error.to_string())?;
    fs::write(root.path().join("index.html"), "hello\n").map_err(|error| error.to_string())?;
    let address = server.addr(PORT);
    let mut serve = Serve::start(&server, &root.path().to_string_lossy(), address)?;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..WHO.len() * CLIENTS)
        .map(|at| {
            let stop = stop.clone();
            client.spawn(move || keep_asking(address, WHO[at % WHO.len()].1, &stop))
        })
        .collect();
    let restarted = (0..restarts).try_for_each(|_| {
        thread::sleep(BETWEEN);
        serve.restart()?;
        progress.step();
        Ok(())
    });
    thread::sleep(BETWEEN);
    stop.store(true, Ordering::Relaxed);
    let mut seen = [Seen::default(); WHO.len()];
    for (at, client) in clients.into_iter().enumerate() {
        seen[at % WHO.len()].add(client.join().map_err(|_| "a client failed")?);
    }
    restarted.map(|()| seen)
}

fn keep_asking(address: SocketAddr, tfo: bool, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let visited = visit(address, tfo, PATIENCE);
        let (rode, failed) = (matches!(visited, Ok(true)), visited.is_err());
        let took = begun.elapsed();
        seen.add(Seen { requests: 1, rode: rode.into(), failed: failed.into(), worst: took });
        if failed {
            // A server that is gone refuses at once.
            thread::sleep(RTT);
        }
    }
    seen
}

/// A running `tfo serve`: whichever process that is now.
struct Serve {
    pid: u32,
    first: Child,
    /// Its successors have it too.
    stderr: BufReader<ChildStderr>,
}

impl Serve {
    fn start(host: &Host, root: &str, address: SocketAddr) -> Result<Self, String> {
        let mut command = Command::new(our_command()?);
        command.args(["serve", "--listen", &address.to_string(), "--root", root, "--workers", "2"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = host.run(|| command.spawn());
        let mut first = started.map_err(|error| format!("tfo serve does not start: {error}"))?;
        let (Some(stdout), Some(stderr)) = (first.stdout.take(), first.stderr.take()) else {
            return Err("tfo serve: no output".to_owned());
        };
        let serve = Self { pid: first.id(), first, stderr: BufReader::new(stderr) };
        let mut line = String::new();
        match BufReader::new(stdout).read_line(&mut line) {
            Ok(1..) => Ok(serve),
            _ => Err("tfo serve does not listen".to_owned()),
        }
    }

    fn restart(&mut self) -> Result<(), String> {
        kill(pid(self.pid), Signal::SIGUSR2).map_err(|error| format!("tfo serve: {error}"))?;
        loop {
            let mut line = String::new();
            match self.stderr.read_line(&mut line) {
                Ok(1..) => {}
                _ => return Err("tfo serve has ended at a restart".to_owned()),
            }
            let line = line.trim();
            if let Some(successor) = line.strip_prefix("handed over to process ") {
                self.pid = successor.parse().map_err(|_| format!("tfo serve says {line:?}"))?;
                return Ok(());
            }
            if line.starts_with("not handed over") {
                return Err(format!("tfo serve says {line:?}"));
            }
        }
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        if self.pid != self.first.id() {
            let _ = kill(pid(self.pid), Signal::SIGKILL);
        }
        let _ = self.first.kill();
        let _ = self.first.wait();
    }
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(id as i32)
}
