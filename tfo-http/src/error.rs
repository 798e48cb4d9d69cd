use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::info::ConnInfo;

use http::Extensions;
use hyper_util::client::legacy::connect::Connected;

pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// A connection that did not come about: what failed, for which address, and (as the source) why.
///
/// The connector returns it. When the connect was deferred to the first write, the stream's reads and
/// writes return it inside an `io::Error`, and hyper reports it as a failed request:
/// [`is_connect_error`] finds it in both.
#[derive(Debug)]
pub struct ConnectError {
    kind: ConnectErrorKind,
    address: Option<SocketAddr>,
    source: Option<BoxError>,
    maybe_executed: bool,
    info: Option<ConnInfo>,
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectErrorKind {
    /// The URI has no scheme or host, or a scheme other than `http` where only that is allowed.
    InvalidUri,
    /// The name was not resolved, or has no address of a usable family.
    Dns,
    /// No socket could be made or set up: descriptors, interface, local address.
    Socket,
    /// The handshake failed: refused, unreachable, reset.
    Connect,
    /// The handshake was not complete within the connect timeout; or nothing comes through behind it,
    /// and the request must not be sent again.
    TimedOut,
}

impl ConnectError {
    pub(crate) fn new(kind: ConnectErrorKind, source: impl Into<BoxError>) -> Self {
        Self { kind, address: None, source: Some(source.into()), maybe_executed: false, info: None }
    }

    pub(crate) fn bare(kind: ConnectErrorKind) -> Self {
        Self { kind, address: None, source: None, maybe_executed: false, info: None }
    }

    pub(crate) fn at(mut self, address: SocketAddr) -> Self {
        self.address = Some(address);
        self
    }

    pub(crate) fn maybe_executed_too(mut self) -> Self {
        self.maybe_executed = true;
        self
    }

    /// With what is known of the connection that it might have been, if there was an address.
    pub(crate) fn after_dns(mut self, dns: Option<Duration>) -> Self {
        self.info = self.address.map(|address| ConnInfo::failed(address, dns, &self));
        self
    }

    /// What is known of the connection, where the connector itself returned the error and had an
    /// address. What a stream reports is in its [`conn_info`](crate::TfoStream::conn_info).
    pub fn conn_info(&self) -> Option<&ConnInfo> {
        self.info.as_ref()
    }

    /// Whether the server may have acted on the request although there was no connection: its bytes
    /// were in a SYN, and the caller has forbidden to send them again. False for everything that
    /// rides by default.
    pub fn maybe_executed(&self) -> bool {
        self.maybe_executed
    }

    /// What failed.
    pub fn kind(&self) -> ConnectErrorKind {
        self.kind
    }

    /// The server's address, where there was one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Whether it took too long.
    pub fn is_timeout(&self) -> bool {
        self.kind == ConnectErrorKind::TimedOut || self.io_kind() == io::ErrorKind::TimedOut
    }

    /// The error number that the system gave, where it gave one.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.io_error().and_then(io::Error::raw_os_error)
    }

    fn io_error(&self) -> Option<&io::Error> {
        self.source.as_deref()?.downcast_ref()
    }

    /// The kind of the `io::Error` behind it.
    pub fn io_kind(&self) -> io::ErrorKind {
        match self.kind {
            ConnectErrorKind::TimedOut => io::ErrorKind::TimedOut,
            ConnectErrorKind::InvalidUri => io::ErrorKind::InvalidInput,
            _ => self.io_error().map_or(io::ErrorKind::Other, io::Error::kind),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            ConnectErrorKind::InvalidUri => "invalid URI",
            ConnectErrorKind::Dns => "name resolution failed",
            ConnectErrorKind::Socket => "no socket could be set up",
            ConnectErrorKind::Connect => "tcp connect error",
            ConnectErrorKind::TimedOut => "tcp connect timed out",
        })?;
        match self.address {
            Some(address) => write!(f, " for {address}"),
            None => Ok(()),
        }
    }
}

