//! The socket of a connection, registered with the reactor or not.

use std::io::{self, IoSlice, Write as _};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tfo_core::recv_buf;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A socket that does not block.
#[derive(Debug)]
pub(crate) enum Socket {
    /// Not registered: what would have to wait is pending, and nobody is woken. For an owner who polls,
    /// then [registers](Self::registered) it, and polls again.
    #[cfg_attr(not(feature = "server"), expect(dead_code, reason = "a server's way"))]
    Inline {
        socket: std::net::TcpStream,
        /// The last read has taken all that was there, or found nothing.
        drained: bool,
    },
    Registered(TcpStream),
}

impl From<TcpStream> for Socket {
    fn from(socket: TcpStream) -> Self {
        Self::Registered(socket)
    }
}

impl Socket {
    pub(crate) fn is_inline(&self) -> bool {
        matches!(self, Self::Inline { .. })
    }

    /// Registers it with the runtime that this is called in.
    #[cfg(feature = "server")]
    pub(crate) fn registered(self) -> io::Result<Self> {
        match self {
            Self::Inline { socket, .. } => TcpStream::from_std(socket).map(Self::Registered),
            registered => Ok(registered),
        }
    }

    /// From now on packets wait until they are full; whether it is so. `TCP_CORK`, tcp(7).
    #[cfg(feature = "server")]
    pub(crate) fn cork(&self) -> bool {
        #[cfg(target_os = "linux")]
        return SockRef::from(self).set_tcp_cork(true).is_ok();
        #[cfg(not(target_os = "linux"))]
        return false;
    }

    /// Sends what waits, [corked](Self::cork) or [held](Self::poll_write_more).
    #[cfg(feature = "server")]
    pub(crate) fn uncork(&self) {
        #[cfg(target_os = "linux")]
        let _ = SockRef::from(self).set_tcp_cork(false);
    }

    /// As `poll_write_vectored`, but the kernel holds what does not fill a packet, for what comes next: the end
    /// goes with it. `MSG_MORE`, send(2); elsewhere than on Linux nothing is held.
    #[cfg(feature = "server")]
    pub(crate) fn poll_write_more(
        &self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = || send_more(self, bufs);
        loop {
            match self {
                Self::Inline { .. } => return no_wait(write()),
                Self::Registered(socket) => {
                    std::task::ready!(socket.poll_write_ready(cx))?;
                    match socket.try_io(Interest::WRITABLE, write) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        written => return Poll::Ready(written),
                    }
                }
            }
        }
    }

    /// Sends the end, and what the kernel holds with it, whatever is unread; before the proof, with the close.
    #[cfg(feature = "server")]
    pub(crate) fn finish(&self) {
        let _ = SockRef::from(self).shutdown(std::net::Shutdown::Write);
    }

    /// There is nothing to read.
    pub(crate) fn note_empty(&mut self) {
        if let Self::Inline { drained, .. } = self {
            *drained = true;
        }
    }

    /// There is something to read again.
    #[cfg(feature = "server")]
    pub(crate) fn refill(&mut self) {
        if let Self::Inline { drained, .. } = self {
            *drained = false;
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Inline { socket, .. } => socket.local_addr(),
            Self::Registered(socket) => socket.local_addr(),
        }
    }

    pub(crate) fn set_zero_linger(&self) -> io::Result<()> {
        SockRef::from(self).set_linger(Some(std::time::Duration::ZERO))
    }

    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Inline { .. } => Poll::Pending,
            Self::Registered(socket) => socket.poll_read_ready(cx),
        }
    }

    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Inline { .. } => Poll::Pending,
            Self::Registered(socket) => socket.poll_write_ready(cx),
        }
    }

    pub(crate) fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Inline { .. } => Err(io::ErrorKind::WouldBlock.into()),
            Self::Registered(socket) => socket.try_read(buf),
        }
    }

    pub(crate) fn try_io<T>(
        &self,
        interest: Interest,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        match self {
            Self::Inline { .. } => Err(io::ErrorKind::WouldBlock.into()),
            Self::Registered(socket) => socket.try_io(interest, work),
        }
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Inline { socket, .. } => socket.as_fd(),
            Self::Registered(socket) => socket.as_fd(),
        }
    }
}

#[cfg(windows)]
impl std::os::windows::io::AsSocket for Socket {
    fn as_socket(&self) -> std::os::windows::io::BorrowedSocket<'_> {
        match self {
            Self::Inline { socket, .. } => socket.as_socket(),
            Self::Registered(socket) => socket.as_socket(),
        }
    }
}

#[cfg(all(feature = "server", target_os = "linux"))]
fn send_more(socket: &Socket, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
    Ok(sendmsg(socket, bufs, &mut SendAncillaryBuffer::default(), flags)?)
}

#[cfg(all(feature = "server", not(target_os = "linux")))]
fn send_more(socket: &Socket, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
    SockRef::from(socket).send_vectored(bufs)
}

fn no_wait<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        result => Poll::Ready(result),
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Registered(socket) => Pin::new(socket).poll_read(cx, buf),
            // A second call would find nothing: hyper reads once more before it answers.
            Self::Inline { drained: true, .. } => Poll::Pending,
            Self::Inline { socket, drained } => {
                let room = buf.remaining();
                let read = no_wait(recv_buf(socket, buf));
                *drained = match read {
                    Poll::Pending => true,
                    Poll::Ready(Ok(bytes)) => (1..room).contains(&bytes),
                    Poll::Ready(Err(_)) => false,
                };
                read.map_ok(drop)
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Registered(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Inline { socket, .. } => no_wait(socket.write(buf)),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Registered(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Inline { socket, .. } => no_wait(socket.write_vectored(bufs)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Registered(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Inline { socket, .. } => Poll::Ready(socket.shutdown(std::net::Shutdown::Write)),
        }
    }
}
