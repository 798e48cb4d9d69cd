use std::env;
use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::dial::{Connector, Proxies, dial_by};
use super::error::{Error, ErrorKind};
use super::{Client, Shared};
use crate::config::LONGEST;
use crate::connector::{Resolve, TfoConnector};
use crate::policy::SynData;

/// How a [`Client`] is to be. From [`Client::builder`].
#[derive(Clone)]
pub struct ClientBuilder<R = GaiResolver> {
    connector: TfoConnector<R>,
    proxies: ProxySource,
    proxy_syn_data: bool,
    connect_timeout: Option<Duration>,
    read_timeout: Option<Duration>,
    total_timeout: Option<Duration>,
    max_redirects: usize,
    pool_idle_timeout: Option<Duration>,
    pool_max_idle_per_host: usize,
    #[cfg(feature = "http2")]
    http2_only: bool,
    #[cfg(feature = "rustls")]
    tls: Option<rustls::ClientConfig>,
}

#[derive(Clone)]
enum ProxySource {
    Environment,
    None,
    All(String),
}

impl ClientBuilder {
    pub(super) fn new() -> Self {
        Self {
            connector: TfoConnector::new(),
            proxies: ProxySource::Environment,
            proxy_syn_data: false,
            connect_timeout: Some(Duration::from_secs(10)),
            read_timeout: Some(Duration::from_secs(30)),
            total_timeout: None,
            max_redirects: 10,
            pool_idle_timeout: Some(Duration::from_secs(90)),
            pool_max_idle_per_host: usize::MAX,
            #[cfg(feature = "http2")]
            http2_only: false,
            #[cfg(feature = "rustls")]
            tls: None,
        }
    }
}

impl<R> ClientBuilder<R> {
    /// The connector: what may ride, the path memory, the resolver, sockets. The client's connect
    /// timeout takes the place of the connector's. Default [`TfoConnector::new`].
    pub fn connector<R2>(self, connector: TfoConnector<R2>) -> ClientBuilder<R2> {
        ClientBuilder {
            connector,
            proxies: self.proxies,
            proxy_syn_data: self.proxy_syn_data,
            connect_timeout: self.connect_timeout,
            read_timeout: self.read_timeout,
            total_timeout: self.total_timeout,
            max_redirects: self.max_redirects,
            pool_idle_timeout: self.pool_idle_timeout,
            pool_max_idle_per_host: self.pool_max_idle_per_host,
            #[cfg(feature = "http2")]
            http2_only: self.http2_only,
            #[cfg(feature = "rustls")]
            tls: self.tls,
        }
    }

