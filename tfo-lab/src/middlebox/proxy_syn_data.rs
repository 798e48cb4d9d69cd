use super::memory::{Connections, Direction};
use super::{Counts, Middlebox, Verdict};
use crate::packet::Packet;

/// Answers for the server: it keeps the data of a SYN back, acks it in the server's SYN-ACK, and delivers it
/// when the client's next packet comes by.
///
/// What a performance-enhancing proxy does. Every byte arrives once; but to the client's kernel it looks like
/// a ride, although the request reached the server a round trip later. Nothing that the client can ask shows
/// it, except that the answer is late.
///
/// It remembers the last 4096 connections. What it delivers is never lost.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ProxySynData {
    kept: Connections<Kept>,
    counts: Counts,
}

/// The data of a SYN.
#[derive(Debug)]
struct Kept {
    isn: u32,
    data: Vec<u8>,
    delivered: bool,
}

impl ProxySynData {
    /// For all connections.
    pub fn new() -> Self {
        Self::default()
    }

    /// What it has seen and done.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }

    fn verdict(&mut self, packet: &Packet) -> Verdict {
        if let Some(isn) = packet.seq().filter(|_| packet.is_syn() && !packet.payload().is_empty()) {
            self.kept.begin(packet, Kept { isn, data: packet.payload().to_vec(), delivered: false });
            return packet.without_payload().map_or(Verdict::Drop, Verdict::Replace);
        }
        let Some((direction, kept)) = self.kept.of(packet) else { return Verdict::Pass };
        let after_syn = kept.isn.wrapping_add(1);
        match direction {
            Direction::ToClient if packet.is_syn_ack() && packet.ack() == Some(after_syn) => {
                let ack = after_syn.wrapping_add(kept.data.len() as u32);
                let claimed = packet.rewrite(|edit| edit.tcp.acknowledgment_number = ack);
                claimed.map_or(Verdict::Drop, Verdict::Replace)
            }
            Direction::ToServer if packet.is_ack() && !packet.is_rst() && !kept.delivered => {
                kept.delivered = true;
                let data = std::mem::take(&mut kept.data);
                let segment = packet.rewrite(|edit| {
                    edit.tcp.sequence_number = after_syn;
                    edit.tcp.psh = true;
                    edit.tcp.fin = false;
                    edit.payload = data;
                });
                match segment {
                    // It leaves before the packet itself.
                    Some(segment) => Verdict::Pass.and(segment),
                    None => Verdict::Drop,
                }
            }
            _ => Verdict::Pass,
        }
    }
}

impl Middlebox for ProxySynData {
    fn handle(&mut self, packet: &Packet) -> Verdict {
        let verdict = self.verdict(packet);
        self.counts.note(verdict)
    }
}
