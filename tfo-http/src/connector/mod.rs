mod dial;
mod warm;

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::Uri;
use http::uri::Scheme;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use tower_service::Service;

use crate::config::{Config, Hedge, LONGEST};
use crate::error::{BoxError, ConnectError, ConnectErrorKind};
#[cfg(feature = "client")]
use crate::metrics::Recorder;
use crate::metrics::TfoMetrics;
use crate::path::PathMemory;
use crate::policy::SynData;
use crate::stream::TfoStream;
use dial::FirstCall;
pub use warm::Warm;

/// A connector for hyper whose first flight rides in the SYN: it stands where `hyper_util`'s
/// `HttpConnector` stood.
///
/// On the first visit to an address the handshake is an ordinary one, and brings a cookie. On later
/// visits the connector answers at once, and the stream sends its SYN with the request in it.
/// Requests that a server might act on twice do not ride: see [`SynData`]. What it did and saved is
/// told by [`ConnInfo`](crate::ConnInfo).
///
/// ```
/// use hyper_util::client::legacy::Client;
/// use hyper_util::rt::TokioExecutor;
/// use tfo_http::TfoConnector;
///
/// let client = Client::builder(TokioExecutor::new())
///     .build::<_, http_body_util::Empty<bytes::Bytes>>(TfoConnector::new());
/// ```
///
/// # On bad paths
///
/// Where a SYN with TCP Fast Open is not answered, a plain attempt joins it ([`Hedge`]); where it is
/// refused, a plain one takes its place; where nothing follows its handshake, a plain one is tried
/// beside it. Bytes are sent a second time only if they are replay-safe. Paths are remembered
/// ([`PathMemory`]), so that the next requests cost what plain TCP costs.
///
/// # Differences from `HttpConnector`
///
/// * A refused, silent or unreachable server shows, on later visits, when the request is sent:
///   `hyper_util`'s `Error::is_connect()` is then false, and
///   [`is_connect_error`](crate::is_connect_error) is true.
/// * Addresses of both families are tried alternately (RFC 8305 section 4), each as soon as the one
///   before has failed or kept quiet for the happy eyeballs delay.
/// * `hyper_util`'s `HttpInfo` is missing where a connect was deferred, because its socket has no peer
///   yet: [`ConnInfo`](crate::ConnInfo) has the addresses.
/// * `SO_REUSEADDR` is set before the socket is bound, so that it counts for that.
/// * On later visits the stream sends nothing before the first write, or before somebody has read for a
///   second: a protocol in which the server speaks first loses that second, but for [`SynData::Never`].
/// * It needs the time driver of tokio's runtime (`enable_all`, which is `#[tokio::main]`'s way): its
///   connections have deadlines.
///
/// A clone shares the settings until it is changed.
#[derive(Clone)]
pub struct TfoConnector<R = GaiResolver> {
    config: Arc<Config>,
    resolver: R,
}

impl TfoConnector {
    /// With the system's resolver (`getaddrinfo`, on a thread of tokio's blocking pool).
    pub fn new() -> Self {
        Self::new_with_resolver(GaiResolver::new())
    }
}

impl Default for TfoConnector {
    fn default() -> Self {
        Self::new()
    }
}

impl<R> TfoConnector<R> {
    /// With a resolver: any service from `hyper_util`'s `Name` to socket addresses.
    pub fn new_with_resolver(resolver: R) -> Self {
        Self { config: Arc::default(), resolver }
    }

    /// Which first flights may ride in the SYN. Default [`SynData::SafeMethods`].
    pub fn set_syn_data(&mut self, syn_data: SynData) {
        self.config().syn_data = syn_data;
    }

    /// `TCP_FASTOPEN_NO_COOKIE`, for servers in these networks: the first visit rides too, and none
    /// asks for a cookie. Default: none. Linux 4.15.
    ///
    /// For networks in which the servers take data without a cookie (`net.ipv4.tcp_fastopen` bit
    /// 0x200, or the option on the listener), because nobody can forge an address there (RFC 7413
    /// section 5): others ignore the data, and it is sent again behind the handshake.
    pub fn set_no_cookie(&mut self, networks: impl IntoIterator<Item = IpNet>) {
        self.config().no_cookie = networks.into_iter().collect();
    }

    /// Whether only the `http` scheme is allowed. Default true; TLS connectors on top need false.
    pub fn enforce_http(&mut self, enforce: bool) {
        self.config().enforce_http = enforce;
    }

