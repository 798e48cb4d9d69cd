//! The wire: one thread that moves packets between the hosts.
//!
//! The life of a packet: it leaves its sender (the tap records it), passes the middleboxes, may be lost,
//! waits for its delay, arrives (the tap records it again), and is handed to its receiver. Whatever hosts
//! have sent is read before the next packet is handed over, so the order of the tap's records is the order of
//! cause and effect.

use std::any::Any;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::error::LabError;
use crate::middlebox::{Extra, Middlebox, Verdict};
use crate::packet::Packet;
use crate::sys::{self, Bell, Tun};
use crate::tap::{End, Tap};

/// The largest packet that IP allows.
const MAX_PACKET: usize = 65_535;
/// How many packets of one host are read before the others get their turn.
const BATCH: usize = 64;

/// Counts of what the wire has done since the lab was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WireStats {
    /// Packets that hosts have sent, or that were injected as if they had.
    pub sent: u64,
    /// Packets handed to a host.
    pub delivered: u64,
    /// Packets that a middlebox dropped.
    pub dropped: u64,
    /// Packets that the seeded loss took.
    pub lost: u64,
    /// Packets for an address that no host owns.
    pub unroutable: u64,
    /// Packets for which the wire had no room.
    pub overflowed: u64,
    /// Packets that the receiving kernel did not take.
    pub refused: u64,
}

/// One direction between two hosts.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) delay: Duration,
    pub(crate) loss: f64,
    dice: Xoshiro256PlusPlus,
    /// When the last packet of this direction arrives: a shorter delay does not let the next overtake it.
    last_due: Duration,
}

impl Link {
    /// The dice are seeded by the lab's seed and the direction: what happens in one direction does not change
    /// what is lost in another.
    pub(crate) fn new(seed: u64, from: usize, to: usize) -> Self {
        let own = seed ^ ((from as u64) << 48) ^ ((to as u64) << 32);
        Self {
            delay: Duration::ZERO,
            loss: 0.0,
            dice: Xoshiro256PlusPlus::seed_from_u64(own),
            last_due: Duration::ZERO,
        }
    }

    /// Rolls for every packet, so that the n-th packet's fate depends on the seed alone.
    fn loses(&mut self) -> bool {
        self.dice.random::<f64>() < self.loss
    }

    fn due(&mut self, now: Duration) -> Duration {
        self.last_due = self.last_due.max(now.saturating_add(self.delay));
        self.last_due
    }
}

/// What the test may change while the wire runs.
pub(crate) struct Settings {
    /// Who owns which address.
    pub(crate) owners: HashMap<IpAddr, usize>,
    /// From one host to another.
    pub(crate) links: Vec<Vec<Link>>,
    pub(crate) stats: WireStats,
    /// How many packets may be on the wire at once.
    pub(crate) capacity: usize,
}

/// What the lab, its handles and the wire's thread share.
pub(crate) struct Shared {
    pub(crate) tap: Tap,
    names: Vec<Arc<str>>,
    settings: Mutex<Settings>,
    middleboxes: Mutex<Vec<(u64, Box<dyn Middlebox>)>>,
    posted: Mutex<VecDeque<Posted>>,
    panicked: Mutex<Option<Box<dyn Any + Send>>>,
    next_id: AtomicU64,
    stop: AtomicBool,
    bell: Bell,
}

/// A packet that does not come from a host.
enum Posted {
    /// As if the host had sent it.
    From(usize, Packet),
    /// Straight to the host.
    To(usize, Packet),
}

impl Shared {
    pub(crate) fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add_middlebox(&self, middlebox: Box<dyn Middlebox>) -> u64 {
        let id = self.next_id();
        self.middleboxes().push((id, middlebox));
        id
    }

    pub(crate) fn remove_middlebox(&self, id: u64) {
        self.middleboxes().retain(|(known, _)| *known != id);
    }

    pub(crate) fn clear_middleboxes(&self) {
        self.middleboxes().clear();
    }

    pub(crate) fn inject(&self, from: usize, packet: Packet) {
        self.post(Posted::From(from, packet));
    }

    pub(crate) fn deliver(&self, to: usize, packet: Packet) {
        self.post(Posted::To(to, packet));
    }

    fn post(&self, posted: Posted) {
        self.tap.on_wire();
        self.posted.lock().unwrap_or_else(PoisonError::into_inner).push_back(posted);
        self.bell.ring();
    }

