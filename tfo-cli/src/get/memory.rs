//! What is remembered of paths from one run to the next.

use std::env;
use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use tfo_http::PathMemory;
use tfo_http::path::{FileStore, FileWarning, Settings};

use crate::failure::chain;

/// A path memory, and the file that it comes from and goes to.
pub(super) struct Memory {
    paths: PathMemory,
    file: Option<File>,
}

struct File {
    store: FileStore,
    name: PathBuf,
    /// Whether somebody wants to know that it cannot be written.
    chosen: bool,
}

impl Memory {
    /// For this run only.
    pub(super) fn none() -> Self {
        Self { paths: PathMemory::new(), file: None }
    }

    /// What an earlier run has learnt. `chosen`: a file, or `off`; without it, the user's own file. One
    /// that cannot be used is told of, and does no harm.
    pub(super) fn open(chosen: Option<&Path>) -> Self {
        let name = match chosen {
            Some(off) if off == Path::new("off") => None,
            Some(file) => Some(file.to_owned()),
            None => default_file(),
        };
        let Some(name) = name else { return Self::none() };
        let (store, warning) = FileStore::open(&name, Instant::now(), SystemTime::now());
        // A place that was not chosen may well be none.
        let warning = warning.filter(|why| chosen.is_some() || !matches!(why, FileWarning::Unreadable(_)));
        if let Some(warning) = warning {
            warn(&name, format_args!("{}", chain(&warning)));
        }
        let paths = PathMemory::with_store(store.clone(), Settings::default());
        Self { paths, file: Some(File { store, name, chosen: chosen.is_some() }) }
    }

    pub(super) fn paths(&self) -> PathMemory {
        self.paths.clone()
    }

    /// Writes what was learnt. That it cannot be kept is no failure of the requests.
    pub(super) fn save(self) {
        let Some(File { store, name, chosen }) = self.file else { return };
        if !chosen {
            let _ = make_directory(&name);
        }
        if let Err(error) = store.sync(Instant::now(), SystemTime::now())
            && chosen
        {
            warn(&name, format_args!("what was learnt of paths is not kept: {}", chain(&error)));
        }
    }
}

/// As the XDG base directory specification has it: state that should persist between restarts, but is
/// not important or portable enough to be data.
fn default_file() -> Option<PathBuf> {
    let directory = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = directory("XDG_STATE_HOME").or_else(|| Some(directory("HOME")?.join(".local/state")))?;
    Some(state.join("tfo/paths.json"))
}

/// For this user only.
fn make_directory(file: &Path) -> io::Result<()> {
    let Some(directory) = file.parent().filter(|directory| fs::metadata(directory).is_err()) else {
        return Ok(());
    };
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(directory)
}

fn warn(file: &Path, what: std::fmt::Arguments<'_>) {
    // Who closes standard error does not want to know.
    let _ = writeln!(io::stderr(), "tfo: {}: {what}", file.display());
}
