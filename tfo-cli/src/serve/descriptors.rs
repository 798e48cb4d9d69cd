//! Descriptors for as many connections as are allowed.

use crate::failure::Failure;

/// What may be open at a time.
pub(super) struct Room {
    pub(super) workers: usize,
    pub(super) connections: u32,
    /// Files of answers that are under way.
    pub(super) files: usize,
}

/// Raises the soft limit on open files (`RLIMIT_NOFILE`, getrlimit(2)) to the hard one, and divides what there is:
/// without a descriptor left nobody would be told that there are too many, nor the administrator anything.
///
/// # Errors
///
/// If there are too few for the workers.
#[cfg(target_os = "linux")]
pub(super) fn make_room(connections: u32, workers: usize) -> Result<Room, Failure> {
    use std::io::{self, Write as _};

    use rustix::process::{Resource, getrlimit, setrlimit};

    use crate::failure::Code;

    /// What each worker has open beside its connections, with something to spare.
    const EACH_WORKER: u64 = 16;
    /// For the administrator's connections, and what a process has anyway.
    const BESIDE: u64 = 128;
    /// For fewer connections it is not worth it.
    const LEAST: u64 = 16;
    /// Of those that are left files may have as many as a part of these.
    const PARTS: u64 = 5;

    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What could not be raised is as it was.
    let _ = setrlimit(Resource::Nofile, limit);
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let beside = BESIDE.saturating_add(EACH_WORKER.saturating_mul(workers as u64));
    let left = most.saturating_sub(beside);
    let advice = "raise it (ulimit -Hn; LimitNOFILE= with systemd)";
    if left < LEAST {
        let says = format!(
            "{workers} workers and their connections need {} open files, and {most} are allowed: {advice}, or have \
             fewer --workers",
            beside.saturating_add(LEAST)
        );
        return Err(Failure::new(Code::General, says));
    }
    let possible = left - left / PARTS;
    let files = usize::try_from(left.saturating_sub(possible.min(connections.into()))).unwrap_or(usize::MAX);
    if possible >= connections.into() {
        return Ok(Room { workers, connections, files });
    }
    let _ = writeln!(
        io::stderr(),
        "{possible} connections at most, not {connections} (--max-connections): {most} open files are allowed; {advice}"
    );
    Ok(Room { workers, connections: u32::try_from(possible).unwrap_or(connections), files })
}

/// Whatever the limit is there.
#[cfg(not(target_os = "linux"))]
pub(super) fn make_room(connections: u32, workers: usize) -> Result<Room, Failure> {
    Ok(Room { workers, connections, files: usize::MAX })
}
