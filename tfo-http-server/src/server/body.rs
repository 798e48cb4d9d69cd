//! Bodies with limits: what the service reads, and what it is told when a limit is passed.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use hyper::body::{Bytes, Incoming};
use tokio::time::{Instant, Sleep, sleep_until};

use super::limits::{Limits, Rate};
use super::progress::{InFlight, Progress};
use crate::listener::later;

/// The body of a request, within the [`Limits`] of its size and of its rate.
///
/// What a hyper service gets where it got [`Incoming`] before.
pub struct RequestBody {
    inner: Incoming,
    /// Not there if the request has no body.
    meter: Option<Box<Meter>>,
}

struct Meter {
    left: Option<u64>,
    rate: Option<Rate>,
    received: u64,
    /// How long was waited for the client, until now.
    waited: Duration,
    /// Since when is being waited.
    waiting: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
    verdict: Verdict,
    progress: Arc<Progress>,
    ended: bool,
}

/// Why the body of a request ended early.
#[derive(Debug)]
#[non_exhaustive]
pub enum BodyError {
    /// It is longer than [`Limits::body_size`]. The answer will be a 413.
    TooLarge,
    /// It is slower than [`Limits::body_rate`]. The answer will be a 408.
    TooSlow,
    /// The connection failed, or the peer does not speak HTTP.
    Connection(hyper::Error),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the request's body is too large",
            Self::TooSlow => "the request's body comes too slowly",
            Self::Connection(_) => "the request's body cannot be read",
        })
    }
}

impl std::error::Error for BodyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connection(error) => Some(error),
            _ => None,
        }
    }
}

/// What is said about a body, for the one who answers the request.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdict(Arc<AtomicU8>);

impl Verdict {
    const TOO_LARGE: u8 = 1;
    const TOO_SLOW: u8 = 2;

    pub(super) fn status(&self) -> Option<http::StatusCode> {
        match self.0.load(Relaxed) {
            Self::TOO_LARGE => Some(http::StatusCode::PAYLOAD_TOO_LARGE),
            Self::TOO_SLOW => Some(http::StatusCode::REQUEST_TIMEOUT),
            _ => None,
        }
    }
}

impl RequestBody {
    /// The body, and where its verdict will be, if it is one that can pass a limit.
    pub(super) fn new(inner: Incoming, limits: &Limits, progress: &Arc<Progress>) -> (Self, Option<Verdict>) {
        if inner.is_end_stream() {
            return (Self { inner, meter: None }, None);
        }
        let verdict = Verdict::default();
        let meter = Meter {
            left: limits.body_size,
            rate: limits.body_rate,
            received: 0,
            waited: Duration::ZERO,
            waiting: None,
            sleep: None,
            verdict: verdict.clone(),
            progress: Arc::clone(progress),
            ended: false,
        };
        (Self { inner, meter: Some(Box::new(meter)) }, Some(verdict))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { inner, meter } = self.get_mut();
        let polled = Pin::new(&mut *inner).poll_frame(cx);
        let Some(meter) = meter else { return polled.map_err(BodyError::Connection) };
        match polled {
            Poll::Pending => meter.poll_late(cx).map(|()| Some(Err(meter.judge(Verdict::TOO_SLOW)))),
            Poll::Ready(None) => {
                meter.ended = true;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(BodyError::Connection(error)))),
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                if !meter.take(bytes) {
                    return Poll::Ready(Some(Err(meter.judge(Verdict::TOO_LARGE))));
                }
                meter.ended |= inner.is_end_stream();
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Meter {
    /// Whether so many bytes more are allowed.
    fn take(&mut self, bytes: u64) -> bool {
        self.waited += self.waiting.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.received += bytes;
        self.left.as_mut().is_none_or(|left| left.checked_sub(bytes).map(|rest| *left = rest).is_some())
    }

    /// Ready when the client has been waited for longer than what it has sent allows.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(rate) = self.rate else { return Poll::Pending };
        let since = *self.waiting.get_or_insert_with(Instant::now);
        let earned = Duration::from_secs_f64(self.received as f64 / rate.bytes_per_second as f64);
        let allowed = rate.grace.saturating_add(earned).saturating_sub(self.waited);
        let deadline = later(since, allowed);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(())
    }

    fn judge(&mut self, verdict: u8) -> BodyError {
        self.verdict.0.store(verdict, Relaxed);
        self.progress.counts().on_body(verdict == Verdict::TOO_LARGE);
        if verdict == Verdict::TOO_LARGE { BodyError::TooLarge } else { BodyError::TooSlow }
    }
}

/// What the service has not read may be in the kernel when the connection is closed.
impl Drop for Meter {
    fn drop(&mut self) {
        if !self.ended {
            self.progress.set_unread();
        }
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").field("inner", &self.inner).finish_non_exhaustive()
    }
}

pin_project_lite::pin_project! {
    /// The body of a response: the request is over when it is.
    pub(super) struct ResponseBody<B> {
        #[pin]
        inner: Option<B>,
        request: InFlight,
    }
}

impl<B> ResponseBody<B> {
    pub(super) fn new(inner: B, request: InFlight) -> Self {
        Self { inner: Some(inner), request }
    }

    pub(super) fn empty(request: InFlight) -> Self {
        Self { inner: None, request }
    }
}

impl<B: Body> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else { return Poll::Ready(None) };
        let polled = inner.poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            this.request.on_sent(bytes::Buf::remaining(data) as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
