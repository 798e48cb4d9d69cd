//! The twin for every other system: the same items, each answering "unsupported".

use std::ffi::c_int;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use socket2::SockRef;

use super::AsSocket;

pub(crate) const IS_LINUX: bool = false;

/// Nothing by number: this twin says `ErrorKind::Unsupported`.
pub(crate) const OPTION_UNSUPPORTED: &[i32] = &[];
/// As for the options.
pub(crate) const SYN_UNSUPPORTED: &[i32] = &[];
/// An ordinary send is supported.
pub(crate) const SEND_UNSUPPORTED: &[i32] = &[];
/// The most slices that one send takes, on the systems that there are.
pub(crate) const MAX_SLICES: usize = 1024;

/// A send that does not block. `MSG_NOSIGNAL` is not everywhere; std ignores SIGPIPE in Rust programs.
#[cfg(unix)]
pub(crate) const SEND_FLAGS: c_int = libc::MSG_DONTWAIT;
/// No such flag: a socket that must not block has to be set so.
#[cfg(not(unix))]
pub(crate) const SEND_FLAGS: c_int = 0;
/// No data in the SYN on this system.
pub(crate) const SYN_FLAGS: Option<c_int> = None;

/// The options that the Linux twin knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TcpOption {
    DeferAccept,
    FastOpen,
    FastOpenConnect,
    FastOpenKey,
    FastOpenNoCookie,
    Info,
}

pub(crate) fn setsockopt(_: &impl AsSocket, _: TcpOption, _: &[u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn getsockopt(_: &impl AsSocket, _: TcpOption, _: &mut [u8]) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn peek(_: &impl AsSocket, _: &mut [u8]) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn accept(listener: &impl AsSocket) -> io::Result<(TcpStream, SocketAddr)> {
    let (socket, address) = SockRef::from(listener).accept()?;
    socket.set_nonblocking(true)?;
    let address = address.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok((socket.into(), address))
}

pub(crate) fn has_input(_: &impl AsSocket) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

/// `EINPROGRESS` on Unix, `WSAEWOULDBLOCK` (as `WouldBlock`) on Windows.
pub(crate) fn is_in_progress(error: &io::Error) -> bool {
    #[cfg(unix)]
    return error.raw_os_error() == Some(libc::EINPROGRESS);
    #[cfg(not(unix))]
    return error.kind() == io::ErrorKind::WouldBlock;
}

pub(crate) fn read_proc(_: &Path) -> io::Result<String> {
    Err(io::ErrorKind::Unsupported.into())
}
