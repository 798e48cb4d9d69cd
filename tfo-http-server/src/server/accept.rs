//! Accepting, until the end: one loop a listener.

use std::future::{Future as _, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{self, Poll, Waker, ready};
use std::time::Duration;

use tfo_core::first_flight::frame::PREFACE;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::select;
use tokio::sync::mpsc;
use tokio::task::coop::poll_proceed;
use tokio::time::{Sleep, sleep, timeout};

use super::connection::{Connection, HttpService};
use super::control::{Context, Place, Places, Stage, reached};
use super::kept::{Held, Kept};
use super::stats::one;
use crate::listener::Pause;
use crate::listener::inline::InlineListener;
use crate::stats::Counts;
use crate::{AcceptedStream, TfoListener};

/// RFC 9110 15.6.4.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
/// SETTINGS, and a GOAWAY that says that no stream was looked at (RFC 9113 6.8): all may be tried again.
const TOO_MANY_HTTP2: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// How long a connection that was accepted shortly before the end has for its first request: its
/// packet may have been lost once, and is repeated after a second.
const FRESH: Duration = Duration::from_secs(3);
/// No queue is longer: who comes later came after the end.
const DRAIN_AT_MOST: usize = 4096;
/// When nothing comes for so long the queue is empty: the reactor has had its turn.
const QUIET: Duration = Duration::from_millis(5);

/// Accepts until the end begins, then what waits in the queue.
pub(super) async fn accept<S: HttpService>(
    listener: TfoListener,
    context: Arc<Context>,
    service: S,
    alive: mpsc::Sender<()>,
) {
    // With several threads, a handler that is polled here would keep the others from accepting.
    let alone = Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread;
    let source = match alone {
        true => {
            InlineListener::new(listener).map_or_else(|listener| Source::Reactor(*listener), Source::Inline)
        }
        false => Source::Reactor(listener),
    };
    let kept = Kept::new(&context.limits);
    let places = Places::new(&context.control, alive);
    let mut acceptor = Acceptor { source, context, service, places, kept };
    let mut watch = acceptor.context.control.watch();
    select! {
        // The end first: no connection keeps it off.
        biased;
        () = reached(&mut watch, Stage::Draining) => {}
        () = acceptor.run() => {}
    }
    acceptor.drain().await;
}

struct Acceptor<S: HttpService> {
    source: Source,
    context: Arc<Context>,
    service: S,
    places: Arc<Places>,
    kept: Kept<S>,
}

/// Where connections come from.
enum Source {
    /// Registered with the reactor, for a task of their own.
    Reactor(TfoListener),
    /// Not registered: polled where they are accepted, and most are over then.
    Inline(InlineListener),
}

impl Source {
    fn counts(&self) -> &Counts {
        match self {
            Self::Reactor(listener) => listener.counts(),
            Self::Inline(inline) => inline.counts(),
        }
    }

    fn poll_next(&self, cx: &mut task::Context<'_>) -> Poll<io::Result<AcceptedStream>> {
        match self {
            Self::Reactor(listener) => listener.poll_accept(cx).map_ok(|(stream, _)| stream),
            Self::Inline(inline) => inline.poll_accept(cx),
        }
    }
}

/// What a worker turns to.
enum Event<S: HttpService> {
    Accepted(io::Result<AcceptedStream>),
    Kept(Held<S>),
}

impl<S: HttpService> Acceptor<S> {
    async fn run(&mut self) {
        let mut pause = Pause::default();
        // While there are no descriptors left, for one.
        let mut pausing: Option<Pin<Box<Sleep>>> = None;
        // Neither many clients nor busy ones keep the others waiting.
        let mut kept_first = false;
        loop {
            kept_first = !kept_first;
            let event = poll_fn(|cx| {
                let turn = ready!(poll_proceed(cx));
                let paused = pausing.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_pending());
                // Under load there may be no quiet moment.
                if self.kept.is_due() {
                    self.kept.poll_tick(&self.context.counts, cx);
                }
                for kept in [kept_first, !kept_first] {
                    if kept {
                        if let Poll::Ready(held) = self.kept.poll_next(cx) {
                            turn.made_progress();
                            return Poll::Ready(Event::Kept(held));
                        }
                    } else if !paused && let Poll::Ready(accepted) = self.source.poll_next(cx) {
                        turn.made_progress();
                        return Poll::Ready(Event::Accepted(accepted));
                    }
                }
                self.kept.poll_tick(&self.context.counts, cx);
                Poll::Pending
            });
            match event.await {
                Event::Kept(held) => self.poll_here(held),
                Event::Accepted(Ok(stream)) => {
                    (pause, pausing) = (Pause::default(), None);
                    self.take(stream);
                }
                Event::Accepted(Err(error)) => match pause.after(&error, self.source.counts()) {
                    Duration::ZERO => {}
                    pause => pausing = Some(Box::pin(sleep(pause))),
                },
            }
        }
    }

    async fn drain(&mut self) {
        // A request that has come is under way, though no task knows of it.
        for held in self.kept.take() {
            self.poll_here(held);
        }
        let mut watch = self.context.control.watch();
        for _ in 0..DRAIN_AT_MOST {
            let accepted = match &self.source {
                Source::Inline(inline) => inline.accept_now(),
                Source::Reactor(listener) => select! {
                    biased;
                    () = reached(&mut watch, Stage::Ending) => return,
                    accepted = timeout(QUIET, listener.accept()) => match accepted {
                        Ok(accepted) => accepted.map(|(stream, _)| Some(stream)),
                        // Behind a proxy: what has come is on its way to here.
                        Err(_) if listener.has_waiting() => continue,
                        Err(_) => return,
                    },
                },
            };
            match accepted {
                Ok(Some(stream)) => self.take(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => {}
            }
        }
    }

    fn take(&mut self, stream: AcceptedStream) {
        let most = self.context.limits.connections;
        let Some(place) = Place::take(&self.places, most) else {
            one(&self.context.counts.connections);
            refuse(stream);
            return;
        };
        let connection = Connection::new(stream, Arc::clone(&self.context), self.service.clone());
        self.poll_here(Held::new(connection, place));
        if let Source::Inline(inline) = &self.source {
            inline.look();
        }
    }

    /// Polls a connection where it is: what is over by then is dropped, what waits for its client is kept, and
    /// only the rest becomes a task.
    fn poll_here(&mut self, mut held: Held<S>) {
        if let Source::Reactor(_) = self.source {
            return self.spawn(held);
        }
        self.kept.begin();
        let connection = &mut held.connection;
        // As with a task: a handler that panics fails its own connection only.
        match catch_unwind(AssertUnwindSafe(|| connection.as_mut().poll_here())) {
            Ok(Poll::Pending) => {
                if let Err(held) = self.kept.keep(held) {
                    self.spawn(held);
                }
            }
            over => {
                // The socket of an upgraded one lives on.
                match connection.is_upgraded() {
                    true => self.kept.let_go(&mut held),
                    false => _ = self.kept.forget(&mut held),
                }
                if over.is_ok() && held.is_new {
                    one(&self.context.counts.at_once);
                }
            }
        }
    }

    fn spawn(&mut self, mut held: Held<S>) {
        self.kept.let_go(&mut held);
        let (connection, place) = held.into_parts();
        connection.register();
        tokio::spawn(run(connection, Arc::clone(&self.context), place));
    }
}

/// One connection, until it is over or cut off.
async fn run<S: HttpService>(mut connection: Pin<Box<Connection<S>>>, context: Arc<Context>, place: Place) {
    let mut watch = context.control.watch();
    select! {
        biased;
        () = connection.as_mut() => return,
        () = reached(&mut watch, Stage::Draining) => {}
    }
    let orderly = async {
        // Who has not brought its first request is not idle: it is on its way. And what the gate withholds
        // has come already; its own deadline holds.
        let mut grace = pin!(sleep(FRESH));
        let mut in_time = true;
        let unsettled = poll_fn(|cx| {
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(true);
            }
            in_time = in_time && grace.as_mut().poll(cx).is_pending();
            let wait = connection.is_fresh() && in_time || connection.is_withheld();
            if wait { Poll::Pending } else { Poll::Ready(false) }
        });
        if unsettled.await {
            return;
        }
        connection.as_mut().end();
        connection.await;
    };
    select! {
        biased;
        () = reached(&mut watch, Stage::Ending) => {}
        () = orderly => {}
    }
    drop(place);
}

/// Says that there are too many, to whoever listens, and closes. Nobody is waited for.
fn refuse(stream: AcceptedStream) {
    let (mut stream, mut cx) = (pin!(stream), task::Context::from_waker(Waker::noop()));
    // What is read does not make a RST of the close, which could overtake the answer.
    let mut scratch = [const { std::mem::MaybeUninit::uninit() }; 4096];
    let mut read = ReadBuf::uninit(&mut scratch);
    let _ = stream.as_mut().poll_read(&mut cx, &mut read);
    let answer = if read.filled().starts_with(PREFACE) { TOO_MANY_HTTP2 } else { TOO_MANY };
    let _ = stream.as_mut().poll_write(&mut cx, answer);
    let _ = stream.poll_shutdown(&mut cx);
}
