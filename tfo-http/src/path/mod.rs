//! The path memory: where TCP Fast Open works, where it does not, and when to try again.
//!
//! Linux never learns: through a box that drops SYNs with data every connection loses a second, and
//! a blackhole behind the handshake counts as a success. RFC 7413 section 4.1.3.1 has it that a client
//! "MUST cache negative responses", "most importantly no response at all", per path and at least for
//! a time: this is that cache. It is pure: the time comes in as an argument, evidence comes in as
//! [`Event`]s, and what may be sent goes out as [`Advice`]. There is no timer, so there is no jitter
//! either: a path is tried again by its next request.
//!
#![doc = concat!("```mermaid\n", include_str!("phases.mmd"), "```")]
//!
#![doc = concat!("```text\n", include_str!("phases.txt"), "```")]
//!
//! # Rules
//!
//! * *Strikes*: [`Event::Silent`] and [`Event::Abandoned`] are one, [`Event::Refused`] and
//!   [`Event::SilentAfterHandshake`] are two, because they are no lost packet. Two in a row put an
//!   Unknown path off, four a Capable one, and one a path that is tried again. *In a row* is in the
//!   order of the SYNs: the silence of a ride counts no more when a younger one was answered.
//!   Eight among sixteen results put a path off too, four if it relapses: what drops every second SYN
//!   never strikes twice in a row.
//! * *Back-off*: 2 s, doubling to a day. One ride makes the path Capable; the next back-off is 2 s
//!   again when 32 results have come without going off.
//! * *Doubt*: a path that is not Capable, or Capable with a strike, has no more rides under way than
//!   it has strikes left; after a back-off exactly one, the canary. Whoever asks meanwhile is told to
//!   avoid, so a burst costs no more than a sequence. A ride after a strike, and a canary, are
//!   [doubtful](Ticket::is_doubtful): they are hedged after 20 ms, whatever the round-trip time.
//!   So a path that begins to drop SYNs costs one request the whole hedge delay, and at most three
//!   more 20 ms.
//! * *Round-trip time*: that of handshakes, for the delays of hedge and guard. It rises at once and
//!   falls by eighths, so a path that has become longer is hedged needlessly once; forgotten
//!   after an hour without a report, and on another network.
//! * *Budget*: rides on paths that are not Capable take a token; those that were not slow give it
//!   back. No token, no ride. No prefix takes more than its share.
//! * *Not acked* costs bytes only: after three in a row the path rests for a minute, doubling to an
//!   hour, in which cookies are asked for.
//! * *Expiry*: Capable after an hour without a ride, and on another network; a back-off is remembered
//!   for a day after its end.
//! * *The network*: when paths that were Capable fail in three different prefixes (/24, /48) within a
//!   minute, and nothing rides anywhere in between, then all paths are avoided for a minute, doubling
//!   to an hour; then one canary at a time, one per prefix, until one rides.
//!
//! # For who drives a connection
//!
//! The connector of this crate does all of this; the memory can also be used on its own.
//!
//! 1. To order addresses, [`PathMemory::is_capable`] tells which carry rides. It reserves nothing.
//! 2. **Before `connect`**, [`PathMemory::ask`], once for each address when its turn comes. `Avoid`:
//!    a socket without any option; nothing needs to be reported. `AskCookie` and `Ride`: with
//!    `TCP_FASTOPEN_CONNECT`. If the kernel has no cookie the SYN goes now, and asks for one.
//!    Where the ticket [is proven](Ticket::is_proven) no `connect` is needed: one `sendmsg(MSG_FASTOPEN)` at
//!    the first flush connects, and sends.
//! 3. **At the first flush** of a connection on which nothing was sent yet, [`PathMemory::ask_again`] with the same ticket,
//!    however short the time was. `Ride`: the SYN with data, if the bytes may ride. `AskCookie`: the
//!    SYN without data. `Avoid`: a fresh socket without the option. It renews a reservation, which
//!    otherwise lapses 10 s after it was given.
//! 4. **Report** each ticket that was not `Avoid`, also from `drop`: a reservation that is not
//!    reported blocks the path's other requests until it lapses.
//!
//! | what happened to the SYN of this ticket | event |
//! |---|---|
//! | `TCPI_OPT_SYN_DATA`: the data was acked, and [`Ticket::is_proven`] | [`Event::Acked`], at the SYN-ACK |
//! | the same, not proven | [`Event::Acked`] at the answer's first byte, or [`Event::SilentAfterHandshake`] when the guard has fired **and** the plain attempt beside it delivered first |
//! | answered, data not acked, SYN not repeated | [`Event::NotAcked`] |
//! | it had no data (cookie request, data-less, cookie vanished), and was answered | [`Event::Answered`] |
//! | unanswered, with the option or with data: an answer is overdue, or the kernel has repeated the SYN (`tcpi_client_fail` 3 if it had data, `tcpi_total_retrans` if not) | [`Event::Silent`], at once |
//! | RST, and plain TCP to the same address is then answered | [`Event::Refused`] |
//! | RST, and plain TCP is refused too; ICMP unreachable; a local error; not sent at all; dropped within 2 RTT | [`Event::Unused`] |
//! | the data was acked, [`Ticket::is_proven`], and the application gave the connection up without one byte of an answer, later than the guard would have fired | [`Event::Abandoned`], after [`Event::Acked`] |
//! | dropped by the application unanswered when an answer was overdue, and not told of yet | [`Event::Abandoned`] |
//!
//! 5. **Report the round-trip time** of each handshake to the path whose SYN was not repeated:
//!    [`PathMemory::report_rtt`].
//!
//! A ticket may be reported on twice: an `Acked` after a `Silent` (the SYN-ACK was only late) makes
//! the path Capable again. It strikes once. `now` is the time of the event; it may be a little older than that of
//! another thread's call. Nothing here blocks but a mutex, for well under a microsecond.
//!
//! ```
//! use std::time::Instant;
//! use tfo_http::path::{Advice, Event, Path, PathMemory};
//!
//! let memory = PathMemory::new();
//! let path = Path::new("192.0.2.1:80".parse().unwrap());
//! for _ in 0..2 {
//!     let mut ticket = memory.ask(&path, Instant::now());
//!     assert_eq!(ticket.advice(), Advice::Ride);
//!     memory.report(&mut ticket, Event::Silent, Instant::now());
//! }
//! assert_eq!(memory.ask(&path, Instant::now()).advice(), Advice::Avoid);
//! ```