    /// `SO_KEEPALIVE` and, on Linux, `TCP_KEEPIDLE`: keep-alive probes after so much silence.
    /// Default `None`: off.
    pub fn set_keepalive(&mut self, time: Option<Duration>) {
        self.config().keepalive.time = time;
    }

    /// `TCP_KEEPINTVL`: the time between keep-alive probes. Default `None`: the system's.
    pub fn set_keepalive_interval(&mut self, interval: Option<Duration>) {
        self.config().keepalive.interval = interval;
    }

    /// `TCP_KEEPCNT`: unanswered keep-alive probes after which the connection is given up. Default
    /// `None`: the system's.
    pub fn set_keepalive_retries(&mut self, retries: Option<u32>) {
        self.config().keepalive.retries = retries;
    }

    /// `TCP_NODELAY`. Default false.
    pub fn set_nodelay(&mut self, nodelay: bool) {
        self.config().nodelay = nodelay;
    }

    /// `SO_SNDBUF`, bytes. Default `None`: the system's.
    pub fn set_send_buffer_size(&mut self, size: Option<usize>) {
        self.config().send_buffer_size = size;
    }

    /// `SO_RCVBUF`, bytes. Default `None`: the system's.
    pub fn set_recv_buffer_size(&mut self, size: Option<usize>) {
        self.config().recv_buffer_size = size;
    }

    /// The local address to connect from; it leaves addresses of the other family out. Default
    /// `None`: the system's choice.
    ///
    /// Linux keeps cookies by local and remote address: another local address has to ask anew.
    pub fn set_local_address(&mut self, address: Option<IpAddr>) {
        let config = self.config();
        (config.local_ipv4, config.local_ipv6) = match address {
            Some(IpAddr::V4(v4)) => (Some(v4), None),
            Some(IpAddr::V6(v6)) => (None, Some(v6)),
            None => (None, None),
        };
    }

    /// The local addresses to connect from, one of each family.
    pub fn set_local_addresses(&mut self, ipv4: Ipv4Addr, ipv6: Ipv6Addr) {
        let config = self.config();
        (config.local_ipv4, config.local_ipv6) = (Some(ipv4), Some(ipv6));
    }

    /// How long a connection may take from its SYN to the end of the handshake, all addresses
    /// together. Default `None`: the kernel's patience, about two minutes. A year at most.
    ///
    /// It holds for deferred connects too: there the time runs from the first flight.
    pub fn set_connect_timeout(&mut self, timeout: Option<Duration>) {
        self.config().connect_timeout = timeout.map(|timeout| timeout.min(LONGEST));
    }

    /// How long an address may keep quiet before the next is tried beside it. Default 300 ms, as
    /// `HttpConnector`; `None`: one after the other.
    pub fn set_happy_eyeballs_timeout(&mut self, timeout: Option<Duration>) {
        self.config().happy_eyeballs_timeout = timeout.map(|timeout| timeout.min(LONGEST));
    }

    /// `SO_REUSEADDR`. Default false.
    pub fn set_reuse_address(&mut self, reuse: bool) -> &mut Self {
        self.config().reuse_address = reuse;
        self
    }

    /// `SO_BINDTODEVICE`: the network interface to connect through. Linux only, elsewhere without
    /// effect. Default none.
    pub fn set_interface(&mut self, interface: impl Into<String>) -> &mut Self {
        self.config().interface = Some(interface.into());
        self
    }

    /// `SO_MARK`. Linux only, elsewhere without effect; needs `CAP_NET_ADMIN`. Default `None`.
    pub fn set_mark(&mut self, mark: Option<u32>) {
        self.config().mark = mark;
    }

    /// `TCP_USER_TIMEOUT`: how long sent data may stay unacked. Linux only, elsewhere without
    /// effect. Default `None`: the system's.
    pub fn set_tcp_user_timeout(&mut self, timeout: Option<Duration>) {
        self.config().tcp_user_timeout = timeout;
    }

    /// When a plain attempt joins one with TCP Fast Open that is not answered. Default
    /// [`Hedge::Auto`].
    pub fn set_hedge(&mut self, hedge: Hedge) {
        self.config().hedge = hedge;
    }

    /// Whether, of several addresses, one to which rides are known to arrive is tried first. Default
    /// true; false keeps the resolver's order, where that balances load.
    pub fn set_prefer_rides(&mut self, prefer: bool) {
        self.config().prefer_rides = prefer;
    }

