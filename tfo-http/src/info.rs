use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tfo_core::first_flight::Stop;

use crate::error::{ConnectError, Failure};

/// What one connection did and what it saved.
///
/// In the response's extensions, in [`hyper_util`'s `capture_connection`], from a failed request's
/// `connect_info`, and at [`TfoStream::conn_info`](crate::TfoStream::conn_info). It is a live
/// handle, because hyper asks for it before there is a SYN: look when the response is there. A
/// clone is the same handle.
///
/// [`hyper_util`'s `capture_connection`]: hyper_util::client::legacy::connect::capture_connection
#[derive(Clone)]
pub struct ConnInfo {
    shared: Arc<Shared>,
}

struct Shared {
    dns: Option<Duration>,
    facts: Mutex<Facts>,
}

/// All that becomes known after the connection was handed out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) remote_addr: SocketAddr,
    pub(crate) local_addr: Option<SocketAddr>,
    pub(crate) outcome: SynOutcome,
    pub(crate) reason: Option<Reason>,
    pub(crate) first_flight_bytes: Option<usize>,
    pub(crate) syn_data_bytes: usize,
    pub(crate) handshake_rtt: Option<Duration>,
    pub(crate) hedged: bool,
    pub(crate) failure: Option<Failure>,
}

impl ConnInfo {
    pub(crate) fn new(remote_addr: SocketAddr, dns: Option<Duration>) -> Self {
        Self { shared: Arc::new(Shared { dns, facts: Mutex::new(Facts::new(remote_addr)) }) }
    }

    /// Of a connection that failed before there was a stream.
    pub(crate) fn failed(remote_addr: SocketAddr, dns: Option<Duration>, error: &ConnectError) -> Self {
        let info = Self::new(remote_addr, dns);
        info.update(|facts| facts.fail(error));
        info
    }

    /// The server's address: the one that is connected, or tried first.
    pub fn remote_addr(&self) -> SocketAddr {
        self.facts().remote_addr
    }

    /// This side's address; `None` before there is a connection.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.facts().local_addr
    }

    /// How long the name took to resolve; `None` for an address.
    pub fn dns(&self) -> Option<Duration> {
        self.shared.dns
    }

    /// What became of TCP Fast Open.
    pub fn outcome(&self) -> SynOutcome {
        self.facts().outcome
    }

    /// Why it was not a ride, or saved nothing; `None` for a ride that saved its round trip, and
    /// where there is nothing more to say than the outcome does.
    pub fn reason(&self) -> Option<Reason> {
        self.facts().reason
    }

    /// Bytes that the application wrote up to its first flush; `None` before that, and on a
    /// connection whose handshake was ordinary, where nobody counts them.
    pub fn first_flight_bytes(&self) -> Option<usize> {
        self.facts().first_flight_bytes
    }

    /// Bytes that went out in the SYN. Whether the server took them: [`ConnInfo::outcome`].
    pub fn syn_data_bytes(&self) -> usize {
        self.facts().syn_data_bytes
    }

    /// The time from SYN to SYN-ACK, as the kernel measured it.
    pub fn handshake_rtt(&self) -> Option<Duration> {
        self.facts().handshake_rtt
    }

    /// Round trips that were saved: 1 if the server acked the SYN data and the whole first flight
    /// was in it, else 0. Reported by the kernel (`TCP_INFO`), never inferred from what was sent.
    ///
    /// Requests that are not replay-safe, and ride by the caller's choice, may be held by the server
    /// until the handshake is complete. They count if the answer's first byte came before one and a
    /// half round trips; over HTTP/2, where that byte proves nothing, they do not.
    pub fn saved_rtts(&self) -> u32 {
        self.facts().saved_rtts()
    }

    /// The time that was saved: [`ConnInfo::saved_rtts`] × [`ConnInfo::handshake_rtt`].
    pub fn saved(&self) -> Duration {
        self.facts().saved()
    }

    /// Whether a plain attempt was begun beside the first, or in its place: then nothing was saved.
    pub fn hedged(&self) -> bool {
        self.facts().hedged
    }

    /// Why there is no connection, where a deferred connect has failed. hyper loses that error with
    /// HTTP/2; it keeps it with HTTP/1, for [`connect_error`](crate::connect_error).
    pub fn connect_error(&self) -> Option<ConnectError> {
        let facts = self.facts();
        facts.failure.and_then(|failure| failure.connect_error(facts.remote_addr))
    }

    /// Whether two infos are about the same connection.
    pub fn same_connection(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    pub(crate) fn set_local_addr(&self, local_addr: Option<SocketAddr>) {
        if local_addr.is_some() {
            self.update(|facts| facts.local_addr = local_addr);
        }
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.lock());
    }

    pub(crate) fn facts(&self) -> Facts {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        // Facts are plain values: a panic elsewhere cannot leave them half-made.
        self.shared.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Facts {
    pub(crate) fn new(remote_addr: SocketAddr) -> Self {
        Self {
            remote_addr,
            local_addr: None,
            outcome: SynOutcome::default(),
            reason: None,
            first_flight_bytes: None,
            syn_data_bytes: 0,
            handshake_rtt: None,
            hedged: false,
            failure: None,
        }
    }

    /// The handshake failed.
    pub(crate) fn fail(&mut self, error: &ConnectError) {
        self.outcome = SynOutcome::Failed;
        self.failure = Some(Failure::of(error));
        self.reason = Some(match error.io_kind() {
            io::ErrorKind::ConnectionRefused => Reason::Refused,
            io::ErrorKind::TimedOut => Reason::TimedOut,
            _ => Reason::Error,
        });
    }

    pub(crate) fn saved(&self) -> Duration {
        self.handshake_rtt.unwrap_or_default() * self.saved_rtts()
    }

    pub(crate) fn saved_rtts(&self) -> u32 {
        let whole = self.first_flight_bytes == Some(self.syn_data_bytes) && self.syn_data_bytes > 0;
        let held = self.reason == Some(Reason::Held);
        u32::from(self.outcome == SynOutcome::SynDataAcked && whole && !self.hedged && !held)
    }
}

impl fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnInfo")
            .field("dns", &self.shared.dns)
            .field("facts", &self.facts())
            .field("saved_rtts", &self.saved_rtts())
            .finish()
    }
}

