//! The edge to the kernel: one facade, two twins with the same items.
//!
//! `linux` calls the kernel; `other` answers "unsupported". `--cfg tfo_fallback` chooses `other` on
//! Linux too, so that it is compiled and tested there.

#[cfg(all(target_os = "linux", not(tfo_fallback)))]
mod linux;
#[cfg(not(all(target_os = "linux", not(tfo_fallback))))]
mod other;

#[cfg(all(target_os = "linux", not(tfo_fallback)))]
use linux as imp;
#[cfg(not(all(target_os = "linux", not(tfo_fallback))))]
use other as imp;

pub(crate) use imp::{
    IS_LINUX, MAX_SLICES, OPTION_UNSUPPORTED, SEND_FLAGS, SEND_UNSUPPORTED, SYN_FLAGS, SYN_UNSUPPORTED,
    TcpOption, accept, getsockopt, has_input, is_in_progress, peek, read_proc, setsockopt,
};

/// Anything that is a socket: `std`, `socket2` and `tokio` sockets, listeners, owned and borrowed
/// descriptors.
#[cfg(unix)]
pub use std::os::fd::AsFd as AsSocket;
/// Anything that is a socket: `std`, `socket2` and `tokio` sockets and listeners.
#[cfg(windows)]
pub use std::os::windows::io::AsSocket;
