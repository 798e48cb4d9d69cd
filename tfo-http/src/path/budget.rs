//! How many rides may be risked: token buckets, filled by time.

use std::time::{Duration, Instant};

use super::Settings;

/// Buckets that prefixes are spread over. Who fills one leaves 255 of 256 of the others alone.
const SLOTS: usize = 256;

/// One bucket for all, and one for each prefix, so that nobody takes more than a share of the first.
#[derive(Debug)]
pub(super) struct Budget {
    all: Bucket,
    slots: Box<[Bucket; SLOTS]>,
}

/// Tokens in thousandths.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: u64,
    filled: Option<Instant>,
}

const TOKEN: u64 = 1000;

impl Budget {
    pub(super) fn new(settings: &Settings) -> Self {
        let full = |burst: u32| Bucket { tokens: u64::from(burst) * TOKEN, filled: None };
        Self { all: full(settings.burst), slots: Box::new([full(settings.prefix_burst); SLOTS]) }
    }

    /// Takes a token for a prefix with this (keyed) hash; false if there is none.
    pub(super) fn take(&mut self, settings: &Settings, hash: u64, now: Instant) -> bool {
        let slot = &mut self.slots[hash as usize % SLOTS];
        self.all.fill(settings.burst, settings.per_second, now);
        slot.fill(settings.prefix_burst, settings.prefix_per_second, now);
        let enough = self.all.tokens >= TOKEN && slot.tokens >= TOKEN;
        if enough {
            self.all.tokens -= TOKEN;
            slot.tokens -= TOKEN;
        }
        enough
    }

    /// A token that was not needed: the ride was not slow.
    pub(super) fn give_back(&mut self, settings: &Settings, hash: u64) {
        self.all.give_back(settings.burst);
        self.slots[hash as usize % SLOTS].give_back(settings.prefix_burst);
    }

    /// Whole tokens of all.
    pub(super) fn left(&self, settings: &Settings, now: Instant) -> u32 {
        let mut all = self.all;
        all.fill(settings.burst, settings.per_second, now);
        u32::try_from(all.tokens / TOKEN).unwrap_or(u32::MAX)
    }
}

impl Bucket {
    fn fill(&mut self, burst: u32, per_second: u32, now: Instant) {
        let since = self.filled.map_or(Duration::ZERO, |filled| now.saturating_duration_since(filled));
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let more = millis.saturating_mul(u64::from(per_second));
        if more > 0 || self.filled.is_none_or(|filled| now < filled) {
            self.tokens = self.tokens.saturating_add(more).min(u64::from(burst) * TOKEN);
            self.filled = Some(now);
        }
    }

    fn give_back(&mut self, burst: u32) {
        self.tokens = (self.tokens + TOKEN).min(u64::from(burst) * TOKEN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_takes_its_share_and_no_more() {
        let (settings, now) = (Settings::default(), Instant::now());
        let mut budget = Budget::new(&settings);
        let taken =
            |budget: &mut Budget, hash, now| (0..1000).filter(|_| budget.take(&settings, hash, now)).count();
        assert_eq!(taken(&mut budget, 1, now), 8);
        assert_eq!(taken(&mut budget, 1, now + Duration::from_secs(1)), 2);
        assert_eq!(taken(&mut budget, 2, now + Duration::from_secs(1)), 8);
        let others: usize = (3..200).map(|hash| taken(&mut budget, hash, now + Duration::from_secs(1))).sum();
        // The second has filled it again; the two have had ten of it.
        assert_eq!(others, 64 - 10);
    }

    #[test]
    fn time_that_goes_back_or_far_ahead_makes_no_tokens_and_loses_none() {
        let (settings, now) = (Settings::default(), Instant::now() + Duration::from_secs(100));
        let mut budget = Budget::new(&settings);
        assert!(budget.take(&settings, 1, now));
        assert_eq!(budget.left(&settings, now - Duration::from_secs(50)), 63);
        assert!(budget.take(&settings, 1, now - Duration::from_secs(50)));
        assert_eq!(budget.left(&settings, now + Duration::from_secs(1 << 40)), 64);
        budget.give_back(&settings, 1);
        budget.give_back(&settings, 1);
        assert_eq!(budget.left(&settings, now), 64);
    }
}
