//! The stream: it keeps its first flight back until it can go with the SYN.

mod alarm;
mod attempts;
mod calls;
mod cork;
mod delivery;
pub(crate) mod evidence;
mod probe;
pub(crate) mod syn;
mod table;
mod trip;
mod wakers;

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tfo_core::TcpInfo;
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;

use crate::config::Config;
use crate::error::Failure;
use crate::info::ConnInfo;
use crate::metrics::Tally;
use crate::path;
use alarm::Alarm;
pub(crate) use attempts::FirstAttempt;
use attempts::{Attempts, Delivered, Won};
use cork::Cork;
#[doc(hidden)]
pub use cork::corked_flushes;
use syn::Unsent;
use table::{Event, Phase};
pub(crate) use trip::Trip;
use wakers::{Side, Wakers};

/// The most bytes that a first flight holds: then it is sent without a flush.
const FIRST_FLIGHT_CAP: usize = 16 * 1024;

/// How long a read waits for the first write. Then the handshake is made without it: the server may be to
/// speak first, or the connection is made ahead of its request.
const FIRST_WRITE_PATIENCE: Duration = Duration::from_secs(1);

/// A connection of a [`TfoConnector`](crate::TfoConnector).
///
/// If its connect was deferred, nothing has been sent yet: the bytes written up to the first flush
/// (or a read after a write) are the *first flight*, which goes out in the SYN if a server may safely
/// see it twice, and behind a handshake without data if not. From there on it is a TCP stream. Where nothing
/// is written, a reader waits for a second, then the handshake is made without data.
///
/// Errors of the handshake come from reads, writes and flushes, as an `io::Error` that holds a
/// [`ConnectError`](crate::ConnectError). Reads and writes are cancel safe, as tokio's are: what was not taken is not
/// lost. Reader and writer may be two tasks.
pub struct TfoStream {
    state: State,
    config: Arc<Config>,
    info: ConnInfo,
    wakers: Wakers,
    /// For the first write, for a request behind it, for an answer to the SYN.
    alarm: Alarm,
    /// When the SYN left, where the time of the answer tells whether it saved anything.
    doubted_since: Option<Instant>,
    /// A ride's answer is long overdue, although the peer's kernel is there.
    unheard: bool,
    /// `hyper_util` has asked what it is: whoever reads also writes, when there is a request, and
    /// flushes what it has written.
    for_hyper: AtomicBool,
    tally: Tally,
}

/// Each state owns what exists in it, and nothing else. The ways between them: [`table::next`]. Boxed but for
/// the socket, because a stream is moved many times before hyper has it where it stays.
enum State {
    /// Nothing was written, nothing was sent.
    Idle(Box<Early>),
    /// A first flight is being written.
    Corked(Box<Early>),
    /// The SYN is out, perhaps several. Nobody is the connection yet.
    Delivering(Box<Attempts>),
    /// The handshake is over; what is left of the first flight comes before all else.
    Draining(Box<Draining>),
    /// A TCP stream like any other.
    Open(TcpStream),
    /// Shut down before anything was sent, or failed.
    Closed(Option<Failure>),
}

/// What there is before the SYN.
struct Early {
    unsent: Unsent,
    others: Vec<SocketAddr>,
    trip: Trip,
    patience: Patience,
    flight: Vec<u8>,
    cork: Cork,
}

/// How long a reader has waited for somebody to write.
#[derive(Clone, Copy)]
enum Patience {
    /// Nobody waits.
    Unasked,
    /// The first look at it is when an answer would be due: most are sent by then, and the alarm is put off
    /// for the answer.
    Until { look: Instant, end: Instant },
}

/// `flight[sent..]` is to be sent.
struct Draining {
    stream: TcpStream,
    flight: Vec<u8>,
    sent: usize,
}

impl TfoStream {
    /// Nothing was sent yet.
    pub(crate) fn unsent(unsent: Unsent, trip: Trip, config: Arc<Config>, info: ConnInfo) -> Self {
        let early = Early {
            unsent,
            others: Vec::new(),
            trip,
            patience: Patience::Unasked,
            flight: Vec::new(),
            cork: Cork::default(),
        };
        Self::new(State::Idle(Box::new(early)), config, info)
    }

    /// With further addresses of the server, should this one not answer.
    pub(crate) fn with_others(mut self, addresses: &[SocketAddr]) -> Self {
        if let State::Idle(early) = &mut self.state {
            early.others.extend_from_slice(addresses);
        }
        self
    }

    pub(crate) fn open(stream: TcpStream, config: Arc<Config>, info: ConnInfo) -> Self {
        let mut stream = Self::new(State::Open(stream), config, info);
        stream.settle();
        stream
    }

