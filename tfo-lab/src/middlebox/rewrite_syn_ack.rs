use super::memory::{Connections, Direction};
use super::{Counts, Middlebox, Verdict};
use crate::packet::Packet;

/// Rewrites the acknowledgment number of SYN-ACKs to that of the SYN without its data.
///
/// What a box does that computes the number instead of reading it. Linux sends the data again at once, the
/// server knows it already, and nothing is delivered twice: the client says that its data was not acked, the
/// server that it was.
///
/// It remembers the last 4096 connections.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct RewriteSynAck {
    claim: bool,
    /// The sequence number of each SYN, and the length of its data.
    syns: Connections<(u32, u32)>,
    counts: Counts,
}

impl RewriteSynAck {
    /// The data was not taken, it says.
    pub fn denying_data() -> Self {
        Self::default()
    }

    /// The reverse: the data was taken, it says, whatever the server said. It does nothing to make it true
    /// ([`ProxySynData`](super::ProxySynData) does): if the server did not take the data, Linux never sends it
    /// again and the connection is stuck.
    pub fn claiming_data() -> Self {
        Self { claim: true, ..Self::default() }
    }

    /// What it has seen and done.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }

    fn right_ack(&mut self, packet: &Packet) -> Option<u32> {
        if let Some(isn) = packet.seq().filter(|_| packet.is_syn()) {
            let known = self.syns.of(packet).is_some_and(|(_, (known, _))| *known == isn);
            if !known {
                self.syns.begin(packet, (isn, packet.payload().len() as u32));
            }
        }
        let (direction, (isn, len)) = self.syns.of(packet).filter(|_| packet.is_syn_ack())?;
        let ack = isn.wrapping_add(1).wrapping_add(if self.claim { *len } else { 0 });
        (direction == Direction::ToClient && packet.ack() != Some(ack)).then_some(ack)
    }
}

impl Middlebox for RewriteSynAck {
    fn handle(&mut self, packet: &Packet) -> Verdict {
        let verdict = match self.right_ack(packet) {
            Some(ack) => {
                let rewritten = packet.rewrite(|edit| edit.tcp.acknowledgment_number = ack);
                rewritten.map_or(Verdict::Drop, Verdict::Replace)
            }
            None => Verdict::Pass,
        };
        self.counts.note(verdict)
    }
}
