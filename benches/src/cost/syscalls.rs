//! System calls for each connection, counted by strace.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{SETTLE, SYSTEM_CALLS, SYSTEM_CALLS_OF_CLIENTS, ask_for};
use crate::process::Process;
use crate::result::{Entry, Set};
use crate::run::is_installed;
use crate::servers::{Servers, Subject};
use crate::stats::Figure;

/// Of all servers.
pub(super) fn counts(servers: &Servers, raw: &mut Process) -> Vec<Entry> {
    let mut entries = Vec::new();
    for keep_alive in [false, true] {
        for subject in servers.answering(keep_alive) {
            let pid = subject.process.as_ref().map(Process::pid).map_err(Clone::clone);
            // Traced it is slow: without a pause the next request is there before it waits for one.
            let one_by_one = |count| {
                (0..count).try_for_each(|_| {
                    ask_for(raw, &subject, 1, 1)?;
                    thread::sleep(SETTLE);
                    Ok(())
                })
            };
            let entry = entry(SYSTEM_CALLS, subject.name, pid.and_then(|pid| counted(pid, one_by_one)));
            entries.push(entry.case("keep-alive", if keep_alive { "on" } else { "off" }));
        }
    }
    entries
}

/// Of one client.
pub(super) fn count_client(client: &mut Process, name: &str, server: &Subject<'_>) -> Entry {
    let calls = counted(client.pid(), |count| ask_for(client, server, count, 1));
    entry(SYSTEM_CALLS_OF_CLIENTS, name, calls).case("server", server.name)
}

fn entry(what: &str, subject: &str, counted: Result<f64, String>) -> Entry {
    let value = counted.map_or_else(Figure::missing, |count| Figure::of(&[count], f64::INFINITY));
    Entry::new(Set::ConnectionCost, what, subject, "calls", value)
}

/// What the process calls for each of the connections that `load` makes.
fn counted(pid: u32, mut load: impl FnMut(usize) -> Result<(), String>) -> Result<f64, String> {
    const CONNECTIONS: usize = 200;
    if !is_installed("strace") {
        return Err("strace is not installed".to_owned());
    }
    load(10)?;
    let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    let mut strace = Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(file.path())
        .args(["-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("strace does not start: {error}"))?;
    // Until it has its tracee.
    let status = PathBuf::from(format!("/proc/{}/status", pid));
    let traced = || std::fs::read_to_string(&status).is_ok_and(|text| !text.contains("TracerPid:\t0\n"));
    for _ in 0..500 {
        if traced() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_millis(50));
    let answered = load(CONNECTIONS);
    thread::sleep(Duration::from_millis(50));
    let _ = kill(Pid::from_raw(strace.id() as i32), Signal::SIGINT);
    let _ = strace.wait();
    answered?;
    let text = std::fs::read_to_string(file.path()).map_err(|error| error.to_string())?;
    let calls = text.lines().filter(|line| line.contains('(') && !line.contains("<unfinished")).count();
    match calls {
        0 => Err("strace saw no call: it may not trace here".to_owned()),
        calls => Ok(calls as f64 / CONNECTIONS as f64),
    }
}
