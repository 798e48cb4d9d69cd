//! The questions that a server answers before it listens.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::control::{Control, OnRequest};
use super::limits::{Limits, LimitsError};
use super::progress::RequestRecord;
use super::{Server, ServerError};
use crate::{ListenerBuilder, TfoListener};

/// The questions that a [`Server`] answers before it listens; [`Server::builder`].
#[derive(Clone)]
#[must_use]
pub struct ServerBuilder {
    listener: ListenerBuilder,
    pub(super) limits: Limits,
    pub(super) keep_alive: bool,
    pub(super) half_close: bool,
    pub(super) end_in_last_packet: bool,
    pub(super) workers: Option<usize>,
    overlap: bool,
    pub(super) deadline: Duration,
    pub(super) on_request: Option<OnRequest>,
}

impl ServerBuilder {
    pub(super) fn new() -> Self {
        Self {
            listener: TfoListener::builder(),
            limits: Limits::default(),
            keep_alive: true,
            half_close: false,
            end_in_last_packet: false,
            workers: None,
            overlap: false,
            deadline: Duration::from_secs(10),
            on_request: None,
        }
    }

    /// How to listen: queues, keys, the gate. Of it, `max_connections`, `gate_deadline` and `reuse_port` are
    /// the server's own affair: [`Limits::connections`], [`Limits::header_timeout`] and
    /// [`workers`](Self::workers).
    pub fn listener(mut self, listener: ListenerBuilder) -> Self {
        self.listener = listener;
        self
    }

    /// The limits against slow and greedy clients.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Whether an HTTP/1 connection may bring several requests. Default yes. HTTP/2 is not concerned.
    pub fn keep_alive(mut self, on: bool) -> Self {
        self.keep_alive = on;
        self
    }

    /// Whether an HTTP/1 client is answered that has shut down its writing side behind its request (`nc -N`).
    /// Default no: most that seem to have done so have closed, and a handler that they no longer wait for is
    /// dropped, and what is left of an answer. With it nobody learns before the answer that a client has gone; where
    /// handlers take no time nothing is lost by that.
    pub fn half_close(mut self, on: bool) -> Self {
        self.half_close = on;
        self
    }

    /// Whether the last packet of an HTTP/1 answer carries the FIN, too, where the connection ends behind it:
    /// with `Connection: close`, or [keep-alive](Self::keep_alive) off. Default no; on Linux only.
    ///
    /// It is a packet less, and a system call more: a fifth of the CPU time that such a connection costs the server.
    /// But a FIN on its own tells the client's kernel that something is missing when the packet before it is lost,
    /// and that is repeated after a round trip (RFC 8985); without it the server waits for 200 ms at least. So it is
    /// for clients on this host, or on a network that loses nothing.
    pub fn end_in_last_packet(mut self, on: bool) -> Self {
        self.end_in_last_packet = on;
        self
    }

    /// So many threads of its own, each with a runtime and a listener (`SO_REUSEPORT`): the cheapest way to
    /// serve short connections. Default: none, all runs in the caller's runtime.
    ///
    /// A handler that blocks keeps all connections of its worker waiting, those that wait to be accepted too.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Whether another process may listen on the same port at the same time (`SO_REUSEPORT`): a restart
    /// where the new one begins before the old one ends. Default no.
    ///
    /// Only where `net.ipv4.tcp_migrate_req` is 1: otherwise the kernel resets the handshakes that are under
    /// way with the one that ends. Handing the listener over needs no such thing:
    /// [`ServerHandle::hand_over`](super::ServerHandle::hand_over), or systemd.
    pub fn overlap(mut self, on: bool) -> Self {
        self.overlap = on;
        self
    }

    /// How long requests under way have when the server ends. Default 10 s. With zero everything is cut off.
    pub fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Calls this for every request when it is over: for an access log. It runs on the server's threads and
    /// must not block.
    pub fn on_request(mut self, log: impl Fn(&RequestRecord) + Send + Sync + 'static) -> Self {
        self.on_request = Some(Arc::new(log));
        self
    }