    fn new(state: State, config: Arc<Config>, info: ConnInfo) -> Self {
        let (alarm, wakers, tally) = (Alarm::default(), Wakers::default(), Tally::default());
        let (doubted_since, unheard, for_hyper) = (None, false, AtomicBool::new(false));
        Self { state, config, info, wakers, alarm, doubted_since, unheard, for_hyper, tally }
    }

    /// What this connection did and what it saved.
    pub fn conn_info(&self) -> &ConnInfo {
        if let State::Open(stream) = &self.state
            && self.info.local_addr().is_none()
        {
            self.info.set_local_addr(stream.local_addr().ok());
        }
        &self.info
    }

    /// The server's address, also while the socket itself does not know it.
    pub fn remote_addr(&self) -> SocketAddr {
        self.info.remote_addr()
    }

    /// Moves the stream as far as it can be moved: to Open or Closed.
    fn poll_open(&mut self, cx: &mut Context<'_>, side: Side) -> Poll<io::Result<()>> {
        loop {
            let moved = match &self.state {
                State::Open(_) | State::Closed(None) => {
                    self.wakers.done(side);
                    return Poll::Ready(Ok(()));
                }
                State::Closed(Some(failure)) => {
                    self.wakers.done(side);
                    return Poll::Ready(Err(failure.error(self.info.remote_addr())));
                }
                State::Corked(_) => {
                    self.release();
                    continue;
                }
                State::Idle(_) => self.poll_first_write(cx, side),
                State::Delivering(_) => self.poll_delivery(cx, side),
                State::Draining(_) => self.poll_drain(cx, side),
            };
            ready!(moved);
        }
    }

    /// Ready when nothing was written in time, and the handshake has begun without it.
    fn poll_first_write(&mut self, cx: &Context<'_>, side: Side) -> Poll<()> {
        self.wakers.wait(side, cx.waker());
        // A connection that a pool keeps for later may wait for its request; no server speaks first there.
        if *self.for_hyper.get_mut() {
            return Poll::Pending;
        }
        let State::Idle(early) = &mut self.state else { return Poll::Ready(()) };
        let (look, end) = match early.patience {
            Patience::Until { look, end } => (look, end),
            Patience::Unasked => {
                let now = Instant::now();
                let end = now + FIRST_WRITE_PATIENCE;
                (end.min(now + early.trip.due()), end)
            }
        };
        early.patience = Patience::Until { look, end };
        let waker = self.wakers.all();
        let cx = &mut Context::from_waker(&waker);
        if !self.alarm.poll_at(look, cx) {
            return Poll::Pending;
        }
        early.patience = Patience::Until { look: end, end };
        if !self.alarm.poll_at(end, cx) {
            return Poll::Pending;
        }
        self.release();
        Poll::Ready(())
    }

