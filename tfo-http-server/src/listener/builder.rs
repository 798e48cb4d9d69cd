#[cfg(target_os = "linux")]
use std::io;
#[cfg(feature = "proxy")]
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tfo_core::{Support, sockopt};
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::error::{BindError, BindStep};
use super::{TfoListener, tells};
use crate::keys::{Keys, Registration};
use crate::stream::replayable::{EarlyRequest, Replayable};

/// The questions that a listener answers before it listens; [`TfoListener::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ListenerBuilder {
    backlog: u32,
    queue: Option<u32>,
    nodelay: bool,
    only_v6: Option<bool>,
    reuse_port: bool,
    no_cookie: bool,
    defer_accept: Duration,
    pub(super) max_connections: u64,
    pub(super) unproven_response: usize,
    pub(super) answer_forged: bool,
    pub(super) replayable: Option<Replayable>,
    #[cfg(feature = "proxy")]
    pub(super) proxy: Option<super::proxy::Trust>,
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
            only_v6: None,
            reuse_port: false,
            no_cookie: false,
            defer_accept: Duration::ZERO,
            max_connections: 65_536,
            unproven_response: usize::MAX,
            answer_forged: false,
            replayable: None,
            #[cfg(feature = "proxy")]
            proxy: None,
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

    /// `IPV6_V6ONLY`: whether a listener on an IPv6 address takes IPv6 alone. Default: as the system's
    /// `net.ipv6.bindv6only` says, which is no almost everywhere: `[::]` takes IPv4 too.
    ///
    /// With `true`, `0.0.0.0` and `[::]` may be two listeners on one port. No meaning for an IPv4 address.
    pub fn only_v6(mut self, on: bool) -> Self {
        self.only_v6 = Some(on);
        self
    }

    /// `SO_REUSEPORT`: whether several listeners of one user may share the address, among which the
    /// kernel spreads connections. Default no. Each has a TCP Fast Open queue of its own.
    ///
    /// A listener that goes takes the connections in its queue with it, unless
    /// `net.ipv4.tcp_migrate_req` is 1.
    pub fn reuse_port(mut self, on: bool) -> Self {
        self.reuse_port = on;
        self
    }

    /// How many connections may be open at a time, gated ones among them. Default 65,536; the limit of
    /// descriptors (`ulimit -n`) may be lower. 0 is an error.
    ///
    /// Further ones are accepted and reset at once, so that they fail now rather than time out, and do
    /// not keep the queue from those behind them; [`LimitStats::shed`](crate::LimitStats::shed) counts
    /// them.
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.max_connections = connections.into();
        self
    }

    /// `TCP_FASTOPEN_NO_COOKIE`: whether to take data in a SYN without a cookie. Default no.
    ///
    /// The cookie is the proof that the client was once at its address; without, anyone may forge one
    /// (RFC 7413 sections 5 and 7.3). So before the proof nothing is answered: writes wait for it,
    /// and what a ride saves is the server's own time. Unless the listener is bound to a private or
    /// loopback address (not to a wildcard, whatever the host's addresses). The same holds where the
    /// namespace requires no cookies (bit 0x200 of `net.ipv4.tcp_fastopen`).
    ///
    /// A private address is taken for one that strangers do not reach, and it does not show whether
    /// they do: behind address translation (1:1 NAT as clouds have it, a published port of a container)
    /// it is as public as the address in front of it. There bind to a wildcard, or say
    /// [`unproven_response(0)`](Self::unproven_response).
    ///
    /// Whether cookies are required is looked at when the listener is made. A setting that is changed
    /// later, and a route with `fastopen_no_cookie` (ip-route(8)), are not seen: then unproven clients
    /// are answered as if they had one.
    pub fn no_cookie(mut self, on: bool) -> Self {
        self.no_cookie = on;
        self
    }

    /// `TCP_DEFER_ACCEPT`: for how long connections that have sent nothing yet stay with the kernel. They
    /// are accepted with their first data, or after about this time without any. Default 0, at once.
    ///
    /// It spares the wake-up for those who connect and say nothing. A connection that rode has its data,
    /// and is accepted at once. The kernel counts in its retransmissions of the SYN-ACK: 1, 3, 7, 15 s, …,
    /// and takes the next of them. Elsewhere than on Linux nothing is deferred.
    pub fn defer_accept(mut self, at_most: Duration) -> Self {
        self.defer_accept = at_most;
        self
    }

    /// Answers unproven connections although no cookie is required, whatever the address. Default `false`.
    ///
    /// # Danger
    ///
    /// On a public address this is an open reflector: for one forged SYN the server sends up to ten
    /// segments (about 14 kB) to whomever the forger likes.
    pub fn danger_answer_forged_addresses(mut self, on: bool) -> Self {
        self.answer_forged = on;
        self
    }

    /// How many bytes may be written to a connection before it is proven; further writes wait for
    /// the proof, at most until the [deadline](Self::gate_deadline), which aborts the connection.
    /// Default: no limit but the kernel's, whose initial window lets ten segments go (about 14 kB).
    ///
    /// This is what somebody with a stolen cookie can make the server send to its owner (RFC 7413
    /// section 5.2). 0 answers nobody early: what is saved is the server's own time.
    pub fn unproven_response(mut self, bytes: usize) -> Self {
        self.unproven_response = bytes;
        self
    }

    /// Declares requests replayable whose method is not safe: an idempotent POST. Those for which `rule`
    /// answers true are released from a SYN as if they were a GET. Default: none.
    ///
    /// A rule of the listener, and no tower layer: what is withheld is unread in the kernel, where no
    /// layer, router or handler has seen it, so none can release it. It is asked before any route is
    /// known, and sees the head that is in the SYN: [`EarlyRequest`]. For HTTP/1 only: it is not asked
    /// about HTTP/2 (h2c, gRPC), nor where two parsers could see two requests; those wait as ever.
    ///
    /// # Danger
    ///
    /// Whoever has recorded such a request can have it executed again, at any time, as often as they
    /// like, and the answer sent to its first sender. Only for what may be executed any number of
    /// times (RFC 7413 section 2.1).
    ///
    /// ```
    /// use tfo_http_server::TfoListener;
    ///
    /// let builder = TfoListener::builder()
    ///     .replayable(|request| request.method() == "POST" && request.path() == "/search");
    /// ```
    pub fn replayable(mut self, rule: impl Fn(&EarlyRequest<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.replayable = Some(Replayable(Arc::new(rule)));
        self
    }

    /// Reads a PROXY header, version 1 or 2, from connections whose peer is a trusted proxy, and takes
    /// the client's address from it: [`AcceptInfo::remote_addr`](crate::AcceptInfo::remote_addr).
    /// Default: nobody is trusted.
    ///
    /// A header in the SYN is believed when the connection is proven: until then the proxy's own address
    /// may be forged, and so whatever client it names. So behind a proxy nothing is answered before the
    /// handshake is complete, and riding saves no round trip between the two.
    ///
    /// A connection from a trusted proxy without a well-formed header within 5 s of that, and 2048
    /// bytes, is reset; so is one when 1024 others have yet to send theirs. One that is not proven by the
    /// [deadline](Self::gate_deadline) is aborted. One from anybody else is served as it is, and a header
    /// in it is what it is: no HTTP.
    ///
    /// With this, one task accepts: of several that wait for the same listener the last is woken.
    #[cfg(feature = "proxy")]
    pub fn proxy_protocol(mut self, trusted: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        self.proxy = Some(super::proxy::Trust::new(trusted));
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
        self.set_addressing(&socket, address)?;
        socket.bind(&address.into()).map_err(failed(BindStep::Bind))?;
        socket.set_tcp_nodelay(self.nodelay).map_err(failed(BindStep::NoDelay))?;
        // Before `listen`, so that no SYN comes between.
        let keys = self.set_keys(&socket, &support, address)?;
        self.set_fastopen(&socket, &support);
        self.set_defer_accept(&socket);
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
        #[cfg(target_os = "linux")]
        if !SockRef::from(&listener).is_listener().unwrap_or(true) {
            let error = io::ErrorKind::InvalidInput.into();
            return Err(BindError::new(BindStep::HandOver, address, error));
        }
        let support = Support::probe();
        SockRef::from(&listener)
            .set_tcp_nodelay(self.nodelay)
            .map_err(|error| BindError::new(BindStep::NoDelay, address, error))?;
        let keys = self.set_keys(&listener, &support, address)?;
        self.set_fastopen(&listener, &support);
        self.set_defer_accept(&listener);
        self.register(listener, address, support, keys)
    }

    /// Takes all listeners that were opened by systemd, or whoever speaks its protocol
    /// (`LISTEN_FDS`), in the order of the unit's lines. None is no error: the list is empty, and the
    /// program may [`bind`](Self::bind) by itself.
    ///
    /// As [`from_std`](Self::from_std) otherwise. The descriptors are taken once: a second call
    /// finds none.
    ///
    /// # Errors
    ///
    /// [`BindError`]: one of them is no TCP listener.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with IO and time.
    #[cfg(feature = "listenfd")]
    pub fn from_environment(self) -> Result<Vec<TfoListener>, BindError> {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut handed = listenfd::ListenFd::from_env();
        let taken = (0..handed.len()).map(|index| handed.take_tcp_listener(index));
        let taken = taken.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>();
        let taken = taken.map_err(|error| BindError::new(BindStep::HandOver, unknown, error))?;
        taken.into_iter().map(|listener| self.clone().from_std(listener)).collect()
    }

    fn check(&self, address: SocketAddr) -> Result<(), BindError> {
        // A runtime without time panics here, rather than at the first connection that must wait.
        drop(sleep(Duration::ZERO));
        if self.fastopen && self.queue == Some(0) {
            return Err(BindError::settings(
                address,
                "a TCP Fast Open queue of 0 takes no data in the SYN; say fastopen(false) if that is meant",
            ));
        }
        if self.max_connections == 0 {
            return Err(BindError::settings(address, "max_connections(0) would reset every connection"));
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

    /// What has to be said before `bind`.
    fn set_addressing(&self, socket: &Socket, address: SocketAddr) -> Result<(), BindError> {
        let failed = |step| move |error| BindError::new(step, address, error);
        if self.reuse_port {
            #[cfg(unix)]
            socket.set_reuse_port(true).map_err(failed(BindStep::ReusePort))?;
            #[cfg(not(unix))]
            return Err(failed(BindStep::ReusePort)(std::io::ErrorKind::Unsupported.into()));
        }
        match self.only_v6 {
            Some(on) if address.is_ipv6() => socket.set_only_v6(on).map_err(failed(BindStep::OnlyV6)),
            _ => Ok(()),
        }
    }

    /// Its failure is no error: it spares work, and changes nothing else.
    fn set_defer_accept(&self, listener: &impl tfo_core::AsSocket) {
        if !self.defer_accept.is_zero() {
            let seconds = self.defer_accept.as_millis().div_ceil(1000);
            let _ = sockopt::set_defer_accept(listener, u32::try_from(seconds).unwrap_or(u32::MAX));
        }
    }

    /// Its failure is no error: without TCP Fast Open all still works, and [`TfoListener::effect`] tells.
    fn set_fastopen(&self, listener: &impl tfo_core::AsSocket, support: &Support) {
        if self.fastopen && tells(support) {
            let _ = sockopt::set_fastopen(listener, self.queue.unwrap_or(self.backlog).max(1));
            if self.no_cookie {
                let _ = sockopt::set_fastopen_no_cookie(listener, true);
            }
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
