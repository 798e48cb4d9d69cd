//! Accepting, until the end: one loop a listener.

use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{self, Poll, Waker};
use std::time::Duration;

use tfo_core::first_flight::frame::PREFACE;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::connection::{Connection, HttpService};
use super::control::{Context, Place, Stage, reached};
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

/// Shorter than what clients are usually given.
const PACE: Duration = Duration::from_secs(5);

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
    let mut acceptor = Acceptor { source, context, service, alive, pace: Pace::default() };
    let mut watch = acceptor.context.control.watch();
    select! {
        // The end first: no connection keeps it off.
        biased;
        () = reached(&mut watch, Stage::Draining) => {}
        () = acceptor.run() => {}
    }
    acceptor.drain().await;
}

struct Acceptor<S> {
    source: Source,
    context: Arc<Context>,
    service: S,
    alive: mpsc::Sender<()>,
    pace: Pace,
}

/// A timer that is due before those of connections. Whenever one is set that is due before all others, tokio
/// wakes its reactor, though the thread that sets it be the reactor's own: a write, and a turn in vain, for
/// each connection that is alone and is kept alive. Nobody waits for this one.
#[derive(Default)]
struct Pace(Option<Pin<Box<Sleep>>>);

impl Pace {
    fn keep(&mut self) {
        match &mut self.0 {
            Some(sleep) if sleep.is_elapsed() => sleep.as_mut().reset(Instant::now() + PACE),
            Some(_) => {}
            none => {
                let sleep = none.insert(Box::pin(sleep(PACE)));
                // It is set when it is polled.
                let _ = sleep.as_mut().poll(&mut task::Context::from_waker(Waker::noop()));
            }
        }
    }
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

    async fn next(&self) -> io::Result<AcceptedStream> {
        match self {
            Self::Reactor(listener) => Ok(listener.accept().await?.0),
            Self::Inline(inline) => poll_fn(|cx| inline.poll_accept(cx)).await,
        }
    }
}

impl<S: HttpService> Acceptor<S> {
    async fn run(&mut self) {
        let mut pause = Pause::default();
        loop {
            match self.source.next().await {
                Ok(stream) => {
                    pause = Pause::default();
                    self.take(stream);
                }
                Err(error) => match pause.after(&error, self.source.counts()) {
                    Duration::ZERO => {}
                    pause => sleep(pause).await,
                },
            }
        }
    }

    async fn drain(&mut self) {
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
        let Some(place) = Place::take(&self.context.control, &self.alive, most) else {
            one(&self.context.counts.connections);
            refuse(stream);
            return;
        };
        let mut connection =
            Box::pin(Connection::new(stream, Arc::clone(&self.context), self.service.clone()));
        if let Source::Inline(inline) = &self.source {
            if self.context.keep_alive {
                self.pace.keep();
            }
            // Whoever is woken meanwhile is polled again below.
            let mut cx = task::Context::from_waker(Waker::noop());
            let polled = catch_unwind(AssertUnwindSafe(|| connection.as_mut().poll(&mut cx)));
            match polled {
                Ok(Poll::Pending) => {
                    inline.look();
                    connection.register();
                }
                // As with a task: a handler that panics fails its own connection only.
                over => {
                    drop((connection, place));
                    inline.look();
                    if over.is_ok() {
                        one(&self.context.counts.at_once);
                    }
                    return;
                }
            }
        }
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
