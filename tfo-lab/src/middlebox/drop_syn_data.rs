use super::{Counts, Middlebox, Verdict};
use crate::packet::Packet;

/// Drops every SYN that carries data. Cookie requests, and SYNs without data, pass.
///
/// The commonest of the hostile behaviours: about 6 % of paths in RFC 7413 7.1. Linux sends the SYN again
/// after a second, without the data and the option, and goes on; it does so on every connection, for it
/// learns nothing.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DropSynData {
    counts: Counts,
}

impl DropSynData {
    /// For all connections.
    pub fn new() -> Self {
        Self::default()
    }

    /// What it has seen and done.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }
}

impl Middlebox for DropSynData {
    fn handle(&mut self, packet: &Packet) -> Verdict {
        let drops = packet.is_syn() && !packet.payload().is_empty();
        self.counts.note(if drops { Verdict::Drop } else { Verdict::Pass })
    }
}
