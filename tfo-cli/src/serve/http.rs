//! HTTP/1.1 and HTTP/2 with prior knowledge (h2c) on a listener, until it is told to stop.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tfo_http_server::{AcceptInfo, AcceptedStream, TfoListener};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::patient::Patient;

/// Connections at a time; further ones wait in the kernel.
const CONNECTIONS: usize = 1000;
/// How long a client may take for the head of a request, or say nothing.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// How long a client may read nothing of its answer.
const READ_PATIENCE: Duration = Duration::from_secs(30);
/// How long the requests under way may take when all shall end.
const END_PATIENCE: Duration = Duration::from_secs(10);
/// How long nobody must come for the kernel's queue to be empty.
const QUEUE_PAUSE: Duration = Duration::from_millis(20);
/// How long its queue may be emptied.
const QUEUE_PATIENCE: Duration = Duration::from_secs(1);

/// Serves each connection with the service that `service` makes for it, until `stop`; then takes those
/// that wait to be accepted, and answers the requests under way: those that are withheld until their
/// gate's deadline, and then for ten seconds at most.
pub(crate) async fn serve<S, B>(
    listener: TfoListener,
    service: impl Fn(AcceptInfo) -> S,
    stop: impl Future<Output = ()>,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE);
    // Who is silent on HTTP/2 is asked whether it is still there.
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(HEAD_PATIENCE);
    let builder = Arc::new(builder);
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let next = async || {
        let place = places.clone().acquire_owned().await;
        (listener.accept_next().await.0, place)
    };
    let answer = |stream: AcceptedStream, place| {
        let service = service(stream.info());
        let stream = Patient::new(stream, READ_PATIENCE).beginning_within(HEAD_PATIENCE);
        let (builder, watcher) = (builder.clone(), graceful.watcher());
        tokio::spawn(async move {
            // What a client does to its own connection is its own affair.
            let _ = watcher.watch(builder.serve_connection(TokioIo::new(stream), service)).await;
            drop(place);
        });
    };
    let mut stop = std::pin::pin!(stop);
    loop {
        let (stream, place) = tokio::select! {
            next = next() => next,
            () = &mut stop => break,
        };
        answer(stream, place);
    }
    // Whoever is in the kernel's queue has been told that there is a connection.
    let _ = timeout(QUEUE_PATIENCE, async {
        while let Ok((stream, place)) = timeout(QUEUE_PAUSE, next()).await {
            answer(stream, place);
        }
    })
    .await;
    let stats = listener.stats();
    drop(listener);
    stats.settled().await;
    let _ = timeout(END_PATIENCE, graceful.shutdown()).await;
}
