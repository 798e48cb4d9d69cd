use super::{Counts, Middlebox, Verdict};
use crate::packet::Packet;

/// Cuts the data out of SYNs; the option with its cookie stays.
///
/// In Microsoft's list (IETF 100). The server accepts the connection from the cookie and finds no data; Linux
/// sees that the SYN-ACK does not ack it, and sends it again at once: no time is lost, none is saved.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StripSynData {
    counts: Counts,
}

impl StripSynData {
    /// For all connections.
    pub fn new() -> Self {
        Self::default()
    }

    /// What it has seen and done.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }
}

impl Middlebox for StripSynData {
    fn handle(&mut self, packet: &Packet) -> Verdict {
        self.counts.note(match packet.is_syn() && !packet.payload().is_empty() {
            true => packet.without_payload().map_or(Verdict::Drop, Verdict::Replace),
            false => Verdict::Pass,
        })
    }
}
