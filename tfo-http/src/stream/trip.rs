//! One SYN's dealings with the path memory.

use std::net::SocketAddr;
use std::time::Instant;

use crate::config::Config;
use crate::path::{Advice, Event, Path, PathMemory, Ticket};

/// A ticket that is reported on, whatever becomes of its owner.
#[derive(Debug)]
pub(crate) struct Trip {
    memory: PathMemory,
    ticket: Ticket,
    told: bool,
}

impl Trip {
    /// Asks what may be sent to an address now.
    pub(crate) fn ask(config: &Config, address: &SocketAddr) -> Self {
        let ticket = config.memory.ask(&path(config, address), Instant::now());
        Self { memory: config.memory.clone(), ticket, told: false }
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
    pub(crate) fn ask_again(&mut self) -> Advice {
        self.memory.ask_again(&mut self.ticket, Instant::now())
    }

    /// Whether rides on the path are known to arrive, and so are their answers.
    pub(crate) fn is_proven(&self) -> bool {
        self.ticket.is_proven()
    }

    /// Whether something was told.
    pub(crate) fn is_told(&self) -> bool {
        self.told
    }

    /// Tells what became of the SYN.
    pub(crate) fn tell(&mut self, event: Event) {
        self.told = true;
        self.memory.report(&mut self.ticket, event, Instant::now());
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

/// A place that is not given back would keep others from the path.
impl Drop for Trip {
    fn drop(&mut self) {
        if !self.told {
            self.tell(Event::Unused);
        }
    }
}
