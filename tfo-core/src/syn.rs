use std::io::{self, IoSlice};
use std::net::SocketAddr;

use bytes::BufMut;
use socket2::{SockAddr, SockRef};

use crate::Error;
use crate::sys::{self, AsSocket};

/// What became of a first flight that was to go in the SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SynSend {
    /// A cookie is cached: so many leading bytes went out in the SYN. The rest can be sent when the
    /// handshake is over (until then [`send`] says `WouldBlock`).
    Data(usize),
    /// No byte was taken, because no cookie is cached, or there was no byte: an ordinary handshake is
    /// under way. Its SYN asks for a cookie, or, with no data where one is cached, brings it. Wait until
    /// the socket is writable, then [`send`].
    NoCookie,
}

/// `sendmsg(MSG_FASTOPEN)` on an unconnected socket: connects, and sends the first bytes of `data`
/// in the SYN if a cookie for the address is cached. Never blocks, never raises SIGPIPE.
///
/// For TCP sockets only: to others the flag means nothing, and a UDP socket sends a datagram.
///
/// All slices together are one first flight. At most one segment less 40 bytes fits: at MTU 1500
/// 1,420 bytes on IPv4 and 1,400 on IPv6 (RFC 7413 section 4.1.3 and Linux's reserve for options).
/// The kernel takes 1,024 slices at a time; further ones count as not taken.
///
/// That bytes were taken is no evidence that the peer took them: ask
/// [`TcpInfo::syn_data`](crate::TcpInfo::syn_data) when the handshake is over. What goes in the SYN
/// may be delivered to the server twice (RFC 7413 section 2.1): ask
/// [`FirstFlight`](crate::FirstFlight) first.
///
/// # Errors
///
/// [`Error::is_unsupported`] where there is no TCP Fast Open: nothing was sent, and the same socket
/// can be connected in the ordinary way. Everything else is as from `connect(2)`: with
/// `ENETUNREACH` and its like the socket can be used again; a socket
/// that is connected already is refused with `EISCONN`. A refused connection shows at the next
/// read, not here.
pub fn send_syn(socket: &impl AsSocket, to: &SocketAddr, data: &[IoSlice<'_>]) -> Result<SynSend, Error> {
    const CALL: &str = "sendmsg MSG_FASTOPEN";
    let Some(flags) = sys::SYN_FLAGS else {
        return Err(Error::new(CALL, io::ErrorKind::Unsupported.into(), sys::SYN_UNSUPPORTED).to(to));
    };
    let data = &data[..data.len().min(sys::MAX_SLICES)];
    let result = SockRef::from(socket).send_to_vectored_with_flags(data, &SockAddr::from(*to), flags);
    match result {
        Ok(bytes) => Ok(SynSend::Data(bytes)),
        Err(error) if sys::is_in_progress(&error) => Ok(SynSend::NoCookie),
        Err(error) => Err(Error::new(CALL, error, sys::SYN_UNSUPPORTED).to(to)),
    }
}

/// What became of a `connect` that did not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Connect {
    /// `connect` answered 0 at once. With `TCP_FASTOPEN_CONNECT` that is a *deferred connect*: a
    /// cookie is cached, nothing has been sent, and the first write goes in the SYN. It proves
    /// nothing about the peer. (Without the option 0 is the answer of a socket that blocks, when the
    /// handshake is over: see [`connect`].)
    Deferred,
    /// A handshake is under way: wait until the socket is writable, then look at its error.
    InProgress,
}

/// `connect` on a socket that does not block, with or without
/// [`TCP_FASTOPEN_CONNECT`](crate::sockopt::set_fastopen_connect).
///
/// On a socket that blocks it waits for the handshake, if there is no cookie, and answers
/// [`Connect::Deferred`] in both cases: they cannot be told apart.
///
/// # Errors
///
/// As `connect(2)`: among others the address family does not fit the socket, no route, no free
/// local port.
pub fn connect(socket: &impl AsSocket, to: &SocketAddr) -> Result<Connect, Error> {
    match SockRef::from(socket).connect(&SockAddr::from(*to)) {
        Ok(()) => Ok(Connect::Deferred),
        Err(error) if sys::is_in_progress(&error) => Ok(Connect::InProgress),
        Err(error) => Err(Error::new("connect", error, &[]).to(to)),
    }
}

/// Begins the handshake of a socket whose connect was [deferred](Connect::Deferred), without data:
/// the SYN carries the cookie and nothing else. For a first flight that must not be delivered twice.
///
/// # Errors
///
/// As [`send`]; that the handshake is under way is success.
pub fn send_empty_syn(socket: &impl AsSocket) -> Result<(), Error> {
    match SockRef::from(socket).send_with_flags(&[], sys::SEND_FLAGS) {
        Ok(_) => Ok(()),
        Err(error) if sys::is_in_progress(&error) => Ok(()),
        Err(error) => Err(Error::new("send", error, sys::SEND_UNSUPPORTED)),
    }
}

/// `sendmsg` on a socket that is connected, or whose `connect` was deferred by
/// [`TCP_FASTOPEN_CONNECT`](crate::sockopt::set_fastopen_connect). Never blocks, never raises
/// SIGPIPE. The kernel takes 1,024 slices at a time; further ones count as not taken.
///
/// # Errors
///
/// As `sendmsg(2)`; `WouldBlock` while the handshake is under way or the buffer is full. On a
/// deferred socket whose cookie has vanished since `connect`, the kernel answers `EINPROGRESS`: no
/// byte was taken, an ordinary handshake is under way; this function then says `WouldBlock`, so
/// that waiting for writability and sending again is right in both cases.
pub fn send(socket: &impl AsSocket, data: &[IoSlice<'_>]) -> Result<usize, Error> {
    let data = &data[..data.len().min(sys::MAX_SLICES)];
    SockRef::from(socket).send_vectored_with_flags(data, sys::SEND_FLAGS).map_err(|error| {
        let in_progress = sys::is_in_progress(&error);
        let error = if in_progress { io::ErrorKind::WouldBlock.into() } else { error };
        Error::new("sendmsg", error, sys::SEND_UNSUPPORTED)
    })
}

/// `recv(MSG_PEEK)`: copies what is readable to the front of `buffer` and leaves it in the kernel.
/// Never blocks; 0 means that the peer has closed.
///
/// This is how a server looks at data that came in a SYN without taking it: unread, it still wakes
/// the reader when the handshake is complete.
///
/// # Errors
///
/// As `recv(2)`; `WouldBlock` when nothing is readable.
pub fn peek(socket: &impl AsSocket, buffer: &mut [u8]) -> Result<usize, Error> {
    sys::peek(socket, buffer).map_err(|error| Error::new("recv MSG_PEEK", error, &[]))
}

/// `recv(2)` into the free room of `buffer`, which need not be initialized: how many bytes were appended.
/// 0 is the end: the peer has closed (or there was no room). The error is the kernel's own.
///
/// # Errors
///
/// As `recv(2)`; `WouldBlock` when nothing is readable and the socket does not block.
pub fn recv_buf(socket: &impl AsSocket, buffer: &mut impl BufMut) -> io::Result<usize> {
    // SAFETY: nothing but what the kernel writes gets into the slice, and that is initialized.
    let room = unsafe { buffer.chunk_mut().as_uninit_slice_mut() };
    let bytes = SockRef::from(socket).recv(room)?;
    // SAFETY: the kernel has written so many bytes, from the front on.
    unsafe { buffer.advance_mut(bytes) };
    Ok(bytes)
}
