//! The connections of a listener of which something may still be withheld.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::stats::Counts;

/// Those connections, in the order in which they were accepted.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    entries: Mutex<Entries>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Entries {
    last: u64,
    /// Until when each must be proven.
    deadlines: BTreeMap<u64, Instant>,
}

impl Unsettled {
    /// Waits until those that are here now have left, at most until the deadline of the last.
    pub(crate) async fn wait(&self) {
        let Some((last, deadline)) = self.newest() else { return };
        let all_left = async {
            loop {
                // Before the look, so that whoever leaves behind it is noticed.
                let left = self.left.notified();
                if self.oldest().is_none_or(|oldest| oldest > last) {
                    return;
                }
                left.await;
            }
        };
        let _ = timeout_at(deadline, all_left).await;
    }

    fn newest(&self) -> Option<(u64, Instant)> {
        self.entries().deadlines.last_key_value().map(|(id, deadline)| (*id, *deadline))
    }

    fn oldest(&self) -> Option<u64> {
        self.entries().deadlines.first_key_value().map(|(id, _)| *id)
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place among them; dropped when nothing of it is withheld any more.
#[derive(Debug)]
pub(crate) struct Place {
    counts: Arc<Counts>,
    id: u64,
}

impl Place {
    pub(crate) fn take(counts: &Arc<Counts>, deadline: Instant) -> Self {
        let mut entries = counts.unsettled.entries();
        entries.last += 1;
        let id = entries.last;
        entries.deadlines.insert(id, deadline);
        drop(entries);
        Self { counts: Arc::clone(counts), id }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let unsettled = &self.counts.unsettled;
        unsettled.entries().deadlines.remove(&self.id);
        unsettled.left.notify_waiters();
    }
}