mod budget;
mod controller;
#[cfg(feature = "path-file")]
mod file;
mod key;
mod network;
mod snapshot;
mod store;
mod table;
mod ticket;

pub use controller::Record;
#[cfg(feature = "path-file")]
pub use file::{FileStore, FileWarning};
pub use key::{NetworkId, Path};
pub use snapshot::{PathMemorySnapshot, PathSnapshot, PathState};
pub use store::{MemoryStore, NullStore, PathStore};
pub use ticket::Ticket;

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use budget::Budget;
use controller::{Grant, Learnt};
use network::{Gate, Network};

/// What may be sent on a path now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Advice {
    /// The option, and data if there is a cookie.
    Ride,
    /// The option without data: an ordinary handshake that may bring a cookie.
    AskCookie,
    /// Not even the option.
    Avoid,
}

/// What became of a SYN that had the option. When to report which: [the module's
/// documentation](self#for-who-drives-a-connection).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// A ride: its data was acked.
    Acked,
    /// It was answered, but its data was not acked.
    NotAcked,
    /// It had no data, and was answered. It proves nothing about rides, except that a silence which
    /// was told of before was none.
    Answered,
    /// It was not answered in time.
    Silent,
    /// It was answered by RST, and plain TCP was not.
    Refused,
    /// Its data was acked, and then nothing came, while plain TCP was served.
    SilentAfterHandshake,
    /// It was given up unanswered, later than an answer was due.
    Abandoned,
    /// It was not sent, or given up before an answer was due, or plain TCP fared no better.
    Unused,
}

/// The budget of a [`PathMemory`]: how many rides may be under way or slow on paths that are not
/// Capable. With 0 at once there are none, ever.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Rides at once. Default 64.
    pub burst: u32,
    /// Rides per second that may turn out slow. Default 16.
    pub per_second: u32,
    /// Rides at once in one /24 or /48. Default 8.
    pub prefix_burst: u32,
    /// Rides per second that may turn out slow, in one /24 or /48. Default 2.
    pub prefix_per_second: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { burst: 64, per_second: 16, prefix_burst: 8, prefix_per_second: 2 }
    }
}

/// What all connections of a client know of paths together. A clone is the same memory.
#[derive(Clone)]
pub struct PathMemory {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    hasher: RandomState,
    /// Counts what can make an answer to a proven ticket another one.
    stirred: AtomicU64,
    inner: Mutex<Inner>,
}

/// One lock for all: a ride depends on its path, the budget and the network at once, and beside a
/// `connect` the lock is nothing.
struct Inner {
    store: Box<dyn PathStore>,
    budget: Budget,
    net: Network,
    network: Option<NetworkId>,
    /// The last number that was given to a ticket or to a change.
    serial: u64,
    /// The numbers of the last `forget` and of the last change of network.
    forgotten: u64,
    changed: u64,
}

impl PathMemory {
    /// In memory, for 8,192 paths.
    pub fn new() -> Self {
        Self::with_store(MemoryStore::default(), Settings::default())
    }

