//! The keys that cookies are made with: where they come from, and how they change.
//!
//! A cookie (RFC 7413 section 4.1.2) is made from the client's and the server's address with a key of
//! the server. Linux's do not expire by themselves: a cookie is good until its key is gone. [`Keys`] is
//! where keys come from and, in the same hand, all listeners that have them:
//!
//! | source | who shares cookies | a change |
//! |---|---|---|
//! | [`Keys::system`], the default | listeners of one network namespace | when someone writes the sysctl |
//! | [`Keys::fixed`] | whoever has the text | never |
//! | [`Keys::file`] | whoever has the file | when the file changes |
//! | [`Keys::derived`], [`Keys::derived_file`] | whoever has the secret | by the clock, every 24 h |
//!
//! A cookie is good for one address of a server. Servers share cookies only if they share the *address
//! that is in their packets*: anycast, ECMP, direct server return, the host's network. Behind a
//! balancer that rewrites destination addresses keys cannot help.
//!
//! ```no_run
//! use tfo_http_server::TfoListener;
//! use tfo_http_server::keys::{Keys, Rotation};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let keys = Keys::derived_file("/run/secrets/tfo", Rotation::default())?;
//! keys.on_event(|event| eprintln!("cookie keys: {event}"));
//! tokio::spawn(keys.clone().run()); // without it they never change
//! let listener = TfoListener::builder().keys(keys).bind("0.0.0.0:8080".parse()?)?;
//! # Ok(())
//! # }
//! ```

mod error;
mod event;
mod file;
mod key;
mod ring;
mod schedule;
mod text;

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use socket2::{SockRef, Socket};
use tfo_core::AsSocket;
use tfo_core::sockopt::CookieKey;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use file::{Look, WatchedFile};
use key::Key;
use ring::Ring;

pub use error::{KeyError, KeyErrorKind};
pub use event::{KeyEvent, KeyStatus};
pub use key::KeyId;
pub use schedule::{Rotation, Schedule, Slots};

/// The shortest epoch.
const MIN_EPOCH: Duration = Duration::from_secs(1);
/// The bytes that a secret has at least.
const SECRET_LENGTH: usize = 32;

/// How often a file is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How long after a change it is looked at once more.
const SETTLE: Duration = Duration::from_millis(100);
/// How long until something that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The longest sleep: a clock may be set, and a computer be suspended, without a word.
const NAP: Duration = Duration::from_secs(60);

/// Where cookie keys come from, and the listeners that have them. A clone is the same.
///
/// Give it to [`ListenerBuilder::keys`](crate::ListenerBuilder::keys), clones of it to all listeners
/// that share an address, and let one task [`run`](Self::run). A change reaches all listeners in
/// steps, each on all before the next, so that none makes cookies that another refuses.
///
/// Keys are overwritten in memory when they are no longer needed, and never shown: `Debug`, errors and
/// events tell a [`KeyId`] at most.
#[derive(Clone)]
pub struct Keys {
    inner: Arc<Inner>,
}

struct Inner {
    source: Source,
    /// Locked before `state` where both are.
    file: Mutex<Option<WatchedFile>>,
    state: Mutex<State>,
    handlers: Mutex<Vec<Arc<Handler>>>,
}

type Clock = dyn Fn() -> SystemTime + Send + Sync;
type Handler = dyn Fn(&KeyEvent<'_>) + Send + Sync;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    System,
    Given,
    KeyFile,
    SecretFile(Rotation),
}

struct State {
    ring: Ring<Socket>,
    material: Material,
    clock: Arc<Clock>,
    changes: u64,
    failures: u64,
    /// The file is not what it should be.
    bad_file: bool,
    /// The system did not take the keys.
    refused: bool,
}

/// What the keys are made from.
enum Material {
    System,
    Fixed {
        primary: Key,
        backup: Option<Key>,
        /// The backup is the primary of before: only one key was given.
        kept: bool,
    },
    Derived(Schedule),
}

/// What came of an attempt to change keys.
struct Outcome {
    /// Whether they are others.
    result: Result<bool, KeyError>,
    /// To be told.
    news: bool,
    in_force: Option<(KeyId, Option<KeyId>)>,
    listeners: usize,
}

