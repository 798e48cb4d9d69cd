use super::{Counts, Middlebox, Verdict};
use crate::packet::Packet;

/// Drops packets above a size: a path whose MTU is smaller than the hosts believe.
///
/// Data makes a SYN large enough to be hit (RFC 7413 4.1.3). With ICMP, Linux sends a SYN without data at
/// once, and a smaller one on the next connection. Without, a PMTU hole, it is [`DropSynData`] for the larger
/// requests, and full-sized segments are lost besides: plain TCP suffers too, unless its MSS is small.
///
/// [`DropSynData`]: super::DropSynData
#[derive(Clone, Debug)]
pub struct DropOversize {
    limit: u16,
    icmp: bool,
    syns_only: bool,
    counts: Counts,
}

impl DropOversize {
    /// Silently drops IP packets of more than `limit` bytes.
    pub fn above(limit: u16) -> Self {
        Self { limit, icmp: false, syns_only: false, counts: Counts::default() }
    }

    /// Tells the sender (RFC 1191, RFC 8201). An IPv4 packet that may be fragmented passes whole then.
    pub fn with_icmp(mut self) -> Self {
        self.icmp = true;
        self
    }

    /// Only SYNs: a box that expects them to be small.
    pub fn syns_only(mut self) -> Self {
        self.syns_only = true;
        self
    }

    /// What it has seen and done.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }

    fn verdict(&self, packet: &Packet) -> Verdict {
        if packet.bytes().len() <= usize::from(self.limit) || self.syns_only && !packet.is_syn() {
            return Verdict::Pass;
        }
        if !self.icmp {
            return Verdict::Drop;
        }
        match packet.too_big_reply(self.limit) {
            Some(reply) => Verdict::Drop.and(reply),
            None if packet.may_be_fragmented() => Verdict::Pass,
            None => Verdict::Drop,
        }
    }
}

impl Middlebox for DropOversize {
    fn handle(&mut self, packet: &Packet) -> Verdict {
        self.counts.note(self.verdict(packet))
    }
}
