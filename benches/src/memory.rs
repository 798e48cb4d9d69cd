//! Bytes for what is idle or remembered, outside the kernel: the growth of a process, divided.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use tfo_http::path::{Event, MemoryStore, Path, PathMemory, Settings};
use tfo_lab::Host;

use crate::process::{Cpus, Process, memory_of};
use crate::result::{Entry, Set};
use crate::run::{Effort, Progress};
use crate::servers::{Servers, Subject, loopback};
use crate::stats::Figure;

const SETTLE: Duration = Duration::from_millis(200);
const SERVER: &str = "idle server connection";
const CLIENT: &str = "idle client connection";
const PATH: &str = "remembered path";

/// Runs the set.
pub fn run(effort: Effort, progress: &Progress) -> Vec<Entry> {
    let connections = match effort {
        Effort::Smoke => 100,
        Effort::Quick => 1000,
        Effort::Full => 4000,
    };
    progress.begin("memory", 3);
    let mut entries = match loopback() {
        Ok(lab) => {
            let host = lab.host("loop");
            let servers = of_servers(&host, connections);
            progress.step();
            let clients = of_clients(&host, connections);
            progress.step();
            [servers, clients].concat()
        }
        Err(why) => {
            vec![entry(SERVER, "tfo-http-server", Err(why.clone())), entry(CLIENT, "tfo-http", Err(why))]
        }
    };
    entries.push(entry(PATH, "tfo-http", of_paths()));
    progress.step();
    entries
}

fn entry(what: &str, subject: &str, bytes: Result<f64, String>) -> Entry {
    let value = bytes.map_or_else(Figure::missing, |bytes| Figure::of(&[bytes], f64::INFINITY));
    Entry::new(Set::Memory, what, subject, "bytes", value)
}

fn grown(process: &Process, count: usize, grow: impl FnOnce() -> Result<(), String>) -> Result<f64, String> {
    let before = process.memory()?;
    grow()?;
    thread::sleep(SETTLE);
    Ok(process.memory()?.saturating_sub(before) as f64 / count as f64)
}

fn of_servers(host: &Host, count: usize) -> Vec<Entry> {
    let servers = match Servers::start(host) {
        Ok(servers) => servers,
        Err(why) => return vec![entry(SERVER, "tfo-http-server", Err(why))],
    };
    let measure = |server: Subject<'_>| {
        let process = server.process.as_ref().map_err(Clone::clone)?;
        let mut client = Process::role(host, Cpus::All, &["client", "--kind", "raw"])?;
        // What is there once is there before.
        hold(&mut client, server.address, 50)?;
        grown(process, count, || hold(&mut client, server.address, count))
    };
    let measured = servers.answering(true).map(|server| entry(SERVER, server.name, measure(server)));
    measured.map(|entry| entry.case("connections", count)).collect()
}

fn of_clients(host: &Host, count: usize) -> Vec<Entry> {
    let address = SocketAddr::from(([127, 0, 0, 1], 8021));
    let args = ["server", "--kind", "ours", "--listen", "0.0.0.0:8021", "--keep-alive"];
    let server = Process::role(host, Cpus::All, &args);
    [("tfo-http", "ours"), ("HttpConnector", "http-connector")]
        .map(|(name, kind)| {
            let measured = server.as_ref().map_err(Clone::clone).and_then(|_| {
                let mut client = Process::role(host, Cpus::All, &["client", "--kind", kind])?;
                // What is there once is there before.
                let pid = client.pid();
                client.ask(&format!("get {address} / 20 1"))?;
                let before = memory_of(pid)?;
                hold(&mut client, address, count)?;
                thread::sleep(SETTLE);
                Ok(memory_of(pid)?.saturating_sub(before) as f64 / count as f64)
            });
            entry(CLIENT, name, measured).case("connections", count)
        })
        .into()
}

fn hold(client: &mut Process, address: SocketAddr, count: usize) -> Result<(), String> {
    let answered = client.ask(&format!("hold {address} / {count}"))?;
    match answered.parse() == Ok(count) {
        true => Ok(()),
        false => Err(format!("only {answered} of {count} requests were answered")),
    }
}

/// In this process: a memory that is larger than the default, so that pages do not matter.
fn of_paths() -> Result<f64, String> {
    const PATHS: u32 = 64 * 1024;
    let own = std::process::id();
    let before = memory_of(own)?;
    let store = MemoryStore::with_capacity(2 * PATHS as usize);
    let memory = PathMemory::with_store(store, Settings::default());
    let now = Instant::now();
    for at in 0..PATHS {
        let path = Path::new(SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0001 + at * 0x100), 80)));
        memory.report(&mut memory.ask(&path, now), Event::Acked, now);
    }
    let bytes = memory_of(own)?.saturating_sub(before);
    drop(memory);
    Ok(bytes as f64 / f64::from(PATHS))
}
