//! The accepted stream: the shell around the gate's decisions.

mod cap;
pub(crate) mod gate;
pub(crate) mod replayable;
pub(crate) mod socket;

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice, Read};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tfo_core::peek;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::info::AcceptInfo;
use crate::outcome::Disproven;
use crate::settle::Place;
use crate::shared::{Flight, Proof, Shared, State, duplicate, look, poll_look};
use cap::Cap;
use gate::{Judgement, Standing};
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
    /// Held until nothing that came in the SYN is withheld from the reader.
    unsettled: Option<Place>,
}

/// Where the gate stands. Each variant owns what only that state needs.
enum Mode {
    /// Not proven when it was accepted; the unread bytes have not been looked at.
    Unseen { rule: Option<Replayable> },
    /// So many bytes may be read; behind them are some that may not.
    Released { left: usize },
    /// The next unread byte waits for the proof.
    Withheld { answered: bool, deadline: Option<Pin<Box<Sleep>>> },
    /// Taken out of the kernel at once, because most can be released; this rest waits for the proof.
    Held(Held),
    /// What was held, and may be read.
    Rest { bytes: Vec<u8>, read: usize },
    /// There is nothing, or no longer anything, to withhold.
    Open,
    /// Disproven: what was withheld is gone.
    Failed(Disproven),
}

impl AcceptedStream {
    /// A connection that may be read and written freely.
    pub(crate) fn open(shared: Shared) -> Self {
        Self { shared: Arc::new(shared), mode: Mode::Open, cap: None, unsettled: None }
    }

    /// A connection that was not proven when it was accepted: `rule` tells what is replayable, `most` how
    /// much may be written before the proof.
    pub(crate) fn gated(shared: Shared, rule: Option<Replayable>, most: usize) -> Self {
        let unsettled = shared.deadline.map(|deadline| Place::take(shared.state().counts(), deadline));
        Self { shared: Arc::new(shared), mode: Mode::Unseen { rule }, cap: None, unsettled }.with_cap(most)
    }

    /// Limits what may be written before the proof.
    pub(crate) fn with_cap(mut self, most: usize) -> Self {
        self.cap = (most < usize::MAX).then(|| Cap::new(most));
        self
    }

    /// A connection that was reset before it was accepted.
    pub(crate) fn failed(shared: Shared) -> Self {
        Self { shared: Arc::new(shared), mode: Mode::Failed(Disproven::Reset), cap: None, unsettled: None }
    }

