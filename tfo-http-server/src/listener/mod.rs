//! Listening and accepting.

mod builder;
mod effect;
mod error;
#[cfg(feature = "server")]
pub(crate) mod inline;
#[cfg(feature = "proxy")]
pub(crate) mod proxy;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tfo_core::{Ability, FastOpenBits, Problem, Support, TcpInfo, TcpState, sockopt};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use crate::clock::later;
use crate::keys::{Keys, Registration};
use crate::outcome::{AcceptOutcome, Disproven, PlainReason};
use crate::shared::{Proof, Shared, State};
use crate::stats::{Counts, StatsHandle};
use crate::stream::AcceptedStream;
use crate::stream::gate::{Birth, Standing};
use crate::stream::replayable::Replayable;
use crate::stream::socket::Socket;

pub use builder::ListenerBuilder;
pub use effect::Effect;
pub use error::{BindError, BindStep};

/// The first and the longest pause of [`TfoListener::accept_next`] after an error.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A listener that takes data in the SYN (RFC 7413), and hands out streams with a replay gate.
///
/// Where TCP Fast Open is not to be had it is an ordinary listener: [`effect`](Self::effect) says so,
/// and why.
pub struct TfoListener {
    listener: TcpListener,
    support: Support,
    admission: Admission,
    #[cfg(feature = "proxy")]
    proxies: Option<proxy::Proxies>,
    /// Behind the listener, so that it goes after it.
    keys: Option<Registration>,
}

/// Makes streams of sockets.
struct Admission {
    address: SocketAddr,
    rules: Rules,
    replayable: Option<Replayable>,
    counts: Arc<Counts>,
}

/// What holds for every connection of a listener.
#[derive(Clone, Copy, Debug)]
struct Rules {
    /// TCP Fast Open was asked for.
    fastopen: bool,
    gate: bool,
    gate_deadline: Duration,
    max_connections: u64,
    /// No cookie is required: the address of whoever sent a SYN may be forged by anyone.
    cookie_less: bool,
    /// How much may be written before the proof.
    unproven_response: usize,
    /// The kernel tells what a gate has to know.
    tells: bool,
    /// Why an ordinary connection is one.
    plain: PlainReason,
}

