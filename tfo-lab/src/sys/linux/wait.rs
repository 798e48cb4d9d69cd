//! Waiting for packets, commands and due times, precise to tens of microseconds.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::prctl;
use nix::sys::time::TimeSpec;

use super::Tun;

/// Wakes the wire from another thread.
#[derive(Debug)]
pub(crate) struct Bell(EventFd);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    pub(crate) fn ring(&self) {
        // It fails only when the counter is full, and then the wire has been woken already.
        let _ = self.0.write(1);
    }
}

/// Lets the calling thread's timers fire on time, instead of up to 50 µs later.
pub(crate) fn precise_timers() {
    // It cannot fail for the calling thread; if it did, delays would be 50 µs longer.
    let _ = prctl::set_timerslack(1);
}

/// The longest sleep.
const LONGEST: Duration = Duration::from_secs(3600);

/// Sleeps until a host has sent something, the bell rings, or the time is up.
pub(crate) fn wait(tuns: &[Tun], bell: &Bell, timeout: Option<Duration>) -> io::Result<()> {
    let mut fds: Vec<_> = tuns.iter().map(|tun| PollFd::new(tun.0.as_fd(), PollFlags::POLLIN)).collect();
    fds.push(PollFd::new(bell.0.as_fd(), PollFlags::POLLIN));
    // More than the kernel can count is an error to it. Waking too early harms nobody.
    let timeout = timeout.map(|timeout| TimeSpec::from_duration(timeout.min(LONGEST)));
    match ppoll(&mut fds, timeout, None) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    }
    // Reading resets the counter, whatever it was.
    let _ = bell.0.read();
    Ok(())
}
