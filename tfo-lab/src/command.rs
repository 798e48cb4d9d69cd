//! Commands that run in a host.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use crate::host::Host;

/// A [`Command`] that runs in a [`Host`]: a child inherits the network namespace of the thread that starts
/// it.
#[derive(Debug)]
pub struct HostCommand {
    host: Host,
    command: Command,
}

impl HostCommand {
    pub(crate) fn new(host: Host, program: &OsStr) -> Self {
        Self { host, command: Command::new(program) }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Sets the working directory.
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Sets the standard input.
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.command.stdin(stdin);
        self
    }

    /// Sets the standard output.
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.command.stdout(stdout);
        self
    }

    /// Sets the standard error.
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.command.stderr(stderr);
        self
    }

    /// The command itself, for everything else.
    pub fn as_std_mut(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Runs it to its end, and collects what it writes.
    ///
    /// # Errors
    /// As [`Command::output`].
    pub fn output(&mut self) -> io::Result<Output> {
        self.host.run(|| self.command.output())
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// As [`Command::status`].
    pub fn status(&mut self) -> io::Result<ExitStatus> {
        self.host.run(|| self.command.status())
    }

    /// Starts it. The child outlives the lab unless it is killed.
    ///
    /// # Errors
    /// As [`Command::spawn`].
    pub fn spawn(&mut self) -> io::Result<Child> {
        self.host.run(|| self.command.spawn())
    }
}
