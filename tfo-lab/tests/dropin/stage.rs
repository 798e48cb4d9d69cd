//! What a scenario stands on: a lab, a server that is scripted, and a connector that is watched.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::connect::{Connect, Connected, Connection};
use hyper_util::client::legacy::{Builder, Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tfo_lab::{Flow, Host, Lab};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tower_service::Service;

use crate::support::flows;
use crate::support::http::{Runtime, run};
use crate::support::subject::Subject;
use crate::support::tcp::{TcpServer, fetch_cookie};

pub(crate) const RTT: Duration = Duration::from_millis(4);
pub(crate) const EMPTY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// What a failed assertion about SYNs begins with: everything before it has passed.
pub(crate) const NOT_THESE: &str = "the SYNs are not these: ";

/// How a connection began, as the wire saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syn {
    /// Without TCP Fast Open.
    Plain,
    /// It asked for a cookie.
    AskedForCookie,
    /// Deferred; the first flight was not safe to repeat.
    DataLess,
    /// Deferred; data was in the SYN, and the server acked it.
    Rode,
    /// Deferred; data was in the SYN, and was not acked.
    NotAcked,
}

impl Syn {
    pub(crate) fn of(flow: &Flow) -> Self {
        match flow.syn().fast_open() {
            None => Self::Plain,
            Some(option) if option.is_request() => Self::AskedForCookie,
            Some(_) if flow.syn().payload().is_empty() => Self::DataLess,
            Some(_) if flow.request_delivered_in_syn() => Self::Rode,
            Some(_) => Self::NotAcked,
        }
    }
}

/// A client that has been at the server before, and has its cookies.
pub(crate) struct Stage<C> {
    pub(crate) lab: Lab,
    pub(crate) client: Host,
    pub(crate) server: Host,
    connector: C,
}

impl<C: Subject> Stage<C> {
    pub(crate) fn new() -> Self {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let (client, server) = (lab.host("client"), lab.host("server"));
        for addr in [server.addr(9), server.addr_v6(9)].into_iter().filter(|_| C::DEFERS) {
            let _warm = TcpServer::start(&server, addr, |_| async {});
            run(&client, Runtime::CurrentThread, fetch_cookie(addr));
        }
        Self { lab, client, server, connector: C::new() }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.addr(80)
    }

    pub(crate) fn uri(&self, path: impl Display) -> Uri {
        format!("http://{}{path}", self.addr()).parse().unwrap()
    }

    /// The connector as it is. Clones share the memory of paths.
    pub(crate) fn connector(&self) -> C {
        self.connector.clone()
    }

    pub(crate) fn watched(&self) -> Watched<C> {
        Watched::new(self.connector())
    }

    /// A server that gives every connection to a function.
    pub(crate) fn serve<F>(&self, handle: impl Fn(TcpStream) -> F + Send + 'static) -> TcpServer
    where
        F: Future<Output = ()> + Send + 'static,
    {
        TcpServer::start(&self.server, self.addr(), handle)
    }

    pub(crate) fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        run(&self.client, Runtime::CurrentThread, work)
    }

    /// The connections to the server so far.
    pub(crate) fn flows(&self) -> Vec<Flow> {
        flows(&self.lab, 80)
    }

    /// Exactly these connections were made to the server: with TCP Fast Open in this way, else plain.
    pub(crate) fn shows(&self, expected: &[Syn]) {
        let seen: Vec<_> = self.flows().iter().map(Syn::of).collect();
        let expected: Vec<_> = expected.iter().map(|syn| if C::DEFERS { *syn } else { Syn::Plain }).collect();
        assert!(seen == expected, "{NOT_THESE}{expected:?}, but {seen:?}\n{}", self.lab.tap().ladder());
    }
}

pub(crate) type PlainBody = Full<Bytes>;

pub(crate) fn builder() -> Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_timer(TokioTimer::new()).timer(TokioTimer::new());
    builder
}

pub(crate) fn client<C: Connect + Clone>(connector: C) -> Client<C, PlainBody> {
    builder().build(connector)
}

pub(crate) fn request(uri: &Uri) -> Request<PlainBody> {
    Request::get(uri.clone()).body(Full::default()).unwrap()
}

/// A response with its whole body.
pub(crate) async fn send<C: Connect + Clone + Send + Sync + 'static>(
    client: &Client<C, PlainBody>,
    request: Request<PlainBody>,
) -> Result<Response<Bytes>, Error> {
    let (head, body) = client.request(request).await?.into_parts();
    let body: Incoming = body;
    let body = body.collect().await.unwrap().to_bytes();
    // The connection goes back to the pool in a task of its own.
    settle().await;
    Ok(Response::from_parts(head, body))
}

pub(crate) async fn get<C: Connect + Clone + Send + Sync + 'static>(
    client: &Client<C, PlainBody>,
    uri: &Uri,
) -> Bytes {
    send(client, request(uri)).await.unwrap().into_body()
}

