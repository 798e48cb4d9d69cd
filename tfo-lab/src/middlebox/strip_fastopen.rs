use super::{Counts, Middlebox, Verdict};
use crate::packet::Packet;

/// Overwrites the Fast Open option (34) in SYN and SYN-ACK by padding. The data in a SYN passes.
///
/// Linux asks again with the experimental option after a request with option 34 brought no cookie, so a path
/// is only closed to it with [`experimental`](Self::experimental). No time is lost: the data goes out again as
/// soon as a SYN-ACK does not ack it.
#[derive(Clone, Debug, Default)]
pub struct StripFastOpen {
    experimental: bool,
    counts: Counts,
}

impl StripFastOpen {
    /// Strips option 34 only.
    pub fn new() -> Self {
        Self::default()
    }

    /// Strips the experimental form too: options 253 and 254 with the experiment id `0xF989`.
    pub fn experimental(mut self) -> Self {
        self.experimental = true;
        self
    }

    /// What it has seen and done.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }

    fn verdict(&self, packet: &Packet) -> Verdict {
        match packet.fast_open() {
            Some(option) if self.experimental || !option.is_experimental() => {}
            _ => return Verdict::Pass,
        }
        let experimental = self.experimental;
        let stripped = packet.rewrite(|edit| {
            edit.strip_fast_open(experimental);
        });
        stripped.map_or(Verdict::Drop, Verdict::Replace)
    }
}

impl Middlebox for StripFastOpen {
    fn handle(&mut self, packet: &Packet) -> Verdict {
        self.counts.note(self.verdict(packet))
    }
}
