//! The paved path: a client that puts requests into SYNs where that is safe and works.

mod body;
mod builder;
mod dial;
mod error;
mod hop;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, Uri};
use http_body_util::Full;
use hyper_util::client::legacy;
use tokio::time::{Instant, timeout_at};
use tower_http::follow_redirect::{FollowRedirect, RequestUri};
use tower_service::Service as _;

pub use body::ResponseBody;
pub use builder::ClientBuilder;
pub use error::{Error, ErrorKind, Timeout};

use crate::metrics::{Recorder, TfoMetrics};
use dial::{Connector, Proxies};
use hop::{Hop, Redirects, Trail};

/// An HTTP client whose requests ride in SYNs.
///
/// hyper's pooled client on a [`TfoConnector`](crate::TfoConnector), with what a program needs around
/// it: timeouts, redirects, the environment's proxies, TLS (feature `rustls`), decompression (feature
/// `decompression`). A clone is the same client, with the same connections.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use tfo_http::{Client, ConnInfo};
///
/// let client = Client::new()?;
/// let response = client.get("http://example.com/").await?;
/// if let Some(info) = response.extensions().get::<ConnInfo>() {
///     println!("{}: {:?} saved", info.outcome(), info.saved());
/// }
/// let body = response.into_body().bytes(1 << 20).await?;
/// # Ok(())
/// # }
/// ```
///
/// # What is sent twice
///
/// A request is sent a second time, once, if its connection was lost before it carried the request, or
/// if an HTTP/2 server has turned it away unread (RFC 9113 section 8.7), whatever its method; and if its
/// connection was lost later, if it has a safe method (RFC 9110 section 9.2.1) and no body. Nothing else
/// is: [`Error::maybe_executed`] tells what is left to the caller. A refused connection is an answer,
/// and what timed out is not begun again.
///
/// # Limits
///
/// A request's body is held in memory, because a redirect may want it again. For bodies that are
/// streams use hyper-util's client with a [`TfoConnector`](crate::TfoConnector). Answers' heads have at
/// most 100 fields and about 400 kB.
///
/// # Cancel safety
///
/// Dropping a request's future gives the request up; whether the server acts on it is then unknown.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    rides: legacy::Client<Connector, Full<Bytes>>,
    /// For what must not ride, with connections of its own: a pool has no requests in its keys.
    plain: legacy::Client<Connector, Full<Bytes>>,
    proxies: Arc<Proxies>,
    read_timeout: Option<Duration>,
    total_timeout: Option<Duration>,
    max_redirects: usize,
    recorder: Recorder,
}

/// In a request's extensions: nothing of it goes out in a SYN, nor of the requests that its redirects
/// lead to; no cookie is asked for, and none shown.
///
/// ```
/// use tfo_http::client::NotInSyn;
///
/// let mut request = http::Request::get("http://example.com/secret").body("").unwrap();
/// request.extensions_mut().insert(NotInSyn);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "it is written as a value")]
pub struct NotInSyn;

/// In an answer's extensions: the URL that it is the answer of, after redirects, credentials masked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FinalUrl(pub Uri);

impl Client {
    /// With defaults: see [`ClientBuilder`].
    ///
    /// # Errors
    ///
    /// See [`ClientBuilder::build`].
    pub fn new() -> Result<Self, Error> {
        Self::builder().build()
    }

