//! What a connector was told, and sockets made by it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tfo_core::sockopt;
use tokio::net::TcpStream;

use crate::error::{ConnectError, ConnectErrorKind};
use crate::metrics::Recorder;
use crate::parking::Lot;
use crate::path::PathMemory;
use crate::policy::SynData;

/// What a connector was told: the settings of `HttpConnector`, and those of TCP Fast Open.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) syn_data: SynData,
    /// Where no cookie is needed.
    pub(crate) no_cookie: Vec<IpNet>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) enforce_http: bool,
    pub(crate) happy_eyeballs_timeout: Option<Duration>,
    pub(crate) keepalive: Keepalive,
    pub(crate) local_ipv4: Option<Ipv4Addr>,
    pub(crate) local_ipv6: Option<Ipv6Addr>,
    pub(crate) nodelay: bool,
    pub(crate) reuse_address: bool,
    pub(crate) send_buffer_size: Option<usize>,
    pub(crate) recv_buffer_size: Option<usize>,
    pub(crate) interface: Option<String>,
    pub(crate) mark: Option<u32>,
    pub(crate) tcp_user_timeout: Option<Duration>,
    pub(crate) hedge: Hedge,
    pub(crate) prefer_rides: bool,
    pub(crate) lot: Lot,
    pub(crate) memory: PathMemory,
    pub(crate) metrics: Recorder,
}

/// When a plain attempt joins one with TCP Fast Open that is not answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hedge {
    /// 20 ms after two round trips, as far as they are known, and at most after 250 ms or one and a
    /// half round trips; after 250 ms where nothing is known. After 20 ms where the ride before was lost
    /// ([`Ticket::is_doubtful`](crate::path::Ticket::is_doubtful)).
    #[default]
    Auto,
    /// After a fixed time. 10 ms at least.
    After(Duration),
    /// Never: a path that drops SYNs with data costs the kernel's second.
    Never,
}

impl Hedge {
    /// How long a SYN may stay unanswered, when an answer is `due` after so long.
    fn delay(self, due: Duration, doubtful: bool) -> Option<Duration> {
        match self {
            Self::Auto if doubtful => Some(HEDGE_LEAST),
            Self::Auto => Some(due),
            Self::After(delay) => Some(delay.clamp(10 * MS, LONGEST)),
            Self::Never => None,
        }
    }

    /// How long after the SYN an answer may be missing behind a handshake.
    pub(crate) fn guard(self, rtt: Option<Duration>) -> Option<Duration> {
        const FLOOR: Duration = ANSWER_DUE;
        match self {
            Self::Auto => Some(rtt.map_or(FLOOR, |rtt| FLOOR.max(3 * rtt))),
            Self::After(delay) => Some(rtt.map_or(delay, |rtt| delay.max(3 * rtt)).clamp(FLOOR, LONGEST)),
            Self::Never => None,
        }
    }
}

const MS: Duration = Duration::from_millis(1);
/// A longer timeout is none, and may be more than clocks and timers can hold: not every `Instant` that
/// can be had can be waited for.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 86_400);
/// A hedge before this time would race with answers that are on their way.
const HEDGE_LEAST: Duration = Duration::from_millis(20);
/// After this time an answer to a SYN is due where nothing is known of the round-trip time.
const ANSWER_DUE: Duration = Duration::from_millis(250);

/// When an answer to a SYN is due.
pub(crate) fn answer_due(rtt: Option<Duration>) -> Duration {
    // Hosts that are busy have their delays too, however near they are.
    rtt.map_or(ANSWER_DUE, |rtt| (2 * rtt + HEDGE_LEAST).min(ANSWER_DUE.max(rtt * 3 / 2)))
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Keepalive {
    pub(crate) time: Option<Duration>,
    pub(crate) interval: Option<Duration>,
    pub(crate) retries: Option<u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            syn_data: SynData::default(),
            no_cookie: Vec::new(),
            connect_timeout: None,
            enforce_http: true,
            happy_eyeballs_timeout: Some(Duration::from_millis(300)),
            keepalive: Keepalive::default(),
            local_ipv4: None,
            local_ipv6: None,
            nodelay: false,
            reuse_address: false,
            send_buffer_size: None,
            recv_buffer_size: None,
            interface: None,
            mark: None,
            tcp_user_timeout: None,
            hedge: Hedge::default(),
            prefer_rides: true,
            lot: Lot::default(),
            memory: PathMemory::new(),
            metrics: Recorder::default(),
        }
    }
}

impl Config {
    /// How long a SYN may stay unanswered before a plain attempt joins it, when an answer is `due`
    /// after so long: at most half of all the time there is, so that the plain one has the rest.
    pub(crate) fn hedge_delay(&self, due: Duration, doubtful: bool) -> Option<Duration> {
        let delay = self.hedge.delay(due, doubtful)?;
        Some(self.connect_timeout.map_or(delay, |whole| delay.min(whole / 2)))
    }

