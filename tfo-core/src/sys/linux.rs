//! The Linux twin: all system calls that `socket2` does not wrap.

use std::ffi::{c_int, c_void};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd as _, OwnedFd};
use std::path::Path;

use socket2::SockAddr;

pub(crate) const IS_LINUX: bool = true;

/// `sendmsg` flags of an ordinary send.
pub(crate) const SEND_FLAGS: c_int = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
/// What a send says on a socket whose `connect` was deferred, if TCP Fast Open was switched off since.
/// `EPIPE` is not among them: the peer has gone, and may have had everything.
pub(crate) const SEND_UNSUPPORTED: &[i32] = &[libc::EOPNOTSUPP];

/// `sendmsg` flags of a send in the SYN; none where that is unsupported.
pub(crate) const SYN_FLAGS: Option<c_int> = Some(SEND_FLAGS | libc::MSG_FASTOPEN);
/// What a send in the SYN says where there is none: the sysctl's bit is off, the flag is unknown to the
/// kernel (`EPIPE`: it takes the call for a send without a connection), or a filter is before it. Not
/// `EINVAL`: that is an address of the other family.
pub(crate) const SYN_UNSUPPORTED: &[i32] = &[libc::EOPNOTSUPP, libc::EPIPE, libc::ENOPROTOOPT, libc::EPERM];

/// The most slices that one `sendmsg` takes (`UIO_MAXIOV`).
pub(crate) const MAX_SLICES: usize = 1024;

/// Options of level `IPPROTO_TCP`, `tcp(7)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TcpOption {
    DeferAccept,
    FastOpen,
    FastOpenConnect,
    FastOpenKey,
    FastOpenNoCookie,
    Info,
}

impl TcpOption {
    fn number(self) -> c_int {
        match self {
            Self::DeferAccept => libc::TCP_DEFER_ACCEPT,
            Self::FastOpen => libc::TCP_FASTOPEN,
            Self::FastOpenConnect => libc::TCP_FASTOPEN_CONNECT,
            Self::FastOpenKey => libc::TCP_FASTOPEN_KEY,
            Self::FastOpenNoCookie => libc::TCP_FASTOPEN_NO_COOKIE,
            Self::Info => libc::TCP_INFO,
        }
    }
}

/// What an option's call says where the option is not to be had: unknown to the kernel or to this kind of
/// socket, switched off, before a filter, or known by another meaning.
pub(crate) const OPTION_UNSUPPORTED: &[i32] =
    &[libc::ENOPROTOOPT, libc::EOPNOTSUPP, libc::EPERM, libc::EINVAL];

/// `setsockopt(2)`.
pub(crate) fn setsockopt(socket: &impl AsFd, option: TcpOption, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is borrowed for the call and so open; `value` is readable for `length`
    // bytes, and the kernel copies from it before it returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            option.number(),
            value.as_ptr().cast::<c_void>(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `getsockopt(2)`: the number of bytes that the kernel wrote to the front of `value`.
pub(crate) fn getsockopt(socket: &impl AsFd, option: TcpOption, value: &mut [u8]) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is borrowed for the call and so open; `value` is writable for `length`
    // bytes and initialised, and the kernel writes at most `length` bytes and stores how many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            option.number(),
            value.as_mut_ptr().cast::<c_void>(),
            &raw mut length,
        )
    };
    if result == 0 { Ok((length as usize).min(value.len())) } else { Err(io::Error::last_os_error()) }
}

/// `recv(2)` with `MSG_PEEK`, without waiting.
pub(crate) fn peek(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the descriptor is borrowed for the call and so open; `buffer` is writable for its
    // length, and the kernel writes at most that many bytes.
    let result = unsafe {
        libc::recv(
            socket.as_fd().as_raw_fd(),
            buffer.as_mut_ptr().cast::<c_void>(),
            buffer.len(),
            libc::MSG_PEEK | libc::MSG_DONTWAIT,
        )
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// `accept4(2)`: a socket that does not block and is closed on exec, and its peer.
pub(crate) fn accept(listener: &impl AsFd) -> io::Result<(TcpStream, SocketAddr)> {
    let mut accepted = -1;
    // SAFETY: the closure gives the kernel a storage of that length; it writes an address that fits, and
    // its length, before the call returns. On an error nothing is kept.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            accepted = libc::accept4(listener.as_fd().as_raw_fd(), storage.cast(), length, flags);
            if accepted < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        })
    }?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    let socket = unsafe { OwnedFd::from_raw_fd(accepted) };
    let address = address.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok((socket.into(), address))
}

/// `poll(2)` for input, without waiting.
pub(crate) fn has_input(socket: &impl AsFd) -> io::Result<bool> {
    let mut asked = libc::pollfd { fd: socket.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one initialised entry, which the kernel reads and writes during the call; the descriptor is
    // borrowed for the call and so open.
    let result = unsafe { libc::poll(&raw mut asked, 1, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result > 0) }
}

/// Whether a handshake has begun and the bytes of the call were not taken.
pub(crate) fn is_in_progress(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINPROGRESS)
}

/// A file of `/proc`, as text.
pub(crate) fn read_proc(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
}
