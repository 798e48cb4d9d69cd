//! The stream between hyper and the gate: what was read to know the protocol, and the time limits.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::progress::Progress;
use super::stats::one;
use super::timer::Timer;
use super::window::PART;
use crate::AcceptedStream;
use crate::clock::later;

/// RFC 9110 15.5.9: said to whom has begun a request.
const TOO_LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// How long, and how much, is read of a client that is still sending when it has its answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1024 * 1024;

/// The first bytes, already read, and the stream behind them.
pub(super) struct Io {
    stream: AcceptedStream,
    front: Vec<u8>,
    /// How much of `front` was handed out.
    handed: usize,
    pub(super) http2: bool,
    progress: Arc<Progress>,
    pub(super) accepted: Instant,
    /// The request that the times below belong to.
    request: u64,
    /// Since when is being waited for the rest of a head.
    head_since: Option<Instant>,
    idle_since: Option<Instant>,
    read_timer: Timer,
    write_timer: Timer,
    /// What the client's kernel had taken when the write timer was set.
    acked: Option<u64>,
    ended: bool,
    /// It was said, and counted, that the client is too late.
    late: bool,
    linger: Option<usize>,
}

impl Io {
    pub(super) fn new(stream: AcceptedStream, progress: Arc<Progress>) -> Self {
        let accepted = stream.accepted();
        Self {
            stream,
            front: Vec::new(),
            handed: 0,
            http2: false,
            progress,
            accepted,
            request: 0,
            head_since: None,
            idle_since: None,
            read_timer: Timer::default(),
            write_timer: Timer::default(),
            acked: None,
            ended: false,
            late: false,
            linger: None,
        }
    }

    /// What was read to know the protocol.
    pub(super) fn front(&self) -> &[u8] {
        &self.front
    }

    /// Reads more, to be handed out later. 0 is the end.
    pub(super) fn poll_front(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = [const { std::mem::MaybeUninit::uninit() }; 4096];
        let mut buf = ReadBuf::uninit(&mut room);
        ready!(self.poll_stream(cx, &mut buf))?;
        self.front.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if Pin::new(&mut self.stream).poll_read(cx, buf)?.is_pending() {
            return self.poll_late(cx);
        }
        self.ended = buf.filled().len() == before;
        self.note_request();
        if !self.ended && !self.progress.is_busy() {
            self.progress.set_head(true);
        }
        Poll::Ready(Ok(()))
    }

    /// Notices that the head that was waited for is complete.
    fn note_request(&mut self) {
        let begun = self.progress.begun();
        if begun != self.request {
            self.request = begun;
            self.progress.set_head(false);
            self.head_since = None;
            self.idle_since = None;
        }
    }

