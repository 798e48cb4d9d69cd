use std::time::Duration;

use super::sign::FastOpenConnections;
use super::{Counts, FastOpenSign, Middlebox, Verdict};
use crate::packet::Packet;

/// Delays everything on connections that used Fast Open, except SYN and SYN-ACK. Both directions, in order.
///
/// In Microsoft's list (IETF 100): a box that inspects what it does not understand. To Linux it is a server
/// that is slow to answer.
///
/// It remembers the last 4096 connections.
#[derive(Debug)]
pub struct DelayFastOpen {
    connections: FastOpenConnections,
    delay: Duration,
    counts: Counts,
}

impl DelayFastOpen {
    /// By so much in each direction, on connections whose SYN carried data.
    pub fn by(delay: Duration) -> Self {
        Self { connections: FastOpenConnections::default(), delay, counts: Counts::default() }
    }

    /// What counts as Fast Open. Default: data in the SYN.
    pub fn sign(mut self, sign: FastOpenSign) -> Self {
        self.connections.set_sign(sign);
        self
    }

    /// What it has seen and done.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }
}

impl Middlebox for DelayFastOpen {
    fn handle(&mut self, packet: &Packet) -> Verdict {
        self.connections.begins(packet);
        let handshake = packet.is_syn() || packet.is_syn_ack();
        let delays = !handshake && self.connections.direction(packet).is_some();
        self.counts.note(if delays { Verdict::Delay(self.delay) } else { Verdict::Pass })
    }
}
