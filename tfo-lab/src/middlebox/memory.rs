//! What middleboxes remember, within limits.

use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::SocketAddr;

use crate::packet::Packet;

/// How many entries any table of a middlebox holds; the oldest makes room for one more.
pub(super) const LIMIT: usize = 4096;

/// A bounded map: the oldest entry goes when there is no room.
#[derive(Debug)]
pub(super) struct Memory<K, V> {
    entries: HashMap<K, V>,
    /// All keys, oldest first.
    order: VecDeque<K>,
}

impl<K, V> Default for Memory<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Copy + Eq + Hash, V> Memory<K, V> {
    pub(super) fn get<Q: Eq + Hash>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key)
    }

    pub(super) fn contains(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds or changes an entry: what had to make room for it, or what it replaces.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(old) = self.entries.insert(key, value) {
            return Some(old);
        }
        self.order.push_back(key);
        if self.order.len() <= LIMIT {
            return None;
        }
        self.order.pop_front().and_then(|oldest| self.entries.remove(&oldest))
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let removed = self.entries.remove(key)?;
        self.order.retain(|known| known != key);
        Some(removed)
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }
}

/// Who sent the SYN, and whom it was for; of a single packet: source and destination.
pub(super) type Pair = (SocketAddr, SocketAddr);

/// Source and destination of a TCP packet.
pub(super) fn pair(packet: &Packet) -> Option<Pair> {
    packet.is_tcp().then(|| packet.src().zip(packet.dst())).flatten()
}

/// Which way a packet of a known connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    ToServer,
    ToClient,
}

/// Something about each connection.
#[derive(Debug)]
pub(super) struct Connections<V>(Memory<Pair, V>);

impl<V> Default for Connections<V> {
    fn default() -> Self {
        Self(Memory::default())
    }
}

impl<V> Connections<V> {
    /// Remembers the connection that a SYN begins.
    pub(super) fn begin(&mut self, syn: &Packet, value: V) {
        if let Some(key) = pair(syn) {
            self.0.insert(key, value);
        }
    }

    /// Forgets the connection that a SYN would begin.
    pub(super) fn forget(&mut self, syn: &Packet) {
        if let Some(key) = pair(syn) {
            self.0.remove(&key);
        }
    }

    /// What is remembered of a packet's connection.
    pub(super) fn of(&mut self, packet: &Packet) -> Option<(Direction, &mut V)> {
        let (src, dst) = pair(packet)?;
        let (direction, key) = match self.0.contains(&(src, dst)) {
            true => (Direction::ToServer, (src, dst)),
            false => (Direction::ToClient, (dst, src)),
        };
        self.0.get_mut(&key).map(|value| (direction, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let mut memory = Memory::default();
        for number in 0..LIMIT {
            assert_eq!(memory.insert(number, number), None);
        }
        assert_eq!(memory.insert(7, 70), Some(7), "it is replaced");
        assert_eq!(memory.insert(LIMIT, 0), Some(0), "it is the oldest");
        assert_eq!((memory.len(), memory.contains(&0), memory.get(&7)), (LIMIT, false, Some(&70)));
        assert_eq!(memory.remove(&1), Some(1));
        assert_eq!(memory.insert(0, 0), None, "there is room again");
        memory.clear();
        assert_eq!((memory.len(), memory.order.len()), (0, 0));
    }
}
