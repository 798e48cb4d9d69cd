use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use http::Uri;
use hyper_util::client::legacy;

use super::dial::DialError;
use crate::error::{BoxError, ConnectErrorKind, connect_error};
use crate::info::{ConnInfo, SynOutcome};

/// A request that failed: what, for which URL and address, and (as the source) why.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    url: Option<Uri>,
    address: Option<SocketAddr>,
    info: Option<ConnInfo>,
    maybe_executed: bool,
    source: Option<BoxError>,
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The URL has no scheme or host, or a scheme that is not spoken here (`https` needs the feature
    /// `rustls`); or a redirect led to such a one.
    InvalidUrl,
    /// A proxy's URL is not one, or has a scheme that is not spoken here.
    InvalidProxy,
    /// The name was not resolved.
    Dns,
    /// There was no connection to the server, or to the proxy.
    Connect,
    /// The proxy did not let the request through.
    Proxy,
    /// The TLS handshake failed, or TLS could not be set up.
    Tls,
    /// It took too long.
    Timeout(Timeout),
    /// There were more redirects than are followed: a loop, most likely.
    Redirect,
    /// The connection was lost before the answer, or the answer was not HTTP (or its head too large).
    Http,
    /// The answer's body broke off, or was not encoded as it said.
    Body,
    /// The answer's body was larger than the caller wanted.
    BodyTooLarge,
}

/// Which timeout it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Timeout {
    /// [`connect_timeout`](super::ClientBuilder::connect_timeout).
    Connect,
    /// [`read_timeout`](super::ClientBuilder::read_timeout).
    Read,
    /// [`total_timeout`](super::ClientBuilder::total_timeout).
    Total,
}

impl ErrorKind {
    /// The name in snake case, which does not change.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidUrl => "invalid_url",
            Self::InvalidProxy => "invalid_proxy",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::Timeout(Timeout::Connect) => "connect_timeout",
            Self::Timeout(Timeout::Read) => "read_timeout",
            Self::Timeout(Timeout::Total) => "total_timeout",
            Self::Redirect => "redirect",
            Self::Http => "http",
            Self::Body => "body",
            Self::BodyTooLarge => "body_too_large",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::InvalidUrl => "invalid URL",
            Self::InvalidProxy => "invalid proxy",
            Self::Dns => "name resolution failed",
            Self::Connect => "no connection",
            Self::Proxy => "the proxy did not let the request through",
            Self::Tls => "TLS failed",
            Self::Timeout(Timeout::Connect) => "connect timed out",
            Self::Timeout(Timeout::Read) => "the server kept quiet for too long",
            Self::Timeout(Timeout::Total) => "the request took too long",
            Self::Redirect => "too many redirects",
            Self::Http => "no valid answer",
            Self::Body => "the body broke off",
            Self::BodyTooLarge => "the body is too large",
        }
    }
}

impl Error {
    pub(super) fn new(kind: ErrorKind) -> Self {
        let maybe_executed = matches!(kind, ErrorKind::Redirect | ErrorKind::Body | ErrorKind::BodyTooLarge);
        Self(Box::new(Inner { kind, url: None, address: None, info: None, maybe_executed, source: None }))
    }

    pub(super) fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub(super) fn at(mut self, url: &Uri) -> Self {
        self.0.url = Some(masked(url));
        self
    }

    pub(super) fn on(mut self, info: Option<ConnInfo>) -> Self {
        if let Some(info) = info {
            // What was not sent was not executed; whether an answer is due is the kernel's word.
            let unanswered = matches!(info.outcome(), SynOutcome::Unknown | SynOutcome::Failed);
            let sent = !unanswered || info.syn_data_bytes() > 0;
            if matches!(self.0.kind, ErrorKind::Http | ErrorKind::Timeout(Timeout::Read | Timeout::Total)) {
                self.0.maybe_executed |= sent;
            }
            self.0.address = self.0.address.or_else(|| Some(info.remote_addr()));
            self.0.info = Some(info);
        }
        self
    }

    pub(super) fn executed_before(mut self, executed: bool) -> Self {
        self.0.maybe_executed |= executed;
        self
    }

    /// An error of `hyper_util`'s client, whose connector is ours.
    pub(super) fn of_legacy(error: legacy::Error, info: Option<ConnInfo>) -> Self {
        let dial = find::<DialError>(&error);
        let connect = connect_error(&error);
        let kind = match (connect.map(|error| error.kind()), dial) {
            (Some(ConnectErrorKind::Dns), _) => ErrorKind::Dns,
            (Some(ConnectErrorKind::InvalidUri), _) => ErrorKind::InvalidUrl,
            (Some(ConnectErrorKind::TimedOut), _) => ErrorKind::Timeout(Timeout::Connect),
            (Some(_), _) => ErrorKind::Connect,
            (None, Some(dial)) => dial.kind,
            (None, None) => ErrorKind::Http,
        };
        let info = dial.and_then(|dial| dial.info.clone()).or(info);
        let info = info.or_else(|| connect?.conn_info().cloned());
        let address = connect.and_then(|error| error.address());
        let executed = connect.is_some_and(|error| error.maybe_executed());
        let begun = may_have_begun(&error);
        let mut whole = Self::new(kind);
        whole.0.address = address;
        let mut whole = whole.on(info);
        // What its connection has carried before says nothing of this request.
        whole.0.maybe_executed &= begun;
        whole.executed_before(executed).because(error)
    }

    /// What failed.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The URL of the request that failed: after redirects the last one. Credentials in it are masked.
    pub fn url(&self) -> Option<&Uri> {
        self.0.url.as_ref()
    }

