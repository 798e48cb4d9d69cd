//! How a command ends when it does not end well: one line, and an exit code.

use std::error::Error;
use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// Exit codes, as curl's where curl has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// It failed in a way that has no code of its own; also curl's "unsupported protocol".
    General = 1,
    /// Bad arguments.
    Usage = 2,
    /// The name was not resolved.
    Resolve = 6,
    /// There was no connection.
    Connect = 7,
    /// The output could not be written.
    Write = 23,
    /// It took too long.
    TimedOut = 28,
    /// The answer was broken, or cut off.
    Receive = 56,
}

/// Why a command failed, in one line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    code: Code,
    /// `None`: nobody is there to be told.
    message: Option<String>,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: Some(message.into()) }
    }

    /// With an error and all its causes behind the message.
    pub(crate) fn because(code: Code, message: impl fmt::Display, error: &(dyn Error + 'static)) -> Self {
        Self::new(code, format!("{message}: {}", chain(error)))
    }

    /// Standard output, or the file in its place, took no more.
    pub(crate) fn output(name: &str, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // The reader has seen enough, as `head` does: no failure, and nothing to say.
            return Self { code: Code::Write, message: None };
        }
        Self::because(Code::Write, format_args!("cannot write {name}"), error)
    }

    #[cfg(test)]
    pub(crate) fn code(&self) -> Code {
        self.code
    }

    /// Says it on standard error, and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        let Some(message) = self.message else { return ExitCode::SUCCESS };
        // If that is closed too, the code has to do.
        let _ = writeln!(io::stderr(), "tfo: {}", one_line(&message));
        ExitCode::from(self.code as u8)
    }
}

/// An error and its causes, without what is said twice.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once_and_in_one_line() {
        let inner = io::Error::other("it  is\nfull");
        let failure = Failure::because(Code::General, "cannot go on", &io::Error::other(inner));
        assert_eq!(failure.code(), Code::General);
        assert_eq!(one_line(failure.message.as_deref().unwrap()), "cannot go on: it is full");
    }

    #[test]
    fn a_reader_that_has_gone_is_not_told_so() {
        let gone = Failure::output("standard output", &io::ErrorKind::BrokenPipe.into());
        assert_eq!(gone.message, None);
        let full = Failure::output("standard output", &io::ErrorKind::StorageFull.into());
        assert_eq!(full.code(), Code::Write);
        assert!(full.message.is_some());
    }
}
