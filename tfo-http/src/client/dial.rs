//! From a URL to a connection: direct, through a proxy, with TLS.

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use hyper_util::client::legacy::connect::proxy::{SocksV4, SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tower_service::Service;

use super::error::{ErrorKind, Timeout};
use crate::connector::{Resolve, TfoConnector};
use crate::error::{BoxError, ConnectError};
use crate::info::{ConnInfo, Reason, SynOutcome};
use crate::stream::TfoStream;

type Pending<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// A connector whose resolver's type is forgotten.
pub(super) type Dial = Arc<dyn Fn(Uri) -> Pending<TokioIo<TfoStream>, ConnectError> + Send + Sync>;

pub(super) fn dial_by<R: Resolve>(connector: TfoConnector<R>) -> Dial {
    Arc::new(move |uri| {
        let mut connector = connector.clone();
        Box::pin(async move {
            poll_fn(|cx| connector.poll_ready(cx)).await?;
            connector.call(uri).await
        })
    })
}

/// The client's connector.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) direct: Dial,
    pub(super) proxies: Arc<Proxies>,
    pub(super) timeout: Option<Duration>,
    #[cfg(feature = "rustls")]
    pub(super) tls: Arc<rustls::ClientConfig>,
}

/// Which proxy stands before which origin, and how it is dialled.
pub(super) struct Proxies {
    pub(super) matcher: Option<Arc<Matcher>>,
    pub(super) dial: Dial,
}

impl Proxies {
    pub(super) fn intercept(&self, uri: &Uri) -> Option<Intercept> {
        self.matcher.as_ref()?.intercept(uri)
    }

    /// The proxy that is sent the request itself, not a tunnel's: it needs the credentials with it.
    pub(super) fn forward(&self, uri: &Uri) -> Option<Intercept> {
        self.intercept(uri).filter(|proxy| is_forward(proxy, uri))
    }
}

fn is_forward(proxy: &Intercept, uri: &Uri) -> bool {
    proxy.uri().scheme() == Some(&Scheme::HTTP) && uri.scheme() == Some(&Scheme::HTTP)
}

/// A connection that did not come about, and how far it came.
#[derive(Debug)]
pub(super) struct DialError {
    pub(super) kind: ErrorKind,
    pub(super) info: Option<ConnInfo>,
    source: BoxError,
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no connection")
    }
}

impl StdError for DialError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}

#[cfg(feature = "rustls")]
type Stream = hyper_rustls::MaybeHttpsStream<Routed>;
#[cfg(not(feature = "rustls"))]
type Stream = Routed;

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = DialError;
    type Future = Pending<Stream, DialError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let info = Arc::new(OnceLock::new());
        let direct = Leg { dial: self.direct.clone(), info: info.clone() };
        let proxy = Leg { dial: self.proxies.dial.clone(), info: info.clone() };
        let route = Route { direct, proxy, proxies: self.proxies.clone() };
        #[cfg(feature = "rustls")]
        let mut route = hyper_rustls::HttpsConnector::from((route, self.tls.clone()));
        #[cfg(not(feature = "rustls"))]
        let mut route = route;
        let connecting = route.call(uri);
        let timeout = self.timeout;
        Box::pin(async move {
            let failed = |kind, source| {
                let info: Option<&ConnInfo> = info.get();
                // Not all that stands on a connection passes its error on.
                let kind = match info.map(|info| (info.outcome(), info.reason())) {
                    Some((SynOutcome::Failed, Some(Reason::TimedOut))) => {
                        ErrorKind::Timeout(Timeout::Connect)
                    }
                    Some((SynOutcome::Failed, _)) => ErrorKind::Connect,
                    _ => kind,
                };
                DialError { kind, info: info.cloned(), source }
            };
            let connected = match timeout {
                None => connecting.await,
                Some(timeout) => tokio::time::timeout(timeout, connecting).await.map_err(|_| {
                    failed(
                        ErrorKind::Timeout(Timeout::Connect),
                        io::Error::from(io::ErrorKind::TimedOut).into(),
                    )
                })?,
            };
            connected.map_err(|source| match source.downcast::<RouteError>() {
                Ok(error) => failed(error.kind, error.source),
                // The route was there: what failed is TLS.
                Err(source) => failed(ErrorKind::Tls, source),
            })
        })
    }
}