    /// Whether an address can be reached from the local addresses that were set: with one of one
    /// family only, the other family is out.
    pub(crate) fn can_reach(&self, address: &SocketAddr) -> bool {
        match (self.local_ipv4, self.local_ipv6) {
            (Some(_), None) => address.is_ipv4(),
            (None, Some(_)) => address.is_ipv6(),
            _ => true,
        }
    }

    /// The local address from which `address` is to be reached, if one was set.
    pub(crate) fn local_for(&self, address: &SocketAddr) -> Option<IpAddr> {
        match address {
            SocketAddr::V4(_) => self.local_ipv4.map(IpAddr::V4),
            SocketAddr::V6(_) => self.local_ipv6.map(IpAddr::V6),
        }
    }

    /// Whether data goes to `address` without a cookie.
    pub(crate) fn is_cookieless(&self, address: &SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.no_cookie.iter().any(|network| network.contains(&ip))
    }

    /// A socket for `address`, set up and bound, not connected. It does not block.
    pub(crate) fn open(&self, address: &SocketAddr) -> Result<Socket, ConnectError> {
        let failed = |error: io::Error| ConnectError::new(ConnectErrorKind::Socket, error).at(*address);
        let socket = new_socket(address).map_err(failed)?;
        self.set_up(&socket);
        #[cfg(target_os = "linux")]
        if let Some(interface) = &self.interface {
            socket.bind_device(Some(interface.as_bytes())).map_err(failed)?;
        }
        #[cfg(target_os = "linux")]
        if let Some(mark) = self.mark {
            socket.set_mark(mark).map_err(failed)?;
        }
        if self.reuse_address {
            socket.set_reuse_address(true).map_err(failed)?;
        }
        if let Some(local) = self.local_for(address) {
            socket.bind(&SocketAddr::new(local, 0).into()).map_err(failed)?;
        }
        Ok(socket)
    }

    /// Asks for TCP Fast Open on a socket that is not connected yet.
    pub(crate) fn want_fastopen(&self, address: &SocketAddr, socket: &Socket) -> Result<(), tfo_core::Error> {
        self.go_without_cookie(address, socket)?;
        sockopt::set_fastopen_connect(socket, true)
    }

    /// Lets data go without a cookie, where that is wanted.
    pub(crate) fn go_without_cookie(
        &self,
        address: &SocketAddr,
        socket: &Socket,
    ) -> Result<(), tfo_core::Error> {
        match self.is_cookieless(address) {
            true => sockopt::set_fastopen_no_cookie(socket, true),
            false => Ok(()),
        }
    }

    /// What a connection can do without: as `HttpConnector`, it goes on if the kernel refuses.
    fn set_up(&self, socket: &Socket) {
        if let Some(keepalive) = self.keepalive.to_socket() {
            let _ = socket.set_tcp_keepalive(&keepalive);
        }
        #[cfg(target_os = "linux")]
        if self.tcp_user_timeout.is_some() {
            let _ = socket.set_tcp_user_timeout(self.tcp_user_timeout);
        }
        if let Some(size) = self.send_buffer_size {
            let _ = socket.set_send_buffer_size(size);
        }
        if let Some(size) = self.recv_buffer_size {
            let _ = socket.set_recv_buffer_size(size);
        }
        if self.nodelay {
            let _ = socket.set_tcp_nodelay(true);
        }
    }
}

impl Keepalive {
    fn to_socket(self) -> Option<TcpKeepalive> {
        if self.time.is_none() && self.interval.is_none() && self.retries.is_none() {
            return None;
        }
        let mut keepalive = TcpKeepalive::new();
        if let Some(time) = self.time {
            keepalive = keepalive.with_time(time);
        }
        #[cfg(not(target_os = "openbsd"))]
        if let Some(interval) = self.interval {
            keepalive = keepalive.with_interval(interval);
        }
        #[cfg(not(any(target_os = "openbsd", windows)))]
        if let Some(retries) = self.retries {
            keepalive = keepalive.with_retries(retries);
        }
        Some(keepalive)
    }
}

/// Begins an ordinary handshake on a new socket, without any TCP Fast Open.
pub(crate) fn begin_plain(config: &Config, address: &SocketAddr) -> Result<TcpStream, ConnectError> {
    let socket = config.open(address)?;
    let begun = tfo_core::connect(&socket, address).map_err(tfo_core::Error::into_io_error);
    begun.map_err(|error| ConnectError::new(ConnectErrorKind::Connect, error).at(*address))?;
    register(socket).map_err(|error| error.at(*address))
}

/// Gives a socket on which `connect` was called to the reactor. Before that call it would be
/// reported as hung up, for good.
pub(crate) fn register(socket: Socket) -> Result<TcpStream, ConnectError> {
    TcpStream::from_std(socket.into()).map_err(|error| ConnectError::new(ConnectErrorKind::Socket, error))
}