    /// Listens on one address; [`Server::serve`] does the rest.
    ///
    /// # Errors
    ///
    /// [`ServerError`]: limits that make no sense, an address that cannot be had, or
    /// [`overlap`](Self::overlap) where it would break connections.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with IO and time.
    pub fn bind(self, address: SocketAddr) -> Result<Server, ServerError> {
        self.check()?;
        let workers = self.workers.unwrap_or(1);
        let shared = self.overlap || workers > 1;
        if self.overlap {
            check_migration()?;
        } else if shared {
            // With SO_REUSEPORT alone, a second server would join without a word.
            drop(self.each_listener().fastopen(false).bind(address)?);
        }
        let first = self.each_listener().reuse_port(shared).bind(address)?;
        let address = first.local_addr();
        let mut listeners = vec![first];
        for _ in 1..workers {
            listeners.push(self.each_listener().reuse_port(true).bind(address)?);
        }
        self.with(listeners)
    }

    /// Serves the listeners that systemd has opened, or the server that is replaced
    /// ([`ServerHandle::hand_over`](super::ServerHandle::hand_over)); binds `address` if there are none.
    ///
    /// Of `workers`, each gets its part of them, or shares one.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with IO and time.
    #[cfg(feature = "listenfd")]
    pub fn inherit_or_bind(self, address: SocketAddr) -> Result<Server, ServerError> {
        self.check()?;
        let inherited = self.each_listener().from_environment()?;
        if inherited.is_empty() { self.bind(address) } else { self.with(inherited) }
    }

    /// Serves listeners that are there already.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind), and [`ServerError::NoListeners`].
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with IO and time.
    pub fn from_std(self, listeners: Vec<std::net::TcpListener>) -> Result<Server, ServerError> {
        self.check()?;
        let listeners = listeners.into_iter().map(|listener| self.each_listener().from_std(listener));
        let listeners = listeners.collect::<Result<Vec<_>, _>>()?;
        self.with(listeners)
    }

    fn with(self, listeners: Vec<TfoListener>) -> Result<Server, ServerError> {
        let Some(first) = listeners.first() else { return Err(ServerError::NoListeners) };
        let (effect, address) = (first.effect(), first.local_addr());
        let listeners = listeners
            .into_iter()
            .map(TfoListener::danger_into_std_ungated)
            .collect::<Result<_, _>>()
            .map_err(ServerError::Worker)?;
        let control = Arc::new(Control::new(self.workers.unwrap_or(1)));
        Ok(Server { builder: self, listeners, effect, address, control, stop: None })
    }

    /// How each of its listeners is made.
    pub(super) fn each_listener(&self) -> ListenerBuilder {
        self.listener
            .clone()
            .max_connections(u32::MAX)
            .gate_deadline(self.limits.header_timeout.max(SHORTEST_GATE))
    }

    fn check(&self) -> Result<(), ServerError> {
        self.limits.check()?;
        if self.workers == Some(0) {
            return Err(ServerError::NoWorkers);
        }
        let requests = self.limits.requests;
        if !self.keep_alive && requests > 1 && requests != Limits::default().requests {
            return Err(LimitsError::KeepAliveOff { requests_per_connection: requests }.into());
        }
        Ok(())
    }
}

/// The kernel repeats its answer to the SYN after 1, 3 and 7 s.
const SHORTEST_GATE: Duration = Duration::from_secs(10);

/// Whether the kernel moves the connections of a listener that is closed to another on its port.
fn check_migration() -> Result<(), ServerError> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req").ok();
    match text.and_then(|text| text.trim().parse().ok()) {
        Some(1) => Ok(()),
        migrate => Err(ServerError::Overlap { migrate }),
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("listener", &self.listener)
            .field("limits", &self.limits)
            .field("keep_alive", &self.keep_alive)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}
