use std::fmt;
use std::io;
use std::net::SocketAddr;

/// A call to the kernel that failed: which call, for which address, and (as the source) why.
#[derive(Debug)]
pub struct Error {
    call: &'static str,
    address: Option<SocketAddr>,
    source: io::Error,
}

impl Error {
    pub(crate) fn new(call: &'static str, source: io::Error) -> Self {
        Self { call, address: None, source }
    }

    pub(crate) fn to(call: &'static str, address: &SocketAddr, source: io::Error) -> Self {
        Self { call, address: Some(*address), source }
    }

    /// The call and the option or flag that it was about, as the man pages spell them.
    pub fn call(&self) -> &'static str {
        self.call
    }

    /// The remote address of the call, if it had one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// What the kernel said.
    pub fn io_error(&self) -> &io::Error {
        &self.source
    }

    /// The kind of [`Error::io_error`].
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// [`Error::io_error`], alone.
    pub fn into_io_error(self) -> io::Error {
        self.source
    }

    /// Whether TCP Fast Open is not to be had here: not this system, not this kernel, or switched
    /// off. An ordinary connection is the right answer; nothing has been sent.
    ///
    /// Kernels say it in several ways: `ENOPROTOOPT` (option unknown), `EOPNOTSUPP` (the sysctl's
    /// bit is off), `EPIPE` (`MSG_FASTOPEN` unknown, Linux before 3.6), `EPERM` (a filter) and
    /// `EINVAL` (option known by another meaning).
    pub fn is_unsupported(&self) -> bool {
        is_unsupported(&self.source)
    }
}

pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
        || error.raw_os_error().is_some_and(|code| crate::sys::UNSUPPORTED.contains(&code))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed", self.call)?;
        if let Some(address) = self.address {
            write!(f, " for {address}")?;
        }
        if self.is_unsupported() {
            f.write_str(
                ": TCP Fast Open is not available here, use an ordinary connection \
                 (sysctl net.ipv4.tcp_fastopen: bit 1 for clients, bit 2 for servers)",
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Keeps the kind; the [`Error`] itself is inside.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.source.kind(), error)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn says_what_failed_where_and_what_to_do() {
        let address = "192.0.2.1:80".parse().unwrap();
        let error = Error::to("sendmsg MSG_FASTOPEN", &address, io::ErrorKind::Unsupported.into());
        let text = error.to_string();
        assert!(text.starts_with("sendmsg MSG_FASTOPEN failed for 192.0.2.1:80"), "{text}");
        assert!(text.contains("net.ipv4.tcp_fastopen"), "{text}");
        assert!(error.is_unsupported());
        assert!(error.source().is_some());
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn every_spelling_of_unsupported_counts_and_nothing_else() {
        for code in crate::sys::UNSUPPORTED {
            assert!(Error::new("x", io::Error::from_raw_os_error(*code)).is_unsupported(), "{code}");
        }
        for kind in [io::ErrorKind::ConnectionRefused, io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut] {
            let error = Error::new("x", kind.into());
            assert!(!error.is_unsupported());
            assert_eq!(error.to_string(), "x failed");
        }
    }
}
