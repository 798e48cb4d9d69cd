//! What is served while somebody is slow or greedy.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Bytes, Frame};
use hyper::header::{HeaderValue, UPGRADE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tfo_http_server::server::{Limits, RequestBody, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Sleep, sleep};

use crate::running::{Running, SHORT};

pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

pub(crate) async fn answer(mut request: Request<RequestBody>) -> Result<Answer, Infallible> {
    let switch = request.headers().contains_key("upgrade") && request.uri().path() == "/echo";
    if request.method() == Method::CONNECT || switch {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut tunnel = TokioIo::new(upgrade.await.unwrap());
            let mut said = [0; 4];
            tunnel.read_exact(&mut said).await.unwrap();
            tunnel.write_all(&said).await.unwrap();
            if said == *b"more" {
                tunnel.write_all(&LARGE).await.unwrap();
            }
            tunnel.shutdown().await.unwrap();
        });
        let mut response = Response::new(Empty::new().boxed_unsync());
        if switch {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(UPGRADE, HeaderValue::from_static("echo"));
        }
        return Ok(response);
    }
    if request.method() == Method::POST {
        let text = match request.into_body().collect().await {
            Ok(body) => format!("{} bytes\n", body.to_bytes().len()),
            Err(_) => "no body\n".into(),
        };
        return Ok(Response::new(Full::from(text).boxed_unsync()));
    }
    if request.method() == Method::HEAD && request.uri().path() == "/" {
        return Ok(Response::new(Empty::new().boxed_unsync()));
    }
    if let Some(status) = request.uri().path().strip_prefix("/status/") {
        let mut response = Response::new(Full::from("what nobody wants").boxed_unsync());
        *response.status_mut() = status.parse().unwrap();
        return Ok(response);
    }
    Ok(Response::new(match request.uri().path() {
        "/large" => Full::from(Bytes::from_static(&LARGE)).boxed_unsync(),
        "/16k" => Full::from(Bytes::from_static(&LARGE[..16 * 1024])).boxed_unsync(),
        "/32k" => Full::from(Bytes::from_static(&LARGE[..32 * 1024])).boxed_unsync(),
        "/1m" => Full::from(Bytes::from_static(&LARGE[..1024 * 1024])).boxed_unsync(),
        "/empty" => Empty::new().boxed_unsync(),
        "/events" => Events { left: 4, sleep: Box::pin(sleep(SHORT)) }.boxed_unsync(),
        _ => Full::from("hello\n").boxed_unsync(),
    }))
}

pub(crate) static LARGE: [u8; 20_000_000] = [b'x'; 20_000_000];

/// A service that has something to say now and then.
pub(crate) struct Events {
    left: usize,
    sleep: Pin<Box<Sleep>>,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(left) = self.left.checked_sub(1) else { return Poll::Ready(None) };
        ready!(self.sleep.as_mut().poll(cx));
        self.left = left;
        self.sleep = Box::pin(sleep(3 * SHORT));
        Poll::Ready(Some(Ok(Frame::data("event\n".into()))))
    }
}

/// The server on threads of its own: the tests block.
pub(crate) fn start(limits: Limits) -> Running {
    Running::with(Server::builder().limits(limits).workers(1), service_fn(answer))
}

pub(crate) fn late(server: &Running) -> u64 {
    server.handle.stats().refused.write_timeout
}