impl Keys {
    /// The namespace's key, `net.ipv4.tcp_fastopen_key`, which the kernel makes up when the first
    /// listener asks for TCP Fast Open: nothing is set. The default.
    ///
    /// A container has a key of its own, which ends with it, and never changes by itself.
    pub fn system() -> Self {
        Self::new(Source::System, Material::System, None)
    }

    /// One key, or a primary and a backup, as `net.ipv4.tcp_fastopen_key` shows them:
    /// `xxxxxxxx-xxxxxxxx-xxxxxxxx-xxxxxxxx[,xxxxxxxx-xxxxxxxx-xxxxxxxx-xxxxxxxx]`.
    ///
    /// Cookies are made with the first and those of both are accepted. A second that is the first once
    /// more is none. Hosts whose sysctl has the same text share cookies with these listeners.
    ///
    /// # Errors
    ///
    /// Malformed: unlike the sysctl this takes exactly eight digits in a group, and nothing else; or a
    /// key of zeros.
    pub fn fixed(text: &str) -> Result<Self, KeyError> {
        let (primary, backup) = text::parse(text.as_bytes())?;
        Ok(Self::new(Source::Given, Material::fixed(primary, backup), None))
    }

    /// As [`fixed`](Self::fixed), from bytes as the socket option takes them.
    pub fn from_keys(primary: CookieKey, backup: Option<CookieKey>) -> Self {
        let primary = Key::new(primary);
        let backup = backup.map(Key::new).filter(|backup| !backup.is(&primary));
        Self::new(Source::Given, Material::fixed(primary, backup), None)
    }

    /// A file with keys in the form of [`fixed`](Self::fixed), read now; [`run`](Self::run) looks at it
    /// every 5 s, however it is replaced (symlinks of mounted secrets are followed anew each time), and
    /// [`reload`](Self::reload) reads it at once. A change counts when the file has been the same twice.
    ///
    /// *One* key in the file: the key before it stays valid until the next change, so that clients lose
    /// nothing. *Two* keys: exactly those. Hence to make a key invalid at once, write two others.
    ///
    /// Servers that share the file do not see it change at the same moment: let the next key be the
    /// second of two on all of them first, then the first.
    ///
    /// # Errors
    ///
    /// The file cannot be read now, or is malformed. Later that is no error: the keys stay, and
    /// [`on_event`](Self::on_event) tells.
    pub fn file(path: impl Into<PathBuf>) -> Result<Self, KeyError> {
        Self::open(Source::KeyFile, path.into())
    }

    /// Keys that are derived from a secret and the time.
    pub fn derived(schedule: Schedule) -> Self {
        Self::new(Source::Given, Material::Derived(schedule), None)
    }

    /// As [`derived`](Self::derived), with the secret in a file, read and looked at as that of
    /// [`file`](Self::file). White space around a secret that is text does not count.
    ///
    /// A new secret is a change that other servers do not know of: each client may lose one ride.
    ///
    /// # Errors
    ///
    /// The file cannot be read now, or holds fewer than 32 bytes. Later as with [`file`](Self::file).
    pub fn derived_file(path: impl Into<PathBuf>, rotation: Rotation) -> Result<Self, KeyError> {
        Self::open(Source::SecretFile(rotation), path.into())
    }

    fn open(source: Source, path: PathBuf) -> Result<Self, KeyError> {
        let (file, content) = WatchedFile::open(path)?;
        let material = source.read(&content).map_err(|error| error.of_file(file.path()))?;
        Ok(Self::new(source, material, Some(file)))
    }

    fn new(source: Source, material: Material, file: Option<WatchedFile>) -> Self {
        let state = State {
            ring: Ring::new(),
            material,
            clock: Arc::new(SystemTime::now),
            changes: 0,
            failures: 0,
            bad_file: false,
            refused: false,
        };
        let (file, state) = (Mutex::new(file), Mutex::new(state));
        Self { inner: Arc::new(Inner { source, file, state, handlers: Mutex::default() }) }
    }

    /// Asks another clock than the system's for the time of day, for this and all clones. For tests.
    ///
    /// [`run`](Self::run) sleeps by the real one: let this one go at the same pace, or call
    /// [`rotate`](Self::rotate).
    pub fn with_clock(self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.state().clock = Arc::new(clock);
        self
    }

