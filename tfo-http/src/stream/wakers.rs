//! Reader and writer may be two tasks; whoever is polled drives the stream for both.

use std::sync::Arc;
use std::task::{Wake, Waker};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Read,
    Write,
}

/// Those who were told to wait, before the socket itself can wake them.
#[derive(Debug, Default)]
pub(super) struct Wakers {
    read: Option<Waker>,
    write: Option<Waker>,
}

impl Wakers {
    pub(super) fn wait(&mut self, side: Side, waker: &Waker) {
        let slot = self.slot(side);
        match slot {
            Some(kept) => kept.clone_from(waker),
            None => *slot = Some(waker.clone()),
        }
    }

    pub(super) fn done(&mut self, side: Side) {
        *self.slot(side) = None;
    }

    /// One waker for all who wait: the socket keeps one for each direction only.
    pub(super) fn all(&self) -> Waker {
        match (&self.read, &self.write) {
            (Some(read), Some(write)) if !read.will_wake(write) => {
                Waker::from(Arc::new(Both(read.clone(), write.clone())))
            }
            (Some(waker), _) | (None, Some(waker)) => waker.clone(),
            (None, None) => Waker::noop().clone(),
        }
    }

    /// Wakes those who wait on the other side: the state has changed, and the socket does not know
    /// them yet.
    pub(super) fn wake_other(&mut self, side: Side) {
        let other = match side {
            Side::Read => Side::Write,
            Side::Write => Side::Read,
        };
        if let Some(waker) = self.slot(other).take() {
            waker.wake();
        }
    }

    fn slot(&mut self, side: Side) -> &mut Option<Waker> {
        match side {
            Side::Read => &mut self.read,
            Side::Write => &mut self.write,
        }
    }
}

struct Both(Waker, Waker);

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake_by_ref();
        self.1.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn all_who_wait_are_woken_once() {
        let (read, write) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let mut wakers = Wakers::default();
        wakers.all().wake();
        wakers.wait(Side::Read, &read.clone().into());
        wakers.wait(Side::Write, &write.clone().into());
        wakers.all().wake();
        let counts = || (read.0.load(Ordering::SeqCst), write.0.load(Ordering::SeqCst));
        assert_eq!(counts(), (1, 1));
        wakers.done(Side::Write);
        wakers.all().wake();
        assert_eq!(counts(), (2, 1));
        wakers.wake_other(Side::Write);
        wakers.wake_other(Side::Write);
        assert_eq!(counts(), (3, 1));
    }
}
