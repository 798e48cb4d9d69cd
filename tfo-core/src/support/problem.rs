use std::fmt;
use std::io;

use super::{Ability, FastOpenBits, KernelVersion};

/// Something that stands in the way of TCP Fast Open here, or is worth knowing. `Display` says it in
/// plain words; [`Problem::fix`] is the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// Only Linux is supported; elsewhere every connection is an ordinary one.
    NotLinux,
    /// The kernel has no TCP Fast Open as this library uses it.
    #[non_exhaustive]
    KernelTooOld {
        /// This kernel.
        found: Option<KernelVersion>,
        /// The first kernel that has it.
        needed: KernelVersion,
    },
    /// A setting cannot be read: `/proc` is missing or hidden.
    #[non_exhaustive]
    SysctlUnreadable {
        /// The setting.
        name: &'static str,
    },
    /// A setting was read and makes no sense: it is no number.
    #[non_exhaustive]
    SysctlNotUnderstood {
        /// The setting.
        name: &'static str,
    },
    /// Bit 1 of `net.ipv4.tcp_fastopen` is off.
    #[non_exhaustive]
    ClientBitOff {
        /// The setting's value.
        found: FastOpenBits,
    },
    /// Bit 2 of `net.ipv4.tcp_fastopen` is off, as in every new container.
    #[non_exhaustive]
    ServerBitOff {
        /// The setting's value.
        found: FastOpenBits,
    },
    /// Bit 0x200 of `net.ipv4.tcp_fastopen` is on: every listener takes data from forged addresses.
    #[non_exhaustive]
    CookieLessServer {
        /// The setting's value.
        found: FastOpenBits,
    },
    /// The kernel, or a filter before it, refuses a socket option.
    #[non_exhaustive]
    OptionRefused {
        /// The option.
        option: &'static str,
        /// The kind of the error.
        kind: io::ErrorKind,
    },
    /// `net.ipv4.tcp_fastopen_blackhole_timeout_sec` is not 0.
    #[non_exhaustive]
    BlackholeTimer {
        /// The setting's value, seconds.
        seconds: u64,
    },
    /// `net.ipv4.tcp_syncookies` is 2: listeners ignore data in SYNs.
    SynCookiesAlways,
}

/// Which side of a connection a [`Problem`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Side {
    /// Connections that this host opens.
    Client,
    /// Connections that this host accepts.
    Server,
    /// All.
    Both,
}

impl Side {
    /// Whether `other` is part of this.
    pub fn includes(self, other: Self) -> bool {
        self == Self::Both || self == other
    }
}

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// TCP Fast Open does not work, on one side or both.
    Blocks,
    /// It works, or may work, but not well or not safely.
    Warns,
}

impl Problem {
    /// Which side it is about.
    pub fn side(&self) -> Side {
        match self {
            Self::ClientBitOff { .. } | Self::BlackholeTimer { .. } => Side::Client,
            Self::ServerBitOff { .. } | Self::CookieLessServer { .. } | Self::SynCookiesAlways => {
                Side::Server
            }
            Self::OptionRefused { option: "TCP_FASTOPEN_CONNECT", .. } => Side::Client,
            Self::OptionRefused { option: "TCP_FASTOPEN", .. } => Side::Server,
            Self::KernelTooOld { needed, .. } if *needed >= KernelVersion::new(4, 11) => Side::Client,
            Self::NotLinux
            | Self::KernelTooOld { .. }
            | Self::SysctlUnreadable { .. }
            | Self::SysctlNotUnderstood { .. }
            | Self::OptionRefused { .. } => Side::Both,
        }
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self.ability() {
            None | Some(Ability::Works | Ability::Unknown) => Severity::Warns,
            Some(Ability::Off | Ability::Unsupported) => Severity::Blocks,
        }
    }

    /// The command that mends it, to be run as root; `None` where no command does.
    pub fn fix(&self) -> Option<String> {
        let set = |bits: u32| Some(format!("sysctl -w net.ipv4.tcp_fastopen={bits}"));
        match self {
            Self::ClientBitOff { found } => set(found.bits() | 1),
            Self::ServerBitOff { found } => set(found.bits() | 2),
            Self::CookieLessServer { found } => set(found.bits() & !0x200),
            Self::BlackholeTimer { .. } => {
                Some("sysctl -w net.ipv4.tcp_fastopen_blackhole_timeout_sec=0".to_owned())
            }
            Self::SynCookiesAlways => Some("sysctl -w net.ipv4.tcp_syncookies=1".to_owned()),
            Self::NotLinux
            | Self::KernelTooOld { .. }
            | Self::SysctlUnreadable { .. }
            | Self::SysctlNotUnderstood { .. }
            | Self::OptionRefused { .. } => None,
        }
    }

    /// What it makes of its side; `None` if it only warns.
    pub(super) fn ability(&self) -> Option<Ability> {
        match self {
            Self::NotLinux | Self::KernelTooOld { .. } | Self::OptionRefused { .. } => {
                Some(Ability::Unsupported)
            }
            Self::ClientBitOff { .. } | Self::ServerBitOff { .. } => Some(Ability::Off),
            Self::SynCookiesAlways => Some(Ability::Off),
            Self::SysctlUnreadable { .. } | Self::SysctlNotUnderstood { .. } => Some(Ability::Unknown),
            Self::CookieLessServer { .. } | Self::BlackholeTimer { .. } => None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLinux => {
                f.write_str("TCP Fast Open is supported on Linux only: connections here are ordinary ones")
            }
            Self::KernelTooOld { found: Some(found), needed } => {
                write!(f, "Linux {found} is too old: TCP Fast Open is used from Linux {needed} on")
            }
            Self::KernelTooOld { found: None, needed } => {
                write!(f, "this kernel is too old: TCP Fast Open is used from Linux {needed} on")
            }
            Self::SysctlUnreadable { name } => {
                write!(
                    f,
                    "{name} cannot be read: whether TCP Fast Open is on cannot be told (is /proc mounted?)"
                )
            }
            Self::SysctlNotUnderstood { name } => {
                write!(f, "{name} is not a number: whether TCP Fast Open is on cannot be told")
            }
            Self::ClientBitOff { found } => {
                write!(
                    f,
                    "net.ipv4.tcp_fastopen is {found}: bit 1 is off, so clients send no data in the SYN"
                )
            }
            Self::ServerBitOff { found } => write!(
                f,
                "net.ipv4.tcp_fastopen is {found}: bit 2 is off (as in every new container), \
                 so listeners accept no data in the SYN"
            ),
            Self::CookieLessServer { found } => write!(
                f,
                "net.ipv4.tcp_fastopen is {found}: bit 0x200 is on, so every listener takes data \
                 from addresses that may be forged"
            ),
            Self::OptionRefused { option, kind } => {
                write!(f, "the socket option {option} is refused ({kind}): a filter, or a kernel without it")
            }
            Self::BlackholeTimer { seconds } => write!(
                f,
                "net.ipv4.tcp_fastopen_blackhole_timeout_sec is {seconds}: one bad path can switch \
                 TCP Fast Open off for every destination"
            ),
            Self::SynCookiesAlways => {
                f.write_str("net.ipv4.tcp_syncookies is 2: listeners ignore data in the SYN")
            }
        }
    }
}
