use std::fmt;
use std::io;
use std::path::Path;

use crate::sys;

/// The kernel's TCP Fast Open counters of one network namespace, since it began: `TcpExt` in
/// `/proc/net/netstat`, by name (the columns differ from kernel to kernel). A counter that the
/// kernel does not have is `None`.
///
/// ```
/// # use tfo_core::Counters;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "TcpExt: TCPFastOpenActive\nTcpExt: 3\n";
/// # let (read, later) = (|| Counters::parse(text), "TcpExt: TCPFastOpenActive\nTcpExt: 5\n");
/// let before = read()?; // Counters::read()?
/// // … connections …
/// # let read = || Counters::parse(later);
/// let rides = read()?.since(&before).active;
/// assert_eq!(rides, Some(2));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Client: data in a SYN was acked (also when the connection was never heard of again).
    pub active: Option<u64>,
    /// Client: data in a SYN was not acked, or the handshake timed out three times.
    pub active_fail: Option<u64>,
    /// Server: connections accepted from a SYN with a valid cookie.
    pub passive: Option<u64>,
    /// Server: a cookie was not valid, or no connection could be made from the SYN.
    pub passive_fail: Option<u64>,
    /// Server: the listener's `TCP_FASTOPEN` queue was full, or off; the handshake was ordinary.
    pub listen_overflow: Option<u64>,
    /// Server: SYNs that asked for a cookie.
    pub cookie_reqd: Option<u64>,
    /// Client: how often the blackhole timer switched TCP Fast Open off for the namespace.
    pub blackhole: Option<u64>,
    /// Server: cookies that only the backup key explains.
    pub passive_alt_key: Option<u64>,
    /// SYNs and SYN-ACKs sent again (`TCPSynRetrans`).
    pub syn_retrans: Option<u64>,
    /// Accept queues found full (`ListenOverflows`).
    pub listen_overflows: Option<u64>,
    /// SYNs dropped by listeners (`ListenDrops`).
    pub listen_drops: Option<u64>,
}

impl Counters {
    /// Reads the counters of the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// `/proc/thread-self/net/netstat` cannot be read (not Linux, no `/proc`), or is not in the form
    /// that every Linux gives it.
    pub fn read() -> Result<Self, CountersError> {
        // `/proc/net` is the namespace of the process, whichever thread asks.
        let text =
            sys::read_proc(Path::new("/proc/thread-self/net/netstat")).map_err(CountersError::Unreadable)?;
        Self::parse(&text)
    }

    /// Parses the text of a `netstat` file.
    ///
    /// # Errors
    ///
    /// [`CountersError::Malformed`] if there is no `TcpExt` pair of lines, or it does not pair up.
    pub fn parse(netstat: &str) -> Result<Self, CountersError> {
        let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
        let (names, values) = lines.next().zip(lines.next()).ok_or(CountersError::Malformed)?;
        let (mut names, mut values) = (names.split_ascii_whitespace(), values.split_ascii_whitespace());
        let mut counters = Self::default();
        loop {
            match (names.next(), values.next()) {
                (Some(name), Some(value)) => {
                    if let Some(counter) = counters.by_name(name) {
                        *counter = Some(value.parse().map_err(|_| CountersError::Malformed)?);
                    }
                }
                (None, None) => return Ok(counters),
                _ => return Err(CountersError::Malformed),
            }
        }
    }

    /// How far each counter has come since `earlier`; `None` where one of the two has no value.
    /// A counter that went back (another namespace) counts as 0.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = *self;
        let mut earlier = *earlier;
        for name in NAMES {
            if let (Some(now), Some(then)) = (difference.by_name(name), earlier.by_name(name)) {
                *now = now.zip(*then).map(|(now, then)| now.saturating_sub(then));
            }
        }
        difference
    }

    fn by_name(&mut self, name: &str) -> Option<&mut Option<u64>> {
        Some(match name {
            "TCPFastOpenActive" => &mut self.active,
            "TCPFastOpenActiveFail" => &mut self.active_fail,
            "TCPFastOpenPassive" => &mut self.passive,
            "TCPFastOpenPassiveFail" => &mut self.passive_fail,
            "TCPFastOpenListenOverflow" => &mut self.listen_overflow,
            "TCPFastOpenCookieReqd" => &mut self.cookie_reqd,
            "TCPFastOpenBlackhole" => &mut self.blackhole,
            "TCPFastOpenPassiveAltKey" => &mut self.passive_alt_key,
            "TCPSynRetrans" => &mut self.syn_retrans,
            "ListenOverflows" => &mut self.listen_overflows,
            "ListenDrops" => &mut self.listen_drops,
            _ => return None,
        })
    }
}

