//! The sockets of a [`Delivery`]: its decisions, carried out.

use std::future::Future;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use socket2::SockRef;
use tfo_core::{TcpInfo, TcpState, peek};
use tokio::io::{AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep_until};

use super::delivery::{Action, Delivery, Event, Id, Stage};
use super::evidence::{self, Syn};
use super::parking::Lot;
use super::probe::Probe;
use super::trip::Trip;
use crate::config::{Config, begin_plain};
use crate::error::{ConnectError, ConnectErrorKind};
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
    /// How an attempt that was established has ended.
    broken: Option<(io::Error, Option<TcpInfo>)>,
    timer: Option<Pin<Box<Sleep>>>,
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
}

#[derive(Clone, Copy)]
enum Progress {
    Connecting,
    /// Established, not asked to carry the flight.
    Idle(Option<TcpInfo>),
    /// It sends the flight, and waits for an answer.
    Carrying(Option<TcpInfo>),
}

/// What became of a delivery.
pub(super) enum Delivered {
    /// A connection.
    Won(Box<Won>),
    /// None.
    Lost(ConnectError),
    /// There was one, and it broke before an answer came.
    Broken(io::Error, Option<Box<TcpInfo>>),
}

/// The connection, and how it came about.
pub(super) struct Won {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
    pub(super) sent: usize,
    pub(super) flight: Vec<u8>,
    pub(super) tcp_info: Option<TcpInfo>,
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
    pub(super) fn new(
        (stream, sent, syn): (TcpStream, usize, Syn),
        address: SocketAddr,
        flight: Vec<u8>,
        delivery: Delivery,
        others: Vec<SocketAddr>,
        trip: Trip,
        lot: Lot,
    ) -> Self {
        let first = Attempt { address, stream: Some(stream), sent, progress: Progress::Connecting };
        let others = others.into_iter();
        let (more, first_error, broken, timer) = (Vec::new(), None, None, None);
        let (early, shut_down) = (flight.len(), false);
        Self {
            delivery,
            flight,
            early,
            syn,
            first,
            more,
            others,
            first_error,
            broken,
            timer,
            probe: None,
            shut_down,
            trip,
            lot,
        }
    }

    /// With a flight of which only so many leading bytes may go out on more than one attempt.
    pub(super) fn up_to(mut self, early: usize) -> Self {
        self.early = early.min(self.flight.len());
        self
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
        match self.delivery.on(Event::Continued, Instant::now()) {
            Action::Win(id) => Some(self.won(id, config)),
            _ => None,
        }
    }

    /// Ready when one attempt is the connection, or none will be.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, config: &Config) -> Poll<Delivered> {
        loop {
            let event = self.poll_event(cx);
            if self.shut_down {
                self.shut_down();
            }
            let Some(event) = event else { return Poll::Pending };
            self.learn(event);
            let mut action = self.delivery.on(event, Instant::now());
            loop {
                let next = match action {
                    Action::Wait => break,
                    Action::Silent => {
                        self.tell(path::Event::Silent);
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
                    Action::Win(id) => return Poll::Ready(self.won(id, config)),
                    Action::GiveUp { maybe_executed } => {
                        // Whether a plain SYN would have been taken is not tried; but every one that must not
                        // be repeated would fail here.
                        if maybe_executed {
                            self.tell(path::Event::Refused);
                        }
                        return Poll::Ready(self.lost(maybe_executed));
                    }
                    Action::TimeOut => match self.late_handshake() {
                        Some(late) => Some(late),
                        None => {
                            if self.probe.is_some() {
                                self.tell(path::Event::SilentAfterHandshake);
                            }
                            let error = ConnectError::bare(ConnectErrorKind::TimedOut).at(self.first.address);
                            let maybe_executed = self.delivery.must_not_repeat();
                            let error = if maybe_executed { error.maybe_executed_too() } else { error };
                            return Poll::Ready(Delivered::Lost(error));
                        }
                    },
                };
                action = match next {
                    Some(event) => self.delivery.on(event, Instant::now()),
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
    fn learn(&mut self, event: Event) {
        let with_data = self.delivery.carries_data();
        if let Event::Established { id, .. } = event {
            let first = self.first.address;
            let here = self.attempt(id).filter(|attempt| attempt.address == first);
            let tcp_info = here.and_then(|attempt| attempt.tcp_info());
            if let Some(rtt) = evidence::clear_rtt(tcp_info.as_ref(), id == 0 && with_data) {
                self.trip.measured(rtt);
            }
        }
        let tcp_info = self.first.tcp_info();
        match event {
            Event::Established { id: 0, .. } if evidence::was_repeated(tcp_info.as_ref(), with_data) => {
                self.tell(path::Event::Silent);
            }
            Event::Established { id: 0, taken: false } if with_data => self.tell(path::Event::NotAcked),
            Event::Established { id: 0, .. } if !with_data => self.tell(path::Event::Answered),
            Event::Established { id: 0, .. } if self.trip.is_proven() => self.tell(path::Event::Acked),
            Event::Established { id: 0, .. } | Event::Failed { id: 0 } => self.trip.answered(),
            // On a path that is not proven, a ride counts when its answer is there.
            Event::Answered { id: 0 } if with_data && !self.trip.is_proven() => self.tell(path::Event::Acked),
            _ => {}
        }
    }

    fn tell(&mut self, event: path::Event) {
        if !matches!(self.syn, Syn::Plain(_)) {
            self.trip.tell(event);
        }
    }

    /// The next event: sockets first, so that a late timer does not outvote them.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Option<Event> {
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
                    if let Progress::Carrying(tcp_info) = attempt.progress {
                        self.broken = Some((error, tcp_info));
                    } else {
                        let error = ConnectError::new(ConnectErrorKind::Connect, error).at(attempt.address);
                        self.first_error.get_or_insert(error);
                    }
                    return Some(Event::Failed { id });
                }
            }
        }
        let at = self.delivery.wake_at()?.into();
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(cx).is_ready().then_some(Event::Timer)
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
        self.more.push(Attempt { address, stream, sent: 0, progress: Progress::Connecting });
        event
    }

