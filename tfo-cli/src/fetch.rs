//! One request, its answer to the last byte, and what became of its connection.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::dns::{GaiAddrs, GaiResolver, Name};
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util::rt::TokioExecutor;
use tfo_http::{
    ConnInfo, ConnectError, ConnectErrorKind, Hedge, IpNet, PathMemory, Reason, SynData, SynOutcome,
    TfoConnector,
};
use tokio::time::timeout;
use tower_service::Service;

use crate::failure::{Code, Failure, chain};
use crate::output::Output;

/// Sends requests, and watches what becomes of them.
#[derive(Debug)]
pub(crate) struct Fetcher {
    client: Client<TfoConnector<Resolver>, Full<Bytes>>,
    settings: Settings,
}

/// What holds for every request.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// What may ride in the SYN.
    pub(crate) syn_data: SynData,
    /// When a plain attempt joins one that is not answered.
    pub(crate) hedge: Hedge,
    /// What is known of paths.
    pub(crate) memory: PathMemory,
    /// Where data goes without a cookie.
    pub(crate) no_cookie: Vec<IpNet>,
    /// Whether it is HTTP/2, else HTTP/1.1.
    pub(crate) http2: bool,
    /// Whether connections are kept for the next request.
    pub(crate) reuse: bool,
    /// For the name, and again for the handshake.
    pub(crate) connect_timeout: Duration,
    /// For a request as a whole.
    pub(crate) max_time: Option<Duration>,
}

/// A request that was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    pub(crate) body_bytes: u64,
    /// From the start of name resolution to the last byte of the body.
    pub(crate) elapsed: Duration,
    /// `None` if the connector did not say.
    pub(crate) info: Option<ConnInfo>,
}

/// A request that was not, or not to the end.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub(crate) failure: Failure,
    /// The status of an answer that did not come to its end.
    pub(crate) head: Option<(StatusCode, Version)>,
    pub(crate) elapsed: Duration,
    /// `None` if it never came to a connection.
    pub(crate) info: Option<ConnInfo>,
    /// Where no connection could tell: the address, and what became of the handshake.
    pub(crate) handshake: Option<(std::net::SocketAddr, SynOutcome, Reason)>,
}

impl Fetcher {
    pub(crate) fn new(settings: Settings) -> Self {
        let resolver = Resolver { inner: GaiResolver::new(), patience: settings.connect_timeout };
        let mut connector = TfoConnector::new_with_resolver(resolver);
        connector.set_syn_data(settings.syn_data.clone());
        connector.set_no_cookie(settings.no_cookie.iter().copied());
        connector.set_hedge(settings.hedge);
        connector.set_path_memory(settings.memory.clone());
        connector.set_connect_timeout(Some(settings.connect_timeout));
        let mut builder = Client::builder(TokioExecutor::new());
        builder.http2_only(settings.http2);
        if !settings.reuse {
            builder.pool_max_idle_per_host(0);
        }
        Self { client: builder.build(connector), settings }
    }

    /// Sends a request; its body goes to `output`, if there is one.
    pub(crate) async fn fetch(
        &self,
        mut request: Request<Full<Bytes>>,
        output: Option<&mut Output>,
    ) -> Result<Answer, Unanswered> {
        let capture = capture_connection(&mut request);
        let begun = Instant::now();
        let mut head = None;
        let exchange = self.exchange(request, output, begun, &mut head);
        let result = match self.settings.max_time {
            None => exchange.await,
            Some(whole) => timeout(whole, exchange).await.unwrap_or_else(|_| {
                let message = format!("timed out: no complete answer within {} (--max-time)", time(whole));
                Err((Failure::new(Code::TimedOut, message), None))
            }),
        };
        let info = captured(&capture);
        match result {
            Ok(answer) => Ok(Answer { info, ..answer }),
            Err((failure, handshake)) => {
                Err(Unanswered { failure, head, elapsed: begun.elapsed(), info, handshake })
            }
        }
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        output: Option<&mut Output>,
        begun: Instant,
        head: &mut Option<(StatusCode, Version)>,
    ) -> Result<Answer, Stumble> {
        let response = self.client.request(request).await.map_err(|error| self.explain(&error))?;
        let (status, version) = (response.status(), response.version());
        *head = Some((status, version));
        let body_bytes = receive(response, output).await.map_err(|failure| (failure, None))?;
        Ok(Answer { status, version, body_bytes, elapsed: begun.elapsed(), info: None })
    }