/// All names that `by_name` knows.
const NAMES: [&str; 11] = [
    "TCPFastOpenActive",
    "TCPFastOpenActiveFail",
    "TCPFastOpenPassive",
    "TCPFastOpenPassiveFail",
    "TCPFastOpenListenOverflow",
    "TCPFastOpenCookieReqd",
    "TCPFastOpenBlackhole",
    "TCPFastOpenPassiveAltKey",
    "TCPSynRetrans",
    "ListenOverflows",
    "ListenDrops",
];

/// Why the counters cannot be told.
#[derive(Debug)]
#[non_exhaustive]
pub enum CountersError {
    /// The file cannot be read.
    Unreadable(io::Error),
    /// The file is not what Linux writes.
    Malformed,
}

impl fmt::Display for CountersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable(_) => {
                "the kernel's TCP counters cannot be read from /proc/thread-self/net/netstat \
                 (Linux with /proc mounted has them)"
            }
            Self::Malformed => "/proc/thread-self/net/netstat has no well-formed pair of TcpExt lines",
        })
    }
}

impl std::error::Error for CountersError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(error) => Some(error),
            Self::Malformed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn by_name_whatever_the_columns() {
        let old = "TcpExt: SyncookiesSent ListenOverflows TCPFastOpenActive\nTcpExt: 7 1 2\n\
                   IpExt: InNoRoutes\nIpExt: 0\n";
        let counters = Counters::parse(old).unwrap();
        assert_eq!(counters.active, Some(2));
        assert_eq!(counters.listen_overflows, Some(1));
        assert_eq!(counters.passive_alt_key, None, "a counter that the kernel lacks is not zero");
    }

    #[test]
    fn every_name_has_a_counter_of_its_own() {
        let names = NAMES.join(" ");
        let values = (1..=NAMES.len()).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let mut counters = Counters::parse(&format!("TcpExt: {names}\nTcpExt: {values}\n")).unwrap();
        for (name, value) in NAMES.into_iter().zip(1_u64..) {
            assert_eq!(counters.by_name(name).copied().flatten(), Some(value), "{name}");
        }
    }

    #[test]
    fn differences() {
        let at = |n: u64| Counters::parse(&format!("TcpExt: TCPFastOpenPassive\nTcpExt: {n}\n")).unwrap();
        assert_eq!(at(9).since(&at(4)).passive, Some(5));
        assert_eq!(at(4).since(&at(9)).passive, Some(0));
        assert_eq!(at(4).since(&at(4)).active, None);
        assert_eq!(at(4).since(&Counters::default()).passive, None);
    }

    #[test]
    fn malformed_is_said() {
        for text in ["", "IpExt: A\nIpExt: 1\n", "TcpExt: A B\nTcpExt: 1\n", "TcpExt: A\n"] {
            assert!(matches!(Counters::parse(text), Err(CountersError::Malformed)), "{text:?}");
        }
        let wrong = "TcpExt: TCPFastOpenActive\nTcpExt: many\n";
        assert!(matches!(Counters::parse(wrong), Err(CountersError::Malformed)));
    }

    #[cfg(all(target_os = "linux", not(tfo_fallback)))]
    #[test]
    fn this_kernel_has_them() {
        let counters = Counters::read().unwrap();
        assert!(counters.active.is_some() && counters.passive.is_some(), "{counters:?}");
        assert_eq!(counters.since(&counters).active, Some(0));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,200}", names in "[A-Za-z ]{0,40}", values in "[0-9 a-]{0,40}") {
            let _ = Counters::parse(&text);
            let _ = Counters::parse(&format!("TcpExt:{names}\nTcpExt:{values}"));
        }
    }
}
