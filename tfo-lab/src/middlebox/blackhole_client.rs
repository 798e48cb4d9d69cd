use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::memory::{Memory, Pair, pair};
use super::sign::FastOpenConnections;
use super::{Counts, FastOpenSign, Middlebox, Verdict};
use crate::packet::Packet;

/// Blackholes every flow of a client once it has used Fast Open: the SYN that gave it away, and whatever comes
/// after, also plain TCP.
///
/// In Microsoft's list twice, in Apple's report (NANOG 67) as blacklisting, and in the field (after one hang
/// 90 % of the next connections hang). Even the SYNs that Linux sends again without data are gone. Nothing
/// helps but to use no Fast Open on the whole network, and to wait.
///
/// It remembers the last 4096 culprits, and as many connections.
#[derive(Debug, Default)]
pub struct BlackholeClient {
    connections: FastOpenConnections,
    per_pair: bool,
    later_flows_only: bool,
    lasting: Option<Duration>,
    /// With `later_flows_only`: the flows that began too late.
    blocked: Memory<Pair, ()>,
    blacklist: Blacklist,
    counts: Counts,
}

impl BlackholeClient {
    /// Clients whose SYN carried data, for good.
    pub fn new() -> Self {
        Self::default()
    }

    /// What gives a client away. Default: data in the SYN.
    pub fn sign(mut self, sign: FastOpenSign) -> Self {
        self.connections.set_sign(sign);
        self
    }

    /// Only what the client and that server exchange, not everything of the client.
    pub fn per_pair(mut self) -> Self {
        self.per_pair = true;
        self
    }

    /// Lets the connection that gave the client away go on, and those that were there before.
    pub fn later_flows_only(mut self) -> Self {
        self.later_flows_only = true;
        self
    }

    /// Relents so long after the last SYN that gave the client away. Default: only by
    /// [`Blacklist::relent`].
    pub fn lasting(mut self, time: Duration) -> Self {
        self.lasting = Some(time);
        self
    }

    /// Whom it punishes. Take it before the middlebox goes on the path.
    pub fn blacklist(&self) -> Blacklist {
        self.blacklist.clone()
    }

    /// What it has seen and done.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }

    fn drops(&mut self, packet: &Packet) -> bool {
        let Some((src, dst)) = pair(packet) else { return false };
        let listed = self.is_listed(packet.time(), src.ip(), dst.ip());
        let begins = self.connections.begins(packet);
        if begins {
            self.blacklist.entries().insert(self.culprit(src.ip(), dst.ip()), packet.time());
        }
        if !self.later_flows_only {
            return begins || listed;
        }
        // A SYN of a connection that is known is the same again: what was decided on it stands.
        if packet.is_syn() && (begins || self.connections.direction(packet).is_none()) {
            match listed {
                true => drop(self.blocked.insert((src, dst), ())),
                false => drop(self.blocked.remove(&(src, dst))),
            }
        }
        listed && (self.blocked.contains(&(src, dst)) || self.blocked.contains(&(dst, src)))
    }

    fn is_listed(&self, now: Duration, src: IpAddr, dst: IpAddr) -> bool {
        let mut entries = self.blacklist.entries();
        for culprit in [self.culprit(src, dst), self.culprit(dst, src)] {
            let Some(since) = entries.get(&culprit).copied() else { continue };
            match self.lasting.is_some_and(|lasting| now.saturating_sub(since) >= lasting) {
                true => drop(entries.remove(&culprit)),
                false => return true,
            }
        }
        false
    }

    fn culprit(&self, client: IpAddr, server: IpAddr) -> Culprit {
        (client, self.per_pair.then_some(server))
    }
}

impl Middlebox for BlackholeClient {
    fn handle(&mut self, packet: &Packet) -> Verdict {
        let drops = self.drops(packet);
        self.counts.note(if drops { Verdict::Drop } else { Verdict::Pass })
    }
}

/// A client, or a client and a server.
type Culprit = (IpAddr, Option<IpAddr>);

/// Whom a [`BlackholeClient`] punishes. A clone shows the same.
#[derive(Clone, Debug, Default)]
pub struct Blacklist(Arc<Mutex<Memory<Culprit, Duration>>>);

impl Blacklist {
    /// Forgives everybody. Who uses Fast Open again is punished again.
    pub fn relent(&self) {
        self.entries().clear();
    }

    /// How many there are: clients, or pairs of client and server. One whose time has run out counts until it
    /// sends something.
    pub fn len(&self) -> usize {
        self.entries().len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn entries(&self) -> MutexGuard<'_, Memory<Culprit, Duration>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
