//! What one client may take: time, bytes, connections.

use std::fmt;
use std::time::Duration;

/// The limits of a [`Server`](super::Server) against slow and greedy clients.
///
/// | limit | default | what happens beyond it |
/// |---|---|---|
/// | [`header_timeout`](Self::header_timeout) | 20 s | 408 if a part of a head has come, and close |
/// | [`header_size`](Self::header_size) | 16 KiB | 431, and close |
/// | [`body_size`](Self::body_size) | 2 MiB | 413, and close (HTTP/2: 413) |
/// | [`body_rate`](Self::body_rate) | 500 bytes a second after 20 s | 408, and close (HTTP/2: 408) |
/// | [`write_timeout`](Self::write_timeout) | 16 KiB in 30 s | close (HTTP/2: the stream is reset) |
/// | [`idle_timeout`](Self::idle_timeout) | 60 s | close |
/// | [`connections`](Self::connections) | 10,000 | 503, and close |
/// | [`requests_per_connection`](Self::requests_per_connection) | 10,000 | `Connection: close`, or GOAWAY, and close |
/// | [`streams`](Self::streams) | 128 | refused by HTTP/2 (RFC 9113 5.1.2) |
///
/// None of them limits a handler, or a connection that was upgraded (`101`, `CONNECT`).
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Limits {
    pub(super) header_timeout: Duration,
    pub(super) header_size: usize,
    pub(super) body_size: Option<u64>,
    pub(super) body_rate: Option<Rate>,
    pub(super) write_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) connections: u64,
    pub(super) requests: u64,
    pub(super) streams: u32,
}

/// A rate that holds after a time of grace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) bytes_per_second: u64,
    pub(super) grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(20),
            header_size: 16 * 1024,
            body_size: Some(2 * 1024 * 1024),
            body_rate: Some(Rate { bytes_per_second: 500, grace: Duration::from_secs(20) }),
            write_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            connections: 10_000,
            requests: 10_000,
            streams: 128,
        }
    }
}

impl Limits {
    /// How long a client may take for the head of a request: the first from the accept on, each later one
    /// from its first byte on. With HTTP/2, for the first request. Of whom nothing has come, an eighth longer, 5 s at
    /// most, is possible, and more while the server has no time: it is looked at now and then.
    ///
    /// While the gate withholds the request its own deadline holds, which is this, and at least 10 s.
    pub fn header_timeout(mut self, timeout: Duration) -> Self {
        self.header_timeout = timeout;
        self
    }

    /// How many bytes the head of a request may have, with its request line. At least 1 KiB; more than 408 KiB are as
    /// many, and hyper takes 100 lines at most.
    pub fn header_size(mut self, bytes: usize) -> Self {
        self.header_size = bytes;
        self
    }

    /// How many bytes the body of a request may have; `None` for no limit.
    ///
    /// One that says so beforehand (`Content-Length`) is refused before the service is called. One that
    /// turns out to be longer ends with an error, and whatever the service answers becomes a 413.
    pub fn body_size(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.body_size = bytes.into();
        self
    }

    /// How fast the body of a request must come on the average, after `grace`. Only the time counts in
    /// which the service waits for the client.
    ///
    /// A slower one ends with an error, and whatever the service answers becomes a 408.
    pub fn body_rate(mut self, bytes_per_second: u64, grace: Duration) -> Self {
        self.body_rate = Some(Rate { bytes_per_second, grace });
        self
    }

    /// Bodies may be as slow as they like.
    pub fn no_body_rate(mut self) -> Self {
        self.body_rate = None;
        self
    }

    /// How long a client may take for 16 KiB of what it is answered, or for all that is left, while the server
    /// waits for it and for nothing else. A slow service costs its client nothing.
    ///
    /// HTTP/2 has windows. While a stream waits for them the client must take as much of all streams together,
    /// and something of this one; if all it takes goes to others, they may have two turns each. A stream for
    /// which that does not hold is reset (`CANCEL`), and the others go on. What HTTP/2
    /// has taken in hand with its end cannot be reset: if that is not read, less than 16 KiB, the connection is
    /// closed after two to four times as long.
    ///
    /// What the client's kernel has acknowledged is taken, whether the client reads it or not.
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// How long a connection may be without a request, after its first. An eighth longer, 5 s at most, is
    /// possible, as with the [`header_timeout`](Self::header_timeout).
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// How many connections may be open at a time, all workers together. It takes the place of the
    /// listener's own [`max_connections`](crate::ListenerBuilder::max_connections).
    pub fn connections(mut self, connections: u32) -> Self {
        self.connections = connections.into();
        self
    }

