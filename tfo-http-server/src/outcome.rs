use std::fmt;
use std::io;

/// What became of TCP Fast Open on one accepted connection, as the server can know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AcceptOutcome {
    /// An ordinary handshake, complete before the connection was accepted.
    Plain(PlainReason),
    /// The SYN brought a valid cookie and no data: accepted before the handshake was complete.
    CookieOnly,
    /// The SYN brought data, and it was taken.
    #[non_exhaustive]
    SynData {
        /// How many bytes; `None` where later data had arrived too before the connection was
        /// accepted, so that they cannot be told apart.
        bytes: Option<u32>,
    },
    /// The kernel did not say.
    Unknown,
}

impl AcceptOutcome {
    /// Whether data came in the SYN.
    pub fn is_syn_data(self) -> bool {
        matches!(self, Self::SynData { .. })
    }
}

/// Why a connection was [`AcceptOutcome::Plain`], as far as a server can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PlainReason {
    /// This system or kernel has no TCP Fast Open.
    Unsupported,
    /// It is switched off: for this listener, or in its network namespace.
    Off,
    /// It is on: the client did not ask for it, had no valid cookie yet, or the queue was full. The
    /// kernel does not tell which; its counters do, for all connections together
    /// ([`tfo_core::Counters`]).
    NotUsed,
}

/// A connection that will not be proven: whoever sent the SYN has not shown that it holds the
/// address that it speaks from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Disproven {
    /// It was reset before its handshake was complete: what a replayed or forged SYN ends in.
    Reset,
    /// The handshake was not complete at the deadline.
    Deadline,
    /// This side closed it before its handshake was complete.
    Closed,
}

impl fmt::Display for Disproven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reset => "connection reset before its handshake was complete",
            Self::Deadline => "handshake not complete at the gate's deadline",
            Self::Closed => "connection closed before its handshake was complete",
        })
    }
}

impl std::error::Error for Disproven {}

/// `ConnectionReset`, `TimedOut` or `NotConnected`; the [`Disproven`] itself is inside.
impl From<Disproven> for io::Error {
    fn from(disproven: Disproven) -> Self {
        let kind = match disproven {
            Disproven::Reset => io::ErrorKind::ConnectionReset,
            Disproven::Deadline => io::ErrorKind::TimedOut,
            Disproven::Closed => io::ErrorKind::NotConnected,
        };
        Self::new(kind, disproven)
    }
}
