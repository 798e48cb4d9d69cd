//! The stream as its users see it: reads, writes, flushes, shutdown, and what hyper asks of it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use http::Extensions;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpInfo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::table::{Event, Phase};
use super::wakers::Side;
use super::{State, TfoStream, evidence};

impl AsyncRead for TfoStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_cork(cx, Side::Read));
        if !matches!(this.state, State::Open(_)) {
            ready!(this.poll_open(cx, Side::Read))?;
        }
        let State::Open(stream) = &mut this.state else { return Poll::Ready(Ok(())) };
        let before = buffer.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buffer))?;
        this.unheard = false;
        if buffer.filled().len() > before
            && let Some(since) = this.doubted_since.take()
        {
            evidence::note_answer(since.elapsed(), &this.info);
            this.settle();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TfoStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let State::Open(stream) = &mut this.state {
            return Pin::new(stream).poll_write_vectored(cx, slices);
        }
        if matches!(this.state, State::Idle(_) | State::Corked(_)) {
            let wanted = slices.iter().any(|slice| !slice.is_empty());
            let taken = if wanted { this.append(slices) } else { 0 };
            if taken > 0 {
                // A reader has waited for nothing so far. Now it waits for an answer, which releases
                // the flight where nobody flushes.
                if !*this.for_hyper.get_mut() {
                    this.wakers.wake_other(Side::Write);
                }
            }
            if taken > 0 || !wanted {
                return Poll::Ready(Ok(taken));
            }
        }
        if this.poll_open(cx, Side::Write)?.is_pending() {
            this.go_on();
            ready!(this.poll_open(cx, Side::Write))?;
        }
        match &mut this.state {
            State::Open(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            _ => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &mut this.state {
            State::Open(stream) => return Pin::new(stream).poll_flush(cx),
            State::Idle(_) => return Poll::Ready(Ok(())),
            _ => {}
        }
        ready!(this.poll_cork(cx, Side::Write));
        match this.poll_open(cx, Side::Write) {
            // The handshake has been asked to wake this task; nothing is left to wait for here.
            Poll::Pending if this.is_flushed() => {
                this.wakers.done(Side::Write);
                Poll::Ready(Ok(()))
            }
            result => result,
        }
    }

    /// Before the handshake is over it waits for it: a FIN on a connection that is not one yet would
    /// end it, and lose the request. An error is that of the handshake: who writes, shuts down and
    /// never reads hears of it here.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let State::Idle(_) = this.state {
            this.alarm.end();
            this.go(Phase::Idle, Event::Shutdown, State::Closed(None));
            this.wakers.wake_other(Side::Write);
        }
        // What has failed is shut.
        if let State::Closed(_) = this.state {
            return Poll::Ready(Ok(()));
        }
        let open = this.poll_open(cx, Side::Write);
        if let State::Delivering(attempts) = &mut this.state
            && attempts.shut_down()
        {
            this.wakers.done(Side::Write);
            return Poll::Ready(Ok(()));
        }
        ready!(open)?;
        match &mut this.state {
            State::Open(stream) => Pin::new(stream).poll_shutdown(cx),
            _ => Poll::Ready(Ok(())),
        }
    }
}

/// For `hyper_util`, which asks once, and flushes what it writes: from then on a reader is not woken for a
/// write, and waits for the first one for as long as it takes.
///
/// hyper takes it along: [`ConnInfo`](crate::ConnInfo), and `HttpInfo` where the handshake was an ordinary one (it
/// needs addresses that a deferred connection does not have yet).
impl Connection for TfoStream {
    fn connected(&self) -> Connected {
        self.for_hyper.store(true, Relaxed);
        let State::Open(stream) = &self.state else { return Connected::new().extra(self.info.clone()) };
        let connected = stream.connected();
        let mut extras = Extensions::new();
        connected.get_extras(&mut extras);
        // It has just asked the kernel.
        self.info.set_local_addr(extras.get().map(HttpInfo::local_addr));
        connected.extra(self.info.clone())
    }
}
