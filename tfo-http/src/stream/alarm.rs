//! One timer for all that a connection waits for until it is one.

use std::future::Future as _;
use std::pin::Pin;
use std::task::Context;
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};

/// Made when something has to wait for a time, and kept: to put it off costs a runtime less than a new one.
#[derive(Debug, Default)]
pub(super) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Whether it is `at`; if not, the task is woken then.
    pub(super) fn poll_at(&mut self, at: Instant, cx: &mut Context<'_>) -> bool {
        let at = at.into();
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx).is_ready()
    }

    /// Nothing is waited for any more.
    pub(super) fn end(&mut self) {
        self.0 = None;
    }
}
