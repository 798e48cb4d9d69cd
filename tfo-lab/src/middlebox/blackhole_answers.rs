use super::memory::Direction;
use super::sign::FastOpenConnections;
use super::{Counts, FastOpenSign, Middlebox, Verdict};
use crate::packet::Packet;

/// Drops everything from server to client on connections that used Fast Open, except the SYN-ACK.
///
/// In Microsoft's list twice, and what Apple's stack waits ten seconds for. The worst failure of all, because
/// the kernel calls it success: the connection is there, the data acked, and then nothing comes, for ever.
///
/// It remembers the last 4096 connections.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct BlackholeAnswers {
    connections: FastOpenConnections,
    both_ways: bool,
    counts: Counts,
}

impl BlackholeAnswers {
    /// On connections whose SYN carried data.
    pub fn new() -> Self {
        Self::default()
    }

    /// What counts as Fast Open. Default: data in the SYN.
    pub fn sign(mut self, sign: FastOpenSign) -> Self {
        self.connections.set_sign(sign);
        self
    }

    /// Drops what the client sends after its SYN too.
    pub fn both_ways(mut self) -> Self {
        self.both_ways = true;
        self
    }

    /// What it has seen and done.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }

    fn drops(&mut self, packet: &Packet) -> bool {
        self.connections.begins(packet);
        if packet.is_syn() || packet.is_syn_ack() {
            return false;
        }
        match self.connections.direction(packet) {
            Some(Direction::ToClient) => true,
            Some(Direction::ToServer) => self.both_ways,
            None => false,
        }
    }
}

impl Middlebox for BlackholeAnswers {
    fn handle(&mut self, packet: &Packet) -> Verdict {
        let drops = self.drops(packet);
        self.counts.note(if drops { Verdict::Drop } else { Verdict::Pass })
    }
}