    /// What went wrong before there was an answer.
    fn explain(&self, error: &hyper_util::client::legacy::Error) -> Stumble {
        if let Some(error) = tfo_http::connect_error(error) {
            return (self.explain_connect(error), handshake(error));
        }
        // With HTTP/2 hyper does not pass it on, but the connection knows.
        if let Some(error) = connection_of(error).and_then(|info| info.connect_error()) {
            return (self.explain_connect(&error), handshake(&error));
        }
        let mut cause: &(dyn std::error::Error + 'static) = error;
        while let Some(next) = cause.source() {
            cause = next;
            if let Some(error) = cause.downcast_ref::<hyper::Error>() {
                return (explain_hyper(error), None);
            }
        }
        (Failure::because(Code::Receive, "the request failed", error), None)
    }

    fn explain_connect(&self, error: &ConnectError) -> Failure {
        let to = error.address().map_or_else(|| "the server".to_owned(), |address| address.to_string());
        let patience = time(self.settings.connect_timeout);
        let cause = std::error::Error::source(error);
        let why = cause.map_or_else(|| "no reason given".to_owned(), chain);
        if error.maybe_executed() {
            let code = if error.is_timeout() { Code::TimedOut } else { Code::Connect };
            let what = if error.is_timeout() { "no answer in time".to_owned() } else { why };
            let message = format!(
                "no connection to {to}: {what}; the server may have acted on the request (--syn-data)"
            );
            return Failure::new(code, message);
        }
        match error.kind() {
            ConnectErrorKind::Dns if error.is_timeout() => Failure::new(
                Code::TimedOut,
                format!("timed out: the name was not resolved within {patience}"),
            ),
            ConnectErrorKind::Dns => Failure::new(Code::Resolve, format!("cannot resolve the name: {why}")),
            ConnectErrorKind::InvalidUri => {
                Failure::new(Code::Usage, format!("the URL cannot be used: {why}"))
            }
            ConnectErrorKind::TimedOut => Failure::new(
                Code::TimedOut,
                format!("timed out: no connection to {to} within {patience} (--connect-timeout)"),
            ),
            _ if error.is_timeout() => {
                Failure::new(Code::TimedOut, format!("timed out: no connection to {to}: {why}"))
            }
            _ => Failure::new(Code::Connect, format!("cannot connect to {to}: {why}")),
        }
    }
}

fn connection_of(error: &hyper_util::client::legacy::Error) -> Option<ConnInfo> {
    let mut extras = http::Extensions::new();
    error.connect_info()?.get_extras(&mut extras);
    extras.remove()
}

/// What went wrong, and what became of the handshake if that was it.
type Stumble = (Failure, Option<(std::net::SocketAddr, SynOutcome, Reason)>);

fn handshake(error: &ConnectError) -> Option<(std::net::SocketAddr, SynOutcome, Reason)> {
    let reason = match error.io_kind() {
        io::ErrorKind::ConnectionRefused => Reason::Refused,
        _ if error.is_timeout() => Reason::TimedOut,
        _ => Reason::Error,
    };
    Some((error.address()?, SynOutcome::Failed, reason))
}

fn explain_hyper(error: &hyper::Error) -> Failure {
    let message = if error.is_incomplete_message() {
        "the server closed the connection before it had answered".to_owned()
    } else if error.is_parse() {
        format!("the answer is not HTTP/1.1: {}", chain(error))
    } else {
        format!("the connection broke: {}", chain(error))
    };
    Failure::new(Code::Receive, message)
}

/// Takes the body to its end; its length.
async fn receive(response: Response<Incoming>, mut output: Option<&mut Output>) -> Result<u64, Failure> {
    let promised =
        response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut body = response.into_body();
    let mut received = 0;
    if let Some(output) = output.as_deref_mut() {
        output.begin();
    }
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let of = promised.as_deref().map(|length| format!(" of {length}")).unwrap_or_default();
            let message = format!("the answer was cut off after {received}{of} bytes of its body");
            Failure::because(Code::Receive, message, &error)
        })?;
        if let Ok(data) = frame.into_data() {
            received += data.len() as u64;
            if let Some(output) = output.as_deref_mut() {
                output.write(&data).await?;
            }
        }
    }
    Ok(received)
}

fn captured(capture: &CaptureConnection) -> Option<ConnInfo> {
    let mut extensions = http::Extensions::new();
    capture.connection_metadata().as_ref()?.get_extras(&mut extensions);
    extensions.remove()
}

/// A time as it was given: `2s`.
fn time(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(time)
}

/// The system's resolver, with a limit to its patience.
#[derive(Clone, Debug)]
pub(crate) struct Resolver {
    inner: GaiResolver,
    patience: Duration,
}

impl Service<Name> for Resolver {
    type Response = GaiAddrs;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<GaiAddrs>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let addresses = timeout(self.patience, self.inner.call(name));
        Box::pin(async move { addresses.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) })
    }
}