/// Lets other tasks of the same thread run.
pub(crate) async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

/// Not longer than a patient person would wait.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), what).await.expect("it does not hang")
}

/// A request's head; `None` at the end of the connection.
pub(crate) async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Answers every request with its own head.
pub(crate) async fn mirror(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    while let Some(head) = head(&mut stream).await {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Answers one request, and waits for the client to end the connection.
pub(crate) async fn answer_once(mut stream: TcpStream, answer: impl AsRef<[u8]>) {
    let _ = head(&mut stream).await;
    let _ = stream.write_all(answer.as_ref()).await;
    let _ = stream.read(&mut [0; 1]).await;
}

/// A connector that counts, delays and marks, around the one under test.
#[derive(Clone, Debug)]
pub(crate) struct Watched<C> {
    connector: C,
    pub(crate) log: Arc<Log>,
    proxy: bool,
    negotiates_h2: bool,
}

/// What has become of a connector's streams.
#[derive(Debug, Default)]
pub(crate) struct Log {
    connects: AtomicUsize,
    drops: AtomicUsize,
    dropped: Notify,
    delays: Mutex<VecDeque<Duration>>,
    holds_ends: AtomicBool,
    ends_held: AtomicUsize,
}

impl Log {
    pub(crate) fn connects(&self) -> usize {
        self.connects.load(Ordering::SeqCst)
    }

    pub(crate) fn drops(&self) -> usize {
        self.drops.load(Ordering::SeqCst)
    }

    /// Waits until so many streams were dropped.
    pub(crate) async fn dropped(&self, count: usize) {
        soon(async {
            while self.drops() < count {
                let _ = timeout(Duration::from_millis(20), self.dropped.notified()).await;
            }
        })
        .await;
    }

    /// The next connects begin so much later.
    pub(crate) fn delay(&self, delays: impl IntoIterator<Item = Duration>) {
        self.delays().extend(delays);
    }

    /// Whether ends of streams are held back: they can be read later.
    pub(crate) fn hold_ends(&self, hold: bool) {
        self.holds_ends.store(hold, Ordering::SeqCst);
    }

    /// Waits until an end has come and was held back.
    pub(crate) async fn end_held(&self) {
        soon(async {
            while self.ends_held.load(Ordering::SeqCst) == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    fn delays(&self) -> MutexGuard<'_, VecDeque<Duration>> {
        self.delays.lock().unwrap()
    }
}

impl<C> Watched<C> {
    pub(crate) fn new(connector: C) -> Self {
        Self { connector, log: Arc::default(), proxy: false, negotiates_h2: false }
    }

    /// As if it went to a proxy.
    pub(crate) fn proxied(mut self) -> Self {
        self.proxy = true;
        self
    }

    /// As if TLS had negotiated HTTP/2.
    pub(crate) fn negotiated_h2(mut self) -> Self {
        self.negotiates_h2 = true;
        self
    }
}

impl<C: Subject> Service<Uri> for Watched<C> {
    type Response = WatchedIo<C::Response>;
    type Error = C::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.connector.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        self.log.connects.fetch_add(1, Ordering::SeqCst);
        let (delay, connecting) = (self.log.delays().pop_front(), self.connector.call(uri));
        let (log, proxy, negotiates_h2) = (self.log.clone(), self.proxy, self.negotiates_h2);
        Box::pin(async move {
            if let Some(delay) = delay {
                sleep(delay).await;
            }
            Ok(WatchedIo { io: connecting.await?, log, proxy, negotiates_h2, ended: false })
        })
    }
}

pub(crate) struct WatchedIo<T> {
    pub(crate) io: T,
    log: Arc<Log>,
    proxy: bool,
    negotiates_h2: bool,
    ended: bool,
}

impl<T: Connection> Connection for WatchedIo<T> {
    fn connected(&self) -> Connected {
        let connected = self.io.connected().proxy(self.proxy);
        if self.negotiates_h2 { connected.negotiated_h2() } else { connected }
    }
}

impl<T: Read + Unpin> Read for WatchedIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let held = self.log.holds_ends.load(Ordering::SeqCst);
        if !held || buffer.remaining() == 0 {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        if self.ended {
            return Poll::Pending;
        }
        // One byte tells data from the end.
        let mut bytes = [0; 1];
        let mut one = hyper::rt::ReadBuf::new(&mut bytes);
        match Pin::new(&mut self.io).poll_read(cx, one.unfilled()) {
            Poll::Ready(Ok(())) if one.filled().is_empty() => {
                self.ended = true;
                self.log.ends_held.fetch_add(1, Ordering::SeqCst);
                Poll::Pending
            }
            Poll::Ready(Ok(())) => {
                buffer.put_slice(one.filled());
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

impl<T: Write + Unpin> Write for WatchedIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }
}

impl<T> Drop for WatchedIo<T> {
    fn drop(&mut self) {
        self.log.drops.fetch_add(1, Ordering::SeqCst);
        self.log.dropped.notify_waiters();
    }
}
