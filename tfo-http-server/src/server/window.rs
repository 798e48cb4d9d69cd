//! What an HTTP/2 client has not taken: the parts of answers that wait for its windows.
//!
//! hyper and h2 keep them, and the socket has nothing to write meanwhile: no write is late. So an answer is
//! given to hyper in [parts](PART), each when the one before has found room in the window. A [stream](Streams)
//! whose part finds none in time is reset. What h2 has taken over can be taken back from it by nobody, so if
//! that is [left](Leftovers), the connection is closed.

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
    /// Parts that are not taken.
    parts: AtomicU32,
    /// Those of answers whose stream is over, by the turn in which it was: this one, and the one before.
    left: [Left; 2],
    turn: AtomicU32,
    /// The socket takes no more, or is about to be closed: its own limits hold, and the windows are not to blame.
    pub(super) blocked: AtomicBool,
}

#[derive(Default)]
struct Left {
    /// For a moment too few, between the end of a stream and the count of its parts.
    parts: AtomicU32,
    taken: AtomicU64,
}

impl Window {
    /// How many parts wait.
    pub(super) fn parts(&self) -> u32 {
        self.parts.load(Relaxed)
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Relaxed)
    }

    fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }
}

/// For how long something has waited without a move.
#[derive(Default)]
struct Wait {
    timer: Timer,
    /// What was [taken](Window::taken) when it began, and of this what was waited for.
    before: (u64, u64),
    /// How many parts waited then.
    parts: u32,
    /// How often the timer has rung since.
    rung: u64,
}

impl Wait {
    fn begin(&mut self, window: &Window, own: u64) {
        self.timer.stop();
        (self.before, self.parts, self.rung) = ((window.taken(), own), window.parts(), 0);
    }

    /// Whether the client is to blame, now that the timer has rung. `own` is what it has taken of what is
    /// waited for.
    fn is_too_long(&mut self, window: &Window, own: u64) -> bool {
        self.timer.stop();
        self.rung += 1;
        let (part, taken) = (PART as u64, window.taken().saturating_sub(self.before.0));
        // The windows say nothing of a line that is full. On one that is not, so much goes, whatever it is.
        if !window.is_blocked() && taken < part.saturating_mul(self.rung) {
            return true;
        }
        if window.is_blocked() || own != self.before.1 {
            self.begin(window, own);
            return false;
        }
        // h2 gives the connection's window to the streams in their turn, and whoever comes now is behind those
        // who waited when it began: all of these have had theirs. Twice, if it deals unevenly.
        taken >= part.saturating_mul(2 * u64::from(self.parts))
    }
}

/// What the task of a stream and the parts of its answer know of each other.
#[derive(Default)]
struct Answer {
    /// The number of the part that waits in the task for room in the window, or 0.
    given: AtomicU64,
    /// Bytes that h2 has taken of all its parts.
    taken: AtomicU64,
    /// How many parts are not taken, [whether the stream is over](OVER), and the [turn](TURN) in which it was.
    state: AtomicU32,
}

const OVER: u32 = 1 << 31;
const TURN: u32 = 1 << 30;

impl Answer {
    /// The stream is over: what h2 still has of it is left.
    fn end(&self, window: &Window) {
        let turn = window.turn.load(Relaxed) % 2;
        let parts = self.state.fetch_or(if turn == 0 { OVER } else { OVER | TURN }, Relaxed);
        window.left[turn as usize].parts.fetch_add(parts, Relaxed);
    }
}

/// Where it is counted, if its stream is over.
fn left(window: &Window, state: u32) -> Option<&Left> {
    (state & OVER != 0).then(|| &window.left[usize::from(state & TURN != 0)])
}

tokio::task_local! {
    /// In a stream's task.
    static ANSWER: Arc<Answer>;
}

