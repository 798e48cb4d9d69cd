use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{MIN_EPOCH, SECRET_LENGTH};

/// What is wrong with keys: what, in which file, and (as the source) why. Never tells any of a key.
#[derive(Debug)]
pub struct KeyError {
    kind: KeyErrorKind,
    path: Option<PathBuf>,
    source: Option<io::Error>,
}

/// What is wrong with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyErrorKind {
    /// The text is not one key, or two with a comma between, of four groups of eight hexadecimal digits.
    Malformed,
    /// A key is all zeros: what the sysctl shows when there is none.
    Zero,
    /// The secret has fewer than 32 bytes.
    ShortSecret,
    /// The epoch is shorter than a second, or longer than a hundred years.
    Epoch,
    /// The skew is not less than half of the epoch.
    Skew,
    /// The file cannot be read.
    Unreadable,
    /// The path leads to something else than a file.
    NotAFile,
    /// The file is longer than a file of keys or a secret can be.
    TooLong,
    /// The system does not take the keys.
    Refused,
}

impl KeyError {
    pub(super) fn new(kind: KeyErrorKind) -> Self {
        Self { kind, path: None, source: None }
    }

    pub(super) fn unreadable(source: io::Error) -> Self {
        Self { kind: KeyErrorKind::Unreadable, path: None, source: Some(source) }
    }

    pub(super) fn refused(source: impl Into<io::Error>) -> Self {
        Self { kind: KeyErrorKind::Refused, path: None, source: Some(source.into()) }
    }

    pub(super) fn of_file(self, path: &Path) -> Self {
        Self { path: Some(path.to_owned()), ..self }
    }

    /// What is wrong.
    pub fn kind(&self) -> KeyErrorKind {
        self.kind
    }

    /// The file that it was about.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The system's error, if there was one.
    pub fn io_error(&self) -> Option<&io::Error> {
        self.source.as_ref()
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.display())?;
        }
        match self.kind {
            KeyErrorKind::Malformed => f.write_str(
                "no cookie key: it takes four groups of eight hexadecimal digits with a dash between them, \
                 as net.ipv4.tcp_fastopen_key has them, and a comma before a second key",
            ),
            KeyErrorKind::Zero => f.write_str(
                "a cookie key of zeros is none: net.ipv4.tcp_fastopen_key shows it when there is no key",
            ),
            KeyErrorKind::ShortSecret => write!(
                f,
                "the secret is too short: {SECRET_LENGTH} bytes or more are needed \
                 (head -c {SECRET_LENGTH} /dev/urandom makes one)"
            ),
            KeyErrorKind::Epoch => write!(f, "the epoch must be {MIN_EPOCH:?} or more, and sane"),
            KeyErrorKind::Skew => f.write_str(
                "the skew must be less than half of the epoch: take a longer epoch or a smaller skew",
            ),
            KeyErrorKind::Unreadable => f.write_str("the file cannot be read"),
            KeyErrorKind::NotAFile => f.write_str("this is no regular file"),
            KeyErrorKind::TooLong => f.write_str("the file is too long for keys or a secret"),
            KeyErrorKind::Refused => f.write_str("the system does not take the cookie keys (Linux 5.3 does)"),
        }
    }
}

impl std::error::Error for KeyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// Keeps the kind of the system's error, else `InvalidInput`; the [`KeyError`] itself is inside.
impl From<KeyError> for io::Error {
    fn from(error: KeyError) -> Self {
        let kind = error.source.as_ref().map_or(io::ErrorKind::InvalidInput, Self::kind);
        Self::new(kind, error)
    }
}

/// The longest epoch: arithmetic does not come near its limits.
pub(super) const MAX_EPOCH: Duration = Duration::from_secs(100 * 366 * 24 * 3600);