    /// The address of the server, or of the proxy, where there was one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.0.address
    }

    /// What the connection did, where it came to an address.
    pub fn conn_info(&self) -> Option<&ConnInfo> {
        self.0.info.as_ref()
    }

    /// Whether it took too long.
    pub fn is_timeout(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Timeout(_))
            || self.0.source.as_deref().and_then(|error| connect_error(error)).is_some_and(|e| e.is_timeout())
    }

    /// Whether there was no connection: the name, the handshakes of TCP and TLS, the proxy.
    pub fn is_connect(&self) -> bool {
        use ErrorKind as K;
        matches!(self.0.kind, K::Dns | K::Connect | K::Proxy | K::Tls | K::Timeout(Timeout::Connect))
    }

    /// Whether the server may have acted on the request, or on one that a redirect followed. False
    /// where it is certain that the request was not sent, and where an HTTP/2 server has turned it away
    /// unread (RFC 9113 section 8.7). A request that rides by default is safe to execute twice, so one
    /// that rode and found no connection counts as not executed.
    pub fn maybe_executed(&self) -> bool {
        self.0.maybe_executed
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.kind.text())?;
        if let Some(url) = &self.0.url {
            write!(f, " for {url}")?;
        }
        match self.0.address {
            Some(address) => write!(f, " at {address}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("url", &self.0.url)
            .field("address", &self.0.address)
            .field("maybe_executed", &self.0.maybe_executed)
            .field("source", &self.0.source)
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// The `E` among an error and its sources, if there is one.
pub(super) fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as &'a (dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

/// Whether a server may have begun with a request that failed: not if it never left, nor if the server
/// says so.
pub(super) fn may_have_begun(error: &legacy::Error) -> bool {
    connect_error(error).is_none() && !find::<hyper::Error>(error).is_some_and(was_not_begun)
}

/// hyper cancels only what it has not begun to write, and a closed connection takes nothing.
fn was_not_begun(error: &hyper::Error) -> bool {
    error.is_canceled() || error.is_closed() || is_turned_away(error)
}

/// RFC 9113 section 8.7: what was sent on a stream that is refused "can be safely retried", and requests
/// above the last stream of a GOAWAY "are therefore guaranteed to be safe to retry". h2 tells of a GOAWAY
/// to no other streams: those below end as the connection does.
#[cfg(feature = "http2")]
fn is_turned_away(error: &hyper::Error) -> bool {
    find::<h2::Error>(error).is_some_and(|error| {
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        error.is_remote() && (refused || error.is_go_away())
    })
}

#[cfg(not(feature = "http2"))]
fn is_turned_away(_: &hyper::Error) -> bool {
    false
}

/// A URL without credentials: errors end in logs.
pub(super) fn masked(url: &Uri) -> Uri {
    let Some((_, host)) = url.authority().and_then(|authority| authority.as_str().rsplit_once('@')) else {
        return url.clone();
    };
    let Ok(authority) = format!("***@{host}").parse() else { return Uri::default() };
    with_authority(url, authority)
}

pub(super) fn with_authority(url: &Uri, authority: http::uri::Authority) -> Uri {
    let mut parts = url.clone().into_parts();
    parts.authority = Some(authority);
    Uri::from_parts(parts).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_masked_wherever_a_url_is_shown() {
        let url: Uri = "http://user:secret@host:81/path?query".parse().unwrap();
        let error = Error::new(ErrorKind::Dns).at(&url);
        assert_eq!(error.url().unwrap(), "http://***@host:81/path?query");
        assert_eq!(error.to_string(), "name resolution failed for http://***@host:81/path?query");
        assert!(!format!("{error:?}").contains("secret"));
        let plain: Uri = "http://host/a@b".parse().unwrap();
        assert_eq!(masked(&plain), plain);
    }

    /// What hyper could not begin to write, beside what it had begun with.
    #[tokio::test]
    async fn hyper_cancels_what_never_left() {
        use hyper_util::rt::TokioIo;
        use tokio::io::AsyncReadExt as _;

        for begun in [false, true] {
            let (here, mut there) = tokio::io::duplex(1000);
            let (mut client, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(here)).await.unwrap();
            let mut connection = Box::pin(connection);
            let request = http::Request::post("/").header("host", "h").body("order".to_owned()).unwrap();
            let mut answer = Box::pin(client.send_request(request));
            if begun {
                let read = async { there.read(&mut [0; 1000]).await.unwrap() };
                tokio::select! {
                    count = read => assert!(count > 0),
                    _ = &mut connection => panic!("it waits for an answer"),
                    _ = &mut answer => panic!("there is none"),
                }
            }
            drop(there);
            if begun {
                let _ = connection.await;
            } else {
                // Without a turn nothing of it is written.
                drop(connection);
            }
            let error = answer.await.unwrap_err();
            assert_eq!(was_not_begun(&error), !begun, "{error:?}");
        }
    }

    #[test]
    fn what_was_not_sent_was_not_executed() {
        let timed_out = |outcome, syn_data_bytes| {
            let info = ConnInfo::new(SocketAddr::from(([192, 0, 2, 1], 80)), None);
            info.update(|facts| (facts.outcome, facts.syn_data_bytes) = (outcome, syn_data_bytes));
            Error::new(ErrorKind::Timeout(Timeout::Total)).on(Some(info)).maybe_executed()
        };
        assert!(!timed_out(SynOutcome::Unknown, 0));
        assert!(timed_out(SynOutcome::Unknown, 100));
        assert!(timed_out(SynOutcome::Plain, 0));
        assert!(!Error::new(ErrorKind::Timeout(Timeout::Total)).maybe_executed());
        assert!(Error::new(ErrorKind::Dns).executed_before(true).maybe_executed());
    }
}
