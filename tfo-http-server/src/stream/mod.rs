//! The accepted stream: the shell around the gate's decisions.

mod cap;
#[cfg(feature = "proxy")]
mod front;
pub(crate) mod gate;
pub(crate) mod look;
mod mode;
pub(crate) mod replayable;
pub(crate) mod socket;

use std::fmt;
use std::io::{self, IoSlice, Read};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
#[cfg(feature = "server")]
use tokio::time::Instant;

use crate::info::AcceptInfo;
use crate::outcome::Disproven;
use crate::shared::{Proof, Shared};
use cap::Cap;
use mode::Mode;
use replayable::Replayable;
use socket::Socket;

/// Room for the SYN's data on a path with an MTU of 1500, and for one byte more.
const USUAL_FLIGHT: usize = 2048;
/// No IP packet is larger, and the SYN's data is one packet.
const LARGEST_FLIGHT: usize = 65_536;

/// An accepted connection whose reads go through the replay gate.
///
/// Of data that came in the SYN, reads get the replay-safe front at once, and the rest only when
/// the handshake is complete. If it never is, the rest is thrown away: reads fail with
/// `ConnectionReset` when the connection was reset, and with `TimedOut` at the gate's deadline, when
/// the connection is aborted with a RST. The [`Disproven`] is inside the error. Writes are
/// free all the while. To all other connections this is a plain stream.
///
/// For hyper: `hyper_util::rt::TokioIo::new(stream)`.
///
/// # Panics
///
/// Reads, if something is to be withheld and they are polled outside a tokio runtime with time.
pub struct AcceptedStream {
    shared: Arc<Shared>,
    mode: Mode,
    /// What is left to be written before the proof; `None` if there is no limit, or it is proven.
    cap: Option<Cap>,
}

impl AcceptedStream {
    /// A connection that may be read and written freely.
    pub(crate) fn open(shared: Shared) -> Self {
        Self::new(shared, Mode::Open)
    }

    /// A connection that was not proven when it was accepted: `rule` tells what is replayable, `most` how
    /// much may be written before the proof.
    pub(crate) fn gated(shared: Shared, rule: Option<Replayable>, most: usize) -> Self {
        shared.state().unsettle();
        Self::new(shared, Mode::Unseen { rule }).with_cap(most)
    }

    /// Limits what may be written before the proof.
    pub(crate) fn with_cap(mut self, most: usize) -> Self {
        self.cap = (most < usize::MAX).then(|| Cap::new(most));
        self
    }

    /// A connection that was reset before it was accepted.
    pub(crate) fn failed(shared: Shared) -> Self {
        Self::new(shared, Mode::Failed(Disproven::Reset))
    }

    fn new(shared: Shared, mode: Mode) -> Self {
        Self { shared: Arc::new(shared), mode, cap: None }
    }

    /// A live handle on what is known about this connection.
    pub fn info(&self) -> AcceptInfo {
        AcceptInfo::new(Arc::clone(&self.shared))
    }

    /// Whether something was withheld, and not read since. That it is proven is not enough: the kernel knows
    /// before the reader does.
    #[cfg(feature = "server")]
    pub(crate) fn is_withheld(&self) -> bool {
        self.shared.state().is_withheld()
    }

    #[cfg(feature = "server")]
    pub(crate) fn accepted(&self) -> Instant {
        self.shared.state().accepted
    }

    #[cfg(feature = "server")]
    pub(crate) fn reset_on_close(&self) {
        self.shared.reset_on_close();
    }

    /// A handle that does not count as one: nobody looks a last time for its sake.
    #[cfg(feature = "server")]
    pub(crate) fn downgrade(&self) -> std::sync::Weak<Shared> {
        Arc::downgrade(&self.shared)
    }

    /// The client's address; [`AcceptInfo::remote_addr`].
    pub fn peer_addr(&self) -> SocketAddr {
        self.shared.client()
    }

