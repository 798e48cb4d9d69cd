use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tfo_core::{Support, sockopt};
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::error::{BindError, BindStep};
use super::{TfoListener, tells};
use crate::keys::{Keys, Registration};

/// The questions that a listener answers before it listens; [`TfoListener::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ListenerBuilder {
    backlog: u32,
    queue: Option<u32>,
    nodelay: bool,
    pub(super) fastopen: bool,
    pub(super) gate: bool,
    pub(super) gate_deadline: Duration,
    keys: Keys,
}

impl ListenerBuilder {
    pub(super) fn new() -> Self {
        Self {
            backlog: 1024,
            queue: None,
            nodelay: true,
            fastopen: true,
            gate: true,
            gate_deadline: Duration::from_secs(10),
            keys: Keys::system(),
        }
    }

    /// How many connections may wait to be accepted. Default 1024. The kernel cuts it to
    /// `net.core.somaxconn` (4096, or 128 before Linux 5.4), without a word.
    ///
    /// When it is full further SYNs are dropped, and their clients lose a second.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = connections;
        self
    }

    /// How many connections may be there, accepted or not, whose data came in the SYN and whose
    /// handshake is not complete: the limit of RFC 7413 section 5.1. Default: the backlog. The
    /// kernel cuts it to `net.core.somaxconn` too.
    ///
    /// Beyond it connections get an ordinary handshake, and no new cookies are given. A reset
    /// connection keeps its place for a minute. 0 is an error: use [`fastopen(false)`](Self::fastopen).
    pub fn fastopen_queue(mut self, connections: u32) -> Self {
        self.queue = Some(connections);
        self
    }

    /// Whether to take data in the SYN at all. Default yes. Without, this is an ordinary listener.
    pub fn fastopen(mut self, on: bool) -> Self {
        self.fastopen = on;
        self
    }

    /// `TCP_NODELAY`, set once on the listener and inherited by its connections. Default on.
    ///
    /// Off, an HTTP/2 response that rode waits for the ACK of the SETTINGS before it: the round trip
    /// that was saved.
    pub fn nodelay(mut self, on: bool) -> Self {
        self.nodelay = on;
        self
    }

    /// How long data that came in the SYN is withheld at most, counted from the accept, before its
    /// connection is aborted. Default 10 s.
    ///
    /// The kernel repeats its answer to the SYN after 1, 3 and 7 s: a shorter deadline fails clients
    /// that lose a packet or two, which plain TCP would not.
    pub fn gate_deadline(mut self, deadline: Duration) -> Self {
        self.gate_deadline = deadline;
        self
    }

    /// The keys that cookies are made with. Default [`Keys::system`], the namespace's.
    ///
    /// Give clones of one [`Keys`] to all listeners that share an address (`SO_REUSEPORT`), and spawn
    /// [`Keys::run`] once. It costs a second descriptor. Where there is no TCP Fast Open, or it is
    /// switched off, nothing is done with them.
    pub fn keys(mut self, keys: Keys) -> Self {
        self.keys = keys;
        self
    }

    /// Takes the gate away: `true` hands everything that came in a SYN to the application at once.
    /// Default `false`.
    ///
    /// # Danger
    ///
    /// A recorded POST is then executed as often as someone sends its SYN again. It is there to show
    /// in tests what the gate prevents, and to measure what it costs.
    pub fn danger_gate_off(mut self, off: bool) -> Self {
        self.gate = !off;
        self
    }

    /// Listens on one address, IPv4 or IPv6, with `SO_REUSEADDR`. Port 0 lets the system choose.
    ///
    /// `[::]` takes IPv4 too, unless the system's `net.ipv6.bindv6only` says otherwise. Where TCP Fast
    /// Open is not to be had this is no error: [`TfoListener::effect`] tells.
    ///
    /// # Errors
    ///
    /// [`BindError`]: which step failed, and what to do.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with IO and time.
    pub fn bind(self, address: SocketAddr) -> Result<TfoListener, BindError> {
        let failed = |step| move |error| BindError::new(step, address, error);
        self.check(address)?;
        let support = Support::probe();
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, None).map_err(failed(BindStep::Socket))?;
        // On Windows the option means something else: that anyone may take the port.
        #[cfg(not(windows))]
        socket.set_reuse_address(true).map_err(failed(BindStep::ReuseAddress))?;
        socket.bind(&address.into()).map_err(failed(BindStep::Bind))?;
        socket.set_tcp_nodelay(self.nodelay).map_err(failed(BindStep::NoDelay))?;
        // Before `listen`, so that no SYN comes between.
        let keys = self.set_keys(&socket, &support, address)?;
        self.set_fastopen(&socket, &support);
        let backlog = i32::try_from(self.backlog).unwrap_or(i32::MAX);
        socket.listen(backlog).map_err(failed(BindStep::Listen))?;
        self.register(socket.into(), address, support, keys)
    }

    /// Takes a listener that is listening already: socket activation, or one made elsewhere.
    ///
    /// The [backlog](Self::backlog) is not set again; it still is the default of the
    /// [queue](Self::fastopen_queue). Everything else is.
    ///
    /// # Errors
    ///
    /// [`BindError`]: which step failed.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with IO and time.
    pub fn from_std(self, listener: std::net::TcpListener) -> Result<TfoListener, BindError> {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let address =
            listener.local_addr().map_err(|error| BindError::new(BindStep::LocalAddress, unknown, error))?;
        self.check(address)?;
        let support = Support::probe();
        SockRef::from(&listener)
            .set_tcp_nodelay(self.nodelay)
            .map_err(|error| BindError::new(BindStep::NoDelay, address, error))?;
        let keys = self.set_keys(&listener, &support, address)?;
        self.set_fastopen(&listener, &support);
        self.register(listener, address, support, keys)
    }

    fn check(&self, address: SocketAddr) -> Result<(), BindError> {
        // A runtime without time panics here, rather than at the first connection that must wait.
        drop(sleep(Duration::ZERO));
        if self.fastopen && self.queue == Some(0) {
            return Err(BindError::zero_queue(address));
        }
        Ok(())
    }

    fn set_keys(
        &self,
        listener: &impl tfo_core::AsSocket,
        support: &Support,
        address: SocketAddr,
    ) -> Result<Option<Registration>, BindError> {
        if !(self.fastopen && tells(support)) {
            return Ok(None);
        }
        let keys = self.keys.add(listener);
        keys.map(Some).map_err(|error| BindError::new(BindStep::Keys, address, error.into()))
    }

    /// Its failure is no error: without TCP Fast Open all still works, and [`TfoListener::effect`] tells.
    fn set_fastopen(&self, listener: &impl tfo_core::AsSocket, support: &Support) {
        if self.fastopen && tells(support) {
            let _ = sockopt::set_fastopen(listener, self.queue.unwrap_or(self.backlog).max(1));
        }
    }

    fn register(
        self,
        listener: std::net::TcpListener,
        address: SocketAddr,
        support: Support,
        keys: Option<Registration>,
    ) -> Result<TfoListener, BindError> {
        let failed = |step| move |error| BindError::new(step, address, error);
        if !(self.fastopen && tells(&support)) {
            // It may be on without having been asked for: `net.ipv4.tcp_fastopen` bit 0x400, or the
            // one who made the listener.
            let _ = sockopt::set_fastopen(&listener, 0);
        }
        listener.set_nonblocking(true).map_err(failed(BindStep::Register))?;
        let address = listener.local_addr().map_err(failed(BindStep::LocalAddress))?;
        let listener = TcpListener::from_std(listener).map_err(failed(BindStep::Register))?;
        Ok(TfoListener::new(listener, address, support, &self, keys))
    }
}