    /// How many requests a connection may bring. An HTTP/2 client that is told to go when it has, and does not,
    /// is cut off: at twice as many, and twice as many as there are [`streams`](Self::streams).
    pub fn requests_per_connection(mut self, requests: u64) -> Self {
        self.requests = requests;
        self
    }

    /// How many requests one HTTP/2 connection may have at a time.
    pub fn streams(mut self, streams: u32) -> Self {
        self.streams = streams;
        self
    }

    /// Whether they make sense.
    pub(super) fn check(&self) -> Result<(), LimitsError> {
        let zero = |name, is_zero| if is_zero { Err(LimitsError::Zero { name }) } else { Ok(()) };
        zero("header_timeout", self.header_timeout.is_zero())?;
        zero("write_timeout", self.write_timeout.is_zero())?;
        zero("idle_timeout", self.idle_timeout.is_zero())?;
        zero("connections", self.connections == 0)?;
        zero("requests_per_connection", self.requests == 0)?;
        zero("streams", self.streams == 0)?;
        zero("body_rate", self.body_rate.is_some_and(|rate| rate.bytes_per_second == 0))?;
        if self.header_size < SMALLEST_HEADER {
            return Err(LimitsError::HeaderSize { bytes: self.header_size });
        }
        if let (Some(rate), Some(size)) = (self.body_rate, self.body_size)
            && rate.grace.is_zero()
            && rate.bytes_per_second > size
        {
            return Err(LimitsError::BodyRate { bytes_per_second: rate.bytes_per_second, body_size: size });
        }
        Ok(())
    }
}

/// Below this the usual browser is not served.
const SMALLEST_HEADER: usize = 1024;

/// [`Limits`] under which nobody could be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitsError {
    /// It must be more than zero.
    #[non_exhaustive]
    Zero {
        /// The limit, as its method is called.
        name: &'static str,
    },
    /// Less than 1 KiB for a request's head.
    #[non_exhaustive]
    HeaderSize {
        /// What was asked for.
        bytes: usize,
    },
    /// Without a time of grace, and with more bytes a second asked for than the largest body may have,
    /// every body is too slow.
    #[non_exhaustive]
    BodyRate {
        /// What was asked for.
        bytes_per_second: u64,
        /// The largest body.
        body_size: u64,
    },
    /// More than one request a connection was asked for, with keep-alive off.
    #[non_exhaustive]
    KeepAliveOff {
        /// What was asked for.
        requests_per_connection: u64,
    },
}

impl fmt::Display for LimitsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero { name } => write!(f, "{name} is 0: nobody could be served"),
            Self::HeaderSize { bytes } => {
                write!(f, "header_size is {bytes} bytes: at least {SMALLEST_HEADER} are needed")
            }
            Self::BodyRate { bytes_per_second, body_size } => write!(
                f,
                "body_rate asks for {bytes_per_second} bytes a second without a time of grace, and body_size \
                 allows {body_size}: every body would be too slow"
            ),
            Self::KeepAliveOff { requests_per_connection } => write!(
                f,
                "requests_per_connection is {requests_per_connection}, and keep-alive is off: say one of them"
            ),
        }
    }
}

impl std::error::Error for LimitsError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_make_sense_and_these_do_not() {
        Limits::default().check().unwrap();
        let none = Duration::ZERO;
        for (limits, says) in [
            (Limits::default().header_timeout(none), "header_timeout is 0"),
            (Limits::default().write_timeout(none), "write_timeout is 0"),
            (Limits::default().idle_timeout(none), "idle_timeout is 0"),
            (Limits::default().connections(0), "connections is 0"),
            (Limits::default().requests_per_connection(0), "requests_per_connection is 0"),
            (Limits::default().streams(0), "streams is 0"),
            (Limits::default().body_rate(0, none), "body_rate is 0"),
            (Limits::default().header_size(1023), "header_size is 1023 bytes"),
            (Limits::default().body_size(10).body_rate(11, none), "every body would be too slow"),
        ] {
            let said = limits.check().unwrap_err().to_string();
            assert!(said.contains(says), "{said}");
        }
        Limits::default().body_size(None).no_body_rate().check().unwrap();
    }
}
