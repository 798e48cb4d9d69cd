//! What an accepted stream and the handles on it have in common.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::io::Interest;
use tokio::time::Instant;

use crate::outcome::{AcceptOutcome, Disproven};
use crate::settle::Place;
use crate::stats::Counts;
use crate::stream::gate::Standing;
use crate::stream::look::{duplicate, look, poll_look};
use crate::stream::socket::Socket;

/// One connection. The socket is in here, behind a lock that is free but for the moment of a call,
/// so that a handle can ask the kernel, and closing the stream closes the connection whoever still
/// holds a handle.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) remote: SocketAddr,
    /// What a trusted proxy has said about the connection.
    pub(crate) proxied: OnceLock<Proxied>,
    /// The listener's address: the connection's too, unless it is a wildcard.
    pub(crate) listener: SocketAddr,
    pub(crate) outcome: AcceptOutcome,
    /// Until when the connection must be proven; `None` if it was born proven.
    pub(crate) deadline: Option<Instant>,
    state: Mutex<State>,
    waiters: Mutex<Waiters>,
}

#[derive(Debug)]
pub(crate) struct State {
    /// `None` when the stream is closed.
    pub(crate) socket: Option<Socket>,
    pub(crate) proof: Proof,
    /// What the gate made of the SYN's data.
    pub(crate) flight: Option<Flight>,
    /// Until the reader has all that came in the SYN, or the first of what was withheld of it.
    unsettled: Option<Place>,
    pub(crate) rtt: Option<Duration>,
    /// A second descriptor, registered apart, for those who wait for the proof: an ACK is no event
    /// for a reader whose data is drained, and clearing the stream's write readiness instead would
    /// make its writes wait for the ACK.
    watch: Option<Socket>,
    pub(crate) accepted: Instant,
    counts: Arc<Counts>,
}

/// The addresses of a connection to a proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proxied {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

/// Unread bytes of an unproven connection, and how many of them were released.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight {
    pub(crate) released: usize,
    pub(crate) gated: bool,
}

/// Latched: a proof is never taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    Pending,
    Proven,
    Disproven(Disproven),
}

impl Proof {
    pub(crate) fn result(self) -> Option<Result<(), Disproven>> {
        match self {
            Self::Pending => None,
            Self::Proven => Some(Ok(())),
            Self::Disproven(why) => Some(Err(why)),
        }
    }
}

impl State {
    pub(crate) fn new(
        socket: Socket,
        accepted: Instant,
        proof: Proof,
        rtt: Option<Duration>,
        counts: Arc<Counts>,
    ) -> Self {
        if let Proof::Disproven(why) = proof {
            counts.on_disproven(why);
        }
        Self {
            socket: Some(socket),
            proof,
            flight: None,
            unsettled: None,
            rtt,
            watch: None,
            accepted,
            counts,
        }
    }

    #[cfg(feature = "proxy")]
    pub(crate) fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Takes note of what the gate made of the SYN's data.
    pub(crate) fn set_flight(&mut self, flight: Flight) {
        self.flight = Some(flight);
        if flight.gated {
            self.counts.on_gated();
        }
    }

    /// From now on it is one of those that [`StatsHandle::settled`](crate::StatsHandle::settled) waits for.
    pub(crate) fn unsettle(&mut self) {
        self.unsettled = Some(self.counts.unsettled.enter());
    }

    pub(crate) fn is_unsettled(&self) -> bool {
        self.unsettled.is_some()
    }

    /// The reader has what it was to have, or will never have it.
    pub(crate) fn settle_reader(&mut self) {
        if let Some(place) = self.unsettled.take() {
            self.counts.unsettled.leave(place);
        }
    }

    /// Whether something was withheld from the reader, who does not have it yet.
    #[cfg(feature = "server")]
    pub(crate) fn is_withheld(&self) -> bool {
        self.is_unsettled() && self.flight.is_some_and(|flight| flight.gated)
    }

    /// Takes note of a look, and tells whether it settled the matter.
    pub(crate) fn note(&mut self, standing: Standing) -> bool {
        let proof = match standing {
            Standing::Proven => Proof::Proven,
            Standing::Disproven => Proof::Disproven(Disproven::Reset),
            Standing::Unproven => return false,
        };
        self.settle(proof)
    }

    pub(crate) fn settle(&mut self, proof: Proof) -> bool {
        let first = self.proof == Proof::Pending;
        if first {
            self.proof = proof;
            self.watch = None;
            self.count(proof);
        }
        first
    }

    /// Aborts the connection with a RST, whatever is unread. A FIN would keep the kernel's place for
    /// an unproven connection for a minute or two, a RST frees it.
    pub(crate) fn abort(&mut self, why: Disproven) {
        if let Some(socket) = self.socket.take() {
            let _ = socket.set_zero_linger();
        }
        self.settle(Proof::Disproven(why));
    }

    fn count(&self, proof: Proof) {
        let gated = self.flight.is_some_and(|flight| flight.gated);
        if gated {
            self.counts.on_ungated();
        }
        match proof {
            Proof::Pending => {}
            Proof::Proven => self.counts.on_proven(self.accepted.elapsed()),
            // Nobody has asked, and it may well have been proven.
            Proof::Disproven(Disproven::Closed) if !gated => {}
            Proof::Disproven(why) => self.counts.on_disproven(why),
        }
    }
}

