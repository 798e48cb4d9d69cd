use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::controller::{Record, State, WELL, after};
use super::key::{NetworkId, Path};
use super::store::{MemoryStore, PathStore};
use super::{PathMemory, Settings};

/// What the file says of itself.
const FORMAT: &str = "tfo-http path memory";
const VERSION: u32 = 1;

/// The most that is read of a file; 8,192 paths are below 3 MB.
const FILE_MAX: u64 = 8 << 20;

/// The most paths in a file; those reported on longest ago are left out.
const PATHS_MAX: usize = 8192;

/// How long another process is waited for.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A record from later than this has a clock that was wrong.
const SKEW: Duration = Duration::from_secs(60);

/// A [`MemoryStore`] with a file behind it: the kernel's cookies outlive a short process, and so does
/// this memory.
///
/// Between [`FileStore::open`] and [`FileStore::sync`] no file is touched. A clone is the same store:
/// one goes into the [`PathMemory`](super::PathMemory), the other is kept for `sync`. Who does not
/// want to think of it takes [`PathMemory::in_file`](super::PathMemory::in_file).
///
/// Any number of processes may use one file: what they learnt is merged, the newer report on a path
/// wins. The file is JSON, and only for this user to read: it tells which addresses were visited. It
/// is replaced by renaming, so it is never seen half written; beside it there is a lock file, with
/// `.lock` added to its name.
///
/// Times in the file are wall-clock times, which survive a reboot. Where the clock was set, a back-off
/// is never longer than it was meant to be, and a path that was ridden in the future is not Capable.
#[derive(Clone)]
pub struct FileStore {
    file: Arc<PathBuf>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    memory: MemoryStore,
    /// Forgotten since the last sync: so is the file.
    cleared: bool,
}

/// Why a file was ignored. It is written anew by the next [`FileStore::sync`].
#[derive(Debug)]
#[non_exhaustive]
pub enum FileWarning {
    /// It could not be read.
    Unreadable(io::Error),
    /// It is larger than 8 MiB.
    TooLarge,
    /// It is not a path memory, or damaged.
    Corrupt(serde_json::Error),
    /// It is of a version that this one does not know.
    Version(u32),
}

#[derive(Serialize, Deserialize)]
struct Saved {
    format: String,
    version: u32,
    paths: Vec<SavedPath>,
}

/// Read before the rest, which another version may have otherwise.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
}

/// Times are milliseconds since 1970.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedPath {
    remote: SocketAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    local: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interface: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    network: Option<u64>,
    state: SavedState,
    /// The last report.
    at: u64,
    /// The last ride, or the end of the back-off.
    #[serde(default, skip_serializing_if = "is_zero")]
    time: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    silent: u8,
    #[serde(default, skip_serializing_if = "is_zero")]
    wasted: u8,
    #[serde(default, skip_serializing_if = "is_zero")]
    history: u16,
    #[serde(default, skip_serializing_if = "is_zero")]
    results: u8,
    #[serde(default, skip_serializing_if = "is_zero")]
    failures: u8,
    #[serde(default, skip_serializing_if = "is_zero")]
    rests: u8,
    /// In microseconds. Files of the first release have none.
    #[serde(default, skip_serializing_if = "is_zero")]
    rtt: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SavedState {
    Unknown,
    Capable,
    Failed,
    Resting,
}

/// The same moment on both clocks.
#[derive(Clone, Copy)]
struct Moment {
    now: Instant,
    wall: u64,
}

impl FileStore {
    /// What `file` holds; nothing if there is none. If it cannot be used, it is ignored, and the
    /// warning says why. `now` and `wall` are the present time. Blocks.
    pub fn open(file: impl Into<PathBuf>, now: Instant, wall: SystemTime) -> (Self, Option<FileWarning>) {
        let (file, moment) = (file.into(), Moment::new(now, wall));
        let (paths, warning) = match read(&file) {
            Ok(paths) => (paths, None),
            Err(warning) => (Vec::new(), Some(warning)),
        };
        let mut memory = MemoryStore::default();
        for saved in &paths {
            memory.put(&saved.path(), saved.record(moment));
        }
        let inner = Arc::new(Mutex::new(Inner { memory, cleared: false }));
        (Self { file: Arc::new(file), inner }, warning)
    }

