//! Bodies with limits: what the service reads, and what it is told when a limit is passed.

use std::fmt;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use hyper::body::{Bytes, Incoming};
use tokio::time::Instant;

use super::limits::{Limits, Rate};
use super::progress::{InFlight, Progress};
use super::timer::Timer;
use super::window::{Given, PART, set_given};
use crate::clock::later;

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
    timer: Timer,
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
            timer: Timer::default(),
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
        self.timer.poll(deadline, cx)
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
    pub(super) struct ResponseBody<B: Body> {
        #[pin]
        inner: Option<B>,
        request: InFlight,
        http2: bool,
        // What is not given to HTTP/2 yet of the last frame.
        rest: Option<B::Data>,
        // How many parts were given.
        given: u64,
    }
}

impl<B: Body> ResponseBody<B> {
    pub(super) fn new(inner: B, request: InFlight, http2: bool) -> Self {
        Self { inner: Some(inner), request, http2, rest: None, given: 0 }
    }

    pub(super) fn empty(request: InFlight) -> Self {
        Self { inner: None, request, http2: false, rest: None, given: 0 }
    }
}

impl<B: Body> Body for ResponseBody<B> {
    type Data = Part<B::Data>;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Part<B::Data>>, B::Error>>> {
        let this = self.project();
        if *this.http2 {
            // What was given has found its place.
            set_given(0);
        }
        let data = match this.rest.take() {
            Some(rest) => rest,
            None => {
                let Some(inner) = this.inner.as_pin_mut() else { return Poll::Ready(None) };
                let Some(frame) = ready!(inner.poll_frame(cx)?) else { return Poll::Ready(None) };
                match frame.into_data() {
                    Ok(data) => data,
                    // Trailers, or what is not known yet.
                    Err(frame) => return Poll::Ready(Some(Ok(frame.map_data(Part::whole)))),
                }
            }
        };
        let mut part = Part::whole(data);
        if *this.http2 && part.has_remaining() {
            *this.rest = part.cut();
            part.given = Given::new(this.request.progress());
            *this.given += 1;
            set_given(*this.given);
        }
        this.request.on_sent(part.remaining() as u64);
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        // hyper asks before the first frame, when there is no rest yet.
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Data of a response as it is given to hyper.
pub(super) struct Part<D> {
    data: Data<D>,
    given: Option<Given>,
}

enum Data<D> {
    /// As the service has given it.
    Whole(D),
    Piece(Bytes),
}

impl<D: Buf> Part<D> {
    fn whole(data: D) -> Self {
        Self { data: Data::Whole(data), given: None }
    }

    /// Makes it as small as a part is, and leaves the rest.
    fn cut(&mut self) -> Option<D> {
        let Data::Whole(data) = &mut self.data else { return None };
        if data.remaining() <= PART {
            return None;
        }
        let piece = Data::Piece(data.copy_to_bytes(PART));
        match std::mem::replace(&mut self.data, piece) {
            Data::Whole(rest) => Some(rest),
            Data::Piece(_) => None,
        }
    }

    fn on_taken(&mut self, bytes: usize) {
        if let Some(given) = &self.given {
            given.on_taken(bytes);
            if !self.has_remaining() {
                self.given = None;
            }
        }
    }
}

impl<D: Buf> Buf for Part<D> {
    fn remaining(&self) -> usize {
        match &self.data {
            Data::Whole(data) => data.remaining(),
            Data::Piece(data) => data.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match &self.data {
            Data::Whole(data) => data.chunk(),
            Data::Piece(data) => data.chunk(),
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        match &self.data {
            Data::Whole(data) => data.chunks_vectored(slices),
            Data::Piece(data) => data.chunks_vectored(slices),
        }
    }

    fn advance(&mut self, bytes: usize) {
        match &mut self.data {
            Data::Whole(data) => data.advance(bytes),
            Data::Piece(data) => data.advance(bytes),
        }
        self.on_taken(bytes);
    }

    fn copy_to_bytes(&mut self, bytes: usize) -> Bytes {
        let copy = match &mut self.data {
            Data::Whole(data) => data.copy_to_bytes(bytes),
            Data::Piece(data) => data.copy_to_bytes(bytes),
        };
        self.on_taken(bytes);
        copy
    }
}
