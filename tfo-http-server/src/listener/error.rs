use std::fmt;
use std::io;
use std::net::SocketAddr;

/// A listener that could not be made: which step failed, for which address, and (as the source) why.
/// `Display` says what to do.
#[derive(Debug)]
pub struct BindError {
    step: BindStep,
    address: SocketAddr,
    source: Option<io::Error>,
}

/// The steps of making a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BindStep {
    /// The builder's settings contradict each other: a TCP Fast Open queue of 0.
    Settings,
    /// `socket`.
    Socket,
    /// `SO_REUSEADDR`.
    ReuseAddress,
    /// `bind`.
    Bind,
    /// `TCP_NODELAY`.
    NoDelay,
    /// `TCP_FASTOPEN_KEY`; the source tells more.
    Keys,
    /// `listen`.
    Listen,
    /// `getsockname`.
    LocalAddress,
    /// Handing the socket to the runtime.
    Register,
}

impl BindError {
    pub(super) fn new(step: BindStep, address: SocketAddr, source: io::Error) -> Self {
        Self { step, address, source: Some(source) }
    }

    pub(super) fn zero_queue(address: SocketAddr) -> Self {
        Self { step: BindStep::Settings, address, source: None }
    }

    /// Which step failed.
    pub fn step(&self) -> BindStep {
        self.step
    }

    /// The address that was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The kind of the system's error; `InvalidInput` if it was a matter of settings.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.as_ref().map_or(io::ErrorKind::InvalidInput, io::Error::kind)
    }

    fn advice(&self) -> Option<&'static str> {
        Some(match (self.step, self.kind()) {
            (BindStep::Bind | BindStep::Listen, io::ErrorKind::AddrInUse) => {
                "the port is in use (ss -ltnp shows by whom); stop that program or take another port"
            }
            (BindStep::Bind, io::ErrorKind::AddrNotAvailable) => {
                "the address is not one of this host's (ip address shows them); use one of those, \
                 or 0.0.0.0 or [::] for all"
            }
            (BindStep::Bind, io::ErrorKind::PermissionDenied) => {
                "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE \
                 (setcap cap_net_bind_service=+ep PROGRAM); or take a higher port"
            }
            (BindStep::Keys, _) => "two keys need Linux 5.3; without keys(…) the system's is used",
            (BindStep::Socket, io::ErrorKind::Unsupported) => "this host has no such address family",
            _ => return None,
        })
    }
}

impl fmt::Display for BindStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Settings => "settings",
            Self::Socket => "socket",
            Self::ReuseAddress => "setsockopt SO_REUSEADDR",
            Self::Bind => "bind",
            Self::NoDelay => "setsockopt TCP_NODELAY",
            Self::Keys => "setsockopt TCP_FASTOPEN_KEY",
            Self::Listen => "listen",
            Self::LocalAddress => "getsockname",
            Self::Register => "registration with the runtime",
        })
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: ", self.address)?;
        if self.step == BindStep::Settings {
            return f.write_str(
                "a TCP Fast Open queue of 0 takes no data in the SYN; say fastopen(false) if that is meant",
            );
        }
        write!(f, "{} failed", self.step)?;
        self.advice().map_or(Ok(()), |advice| write!(f, ": {advice}"))
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// Keeps the kind; the [`BindError`] itself is inside.
impl From<BindError> for io::Error {
    fn from(error: BindError) -> Self {
        Self::new(error.kind(), error)
    }
}
