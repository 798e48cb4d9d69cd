//! One request of a chain of redirects, on one connection, or on a second if the first was lost.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderValue, PROXY_AUTHORIZATION};
use http::uri::Scheme;
use http::{Extensions, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use tokio::time::sleep;
use tower_http::follow_redirect::policy::{Action, Attempt, FilterCredentials, Policy};
use tower_service::Service;

use super::Shared;
use super::dial::Connector;
use super::error::{Error, ErrorKind, Timeout, find, masked, may_have_begun, with_authority};
use crate::error::{ConnectError, ConnectErrorKind, connect_error};
use crate::info::ConnInfo;

/// What sends one request after the other, for one request of the caller's.
#[derive(Clone)]
pub(super) struct Hop {
    pub(super) shared: Arc<Shared>,
    pub(super) pool: legacy::Client<Connector, Full<Bytes>>,
    pub(super) trail: Trail,
}

/// How far a request of the caller's has come: what an error tells, whoever notices it.
#[derive(Clone)]
pub(super) struct Trail(Arc<Mutex<Steps>>);

struct Steps {
    url: Uri,
    captured: Option<CaptureConnection>,
    /// A request was answered, or lost on its way, before this one.
    executed: bool,
}

impl Trail {
    pub(super) fn new(url: Uri) -> Self {
        Self(Arc::new(Mutex::new(Steps { url, captured: None, executed: false })))
    }

    /// The URL of the last request.
    pub(super) fn url(&self) -> Uri {
        self.with(|steps| steps.url.clone())
    }

    /// With all that is known.
    pub(super) fn complete(&self, error: Error) -> Error {
        let info = self.info();
        self.with(|steps| {
            let error = error.at(&steps.url).executed_before(steps.executed);
            if error.conn_info().is_some() { error } else { error.on(info) }
        })
    }

    pub(super) fn info(&self) -> Option<ConnInfo> {
        let captured = self.with(|steps| steps.captured.clone())?;
        let mut extras = Extensions::new();
        captured.connection_metadata().as_ref()?.get_extras(&mut extras);
        extras.remove()
    }

    fn with<T>(&self, look: impl FnOnce(&mut Steps) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Service<Request<Full<Bytes>>> for Hop {
    type Response = Response<Incoming>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let hop = self.clone();
        Box::pin(async move { hop.send(request).await.map_err(|error| hop.trail.complete(error)) })
    }
}

impl Hop {
    async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        self.trail.with(|steps| (steps.url, steps.captured) = (masked(request.uri()), None));
        check(request.uri())?;
        move_credentials(&mut request)?;
        if let Some(proxy) = self.shared.proxies.forward(request.uri())
            && let Some(auth) = proxy.basic_auth()
        {
            request.headers_mut().insert(PROXY_AUTHORIZATION, auth.clone());
        }
        let (parts, body) = request.into_parts();
        let attempt = || Request::from_parts(parts.clone(), body.clone());
        let replay_safe = parts.method.is_safe() && http_body::Body::is_end_stream(&body);
        let result = match self.attempt(attempt()).await? {
            Err(error) if may_repeat(&error, replay_safe) => {
                let begun = may_have_begun(&error);
                self.trail.with(|steps| steps.executed |= begun);
                self.attempt(attempt()).await?
            }
            result => result,
        };
        let result = result.map_err(|error| Error::of_legacy(error, self.trail.info()));
        self.trail.with(|steps| steps.executed |= result.is_ok());
        result
    }

    /// The outer error is the read timeout's.
    async fn attempt(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Result<Response<Incoming>, legacy::Error>, Error> {
        let mut captured = capture_connection(&mut request);
        self.trail.with(|steps| steps.captured = Some(captured.clone()));
        let mut sending = pin!(self.pool.request(request));
        let Some(read_timeout) = self.shared.read_timeout else { return Ok(sending.await) };
        // It begins with the connection: how long that may take, the connect timeout says.
        tokio::select! {
            biased;
            result = &mut sending => return Ok(result),
            _ = async { captured.wait_for_connection_metadata().await.is_some() } => {}
        }
        tokio::select! {
            biased;
            result = sending => Ok(result),
            () = sleep(read_timeout) => Err(Error::new(ErrorKind::Timeout(Timeout::Read))),
        }
    }
}

/// A request is sent a second time if no server has begun with it, or if it may be executed twice. A
/// refused connection is an answer, and a timeout was long enough.
fn may_repeat(error: &legacy::Error, replay_safe: bool) -> bool {
    if let Some(connect) = connect_error(error) {
        return may_connect_again(connect, replay_safe);
    }
    if error.is_connect() {
        return false;
    }
    find::<hyper::Error>(error).is_some_and(|lost| {
        let is_lost = || find::<io::Error>(lost).is_some_and(|error| is_lost(error.kind()));
        !may_have_begun(error) || (replay_safe && (lost.is_incomplete_message() || is_lost()))
    })
}

fn may_connect_again(error: &ConnectError, replay_safe: bool) -> bool {
    let again = match error.kind() {
        ConnectErrorKind::Connect => is_lost(error.io_kind()),
        _ => false,
    };
    again && (replay_safe || !error.maybe_executed())
}

fn is_lost(kind: io::ErrorKind) -> bool {
    use io::ErrorKind as K;
    matches!(kind, K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::UnexpectedEof)
}

fn check(url: &Uri) -> Result<(), Error> {
    let invalid = |why: &str| Err(Error::new(ErrorKind::InvalidUrl).because(why));
    match url.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => {}
        Some(scheme) if *scheme == Scheme::HTTPS && cfg!(feature = "rustls") => {}
        Some(scheme) if *scheme == Scheme::HTTPS => return invalid("https needs the feature rustls"),
        Some(_) => return invalid("the scheme is not http or https"),
        None => return invalid("the scheme is missing"),
    }
    if url.host().is_none_or(str::is_empty) {
        return invalid("the host is missing");
    }
    Ok(())
}

/// RFC 9110 section 4.2.4: no credentials in the URL that is sent. They become a header, unless there
/// is one.
fn move_credentials(request: &mut Request<Full<Bytes>>) -> Result<(), Error> {
    let Some((credentials, host)) =
        request.uri().authority().and_then(|authority| authority.as_str().rsplit_once('@'))
    else {
        return Ok(());
    };
    let invalid = || Error::new(ErrorKind::InvalidUrl);
    let credentials = percent_decoded(credentials).ok_or_else(invalid)?;
    // RFC 7617 section 2: the colon is there, the password may not be.
    let colon = if credentials.contains(&b':') { "" } else { ":" };
    let basic = BASE64_STANDARD.encode([&*credentials, colon.as_bytes()].concat());
    let mut header =
        HeaderValue::try_from(format!("Basic {basic}")).map_err(|error| invalid().because(error))?;
    header.set_sensitive(true);
    let authority = host.parse().map_err(|error: http::uri::InvalidUri| invalid().because(error))?;
    *request.uri_mut() = with_authority(request.uri(), authority);
    request.headers_mut().entry(AUTHORIZATION).or_insert(header);
    Ok(())
}

/// RFC 3986 section 2.1.
fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    Some(decoded)
}