impl Shared {
    pub(crate) fn new(
        (remote, listener): (SocketAddr, SocketAddr),
        outcome: AcceptOutcome,
        deadline: Option<Instant>,
        state: State,
    ) -> Self {
        let (state, waiters) = (Mutex::new(state), Mutex::default());
        Self { remote, proxied: OnceLock::new(), listener, outcome, deadline, state, waiters }
    }

    /// The address of the client: as a trusted proxy has said, or the peer's.
    pub(crate) fn client(&self) -> SocketAddr {
        self.proxied.get().map_or(self.remote, |proxied| proxied.source)
    }

    /// Aborts the connection for all who hold a part of it.
    #[cfg(any(feature = "hyper", feature = "tower"))]
    pub(crate) fn abort(&self, why: Disproven) {
        self.state().abort(why);
        self.wake_waiters();
    }

    /// Makes a RST of the close: what the client has not taken goes with it, and does not stay in the kernel
    /// for minutes.
    #[cfg(feature = "server")]
    pub(crate) fn reset_on_close(&self) {
        if let Some(socket) = &self.state().socket {
            let _ = socket.set_zero_linger();
        }
    }

    /// Registers a socket that was polled [inline](Socket::Inline) until now; whoever has polled it polls
    /// it again.
    #[cfg(feature = "server")]
    pub(crate) fn register(&self) {
        let mut state = self.state();
        // Without a registration there is no socket: reads and writes fail.
        state.socket = state.socket.take().and_then(|socket| socket.registered().ok());
    }

    /// Whatever panicked while it held the lock has left a state that is valid.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes all who wait for the proof. Not to be called with the state locked.
    pub(crate) fn wake_waiters(&self) {
        let wakers = std::mem::take(&mut self.waiters().list);
        wakers.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// For the stream, when it is dropped: takes the socket from all handles and returns it, still open.
    ///
    /// Whether it was proven, or reset, until now is found out first: with `last_look`, for handles that are
    /// still there, and where something was withheld, for the counters.
    pub(crate) fn close(&self, last_look: bool) -> Option<Socket> {
        let mut state = self.state();
        let socket = state.socket.take();
        let withheld = state.flight.is_some_and(|flight| flight.gated);
        if (last_look || withheld)
            && state.proof == Proof::Pending
            && let Some(Ok(standing)) = socket.as_ref().map(look)
        {
            state.note(standing);
        }
        state.settle(Proof::Disproven(Disproven::Closed));
        state.settle_reader();
        state.counts.leave();
        drop(state);
        if last_look {
            self.wake_waiters();
        }
        socket
    }

    /// Whether it is proven: as latched, or as the kernel says now.
    pub(crate) fn look_now(&self) -> Proof {
        let mut state = self.state();
        let mut settled = false;
        if state.proof == Proof::Pending
            && let Some(Ok(standing)) = state.socket.as_ref().map(look)
        {
            settled = state.note(standing);
        }
        let proof = state.proof;
        drop(state);
        if settled {
            self.wake_waiters();
        }
        proof
    }

    /// A place among those who wait; leaving it gives it up.
    pub(crate) fn wait(self: &Arc<Self>) -> Waiting<'_> {
        let mut waiters = self.waiters();
        waiters.last += 1;
        Waiting { shared: self, id: waiters.last }
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An event at the second descriptor: everyone looks again.
impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_waiters();
    }
}

#[derive(Debug, Default)]
struct Waiters {
    last: u64,
    list: Vec<(u64, Waker)>,
}

/// One who waits for the proof.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    shared: &'a Arc<Shared>,
    id: u64,
}

impl Waiting<'_> {
    /// Ready when the matter is settled. May miss the moment if there is no descriptor left for a
    /// second registration, or the send buffer is full: look again now and then.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<Result<(), Disproven>> {
        let mut state = self.shared.state();
        if let Some(result) = state.proof.result() {
            return Poll::Ready(result);
        }
        self.enter(cx.waker());
        let State { socket, watch, .. } = &mut *state;
        if watch.is_none() {
            *watch = socket.as_ref().and_then(|socket| duplicate(socket).ok());
        }
        let waker = Waker::from(Arc::clone(self.shared));
        let mut cx = Context::from_waker(&waker);
        let settled = watch.as_ref().is_some_and(|watch| {
            [Interest::READABLE, Interest::WRITABLE]
                .into_iter()
                .any(|interest| matches!(poll_look(watch, interest, &mut cx), Poll::Ready(Ok(_))))
        });
        drop(state);
        if !settled {
            return Poll::Pending;
        }
        self.shared.look_now().result().map_or(Poll::Pending, Poll::Ready)
    }

    fn enter(&self, waker: &Waker) {
        let mut waiters = self.shared.waiters();
        match waiters.list.iter_mut().find(|(id, _)| *id == self.id) {
            Some((_, known)) => known.clone_from(waker),
            None => waiters.list.push((self.id, waker.clone())),
        }
    }
}

/// The last one to leave takes the second descriptor away.
impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiters = self.shared.waiters();
        waiters.list.retain(|(id, _)| *id != self.id);
        let last = waiters.list.is_empty();
        drop(waiters);
        if last {
            self.shared.state().watch = None;
        }
    }
}
