//! Address translation with state, both directions.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::Verdict;
use super::memory::{Memory, Pair, pair};
use crate::packet::Packet;

/// The translations of connections.
#[derive(Debug, Default)]
pub(super) struct Translations {
    /// From the client's view of a connection.
    by_client: Memory<Pair, Translation>,
    /// From the server's view of it to the client's. As large as the other.
    by_server: HashMap<Pair, Pair>,
}

#[derive(Clone, Copy, Debug)]
struct Translation {
    isn: u32,
    server_sees: Pair,
}

impl Translations {
    /// Whether a SYN begins a connection: not the same SYN again.
    pub(super) fn is_new(&self, packet: &Packet) -> bool {
        let known = pair(packet).and_then(|seen| self.by_client.get(&seen));
        packet.is_syn() && known.is_none_or(|known| Some(known.isn) != packet.seq())
    }

    /// Whether the server knows a connection by these addresses, and it is not the one that this SYN is for.
    pub(super) fn is_taken(&self, syn: &Packet, server_sees: Pair) -> bool {
        self.by_server.get(&server_sees).is_some_and(|owner| Some(*owner) != pair(syn))
    }

    /// Remembers what becomes of the connection that a SYN begins.
    pub(super) fn begin(&mut self, syn: &Packet, server_sees: Pair) {
        let (Some(client_sees), Some(isn)) = (pair(syn), syn.seq()) else { return };
        if let Some(gone) = self.by_client.insert(client_sees, Translation { isn, server_sees }) {
            self.by_server.remove(&gone.server_sees);
        }
        self.by_server.insert(server_sees, client_sees);
    }

    /// Translates a packet of a known connection; others pass.
    pub(super) fn translate(&self, packet: &Packet) -> Verdict {
        let Some((src, dst)) = pair(packet) else { return Verdict::Pass };
        if let Some(translation) = self.by_client.get(&(src, dst)) {
            return readdressed(packet, translation.server_sees.0, translation.server_sees.1);
        }
        match self.by_server.get(&(dst, src)) {
            Some((client, server)) => readdressed(packet, *server, *client),
            None => Verdict::Pass,
        }
    }
}

fn readdressed(packet: &Packet, src: SocketAddr, dst: SocketAddr) -> Verdict {
    let changed = packet.rewrite(|edit| {
        edit.set_src(src);
        edit.set_dst(dst);
    });
    changed.map_or(Verdict::Drop, Verdict::Replace)
}

#[cfg(test)]
mod tests {
    use super::super::memory::LIMIT;
    use super::super::tests::syn;
    use super::*;

    #[test]
    fn what_it_remembers_is_bounded_on_both_sides() {
        let mut translations = Translations::default();
        for port in 1..=LIMIT as u16 + 100 {
            let syn = syn(port, 80);
            let (client, server) = pair(&syn).unwrap();
            translations.begin(&syn, (SocketAddr::new([192, 0, 2, 1].into(), client.port()), server));
        }
        assert_eq!((translations.by_client.len(), translations.by_server.len()), (LIMIT, LIMIT));
        assert!(matches!(translations.translate(&syn(1, 80)), Verdict::Pass), "forgotten");
        assert!(matches!(translations.translate(&syn(4000, 80)), Verdict::Replace(_)));
    }
}