    /// In a store of the caller's, with a budget of the caller's.
    pub fn with_store(store: impl PathStore + 'static, settings: Settings) -> Self {
        let inner = Inner {
            store: Box::new(store),
            budget: Budget::new(&settings),
            net: Network::default(),
            network: None,
            serial: 0,
            forgotten: 0,
            changed: 0,
        };
        Self {
            shared: Arc::new(Shared {
                settings,
                hasher: RandomState::new(),
                stirred: AtomicU64::new(0),
                inner: Mutex::new(inner),
            }),
        }
    }

    /// What may be sent on this path now. It may reserve something: the ticket is to be reported on.
    pub fn ask(&self, path: &Path, now: Instant) -> Ticket {
        self.shared.ask(&mut self.lock(), path, now)
    }

    /// Asks again for a ticket on which nothing was sent yet, without losing what it has reserved to
    /// somebody else.
    pub fn ask_again(&self, ticket: &mut Ticket, now: Instant) -> Advice {
        // It has reserved nothing, and nothing has happened that could have changed the answer.
        let young = now.saturating_duration_since(ticket.asked) < controller::LEASE;
        if ticket.proven && !ticket.canary && young && ticket.stirred == self.shared.stirred.load(Relaxed) {
            return ticket.advice;
        }
        let mut inner = self.lock();
        self.shared.report(&mut inner, ticket, Event::Unused, None, now);
        *ticket = self.shared.ask(&mut inner, &ticket.path, now);
        ticket.advice
    }

    /// What became of a ticket. Of one that was `Avoid`, or given before [`PathMemory::forget`] or a
    /// change of network, nothing is learnt.
    pub fn report(&self, ticket: &mut Ticket, event: Event, now: Instant) {
        self.report_with(ticket, event, None, now);
    }

    /// [`PathMemory::report`] and [`PathMemory::report_rtt`] in one.
    pub(crate) fn report_with(&self, ticket: &mut Ticket, event: Event, rtt: Option<Duration>, now: Instant) {
        self.shared.report(&mut self.lock(), ticket, event, rtt, now);
    }

    /// How long a handshake to the ticket's path has taken: the ride's own, or that of a plain
    /// attempt beside it. Not of one whose SYN was repeated: nobody knows which SYN was answered
    /// (RFC 6298 section 3, "Karn's algorithm"). Of a ticket that was `Avoid`, or given before
    /// [`PathMemory::forget`] or a change of network, nothing is learnt.
    ///
    /// The estimate takes a longer time at once, and comes down to a shorter one by an eighth of the
    /// difference each time; it stops at a second, after which kernels repeat the SYN.
    pub fn report_rtt(&self, ticket: &Ticket, rtt: Duration, now: Instant) {
        let mut inner = self.lock();
        if ticket.advice == Advice::Avoid || ticket.serial < inner.forgotten.max(inner.changed) {
            return;
        }
        let path = ticket.path.or_network(ticket.network);
        let mut record = inner.get(&path, now).unwrap_or_else(|| Record::new(now));
        record.measured(rtt, now);
        inner.serial += 1;
        inner.put(&path, record);
    }

    /// Whether rides on this path are known to arrive. It reserves nothing.
    pub fn is_capable(&self, path: &Path, now: Instant) -> bool {
        let mut inner = self.lock();
        let path = path.or_network(inner.network);
        inner.net.paused_for(now).is_none()
            && inner.get(&path, now).is_some_and(|record| record.is_capable() && record.silent == 0)
    }

    /// Forgets all paths, a pause of the network too. The kernel keeps its cookies.
    pub fn forget(&self) {
        let mut inner = self.lock();
        self.shared.stir();
        inner.serial += 1;
        inner.forgotten = inner.serial;
        inner.net = Network::default();
        inner.store.clear();
    }

    /// Forgets one path.
    pub fn forget_path(&self, path: &Path, now: Instant) {
        let mut inner = self.lock();
        self.shared.stir();
        let path = path.or_network(inner.network);
        inner.put(&path, Record::new(now));
    }

    /// Names the network that this host is on, to be called when it changes; `None`: not known.
    /// Default `None`.
    ///
    /// On another network no path is Capable, and no pause holds. What failed is remembered by
    /// network, and known again on return.
    pub fn set_network(&self, network: Option<NetworkId>) {
        let mut inner = self.lock();
        if inner.network != network {
            self.shared.stir();
            inner.serial += 1;
            inner.changed = inner.serial;
            inner.network = network;
            inner.net = Network::default();
        }
    }