    /// Calls `handler` whenever keys have changed, or could not be changed. To be logged: a file that is
    /// malformed is told here and nowhere else.
    ///
    /// It is called from the task or thread that changes them, and may be called from several.
    pub fn on_event(&self, handler: impl Fn(&KeyEvent<'_>) + Send + Sync + 'static) {
        self.handlers().push(Arc::new(handler));
    }

    /// Gives a listener, of any kind, the keys that are in force, and all later ones for as long as the
    /// [`Registration`] is kept. [`ListenerBuilder::keys`](crate::ListenerBuilder::keys) does so by
    /// itself.
    ///
    /// # Errors
    ///
    /// The system does not take the keys, or has no descriptor left.
    pub fn add(&self, listener: &impl AsSocket) -> Result<Registration, KeyError> {
        if self.is_system() {
            return Ok(Registration { keys: self.clone(), target: None });
        }
        let listener = SockRef::from(listener).try_clone().map_err(KeyError::refused)?;
        if self.status().listeners == 0 {
            // Nobody may have looked at the clock for long.
            self.rotate()?;
        }
        let target = self.state().ring.add(listener)?;
        Ok(Registration { keys: self.clone(), target: Some(target) })
    }

    /// Looks at the clock, and changes the keys if it is time.
    ///
    /// # Errors
    ///
    /// The system did not take the keys: those before are in force, or some listeners are one step
    /// further, which takes no ride. To be tried again.
    pub fn rotate(&self) -> Result<(), KeyError> {
        let mut state = self.state();
        let result = state.apply();
        let outcome = state.book(result);
        drop(state);
        self.tell(outcome)
    }

    /// Reads the file again, if there is one, and changes the keys: for SIGHUP. It may block for as long
    /// as the file system does.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is malformed: the keys stay as they are. Else as
    /// [`rotate`](Self::rotate).
    pub fn reload(&self) -> Result<(), KeyError> {
        let mut file = self.file_lock();
        let Some(watched) = file.as_mut() else {
            drop(file);
            return self.rotate();
        };
        let content = watched.read();
        let outcome = self.take(watched, content);
        drop(file);
        self.tell(outcome)
    }

    /// Changes the keys when it is time, for ever; to be spawned once. Dropping it leaves the keys as
    /// they are.
    ///
    /// It looks at the clock at least once a minute: the time may have been set, and a computer be
    /// suspended. Files are read on the runtime's threads for blocking work.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with time.
    pub async fn run(self) -> Infallible {
        loop {
            let pause = match self.inner.source {
                Source::System => NAP,
                Source::Given => self.turn(),
                Source::KeyFile | Source::SecretFile(_) => {
                    let keys = self.clone();
                    // It fails if a handler panics, or the runtime ends.
                    spawn_blocking(move || keys.look().min(keys.turn())).await.unwrap_or(RETRY)
                }
            };
            sleep(pause).await;
        }
    }

    /// What is in force, and how it came about.
    pub fn status(&self) -> KeyStatus {
        let state = self.state();
        let in_force = state.ring.in_force();
        let (primary, backup) = in_force.map(Slots::ids).unzip();
        KeyStatus {
            primary,
            backup: backup.flatten(),
            valid_until: in_force.and_then(Slots::valid_until),
            listeners: state.ring.len(),
            changes: state.changes,
            failures: state.failures,
            failing: state.bad_file || state.refused,
        }
    }

    /// Whether it is [`Keys::system`].
    pub fn is_system(&self) -> bool {
        self.inner.source == Source::System
    }

    /// Rotates; tells how long to sleep.
    fn turn(&self) -> Duration {
        if self.rotate().is_err() {
            return RETRY;
        }
        let state = self.state();
        let until = state.ring.in_force().and_then(Slots::valid_until);
        let left = until.map(|until| until.duration_since((state.clock)()).unwrap_or_default());
        // A millisecond is what tokio's clock can tell.
        left.unwrap_or(NAP).clamp(Duration::from_millis(1), NAP)
    }

    /// Looks at the file; tells how long to sleep.
    fn look(&self) -> Duration {
        let mut file = self.file_lock();
        let Some(watched) = file.as_mut() else { return NAP };
        match watched.look() {
            Look::Same => LOOK,
            Look::Unsettled => SETTLE,
            Look::Changed(content) => {
                let outcome = self.take(watched, content);
                drop(file);
                // The handlers know; what the system has refused is tried again by the next `turn`.
                let _ = self.tell(outcome);
                LOOK
            }
        }
    }

    fn take(&self, file: &WatchedFile, content: Result<file::Content, KeyError>) -> Outcome {
        let read = content
            .and_then(|content| self.inner.source.read(&content).map_err(|error| error.of_file(file.path())));
        let mut state = self.state();
        let result = read.and_then(|material| {
            state.material.replace(material);
            state.bad_file = false;
            state.apply()
        });
        state.book(result)
    }

    /// To be called with nothing locked: a handler may ask anything.
    fn tell(&self, outcome: Outcome) -> Result<(), KeyError> {
        let event = match (&outcome.result, outcome.in_force) {
            _ if !outcome.news => None,
            (Err(error), ids) => Some(KeyEvent::Kept { error, primary: ids.map(|ids| ids.0) }),
            (Ok(_), Some((primary, backup))) => {
                Some(KeyEvent::Changed { primary, backup, listeners: outcome.listeners })
            }
            (Ok(_), None) => None,
        };
        if let Some(event) = event {
            let handlers = self.handlers().clone();
            handlers.iter().for_each(|handler| handler(&event));
        }
        outcome.result.map(drop)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file_lock(&self) -> MutexGuard<'_, Option<WatchedFile>> {
        self.inner.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handlers(&self) -> MutexGuard<'_, Vec<Arc<Handler>>> {
        self.inner.handlers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("source", &self.inner.source)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// [`Keys::system`].
impl Default for Keys {
    fn default() -> Self {
        Self::system()
    }
}

impl Source {
    fn read(self, content: &[u8]) -> Result<Material, KeyError> {
        match self {
            Self::SecretFile(rotation) => {
                Schedule::new(file::secret(content), rotation).map(Material::Derived)
            }
            Self::System | Self::Given | Self::KeyFile => {
                text::parse(content).map(|(primary, backup)| Material::fixed(primary, backup))
            }
        }
    }
}

impl State {
    fn apply(&mut self) -> Result<bool, KeyError> {
        let slots = match &self.material {
            Material::System => return Ok(false),
            Material::Fixed { primary, backup, .. } => {
                Slots { primary: primary.clone(), backup: backup.clone(), valid_until: None }
            }
            Material::Derived(schedule) => schedule.slots((self.clock)()),
        };
        self.ring.apply(slots)
    }

    fn book(&mut self, result: Result<bool, KeyError>) -> Outcome {
        let news = match &result {
            Ok(changed) => {
                self.refused = false;
                self.changes += u64::from(*changed);
                *changed
            }
            Err(error) => {
                self.failures += 1;
                let refused = error.kind() == KeyErrorKind::Refused;
                let known = refused && self.refused;
                self.refused |= refused;
                self.bad_file |= !refused;
                !known
            }
        };
        let in_force = self.ring.in_force().map(Slots::ids);
        Outcome { result, news, in_force, listeners: self.ring.len() }
    }
}

impl Material {
    fn fixed(primary: Key, backup: Option<Key>) -> Self {
        Self::Fixed { primary, backup, kept: false }
    }

    /// A single new key does not end the one before it.
    fn replace(&mut self, mut new: Self) {
        if let Self::Fixed { primary: old, backup: old_backup, kept: old_kept } = &*self
            && let Self::Fixed { primary, backup: backup @ None, kept } = &mut new
        {
            if !primary.is(old) {
                (*backup, *kept) = (Some(old.clone()), true);
            } else if *old_kept {
                (*backup, *kept) = (old_backup.clone(), true);
            }
        }
        *self = new;
    }
}

/// A listener's place among those that have some [`Keys`]; dropping it gives the place up, and leaves
/// the listener with the keys that it has.
///
/// It is a second descriptor of the listener, which listens for as long as either is there: keep the
/// two together.
#[derive(Debug)]
#[must_use = "dropped, the listener gets no later keys"]
pub struct Registration {
    keys: Keys,
    target: Option<u64>,
}

impl Registration {
    /// The keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(target) = self.target {
            self.keys.state().ring.remove(target);
        }
    }
}

#[cfg(test)]
mod tests;
