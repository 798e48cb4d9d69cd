//! The stream: it keeps its first flight back until it can go with the SYN.

mod attempts;
mod cork;
mod delivery;
pub(crate) mod evidence;
mod parking;
mod probe;
mod table;
mod trip;
mod wakers;

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::Extensions;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpInfo};
use socket2::Socket;
use tfo_core::first_flight::Stop;
use tfo_core::{TcpInfo, TcpState};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use crate::config::{Config, begin_plain, register};
use crate::error::{ConnectError, ConnectErrorKind, Failure};
use crate::info::{ConnInfo, Reason};
use crate::metrics::Tally;
use crate::path::{self, Advice};
use crate::policy::Clearance;
pub(crate) use attempts::FirstAttempt;
use attempts::{Attempts, Delivered, Won};
use cork::Cork;
#[doc(hidden)]
pub use cork::corked_flushes;
use delivery::{Cargo, Delivery, Plan};
use evidence::Syn;
pub(crate) use parking::{Lot, Parkable};
use table::{Event, Phase};
pub(crate) use trip::Trip;
use wakers::{Side, Wakers};

/// The most bytes that a first flight holds: then it is sent without a flush.
const FIRST_FLIGHT_CAP: usize = 16 * 1024;

/// How long a read may wait for the first write where no connect timeout was set.
const FIRST_WRITE_PATIENCE: Duration = Duration::from_secs(30);

/// A connection of a [`TfoConnector`](crate::TfoConnector).
///
/// If its connect was deferred, nothing has been sent yet: the bytes written up to the first flush
/// (or a read after a write) are the *first flight*, which goes out in the SYN if a server may safely
/// see it twice, and behind a handshake without data if not. From there on it is a TCP stream.
///
/// Errors of the handshake come from reads, writes and flushes, as an `io::Error` that holds a
/// [`ConnectError`]. Reads and writes are cancel safe, as tokio's are: what was not taken is not
/// lost. Reader and writer may be two tasks.
pub struct TfoStream {
    state: State,
    config: Arc<Config>,
    info: ConnInfo,
    wakers: Wakers,
    /// The deadline of the state: for the first write, or for a request behind it.
    timer: Option<Pin<Box<Sleep>>>,
    /// When the SYN left, where the time of the answer tells whether it saved anything.
    doubted_since: Option<Instant>,
    /// A ride's answer is long overdue, although the peer's kernel is there.
    unheard: bool,
    tally: Tally,
}

/// Each state owns what exists in it, and nothing else. The ways between them: [`table::next`].
enum State {
    /// The connect was deferred; nothing was written, nothing was sent.
    Idle { socket: Socket, others: Vec<SocketAddr>, trip: Trip },
    /// A first flight is being written.
    Corked { socket: Socket, others: Vec<SocketAddr>, trip: Trip, flight: Vec<u8>, cork: Cork },
    /// The SYN is out, perhaps several. Nobody is the connection yet.
    Delivering(Box<Attempts>),
    /// The handshake is over; `flight[sent..]` comes before all else.
    Draining { stream: TcpStream, flight: Vec<u8>, sent: usize },
    /// A TCP stream like any other.
    Open(TcpStream),
    /// Shut down before anything was sent, or failed.
    Closed(Option<Failure>),
}

impl TfoStream {
    /// Nothing was sent yet.
    pub(crate) fn deferred(socket: Socket, trip: Trip, config: Arc<Config>, info: ConnInfo) -> Self {
        Self::new(State::Idle { socket, others: Vec::new(), trip }, config, info)
    }

    /// With further addresses of the server, should this one not answer.
    pub(crate) fn with_others(mut self, addresses: &[SocketAddr]) -> Self {
        if let State::Idle { others, .. } = &mut self.state {
            others.extend_from_slice(addresses);
        }
        self
    }

    pub(crate) fn open(stream: TcpStream, config: Arc<Config>, info: ConnInfo) -> Self {
        let mut stream = Self::new(State::Open(stream), config, info);
        stream.tally.settle();
        stream
    }