    /// To set what the defaults do not suit.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::new()
    }

    /// A GET.
    ///
    /// # Errors
    ///
    /// See [`Client::request`].
    pub async fn get(&self, url: impl TryInto<Uri, Error: Into<http::Error>>) -> Result<Answer, Error> {
        self.method(Method::GET, url, Bytes::new()).await
    }

    /// A HEAD.
    ///
    /// # Errors
    ///
    /// See [`Client::request`].
    pub async fn head(&self, url: impl TryInto<Uri, Error: Into<http::Error>>) -> Result<Answer, Error> {
        self.method(Method::HEAD, url, Bytes::new()).await
    }

    /// A POST. It does not ride, unless the connector was told that it may.
    ///
    /// # Errors
    ///
    /// See [`Client::request`].
    pub async fn post(
        &self,
        url: impl TryInto<Uri, Error: Into<http::Error>>,
        body: impl Into<Bytes>,
    ) -> Result<Answer, Error> {
        self.method(Method::POST, url, body.into()).await
    }

    async fn method(
        &self,
        method: Method,
        url: impl TryInto<Uri, Error: Into<http::Error>>,
        body: Bytes,
    ) -> Result<Answer, Error> {
        let url = url.try_into().map_err(|error| Error::new(ErrorKind::InvalidUrl).because(error.into()))?;
        let mut request = Request::new(body);
        (*request.method_mut(), *request.uri_mut()) = (method, url);
        self.request(request).await
    }

    /// Any request. Its answer has [`ConnInfo`](crate::ConnInfo) and [`FinalUrl`] in its extensions;
    /// a status of 400 and above is an answer like any other.
    ///
    /// # Errors
    ///
    /// When there is no answer: [`Error::kind`] says why. They have a
    /// [`ConnInfo`](crate::ConnInfo) too, if it came to an address.
    pub async fn request<B: Into<Bytes>>(&self, request: Request<B>) -> Result<Answer, Error> {
        let request = request.map(|body| Full::new(body.into()));
        #[cfg(feature = "tracing")]
        return span::request(request, |request| self.answer(request)).await;
        #[cfg(not(feature = "tracing"))]
        self.answer(request).await
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<Answer, Error> {
        let shared = &self.shared;
        let deadline = shared.total_timeout.map(|timeout| Instant::now() + timeout);
        let trail = Trail::new(error::masked(request.uri()));
        let plain = request.extensions().get::<NotInSyn>().is_some();
        let pool = if plain { shared.plain.clone() } else { shared.rides.clone() };
        let hop = Hop { shared: shared.clone(), pool, trail: trail.clone() };
        let redirects = Redirects::new(shared.max_redirects, trail.clone());
        let service = FollowRedirect::with_policy(hop, redirects);
        #[cfg(feature = "decompression")]
        let service = tower_http::decompression::Decompression::new(service);
        let mut service = service;
        let answering = service.call(request);
        let response = match deadline {
            None => answering.await?,
            Some(deadline) => timeout_at(deadline, answering)
                .await
                .map_err(|_| trail.complete(Error::new(ErrorKind::Timeout(Timeout::Total))))??,
        };
        let (mut head, body) = response.into_parts();
        let url = trail.url();
        let body = ResponseBody::new(body, shared.read_timeout, deadline, url.clone(), trail.info());
        // tower-http's own has the credentials.
        head.extensions.insert(RequestUri(url.clone()));
        head.extensions.insert(FinalUrl(url));
        Ok(Response::from_parts(head, body))
    }

    /// What this client's connections have done so far, and those of the connector that it was given.
    pub fn metrics(&self) -> TfoMetrics {
        self.shared.recorder.snapshot()
    }
}

/// What a [`Client`] answers with.
pub type Answer = Response<ResponseBody>;

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("metrics", &self.metrics()).finish_non_exhaustive()
    }
}

/// Names are those of OpenTelemetry's semantic conventions for HTTP clients.
#[cfg(feature = "tracing")]
mod span {
    use tracing::Instrument as _;
    use tracing::field::Empty;

    use super::*;
    use crate::ConnInfo;

    pub(super) async fn request<F: Future<Output = Result<Answer, Error>>>(
        request: Request<Full<Bytes>>,
        send: impl FnOnce(Request<Full<Bytes>>) -> F,
    ) -> Result<Answer, Error> {
        let url = request.uri();
        let default = if url.scheme_str() == Some("https") { 443 } else { 80 };
        let port = url.port_u16().unwrap_or(default);
        let span = tracing::debug_span!(
            target: "tfo_http",
            "request",
            otel.name = request.method().as_str(),
            otel.kind = "client",
            http.request.method = request.method().as_str(),
            url.full = %error::masked(url),
            server.address = url.host(),
            server.port = port,
            http.response.status_code = Empty,
            network.peer.address = Empty,
            network.peer.port = Empty,
            "error.type" = Empty,
        );
        let answer = send(request).instrument(span.clone()).await;
        let info = match &answer {
            Ok(answer) => {
                span.record("http.response.status_code", answer.status().as_u16());
                answer.extensions().get::<ConnInfo>()
            }
            Err(error) => {
                span.record("error.type", error.kind().as_str());
                error.conn_info()
            }
        };
        if let Some(peer) = info.map(ConnInfo::remote_addr) {
            span.record("network.peer.address", tracing::field::display(peer.ip()));
            span.record("network.peer.port", peer.port());
        }
        answer
    }
}