    /// All that is known, for readers.
    pub fn snapshot(&self, now: Instant) -> PathMemorySnapshot {
        let inner = self.lock();
        let paths = inner.store.list().into_iter().filter_map(|(path, record)| {
            let record = inner.settled(record, now)?;
            Some(PathSnapshot::new(path, &record, now))
        });
        PathMemorySnapshot {
            paths: paths.collect(),
            paused_for: inner.net.paused_for(now),
            tokens: inner.budget.left(&self.shared.settings, now),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing is left half-made by a panic in a caller's store but a record.
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn ask(&self, inner: &mut Inner, path: &Path, now: Instant) -> Ticket {
        inner.serial += 1;
        let (serial, network) = (inner.serial, inner.network);
        let mut ticket = Ticket {
            path: *path,
            network,
            serial,
            stirred: self.stirred.load(Relaxed),
            asked: now,
            advice: Advice::Avoid,
            proven: false,
            doubtful: false,
            rtt: None,
            struck: false,
            reserved: false,
            token: false,
            canary: false,
        };
        let path = path.or_network(network);
        let gate = inner.net.gate(path.prefix(), now);
        if gate == Gate::Shut {
            return ticket;
        }
        let mut record = inner.get(&path, now).unwrap_or_else(|| Record::new(now));
        (ticket.doubtful, ticket.rtt) = (record.is_in_doubt(), record.rtt());
        match record.advise(now) {
            Grant::Proven => (ticket.advice, ticket.proven) = (Advice::Ride, true),
            Grant::Trial if inner.budget.take(&self.settings, self.hash(&path), now) => {
                record.reserve(serial, now);
                inner.put(&path, record);
                (ticket.advice, ticket.reserved, ticket.token) = (Advice::Ride, true, true);
            }
            Grant::Trial => ticket.advice = record.without_token(),
            Grant::AskCookie => ticket.advice = Advice::AskCookie,
            Grant::Avoid => {}
        }
        if gate == Gate::Canary {
            match ticket.advice {
                Advice::Ride => {
                    inner.net.begin(serial, now);
                    ticket.canary = true;
                }
                Advice::AskCookie | Advice::Avoid => ticket.advice = Advice::Avoid,
            }
        }
        ticket
    }

    fn report(
        &self,
        inner: &mut Inner,
        ticket: &mut Ticket,
        event: Event,
        rtt: Option<Duration>,
        now: Instant,
    ) {
        if ticket.advice == Advice::Avoid {
            return;
        }
        if !matches!(event, Event::Acked | Event::Answered | Event::Unused) {
            self.stir();
        }
        let path = ticket.path.or_network(ticket.network);
        let slow =
            matches!(event, Event::Silent | Event::Refused | Event::SilentAfterHandshake | Event::Abandoned);
        if std::mem::take(&mut ticket.token) && !slow {
            inner.budget.give_back(&self.settings, self.hash(&path));
        }
        let reserved = std::mem::take(&mut ticket.reserved);
        if ticket.serial < inner.forgotten.max(inner.changed) {
            return;
        }
        if std::mem::take(&mut ticket.canary) {
            if slow {
                inner.net.canary_failed(ticket.serial, path.prefix(), now);
            } else {
                inner.net.release(ticket.serial);
            }
        }
        // One SYN is one strike, however often it is told of.
        let struck = std::mem::replace(&mut ticket.struck, slow);
        if slow && struck {
            return;
        }
        let known = inner.get(&path, now);
        let mut record = known.unwrap_or_else(|| Record::new(now));
        inner.serial += 1;
        let went_off =
            record.learn(event, Learnt { serial: ticket.serial, reserved, struck }, now, inner.serial);
        if let Some(rtt) = rtt {
            record.measured(rtt, now);
        }
        if known.is_some_and(|known| known != record) || known.is_none() && !record.is_blank() {
            inner.put(&path, record);
        }
        if event == Event::Acked {
            inner.net.rode();
        } else if went_off {
            inner.net.failed(path.prefix(), now);
        }
    }

    fn stir(&self) {
        self.stirred.fetch_add(1, Relaxed);
    }

    /// Keyed, so that nobody can choose whose bucket to share.
    fn hash(&self, path: &Path) -> u64 {
        self.hasher.hash_one(path.prefix())
    }
}

impl Inner {
    fn get(&mut self, path: &Path, now: Instant) -> Option<Record> {
        let kept = self.store.get(path)?;
        let record = self.settled(kept, now)?;
        if record != kept {
            self.store.put(path, record);
        }
        Some(record)
    }

    /// What a record is worth now.
    fn settled(&self, mut record: Record, now: Instant) -> Option<Record> {
        if record.written < self.forgotten {
            return None;
        }
        record.settle(now, record.written < self.changed);
        Some(record)
    }

    fn put(&mut self, path: &Path, mut record: Record) {
        (record.written, record.unsaved) = (self.serial, true);
        self.store.put(path, record);
    }
}

impl Default for PathMemory {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for PathMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathMemory").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}
