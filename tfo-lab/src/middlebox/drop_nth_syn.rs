use std::num::NonZeroU32;

use super::{Counts, FastOpenSign, Middlebox, Verdict};
use crate::packet::Packet;

/// Drops one of every so many SYNs, with data or without.
///
/// "Selective drop" in Microsoft's list (IETF 100). To Linux it is loss: whichever SYN it is, it goes out
/// again after a second, without data. One sample tells nothing about the path.
#[derive(Clone, Debug)]
pub struct DropNthSyn {
    every: NonZeroU32,
    sign: Option<FastOpenSign>,
    /// SYNs still to pass before the next is dropped.
    to_pass: u32,
    counts: Counts,
}

impl DropNthSyn {
    /// The second of every two, the third of every three, and so on; 0 counts as 1, all.
    pub fn every(nth: u32) -> Self {
        let every = NonZeroU32::new(nth).unwrap_or(NonZeroU32::MIN);
        Self { every, sign: None, to_pass: every.get() - 1, counts: Counts::default() }
    }

    /// Drops the first of every so many, not the last.
    pub fn first(mut self) -> Self {
        self.to_pass = 0;
        self
    }

    /// Looks only at the SYNs with this sign: the others pass and do not count.
    pub fn sign(mut self, sign: FastOpenSign) -> Self {
        self.sign = Some(sign);
        self
    }

    /// What it has seen and done.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }

    fn drops(&mut self, packet: &Packet) -> bool {
        if !packet.is_syn() || self.sign.is_some_and(|sign| !sign.is_on(packet)) {
            return false;
        }
        let drops = self.to_pass == 0;
        self.to_pass = if drops { self.every.get() - 1 } else { self.to_pass - 1 };
        drops
    }
}

impl Middlebox for DropNthSyn {
    fn handle(&mut self, packet: &Packet) -> Verdict {
        let drops = self.drops(packet);
        self.counts.note(if drops { Verdict::Drop } else { Verdict::Pass })
    }
}
