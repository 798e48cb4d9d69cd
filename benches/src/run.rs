//! A run: how much of it, and how far it has come.

use std::env;
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "for the programs of this crate only")]
pub enum Effort {
    /// As little as shows that everything works: no figure to rely on.
    Smoke,
    /// Under two minutes.
    Quick,
    /// Everything.
    Full,
}

/// How far a run has come, on standard error if that is a terminal.
#[derive(Clone, Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// Nothing has been done yet.
    pub fn new() -> Self {
        let style =
            ProgressStyle::with_template("{msg:16} {wide_bar} {pos}/{len}, {elapsed} gone, {eta} left");
        Self(ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    /// A set begins, so many steps long.
    pub fn begin(&self, set: &str, steps: u64) {
        self.0.reset();
        self.0.set_length(steps);
        self.0.set_message(set.to_owned());
    }

    /// A step is done.
    pub fn step(&self) {
        self.0.inc(1);
    }

    /// All is done.
    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a program is, if it is installed. Daemons are not in every user's `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let paths = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&paths).chain(["/usr/sbin".into(), "/sbin".into()]);
    // An absolute path stays what it is when it is joined.
    places.map(|place| place.join(program)).find(|path| path.is_file())
}

/// Where our command is: beside this program, if it was built.
pub(crate) fn our_command() -> Result<PathBuf, String> {
    let command = env::current_exe().map(|this| this.with_file_name("tfo")).unwrap_or_default();
    match command.is_file() {
        true => Ok(command),
        false => Err("the command is not there: cargo build --profile dist -p tfo-cli".to_owned()),
    }
}

/// Whether a program is there.
pub(crate) fn is_installed(program: &str) -> bool {
    find(program).is_some()
}