    /// A live handle on what is known about this connection.
    pub fn info(&self) -> AcceptInfo {
        AcceptInfo::new(Arc::clone(&self.shared))
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

    fn poll_write_within(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let part = &buf[..buf.len().min(room)];
        let written = ready!(self.with_socket(|socket| socket.poll_write(cx, part)))?;
        if let Some(cap) = &mut self.cap {
            cap.spend(written);
        }
        Poll::Ready(Ok(written))
    }
}

impl AsyncRead for AcceptedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { shared, mode, unsettled, .. } = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut state = shared.state();
        let pending = state.proof == Proof::Pending;
        let result = mode.poll_read(&mut state, shared.deadline, cx, buf);
        let settled = pending && state.proof != Proof::Pending;
        if unsettled.is_some() && mode.withholds_nothing(&state, &result) {
            *unsettled = None;
            state.withheld = false;
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
        let this = self.get_mut();
        let room = ready!(this.poll_room(cx))?;
        this.poll_write_within(cx, room, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let room = ready!(this.poll_room(cx))?;
        if room == usize::MAX {
            return this.with_socket(|socket| socket.poll_write_vectored(cx, bufs));
        }
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        this.poll_write_within(cx, room, first)
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
        let socket = self.shared.close(watched);
        self.shared.state().counts().leave();
        let Some(socket) = socket else { return };
        // Unread data turns the close into a RST. If nothing was released that is right: it frees
        // the listener's place in the queue at once. If something was, the RST could overtake the
        // answer to it.
        if self.mode.has_answered() {
            discard_unread(&socket);
        } else if matches!(self.mode, Mode::Held(_)) {
            // Here the kernel has nothing unread.
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

impl Mode {
    fn poll_read(
        &mut self,
        state: &mut State,
        deadline: Option<Instant>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let Some(socket) = state.socket.as_mut() else {
                return Poll::Ready(Err(self.closed(state).into()));
            };
            match self {
                Self::Open => return Pin::new(socket).poll_read(cx, buf),
                Self::Failed(why) => return Poll::Ready(Err((*why).into())),
                Self::Unseen { rule } if socket.is_inline() && buf.remaining() >= USUAL_FLIGHT => {
                    let rule = rule.take();
                    let before = buf.filled().len();
                    // Most flights are safe as a whole: then a look at them before would have been in vain.
                    if Pin::new(socket).poll_read(cx, buf)?.is_pending() {
                        *self = Self::Open;
                        return Poll::Pending;
                    }
                    *self = Self::after_read(state, buf, before, rule.as_ref());
                    if buf.filled().len() > before || matches!(self, Self::Open) {
                        return Poll::Ready(Ok(()));
                    }
                }
                Self::Held(held) => {
                    let standing = ready!(held.poll_standing(socket, deadline, cx))?;
                    let bytes = std::mem::take(&mut held.bytes);
                    *self = match Self::after_look(standing, state) {
                        Self::Open if !bytes.is_empty() => Self::Rest { bytes, read: 0 },
                        mode => mode,
                    };
                }
                Self::Rest { bytes, read } => {
                    let part = &bytes[*read..];
                    let part = &part[..part.len().min(buf.remaining())];
                    buf.put_slice(part);
                    *read += part.len();
                    if *read == bytes.len() {
                        *self = Self::Open;
                    }
                    return Poll::Ready(Ok(()));
                }
                Self::Unseen { rule } => {
                    let rule = rule.take();
                    *self = Self::first_look(state, rule.as_ref())?;
                }
                Self::Released { left } => {
                    *left -= ready!(poll_read_some(socket, *left, cx, buf))?;
                    if *left == 0 {
                        *self = Self::Withheld { answered: true, deadline: None };
                    }
                    return Poll::Ready(Ok(()));
                }
                Self::Withheld { deadline: sleep, .. } => {
                    let standing = ready!(poll_standing(socket, Interest::READABLE, sleep, deadline, cx))?;
                    *self = Self::after_look(standing, state);
                }
            }
        }
    }

    /// Decides on all that is unread, once.
    fn first_look(state: &mut State, rule: Option<&Replayable>) -> io::Result<Self> {
        let Some(socket) = &state.socket else { return Ok(Self::Failed(Disproven::Closed)) };
        let mut room = [0; USUAL_FLIGHT];
        let peeked = match peek(socket, &mut room) {
            Ok(bytes) => &room[..bytes],
            // No data was in the SYN, and what comes now comes behind the ACK.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Self::Open),
            Err(error) => return Err(error.into()),
        };
        let (judgement, all) = match Judgement::of(peeked, room.len(), rule) {
            Judgement::LookFurther => match look(socket)? {
                Standing::Unproven => look_further(socket, rule)?,
                // The usual reason: it is proven by now, and its data has arrived.
                settled => return Ok(Self::after_look(settled, state)),
            },
            judgement => (judgement, peeked.len()),
        };
        Ok(match judgement {
            Judgement::Open | Judgement::LookFurther => {
                state.set_flight(Flight { released: all, gated: false });
                Self::Open
            }
            Judgement::Hold { released } => {
                state.set_flight(Flight { released, gated: true });
                match released {
                    0 => Self::Withheld { answered: false, deadline: None },
                    left => Self::Released { left },
                }
            }
        })
    }

    /// Decides on what was read, from `before` on, and takes back what must wait.
    fn after_read(
        state: &mut State,
        buf: &mut ReadBuf<'_>,
        before: usize,
        rule: Option<&Replayable>,
    ) -> Self {
        let flight = &buf.filled()[before..];
        // As much as was asked for: there may be more.
        let more = flight.len() >= socket::INLINE_READ.min(flight.len() + buf.remaining());
        match Judgement::of_prefix(flight, more, rule) {
            Judgement::Open | Judgement::LookFurther => {
                state.set_flight(Flight { released: flight.len(), gated: false });
                Self::Open
            }
            Judgement::Hold { released } => {
                let bytes = flight[released..].to_vec();
                buf.set_filled(before + released);
                state.set_flight(Flight { released, gated: true });
                Self::Held(Held { bytes, answered: released > 0, watch: None, deadline: None })
            }
        }
    }

    /// What becomes of a gate with something behind it. Unproven means: at the deadline.
    fn after_look(standing: Standing, state: &mut State) -> Self {
        state.note(standing);
        match standing {
            Standing::Proven => Self::Open,
            Standing::Disproven => Self::Failed(Disproven::Reset),
            Standing::Unproven => {
                // Now, whenever the stream is dropped.
                state.abort(Disproven::Deadline);
                Self::Failed(Disproven::Deadline)
            }
        }
    }

    /// Whether the reader has all that came in the SYN, or the first of what was withheld, or will never
    /// have it. That it could read is not enough: it may be told to stop before it does.
    fn withholds_nothing(&self, state: &State, read: &Poll<io::Result<()>>) -> bool {
        match read {
            Poll::Ready(Ok(())) => matches!(self, Self::Open | Self::Rest { .. }),
            Poll::Ready(Err(_)) => true,
            // There was nothing in the SYN.
            Poll::Pending => matches!(self, Self::Open) && state.flight.is_none(),
        }
    }

    /// Whether something was read by, and perhaps answered to, a peer whose further bytes are
    /// withheld.
    fn has_answered(&self) -> bool {
        matches!(self, Self::Released { .. } | Self::Withheld { answered: true, .. })
            || matches!(self, Self::Held(held) if held.answered)
    }

    /// Why there is no socket.
    fn closed(&self, state: &State) -> Disproven {
        match (self, state.proof) {
            (Self::Failed(why), _) => *why,
            (_, Proof::Disproven(why)) => why,
            _ => Disproven::Closed,
        }
    }
}

impl fmt::Debug for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unseen { .. } => f.write_str("not looked at"),
            Self::Released { left } => write!(f, "{left} bytes released"),
            Self::Withheld { .. } | Self::Held(_) => f.write_str("withheld"),
            Self::Rest { bytes, read } => write!(f, "{} bytes left", bytes.len() - read),
            Self::Open => f.write_str("open"),
            Self::Failed(why) => write!(f, "{why}"),
        }
    }
}