    /// The address that the peer has connected to.
    ///
    /// # Errors
    ///
    /// As [`AcceptInfo::local_addr`].
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.info().local_addr()
    }

    fn with_socket<T>(
        &self,
        work: impl FnOnce(Pin<&mut Socket>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut state = self.shared.state();
        match state.socket.as_mut() {
            Some(socket) => work(Pin::new(socket)),
            None => Poll::Ready(Err(self.mode.closed(&state).into())),
        }
    }

    /// How much may be written now.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(cap) = &mut self.cap else { return Poll::Ready(Ok(usize::MAX)) };
        let mut state = self.shared.state();
        let pending = state.proof == Proof::Pending;
        let room = cap.poll_room(&mut state, self.shared.deadline, cx);
        let settled = pending && state.proof != Proof::Pending;
        drop(state);
        if settled {
            self.shared.wake_waiters();
        }
        let room = ready!(room)?;
        if room.is_none() {
            self.cap = None;
        }
        Poll::Ready(Ok(room.unwrap_or(usize::MAX)))
    }

    /// Writes as much as may be written now, `write` being how.
    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
        write: impl FnOnce(Pin<&mut Socket>, &mut Context<'_>, &[IoSlice<'_>]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let room = ready!(self.poll_room(cx))?;
        if room == usize::MAX {
            return self.with_socket(|socket| write(socket, cx, bufs));
        }
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        let part = [IoSlice::new(&first[..first.len().min(room)])];
        let written = ready!(self.with_socket(|socket| write(socket, cx, &part)))?;
        if let Some(cap) = &mut self.cap {
            cap.spend(written);
        }
        Poll::Ready(Ok(written))
    }

    /// Writes what comes right before the end: as `poll_write_vectored`, but the kernel holds what does not fill
    /// a packet, until it is [uncorked](Socket::uncork) or told to [finish](Self::finish), or the stream is dropped.
    #[cfg(feature = "server")]
    pub(crate) fn poll_write_last(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, bufs, |socket, cx, bufs| socket.poll_write_more(cx, bufs))
    }

    /// Sends what the kernel holds, and the end with it, whatever is unread.
    #[cfg(feature = "server")]
    pub(crate) fn finish(&self) {
        if let Some(socket) = &self.shared.state().socket {
            socket.finish();
        }
    }
}

impl AsyncRead for AcceptedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { shared, mode, .. } = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut state = shared.state();
        let pending = state.proof == Proof::Pending;
        let result = mode.poll_read(&mut state, shared.deadline, cx, buf);
        let settled = pending && state.proof != Proof::Pending;
        if state.is_unsettled() && mode.withholds_nothing(&state, &result) {
            state.settle_reader();
        }
        drop(state);
        if settled {
            shared.wake_waiters();
        }
        result
    }
}

/// Not gated, but for the limit on what goes to a peer that is not proven: the server may answer what was
/// released, and speak first.
impl AsyncWrite for AcceptedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_with(cx, &[IoSlice::new(buf)], |socket, cx, bufs| {
            socket.poll_write(cx, bufs.first().map_or(&[], |buf| buf))
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_with(cx, bufs, Socket::poll_write_vectored)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with_socket(|socket| socket.poll_flush(cx))
    }

    /// Before the proof the kernel sends the data at once, and the FIN after the ACK.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with_socket(|socket| socket.poll_shutdown(cx))
    }
}

/// Closes the connection, whoever still holds an [`AcceptInfo`].
impl Drop for AcceptedStream {
    fn drop(&mut self) {
        let watched = Arc::strong_count(&self.shared) > 1;
        let Some(socket) = self.shared.close(watched) else { return };
        // Unread data turns the close into a RST. If nothing was released that is right: it frees
        // the listener's place in the queue at once. If something was, the RST could overtake the
        // answer to it.
        if self.mode.has_answered() {
            discard_unread(&socket);
        } else if self.mode.has_taken() {
            // The kernel has nothing unread.
            let _ = socket.set_zero_linger();
        }
    }
}

impl fmt::Debug for AcceptedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcceptedStream")
            .field("peer_addr", &self.peer_addr())
            .field("outcome", &self.shared.outcome)
            .field("gate", &self.mode)
            .finish_non_exhaustive()
    }
}

/// Takes what is unread out of the kernel: one SYN's data at most.
fn discard_unread(socket: &Socket) {
    // Not through tokio, which takes a withheld byte for none.
    let mut socket = &*SockRef::from(socket);
    let mut scratch = [0; USUAL_FLIGHT];
    for _ in 0..LARGEST_FLIGHT / USUAL_FLIGHT {
        if !matches!(socket.read(&mut scratch), Ok(1..)) {
            return;
        }
    }
}
