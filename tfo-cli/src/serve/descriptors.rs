//! Descriptors for as many connections as are allowed.

#[cfg(target_os = "linux")]
use std::io::{self, Write as _};

/// What each worker has open beside its connections, with something to spare.
#[cfg(target_os = "linux")]
const EACH_WORKER: u64 = 16;
/// For the administrator's connections, files, and what a process has anyway.
#[cfg(target_os = "linux")]
const BESIDE: u64 = 128;

/// Raises the soft limit on open files (`RLIMIT_NOFILE`, getrlimit(2)) as far as `connections` need it. How many of
/// them are possible; without a descriptor left nobody would be told that there are too many.
#[cfg(target_os = "linux")]
pub(super) fn make_room(connections: u32, workers: usize) -> u32 {
    use rustix::process::{Resource, getrlimit, setrlimit};

    let beside = BESIDE.saturating_add(EACH_WORKER.saturating_mul(workers as u64));
    let needed = beside.saturating_add(connections.into());
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.is_some_and(|current| current < needed) {
        limit.current = Some(needed.min(most));
        // What could not be raised is as it was.
        let _ = setrlimit(Resource::Nofile, limit);
    }
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if most >= needed {
        return connections;
    }
    // A half at least, whatever else it needs.
    let possible = u32::try_from(most.saturating_sub(beside).max(most / 2)).unwrap_or(connections);
    let possible = possible.clamp(1, connections);
    let _ = writeln!(
        io::stderr(),
        "{possible} connections at most: --max-connections {connections} needs {needed} open files, and {most} are \
         allowed (ulimit -Hn; LimitNOFILE= with systemd)"
    );
    possible
}

/// Whatever the limit is there.
#[cfg(not(target_os = "linux"))]
pub(super) fn make_room(connections: u32, _: usize) -> u32 {
    connections
}
