//! One SYN's dealings with the path memory.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::config::{Config, answer_due};
use crate::path::{Advice, Event, Path, PathMemory, Ticket};

/// A ticket that is reported on, whatever becomes of its owner.
#[derive(Debug)]
pub(crate) struct Trip {
    memory: PathMemory,
    ticket: Ticket,
    told: bool,
    asked: Instant,
    /// Since when an answer to the SYN is missing.
    waiting: Option<Instant>,
}

/// What was found out when the connection was asked for may have changed after this time.
const FRESH: Duration = Duration::from_secs(10);

impl Trip {
    /// Asks what may be sent to an address now.
    pub(crate) fn ask(config: &Config, address: &SocketAddr) -> Self {
        let asked = Instant::now();
        let ticket = config.memory.ask(&path(config, address), asked);
        Self { memory: config.memory.clone(), ticket, told: false, asked, waiting: None }
    }

    /// Whether rides to an address are known to arrive.
    pub(crate) fn is_known_to_arrive(config: &Config, address: &SocketAddr) -> bool {
        config.memory.is_capable(&path(config, address), Instant::now())
    }

    /// An address did not answer while another did: it is not to be preferred any more.
    pub(crate) fn was_passed_over(config: &Config, address: &SocketAddr) {
        if Self::is_known_to_arrive(config, address) {
            config.memory.forget_path(&path(config, address), Instant::now());
        }
    }

    /// What may be sent.
    pub(crate) fn advice(&self) -> Advice {
        self.ticket.advice()
    }

    /// Asks again, for bytes that are to be sent now.
    pub(crate) fn ask_again(&mut self, now: Instant) -> Advice {
        self.memory.ask_again(&mut self.ticket, now)
    }

    /// Whether it was long ago that a socket was made for it.
    pub(crate) fn is_stale(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.asked) > FRESH
    }

    /// How long a handshake takes on the path, if that is known.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.ticket.rtt()
    }

    /// How long after the SYN an answer is due.
    pub(crate) fn due(&self) -> Duration {
        answer_due(self.ticket.rtt())
    }

    /// Whether the ride is more likely than others to be lost.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.ticket.is_doubtful()
    }

    /// The SYN has left.
    pub(crate) fn sent(&mut self, now: Instant) {
        self.waiting = Some(now);
    }

    /// The SYN was answered, however.
    pub(crate) fn answered(&mut self) {
        self.waiting = None;
    }

    /// For how long the SYN has been unanswered.
    pub(crate) fn unanswered_for(&self, now: Instant) -> Option<Duration> {
        self.waiting.map(|since| now.saturating_duration_since(since))
    }

    /// A handshake on the path has taken so long.
    pub(crate) fn measured(&self, rtt: Duration, now: Instant) {
        self.memory.report_rtt(&self.ticket, rtt, now);
    }

    /// Whether rides on the path are known to arrive, and so are their answers.
    pub(crate) fn is_proven(&self) -> bool {
        self.ticket.is_proven()
    }

    /// Tells what became of the SYN.
    pub(crate) fn tell(&mut self, event: Event, now: Instant) {
        self.tell_with(event, None, now);
    }

    /// The same, and how long the handshake has taken, where that is clear.
    pub(crate) fn tell_with(&mut self, event: Event, rtt: Option<Duration>, now: Instant) {
        self.told = true;
        self.memory.report_with(&mut self.ticket, event, rtt, now);
    }
}

fn path(config: &Config, address: &SocketAddr) -> Path {
    let mut path = Path::new(*address);
    if let Some(local) = config.local_for(address) {
        path = path.with_local(local);
    }
    if let Some(interface) = &config.interface {
        path = path.with_interface(interface);
    }
    path
}

/// A place that is not given back would keep others from the path. Who gives up a SYN later than an
/// answer was due has seen something; who gives up sooner, nothing.
impl Drop for Trip {
    fn drop(&mut self) {
        if !self.told {
            let now = Instant::now();
            let due = self.due();
            let abandoned = self.unanswered_for(now).is_some_and(|time| time > due);
            self.tell(if abandoned { Event::Abandoned } else { Event::Unused }, now);
        }
    }
}
