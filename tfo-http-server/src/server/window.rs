//! What an HTTP/2 client has not taken: the parts of answers that wait for its windows.
//!
//! hyper and h2 keep them, and the socket has nothing to write meanwhile: no write is late. So an answer is
//! given to hyper in [parts](PART), each when the one before has found room in the window. A [stream](Streams)
//! whose part finds none in time is reset. What h2 has taken over can be taken back from it by nobody, so if
//! that is [left](Leftovers), the connection is closed.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use hyper::rt::Executor;

use super::progress::Progress;
use super::stats::one;
use super::timer::Timer;

/// The bytes of a part: a frame of HTTP/2's usual size. A client that waits for nobody takes as much within
/// the write timeout.
pub(super) const PART: usize = 16 * 1024;

/// What one connection's client has taken, and has yet to take.
#[derive(Default)]
pub(super) struct Window {
    /// Bytes that h2 has taken out of parts, to write them.
    taken: AtomicU64,
    /// Parts that are not taken, by the turn in which they were given: this one, and the one before.
    parts: [AtomicU32; 2],
    turn: AtomicU32,
    /// The socket takes no more, or is about to be closed: its own limits hold, and the windows are not to blame.
    pub(super) blocked: AtomicBool,
}

impl Window {
    /// How many parts wait.
    pub(super) fn parts(&self) -> u32 {
        self.parts[0].load(Relaxed) + self.parts[1].load(Relaxed)
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Relaxed)
    }

    fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }
}

/// For how long something has waited.
#[derive(Default)]
struct Wait {
    timer: Timer,
    /// What was [taken](Window::taken) when it began.
    before: u64,
    /// How many parts waited then.
    parts: u32,
    /// How often the timer has rung since.
    rung: u64,
}

impl Wait {
    fn begin(&mut self, window: &Window) {
        self.timer.stop();
        (self.before, self.parts, self.rung) = (window.taken(), window.parts(), 0);
    }

    /// Whether the client is to blame, now that the timer has rung.
    fn is_too_long(&mut self, window: &Window) -> bool {
        self.timer.stop();
        if window.is_blocked() {
            self.begin(window);
            return false;
        }
        self.rung += 1;
        let taken = window.taken().saturating_sub(self.before);
        let part = PART as u64;
        // Parts have their turns: on a slow line with many streams each waits for all others, twice if h2
        // deals unevenly. But not for ever.
        taken < part.saturating_mul(self.rung) || taken >= part.saturating_mul(2 * u64::from(self.parts))
    }
}

tokio::task_local! {
    /// In a stream's task: the number of the part that waits there for room in the window, or 0.
    static GIVEN: Cell<u64>;
}

/// Says that hyper was given a part, the `number`th of its answer; 0 if it waits for the service.
pub(super) fn set_given(number: u64) {
    // Elsewhere nobody looks.
    let _ = GIVEN.try_with(|given| given.set(number));
}

/// Where hyper puts the streams of an HTTP/2 connection.
#[derive(Clone)]
pub(super) struct Streams(pub(super) Arc<Progress>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let (progress, wait) = (Arc::clone(&self.0), Wait::default());
        progress.enter();
        tokio::spawn(GIVEN.scope(Cell::new(0), Stream { inner: Some(stream), progress, given: 0, wait }));
    }
}

pin_project_lite::pin_project! {
    /// A stream, until it is over or its client has taken too little.
    struct Stream<F> {
        // Dropped, h2 resets the stream.
        #[pin]
        inner: Option<F>,
        progress: Arc<Progress>,
        given: u64,
        wait: Wait,
    }

    impl<F> PinnedDrop for Stream<F> {
        fn drop(this: Pin<&mut Self>) {
            this.progress.leave();
        }
    }
}

impl<F: Future<Output = ()>> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(()) };
        if inner.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let window = this.progress.window();
        let given = GIVEN.try_with(Cell::get).unwrap_or_default();
        if std::mem::replace(this.given, given) != given {
            this.wait.begin(window);
        }
        if given == 0 {
            return Poll::Pending;
        }
        let timeout = this.progress.context().limits.write_timeout;
        loop {
            ready!(this.wait.timer.poll_for(timeout, cx));
            if this.wait.is_too_long(window) {
                one(&this.progress.counts().write_timeout);
                this.inner.set(None);
                return Poll::Ready(());
            }
        }
    }
}

/// A part of an answer that is with hyper or h2.
pub(super) struct Given {
    progress: Arc<Progress>,
    turn: u32,
}

impl Given {
    pub(super) fn new(progress: Arc<Progress>) -> Self {
        let window = progress.window();
        let turn = window.turn.load(Relaxed) % 2;
        window.parts[turn as usize].fetch_add(1, Relaxed);
        Self { progress, turn }
    }

    pub(super) fn on_taken(&self, bytes: usize) {
        self.progress.window().taken.fetch_add(bytes as u64, Relaxed);
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        self.progress.window().parts[self.turn as usize].fetch_sub(1, Relaxed);
    }
}

/// What is left in h2 of answers whose streams cannot be reset any more: the end was given away, too.
#[derive(Default)]
pub(super) struct Leftovers {
    wait: Wait,
}

impl Leftovers {
    /// Ready when a part has waited for more than two write timeouts, and at most four: a stream that can
    /// still be reset has been by then.
    pub(super) fn poll_late(&mut self, progress: &Progress, cx: &mut Context<'_>) -> Poll<()> {
        let window = progress.window();
        if window.parts() == 0 {
            self.wait.begin(window);
            return Poll::Pending;
        }
        let turn = progress.context().limits.write_timeout.saturating_mul(2);
        loop {
            ready!(self.wait.timer.poll_for(turn, cx));
            let now = window.turn.load(Relaxed);
            let left = window.parts[(now.wrapping_add(1) % 2) as usize].load(Relaxed) > 0;
            if !left {
                window.turn.store(now.wrapping_add(1), Relaxed);
                self.wait.begin(window);
            } else if self.wait.is_too_long(window) {
                one(&progress.counts().write_timeout);
                return Poll::Ready(());
            }
        }
    }
}