    /// How long the way to the server may take: the name, the handshakes of TCP and TLS, the proxy.
    /// Default 10 s; `None`: as long as the kernel is patient, about two minutes.
    ///
    /// Where the handshake is deferred to the request, it has this time again for itself.
    pub fn connect_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long the server may keep quiet: from the connection to the head of the answer, and in each
    /// pause of the body. Default 30 s; `None`: for ever.
    pub fn read_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.read_timeout = timeout;
        self
    }

    /// How long a request may take, from the call to the end of the answer's body, redirects and
    /// second attempts included. Default `None`: no limit.
    pub fn total_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.total_timeout = timeout;
        self
    }

    /// How many redirects are followed before [`ErrorKind::Redirect`]. Default 10. With 0 none is
    /// followed, and the redirect is the answer.
    ///
    /// Methods change as RFC 9110 section 15.4 has it: POST becomes GET at 301 and 302, everything but
    /// HEAD at 303, nothing at 307 and 308. `Authorization`, `Cookie` and `Proxy-Authorization` do not
    /// go to another origin.
    pub fn max_redirects(mut self, redirects: usize) -> Self {
        self.max_redirects = redirects;
        self
    }

    /// How long a connection without a request is kept. Default 90 s; `None`: for ever.
    pub fn pool_idle_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.pool_idle_timeout = timeout;
        self
    }

    /// How many connections without a request are kept for each host. Default no limit; 0: each
    /// request has a connection of its own.
    pub fn pool_max_idle_per_host(mut self, idle: usize) -> Self {
        self.pool_max_idle_per_host = idle;
        self
    }

    /// No proxies, whatever the environment says.
    pub fn no_proxy(mut self) -> Self {
        self.proxies = ProxySource::None;
        self
    }

    /// One proxy for everything: `http://`, `socks4://`, `socks4a://`, `socks5://` or `socks5h://`,
    /// credentials in the URL. Default: those of the environment, as curl reads them (`HTTP_PROXY`,
    /// `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, and in lower case; none where `REQUEST_METHOD` is set,
    /// as in CGI programs).
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.proxies = ProxySource::All(url.into());
        self
    }

    /// Whether requests may ride to proxies too. Default false: a proxy is a near and old box, and
    /// often the one that mistreats TCP Fast Open.
    pub fn proxy_syn_data(mut self, ride: bool) -> Self {
        self.proxy_syn_data = ride;
        self
    }

    /// HTTP/2 without being asked for by TLS, for servers that are known to speak it. Default false.
    #[cfg(feature = "http2")]
    pub fn http2_only(mut self, only: bool) -> Self {
        self.http2_only = only;
        self
    }

    /// How TLS is spoken. Default: rustls' default provider, with the system's roots. Its ALPN
    /// protocols are set by the client.
    ///
    /// A ClientHello rides if it fits into the SYN. That of rustls' default, which is safe against
    /// quantum computers, has some 1,500 bytes and does not: nothing is lost and nothing gained. One
    /// without `X25519MLKEM768` has about 300 and rides; that is weaker, so only the caller can choose it:
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::Arc;
    /// use rustls::crypto::aws_lc_rs;
    ///
    /// let mut provider = aws_lc_rs::default_provider();
    /// provider.kx_groups = vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];
    /// let tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
    ///     .with_safe_default_protocol_versions()?
    ///     .with_root_certificates(rustls::RootCertStore::empty()) // yours
    ///     .with_no_client_auth();
    /// let client = tfo_http::Client::builder().tls_config(tls).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "rustls")]
    pub fn tls_config(mut self, config: rustls::ClientConfig) -> Self {
        self.tls = Some(config);
        self
    }
}

impl<R: Resolve> ClientBuilder<R> {
    /// The client.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidProxy`]: a proxy that was given, or is in the environment, cannot be used;
    /// it is never passed by. [`ErrorKind::Tls`]: the system's roots could not be read.
    pub fn build(self) -> Result<Client, Error> {
        let matcher = match &self.proxies {
            ProxySource::None => None,
            ProxySource::All(url) => {
                check_proxy(url)?;
                Some(Matcher::builder().all(url.as_str()).build())
            }
            ProxySource::Environment => Some(proxies_of_environment()?),
        };
        let matcher = matcher.map(Arc::new);
        let [connect_timeout, read_timeout, total_timeout, pool_idle_timeout] =
            [self.connect_timeout, self.read_timeout, self.total_timeout, self.pool_idle_timeout]
                .map(|timeout| timeout.map(|timeout| timeout.min(LONGEST)));
        let mut direct = self.connector;
        direct.enforce_http(false);
        direct.set_connect_timeout(connect_timeout);
        let recorder = direct.recorder();
        let mut never = direct.clone();
        never.set_syn_data(SynData::Never);
        let (direct, never) = (dial_by(direct), dial_by(never));
        let proxy_dial = if self.proxy_syn_data { &direct } else { &never };
        let proxies = Arc::new(Proxies { matcher: matcher.clone(), dial: proxy_dial.clone() });
        let plain_proxies = Arc::new(Proxies { matcher, dial: never.clone() });
        #[cfg(feature = "rustls")]
        let tls = Arc::new(tls_config(self.tls)?);

        let mut pool = legacy::Client::builder(TokioExecutor::new());
        pool.pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(pool_idle_timeout)
            .pool_max_idle_per_host(self.pool_max_idle_per_host);
        #[cfg(feature = "http2")]
        pool.http2_only(self.http2_only);
        let build = |direct, proxies| {
            pool.build::<_, Full<Bytes>>(Connector {
                direct,
                proxies,
                timeout: connect_timeout,
                #[cfg(feature = "rustls")]
                tls: tls.clone(),
            })
        };
        Ok(Client {
            shared: Arc::new(Shared {
                rides: build(direct, proxies.clone()),
                plain: build(never, plain_proxies),
                proxies,
                read_timeout,
                total_timeout,
                max_redirects: self.max_redirects,
                recorder,
            }),
        })
    }
}

