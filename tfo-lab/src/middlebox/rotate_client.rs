use std::net::{IpAddr, SocketAddr};

use super::nat::Translations;
use super::{Counts, Middlebox, Verdict};
use crate::packet::Packet;

/// Gives each connection the next public address of a pool, as carrier-grade NAT does (RFC 7413 7.1).
///
/// A cookie is made for one client address, so it is never good for the next connection: Linux servers refuse
/// the data and grant a new cookie, each time. No time is lost, none is saved.
///
/// Whoever sends a SYN is taken for a client. Ports are kept where they are free. It remembers the last 4096
/// connections. TCP only; no host may own an address of the pool.
#[derive(Debug)]
pub struct RotateClient {
    pool: Vec<IpAddr>,
    next: usize,
    translations: Translations,
    counts: Counts,
}

impl RotateClient {
    /// A pool of IPv4 addresses, IPv6 addresses or both. A connection of a family without any passes as it is.
    pub fn new(pool: impl IntoIterator<Item = IpAddr>) -> Self {
        Self {
            pool: pool.into_iter().collect(),
            next: 0,
            translations: Translations::default(),
            counts: Counts::default(),
        }
    }

    /// What it has seen and done.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }

    fn begin(&mut self, syn: &Packet) {
        let (Some(client), Some(server)) = (syn.src(), syn.dst()) else { return };
        let fitting: Vec<_> = self.pool.iter().filter(|ip| ip.is_ipv4() == client.is_ipv4()).collect();
        let Some(public) = fitting.get(self.next % fitting.len().max(1)).copied().copied() else { return };
        // The table is smaller than the range of ports: one is free.
        let ports = (client.port()..=u16::MAX).chain(1024..client.port());
        let free = ports
            .map(|port| (SocketAddr::new(public, port), server))
            .find(|seen| !self.translations.is_taken(syn, *seen));
        if let Some(seen) = free {
            self.next = self.next.wrapping_add(1);
            self.translations.begin(syn, seen);
        }
    }
}

impl Middlebox for RotateClient {
    fn handle(&mut self, packet: &Packet) -> Verdict {
        if self.translations.is_new(packet) {
            self.begin(packet);
        }
        self.counts.note(self.translations.translate(packet))
    }
}
