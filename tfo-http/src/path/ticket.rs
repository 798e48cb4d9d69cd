use std::time::{Duration, Instant};

use super::Advice;
use super::key::{NetworkId, Path};

/// An answer of the memory's, and the place that it has reserved. To be reported on.
#[derive(Debug)]
#[must_use = "a ticket is to be reported on"]
pub struct Ticket {
    pub(super) path: Path,
    /// The memory's network when it was given.
    pub(super) network: Option<NetworkId>,
    pub(super) serial: u64,
    pub(super) stirred: u64,
    pub(super) asked: Instant,
    pub(super) advice: Advice,
    pub(super) proven: bool,
    pub(super) doubtful: bool,
    pub(super) rtt: Option<Duration>,
    /// Its strike has been counted.
    pub(super) struck: bool,
    /// It holds a place of the path's, or is its canary.
    pub(super) reserved: bool,
    /// It holds a token.
    pub(super) token: bool,
    /// It is the network's canary.
    pub(super) canary: bool,
}

impl Ticket {
    /// What may be sent.
    pub fn advice(&self) -> Advice {
        self.advice
    }

    /// Whether the path is known to be Capable: that it was when asked, and was not in doubt.
    pub fn is_proven(&self) -> bool {
        self.proven
    }

    /// Whether its ride is more likely than others to be lost: the last one on the path was, or the
    /// path was off, and this is its canary. [`Hedge::Auto`](crate::Hedge::Auto) does not wait long
    /// then.
    pub fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// How long a handshake takes on this path, as of the time of asking; `None`: not known, or not
    /// measured for an hour, or on another network.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// What was asked for.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