/// One system call where the system can make a socket that does not block in one.
fn new_socket(address: &SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(*address);
    #[cfg(target_os = "linux")]
    return Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP));
    #[cfg(not(target_os = "linux"))]
    {
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_address_of_one_family_leaves_the_other_out() {
        let (v4, v6) = (SocketAddr::from(([192, 0, 2, 1], 80)), "[2001:db8::1]:80".parse().unwrap());
        let mut config = Config::default();
        assert!(config.can_reach(&v4) && config.can_reach(&v6));
        config.local_ipv4 = Some(Ipv4Addr::LOCALHOST);
        assert!(config.can_reach(&v4) && !config.can_reach(&v6));
        config.local_ipv6 = Some(Ipv6Addr::LOCALHOST);
        assert!(config.can_reach(&v4) && config.can_reach(&v6));
        config.local_ipv4 = None;
        assert!(!config.can_reach(&v4) && config.can_reach(&v6));
    }

    #[test]
    fn delays_follow_the_round_trip_within_bounds() {
        for (rtt, due, guard) in [
            (None, 250, 250),
            (Some(0), 20, 250),
            (Some(5), 30, 250),
            (Some(100), 220, 300),
            (Some(600), 900, 1800),
        ] {
            let rtt = rtt.map(|rtt| rtt * MS);
            assert_eq!((answer_due(rtt), Hedge::Auto.guard(rtt)), (due * MS, Some(guard * MS)));
        }
        let due = 220 * MS;
        assert_eq!((Hedge::Auto.delay(due, false), Hedge::Auto.delay(due, true)), (Some(due), Some(20 * MS)));
        assert_eq!(Hedge::After(Duration::ZERO).delay(due, true), Some(10 * MS));
        assert_eq!((Hedge::Never.delay(due, true), Hedge::Never.guard(None)), (None, None));
        let impatient = Config { connect_timeout: Some(100 * MS), ..Config::default() };
        assert_eq!(impatient.hedge_delay(due, false), Some(50 * MS), "the plain attempt has the rest");
    }

    #[test]
    fn a_socket_carries_the_settings() {
        let config = Config {
            nodelay: true,
            reuse_address: true,
            keepalive: Keepalive { time: Some(Duration::from_secs(7)), ..Keepalive::default() },
            local_ipv4: Some(Ipv4Addr::LOCALHOST),
            ..Config::default()
        };
        let socket = config.open(&SocketAddr::from(([127, 0, 0, 1], 80))).unwrap();
        assert!(socket.tcp_nodelay().unwrap() && socket.reuse_address().unwrap());
        assert!(socket.keepalive().unwrap() && socket.nonblocking().unwrap());
        assert_eq!(socket.local_addr().unwrap().as_socket().unwrap().ip(), Ipv4Addr::LOCALHOST);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_socket_carries_all_settings_of_linux_and_none_that_was_not_made() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let seconds = Duration::from_secs;
        let config = Config {
            keepalive: Keepalive { time: Some(seconds(7)), interval: Some(seconds(3)), retries: Some(4) },
            send_buffer_size: Some(20_000),
            recv_buffer_size: Some(30_000),
            interface: Some("lo".to_owned()),
            tcp_user_timeout: Some(Duration::from_millis(1234)),
            ..Config::default()
        };
        let socket = config.open(&address).unwrap();
        assert_eq!(socket.tcp_keepalive_time().unwrap(), seconds(7));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), seconds(3));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
        // socket(7): the kernel doubles them, for its bookkeeping.
        assert_eq!(socket.send_buffer_size().unwrap(), 40_000);
        assert_eq!(socket.recv_buffer_size().unwrap(), 60_000);
        assert_eq!(socket.device().unwrap().as_deref(), Some(&b"lo"[..]));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_millis(1234)));

        let plain = Config::default().open(&address).unwrap();
        assert!(!plain.keepalive().unwrap() && !plain.tcp_nodelay().unwrap());
        assert!(!plain.reuse_address().unwrap() && plain.device().unwrap().is_none());
        assert_eq!((plain.mark().unwrap(), plain.tcp_user_timeout().unwrap()), (0, None));
        assert_eq!(plain.local_addr().unwrap().as_socket().unwrap().port(), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_mark_is_set_or_refused_and_never_left_out() {
        let config = Config { mark: Some(42), ..Config::default() };
        match config.open(&SocketAddr::from(([127, 0, 0, 1], 80))) {
            Ok(socket) => assert_eq!(socket.mark().unwrap(), 42),
            Err(error) => {
                assert_eq!(error.kind(), ConnectErrorKind::Socket);
                assert_eq!(error.io_kind(), io::ErrorKind::PermissionDenied);
            }
        }
    }

    #[test]
    fn what_cannot_be_bound_is_a_socket_error_with_the_address() {
        let config = Config { local_ipv4: Some(Ipv4Addr::new(192, 0, 2, 77)), ..Config::default() };
        let error = config.open(&SocketAddr::from(([127, 0, 0, 1], 80))).unwrap_err();
        assert_eq!(error.kind(), ConnectErrorKind::Socket);
        assert_eq!(error.address(), Some(SocketAddr::from(([127, 0, 0, 1], 80))));
        assert_eq!(error.io_kind(), io::ErrorKind::AddrNotAvailable);
    }
}