    /// Ready, with an error, when the client should have sent something.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A client that is still taking an answer is not idle: the service is done with it, the kernel is not.
        // HTTP/2 has streams, and a clock of its own.
        if self.http2 || self.progress.is_busy() || self.progress.is_upgraded() || self.write_timer.runs() {
            return Poll::Pending;
        }
        self.note_request();
        if self.progress.is_polled_here() {
            return Poll::Pending;
        }
        let limits = &self.progress.context().limits;
        let (deadline, head) = match self.progress.has_head() {
            _ if self.request == 0 => (later(self.accepted, limits.header_timeout), true),
            true => {
                let since = *self.head_since.get_or_insert_with(Instant::now);
                (later(since, limits.header_timeout), true)
            }
            false => {
                let since = *self.idle_since.get_or_insert_with(Instant::now);
                (later(since, limits.idle_timeout), false)
            }
        };
        ready!(self.read_timer.poll(deadline, cx));
        // What the gate withholds has come in time; its own deadline holds.
        if self.stream.is_withheld() {
            return Poll::Pending;
        }
        let counts = self.progress.counts();
        if std::mem::replace(&mut self.late, true) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        one(if head { &counts.header_timeout } else { &counts.idle_timeout });
        if head && (self.progress.has_head() || !self.front.is_empty()) {
            // Whether it fits or not: the connection is over.
            let _ = Pin::new(&mut self.stream).poll_write(cx, TOO_LATE);
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn limited<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let window = self.progress.window();
        // Who has upgraded it may wait as long as he likes.
        if poll.is_ready() || self.progress.is_upgraded() {
            if self.write_timer.runs() {
                self.write_timer.stop();
                window.blocked.store(false, Relaxed);
            }
            return poll;
        }
        if !self.write_timer.runs() {
            window.blocked.store(true, Relaxed);
            self.acked = self.acked();
        }
        let timeout = self.progress.context().limits.write_timeout;
        loop {
            ready!(self.write_timer.poll_for(timeout, cx));
            // The kernel wants more than a third of its queue to be free before it takes anything: a slow
            // reader may need longer for that.
            let acked = self.acked();
            let taken = acked.zip(self.acked).map_or(0, |(now, before)| now.saturating_sub(before));
            if taken < PART as u64 {
                break;
            }
            self.acked = acked;
            self.write_timer.stop();
        }
        one(&self.progress.counts().write_timeout);
        self.stream.reset_on_close();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// How many bytes the client's kernel has taken, if the own one tells.
    fn acked(&self) -> Option<u64> {
        self.stream.info().tcp_info().ok()?.bytes_acked()
    }

    /// Whether the client may be sending still: then a close could destroy the answer on its way.
    fn may_be_unread(&self) -> bool {
        let refused = self.progress.has_head() && self.progress.begun() == self.request;
        // An HTTP/2 client may always have something to say: WINDOW_UPDATE, a PING's answer.
        !self.ended && (self.http2 || self.progress.is_unread() || refused)
    }

    /// Whether the close comes right behind what is written now.
    fn is_last(&self) -> bool {
        let asked = cfg!(target_os = "linux") && self.progress.context().end_in_last_packet;
        asked && self.progress.is_complete() && !self.http2 && !self.may_be_unread()
    }

    fn poll_write_last(&mut self, cx: &mut Context<'_>, data: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = ready!(self.stream.poll_write_last(cx, data))?;
        self.progress.set_held(true);
        Poll::Ready(Ok(written))
    }

    /// Reads and forgets, until the client has closed, too.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [const { std::mem::MaybeUninit::uninit() }; 4096];
        while let Some(left) = self.linger {
            let mut buf = ReadBuf::uninit(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                Poll::Pending => {
                    ready!(self.read_timer.poll_for(LINGER, cx));
                    break;
                }
                Poll::Ready(Err(_)) => break,
                Poll::Ready(Ok(())) => {
                    let read = buf.filled().len();
                    self.linger = left.checked_sub(read).filter(|_| read > 0);
                }
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let front = &this.front[this.handed..];
        if front.is_empty() {
            return this.poll_stream(cx, buf);
        }
        let part = &front[..front.len().min(buf.remaining())];
        buf.put_slice(part);
        this.handed += part.len();
        if this.handed == this.front.len() {
            (this.front, this.handed) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = match this.is_last() {
            true => this.poll_write_last(cx, &[IoSlice::new(data)]),
            false => Pin::new(&mut this.stream).poll_write(cx, data),
        };
        this.limited(cx, poll)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = match this.is_last() {
            true => this.poll_write_last(cx, data),
            false => Pin::new(&mut this.stream).poll_write_vectored(cx, data),
        };
        this.limited(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        // The answer is complete. hyper has a read parked from before, when nothing was to be waited for, and
        // does not read anew: the clock begins here.
        let again = this.progress.context().keep_alive && this.progress.begun() > 0;
        if again && !this.http2 && !this.progress.is_last() {
            let _ = this.poll_late(cx)?;
        }
        Poll::Ready(Ok(()))
    }

    /// The connection is dropped behind this, and `close` sends the FIN just as well: a half-close is
    /// only made where the client may be sending still, or the connection is somebody else's now.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            if !this.progress.is_upgraded() && !this.may_be_unread() {
                return Poll::Ready(Ok(()));
            }
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if this.progress.is_upgraded() {
                return Poll::Ready(Ok(()));
            }
            this.read_timer.stop();
            this.linger = Some(LINGER_BYTES);
            this.progress.window().blocked.store(true, Relaxed);
        }
        this.poll_linger(cx).map(Ok)
    }
}

/// A close makes a RST of what is unread, and would take along what the kernel holds.
impl Drop for Io {
    fn drop(&mut self) {
        if self.progress.is_held() {
            self.stream.finish();
        }
    }
}
