use super::{Middlebox, Verdict};
use crate::packet::Packet;

/// Overwrites the Fast Open option (34) in SYN and SYN-ACK by padding. The data in a SYN passes.
///
/// Linux asks again with the experimental option after a request with option 34 brought no cookie, so a path
/// is only closed to it with [`experimental`](Self::experimental).
#[derive(Clone, Copy, Debug, Default)]
pub struct StripFastOpen {
    experimental: bool,
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
}

impl Middlebox for StripFastOpen {
    fn handle(&mut self, packet: &Packet) -> Verdict {
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
