//! The sockets of a [`Delivery`]: its decisions, carried out.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tfo_core::{TcpInfo, TcpState, peek};
use tokio::io::{AsyncWrite, Interest};
use tokio::net::TcpStream;

use super::alarm::Alarm;
use super::delivery::{Action, Delivery, Event, Id, Stage};
use super::evidence::{Handshake, Syn};
use super::probe::Probe;
use super::syn::{Sent, poll_established};
use super::trip::Trip;
use crate::config::{Config, begin_plain};
use crate::error::{ConnectError, ConnectErrorKind};
use crate::parking::Lot;
use crate::path;

/// A first flight under way, and all sockets that may become its connection.
pub(super) struct Attempts {
    delivery: Delivery,
    pub(super) flight: Vec<u8>,
    /// How many leading bytes may go out before one attempt is the connection.
    early: usize,
    pub(super) syn: Syn,
    first: Attempt,
    more: Vec<Attempt>,
    others: std::vec::IntoIter<SocketAddr>,
    first_error: Option<ConnectError>,
    /// There never was a socket for the first attempt; to be told.
    stillborn: bool,
    /// How an attempt that was established has ended.
    broken: Option<(io::Error, Handshake)>,
    /// What the first attempt's peer was asked.
    probe: Option<Probe>,
    /// Whether nothing comes behind the flight.
    shut_down: bool,
    trip: Trip,
    lot: Lot,
}

/// One socket.
struct Attempt {
    address: SocketAddr,
    /// `None` when it is over.
    stream: Option<TcpStream>,
    /// How much of the flight it has.
    sent: usize,
    progress: Progress,
    /// It was established, and has ended before anybody looked; to be told.
    ended: Option<io::Error>,
}

#[derive(Clone, Copy)]
enum Progress {
    Connecting,
    /// Established, not asked to carry the flight.
    Idle(Handshake),
    /// It sends the flight, and waits for an answer.
    Carrying(Handshake),
}

/// What became of a delivery.
pub(super) enum Delivered {
    /// A connection.
    Won(Won),
    /// None.
    Lost(ConnectError),
    /// There was one, and it broke before an answer came.
    Broken(io::Error, Handshake),
}

/// The connection, and how it came about.
pub(super) struct Won {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
    pub(super) sent: usize,
    pub(super) flight: Vec<u8>,
    pub(super) handshake: Handshake,
    pub(super) hedged: bool,
    /// No byte has come, but the peer's kernel has been asked, and is there.
    pub(super) unheard: bool,
    /// `None`: it is the first attempt. Else what the first attempt came to.
    pub(super) instead_of: Option<FirstAttempt>,
}

/// What an attempt that another has replaced had come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstAttempt {
    /// Its SYN was not answered.
    Silent,
    /// Its SYN was refused.
    Refused,
    /// Its handshake was completed, and nothing followed.
    Stalled,
}

impl Attempts {
    /// Of the flight only the first `early` bytes may go out on more than one attempt.
    pub(super) fn new(
        sent: Sent,
        address: SocketAddr,
        (flight, early): (Vec<u8>, usize),
        delivery: Delivery,
        others: Vec<SocketAddr>,
        trip: Trip,
        lot: Lot,
    ) -> Self {
        let (stream, first_error) = match sent.stream {
            Ok(stream) => (Some(stream), None),
            Err(error) => (None, Some(error.at(address))),
        };
        Self {
            delivery,
            early: early.min(flight.len()),
            flight,
            syn: sent.syn,
            stillborn: stream.is_none(),
            first: Attempt { address, stream, sent: sent.bytes, progress: Progress::Connecting, ended: None },
            more: Vec::new(),
            others: others.into_iter(),
            first_error,
            broken: None,
            probe: None,
            shut_down: false,
            trip,
            lot,
        }
    }

    /// Where the delivery stands.
    pub(super) fn stage(&self) -> Stage {
        self.delivery.stage()
    }

    /// Whether every byte of the flight is in the kernel.
    pub(super) fn is_flushed(&self) -> bool {
        self.first.sent == self.flight.len()
    }

    /// Ends the sending side of every attempt behind the flight, now and later: a server may wait for
    /// that, or nobody for its answer any more. True if one has the whole flight, and so the end.
    pub(super) fn shut_down(&mut self) -> bool {
        self.shut_down = true;
        let mut done = false;
        for attempt in std::iter::once(&self.first).chain(&self.more) {
            // Before it is established, this would end it, and lose the flight.
            let carries = matches!(attempt.progress, Progress::Carrying(_));
            if let Some(stream) =
                attempt.stream.as_ref().filter(|_| carries && attempt.sent == self.flight.len())
            {
                // Twice does no harm, and of a failure the reads tell.
                let _ = SockRef::from(stream).shutdown(Shutdown::Write);
                done = true;
            }
        }
        done
    }