    /// Where it is remembered which paths carry TCP Fast Open and which do not. Default: in memory,
    /// for 8,192 paths, shared by all clones of a connector. A process that lives shortly keeps it in a
    /// file (`PathMemory::in_file`, feature `path-file`): the kernel's cookies outlive it, and so do bad paths.
    pub fn set_path_memory(&mut self, memory: PathMemory) {
        self.config().memory = memory;
    }

    /// What is remembered of paths.
    pub fn path_memory(&self) -> &PathMemory {
        &self.config.memory
    }

    /// What this connector and its clones have done so far.
    pub fn metrics(&self) -> TfoMetrics {
        self.config.metrics.snapshot()
    }

    #[cfg(feature = "client")]
    pub(crate) fn recorder(&self) -> Recorder {
        self.config.metrics.clone()
    }

    /// Copied when shared: the connectors cloned before keep their settings.
    fn config(&mut self) -> &mut Config {
        Arc::make_mut(&mut self.config)
    }
}

impl<R> fmt::Debug for TfoConnector<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TfoConnector").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A `hyper_util` resolver: what `TfoConnector` can be used with. Implemented for all that fit.
pub trait Resolve: Clone + Send + Sync + 'static {
    /// The answer.
    type Addrs: Iterator<Item = SocketAddr>;
    /// What can go wrong.
    type Error: Into<BoxError>;
    /// The way there.
    type Future: Future<Output = Result<Self::Addrs, Self::Error>> + Send;

    /// Whether it can take a name now.
    #[doc(hidden)]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>>;
    /// The addresses of a name.
    #[doc(hidden)]
    fn resolve(&mut self, name: Name) -> Self::Future;
}

impl<S> Resolve for S
where
    S: Service<Name> + Clone + Send + Sync + 'static,
    S::Response: Iterator<Item = SocketAddr>,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    type Addrs = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::poll_ready(self, cx)
    }

    fn resolve(&mut self, name: Name) -> Self::Future {
        self.call(name)
    }
}

impl<R: Resolve> Service<Uri> for TfoConnector<R> {
    type Response = TokioIo<TfoStream>;
    type Error = ConnectError;
    type Future = TfoConnecting;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.resolver.poll_ready(cx).map_err(|error| ConnectError::new(ConnectErrorKind::Dns, error))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let config = self.config.clone();
        // The clone that was polled ready has to be the one that is called.
        let clone = self.resolver.clone();
        let resolver = std::mem::replace(&mut self.resolver, clone);
        TfoConnecting(Box::pin(async move {
            let (addresses, dns) = addresses(&config, resolver, &uri).await?;
            let dialled = dial::dial(config.clone(), addresses, dns, FirstCall::Send).await;
            dialled.map(TokioIo::new).map_err(|error| {
                let error = error.after_dns(dns);
                if let Some(info) = error.conn_info() {
                    config.metrics.failed(info);
                }
                error
            })
        }))
    }
}

/// The future of a [`TfoConnector`]. Dropping it gives the connection up.
pub struct TfoConnecting(Pin<Box<dyn Future<Output = Result<TokioIo<TfoStream>, ConnectError>> + Send>>);

impl Future for TfoConnecting {
    type Output = Result<TokioIo<TfoStream>, ConnectError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for TfoConnecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TfoConnecting").finish_non_exhaustive()
    }
}

/// The addresses of a URI in the order in which they are tried, and how long the name took.
async fn addresses<R: Resolve>(
    config: &Config,
    mut resolver: R,
    uri: &Uri,
) -> Result<(Vec<SocketAddr>, Option<Duration>), ConnectError> {
    let (host, port) = host_and_port(config, uri)?;
    if let Ok(ip) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok((reachable(config, [SocketAddr::new(ip, port)].into_iter()), None));
    }
    let begun = Instant::now();
    let dns_error = |error: BoxError| ConnectError::new(ConnectErrorKind::Dns, error);
    let name = host.parse::<Name>().map_err(|error| dns_error(error.into()))?;
    let found = resolver.resolve(name).await.map_err(|error| dns_error(error.into()))?;
    let found = found.map(|mut address| {
        // A port in the URI has the last word, the resolver's comes before the scheme's.
        if uri.port().is_some() || address.port() == 0 {
            address.set_port(port);
        }
        address
    });
    Ok((reachable(config, found), Some(begun.elapsed())))
}