    /// Ready when the first flight may go out, as far as the one who asks can tell.
    fn poll_cork(&mut self, cx: &Context<'_>, side: Side) -> Poll<()> {
        let State::Corked(early) = &mut self.state else { return Poll::Ready(()) };
        if early.cork.holds(&early.flight, &self.config.syn_data) {
            let until = *early.cork.until.get_or_insert_with(|| Instant::now() + cork::PATIENCE);
            self.wakers.wait(side, cx.waker());
            let waker = self.wakers.all();
            if !self.alarm.poll_at(until, &mut Context::from_waker(&waker)) {
                return Poll::Pending;
            }
        }
        if side == Side::Read && !early.cork.armed {
            // Who reads waits for an answer, so the request is complete; but the rest of it may be
            // written in the same poll. Some never flush.
            early.cork.armed = true;
            self.wakers.wait(side, cx.waker());
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Ready when there is a connection, or none will be.
    fn poll_delivery(&mut self, cx: &Context<'_>, side: Side) -> Poll<()> {
        self.wakers.wait(side, cx.waker());
        let waker = self.wakers.all();
        let State::Delivering(attempts) = &mut self.state else { return Poll::Ready(()) };
        let delivered =
            ready!(attempts.poll(&mut Context::from_waker(&waker), &self.config, &mut self.alarm));
        self.delivered(delivered, side);
        Poll::Ready(())
    }

    /// Who writes on had not written all of its request: the rest is not to wait for an answer. With
    /// HTTP/2 one comes in any case, the server's settings.
    fn go_on(&mut self) {
        if let State::Delivering(attempts) = &mut self.state
            && !cork::is_http2(&attempts.flight)
            && let Some(delivered) = attempts.go_on(&self.config)
        {
            self.delivered(delivered, Side::Write);
        }
    }

    fn delivered(&mut self, delivered: Delivered, side: Side) {
        let State::Delivering(attempts) = &self.state else { return };
        let syn = attempts.syn;
        self.alarm.end();
        match delivered {
            Delivered::Lost(error) => {
                self.info.update(|facts| facts.fail(&error));
                self.settle();
                self.fail(Phase::Delivering, Failure::of(&error), side);
            }
            Delivered::Broken(error, handshake) => {
                evidence::note(&handshake, &self.info, syn);
                self.settle();
                self.fail(Phase::Delivering, Failure::of_stream(&error), side);
            }
            Delivered::Won(won) => {
                evidence::note_winner(&won, &self.info, syn);
                if self.doubted_since.is_none() {
                    self.settle();
                }
                let Won { stream, sent, flight, unheard, .. } = won;
                self.unheard = unheard;
                if sent < flight.len() {
                    let draining = Box::new(Draining { stream, flight, sent });
                    self.go(Phase::Delivering, Event::WonWithRest, State::Draining(draining));
                } else {
                    self.go(Phase::Delivering, Event::Won, State::Open(stream));
                }
                self.wakers.wake_other(side);
            }
        }
    }

    /// Ready when the first flight is in the kernel, or will never be.
    fn poll_drain(&mut self, cx: &Context<'_>, side: Side) -> Poll<()> {
        self.wakers.wait(side, cx.waker());
        let waker = self.wakers.all();
        let State::Draining(draining) = &mut self.state else { return Poll::Ready(()) };
        let Draining { stream, flight, sent } = &mut **draining;
        while *sent < flight.len() {
            let written =
                Pin::new(&mut *stream).poll_write(&mut Context::from_waker(&waker), &flight[*sent..]);
            match ready!(written) {
                Ok(count) => *sent += count,
                // The handshake was over, so it is no connect error; the server may have begun.
                Err(error) => {
                    self.fail(Phase::Draining, Failure::of_stream(&error), side);
                    return Poll::Ready(());
                }
            }
        }
        let State::Draining(drained) = self.take() else { return Poll::Ready(()) };
        self.go(Phase::Draining, Event::Drained, State::Open(drained.stream));
        self.wakers.wake_other(side);
        Poll::Ready(())
    }

    fn fail(&mut self, from: Phase, failure: Failure, side: Side) {
        self.go(from, Event::Fail, State::Closed(Some(failure)));
        self.wakers.wake_other(side);
    }

    /// What became of the SYN is known.
    fn settle(&mut self) {
        self.tally.settle(&self.config.metrics, &self.info);
    }

    /// The state, to be taken apart: [`TfoStream::go`] follows.
    fn take(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Closed(None))
    }

    fn go(&mut self, from: Phase, event: Event, to: State) {
        debug_assert_eq!(table::next(from, event), Some(to.phase()), "{from:?} {event:?}");
        self.state = to;
    }

    /// Whether every byte that was written is in the kernel.
    fn is_flushed(&self) -> bool {
        match &self.state {
            State::Idle(_) | State::Open(_) | State::Closed(_) => true,
            State::Delivering(attempts) => attempts.is_flushed(),
            State::Corked(_) | State::Draining(_) => false,
        }
    }

    /// Takes bytes into the first flight, up to its cap; 0 if it is full.
    fn append(&mut self, slices: &[IoSlice<'_>]) -> usize {
        if let State::Idle(_) = self.state {
            let State::Idle(early) = self.take() else { return 0 };
            self.go(Phase::Idle, Event::Write, State::Corked(early));
        }
        let State::Corked(early) = &mut self.state else { return 0 };
        let Early { flight, cork, .. } = &mut **early;
        cork.armed = false;
        let before = flight.len();
        for slice in slices {
            let room = FIRST_FLIGHT_CAP - flight.len();
            flight.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        flight.len() - before
    }
}

/// A path that lets acks through and swallows data looks like a slow server. Who gives up without one byte
/// has seen something: the next ride is guarded.
impl Drop for TfoStream {
    fn drop(&mut self) {
        self.tally.end(&self.config.metrics, &self.info);
        if self.unheard
            && let State::Open(stream) = &self.state
            && TcpInfo::read(stream).is_ok_and(|tcp_info| tcp_info.bytes_received() == Some(0))
        {
            Trip::ask(&self.config, &self.info.remote_addr()).tell(path::Event::Abandoned, Instant::now());
        }
    }
}

impl State {
    fn phase(&self) -> Phase {
        match self {
            Self::Idle(_) => Phase::Idle,
            Self::Corked(_) => Phase::Corked,
            Self::Delivering(_) => Phase::Delivering,
            Self::Draining(_) => Phase::Draining,
            Self::Open(_) => Phase::Open,
            Self::Closed(_) => Phase::Closed,
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delivering(attempts) => attempts.stage().fmt(f),
            other => other.phase().fmt(f),
        }
    }
}

impl fmt::Debug for TfoStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TfoStream")
            .field("state", &self.state)
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}
