use std::fmt;
use std::time::SystemTime;

use super::error::KeyError;
use super::key::KeyId;

/// What happened to keys; `Display` is a line for a log.
#[derive(Debug)]
#[non_exhaustive]
pub enum KeyEvent<'a> {
    /// Other keys are in force, on all listeners.
    #[non_exhaustive]
    Changed {
        /// The key that cookies are made with.
        primary: KeyId,
        /// The key whose cookies are accepted too.
        backup: Option<KeyId>,
        /// How many listeners have them.
        listeners: usize,
    },
    /// Keys could not be changed; those before stay in force. Told once, not at each new attempt.
    #[non_exhaustive]
    Kept {
        /// Why.
        error: &'a KeyError,
        /// The key that cookies are made with.
        primary: Option<KeyId>,
    },
}

impl fmt::Display for KeyEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { primary, backup: Some(backup), .. } => {
                write!(f, "cookies are made with {primary}, those of {backup} are accepted too")
            }
            Self::Changed { primary, backup: None, .. } => write!(f, "cookies are made with {primary}"),
            Self::Kept { error, primary } => {
                f.write_str("the keys stay as they were")?;
                if let Some(primary) = primary {
                    write!(f, " ({primary})")?;
                }
                write!(f, ": {error}")?;
                error.io_error().map_or(Ok(()), |source| write!(f, ": {source}"))
            }
        }
    }
}

/// What is in force, for metrics; [`Keys::status`](super::Keys::status).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyStatus {
    /// The key that cookies are made with; `None` before there is a listener, and with the system's key.
    pub primary: Option<KeyId>,
    /// The key whose cookies are accepted too.
    pub backup: Option<KeyId>,
    /// When the next change is due; `None` if none is.
    pub valid_until: Option<SystemTime>,
    /// How many listeners have the keys.
    pub listeners: usize,
    /// How often the keys have changed.
    pub changes: u64,
    /// How often they could not be changed.
    pub failures: u64,
    /// The file is not as it should be, or the system did not take the keys, at the last attempt.
    pub failing: bool,
}