fn host_and_port<'a>(config: &Config, uri: &'a Uri) -> Result<(&'a str, u16), ConnectError> {
    let invalid = |why: &str| Err(ConnectError::new(ConnectErrorKind::InvalidUri, why));
    if config.enforce_http && uri.scheme() != Some(&Scheme::HTTP) {
        return invalid("the scheme is not http");
    }
    if uri.scheme().is_none() {
        return invalid("the scheme is missing");
    }
    let Some(host) = uri.host() else { return invalid("the host is missing") };
    let default = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    Ok((host, uri.port_u16().unwrap_or(default)))
}

/// RFC 8305 section 4: the families take turns, beginning with the resolver's first.
fn reachable(config: &Config, found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut found: Vec<_> = found.filter(|address| config.can_reach(address)).collect();
    let Some(first) = found.first().map(SocketAddr::is_ipv4) else { return found };
    if found.iter().all(|address| address.is_ipv4() == first) {
        return found;
    }
    let (preferred, other): (Vec<SocketAddr>, Vec<SocketAddr>) =
        found.iter().partition(|address| address.is_ipv4() == first);
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    found.clear();
    loop {
        let before = found.len();
        found.extend(preferred.next());
        found.extend(other.next());
        if found.len() == before {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn families_take_turns() {
        let (a4, b4, a6, b6, c6) = (
            addr("192.0.2.1:1"),
            addr("192.0.2.2:1"),
            addr("[2001:db8::1]:1"),
            addr("[2001:db8::2]:1"),
            addr("[2001:db8::3]:1"),
        );
        let order = |found: &[SocketAddr]| reachable(&Config::default(), found.iter().copied());
        assert_eq!(order(&[a6, b6, c6, a4, b4]), [a6, a4, b6, b4, c6]);
        assert_eq!(order(&[a4, b4, a6]), [a4, a6, b4]);
        assert_eq!(order(&[b4, a4]), [b4, a4]);
        assert_eq!(order(&[]), []);
        let only_v6 = Config { local_ipv6: Some(Ipv6Addr::LOCALHOST), ..Config::default() };
        assert_eq!(reachable(&only_v6, [a4, a6, b4].into_iter()), [a6]);
    }

    #[tokio::test]
    async fn uris_that_are_no_use() {
        let mut config = Config::default();
        for (uri, why) in [
            ("https://host/", "the scheme is not http"),
            ("/path", "the scheme is not http"),
            ("host:80", "the scheme is not http"),
        ] {
            let error = host_and_port(&config, &uri.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), ConnectErrorKind::InvalidUri);
            assert_eq!(std::error::Error::source(&error).unwrap().to_string(), why, "{uri}");
        }
        config.enforce_http = false;
        assert!(host_and_port(&config, &"/path".parse().unwrap()).is_err());
        assert_eq!(host_and_port(&config, &"https://host/".parse().unwrap()).unwrap(), ("host", 443));
        assert_eq!(host_and_port(&config, &"http://host:8/".parse().unwrap()).unwrap(), ("host", 8));
        let literal = "http://[2001:db8::1]/".parse().unwrap();
        let (found, dns) = addresses(&config, GaiResolver::new(), &literal).await.unwrap();
        assert_eq!((found, dns), (vec![addr("[2001:db8::1]:80")], None));
    }

    #[tokio::test]
    async fn no_duration_is_too_long() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for time in [Duration::MAX, Duration::from_secs(i64::MAX as u64), LONGEST] {
            let mut connector = TfoConnector::new();
            connector.set_connect_timeout(Some(time));
            connector.set_happy_eyeballs_timeout(Some(time));
            connector.set_hedge(Hedge::After(time));
            connector.set_keepalive(Some(time));
            connector.set_keepalive_interval(Some(time));
            connector.set_tcp_user_timeout(Some(time));
            // Two addresses, so that the second waits for the first's delay.
            dial::dial(connector.config.clone(), vec![gone, there], None, FirstCall::Send).await.unwrap();
            let config = &connector.config;
            let kept = [config.connect_timeout, config.happy_eyeballs_timeout, config.hedge.guard(None)];
            assert_eq!(kept, [Some(LONGEST); 3]);
            assert!(config.hedge_delay(time, false) <= Some(LONGEST));
        }
    }

    #[test]
    fn a_clone_keeps_its_settings() {
        let mut one = TfoConnector::new();
        let two = one.clone();
        one.set_nodelay(true);
        assert!(one.config.nodelay && !two.config.nodelay);
    }
}