    fn new(state: State, config: Arc<Config>, info: ConnInfo) -> Self {
        let tally = Tally::new(config.metrics.clone(), info.clone());
        let (timer, doubted_since) = (None, None);
        Self { state, config, info, wakers: Wakers::default(), timer, doubted_since, unheard: false, tally }
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
                State::Corked { .. } => {
                    self.release(side);
                    continue;
                }
                State::Idle { .. } => self.poll_first_write(cx, side),
                State::Delivering(_) => self.poll_delivery(cx, side),
                State::Draining { .. } => self.poll_drain(cx, side),
            };
            ready!(moved);
        }
    }

    /// Ready when nothing was written in time.
    fn poll_first_write(&mut self, cx: &Context<'_>, side: Side) -> Poll<()> {
        self.wakers.wait(side, cx.waker());
        let patience = self.config.connect_timeout.unwrap_or(FIRST_WRITE_PATIENCE);
        ready!(self.poll_timer(patience));
        self.fail(Phase::Idle, ConnectError::bare(ConnectErrorKind::NothingWritten), side);
        Poll::Ready(())
    }

    /// Ready when the first flight may go out, as far as the one who asks can tell.
    fn poll_cork(&mut self, cx: &Context<'_>, side: Side) -> Poll<()> {
        let State::Corked { flight, cork, .. } = &mut self.state else { return Poll::Ready(()) };
        if cork.holds(flight, &self.config.syn_data) {
            self.wakers.wait(side, cx.waker());
            ready!(self.poll_timer(cork::PATIENCE));
        }
        let State::Corked { cork, .. } = &mut self.state else { return Poll::Ready(()) };
        if side == Side::Read && !cork.armed {
            // Who reads waits for an answer, so the request is complete; but the rest of it may be
            // written in the same poll. Some never flush.
            cork.armed = true;
            self.wakers.wait(side, cx.waker());
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Sends the SYN, with as much of the first flight as may ride.
    fn release(&mut self, side: Side) {
        self.timer = None;
        let State::Corked { socket, others, mut trip, flight, .. } = self.take() else { return };
        let socket = if trip.is_stale() { self.renewed(socket) } else { Ok(socket) };
        let advice = trip.ask_again();
        let clearance = self.config.syn_data.judge(&flight);
        match socket.and_then(|socket| self.send_syn(socket, &flight, &clearance, advice)) {
            Ok((stream, sent, syn)) => {
                trip.sent();
                self.info.update(|facts| {
                    facts.first_flight_bytes = Some(flight.len());
                    facts.syn_data_bytes = sent;
                });
                let address = self.info.remote_addr();
                let plan = self.plan(syn, &clearance, others.len(), &trip);
                // With HTTP/2 the server's settings come first, whatever it does with the request.
                let may_clear = syn == Syn::WithData { void: Some(Reason::Held) } && !cork::is_http2(&flight);
                self.doubted_since = may_clear.then(Instant::now);
                let delivery = Delivery::begin(plan, Instant::now());
                let lot = self.config.lot.clone();
                let syn = (stream, sent, syn);
                let attempts =
                    Attempts::new(syn, address, flight, delivery, others, trip, lot).up_to(clearance.early);
                self.go(Phase::Corked, Event::Release, State::Delivering(Box::new(attempts)));
            }
            Err(error) => self.fail(Phase::Corked, error, side),
        }
    }

    fn plan(&self, syn: Syn, clearance: &Clearance, others: usize, trip: &Trip) -> Plan {
        let guard = self.config.hedge.guard(trip.rtt());
        let doubtful = trip.is_doubtful() && matches!(syn, Syn::WithData { .. });
        Plan {
            first: match syn {
                Syn::WithData { .. } => Cargo::Data,
                Syn::AskedForCookie(_) | Syn::DataLess(_) => Cargo::Option,
                Syn::Plain(_) => Cargo::Nothing,
            },
            repeatable: clearance.repeatable,
            capable: trip.is_proven(),
            due: trip.due(),
            hedge: self.config.hedge_delay(trip.due(), doubtful),
            guard,
            // What is kept back until there is a connection waits for a handshake, not for an answer.
            probe: guard.filter(|_| clearance.stop.is_none()).map(|guard| delivery::Probe {
                after: guard.max(probe::INTERVAL),
                within: trip.due(),
                interval: probe::INTERVAL,
                // To lose a request is worse than to send it twice.
                times: if clearance.repeatable { 2 } else { 5 },
            }),
            next_address: self.config.happy_eyeballs_timeout,
            patience: self.config.connect_timeout,
            others,
        }
    }

    /// A socket in place of one whose connect was deferred long ago: route and local address were
    /// chosen then.
    fn renewed(&self, socket: Socket) -> Result<Socket, ConnectError> {
        let address = self.info.remote_addr();
        let fresh = self.config.open(&address)?;
        // Where the option is refused by now, so is what the old one would send.
        if self.config.want_fastopen(&address, &fresh).is_err() {
            return Ok(socket);
        }
        let begun = tfo_core::connect(&fresh, &address).map_err(tfo_core::Error::into_io_error);
        begun.map_err(|error| ConnectError::new(ConnectErrorKind::Connect, error).at(address))?;
        Ok(fresh)
    }

    /// Sends the SYN as the path memory advises: how many bytes went with it, and what it was.
    fn send_syn(
        &self,
        socket: Socket,
        flight: &[u8],
        clearance: &Clearance,
        advice: Advice,
    ) -> Result<(TcpStream, usize, Syn), ConnectError> {
        let plain = |reason| {
            let stream = begin_plain(&self.config, &self.info.remote_addr())?;
            Ok((stream, 0, Syn::Plain(reason)))
        };
        let why_not = match advice {
            Advice::Ride if clearance.early > 0 => None,
            Advice::Ride => Some(clearance.stop.unwrap_or(Reason::NotReplaySafe(Stop::UnknownProtocol))),
            Advice::AskCookie => Some(Reason::Resting),
            Advice::Avoid => return plain(Reason::Avoided),
        };
        let sent = match why_not {
            None => tfo_core::send(&socket, &[IoSlice::new(&flight[..clearance.early])]),
            Some(_) => tfo_core::send_empty_syn(&socket).map(|()| 0),
        };
        let (sent, syn) = match (sent, why_not) {
            (Ok(sent), None) => {
                let too_large = (sent < clearance.early).then_some(Reason::TooLarge);
                let held = (!clearance.safe).then_some(Reason::Held);
                (sent, Syn::WithData { void: too_large.or(clearance.stop).or(held) })
            }
            (Ok(sent), Some(reason)) => (sent, Syn::DataLess(reason)),
            // The kernel has begun an ordinary handshake instead, and taken nothing.
            (Err(error), _) if error.kind() == io::ErrorKind::WouldBlock => {
                (0, Syn::AskedForCookie(Reason::CookieVanished))
            }
            // Switched off since the connect was deferred: the socket is good for nothing now.
            (Err(error), _) if error.is_unsupported() => return plain(Reason::Unsupported),
            (Err(error), _) => {
                return Err(ConnectError::new(ConnectErrorKind::Connect, error.into_io_error()));
            }
        };
        Ok((register(socket)?, sent, syn))
    }

    /// Ready when there is a connection, or none will be.
    fn poll_delivery(&mut self, cx: &Context<'_>, side: Side) -> Poll<()> {
        self.wakers.wait(side, cx.waker());
        let waker = self.wakers.all();
        let State::Delivering(attempts) = &mut self.state else { return Poll::Ready(()) };
        let delivered = ready!(attempts.poll(&mut Context::from_waker(&waker), &self.config));
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
        match delivered {
            Delivered::Lost(error) => self.fail(Phase::Delivering, error, side),
            Delivered::Broken(error, tcp_info) => {
                evidence::note(tcp_info.as_deref(), &self.info, syn);
                self.tally.settle();
                let broken = Failure::of_stream(&error);
                self.go(Phase::Delivering, Event::Fail, State::Closed(Some(broken)));
                self.wakers.wake_other(side);
            }
            Delivered::Won(won) => {
                evidence::note_winner(&won, &self.info, syn);
                if self.doubted_since.is_none() {
                    self.tally.settle();
                }
                let Won { stream, sent, flight, unheard, .. } = *won;
                self.unheard = unheard;
                if sent < flight.len() {
                    let draining = State::Draining { stream, flight, sent };
                    self.go(Phase::Delivering, Event::WonWithRest, draining);
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
        let State::Draining { stream, flight, sent } = &mut self.state else { return Poll::Ready(()) };
        while *sent < flight.len() {
            let written =
                Pin::new(&mut *stream).poll_write(&mut Context::from_waker(&waker), &flight[*sent..]);
            match ready!(written) {
                Ok(count) => *sent += count,
                Err(error) => {
                    let error = ConnectError::new(ConnectErrorKind::Connect, error);
                    self.fail(Phase::Draining, error, side);
                    return Poll::Ready(());
                }
            }
        }
        let State::Draining { stream, .. } = self.take() else { return Poll::Ready(()) };
        self.go(Phase::Draining, Event::Drained, State::Open(stream));
        self.wakers.wake_other(side);
        Poll::Ready(())
    }

    /// Waits for the timer of the state; begins it if it does not run.
    fn poll_timer(&mut self, patience: Duration) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(patience)));
        timer.as_mut().poll(&mut Context::from_waker(&self.wakers.all()))
    }

    fn fail(&mut self, from: Phase, error: ConnectError, side: Side) {
        self.timer = None;
        // What failed after the handshake says nothing about the SYN.
        if from != Phase::Draining {
            self.info.update(|facts| facts.fail(&error));
            self.tally.settle();
        }
        self.go(from, Event::Fail, State::Closed(Some(Failure::of(&error))));
        self.wakers.wake_other(side);
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
            State::Idle { .. } | State::Open(_) | State::Closed(_) => true,
            State::Delivering(attempts) => attempts.is_flushed(),
            State::Corked { .. } | State::Draining { .. } => false,
        }
    }

    /// Takes bytes into the first flight, up to its cap; 0 if it is full.
    fn append(&mut self, slices: &[IoSlice<'_>]) -> usize {
        if let State::Idle { .. } = self.state {
            let State::Idle { socket, others, trip } = self.take() else { return 0 };
            self.timer = None;
            let corked = State::Corked { socket, others, trip, flight: Vec::new(), cork: Cork::default() };
            self.go(Phase::Idle, Event::Write, corked);
        }
        let State::Corked { flight, cork, .. } = &mut self.state else { return 0 };
        cork.armed = false;
        let before = flight.len();
        for slice in slices {
            let room = FIRST_FLIGHT_CAP - flight.len();
            flight.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        flight.len() - before
    }
}

/// Ready when the handshake is over: with what the kernel says of it, or why it failed.
pub(crate) fn poll_established(
    stream: &TcpStream,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Option<TcpInfo>>> {
    loop {
        let ready = ready!(stream.poll_write_ready(cx));
        let tcp_info = TcpInfo::read(stream).ok();
        match (ready, tcp_info.as_ref().and_then(TcpInfo::state)) {
            // Writable, but not connected: wait for the next event.
            (Ok(()), Some(TcpState::SynSent)) => {
                let again = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                let _ = stream.try_io(Interest::WRITABLE, again);
            }
            (Ok(()), state) if state != Some(TcpState::Close) => return Poll::Ready(Ok(tcp_info)),
            (ready, _) => {
                return Poll::Ready(Err(match stream.take_error() {
                    Ok(Some(error)) | Err(error) => error,
                    Ok(None) => ready.err().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
                }));
            }
        }
    }
}

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
            this.tally.settle();
        }
        Poll::Ready(Ok(()))
    }
}