    /// Writes what was learnt into the file, and takes over what other processes have written there.
    /// To be called before the process ends, and in a long one now and then. Blocks, for half a second
    /// at most for the sake of other processes.
    ///
    /// # Errors
    ///
    /// If the file cannot be written. Nothing is lost: the next call tries again. A file that cannot be
    /// used is no error, but a warning, and is replaced. Something that is not a file (a directory, a
    /// device) is never replaced.
    pub fn sync(&self, now: Instant, wall: SystemTime) -> io::Result<Option<FileWarning>> {
        let moment = Moment::new(now, wall);
        // Through a symbolic link to what it points to, which renaming would replace otherwise.
        let file = fs::canonicalize(&*self.file).unwrap_or_else(|_| self.file.to_path_buf());
        if fs::metadata(&file).is_ok_and(|found| !found.is_file()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        // Held until the end. Without it, what two processes write at once is not merged, no more.
        let _lock = lock(&file);
        let (ours, cleared) = {
            let mut inner = self.lock();
            (inner.memory.list(), std::mem::take(&mut inner.cleared))
        };
        let (theirs, warning) = match read(&file) {
            Ok(_) if cleared => (Vec::new(), None),
            Ok(paths) => (paths, None),
            Err(warning) => (Vec::new(), Some(warning)),
        };
        let mut merged: HashMap<Path, SavedPath> =
            theirs.into_iter().map(|saved| (saved.path(), saved.sane(moment))).collect();
        let mut written = Vec::new();
        for (path, record) in ours {
            let saved = SavedPath::new(&path, &record, moment);
            match merged.get(&path) {
                Some(theirs) if !record.unsaved || theirs.at > saved.at => {}
                _ => {
                    merged.insert(path, saved);
                    written.push((path, record));
                }
            }
        }
        let mut paths: Vec<_> = merged.into_values().filter(|saved| !saved.is_blank()).collect();
        paths.sort_unstable_by_key(|saved| std::cmp::Reverse(saved.at));
        paths.truncate(PATHS_MAX);
        if let Err(error) = write(&file, &paths) {
            self.lock().cleared |= cleared;
            return Err(error);
        }
        self.lock().take_over(&paths, &written, moment);
        Ok(warning)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// After `paths` were written, of which `written` were this store's own.
    fn take_over(&mut self, paths: &[SavedPath], written: &[(Path, Record)], moment: Moment) {
        for (path, record) in written {
            if self.memory.get(path) == Some(*record) {
                let mut record = *record;
                record.unsaved = false;
                self.memory.put(path, record);
            }
        }
        // What others have written counts as if it was written now: after a `forget` too.
        let newest = self.memory.list().iter().map(|(_, record)| record.written).max().unwrap_or(0);
        for saved in paths {
            let path = saved.path();
            let known = self.memory.get(&path);
            // Rounded to milliseconds, what was just written may look a little older.
            let older = known.is_none_or(|known| moment.wall_at(known.touched).saturating_add(1) < saved.at);
            if older {
                let mut record = saved.record(moment);
                record.written = newest;
                self.memory.put(&path, record);
            }
        }
    }
}

impl PathMemory {
    /// In a file, which is read now and written when the last clone is dropped, together with the
    /// connectors and connections that use it: what a short process learns survives it. For what
    /// should survive a crash or `exit` too, [`FileStore::sync`] on a [`FileStore`] of one's own.
    ///
    /// A file that cannot be used is ignored, and written anew; the warning says why. Both block, the
    /// second for half a second at most if another process writes; errors of the second are ignored.
    pub fn in_file(file: impl Into<PathBuf>) -> (Self, Option<FileWarning>) {
        let (store, warning) = FileStore::open(file, Instant::now(), SystemTime::now());
        (Self::with_store(Synced(store), Settings::default()), warning)
    }
}

/// A [`FileStore`] that is synced when it is dropped: with the last clone of its memory.
struct Synced(FileStore);

impl PathStore for Synced {
    fn get(&mut self, path: &Path) -> Option<Record> {
        self.0.get(path)
    }

    fn put(&mut self, path: &Path, record: Record) {
        self.0.put(path, record);
    }

    fn list(&self) -> Vec<(Path, Record)> {
        self.0.list()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

impl Drop for Synced {
    fn drop(&mut self) {
        // Whoever has to know of an error calls `sync`. A memory that is lost is learnt again.
        let _ = self.0.sync(Instant::now(), SystemTime::now());
    }
}

impl PathStore for FileStore {
    fn get(&mut self, path: &Path) -> Option<Record> {
        self.lock().memory.get(path)
    }

    fn put(&mut self, path: &Path, record: Record) {
        self.lock().memory.put(path, record);
    }

    fn list(&self) -> Vec<(Path, Record)> {
        self.lock().memory.list()
    }

    fn clear(&mut self) {
        let mut inner = self.lock();
        inner.memory.clear();
        inner.cleared = true;
    }
}

impl SavedPath {
    fn new(path: &Path, record: &Record, moment: Moment) -> Self {
        let (state, time) = match record.state {
            State::Unknown => (SavedState::Unknown, 0),
            State::Capable { ridden } => (SavedState::Capable, moment.wall_at(ridden)),
            State::Failed { until } => (SavedState::Failed, moment.wall_at(until)),
            State::Resting { until } => (SavedState::Resting, moment.wall_at(until)),
            // Its canary dies with the process.
            State::Probing { gently: false, .. } => (SavedState::Failed, moment.wall),
            State::Probing { gently: true, .. } => (SavedState::Resting, moment.wall),
        };
        Self {
            remote: path.remote(),
            local: path.local(),
            interface: path.interface().map(str::to_owned),
            network: path.network().map(NetworkId::get),
            state,
            at: moment.wall_at(record.touched),
            time,
            silent: record.silent,
            wasted: record.wasted,
            history: record.history,
            results: record.results,
            failures: record.failures,
            rests: record.rests,
            rtt: record.rtt,
        }
    }

    fn path(&self) -> Path {
        let mut path = Path::new(self.remote);
        if let Some(local) = self.local {
            path = path.with_local(local);
        }
        if let Some(interface) = &self.interface {
            path = path.with_interface(interface);
        }
        if let Some(network) = self.network {
            path = path.with_network(NetworkId::new(network));
        }
        path
    }

    /// Whatever the file says, within the bounds that the controller keeps to.
    fn record(&self, moment: Moment) -> Record {
        let now = moment.now;
        let in_future = self.time > moment.wall.saturating_add(SKEW.as_millis() as u64);
        let state = match (self.state, moment.instant(self.time)) {
            (SavedState::Capable, Some(ridden)) if !in_future => State::Capable { ridden: ridden.min(now) },
            (SavedState::Unknown | SavedState::Capable, _) => State::Unknown,
            // A time that this system's clock cannot express is long ago.
            (SavedState::Failed, until) => State::Failed { until: until.unwrap_or(now) },
            (SavedState::Resting, until) => State::Resting { until: until.unwrap_or(now) },
        };
        let mut record = Record::new(now);
        record.state = state;
        record.silent = self.silent.min(1);
        record.wasted = self.wasted.min(2);
        (record.history, record.results) = (self.history, self.results.min(WELL));
        (record.failures, record.rests) = (self.failures, self.rests);
        record.touched = moment.instant(self.at).unwrap_or(now).min(now);
        if self.rtt > 0 {
            record.measured(Duration::from_micros(self.rtt.into()), record.touched);
        }
        match &mut record.state {
            // Capable may have more strikes in a row.
            State::Capable { .. } => record.silent = self.silent.min(3),
            // A back-off has a reason, and so a length.
            State::Failed { .. } => record.failures = record.failures.max(1),
            State::Resting { .. } => record.rests = record.rests.max(1),
            State::Unknown | State::Probing { .. } => {}
        }
        record.settle(now, false);
        record
    }

    /// What comes from the future would win over everything that is learnt until then.
    fn sane(mut self, moment: Moment) -> Self {
        if self.at > moment.wall.saturating_add(SKEW.as_millis() as u64) {
            self.at = 0;
        }
        self
    }

    fn is_blank(&self) -> bool {
        self.state == SavedState::Unknown
            && (self.silent, self.wasted, self.failures, self.rtt) == (0, 0, 0, 0)
    }
}

impl Moment {
    fn new(now: Instant, wall: SystemTime) -> Self {
        let wall = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { now, wall: millis(wall) }
    }

    /// In milliseconds since 1970.
    fn wall_at(self, instant: Instant) -> u64 {
        match instant.checked_duration_since(self.now) {
            Some(later) => self.wall.saturating_add(millis(later)),
            None => self.wall.saturating_sub(millis(self.now.saturating_duration_since(instant))),
        }
    }

    /// `None`: before this system's clock began.
    fn instant(self, wall: u64) -> Option<Instant> {
        match wall.checked_sub(self.wall) {
            Some(later) => Some(after(self.now, Duration::from_millis(later))),
            None => self.now.checked_sub(Duration::from_millis(self.wall - wall)),
        }
    }
}

impl FileWarning {
    fn why(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "cannot be read",
            Self::TooLarge => "is too large",
            Self::Corrupt(_) => "is not a path memory, or damaged",
            Self::Version(_) => "is of another version",
        }
    }
}

impl fmt::Display for FileWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the path memory's file {}: ignored", self.why())
    }
}

impl std::error::Error for FileWarning {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(error) => Some(error),
            Self::Corrupt(error) => Some(error),
            Self::TooLarge | Self::Version(_) => None,
        }
    }
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStore").field("file", &self.file).finish_non_exhaustive()
    }
}

