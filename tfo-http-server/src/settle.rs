//! The connections of a listener of which something may still be withheld: counted, because nobody but a
//! shutdown ever asks.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::clock::later;

/// How many there are. Whoever waits begins an era, so that those who come later are counted apart.
///
/// Two counts are enough, the present era's and that of the one before: the next is not begun before
/// the latter is empty.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    era: AtomicU64,
    /// By the era in which they came: even or odd.
    counts: [AtomicU64; 2],
    left: Notify,
}

/// One connection's place among them: which count. To be given back to [`Unsettled::leave`].
#[derive(Debug)]
pub(crate) struct Place(usize);

impl Unsettled {
    pub(crate) fn enter(&self) -> Place {
        let place = index(self.era.load(SeqCst));
        self.counts[place].fetch_add(1, SeqCst);
        Place(place)
    }

    pub(crate) fn leave(&self, Place(place): Place) {
        let last = self.counts[place].fetch_sub(1, SeqCst) == 1;
        // Of the present era nobody waits for the end. Whoever begins the next looks at the count afterwards.
        if last && index(self.era.load(SeqCst)) != place {
            self.left.notify_waiters();
        }
    }

    /// Waits until those that are here now have left, but not longer than `at_most`.
    pub(crate) async fn wait(&self, at_most: Duration) {
        let asked = self.era.load(SeqCst);
        if self.is_over(asked) {
            return;
        }
        let over = async {
            loop {
                // Before the look, so that whoever leaves behind it is noticed.
                let left = self.left.notified();
                if self.is_over(asked) {
                    return;
                }
                left.await;
            }
        };
        let _ = timeout_at(later(Instant::now(), at_most), over).await;
    }

    /// Whether all have left that came in this era or before. Begins the next one as soon as it may.
    fn is_over(&self, asked: u64) -> bool {
        let next = asked.wrapping_add(1);
        if self.count(next) == 0 {
            // Someone else may have, by now.
            let _ = self.era.compare_exchange(asked, next, SeqCst, SeqCst);
        }
        let era = self.era.load(SeqCst);
        // An era that was begun behind the next one says that the one that was asked for was empty.
        era != asked && (era != next || self.count(asked) == 0)
    }

    fn count(&self, era: u64) -> u64 {
        self.counts[index(era)].load(SeqCst)
    }
}

fn index(era: u64) -> usize {
    usize::from(era % 2 == 1)
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Waker};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn who_came_before_is_waited_for_and_who_came_later_is_not() {
        let unsettled = Unsettled::default();
        unsettled.wait(LONG).await;
        let mut cx = Context::from_waker(Waker::noop());
        let (first, second) = (unsettled.enter(), unsettled.enter());
        let mut early = pin!(unsettled.wait(LONG));
        assert!(early.as_mut().poll(&mut cx).is_pending());
        let later = unsettled.enter();
        let mut late = pin!(unsettled.wait(LONG));
        assert!(late.as_mut().poll(&mut cx).is_pending());
        unsettled.leave(first);
        assert!(early.as_mut().poll(&mut cx).is_pending());
        // Before the one who asked first has looked, an era more has begun, and someone has come.
        unsettled.leave(second);
        assert!(late.as_mut().poll(&mut cx).is_pending());
        let latest = unsettled.enter();
        assert!(early.as_mut().poll(&mut cx).is_ready());
        unsettled.leave(later);
        assert!(late.as_mut().poll(&mut cx).is_ready());
        unsettled.leave(latest);
        unsettled.wait(LONG).await;
    }

    #[tokio::test]
    async fn whoever_gives_up_waiting_does_not_disturb_the_next() {
        let unsettled = Unsettled::default();
        for _ in 0..5 {
            let place = unsettled.enter();
            unsettled.wait(Duration::ZERO).await;
            let mut wait = Box::pin(unsettled.wait(LONG));
            assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            unsettled.leave(place);
            assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
        }
    }

    #[test]
    fn no_leave_is_missed_however_it_falls() {
        let unsettled = Arc::new(Unsettled::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for _ in 0..20_000 {
            let place = unsettled.enter();
            let leaving = Arc::clone(&unsettled);
            let leaver = runtime.spawn_blocking(move || leaving.leave(place));
            runtime.block_on(async {
                let waited = tokio::time::timeout(LONG, unsettled.wait(Duration::MAX)).await;
                waited.expect("whoever leaves is noticed");
            });
            runtime.block_on(leaver).unwrap();
        }
    }
}