    fn carry(&mut self, id: Id) {
        if let Some(attempt) = self.attempt(id)
            && let Progress::Idle(tcp_info) = attempt.progress
        {
            attempt.progress = Progress::Carrying(tcp_info);
        }
    }

    /// A handshake that is complete although its event has not come yet: nobody may have polled.
    fn late_handshake(&mut self) -> Option<Event> {
        for id in 0..=self.more.len() {
            let Some(attempt) = self.attempt(id) else { continue };
            let (Some(stream), Progress::Connecting) = (&attempt.stream, attempt.progress) else { continue };
            let Ok(tcp_info) = TcpInfo::read(stream) else { continue };
            if tcp_info.state().is_some_and(TcpState::is_proven) {
                return Some(attempt.established(id, Some(tcp_info)));
            }
        }
        None
    }

    fn won(&mut self, id: Id, config: &Config) -> Delivered {
        let instead_of = (id != 0).then_some(match (&self.first.stream, self.first.progress) {
            (None, _) => FirstAttempt::Refused,
            // Not one that was only late, or answered when its SYN had been repeated without data.
            (_, Progress::Carrying(Some(tcp_info)))
                if tcp_info.syn_data() == Some(true) && self.delivery.is_guard_over(Instant::now()) =>
            {
                FirstAttempt::Stalled
            }
            _ => FirstAttempt::Silent,
        });
        let first = self.first.address;
        let rtt = self
            .attempt(id)
            .filter(|winner| winner.address == first)
            .map(|winner| winner.tcp_info().as_ref().and_then(TcpInfo::rtt).unwrap_or_default());
        let here = rtt.is_some();
        let unanswered = self.trip.unanswered_for();
        match instead_of {
            // The other's packets have come and gone meanwhile.
            Some(FirstAttempt::Silent) if rtt.is_some_and(|rtt| unanswered > Some(2 * rtt)) => {
                self.tell(path::Event::Silent);
            }
            Some(FirstAttempt::Stalled) if here => self.tell(path::Event::SilentAfterHandshake),
            Some(FirstAttempt::Refused) if here => self.tell(path::Event::Refused),
            _ => {}
        }
        let hedged = self.delivery.hedged();
        let unheard = self.probe.is_some() && id == 0;
        if let (Some(probe), Some(stream)) = (self.probe.take(), &self.first.stream) {
            probe.end(stream);
        }
        let flight = std::mem::take(&mut self.flight);
        let winner = self.attempt(id).and_then(|attempt| {
            let tcp_info = attempt.tcp_info();
            Some((attempt.stream.take()?, attempt.address, attempt.sent, tcp_info))
        });
        if let Some((_, address, ..)) = &winner {
            for loser in self.more.iter().filter(|loser| loser.address != *address) {
                Trip::was_passed_over(config, &loser.address);
            }
        }
        self.park();
        match winner {
            Some((stream, address, sent, tcp_info)) => {
                let won = Won { stream, address, sent, flight, tcp_info, hedged, unheard, instead_of };
                Delivered::Won(Box::new(won))
            }
            None => self.lost(false),
        }
    }

    fn lost(&mut self, maybe_executed: bool) -> Delivered {
        if let Some((error, tcp_info)) = self.broken.take() {
            return Delivered::Broken(error, tcp_info.map(Box::new));
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
            self.tell(path::Event::Abandoned);
        }
        self.park();
    }
}

impl Attempt {
    /// What the kernel said when the handshake was over.
    fn tcp_info(&self) -> Option<TcpInfo> {
        match self.progress {
            Progress::Connecting => None,
            Progress::Idle(tcp_info) | Progress::Carrying(tcp_info) => tcp_info,
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
        let polled = match self.progress {
            Progress::Connecting => super::poll_established(stream, cx).map_ok(Some),
            Progress::Idle(_) => return Ok(None),
            Progress::Carrying(_) => poll_answer(stream, flight, &mut self.sent, looks, cx).map_ok(|()| None),
        };
        match polled {
            Poll::Pending => Ok(None),
            Poll::Ready(Ok(Some(tcp_info))) => Ok(Some(self.established(id, tcp_info))),
            Poll::Ready(Ok(None)) => Ok(Some(Event::Answered { id })),
            Poll::Ready(Err(error)) => {
                self.stream = None;
                Err(error)
            }
        }
    }

    fn established(&mut self, id: Id, tcp_info: Option<TcpInfo>) -> Event {
        let taken = tcp_info.as_ref().and_then(TcpInfo::syn_data) == Some(true);
        // The first attempt's SYN carried the flight, if any did.
        self.progress = if self.sent > 0 { Progress::Carrying(tcp_info) } else { Progress::Idle(tcp_info) };
        Event::Established { id, taken }
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
