use std::fmt;
use std::io;
use std::net::SocketAddr;

/// A call to the kernel that failed: which call, for which address, and (as the source) why.
#[derive(Debug)]
pub struct Error {
    call: &'static str,
    address: Option<SocketAddr>,
    is_unsupported: bool,
    source: io::Error,
}

impl Error {
    /// `unsupported`: the codes by which this very call says that there is no TCP Fast Open. The same
    /// code from another call means something else: `EPIPE` from a send says that the peer has gone.
    pub(crate) fn new(call: &'static str, source: io::Error, unsupported: &[i32]) -> Self {
        let is_unsupported = match source.raw_os_error() {
            Some(code) => unsupported.contains(&code),
            // The twin for other systems has no codes.
            None => source.kind() == io::ErrorKind::Unsupported,
        };
        Self { call, address: None, is_unsupported, source }
    }

    pub(crate) fn to(self, address: &SocketAddr) -> Self {
        Self { address: Some(*address), ..self }
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

    /// Whether what the call is about is not to be had here: not on this system, not on this kernel, not
    /// on this kind of socket, or switched off. An ordinary connection is the right answer; the call has
    /// sent nothing.
    ///
    /// Which errors say so depends on the call:
    ///
    /// | call | codes |
    /// |---|---|
    /// | the options, `TCP_INFO` | `ENOPROTOOPT` (unknown), `EOPNOTSUPP` (off, or not TCP), `EPERM` (a filter), `EINVAL` (known by another meaning, or the socket is past it) |
    /// | [`send_syn`](crate::send_syn) | `EOPNOTSUPP` (off), `EPIPE` (`MSG_FASTOPEN` unknown, Linux before 3.6), `ENOPROTOOPT`, `EPERM` (a filter) |
    /// | [`send`](crate::send), [`send_empty_syn`](crate::send_empty_syn) | `EOPNOTSUPP` (off since `connect` was deferred) |
    /// | [`connect`](crate::connect), [`peek`](crate::peek) | none |
    ///
    /// Where the system is not Linux, every call that would be Linux's own says so.
    pub fn is_unsupported(&self) -> bool {
        self.is_unsupported
    }

    /// What to say of an unsupported call.
    fn advice(&self) -> &'static str {
        // `EOPNOTSUPP`, of the calls that the sysctl can switch off.
        let off = self.source.raw_os_error().is_some() && self.kind() == io::ErrorKind::Unsupported;
        match self.call {
            "setsockopt TCP_FASTOPEN_CONNECT" | "sendmsg MSG_FASTOPEN" | "sendmsg" | "send" if off => {
                "TCP Fast Open is not available here, use an ordinary connection \
                 (sysctl net.ipv4.tcp_fastopen: bit 1 is for clients; only TCP sockets have it)"
            }
            call if call.contains("sockopt") => {
                "this system or kernel, or a socket of this kind, has no such option"
            }
            _ => "TCP Fast Open is not available here, use an ordinary connection",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed", self.call)?;
        if let Some(address) = self.address {
            write!(f, " for {address}")?;
        }
        if self.is_unsupported {
            write!(f, ": {}", self.advice())?;
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
        let source = io::ErrorKind::Unsupported.into();
        let error = Error::new("sendmsg MSG_FASTOPEN", source, &[]).to(&address);
        let text = error.to_string();
        assert!(text.starts_with("sendmsg MSG_FASTOPEN failed for 192.0.2.1:80"), "{text}");
        assert!(text.ends_with("use an ordinary connection"), "no sysctl changes another system: {text}");
        assert!(error.is_unsupported());
        assert!(error.source().is_some());
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::Unsupported);
    }

    /// Each call that there is, each code that there is.
    #[test]
    #[cfg(all(target_os = "linux", not(tfo_fallback)))]
    fn a_code_counts_from_the_calls_that_mean_it_and_from_no_other() {
        use libc::{EINVAL, ENOPROTOOPT, EOPNOTSUPP, EPERM, EPIPE};

        use crate::sys;
        for (call, list, expected) in [
            (
                "setsockopt TCP_FASTOPEN_CONNECT",
                sys::OPTION_UNSUPPORTED,
                &[ENOPROTOOPT, EOPNOTSUPP, EPERM, EINVAL][..],
            ),
            ("sendmsg MSG_FASTOPEN", sys::SYN_UNSUPPORTED, &[ENOPROTOOPT, EOPNOTSUPP, EPERM, EPIPE]),
            ("sendmsg", sys::SEND_UNSUPPORTED, &[EOPNOTSUPP]),
            ("recv MSG_PEEK", &[], &[]),
        ] {
            for code in 1..200 {
                let error = Error::new(call, io::Error::from_raw_os_error(code), list);
                assert_eq!(error.is_unsupported(), expected.contains(&code), "{call}: {code}");
                let text = error.to_string();
                assert_eq!(text == format!("{call} failed"), !error.is_unsupported(), "{text}");
                let off = error.is_unsupported() && code == EOPNOTSUPP;
                assert_eq!(text.contains("sysctl"), off, "{text}");
            }
        }
        for call in ["getsockopt TCP_INFO", "setsockopt TCP_FASTOPEN"] {
            let text = Error::new(call, io::Error::from_raw_os_error(EOPNOTSUPP), sys::OPTION_UNSUPPORTED)
                .to_string();
            assert!(text.contains("a socket of this kind") && !text.contains("sysctl"), "{text}");
        }
    }
}