    fn middleboxes(&self) -> MutexGuard<'_, Vec<(u64, Box<dyn Middlebox>)>> {
        self.middleboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

/// The running wire. Dropping it stops the thread, and the devices go with it.
pub(crate) struct Wire {
    pub(crate) shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    pub(crate) fn start(
        names: Vec<Arc<str>>,
        tuns: Vec<Tun>,
        settings: Settings,
        tap: Tap,
    ) -> Result<Self, LabError> {
        let shared = Arc::new(Shared {
            tap,
            names,
            settings: Mutex::new(settings),
            middleboxes: Mutex::default(),
            posted: Mutex::default(),
            panicked: Mutex::default(),
            next_id: AtomicU64::new(1),
            stop: AtomicBool::new(false),
            bell: Bell::new().map_err(LabError::setup("making an eventfd"))?,
        });
        let mover = Mover { shared: shared.clone(), tuns, flying: BinaryHeap::new(), next_seq: 0 };
        let thread = thread::Builder::new()
            .name("lab-wire".into())
            .spawn(move || mover.run())
            .map_err(LabError::setup("starting the wire's thread"))?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.bell.ring();
        let joined = self.thread.take().map_or(Ok(()), JoinHandle::join);
        let boxed = self.shared.panicked.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = joined.err().or(boxed)
            && !thread::panicking()
        {
            resume_unwind(panic);
        }
    }
}

/// A packet on its way.
struct Flying {
    due: Duration,
    /// Packets due at the same time arrive in the order in which they were sent.
    seq: u64,
    to: usize,
    packet: Packet,
}

impl Flying {
    fn key(&self) -> (Duration, u64) {
        (self.due, self.seq)
    }
}

impl PartialEq for Flying {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Flying {}

impl PartialOrd for Flying {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Flying {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// What the wire's thread owns.
struct Mover {
    shared: Arc<Shared>,
    tuns: Vec<Tun>,
    flying: BinaryHeap<Reverse<Flying>>,
    next_seq: u64,
}

impl Mover {
    fn run(mut self) {
        sys::precise_timers();
        let mut buffer = vec![0; MAX_PACKET];
        while !self.shared.stop.load(Ordering::Acquire) {
            self.take_posted();
            let more = self.take_sent(&mut buffer);
            let now = self.shared.tap.now();
            match self.flying.peek() {
                Some(Reverse(next)) if next.due <= now => self.deliver_next(),
                _ if more => {}
                next => {
                    let timeout = next.map(|Reverse(next)| next.due.saturating_sub(now));
                    // It fails only without memory. Dropping the lab tells the test.
                    sys::wait(&self.tuns, &self.shared.bell, timeout).expect("the wire can wait");
                }
            }
        }
    }

    fn take_posted(&mut self) {
        let posted = std::mem::take(&mut *self.shared.posted.lock().unwrap_or_else(PoisonError::into_inner));
        for one in posted {
            match one {
                Posted::From(from, packet) => self.accept(from, packet),
                Posted::To(to, packet) => {
                    let due = self.shared.tap.now();
                    self.launch(due, to, packet);
                }
            }
            self.shared.tap.off_wire();
            self.shared.tap.changed();
        }
    }

