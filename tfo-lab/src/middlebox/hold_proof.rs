use super::memory::{Memory, Pair, pair};
use super::{Middlebox, Verdict};
use crate::packet::Packet;

/// Keeps a client's bare ACKs from the server until the server has answered: if it does, it was not because the
/// handshake was over.
///
/// It drops them, on connections whose SYN carries data, until the server has sent data; the ACK of that makes
/// up for them. So a server that rides is certain to be accepted and to answer in SYN_RECV, however busy the
/// machine is; one that waits for the end of the handshake waits for ever. Packets with data pass.
///
/// It remembers the last 4096 connections.
#[derive(Debug, Default)]
pub struct HoldProof {
    /// Client and server of the connections that wait for an answer.
    waiting: Memory<Pair, ()>,
}

impl HoldProof {
    /// On all connections.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Middlebox for HoldProof {
    fn handle(&mut self, packet: &Packet) -> Verdict {
        let Some((src, dst)) = pair(packet) else { return Verdict::Pass };
        let has_data = !packet.payload().is_empty();
        if packet.is_rst() {
            self.waiting.remove(&(src, dst));
            self.waiting.remove(&(dst, src));
        } else if packet.is_syn() && has_data {
            self.waiting.insert((src, dst), ());
        } else if has_data {
            self.waiting.remove(&(dst, src));
        } else if packet.is_ack() && !packet.is_fin() && self.waiting.contains(&(src, dst)) {
            return Verdict::Drop;
        }
        Verdict::Pass
    }
}