    /// The application has more to send: who has the flight is the connection, although no answer has
    /// come, and nothing is sent twice any more.
    pub(super) fn go_on(&mut self, config: &Config) -> Option<Delivered> {
        let now = Instant::now();
        match self.delivery.on(Event::Continued, now) {
            Action::Win(id) => Some(self.won(id, config, now)),
            _ => None,
        }
    }

    /// Ready when one attempt is the connection, or none will be.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        config: &Config,
        alarm: &mut Alarm,
    ) -> Poll<Delivered> {
        loop {
            let event = self.poll_event(cx, alarm);
            if self.shut_down {
                self.shut_down();
            }
            let Some(event) = event else { return Poll::Pending };
            let now = Instant::now();
            self.learn(event, now);
            let mut action = self.delivery.on(event, now);
            loop {
                let next = match action {
                    Action::Wait => break,
                    Action::Silent => {
                        self.tell(path::Event::Silent, now);
                        None
                    }
                    Action::Hedge => self.begin(self.first.address, config),
                    Action::NextAddress => match self.others.next() {
                        Some(address) => self.begin(address, config),
                        None => break,
                    },
                    Action::Send(id) => {
                        self.carry(id);
                        None
                    }
                    Action::Probe => {
                        self.probe = self.first.stream.as_ref().and_then(|stream| Probe::begin(stream).ok());
                        None
                    }
                    Action::SeeProbe => Some(self.see_probe()),
                    Action::Win(id) => return Poll::Ready(self.won(id, config, now)),
                    Action::GiveUp { maybe_executed } => {
                        // Whether a plain SYN would have been taken is not tried; but every one that must not
                        // be repeated would fail here.
                        if maybe_executed {
                            self.tell(path::Event::Refused, now);
                        }
                        return Poll::Ready(self.lost(maybe_executed));
                    }
                    Action::TimeOut => match self.late_handshake() {
                        Some(late) => Some(late),
                        None => {
                            if self.probe.is_some() {
                                self.tell(path::Event::SilentAfterHandshake, now);
                            }
                            let error = ConnectError::bare(ConnectErrorKind::TimedOut).at(self.first.address);
                            let maybe_executed = self.delivery.must_not_repeat();
                            let error = if maybe_executed { error.maybe_executed_too() } else { error };
                            return Poll::Ready(Delivered::Lost(error));
                        }
                    },
                };
                action = match next {
                    Some(event) => self.delivery.on(event, now),
                    None => break,
                };
            }
        }
    }

    fn see_probe(&mut self) -> Event {
        match (&self.probe, &self.first.stream) {
            (Some(probe), Some(stream)) if !probe.is_answered(stream) => Event::ProbeUnanswered,
            _ => Event::ProbeAnswered,
        }
    }

    /// What an event says of the first address' path.
    fn learn(&mut self, event: Event, now: Instant) {
        let with_data = self.delivery.carries_data();
        let rtt = self.clear_rtt(event, with_data);
        let handshake = self.first.handshake();
        let heard = match event {
            Event::Established { id: 0, .. } if handshake.was_repeated(with_data) => path::Event::Silent,
            Event::Established { id: 0, taken: false } if with_data => path::Event::NotAcked,
            Event::Established { id: 0, .. } if !with_data => path::Event::Answered,
            Event::Established { id: 0, .. } if self.trip.is_proven() => path::Event::Acked,
            // On a path that is not proven, a ride counts when its answer is there.
            Event::Answered { id: 0 } if with_data && !self.trip.is_proven() => path::Event::Acked,
            event => {
                if matches!(event, Event::Established { id: 0, .. } | Event::Failed { id: 0 }) {
                    self.trip.answered();
                }
                if let Some(rtt) = rtt {
                    self.trip.measured(rtt, now);
                }
                return;
            }
        };
        match (self.syn, rtt) {
            (Syn::Plain(_), Some(rtt)) => self.trip.measured(rtt, now),
            (Syn::Plain(_), None) => {}
            _ => self.trip.tell_with(heard, rtt, now),
        }
    }

    /// The round-trip time that a handshake to the first address has measured.
    fn clear_rtt(&mut self, event: Event, with_data: bool) -> Option<Duration> {
        let Event::Established { id, .. } = event else { return None };
        let first = self.first.address;
        let attempt = self.attempt(id).filter(|attempt| attempt.address == first)?;
        attempt.handshake().clear_rtt(id == 0 && with_data)
    }

    fn tell(&mut self, event: path::Event, now: Instant) {
        if !matches!(self.syn, Syn::Plain(_)) {
            self.trip.tell(event, now);
        }
    }

    /// The next event: sockets first, so that a late timer does not outvote them.
    fn poll_event(&mut self, cx: &mut Context<'_>, alarm: &mut Alarm) -> Option<Event> {
        if std::mem::take(&mut self.stillborn) {
            return Some(Event::Failed { id: 0 });
        }
        for id in 0..=self.more.len() {
            let flight = &self.flight[..self.early];
            // Who would only be asked is believed without another system call.
            let looks = !self.delivery.is_watched();
            let attempt = match id {
                0 => &mut self.first,
                _ => self.more.get_mut(id - 1)?,
            };
            match attempt.poll(id, flight, looks, cx) {
                Ok(Some(event)) => return Some(event),
                Ok(None) => {}
                Err(error) => {
                    if let Progress::Carrying(handshake) = attempt.progress {
                        self.broken = Some((error, handshake));
                    } else {
                        let error = ConnectError::new(ConnectErrorKind::Connect, error).at(attempt.address);
                        self.first_error.get_or_insert(error);
                    }
                    return Some(Event::Failed { id });
                }
            }
        }
        alarm.poll_at(self.delivery.wake_at()?, cx).then_some(Event::Timer)
    }

    /// Begins a plain attempt; what it failed of at once.
    fn begin(&mut self, address: SocketAddr, config: &Config) -> Option<Event> {
        let (stream, event) = match begin_plain(config, &address) {
            Ok(stream) => (Some(stream), None),
            Err(error) => {
                self.first_error.get_or_insert(error);
                (None, Some(Event::Failed { id: self.more.len() + 1 }))
            }
        };
        self.more.push(Attempt { address, stream, sent: 0, progress: Progress::Connecting, ended: None });
        event
    }

    fn carry(&mut self, id: Id) {
        if let Some(attempt) = self.attempt(id)
            && let Progress::Idle(handshake) = attempt.progress
        {
            attempt.progress = Progress::Carrying(handshake);
        }
    }

    /// A handshake that is complete although its event has not come yet: nobody may have polled.
    fn late_handshake(&mut self) -> Option<Event> {
        for id in 0..=self.more.len() {
            let Some(attempt) = self.attempt(id) else { continue };
            let (Some(stream), Progress::Connecting) = (&attempt.stream, attempt.progress) else { continue };
            let Ok(tcp_info) = TcpInfo::read(stream) else { continue };
            if tcp_info.state().is_some_and(TcpState::is_proven) {
                return Some(attempt.established(id, Handshake::from(&tcp_info)));
            }
        }
        None
    }

    fn won(&mut self, id: Id, config: &Config, now: Instant) -> Delivered {
        let instead_of = (id != 0).then_some(match (&self.first.stream, self.first.progress) {
            (None, _) => FirstAttempt::Refused,
            // Not one that was only late, or answered when its SYN had been repeated without data.
            (_, Progress::Carrying(handshake))
                if handshake.is_taken() && self.delivery.is_guard_over(now) =>
            {
                FirstAttempt::Stalled
            }
            _ => FirstAttempt::Silent,
        });
        if let Some(first) = instead_of {
            self.tell_of_loser(id, first, now);
        }
        let hedged = self.delivery.hedged();
        let unheard = self.probe.is_some() && id == 0;
        if let (Some(probe), Some(stream)) = (self.probe.take(), &self.first.stream) {
            probe.end(stream);
        }
        let flight = std::mem::take(&mut self.flight);
        let winner = self.attempt(id).and_then(|attempt| {
            let handshake = attempt.handshake();
            Some((attempt.stream.take()?, attempt.address, attempt.sent, handshake))
        });
        if let Some((_, address, ..)) = &winner {
            for loser in self.more.iter().filter(|loser| loser.address != *address) {
                Trip::was_passed_over(config, &loser.address);
            }
        }
        self.park();
        match winner {
            Some((stream, address, sent, handshake)) => {
                Delivered::Won(Won { stream, address, sent, flight, handshake, hedged, unheard, instead_of })
            }
            None => self.lost(false),
        }
    }

    /// What it says of the first address' path that another attempt has won.
    fn tell_of_loser(&mut self, winner: Id, first: FirstAttempt, now: Instant) {
        let address = self.first.address;
        let Some(winner) = self.attempt(winner).filter(|winner| winner.address == address) else { return };
        let rtt = winner.handshake().rtt().unwrap_or_default();
        match first {
            // The other's packets have come and gone meanwhile; not all of them need be as fast as its first.
            FirstAttempt::Silent if self.trip.unanswered_for(now) > Some(rtt * 3 / 2) => {
                self.tell(path::Event::Silent, now);
            }
            FirstAttempt::Silent => {}
            FirstAttempt::Stalled => self.tell(path::Event::SilentAfterHandshake, now),
            FirstAttempt::Refused => self.tell(path::Event::Refused, now),
        }
    }

    fn lost(&mut self, maybe_executed: bool) -> Delivered {
        if let Some((error, handshake)) = self.broken.take() {
            return Delivered::Broken(error, handshake);
        }
        let none =
            || ConnectError::new(ConnectErrorKind::Connect, io::Error::from(io::ErrorKind::NotConnected));
        let error = self.first_error.take().unwrap_or_else(none);
        Delivered::Lost(if maybe_executed { error.maybe_executed_too() } else { error })
    }

    /// Sockets that nobody needs any more, but whose SYN may still be answered.
    fn park(&mut self) {
        for attempt in std::iter::once(&mut self.first).chain(&mut self.more) {
            if let Some(stream) = attempt.stream.take() {
                self.lot.park(stream);
            }
        }
    }

    fn attempt(&mut self, id: Id) -> Option<&mut Attempt> {
        match id {
            0 => Some(&mut self.first),
            _ => self.more.get_mut(id - 1),
        }
    }
}