/// One TCP connection, of which is remembered what it did.
struct Leg {
    dial: Dial,
    info: Arc<OnceLock<ConnInfo>>,
}

impl Service<Uri> for Leg {
    type Response = TokioIo<TfoStream>;
    type Error = ConnectError;
    type Future = Pending<TokioIo<TfoStream>, ConnectError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, info) = ((self.dial)(uri), self.info.clone());
        Box::pin(async move {
            let result = connecting.await;
            let told = match &result {
                Ok(stream) => Some(stream.inner().conn_info()),
                Err(error) => error.conn_info(),
            };
            let _ = told.map(|told| info.set(told.clone()));
            result
        })
    }
}

/// The way to an origin, as one connection.
struct Route {
    direct: Leg,
    proxy: Leg,
    proxies: Arc<Proxies>,
}

#[derive(Debug)]
struct RouteError {
    kind: ErrorKind,
    source: BoxError,
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no way to the server")
    }
}

impl StdError for RouteError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}

impl Service<Uri> for Route {
    type Response = Routed;
    type Error = BoxError;
    type Future = Pending<Routed, BoxError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let failed = |kind| move |source: BoxError| RouteError { kind, source };
        let Some(proxy) = self.proxies.intercept(&uri) else {
            let connecting = self.direct.call(uri);
            return Box::pin(async move {
                let io = connecting.await.map_err(|error| failed(ErrorKind::Connect)(error.into()))?;
                Ok(Routed { io, forwarded: false })
            });
        };
        let forwarded = is_forward(&proxy, &uri);
        let leg = Leg { dial: self.proxy.dial.clone(), info: self.proxy.info.clone() };
        Box::pin(async move {
            let io = through(&proxy, uri, leg, forwarded).await;
            Ok(Routed { io: io.map_err(failed(ErrorKind::Proxy))?, forwarded })
        })
    }
}

async fn through(
    proxy: &Intercept,
    uri: Uri,
    mut leg: Leg,
    forwarded: bool,
) -> Result<TokioIo<TfoStream>, BoxError> {
    if forwarded {
        return Ok(leg.call(proxy.uri().clone()).await?);
    }
    let scheme = proxy.uri().scheme_str().unwrap_or_default();
    match scheme {
        "http" => {
            let mut tunnel = Tunnel::new(proxy.uri().clone(), leg);
            if let Some(auth) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(auth.clone());
            }
            Ok(tunnel.call(uri).await?)
        }
        "socks5" | "socks5h" => {
            let mut socks = SocksV5::new(socks_uri(proxy)?, leg).local_dns(scheme == "socks5");
            if let Some((user, password)) = proxy.raw_auth() {
                socks = socks.with_auth(user.to_owned(), password.to_owned());
            }
            Ok(socks.call(uri).await?)
        }
        "socks4" | "socks4a" => {
            Ok(SocksV4::new(socks_uri(proxy)?, leg).local_dns(scheme == "socks4").call(uri).await?)
        }
        _ => Err(format!("a proxy with the scheme {scheme} is not supported").into()),
    }
}

/// RFC 1928 section 3: the port is 1080.
fn socks_uri(proxy: &Intercept) -> Result<Uri, BoxError> {
    let host = proxy.uri().host().ok_or("the proxy has no host")?;
    let port = proxy.uri().port_u16().unwrap_or(1080);
    Ok(format!("http://{host}:{port}").parse::<Uri>()?)
}

/// What a route leads to.
pub(super) struct Routed {
    io: TokioIo<TfoStream>,
    /// hyper then writes the whole URL into the request (RFC 9112 section 3.2.2).
    forwarded: bool,
}

impl Connection for Routed {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.forwarded)
    }
}

impl hyper::rt::Read for Routed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Routed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_s_credentials_are_for_what_the_proxy_reads() {
        let dial: Dial = dial_by(TfoConnector::new());
        let forwards = |proxy: &str, url: &'static str| {
            let matcher = Some(Arc::new(Matcher::builder().all(proxy).build()));
            Proxies { matcher, dial: dial.clone() }.forward(&Uri::from_static(url)).is_some()
        };
        assert!(forwards("http://me:secret@proxy:3128", "http://host/"));
        assert!(!forwards("http://me:secret@proxy:3128", "https://host/"), "through a tunnel");
        assert!(!forwards("socks5://me:secret@proxy:1080", "http://host/"));
    }
}
