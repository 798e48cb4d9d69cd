//! An HTTP/2 connection on which nothing is asked for.

use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use super::progress::Progress;
use super::stats::one;
use super::timer::Timer;
use crate::clock::later;

/// How long an HTTP/2 connection has been without a request.
///
/// Not known to the stream below: h2 reads first, and what it writes after that may be the last it was busy
/// with.
pub(super) struct Idle {
    accepted: Instant,
    /// How many requests had begun.
    begun: u64,
    timer: Timer,
}

impl Idle {
    pub(super) fn new(accepted: Instant) -> Self {
        Self { accepted, begun: 0, timer: Timer::default() }
    }

    /// Ready when the client should have asked for something. To be polled behind h2.
    pub(super) fn poll_late(
        &mut self,
        progress: &Progress,
        is_withheld: impl FnOnce() -> bool,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let limits = &progress.context().limits;
        loop {
            let begun = progress.begun();
            // What it has not taken yet has limits of its own.
            let busy = progress.is_busy() || progress.window().is_blocked();
            if busy || std::mem::replace(&mut self.begun, begun) != begun {
                self.timer.stop();
            }
            ready!(match begun {
                0 if busy => return Poll::Pending,
                0 => self.timer.poll(later(self.accepted, limits.header_timeout), cx),
                // Also while it is busy: this task is not woken when a stream, in its own one, is over.
                _ => self.timer.poll_for(limits.idle_timeout, cx),
            });
            if !busy {
                break;
            }
        }
        // What the gate withholds has come in time; its own deadline holds.
        if is_withheld() {
            return Poll::Pending;
        }
        let counts = progress.counts();
        one(if self.begun == 0 { &counts.header_timeout } else { &counts.idle_timeout });
        Poll::Ready(())
    }
}