impl<R> fmt::Debug for ClientBuilder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("connector", &self.connector).finish_non_exhaustive()
    }
}

fn proxies_of_environment() -> Result<Matcher, Error> {
    check_environment(|name| env::var_os(name))?;
    Ok(Matcher::from_env())
}

/// `hyper_util` passes by what it cannot parse, and sends to the origin what was meant for a proxy.
fn check_environment(variable: impl Fn(&str) -> Option<OsString>) -> Result<(), Error> {
    // A CGI program's HTTP_PROXY is a header of whoever asks: it is not used, so it may be anything.
    if variable("REQUEST_METHOD").is_some() {
        return Ok(());
    }
    for names in [["ALL_PROXY", "all_proxy"], ["HTTP_PROXY", "http_proxy"], ["HTTPS_PROXY", "https_proxy"]] {
        let first = names.into_iter().find_map(|name| variable(name).map(|value| (name, value)));
        let Some((name, value)) = first.filter(|(_, value)| !value.is_empty()) else { continue };
        let valid = value.to_str().ok_or_else(not_a_url).and_then(check_proxy);
        valid.map_err(|error| Error::new(ErrorKind::InvalidProxy).because(format!("in {name}: {error}")))?;
    }
    Ok(())
}

fn not_a_url() -> Error {
    Error::new(ErrorKind::InvalidProxy).because("not a URL of a proxy")
}

fn check_proxy(url: &str) -> Result<(), Error> {
    let probe = Uri::from_static("http://origin.invalid/");
    let proxy = Matcher::builder().all(url).build().intercept(&probe).ok_or_else(not_a_url)?;
    if proxy.uri().scheme_str() == Some("https") {
        return Err(Error::new(ErrorKind::InvalidProxy).because("TLS to a proxy is not supported"));
    }
    if proxy.uri().host().is_none_or(str::is_empty) {
        return Err(not_a_url());
    }
    Ok(())
}

#[cfg(feature = "rustls")]
fn tls_config(config: Option<rustls::ClientConfig>) -> Result<rustls::ClientConfig, Error> {
    use hyper_rustls::ConfigBuilderExt as _;
    let failed = |error: crate::error::BoxError| Error::new(ErrorKind::Tls).because(error);
    let mut config = match config {
        Some(config) => config,
        None => {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(|error| failed(error.into()))?
                .with_native_roots()
                .map_err(|error| failed(error.into()))?
                .with_no_client_auth()
        }
    };
    config.alpn_protocols = if cfg!(feature = "http2") {
        vec![b"h2".to_vec(), b"http/1.1".to_vec()]
    } else {
        vec![b"http/1.1".to_vec()]
    };
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_cannot_be_used_is_an_error_and_never_passed_by() {
        for url in ["http://", "ftp://proxy:21", "https://proxy", ":", "http://a b", ""] {
            let error = Client::builder().proxy(url).build().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidProxy, "{url}");
        }
        for url in ["http://user:password@proxy:3128", "proxy:3128", "socks5h://proxy"] {
            Client::builder().proxy(url).build().unwrap();
        }
    }

    #[test]
    fn a_stranger_cannot_stop_a_cgi_program_by_its_proxy() {
        let check = |variables: &[(&str, &str)]| {
            check_environment(|name| variables.iter().find(|v| v.0 == name).map(|v| v.1.into()))
        };
        let bad = ("HTTP_PROXY", "not a url");
        assert_eq!(check(&[bad]).unwrap_err().kind(), ErrorKind::InvalidProxy);
        check(&[bad, ("REQUEST_METHOD", "GET")]).unwrap();
        check(&[("HTTP_PROXY", "http://proxy:3128"), ("https_proxy", "")]).unwrap();
    }
}
