//! What this host, namespace and kernel can do, as a value.

mod facts;
mod host;
mod problem;

pub use facts::{FastOpenBits, KernelVersion};
pub use host::{Host, ThisHost};
pub use problem::{Problem, Severity, Side};

use std::fmt;
use std::io;

/// What TCP Fast Open can do here: on this system and kernel, in the calling thread's network
/// namespace, as it is set now.
///
/// Every container and every new namespace starts with the client bit on and the server bit off,
/// whatever its host has. A listener's `setsockopt` succeeds all the same: this is where one learns
/// that it will be of no use.
///
/// ```
/// let support = tfo_core::Support::probe();
/// for problem in support.problems() {
///     eprintln!("{problem}");
///     if let Some(command) = problem.fix() {
///         eprintln!("  fix: {command}");
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Support {
    /// Whether clients can send data in a SYN.
    pub client: Ability,
    /// Whether listeners can accept data in a SYN.
    pub server: Ability,
    /// `net.ipv4.tcp_fastopen`; `None` where it cannot be read or understood.
    pub fastopen: Option<FastOpenBits>,
    /// The kernel's version; `None` where it cannot be told.
    pub kernel: Option<KernelVersion>,
    /// Whether `TCP_INFO` tells a client why TCP Fast Open came to nothing (Linux 5.5).
    pub tells_client_fail: bool,
    /// Whether `TCP_INFO` tells a server that a SYN brought a valid cookie (Linux 6.16).
    pub tells_tfo_child: bool,
    problems: Vec<Problem>,
}

/// Whether one side of TCP Fast Open works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ability {
    /// It works.
    Works,
    /// It is switched off: the problems say how to switch it on.
    Off,
    /// This system or kernel does not have it.
    Unsupported,
    /// It cannot be told, because the setting cannot be read; it may work.
    Unknown,
}

impl Support {
    /// Looks at this host: two small files and three socket options on a socket that is closed again.
    pub fn probe() -> Self {
        Self::probe_host(&ThisHost)
    }

    /// Looks at a host through `host`, which can be made up: every host can be simulated.
    pub fn probe_host(host: &impl Host) -> Self {
        let mut support = Self {
            client: Ability::Works,
            server: Ability::Works,
            fastopen: None,
            kernel: None,
            tells_client_fail: false,
            tells_tfo_child: false,
            problems: Vec::new(),
        };
        if host.is_linux() {
            support.look_at_kernel(host);
            support.look_at_fastopen(host);
            support.look_at_options(host);
            support.look_at_neighbours(host);
        } else {
            support.add(Problem::NotLinux);
        }
        support
    }

    /// All that stands in the way, or is worth knowing; what blocks first.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What stands in the way of `side`, or is worth knowing there.
    pub fn problems_of(&self, side: Side) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(move |problem| problem.side().includes(side))
    }

    fn look_at_kernel(&mut self, host: &impl Host) {
        self.kernel = host.kernel_release().ok().as_deref().and_then(KernelVersion::parse);
        let Some(kernel) = self.kernel else { return };
        self.tells_client_fail = kernel >= KernelVersion::new(5, 5);
        self.tells_tfo_child = kernel >= KernelVersion::new(6, 16);
    }

    fn look_at_fastopen(&mut self, host: &impl Host) {
        const NAME: &str = "net.ipv4.tcp_fastopen";
        match host.sysctl(NAME) {
            Ok(text) => match FastOpenBits::parse(&text) {
                Some(bits) => self.fastopen = Some(bits),
                None => return self.add(Problem::SysctlNotUnderstood { name: NAME }),
            },
            // Linux before 3.6, or a kernel built without: there is nothing to switch on.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.older_than(3, 7) => {
                return self
                    .add(Problem::KernelTooOld { found: self.kernel, needed: KernelVersion::new(3, 7) });
            }
            Err(_) => {}
        }
        let Some(bits) = self.fastopen else {
            return self.add(Problem::SysctlUnreadable { name: NAME });
        };
        if !bits.client() {
            self.add(Problem::ClientBitOff { found: bits });
        }
        if !bits.server() {
            self.add(Problem::ServerBitOff { found: bits });
        }
        if bits.server_no_cookie() {
            self.add(Problem::CookieLessServer { found: bits });
        }
    }

    fn look_at_options(&mut self, host: &impl Host) {
        let client_on = self.fastopen.is_none_or(FastOpenBits::client);
        for option in ["TCP_FASTOPEN", "TCP_FASTOPEN_CONNECT", "TCP_INFO"] {
            let Err(error) = host.try_option(option) else { continue };
            // With the client bit off the kernel refuses this one: said already.
            if option == "TCP_FASTOPEN_CONNECT" && !client_on && error.kind() == io::ErrorKind::Unsupported {
                continue;
            }
            let needed = KernelVersion::new(4, 11);
            if option == "TCP_FASTOPEN_CONNECT" && self.older_than(4, 11) {
                self.add(Problem::KernelTooOld { found: self.kernel, needed });
            } else {
                self.add(Problem::OptionRefused { option, kind: error.kind() });
            }
        }
    }

    /// Settings that take TCP Fast Open's effect away while it is on.
    fn look_at_neighbours(&mut self, host: &impl Host) {
        let number = |name| host.sysctl(name).ok().and_then(|text| text.trim().parse::<u64>().ok());
        if let Some(seconds @ 1..) = number("net.ipv4.tcp_fastopen_blackhole_timeout_sec") {
            self.add(Problem::BlackholeTimer { seconds });
        }
        if number("net.ipv4.tcp_syncookies") == Some(2) {
            self.add(Problem::SynCookiesAlways);
        }
    }

    fn older_than(&self, major: u16, minor: u16) -> bool {
        self.kernel.is_some_and(|kernel| kernel < KernelVersion::new(major, minor))
    }

    fn add(&mut self, problem: Problem) {
        if let Some(ability) = problem.ability() {
            let side = problem.side();
            for (mine, of) in [(&mut self.client, Side::Client), (&mut self.server, Side::Server)] {
                if side.includes(of) && mine.rank() < ability.rank() {
                    *mine = ability;
                }
            }
        }
        let place = self.problems.partition_point(|other| other.severity() <= problem.severity());
        self.problems.insert(place, problem);
    }
}

impl Ability {
    /// Whether it is worth trying.
    pub fn may_work(self) -> bool {
        matches!(self, Self::Works | Self::Unknown)
    }

    /// The worse outranks the better.
    fn rank(self) -> u8 {
        match self {
            Self::Works => 0,
            Self::Unknown => 1,
            Self::Off => 2,
            Self::Unsupported => 3,
        }
    }
}

impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Works => "works",
            Self::Off => "off",
            Self::Unsupported => "unsupported",
            Self::Unknown => "unknown",
        })
    }
}

#[cfg(test)]
mod tests;
