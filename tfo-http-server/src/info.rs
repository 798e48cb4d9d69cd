use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tfo_core::TcpInfo;
use tokio::time::{Instant, timeout_at};

use crate::outcome::{AcceptOutcome, Disproven};
use crate::shared::{Proof, Shared};

/// How long [`AcceptInfo::proven`] waits at most for an event before it looks by itself.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What is known about one accepted connection: a live handle, cheap to clone, that does not keep
/// the connection open.
///
/// From [`AcceptedStream::info`](crate::AcceptedStream::info), or in an axum handler as
/// `ConnectInfo<AcceptInfo>`.
#[derive(Clone)]
pub struct AcceptInfo(Arc<Shared>);

impl AcceptInfo {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// The client's address: the peer's, or what a trusted proxy has said in its PROXY header. The
    /// peer's is not proven to be its own before [`is_proven`](Self::is_proven); a proxy is believed
    /// only when its connection is.
    pub fn remote_addr(&self) -> SocketAddr {
        self.0.client()
    }

    /// The address of the trusted proxy that the connection came through, if it came through one and
    /// its PROXY header named a client.
    pub fn proxy_addr(&self) -> Option<SocketAddr> {
        self.0.proxied.get().map(|_| self.0.remote)
    }

    /// The address that the client has connected to, as a trusted proxy has said.
    pub fn proxied_destination(&self) -> Option<SocketAddr> {
        self.0.proxied.get().map(|proxied| proxied.destination)
    }

    /// The address that the peer has connected to. A system call if the listener's address is a
    /// wildcard.
    ///
    /// # Errors
    ///
    /// The listener's address is a wildcard, and the connection is closed (`NotConnected`).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        if !self.0.listener.ip().is_unspecified() {
            return Ok(self.0.listener);
        }
        self.0.state().socket.as_ref().ok_or(io::ErrorKind::NotConnected)?.local_addr()
    }

    /// What became of TCP Fast Open on this connection, as it was when it was accepted.
    pub fn outcome(&self) -> AcceptOutcome {
        self.0.outcome
    }

    /// Whether data came in the SYN: the client has saved a round trip, and what it sent may be a
    /// replay until the connection [is proven](Self::is_proven).
    pub fn arrived_in_syn(&self) -> bool {
        self.0.outcome.is_syn_data()
    }

    /// How many bytes came in the SYN; `None` if none did, or they cannot be told from later ones.
    pub fn syn_data_bytes(&self) -> Option<u32> {
        match self.0.outcome {
            AcceptOutcome::SynData { bytes } => bytes,
            _ => None,
        }
    }

    /// Whether some of the SYN's data was withheld until the proof. Known once the stream has been
    /// read from; `false` before.
    pub fn was_gated(&self) -> bool {
        self.0.state().flight.is_some_and(|flight| flight.gated)
    }

    /// How many bytes of the SYN's data were released before the proof, because they are
    /// replay-safe; `None` if the gate had nothing to decide, or the stream has not been read from.
    pub fn released_bytes(&self) -> Option<usize> {
        self.0.state().flight.map(|flight| flight.released)
    }

    /// Whether the connection is proven: its handshake is complete, so the peer holds the address
    /// that it speaks from, and this is no replay. Once true, always true.
    ///
    /// Before that each call is a system call. When the stream is closed it stays as it was then.
    pub fn is_proven(&self) -> bool {
        self.0.look_now() == Proof::Proven
    }

    /// Waits until the connection is proven, at most until the gate's deadline, counted from the
    /// accept.
    ///
    /// For a handler that was started by something replay-safe, but does something that is not.
    /// Nobody else needs to read from, or write to, the stream meanwhile. No system call for an
    /// ordinary connection, about five for one that has to be waited for. The response may be
    /// written meanwhile.
    ///
    /// # Errors
    ///
    /// [`Disproven`]: it was reset or closed before, or the deadline has passed. After the deadline
    /// the connection is not closed: an answer may still be sent.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is lost, another call goes on waiting.
    ///
    /// # Panics
    ///
    /// If the connection is unproven and this is polled outside a tokio runtime with IO and time.
    pub async fn proven(&self) -> Result<(), Disproven> {
        if let Some(result) = self.0.look_now().result() {
            return result;
        }
        let deadline = self.0.deadline.unwrap_or_else(Instant::now);
        let waiting = self.0.wait();
        loop {
            let now = Instant::now();
            if now >= deadline {
                return self.0.look_now().result().unwrap_or(Err(Disproven::Deadline));
            }
            let next = deadline.min(now + LOOK_EVERY);
            if let Ok(result) = timeout_at(next, poll_fn(|cx| waiting.poll(cx))).await {
                return result;
            }
            if let Some(result) = self.0.look_now().result() {
                return result;
            }
        }
    }

    /// Aborts the connection with a RST: it was not proven.
    #[cfg(any(feature = "hyper", feature = "tower"))]
    pub(crate) fn abort(&self) {
        self.0.abort(Disproven::Deadline);
    }

    /// The smoothed round-trip time to the peer, as the kernel has measured it until now, or until
    /// the connection was closed; `None` before there is a sample (an unproven connection has none).
    /// A system call while the connection is open.
    pub fn rtt(&self) -> Option<Duration> {
        let mut state = self.0.state();
        let now = state.socket.as_ref().and_then(|socket| TcpInfo::read(socket).ok()?.rtt());
        if now.is_some() {
            state.rtt = now;
        }
        state.rtt
    }

    /// All that the kernel tells about the connection. A system call.
    ///
    /// # Errors
    ///
    /// The connection is closed (`NotConnected`), or the kernel's.
    pub fn tcp_info(&self) -> io::Result<TcpInfo> {
        let state = self.0.state();
        let socket = state.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        Ok(TcpInfo::read(socket)?)
    }

    /// `TCP_NODELAY` of this connection: inherited from the listener, which has it on unless told
    /// otherwise. A system call.
    ///
    /// # Errors
    ///
    /// The connection is closed (`NotConnected`), or the kernel's.
    pub fn nodelay(&self) -> io::Result<bool> {
        let state = self.0.state();
        let socket = state.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        SockRef::from(socket).tcp_nodelay()
    }

    /// Sets `TCP_NODELAY` on this connection. A system call.
    ///
    /// # Errors
    ///
    /// The connection is closed (`NotConnected`), or the kernel's.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        let state = self.0.state();
        let socket = state.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        SockRef::from(socket).set_tcp_nodelay(on)
    }
}

impl fmt::Debug for AcceptInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (proof, flight) = {
            let state = self.0.state();
            (state.proof, state.flight)
        };
        f.debug_struct("AcceptInfo")
            .field("remote_addr", &self.remote_addr())
            .field("outcome", &self.0.outcome)
            .field("proof", &proof)
            .field("flight", &flight)
            .finish_non_exhaustive()
    }
}