impl TfoListener {
    /// Listens on `address` with all defaults: `TfoListener::builder().bind(address)`.
    ///
    /// # Errors
    ///
    /// [`BindError`]: which step failed, and what to do.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with IO and time.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        Self::builder().bind(address)
    }

    /// The questions that a listener answers before it listens.
    pub fn builder() -> ListenerBuilder {
        ListenerBuilder::new()
    }

    fn new(
        listener: TcpListener,
        address: SocketAddr,
        support: Support,
        builder: &ListenerBuilder,
        keys: Option<Registration>,
    ) -> Self {
        let plain = match support.server {
            Ability::Unsupported => PlainReason::Unsupported,
            _ if !builder.fastopen => PlainReason::Off,
            Ability::Off => PlainReason::Off,
            _ => PlainReason::NotUsed,
        };
        let cookie_less = builder.fastopen
            && (sockopt::fastopen_no_cookie(&listener).unwrap_or(false)
                || support.fastopen.is_some_and(FastOpenBits::server_no_cookie));
        let mute = cookie_less && !builder.answer_forged && !is_private(address.ip());
        let rules = Rules {
            max_connections: builder.max_connections,
            cookie_less,
            unproven_response: if mute { 0 } else { builder.unproven_response },
            fastopen: builder.fastopen,
            gate: builder.gate,
            gate_deadline: builder.gate_deadline,
            tells: tells(&support),
            plain,
        };
        let replayable = builder.replayable.clone();
        Self {
            listener,
            support,
            admission: Admission { address, rules, replayable, counts: Arc::default() },
            keys,
            #[cfg(feature = "proxy")]
            proxies: builder.proxy.clone().map(proxy::Proxies::new),
        }
    }

    /// What it has done until now: a live handle, still good when the listener is elsewhere.
    pub fn stats(&self) -> StatsHandle {
        StatsHandle::new(
            Arc::clone(&self.admission.counts),
            self.admission.rules.gate_deadline,
            self.keys().cloned(),
        )
    }

    /// The address that it listens on, with the port that the system chose if it was asked for 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.admission.address
    }

    /// What this host and network namespace can do, as it was when the listener was bound.
    pub fn support(&self) -> &Support {
        &self.support
    }

    /// The keys that its cookies are made with; `None` where TCP Fast Open is off or not to be had.
    pub fn keys(&self) -> Option<&Keys> {
        self.keys.as_ref().map(Registration::keys)
    }

    /// Whether data in the SYN will really be taken by this listener, and if not, why, and the
    /// command that mends it. To be printed when a program starts. A system call.
    ///
    /// No error would tell: the kernel lets a listener ask for TCP Fast Open although its network
    /// namespace has it switched off, as every new container has.
    pub fn effect(&self) -> Effect {
        Effect::of(self)
    }

    /// Waits for the next connection. `TCP_INFO` is read once of each. Those beyond
    /// [`max_connections`](ListenerBuilder::max_connections) are reset, and passed over.
    ///
    /// # Errors
    ///
    /// The kernel's, of `accept(2)`. None of them ends the listener: no descriptor left (`EMFILE`,
    /// `ENFILE`: wait a little), or a connection that was over before it was accepted. See
    /// [`accept_next`](Self::accept_next).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no connection is lost.
    pub async fn accept(&self) -> io::Result<(AcceptedStream, SocketAddr)> {
        #[cfg(feature = "proxy")]
        if self.proxies.is_some() {
            return std::future::poll_fn(|cx| self.poll_accept(cx)).await;
        }
        loop {
            let (socket, remote) = self.listener.accept().await?;
            if let Some(stream) = self.admission.admit(socket.into(), remote) {
                return Ok((stream, remote));
            }
        }
    }

    /// As [`accept`](Self::accept), for those who poll. The last caller's waker is kept.
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept).
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(AcceptedStream, SocketAddr)>> {
        loop {
            #[cfg(feature = "proxy")]
            if let Some(proxies) = &self.proxies
                && let Poll::Ready(accepted) = proxies.poll(cx)
            {
                return Poll::Ready(Ok(accepted));
            }
            let (socket, remote) = ready!(self.listener.poll_accept(cx))?;
            let Some(stream) = self.admission.admit(socket.into(), remote) else { continue };
            #[cfg(feature = "proxy")]
            let Some(stream) = proxy::Proxies::take(self.proxies.as_ref(), stream) else { continue };
            return Poll::Ready(Ok((stream, remote)));
        }
    }

    /// Waits for the next connection, whatever happens: for a loop without an end.
    ///
    /// Errors of single connections are passed over. When there are no descriptors or no memory
    /// left it pauses, 10 ms and twice as long each time, at most a second; connections queue
    /// meanwhile.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no connection is lost.
    pub async fn accept_next(&self) -> (AcceptedStream, SocketAddr) {
        let mut pause = Pause::default();
        loop {
            match self.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => match pause.after(&error, &self.admission.counts) {
                    Duration::ZERO => {}
                    pause => sleep(pause).await,
                },
            }
        }
    }

    /// The listener for a framework that takes nothing else, with TCP Fast Open switched off:
    /// behind it there is no gate.
    ///
    /// Connections that were accepted by the kernel before, and wait in its queue, may still have
    /// come with data in the SYN: convert it before clients know of it.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn into_std(self) -> io::Result<std::net::TcpListener> {
        if self.admission.rules.tells {
            sockopt::set_fastopen(&self.listener, 0)?;
        }
        self.listener.into_std()
    }

    /// The listener for a framework that takes nothing else, with TCP Fast Open left on, nonblocking.
    ///
    /// Its [keys](ListenerBuilder::keys) stay as they are from now on: to have them changed,
    /// [`Keys::add`] it anew.
    ///
    /// # Danger
    ///
    /// Without a gate the framework acts on data that may be a replay: a recorded POST is executed
    /// as often as someone sends its SYN again. Only for services where every request, whatever its
    /// method, may be executed any number of times (RFC 7413 section 2.1).
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn danger_into_std_ungated(self) -> io::Result<std::net::TcpListener> {
        self.listener.into_std()
    }

    /// Whether there are accepted connections whose PROXY header is still to come.
    #[cfg(feature = "server")]
    pub(crate) fn has_waiting(&self) -> bool {
        #[cfg(feature = "proxy")]
        return self.proxies.as_ref().is_some_and(proxy::Proxies::has_waiting);
        #[cfg(not(feature = "proxy"))]
        false
    }

    #[cfg(any(feature = "server", feature = "tonic"))]
    pub(crate) fn counts(&self) -> &Counts {
        &self.admission.counts
    }
}

