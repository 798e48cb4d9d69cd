//! [`TfoListener`] where tonic takes a stream of connections.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;

use crate::listener::Pause;
use crate::{AcceptInfo, AcceptedStream, TfoListener};

impl TfoListener {
    /// The connections as a stream without an end: for tonic's `serve_with_incoming`. Survives errors as
    /// [`accept_next`](Self::accept_next) does.
    pub fn into_incoming(self) -> Incoming {
        Incoming { listener: self, pause: Pause::default(), asleep: None }
    }
}

/// The connections of a [`TfoListener`]; [`TfoListener::into_incoming`].
#[derive(Debug)]
pub struct Incoming {
    listener: TfoListener,
    pause: Pause,
    asleep: Option<Pin<Box<Sleep>>>,
}

impl Stream for Incoming {
    type Item = Result<AcceptedStream, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(asleep) = &mut this.asleep {
                ready!(asleep.as_mut().poll(cx));
                this.asleep = None;
            }
            match ready!(this.listener.poll_accept(cx)) {
                Ok((stream, _)) => {
                    this.pause = Pause::default();
                    return Poll::Ready(Some(Ok(stream)));
                }
                Err(error) => match this.pause.after(&error, this.listener.counts()) {
                    Duration::ZERO => {}
                    pause => this.asleep = Some(Box::pin(sleep(pause))),
                },
            }
        }
    }
}

/// [`AcceptInfo`] in the extensions of each request: `request.extensions().get::<AcceptInfo>()`.
impl Connected for AcceptedStream {
    type ConnectInfo = AcceptInfo;

    fn connect_info(&self) -> AcceptInfo {
        self.info()
    }
}