/// Says that hyper was given a part, the `number`th of its answer; 0 if it waits for the service.
pub(super) fn set_given(number: u64) {
    // Elsewhere nobody looks.
    let _ = ANSWER.try_with(|answer| answer.given.store(number, Relaxed));
}

/// Where hyper puts the streams of an HTTP/2 connection.
#[derive(Clone)]
pub(super) struct Streams(pub(super) Arc<Progress>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let (progress, answer) = (Arc::clone(&self.0), Arc::<Answer>::default());
        progress.enter();
        let scope = Arc::clone(&answer);
        let (inner, given, wait) = (Some(stream), 0, Wait::default());
        tokio::spawn(ANSWER.scope(scope, Stream { inner, progress, answer, given, wait }));
    }
}

pin_project_lite::pin_project! {
    /// A stream, until it is over or its client has taken too little.
    struct Stream<F> {
        // Dropped, h2 resets the stream.
        #[pin]
        inner: Option<F>,
        progress: Arc<Progress>,
        answer: Arc<Answer>,
        given: u64,
        wait: Wait,
    }

    impl<F> PinnedDrop for Stream<F> {
        fn drop(this: Pin<&mut Self>) {
            this.answer.end(this.progress.window());
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
        let own = || this.answer.taken.load(Relaxed);
        let given = this.answer.given.load(Relaxed);
        if std::mem::replace(this.given, given) != given {
            this.wait.begin(window, own());
        }
        if given == 0 {
            return Poll::Pending;
        }
        let timeout = this.progress.context().limits.write_timeout;
        loop {
            ready!(this.wait.timer.poll_for(timeout, cx));
            if this.wait.is_too_long(window, own()) {
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
    answer: Arc<Answer>,
}

impl Given {
    /// None outside a stream's task.
    pub(super) fn new(progress: &Arc<Progress>) -> Option<Self> {
        let answer = ANSWER.try_with(Arc::clone).ok()?;
        answer.state.fetch_add(1, Relaxed);
        progress.window().parts.fetch_add(1, Relaxed);
        Some(Self { progress: Arc::clone(progress), answer })
    }

    pub(super) fn on_taken(&self, bytes: usize) {
        let (window, bytes) = (self.progress.window(), bytes as u64);
        window.taken.fetch_add(bytes, Relaxed);
        self.answer.taken.fetch_add(bytes, Relaxed);
        if let Some(left) = left(window, self.answer.state.load(Relaxed)) {
            left.taken.fetch_add(bytes, Relaxed);
        }
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        let window = self.progress.window();
        window.parts.fetch_sub(1, Relaxed);
        if let Some(left) = left(window, self.answer.state.fetch_sub(1, Relaxed)) {
            left.parts.fetch_sub(1, Relaxed);
        }
    }
}

/// What is left in h2 of answers whose streams cannot be reset any more: the end was given away, too.
#[derive(Default)]
pub(super) struct Leftovers {
    wait: Wait,
}

impl Leftovers {
    /// Ready when a part that is left has waited for more than two write timeouts, and at most four, and none
    /// of those has moved.
    pub(super) fn poll_late(&mut self, progress: &Progress, cx: &mut Context<'_>) -> Poll<()> {
        let window = progress.window();
        if window.parts() == 0 {
            self.wait.begin(window, 0);
            return Poll::Pending;
        }
        let time = progress.context().limits.write_timeout.saturating_mul(2);
        loop {
            ready!(self.wait.timer.poll_for(time, cx));
            let now = window.turn.load(Relaxed);
            let before = &window.left[now.wrapping_add(1) as usize % 2];
            let own = before.taken.load(Relaxed);
            if before.parts.load(Relaxed) == 0 {
                window.turn.store(now.wrapping_add(1), Relaxed);
                self.wait.begin(window, window.left[now as usize % 2].taken.load(Relaxed));
            } else if self.wait.is_too_long(window, own) {
                one(&progress.counts().write_timeout);
                return Poll::Ready(());
            }
        }
    }
}
