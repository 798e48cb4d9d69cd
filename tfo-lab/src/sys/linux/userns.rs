//! Entering a user namespace, in which an ordinary user may make network namespaces.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};

use crate::error::LabError;

/// `CAP_NET_ADMIN` and `CAP_SYS_ADMIN` as bits of `CapEff`.
const NEEDED: u64 = 1 << 12 | 1 << 21;

/// Does nothing if the process has the capabilities already.
pub(crate) fn enter_user_namespace() -> Result<(), LabError> {
    if has_capabilities() {
        return Ok(());
    }
    let threads = fs::read_dir("/proc/self/task").map(Iterator::count).unwrap_or(1);
    if threads > 1 {
        return Err(LabError::Multithreaded { threads });
    }
    let (uid, gid) = (Uid::current(), Gid::current());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(denied)?;
    // The kernel takes a gid map from an ordinary user only after setgroups is switched off.
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ];
    for (file, content) in maps {
        fs::write(file, content).map_err(|source| LabError::UserNamespaceDenied { fix: fix(), source })?;
    }
    Ok(())
}

fn has_capabilities() -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .is_some_and(|set| set & NEEDED == NEEDED)
}

fn denied(errno: Errno) -> LabError {
    LabError::UserNamespaceDenied { fix: fix(), source: io::Error::from(errno) }
}

/// What most likely forbids user namespaces here.
fn fix() -> &'static str {
    let reads = |file: &str, value: &str| fs::read_to_string(file).is_ok_and(|text| text.trim() == value);
    if reads("/proc/sys/user/max_user_namespaces", "0") {
        "run `sudo sysctl user.max_user_namespaces=10000`"
    } else if reads("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "run `sudo sysctl kernel.unprivileged_userns_clone=1`"
    } else if reads("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "run `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
    } else {
        "a container's seccomp profile forbids it, most likely: run the container with `--privileged` or \
         `--security-opt seccomp=unconfined`"
    }
}
