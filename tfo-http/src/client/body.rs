use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Uri;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::error::{Error, ErrorKind, Timeout};
use crate::error::BoxError;
use crate::info::ConnInfo;

/// The body of an answer: a stream of frames, under the client's read and total timeouts. Dropping it
/// before its end closes the connection.
pub struct ResponseBody {
    frames: UnsyncBoxBody<Bytes, BoxError>,
    /// A read that has to be over when the sleep is.
    silence: Option<(Duration, Pin<Box<Sleep>>)>,
    deadline: Option<Pin<Box<Sleep>>>,
    url: Uri,
    info: Option<ConnInfo>,
}

impl ResponseBody {
    pub(super) fn new<B>(
        frames: B,
        read_timeout: Option<Duration>,
        deadline: Option<Instant>,
        url: Uri,
        info: Option<ConnInfo>,
    ) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self {
            frames: frames.map_err(Into::into).boxed_unsync(),
            silence: read_timeout.map(|timeout| (timeout, Box::pin(sleep(timeout)))),
            deadline: deadline.map(|deadline| Box::pin(sleep_until(deadline))),
            url,
            info,
        }
    }

    /// The whole body, if it has at most `limit` bytes: after decompression, so that a small answer
    /// cannot fill the memory.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::BodyTooLarge`], [`ErrorKind::Body`], [`ErrorKind::Timeout`].
    pub async fn bytes(mut self, limit: usize) -> Result<Bytes, Error> {
        let mut all = BytesMut::new();
        while let Some(frame) = self.frame().await {
            // Trailers are not asked for.
            let Ok(data) = frame?.into_data() else { continue };
            if data.len() > limit - all.len() {
                return Err(self.failed(ErrorKind::BodyTooLarge));
            }
            all.extend_from_slice(&data);
        }
        Ok(all.freeze())
    }

    fn failed(&self, kind: ErrorKind) -> Error {
        Error::new(kind).at(&self.url).on(self.info.clone()).executed_before(true)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let is_over = |sleep: Option<&mut Pin<Box<Sleep>>>, cx: &mut Context<'_>| {
            sleep.is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready())
        };
        // Before the frames: a server that never stops to send has a deadline too.
        if is_over(this.deadline.as_mut(), cx) {
            return Poll::Ready(Some(Err(this.failed(ErrorKind::Timeout(Timeout::Total)))));
        }
        let Poll::Ready(frame) = Pin::new(&mut this.frames).poll_frame(cx) else {
            ready!(match &mut this.silence {
                Some((_, silence)) => silence.as_mut().poll(cx),
                None => Poll::Pending,
            });
            return Poll::Ready(Some(Err(this.failed(ErrorKind::Timeout(Timeout::Read)))));
        };
        if let Some((timeout, silence)) = &mut this.silence {
            silence.as_mut().reset(Instant::now() + *timeout);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|error| this.failed(ErrorKind::Body).because(error))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.frames.size_hint()
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").field("size_hint", &self.size_hint()).finish_non_exhaustive()
    }
}