fn read(file: &FilePath) -> Result<Vec<SavedPath>, FileWarning> {
    match fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        // Opening a pipe would wait for its other end.
        Ok(found) if !found.is_file() => {
            return Err(FileWarning::Unreadable(io::Error::other("not a regular file")));
        }
        _ => {}
    }
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(FileWarning::Unreadable)?;
    opened.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(FileWarning::Unreadable)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(FileWarning::TooLarge);
    }
    let head: Head = serde_json::from_slice(&bytes).map_err(FileWarning::Corrupt)?;
    if head.format != FORMAT {
        return Err(FileWarning::Corrupt(serde::de::Error::custom("another format")));
    }
    if head.version != VERSION {
        return Err(FileWarning::Version(head.version));
    }
    let saved: Saved = serde_json::from_slice(&bytes).map_err(FileWarning::Corrupt)?;
    Ok(saved.paths)
}

fn write(file: &FilePath, paths: &[SavedPath]) -> io::Result<()> {
    let saved = Saved { format: FORMAT.to_owned(), version: VERSION, paths: paths.to_vec() };
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut new = tempfile::NamedTempFile::new_in(directory.unwrap_or_else(|| FilePath::new(".")))?;
    new.write_all(&serde_json::to_vec(&saved)?)?;
    new.persist(file)?;
    Ok(())
}

/// The lock, or nothing if it cannot be had in time.
fn lock(file: &FilePath) -> Option<File> {
    let mut name = file.as_os_str().to_owned();
    name.push(".lock");
    let lock = File::options().create(true).truncate(false).write(true).open(name).ok()?;
    for _ in 0..LOCK_TRIES {
        match fs4::FileExt::try_lock(&lock) {
            Ok(()) => return Some(lock),
            Err(fs4::TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(fs4::TryLockError::Error(_)) => return None,
        }
    }
    None
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}