    /// Reads what the hosts have sent: `true` if there may be more.
    fn take_sent(&mut self, buffer: &mut [u8]) -> bool {
        let mut more = false;
        for from in 0..self.tuns.len() {
            for turn in 0..BATCH {
                match self.tuns[from].recv(buffer) {
                    Ok(len) => {
                        self.accept(from, Packet::new(&buffer[..len]));
                        self.shared.tap.changed();
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
                more |= turn + 1 == BATCH;
            }
        }
        more
    }

    /// A packet leaves its sender.
    fn accept(&mut self, from: usize, mut packet: Packet) {
        let now = self.shared.tap.now();
        let owner = |packet: &Packet| packet.dst().and_then(|dst| self.owner(dst.ip()));
        packet.way.id = self.shared.next_id();
        packet.way.from = Some(self.shared.names[from].clone());
        packet.way.to = owner(&packet).map(|to| self.shared.names[to].clone());
        packet.way.at = now;
        self.shared.tap.record(End::Sent, &self.shared.names[from], now, &packet);
        self.shared.settings().stats.sent += 1;

        let mut crossing = Crossing::new(packet);
        self.cross(&mut crossing);
        for Extra { packet, after } in crossing.extras {
            self.send_extra(from, now.saturating_add(after), packet);
        }
        let Some(mut packet) = crossing.packet else {
            self.shared.settings().stats.dropped += 1;
            return;
        };
        let to = match crossing.to {
            Some(name) => self.shared.names.iter().position(|known| *known == name),
            None => packet.dst().and_then(|dst| self.owner(dst.ip())),
        };
        let Some(to) = to else {
            self.shared.settings().stats.unroutable += 1;
            return;
        };
        // A middlebox may have sent it elsewhere.
        packet.way.to = Some(self.shared.names[to].clone());
        let mut settings = self.shared.settings();
        let link = &mut settings.links[from][to];
        if link.loses() {
            settings.stats.lost += 1;
            return;
        }
        // A packet that was held back does not hold back those behind it.
        let due = match crossing.delay {
            Duration::ZERO => link.due(now),
            delay => now.saturating_add(link.delay).saturating_add(delay),
        };
        drop(settings);
        self.launch(due, to, packet);
    }

    /// Takes a packet through the middleboxes.
    fn cross(&self, crossing: &mut Crossing) {
        let mut middleboxes = self.shared.middleboxes();
        let mut broken = Vec::new();
        for (id, middlebox) in middleboxes.iter_mut() {
            let Some(packet) = crossing.packet.clone() else { break };
            match catch_unwind(AssertUnwindSafe(|| middlebox.handle(&packet))) {
                Ok(verdict) => crossing.apply(verdict),
                Err(panic) => {
                    broken.push(*id);
                    *self.shared.panicked.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
                }
            }
        }
        middleboxes.retain(|(id, _)| !broken.contains(id));
    }

    fn send_extra(&mut self, near: usize, at: Duration, mut packet: Packet) {
        let Some(to) = packet.dst().and_then(|dst| self.owner(dst.ip())) else {
            self.shared.settings().stats.unroutable += 1;
            return;
        };
        // It comes from where its source address lives; a made-up one from where the middlebox is.
        let from = packet.src().and_then(|src| self.owner(src.ip())).unwrap_or(near);
        packet.way.id = self.shared.next_id();
        packet.way.from = None;
        packet.way.to = Some(self.shared.names[to].clone());
        packet.way.at = at;
        let due = at.saturating_add(self.shared.settings().links[from][to].delay);
        self.launch(due, to, packet);
    }

    fn launch(&mut self, due: Duration, to: usize, packet: Packet) {
        let mut settings = self.shared.settings();
        if self.flying.len() >= settings.capacity {
            settings.stats.overflowed += 1;
            return;
        }
        drop(settings);
        self.shared.tap.on_wire();
        self.next_seq += 1;
        self.flying.push(Reverse(Flying { due, seq: self.next_seq, to, packet }));
    }

    fn deliver_next(&mut self) {
        let Some(Reverse(Flying { to, packet, .. })) = self.flying.pop() else { return };
        let now = self.shared.tap.now();
        // Recorded before the host can answer.
        self.shared.tap.record(End::Received, &self.shared.names[to], now, &packet);
        let result = self.tuns[to].send(packet.bytes());
        let mut settings = self.shared.settings();
        match result {
            Ok(_) => settings.stats.delivered += 1,
            Err(_) => settings.stats.refused += 1,
        }
        drop(settings);
        self.shared.tap.off_wire();
        self.shared.tap.changed();
    }

    fn owner(&self, ip: IpAddr) -> Option<usize> {
        self.shared.settings().owners.get(&ip).copied()
    }
}

/// A packet between its sender and its delay.
struct Crossing {
    packet: Option<Packet>,
    /// To which host, if a middlebox has decided that.
    to: Option<Arc<str>>,
    delay: Duration,
    extras: Vec<Extra>,
}

impl Crossing {
    fn new(packet: Packet) -> Self {
        Self { packet: Some(packet), to: None, delay: Duration::ZERO, extras: Vec::new() }
    }

    fn apply(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Pass => {}
            Verdict::Drop => self.packet = None,
            Verdict::Replace(mut other) => {
                if let Some(packet) = self.packet.take() {
                    other.way = packet.way;
                }
                self.packet = Some(other);
            }
            Verdict::Forward(to) => self.to = Some(to),
            Verdict::Delay(delay) => self.delay = self.delay.saturating_add(delay),
            Verdict::Also(verdict, extras) => {
                self.extras.extend(extras);
                self.apply(*verdict);
            }
        }
    }
}