/// What was read, and must not be handed on yet.
struct Held {
    bytes: Vec<u8>,
    /// Something in front of it was released.
    answered: bool,
    /// A second descriptor, registered apart: the ACK is no event for a reader whose data is drained, and
    /// clearing the stream's own write readiness would make its writes wait.
    watch: Option<Socket>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Held {
    fn poll_standing(
        &mut self,
        socket: &Socket,
        deadline: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Standing>> {
        if socket.is_inline() {
            return Poll::Pending;
        }
        if self.watch.is_none() {
            self.watch = duplicate(socket).ok();
        }
        // Without a descriptor left, writes wait.
        let watch = self.watch.as_ref().unwrap_or(socket);
        poll_standing(watch, Interest::WRITABLE, &mut self.deadline, deadline, cx)
    }
}

/// A SYN larger than usual: a path with jumbo frames, or the loopback interface.
fn look_further(socket: &Socket, rule: Option<&Replayable>) -> io::Result<(Judgement, usize)> {
    let mut room = vec![0; LARGEST_FLIGHT];
    let bytes = peek(socket, &mut room)?;
    let judgement = match Judgement::of(&room[..bytes], room.len(), rule) {
        Judgement::LookFurther => Judgement::of_prefix(&room[..bytes], true, rule),
        judgement => judgement,
    };
    Ok((judgement, bytes))
}

/// Reads at most `most` bytes.
fn poll_read_some(
    socket: &Socket,
    most: usize,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_read_ready(cx))?;
        let most = most.min(buf.remaining());
        // Not `poll_read`: it takes a short read for a drained socket, and this one is short on purpose.
        match socket.try_read(buf.initialize_unfilled_to(most)) {
            Ok(bytes) => {
                buf.advance(bytes);
                return Poll::Ready(Ok(bytes));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

/// Ready when the matter is settled, and at the deadline.
fn poll_standing(
    socket: &Socket,
    interest: Interest,
    sleep: &mut Option<Pin<Box<Sleep>>>,
    deadline: Option<Instant>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Standing>> {
    if let Poll::Ready(looked) = poll_look(socket, interest, cx) {
        return Poll::Ready(looked);
    }
    let sleep = sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline.unwrap_or_else(Instant::now))));
    ready!(sleep.as_mut().poll(cx));
    // The last look: whatever happened to events, a proven connection is not failed.
    Poll::Ready(look(socket))
}

/// What a proxy writes in front of everything else; it is taken out of the kernel by itself, so that the
/// gate sees what is behind it.
#[cfg(feature = "proxy")]
impl AcceptedStream {
    /// Waits until the connection is proven, at most until the gate's deadline, which aborts it.
    pub(crate) async fn proven(&self) -> Result<(), Disproven> {
        let proven = self.info().proven().await;
        if let Err(why) = proven {
            self.shared.state().abort(why);
        }
        proven
    }

    /// Takes the first bytes into `front` until `parse` has found a header in them, and nothing that is
    /// behind it.
    ///
    /// Not all at once at the end: of a connection that the peer has closed tokio says for ever that
    /// it is readable, and only a read that finds nothing more tells that this is why.
    pub(crate) fn poll_front<T>(
        &mut self,
        cx: &mut Context<'_>,
        front: &mut Vec<u8>,
        mut parse: impl FnMut(&[u8]) -> io::Result<Option<(T, usize)>>,
    ) -> Poll<io::Result<T>> {
        let state = self.shared.state();
        let Some(socket) = &state.socket else { return Poll::Ready(Err(Disproven::Closed.into())) };
        loop {
            ready!(socket.poll_read_ready(cx))?;
            let mut room = [0; USUAL_FLIGHT];
            let length = match socket.try_io(Interest::READABLE, || Ok(peek(socket, &mut room)?)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Poll::Ready(Err(error)),
            };
            let before = front.len();
            front.extend_from_slice(&room[..length]);
            let found = parse(front)?;
            let taken = found.as_ref().map_or(length, |(_, end)| end.saturating_sub(before));
            (&*SockRef::from(socket)).read_exact(&mut room[..taken])?;
            match found {
                Some((found, _)) => return Poll::Ready(Ok(found)),
                None if front.len() >= USUAL_FLIGHT => {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                None => {}
            }
        }
    }

    /// Notes what it said, once.
    pub(crate) fn set_proxied(&self, proxied: crate::shared::Proxied) {
        let _ = self.shared.proxied.set(proxied);
    }

    /// Aborts a connection whose header is bad.
    pub(crate) fn refuse_proxy(self) {
        let mut state = self.shared.state();
        state.counts().on_proxy_refused();
        state.abort(Disproven::Closed);
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