/// What became of TCP Fast Open on one connection, as the client can know it. `Display` and
/// [`SynOutcome::as_str`] are its name in snake case, which does not change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SynOutcome {
    /// Nothing was sent yet, or the SYN is not answered yet.
    #[default]
    Unknown,
    /// An ordinary handshake, without TCP Fast Open.
    Plain,
    /// An ordinary handshake whose SYN asked for a cookie: the first visit.
    CookieRequested,
    /// The SYN carried a cookie but no data, because the bytes may not be delivered twice.
    DataLess,
    /// The SYN carried data, and the server acked it: a ride.
    SynDataAcked,
    /// The SYN carried data, and the server did not take it; it was sent again behind the handshake.
    SynDataNotAcked,
    /// Only a SYN without data was answered, after a timeout.
    SynRetransmitted,
    /// The SYN with TCP Fast Open was not answered; a plain attempt to the same server was.
    Silent,
    /// The SYN with TCP Fast Open was refused; a plain attempt to the same server was not.
    Refused,
    /// The handshake with TCP Fast Open was completed, and nothing came after it; a plain attempt to
    /// the same server was answered.
    Stalled,
    /// The handshake failed.
    Failed,
}

impl SynOutcome {
    /// The name in snake case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Plain => "plain",
            Self::CookieRequested => "cookie_requested",
            Self::DataLess => "data_less",
            Self::SynDataAcked => "syn_data_acked",
            Self::SynDataNotAcked => "syn_data_not_acked",
            Self::SynRetransmitted => "syn_retransmitted",
            Self::Silent => "silent",
            Self::Refused => "refused",
            Self::Stalled => "stalled",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for SynOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an outcome is what it is. `Display` says it in plain words; [`Reason::as_str`] is its name in
/// snake case, which does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The caller has switched it off.
    Off,
    /// The path memory knows that TCP Fast Open fails on this path, for now: an ordinary connection.
    Avoided,
    /// The path memory lets rides on this path rest for now: its server did not take the last ones.
    Resting,
    /// This system, kernel or namespace has no TCP Fast Open for clients.
    Unsupported,
    /// No cookie for this address was cached.
    NoCookie,
    /// A cookie was cached when the connection was made, and had vanished when the request came.
    CookieVanished,
    /// The bytes may not be delivered twice, or what follows the first requests may not.
    NotReplaySafe(Stop),
    /// The caller's rule keeps it out of the SYN ([`SynData::rule`](crate::SynData::rule)).
    ByRule,
    /// Somebody has read for a second, and nobody has written: the handshake was made without data, so that
    /// the server may speak.
    NothingWritten,
    /// The data was acked, but it was not replay-safe: the server may have waited for the end of the
    /// handshake before it acted on it. Over HTTP/1, an answer that came before that removes the
    /// doubt.
    Held,
    /// The first flight did not fit into the SYN: all of what fitted was acked, and nothing saved.
    TooLarge,
    /// The server did not take the data: it has TCP Fast Open off or its queue is full, the cookie
    /// was not valid, or something on the way took out the option or the data.
    NotAcked,
    /// The SYN had to be sent again: something on the way drops SYNs with data, or a packet was lost.
    Retransmitted,
    /// Something on the way drops SYNs with TCP Fast Open, or a packet was lost.
    Silent,
    /// Something on the way holds back what follows a handshake with TCP Fast Open, or the server
    /// took its time.
    Stalled,
    /// The connection was refused.
    Refused,
    /// Nothing answered in time.
    TimedOut,
    /// The handshake failed otherwise; the error says how.
    Error,
}

