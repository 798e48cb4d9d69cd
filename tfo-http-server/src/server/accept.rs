//! Accepting, until the end: one loop a listener.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::connection::{Connection, HttpService};
use super::control::{Context, Place, Stage, reached};
use super::stats::one;
use crate::listener::Pause;
use crate::{AcceptedStream, TfoListener};

/// RFC 9110 15.6.4.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
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
    let mut acceptor = Acceptor { listener, context, service, alive };
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
    listener: TfoListener,
    context: Arc<Context>,
    service: S,
    alive: mpsc::Sender<()>,
}

impl<S: HttpService> Acceptor<S> {
    async fn run(&mut self) {
        let mut pause = Pause::default();
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    pause = Pause::default();
                    self.take(stream);
                }
                Err(error) => match pause.after(&error, &self.listener) {
                    Duration::ZERO => {}
                    pause => sleep(pause).await,
                },
            }
        }
    }

    async fn drain(&mut self) {
        let mut watch = self.context.control.watch();
        for _ in 0..DRAIN_AT_MOST {
            let accepted = select! {
                biased;
                () = reached(&mut watch, Stage::Ending) => return,
                accepted = timeout(QUIET, self.listener.accept()) => accepted,
            };
            match accepted {
                Ok(Ok((stream, _))) => self.take(stream),
                Ok(Err(_)) => {}
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, stream: AcceptedStream) {
        let most = self.context.limits.connections;
        let Some(place) = Place::take(&self.context.control, &self.alive, most) else {
            one(&self.context.counts.connections);
            tokio::spawn(refuse(stream));
            return;
        };
        let connection = Connection::new(stream, Arc::clone(&self.context), self.service.clone());
        tokio::spawn(run(Box::pin(connection), Arc::clone(&self.context), place));
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

/// Says that there are too many, to whoever listens, and closes.
async fn refuse(stream: AcceptedStream) {
    let mut stream = pin!(stream);
    poll_fn(|cx| {
        // What is read does not make a RST of the close, which could overtake the answer.
        let mut scratch = [const { std::mem::MaybeUninit::uninit() }; 4096];
        let _ = stream.as_mut().poll_read(cx, &mut ReadBuf::uninit(&mut scratch));
        let _ = stream.as_mut().poll_write(cx, TOO_MANY);
        let _ = stream.as_mut().poll_shutdown(cx);
        Poll::Ready(())
    })
    .await;
}