impl Admission {
    /// Makes a stream of it, unless there are too many.
    fn admit(&self, mut socket: Socket, remote: SocketAddr) -> Option<AcceptedStream> {
        if !self.counts.enter(self.rules.max_connections) {
            let _ = socket.set_zero_linger();
            return None;
        }
        let mut rtt = None;
        let birth = if !self.rules.tells {
            Birth { standing: Standing::Proven, outcome: AcceptOutcome::Plain(self.rules.plain) }
        } else if let Ok(info) = TcpInfo::read(&socket) {
            rtt = info.rtt();
            if info.state() == Some(TcpState::Established) && info.bytes_received() == Some(0) {
                socket.note_empty();
            }
            Birth::of(&info, self.rules.plain)
        } else {
            Birth { standing: Standing::Unproven, outcome: AcceptOutcome::Unknown }
        };
        let proof = match birth.standing {
            Standing::Proven => Proof::Proven,
            Standing::Unproven => Proof::Pending,
            Standing::Disproven => Proof::Disproven(Disproven::Reset),
        };
        let now = Instant::now();
        let deadline = (proof == Proof::Pending).then(|| later(now, self.rules.gate_deadline));
        self.counts.on_accepted(birth.outcome);
        let state = State::new(socket, now, proof, rtt, Arc::clone(&self.counts));
        let shared = Shared::new((remote, self.address), birth.outcome, deadline, state);
        Some(match birth.standing {
            Standing::Proven => AcceptedStream::open(shared),
            Standing::Unproven if !self.rules.gate => {
                AcceptedStream::open(shared).with_cap(self.rules.unproven_response)
            }
            Standing::Disproven if !self.rules.gate => AcceptedStream::open(shared),
            Standing::Unproven => {
                AcceptedStream::gated(shared, self.replayable.clone(), self.rules.unproven_response)
            }
            Standing::Disproven => AcceptedStream::failed(shared),
        })
    }
}

/// How long to wait after errors of `accept(2)`.
#[derive(Debug)]
pub(crate) struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(PAUSES.0)
    }
}

impl Pause {
    /// After this error; zero if it was one connection's.
    pub(crate) fn after(&mut self, error: &io::Error, counts: &Counts) -> Duration {
        if is_about_one_connection(error) {
            return Duration::ZERO;
        }
        counts.on_no_resources();
        let pause = self.0;
        self.0 = PAUSES.1.min(pause * 2);
        pause
    }
}

impl fmt::Debug for TfoListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TfoListener")
            .field("address", &self.admission.address)
            .field("rules", &self.admission.rules)
            .finish_non_exhaustive()
    }
}

/// Whether this kernel tells what a gate has to know. Where it does not, TCP Fast Open stays off.
fn tells(support: &Support) -> bool {
    !support.problems().iter().any(|problem| {
        matches!(problem, Problem::NotLinux | Problem::OptionRefused { option: "TCP_INFO", .. })
    })
}

/// Whether strangers do not reach it: loopback, private (RFC 1918, RFC 4193) and link-local addresses.
fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Whether an error of `accept(2)` is one connection's, so that the next may be accepted at once.
/// "Linux accept() passes already-pending network errors on the new socket as an error code."
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut
    )
}
