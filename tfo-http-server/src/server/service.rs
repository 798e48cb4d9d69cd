//! The service between hyper and the caller's: limits, statuses, and what a handler may ask.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper::upgrade::OnUpgrade;

use super::body::{RequestBody, ResponseBody, Verdict};
use super::progress::{InFlight, Progress, RequestRecord};
use crate::AcceptInfo;
use crate::shared::Shared;

/// The caller's service, on one connection.
pub(super) struct Served<S> {
    pub(super) service: S,
    pub(super) progress: Arc<Progress>,
    /// Weak, so that the stream knows whether a handler still watches it when it is closed.
    pub(super) connection: Weak<Shared>,
}

impl<S, B> Service<Request<Incoming>> for Served<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    B: Body,
{
    type Response = Response<ResponseBody<B>>;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let context = self.progress.context();
        let connection = self.connection.upgrade();
        // Whoever it is handed to, within this very poll perhaps, may wait.
        if let (Some(connection), Some(_)) = (&connection, request.extensions().get::<OnUpgrade>()) {
            connection.register();
        }
        let info = connection.map(AcceptInfo::new);
        let record = match (&context.on_request, &info) {
            (Some(_), Some(info)) => Some(Box::new(RequestRecord::new(&request, info.clone()))),
            _ => None,
        };
        let in_flight = self.progress.begin(record);
        let http1 = request.version() < Version::HTTP_2;
        let tunnel = request.method() == Method::CONNECT;
        let head = request.method() == Method::HEAD;
        if http1 && context.end_in_last_packet {
            self.progress.set_closing(!context.keep_alive || is_last(&request));
        }
        let too_large =
            context.limits.body_size.is_some_and(|most| request.body().size_hint().lower() > most);
        if too_large {
            self.progress.counts().on_body(true);
            self.progress.set_unread();
            return Answering { inner: None, verdict: None, request: Some(in_flight), http1, tunnel, head };
        }
        let (parts, body) = request.into_parts();
        let (body, verdict) = RequestBody::new(body, &context.limits, &self.progress);
        let mut request = Request::from_parts(parts, body);
        if let Some(info) = info {
            #[cfg(feature = "axum")]
            request.extensions_mut().insert(axum::extract::ConnectInfo(info.clone()));
            request.extensions_mut().insert(info);
        }
        let inner = Some(self.service.call(request));
        Answering { inner, verdict, request: Some(in_flight), http1, tunnel, head }
    }
}

pin_project_lite::pin_project! {
    /// The answer of the caller's service, or the one that a limit asks for.
    pub(super) struct Answering<F> {
        // None: the request is refused.
        #[pin]
        inner: Option<F>,
        verdict: Option<Verdict>,
        request: Option<InFlight>,
        http1: bool,
        tunnel: bool,
        head: bool,
    }
}

impl<F, B, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = match this.inner.as_pin_mut() {
            Some(inner) => Some(ready!(inner.poll(cx))),
            None => None,
        };
        let Some(mut request) = this.request.take() else {
            // Not polled again when it was ready.
            return Poll::Pending;
        };
        let http1 = *this.http1;
        let refused = match &answer {
            None => Some(StatusCode::PAYLOAD_TOO_LARGE),
            Some(_) => this.verdict.as_ref().and_then(Verdict::status),
        };
        let (mut response, close) = match (refused, answer) {
            (None, Some(answer)) => {
                let response = answer?;
                request.on_status(response.status());
                let status = response.status();
                let upgraded =
                    status == StatusCode::SWITCHING_PROTOCOLS || *this.tunnel && status.is_success();
                let progress = request.progress();
                if upgraded && http1 {
                    progress.set_upgraded();
                    progress.set_closing(false);
                }
                let last = progress.is_last() && !upgraded;
                let asked = http1 && progress.context().end_in_last_packet;
                if asked && (last || says(response.headers(), "close")) {
                    progress.set_closing(true);
                }
                let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
                if !http1 && (*this.head || bodiless) {
                    (without_body(response, request, *this.head), last)
                } else {
                    (response.map(|body| ResponseBody::new(body, request, !http1)), last)
                }
            }
            (status, _) => {
                let status = status.unwrap_or(StatusCode::PAYLOAD_TOO_LARGE);
                request.on_status(status);
                let mut response = Response::new(ResponseBody::empty(request));
                *response.status_mut() = status;
                (response, true)
            }
        };
        if close && http1 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(response))
    }
}

/// RFC 9110 6.4.1: what has no body over HTTP/2 either, where hyper would send it. To a HEAD it is told how long
/// it would be.
fn without_body<B: Body>(response: Response<B>, request: InFlight, head: bool) -> Response<ResponseBody<B>> {
    let (mut parts, body) = response.into_parts();
    if let (true, false, Some(length)) = (head, body.is_end_stream(), body.size_hint().exact()) {
        parts.headers.entry(CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    Response::from_parts(parts, ResponseBody::empty(request))
}

/// Whether the client wants no further answer (RFC 9112 9.3).
fn is_last<B>(request: &Request<B>) -> bool {
    match request.version() {
        Version::HTTP_10 => !says(request.headers(), "keep-alive"),
        _ => says(request.headers(), "close"),
    }
}

/// Whether this is one of the connection's options (RFC 9110 7.6.1).
fn says(headers: &HeaderMap, option: &str) -> bool {
    let values = headers.get_all(CONNECTION).into_iter();
    let mut options = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    options.any(|known| known.trim().eq_ignore_ascii_case(option))
}
