use super::sign::FastOpenConnections;
use super::{Counts, FastOpenSign, Middlebox, Verdict};
use crate::packet::Packet;

/// A path that was good, and turns bad: another middlebox comes into play once so many connections have used
/// Fast Open.
///
/// A route change, a new firewall rule. What was learned about the path is wrong from then on, and Linux,
/// which learns nothing, cannot help. Connections of before are strangers to a middlebox that knows its
/// connections by their SYN, so they go on.
#[derive(Debug)]
pub struct AfterFastOpen<M> {
    connections: FastOpenConnections,
    good: u64,
    begun: u64,
    inner: M,
    counts: Counts,
}

impl<M: Middlebox> AfterFastOpen<M> {
    /// Behind so many connections whose SYN carried data.
    pub fn connections(count: u64, middlebox: M) -> Self {
        Self {
            connections: FastOpenConnections::default(),
            good: count,
            begun: 0,
            inner: middlebox,
            counts: Counts::default(),
        }
    }

    /// What counts as Fast Open. Default: data in the SYN.
    pub fn sign(mut self, sign: FastOpenSign) -> Self {
        self.connections.set_sign(sign);
        self
    }

    /// What it has seen and done. The other middlebox's own counts begin when it comes into play.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }

    fn verdict(&mut self, packet: &Packet) -> Verdict {
        if self.connections.begins(packet) {
            self.begun = self.begun.saturating_add(1);
        }
        if self.begun > self.good { self.inner.handle(packet) } else { Verdict::Pass }
    }
}

impl<M: Middlebox> Middlebox for AfterFastOpen<M> {
    fn handle(&mut self, packet: &Packet) -> Verdict {
        let verdict = self.verdict(packet);
        self.counts.note(verdict)
    }
}
