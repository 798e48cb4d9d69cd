use std::num::NonZeroU32;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::{Counts, Middlebox, Verdict};
use crate::packet::Packet;

/// Holds one of every so many packets back, so that later ones overtake it. All packets, both directions.
///
/// Paths with parallel links do it. Linux takes it in its stride: a SYN has nothing to be overtaken by, and
/// what arrives out of order is put in order, or sent again.
#[derive(Clone, Debug)]
pub struct Reorder {
    every: NonZeroU32,
    hold: Duration,
    dice: Xoshiro256PlusPlus,
    /// Where in the current group the packet is that is held back.
    chosen: u32,
    at: u32,
    counts: Counts,
}

impl Reorder {
    /// One of every `nth` is held back for so long; 0 counts as 1, all. Which one of a group it is, is drawn
    /// from the seed.
    pub fn one_of_every(nth: u32, hold: Duration, seed: u64) -> Self {
        Self {
            every: NonZeroU32::new(nth).unwrap_or(NonZeroU32::MIN),
            hold,
            dice: Xoshiro256PlusPlus::seed_from_u64(seed),
            chosen: 0,
            at: 0,
            counts: Counts::default(),
        }
    }

    /// What it has seen and done.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }
}

impl Middlebox for Reorder {
    fn handle(&mut self, _packet: &Packet) -> Verdict {
        if self.at == 0 {
            self.chosen = self.dice.random_range(0..self.every.get());
        }
        let held = self.at == self.chosen;
        self.at = (self.at + 1) % self.every.get();
        self.counts.note(if held { Verdict::Delay(self.hold) } else { Verdict::Pass })
    }
}
