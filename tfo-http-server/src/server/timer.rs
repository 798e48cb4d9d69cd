//! A timer that costs nothing until somebody has to wait.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::clock::later;

/// Made when something has to wait, and kept for the next wait.
#[derive(Default)]
pub(super) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    since: Option<Instant>,
}

impl Timer {
    pub(super) fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            // A task that has used up its turn is told to wait, by a timer too: a client that never pauses
            // would never be late.
            ready!(Pin::new(&mut unconstrained(sleep.as_mut())).poll(cx));
            // One that was set for an earlier wait is set anew when it rings, not each time.
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }

    /// So long from the first of these calls on, until it is stopped.
    pub(super) fn poll_for(&mut self, time: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        self.poll(later(since, time), cx)
    }

    pub(super) fn runs(&self) -> bool {
        self.since.is_some()
    }

    pub(super) fn stop(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use tokio::task::coop::{consume_budget, has_budget_remaining};
    use tokio::time::sleep;

    use super::*;

    #[tokio::test]
    async fn it_rings_for_a_task_that_has_used_up_its_turn() {
        let mut timer = Timer::default();
        let deadline = Instant::now();
        sleep(Duration::from_millis(5)).await;
        let rung = poll_fn(|cx| {
            while pin!(consume_budget()).poll(cx).is_ready() {}
            assert!(!has_budget_remaining());
            Poll::Ready(timer.poll(deadline, cx))
        });
        assert!(rung.await.is_ready());
    }

    #[tokio::test]
    async fn a_long_wait_is_not_over_when_a_short_one_were() {
        let mut timer = Timer::default();
        let (short, long) = (Duration::from_millis(5), Duration::from_secs(3600));
        assert!(poll_fn(|cx| Poll::Ready(timer.poll_for(short, cx))).await.is_pending());
        timer.stop();
        sleep(2 * short).await;
        assert!(poll_fn(|cx| Poll::Ready(timer.poll_for(long, cx))).await.is_pending());
        timer.stop();
        // And a short one does not wait for a long one.
        poll_fn(|cx| timer.poll_for(short, cx)).await;
    }
}
