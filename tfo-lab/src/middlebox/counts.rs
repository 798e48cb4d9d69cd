use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Verdict;

/// How many packets a middlebox has seen, and how many it has done something to. A clone shows the same.
///
/// Take it before the middlebox goes on the path. It is what proves that the middlebox had a part in what a
/// test observes.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    seen: AtomicU64,
    acted: AtomicU64,
}

impl Counts {
    /// Packets that have reached it, of every kind and direction.
    pub fn seen(&self) -> u64 {
        self.0.seen.load(Ordering::Acquire)
    }

    /// Packets that it dropped, changed, held back or answered.
    pub fn acted(&self) -> u64 {
        self.0.acted.load(Ordering::Acquire)
    }

    /// Counts one packet by its verdict.
    pub(super) fn note(&self, verdict: Verdict) -> Verdict {
        self.0.seen.fetch_add(1, Ordering::Release);
        if !matches!(verdict, Verdict::Pass) {
            self.0.acted.fetch_add(1, Ordering::Release);
        }
        verdict
    }
}