/// Which redirects are followed: so many, and without credentials to another origin.
#[derive(Clone)]
pub(super) struct Redirects {
    follow: bool,
    left: usize,
    credentials: FilterCredentials,
    host_changed: bool,
    trail: Trail,
}

impl Redirects {
    pub(super) fn new(limit: usize, trail: Trail) -> Self {
        let credentials = FilterCredentials::new().keep_all_extensions();
        Self { follow: limit > 0, left: limit, credentials, host_changed: false, trail }
    }
}

impl Policy<Full<Bytes>, Error> for Redirects {
    fn redirect(&mut self, attempt: &Attempt<'_>) -> Result<Action, Error> {
        if !self.follow {
            return Ok(Action::Stop);
        }
        let Some(left) = self.left.checked_sub(1) else {
            return Err(self.trail.complete(Error::new(ErrorKind::Redirect)));
        };
        self.left = left;
        self.host_changed = host_and_port(attempt.location()) != host_and_port(attempt.previous());
        Policy::<Full<Bytes>, Error>::redirect(&mut self.credentials, attempt)
    }

    fn on_request(&mut self, request: &mut Request<Full<Bytes>>) {
        Policy::<Full<Bytes>, Error>::on_request(&mut self.credentials, request);
        if self.host_changed {
            // The caller's was for the first host.
            request.headers_mut().remove(HOST);
        }
    }

    fn clone_body(&self, body: &Full<Bytes>) -> Option<Full<Bytes>> {
        Some(body.clone())
    }
}

fn host_and_port(url: &Uri) -> (Option<&str>, u16) {
    let default = if url.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    (url.host(), url.port_u16().unwrap_or(default))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_leave_the_url() {
        let request = |url: &str| {
            let mut request = Request::get(url).body(Full::default()).unwrap();
            move_credentials(&mut request).map(|()| {
                let header =
                    request.headers().get(AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
                (request.uri().to_string(), header)
            })
        };
        // RFC 7617 section 2, the example.
        let (url, header) = request("http://Aladdin:open%20sesame@host:81/a?b").unwrap();
        assert_eq!(url, "http://host:81/a?b");
        assert_eq!(header.as_deref(), Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
        assert_eq!(request("http://u@h/").unwrap().1.as_deref(), Some("Basic dTo="));
        assert_eq!(request("http://h/").unwrap(), ("http://h/".to_owned(), None));
        assert_eq!(request("http://u%4@h/").unwrap_err().kind(), ErrorKind::InvalidUrl);
    }

    #[test]
    fn only_what_is_spoken_here_is_a_url() {
        assert!(check(&"http://host/".parse().unwrap()).is_ok());
        assert_eq!(check(&"https://host/".parse().unwrap()).is_ok(), cfg!(feature = "rustls"));
        for url in ["/path", "ftp://host/", "host:80", "http://:80/"] {
            let error = url.parse().ok().map(|url| check(&url).unwrap_err());
            assert!(error.is_none_or(|error| error.kind() == ErrorKind::InvalidUrl), "{url}");
        }
    }

    #[test]
    fn what_may_have_been_executed_is_not_sent_again() {
        let lost = |kind: io::ErrorKind| ConnectError::new(ConnectErrorKind::Connect, io::Error::from(kind));
        let reset = || lost(io::ErrorKind::ConnectionReset);
        assert!(may_connect_again(&reset(), false) && may_connect_again(&reset(), true));
        assert!(!may_connect_again(&reset().maybe_executed_too(), false));
        assert!(may_connect_again(&reset().maybe_executed_too(), true));
        assert!(!may_connect_again(&lost(io::ErrorKind::ConnectionRefused), true), "an answer");
        assert!(!may_connect_again(&ConnectError::bare(ConnectErrorKind::TimedOut), true));
    }
}
