use super::memory::{Connections, Direction};
use super::{Counts, Middlebox, Verdict};
use crate::packet::Packet;

/// Drops the SYN-ACKs that ack data; those that ack the SYN only pass.
///
/// For a box that knows no data in SYNs the number is wrong (Microsoft's list, IETF 100). The worst kind: the
/// server has acted on the request, and answers each SYN that Linux sends again, without data, by the same
/// SYN-ACK. The connection is never established. Only other ports and no Fast Open help.
///
/// It remembers the last 4096 connections.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct DropDataSynAck {
    isns: Connections<u32>,
    counts: Counts,
}

impl DropDataSynAck {
    /// For all connections.
    pub fn new() -> Self {
        Self::default()
    }

    /// What it has seen and done.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }

    fn drops(&mut self, packet: &Packet) -> bool {
        if packet.is_syn() {
            self.isns.begin(packet, packet.seq().unwrap_or_default());
        }
        packet.is_syn_ack()
            && self.isns.of(packet).is_some_and(|(direction, isn)| {
                direction == Direction::ToClient && packet.ack() != Some(isn.wrapping_add(1))
            })
    }
}

impl Middlebox for DropDataSynAck {
    fn handle(&mut self, packet: &Packet) -> Verdict {
        let drops = self.drops(packet);
        self.counts.note(if drops { Verdict::Drop } else { Verdict::Pass })
    }
}