impl Reason {
    /// The name in snake case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Avoided => "avoided",
            Self::Resting => "resting",
            Self::Unsupported => "unsupported",
            Self::NoCookie => "no_cookie",
            Self::CookieVanished => "cookie_vanished",
            Self::NotReplaySafe(_) => "not_replay_safe",
            Self::ByRule => "by_rule",
            Self::NothingWritten => "nothing_written",
            Self::Held => "held",
            Self::TooLarge => "too_large",
            Self::NotAcked => "not_acked",
            Self::Retransmitted => "retransmitted",
            Self::Silent => "silent",
            Self::Stalled => "stalled",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "switched off by the caller",
            Self::Avoided => "TCP Fast Open has failed on this path lately",
            Self::Resting => "the server did not take the data of the last rides",
            Self::Unsupported => "no TCP Fast Open for clients here (sysctl net.ipv4.tcp_fastopen, bit 1)",
            Self::NoCookie => "no cookie for this address yet",
            Self::CookieVanished => "the cookie vanished from the kernel's cache",
            Self::NotReplaySafe(stop) => return write!(f, "not safe to deliver twice: {stop}"),
            Self::ByRule => "the caller's rule keeps it out of the SYN",
            Self::NothingWritten => "nothing was written for a second, and somebody reads",
            Self::Held => "not replay-safe: the server may have held it until the handshake was complete",
            Self::TooLarge => "the first flight is larger than a SYN",
            Self::NotAcked => "the server did not take the data in the SYN",
            Self::Retransmitted => "the SYN with data was not answered, one without was",
            Self::Silent => "the SYN with TCP Fast Open was not answered, a plain one was",
            Self::Stalled => {
                "nothing followed the handshake with TCP Fast Open, a plain connection was answered"
            }
            Self::Refused => "refused",
            Self::TimedOut => "nothing answered in time",
            Self::Error => "the handshake failed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(outcome: SynOutcome, flight: usize, syn: usize) -> ConnInfo {
        let info = ConnInfo::new(SocketAddr::from(([192, 0, 2, 1], 80)), None);
        info.update(|facts| {
            facts.outcome = outcome;
            facts.first_flight_bytes = Some(flight);
            facts.syn_data_bytes = syn;
            facts.handshake_rtt = Some(Duration::from_millis(40));
        });
        info
    }

    #[test]
    fn only_a_whole_and_acked_first_flight_saves() {
        let ride = info(SynOutcome::SynDataAcked, 100, 100);
        assert_eq!((ride.saved_rtts(), ride.saved()), (1, Duration::from_millis(40)));
        for info in [
            info(SynOutcome::SynDataAcked, 3000, 1420),
            info(SynOutcome::SynDataNotAcked, 100, 100),
            info(SynOutcome::SynRetransmitted, 100, 100),
            info(SynOutcome::DataLess, 100, 0),
            info(SynOutcome::Unknown, 100, 100),
            info(SynOutcome::SynDataAcked, 0, 0),
        ] {
            assert_eq!((info.saved_rtts(), info.saved()), (0, Duration::ZERO), "{info:?}");
        }
    }

    #[test]
    fn a_clone_is_the_same_connection() {
        let (one, two) = (info(SynOutcome::Plain, 1, 0), info(SynOutcome::Plain, 1, 0));
        assert!(one.same_connection(&one.clone()) && !one.same_connection(&two));
    }
}
