use super::{Counts, Middlebox, Verdict};
use crate::packet::Packet;

/// Drops every SYN with the Fast Open option (34), with and without data: requests for a cookie too.
///
/// Firewalls that drop what they do not know ("drop all TFO segments" in Microsoft's list, IETF 100). Linux
/// sends the SYN again after a second, without the option: the first visit pays too, unless it does not even
/// ask for a cookie.
#[derive(Clone, Debug, Default)]
pub struct DropFastOpen {
    experimental: bool,
    spare_requests: bool,
    grants: bool,
    counts: Counts,
}

impl DropFastOpen {
    /// Drops SYNs with option 34.
    pub fn new() -> Self {
        Self::default()
    }

    /// Drops the experimental form too: options 253 and 254 with the experiment id `0xF989`. Linux may fall
    /// back to it when a request with option 34 brought no cookie.
    pub fn experimental(mut self) -> Self {
        self.experimental = true;
        self
    }

    /// Lets requests for a cookie pass: what brings one is dropped only once it is used.
    pub fn spare_requests(mut self) -> Self {
        self.spare_requests = true;
        self
    }

    /// Drops SYN-ACKs with the option too: those that grant a cookie.
    pub fn grants(mut self) -> Self {
        self.grants = true;
        self
    }

    /// What it has seen and done.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }

    fn drops(&self, packet: &Packet) -> bool {
        let concerned = packet.is_syn() || self.grants && packet.is_syn_ack();
        concerned
            && packet.fast_open().is_some_and(|option| {
                (self.experimental || !option.is_experimental())
                    && !(self.spare_requests && option.is_request())
            })
    }
}

impl Middlebox for DropFastOpen {
    fn handle(&mut self, packet: &Packet) -> Verdict {
        self.counts.note(if self.drops(packet) { Verdict::Drop } else { Verdict::Pass })
    }
}
