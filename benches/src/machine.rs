//! What a run runs on.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::thread;

use crate::result::Machine;
use crate::run::find;

/// This machine, as far as it tells.
pub fn this() -> Machine {
    Machine {
        cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
        cpus: thread::available_parallelism().map_or(1, usize::from),
        memory_mib: field("/proc/meminfo", "MemTotal")
            .and_then(|total| total.split_whitespace().next()?.parse::<u64>().ok())
            .map_or(0, |kib| kib / 1024),
        kernel: said("uname", &["-sr"]).unwrap_or_else(|| "unknown".to_owned()),
        revision: revision(),
        rustc: rustc(),
    }
}

/// The load average of the last minute.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}

/// The programs that are measured beside us, and their versions, where they are installed.
pub fn peers() -> BTreeMap<String, String> {
    let mut peers = BTreeMap::new();
    for (name, arg) in
        [("nginx", "-v"), ("haproxy", "-v"), ("wrk", "-v"), ("curl", "--version"), ("valgrind", "--version")]
    {
        if let Some(version) = said(name, &[arg]).as_deref().and_then(version) {
            peers.insert(name.to_owned(), version);
        }
    }
    peers
}

/// The compiler that is used here.
pub fn rustc() -> String {
    said("rustc", &["--version"]).unwrap_or_else(|| "unknown".to_owned())
}

/// The profile that this program was built with, by the name of the directory that it is in.
pub fn profile() -> Option<String> {
    let this = std::env::current_exe().ok()?;
    Some(this.parent()?.file_name()?.to_string_lossy().into_owned())
}

fn revision() -> String {
    let here = env!("CARGO_MANIFEST_DIR");
    let Some(commit) = said("git", &["-C", here, "rev-parse", "--short=10", "HEAD"]) else {
        return "unknown".to_owned();
    };
    match said("git", &["-C", here, "status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if !changes.is_empty() => commit + "+",
        _ => commit,
    }
}

/// A program's first line, on either output; `None` if it is not there.
fn said(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(find(program)?).args(args).output().ok()?;
    let all = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&all).lines().next().unwrap_or_default().trim().to_owned())
}

/// The first word that looks like a version.
fn version(line: &str) -> Option<String> {
    let words = line.split(|c: char| c.is_whitespace() || c == '/' || c == '-');
    words
        .into_iter()
        .find(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'))?.1;
    Some(value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (line, expected) in [
            ("nginx version: nginx/1.22.1", "1.22.1"),
            ("HAProxy version 2.6.12-1+deb12u4 2026/01/01 - https://haproxy.org/", "2.6.12"),
            ("curl 7.88.1 (x86_64-pc-linux-gnu) libcurl/7.88.1", "7.88.1"),
            ("wrk debian/4.1.0-3build1 [epoll]", "4.1.0"),
        ] {
            assert_eq!(version(line).as_deref(), Some(expected));
        }
        assert_eq!(version("no such program"), None);
        assert_ne!(this().memory_mib, 0);
    }
}
