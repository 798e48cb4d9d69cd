use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::memory::{Connections, Direction};
use super::nat::Translations;
use super::{Counts, Middlebox, Verdict};
use crate::packet::Packet;

/// Spreads the connections for one address over several servers, in turn: a load balancer.
///
/// 40 % of first revisits come to another server (Sy et al., PoPETs 2020). One that does not share the
/// cookie's key, or sees another destination address than the one that made the cookie, refuses the data and
/// grants a cookie of its own: no time is lost, none is saved. A cookie covers the server's address, so
/// servers behind translation cannot share any, whatever their keys; servers that share the address can.
///
/// It remembers the last 4096 connections. TCP only.
#[derive(Debug)]
pub struct BalanceServers {
    virtual_ip: IpAddr,
    next: usize,
    mode: Mode,
    counts: Counts,
}

#[derive(Debug)]
enum Mode {
    /// The addresses of the servers.
    Translate(Vec<IpAddr>, Translations),
    /// The names of the servers; which of them has a connection, and the number of its SYN.
    Forward(Vec<Arc<str>>, Connections<(usize, u32)>),
}

impl BalanceServers {
    /// Translates the virtual address, which no host may own, to the servers' own, and back. Servers of the
    /// other family are left out.
    pub fn translating(virtual_ip: impl Into<IpAddr>, servers: impl IntoIterator<Item = IpAddr>) -> Self {
        let virtual_ip = virtual_ip.into();
        let servers = servers.into_iter().filter(|ip| ip.is_ipv4() == virtual_ip.is_ipv4()).collect();
        Self::of(virtual_ip, Mode::Translate(servers, Translations::default()))
    }

    /// Changes nothing in the packets: every server has the virtual address
    /// ([`Lab::share_address`](crate::Lab::share_address)), and answers the client directly. Anycast, ECMP and
    /// direct server return are like that.
    pub fn forwarding<N: AsRef<str>>(
        virtual_ip: impl Into<IpAddr>,
        servers: impl IntoIterator<Item = N>,
    ) -> Self {
        let names = servers.into_iter().map(|name| Arc::from(name.as_ref())).collect();
        Self::of(virtual_ip.into(), Mode::Forward(names, Connections::default()))
    }

    /// What it has seen and done.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }

    fn of(virtual_ip: IpAddr, mode: Mode) -> Self {
        Self { virtual_ip, next: 0, mode, counts: Counts::default() }
    }

    fn verdict(&mut self, packet: &Packet) -> Verdict {
        let Some((client, server)) = packet.src().zip(packet.dst()) else { return Verdict::Pass };
        let opens = packet.is_syn() && server.ip() == self.virtual_ip;
        match &mut self.mode {
            Mode::Translate(servers, translations) => {
                if opens && translations.is_new(packet) && !servers.is_empty() {
                    // A server that has a connection of just these ports is passed over.
                    let turns = (0..servers.len()).map(|turn| (self.next + turn) % servers.len());
                    let seen = turns.map(|at| (at, (client, SocketAddr::new(servers[at], server.port()))));
                    let free = seen.into_iter().find(|(_, seen)| !translations.is_taken(packet, *seen));
                    if let Some((at, seen)) = free {
                        self.next = at + 1;
                        translations.begin(packet, seen);
                    }
                }
                translations.translate(packet)
            }
            Mode::Forward(names, chosen) => {
                let isn = packet.seq().unwrap_or_default();
                let known = chosen.of(packet).is_some_and(|(_, (_, known))| *known == isn);
                if opens && !known && !names.is_empty() {
                    chosen.begin(packet, (self.next % names.len(), isn));
                    self.next = self.next.wrapping_add(1);
                }
                match chosen.of(packet) {
                    Some((Direction::ToServer, (at, _))) => Verdict::Forward(names[*at].clone()),
                    _ => Verdict::Pass,
                }
            }
        }
    }
}

impl Middlebox for BalanceServers {
    fn handle(&mut self, packet: &Packet) -> Verdict {
        let verdict = self.verdict(packet);
        self.counts.note(verdict)
    }
}
