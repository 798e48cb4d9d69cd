//! Why a server cannot be made, or does not go on.

use std::fmt;
use std::io;

use super::limits::LimitsError;
use crate::BindError;

/// A [`Server`](super::Server) that could not be made, or had to stop.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServerError {
    /// The limits are such that nobody could be served.
    Limits(LimitsError),
    /// It cannot listen.
    Bind(BindError),
    /// Several processes shall listen on one port, and the kernel would reset the handshakes of the one that
    /// ends.
    Overlap {
        /// `net.ipv4.tcp_migrate_req`, if there is one (Linux 5.14).
        migrate: Option<u32>,
    },
    /// No worker was asked for.
    NoWorkers,
    /// No listener was handed over.
    NoListeners,
    /// A worker's thread or runtime cannot be had.
    Worker(io::Error),
    /// A worker has panicked; the others have ended in order.
    Panicked,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limits(_) => f.write_str("the server's limits make no sense"),
            Self::Bind(_) => f.write_str("the server cannot listen"),
            Self::Overlap { migrate: Some(now) } => write!(
                f,
                "two processes on one port: whichever ends resets handshakes under way, because \
                 net.ipv4.tcp_migrate_req is {now} (sysctl -w net.ipv4.tcp_migrate_req=1), or hand the \
                 listener over instead"
            ),
            Self::Overlap { migrate: None } => f.write_str(
                "two processes on one port: whichever ends resets handshakes under way, and this kernel has no \
                 net.ipv4.tcp_migrate_req (Linux 5.14); hand the listener over instead",
            ),
            Self::NoWorkers => f.write_str("workers(0): nobody would serve"),
            Self::NoListeners => f.write_str("there is no listener to serve"),
            Self::Worker(_) => f.write_str("cannot start a worker"),
            Self::Panicked => f.write_str("a worker has panicked"),
        }
    }
}

impl std::error::Error for ServerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Limits(error) => Some(error),
            Self::Bind(error) => Some(error),
            Self::Worker(error) => Some(error),
            _ => None,
        }
    }
}

impl From<LimitsError> for ServerError {
    fn from(error: LimitsError) -> Self {
        Self::Limits(error)
    }
}

impl From<BindError> for ServerError {
    fn from(error: BindError) -> Self {
        Self::Bind(error)
    }
}