/// A path that lets acks through and swallows data looks like a slow server. Who gives up without one byte
/// has seen something: the next ride is guarded.
impl Drop for TfoStream {
    fn drop(&mut self) {
        if self.unheard
            && let State::Open(stream) = &self.state
            && TcpInfo::read(stream).is_ok_and(|tcp_info| tcp_info.bytes_received() == Some(0))
        {
            Trip::ask(&self.config, &self.info.remote_addr()).tell(path::Event::Abandoned);
        }
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
        if matches!(this.state, State::Idle { .. } | State::Corked { .. }) {
            let wanted = slices.iter().any(|slice| !slice.is_empty());
            let taken = if wanted { this.append(slices) } else { 0 };
            if taken > 0 {
                // A reader has waited for nothing so far. Now it waits for an answer, which releases
                // the flight where nobody flushes.
                this.wakers.wake_other(Side::Write);
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
            State::Idle { .. } => return Poll::Ready(Ok(())),
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
        if let State::Idle { .. } = this.state {
            this.timer = None;
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

/// hyper takes it along: [`ConnInfo`], and `HttpInfo` where the handshake was an ordinary one (it
/// needs addresses that a deferred connection does not have yet).
impl Connection for TfoStream {
    fn connected(&self) -> Connected {
        let State::Open(stream) = &self.state else { return Connected::new().extra(self.info.clone()) };
        let connected = stream.connected();
        let mut extras = Extensions::new();
        connected.get_extras(&mut extras);
        // It has just asked the kernel.
        self.info.set_local_addr(extras.get().map(HttpInfo::local_addr));
        connected.extra(self.info.clone())
    }
}

impl State {
    fn phase(&self) -> Phase {
        match self {
            Self::Idle { .. } => Phase::Idle,
            Self::Corked { .. } => Phase::Corked,
            Self::Delivering(_) => Phase::Delivering,
            Self::Draining { .. } => Phase::Draining,
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