/// Who gives up a ride whose answer is overdue on a path that has carried some has seen something: the
/// next one is guarded.
impl Drop for Attempts {
    fn drop(&mut self) {
        if self.delivery.is_watched()
            && self.delivery.is_guard_over(Instant::now())
            && let Some(stream) = &self.first.stream
            && TcpInfo::read(stream).is_ok_and(|tcp_info| tcp_info.bytes_received() == Some(0))
        {
            self.tell(path::Event::Abandoned, Instant::now());
        }
        self.park();
    }
}

impl Attempt {
    /// What the kernel said when the handshake was over.
    fn handshake(&self) -> Handshake {
        match self.progress {
            Progress::Connecting => Handshake::default(),
            Progress::Idle(handshake) | Progress::Carrying(handshake) => handshake,
        }
    }

    /// What has happened to this attempt.
    fn poll(
        &mut self,
        id: Id,
        flight: &[u8],
        looks: bool,
        cx: &mut Context<'_>,
    ) -> io::Result<Option<Event>> {
        let Some(stream) = &mut self.stream else { return Ok(None) };
        if let Some(error) = self.ended.take() {
            self.stream = None;
            return Err(error);
        }
        let polled = match self.progress {
            Progress::Connecting => poll_established(stream, cx).map_ok(Some),
            Progress::Idle(_) => return Ok(None),
            Progress::Carrying(_) => poll_answer(stream, flight, &mut self.sent, looks, cx).map_ok(|()| None),
        };
        match polled {
            Poll::Pending => Ok(None),
            Poll::Ready(Ok(Some(handshake))) => Ok(Some(self.established(id, handshake))),
            Poll::Ready(Ok(None)) => Ok(Some(Event::Answered { id })),
            // A SYN is refused with ECONNREFUSED. What is reset had been established, and had the flight.
            Poll::Ready(Err(error))
                if error.kind() == io::ErrorKind::ConnectionReset
                    && self.sent > 0
                    && matches!(self.progress, Progress::Connecting) =>
            {
                let tcp_info = TcpInfo::read(stream);
                self.ended = Some(error);
                let handshake = tcp_info.as_ref().map(Handshake::from).unwrap_or_default();
                Ok(Some(self.established(id, handshake)))
            }
            Poll::Ready(Err(error)) => {
                self.stream = None;
                Err(error)
            }
        }
    }

    fn established(&mut self, id: Id, handshake: Handshake) -> Event {
        // The first attempt's SYN carried the flight, if any did.
        self.progress = if self.sent > 0 { Progress::Carrying(handshake) } else { Progress::Idle(handshake) };
        Event::Established { id, taken: handshake.is_taken() }
    }
}

/// Sends what is left of the flight; ready when a byte of the answer, or its end, can be read: as the
/// kernel `looks`, or as the reactor has it.
fn poll_answer(
    stream: &mut TcpStream,
    flight: &[u8],
    sent: &mut usize,
    looks: bool,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while *sent < flight.len() {
        match Pin::new(&mut *stream).poll_write(cx, &flight[*sent..]) {
            Poll::Ready(written) => *sent += written?,
            Poll::Pending => break,
        }
    }
    loop {
        std::task::ready!(stream.poll_read_ready(cx))?;
        if !looks {
            return Poll::Ready(Ok(()));
        }
        match peek(stream, &mut [0]) {
            Ok(_) => return Poll::Ready(Ok(())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let again = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                let _ = stream.try_io(Interest::READABLE, again);
            }
            Err(error) => return Poll::Ready(Err(error.into_io_error())),
        }
    }
}