impl StdError for ConnectError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// An error that can be told again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    /// `None`: not of the handshake, but of a connection.
    kind: Option<ConnectErrorKind>,
    os_error: Option<i32>,
    io_kind: io::ErrorKind,
    maybe_executed: bool,
}

impl Failure {
    pub(crate) fn of(error: &ConnectError) -> Self {
        Self {
            kind: Some(error.kind()),
            os_error: error.raw_os_error(),
            io_kind: error.io_kind(),
            maybe_executed: error.maybe_executed(),
        }
    }

    pub(crate) fn of_stream(error: &io::Error) -> Self {
        let (os_error, io_kind) = (error.raw_os_error(), error.kind());
        Self { kind: None, os_error, io_kind, maybe_executed: false }
    }

    pub(crate) fn error(self, address: SocketAddr) -> io::Error {
        self.connect_error(address).map_or_else(|| self.source(), Into::into)
    }

    /// `None` if it was not the handshake that failed.
    pub(crate) fn connect_error(self, address: SocketAddr) -> Option<ConnectError> {
        let error = match self.kind? {
            kind @ ConnectErrorKind::TimedOut => ConnectError::bare(kind),
            kind => ConnectError::new(kind, self.source()),
        };
        let error = error.at(address);
        Some(if self.maybe_executed { error.maybe_executed_too() } else { error })
    }

    fn source(self) -> io::Error {
        match self.os_error {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::from(self.io_kind),
        }
    }
}

/// Keeps the kind; the [`ConnectError`] is inside.
impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        Self::new(error.io_kind(), error)
    }
}

/// Whether a request failed because there was no connection: true for errors for which
/// `hyper_util::client::legacy::Error::is_connect` is true, and for a deferred connect that failed
/// after hyper had begun to use it, for which that is false.
///
/// Give it the error of the request itself: it looks through all sources. HTTP/2 keeps of an error
/// only its text; then the [`ConnInfo`] of the connection is asked, if the error has one.
pub fn is_connect_error(error: &(dyn StdError + 'static)) -> bool {
    connect_error(error).is_some()
        || error
            .downcast_ref::<hyper_util::client::legacy::Error>()
            .is_some_and(|error| error.is_connect() || error.connect_info().is_some_and(has_failed))
}

/// With HTTP/2 hyper does not pass the error on.
fn has_failed(connected: &Connected) -> bool {
    let mut extras = Extensions::new();
    connected.get_extras(&mut extras);
    extras.get::<ConnInfo>().is_some_and(|info| info.connect_error().is_some())
}

/// The [`ConnectError`] among an error and its sources, if there is one.
pub fn connect_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a ConnectError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<ConnectError>() {
            return Some(found);
        }
        // An io::Error passes over what it holds: its source is the source of that.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as &'a (dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Wrapped(io::Error);

    impl fmt::Display for Wrapped {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("wrapped")
        }
    }

    impl StdError for Wrapped {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    fn refused() -> ConnectError {
        let refused: io::Error = io::ErrorKind::ConnectionRefused.into();
        ConnectError::new(ConnectErrorKind::Connect, refused).at(SocketAddr::from(([192, 0, 2, 1], 80)))
    }

    #[test]
    fn says_what_where_and_why() {
        let error = refused();
        assert_eq!(error.to_string(), "tcp connect error for 192.0.2.1:80");
        assert_eq!(error.source().unwrap().to_string(), "connection refused");
        assert_eq!(error.io_kind(), io::ErrorKind::ConnectionRefused);
        assert!(!error.is_timeout());
        assert!(ConnectError::bare(ConnectErrorKind::TimedOut).is_timeout());
    }

    #[test]
    fn is_found_through_everything_that_wraps_it() {
        assert!(is_connect_error(&refused()));
        assert!(is_connect_error(&io::Error::from(refused())));
        assert!(is_connect_error(&Wrapped(refused().into())));
        let twice = io::Error::other(Wrapped(refused().into()));
        assert_eq!(connect_error(&twice).unwrap().kind(), ConnectErrorKind::Connect);
        assert!(!is_connect_error(&io::Error::from(io::ErrorKind::ConnectionRefused)));
    }
}
