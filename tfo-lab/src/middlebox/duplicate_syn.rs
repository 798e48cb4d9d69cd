use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::memory::LIMIT;
use super::{Counts, Extra, Middlebox, Verdict};
use crate::packet::Packet;

/// Captures SYNs that carry data; they pass. A duplicate of each arrives after a delay, or whenever the test
/// [injects](crate::Lab::inject) it.
///
/// It is what makes data in a SYN reach an application twice (RFC 7413 2.1): a duplicate that arrives after
/// the client has closed opens a second connection.
#[derive(Debug, Default)]
pub struct DuplicateSyn {
    after: Option<Duration>,
    captured: Captured,
    counts: Counts,
}

impl DuplicateSyn {
    /// Only captures.
    pub fn keep() -> Self {
        Self::default()
    }

    /// Sends a duplicate of each, this much behind the original.
    pub fn after(delay: Duration) -> Self {
        Self { after: Some(delay), ..Self::default() }
    }

    /// What it has captured and will capture. Take it before the middlebox goes on the path.
    pub fn captured(&self) -> Captured {
        self.captured.clone()
    }

    /// What it has seen and done; capturing alone does nothing to a packet.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }
}

impl Middlebox for DuplicateSyn {
    fn handle(&mut self, packet: &Packet) -> Verdict {
        // A retransmission, or the test's own injection, is the same SYN again: it is not captured twice.
        let is_new =
            packet.is_syn() && !packet.payload().is_empty() && self.captured.push_unless_known(packet);
        self.counts.note(match self.after {
            Some(after) if is_new => Verdict::Pass.and(Extra::new(packet).after(after)),
            _ => Verdict::Pass,
        })
    }
}

/// The SYNs that a [`DuplicateSyn`] has captured: the last 4096. A clone shows the same.
#[derive(Clone, Debug, Default)]
pub struct Captured(Arc<Mutex<Vec<Packet>>>);

impl Captured {
    /// All of them, oldest first.
    pub fn packets(&self) -> Vec<Packet> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The latest.
    pub fn latest(&self) -> Option<Packet> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last().cloned()
    }

    fn push_unless_known(&self, packet: &Packet) -> bool {
        let mut packets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = packets.iter().any(|known| known.bytes() == packet.bytes());
        if !known {
            if packets.len() == LIMIT {
                packets.remove(0);
            }
            packets.push(packet.clone());
        }
        !known
    }
}
