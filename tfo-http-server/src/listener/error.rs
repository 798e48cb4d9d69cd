use std::fmt;
use std::io;
use std::net::SocketAddr;

/// A listener that could not be made: which step failed, for which address, and (as the source) why.
/// `Display` says what to do.
#[derive(Debug)]
pub struct BindError {
    step: BindStep,
    address: SocketAddr,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    System(io::Error),
    /// What is wrong with the settings.
    Settings(&'static str),
}

/// The steps of making a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BindStep {
    /// The builder's settings make no sense: a queue of 0, no connections at all.
    Settings,
    /// `socket`.
    Socket,
    /// `SO_REUSEADDR`.
    ReuseAddress,
    /// `SO_REUSEPORT`.
    ReusePort,
    /// `IPV6_V6ONLY`.
    OnlyV6,
    /// `bind`.
    Bind,
    /// `TCP_NODELAY`.
    NoDelay,
    /// `TCP_FASTOPEN_KEY`; the source tells more.
    Keys,
    /// `listen`.
    Listen,
    /// The socket that was handed over is no listening TCP socket.
    HandOver,
    /// `getsockname`.
    LocalAddress,
    /// Handing the socket to the runtime.
    Register,
}

impl BindError {
    pub(super) fn new(step: BindStep, address: SocketAddr, source: io::Error) -> Self {
        Self { step, address, cause: Cause::System(source) }
    }

    pub(super) fn settings(address: SocketAddr, wrong: &'static str) -> Self {
        Self { step: BindStep::Settings, address, cause: Cause::Settings(wrong) }
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
        match &self.cause {
            Cause::System(error) => error.kind(),
            Cause::Settings(_) => io::ErrorKind::InvalidInput,
        }
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
            (BindStep::HandOver, _) => {
                "it must be a TCP socket that listens (in a systemd unit: ListenStream with a port, Accept=no)"
            }
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
            Self::ReusePort => "setsockopt SO_REUSEPORT",
            Self::OnlyV6 => "setsockopt IPV6_V6ONLY",
            Self::Bind => "bind",
            Self::NoDelay => "setsockopt TCP_NODELAY",
            Self::Keys => "setsockopt TCP_FASTOPEN_KEY",
            Self::Listen => "listen",
            Self::HandOver => "taking over a socket",
            Self::LocalAddress => "getsockname",
            Self::Register => "registration with the runtime",
        })
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: ", self.address)?;
        if let Cause::Settings(wrong) = self.cause {
            return f.write_str(wrong);
        }
        write!(f, "{} failed", self.step)?;
        self.advice().map_or(Ok(()), |advice| write!(f, ": {advice}"))
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::System(error) => Some(error),
            Cause::Settings(_) => None,
        }
    }
}

/// Keeps the kind; the [`BindError`] itself is inside.
impl From<BindError> for io::Error {
    fn from(error: BindError) -> Self {
        Self::new(error.kind(), error)
    }
}
