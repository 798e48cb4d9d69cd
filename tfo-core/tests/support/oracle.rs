//! What real servers make of the bytes that the classifier lets through.
//!
//! hyper's HTTP/1 server, httparse, the h2 server and two servers that take anything read exactly `flight[..cut]`.
//! Every request that they would act on must be safe, and there must be no more of them than the classifier counted.

use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Body;
use hyper::service::service_fn;
use tfo_core::first_flight::{Classifier, Methods};

use super::lenient;

/// What a server saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// What it holds for safe.
    pub methods: Methods,
    /// How many requests it would have acted on.
    pub requests: usize,
    /// What was wrong with the first that was not safe.
    pub violation: Option<&'static str>,
    /// Whether a request asked to change the protocol.
    has_upgrade: bool,
}

impl Seen {
    pub fn by(methods: Methods) -> Self {
        Self { methods, ..Self::default() }
    }

    /// Whether a request with this method may be processed twice.
    pub fn allows(&self, method: &[u8]) -> bool {
        matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE") || self.allows_body(method)
    }

    /// Whether such a request may have a body.
    pub fn allows_body(&self, method: &[u8]) -> bool {
        self.methods == Methods::Idempotent && matches!(method, b"PUT" | b"DELETE")
    }

    /// Notes `what` as the first violation unless all `is_well`.
    pub fn require(&mut self, is_well: bool, what: &'static str) {
        if !is_well && self.violation.is_none() {
            self.violation = Some(what);
        }
    }

    fn request<B>(&mut self, request: &http::Request<B>, has_body: bool) {
        self.require(!self.has_upgrade, "behind an upgrade");
        self.requests += 1;
        let method = request.method().as_str().as_bytes();
        let may_have_body = self.allows_body(method);
        self.require(self.allows(method), "unsafe method");
        self.require(!has_body || may_have_body, "body");
        self.require(request.extensions().get::<h2::ext::Protocol>().is_none(), "extended CONNECT");
        for (name, value) in request.headers() {
            match name.as_str().replace('_', "-").as_str() {
                "x-http-method" | "x-http-method-override" | "x-method-override" => {
                    self.require(false, "method override");
                }
                "transfer-encoding" => self.require(false, "transfer encoding"),
                "content-length" => {
                    self.require(value.as_bytes() == b"0" || may_have_body, "content length");
                }
                "upgrade" => self.has_upgrade = true,
                _ => {}
            }
        }
    }
}

/// Classifies `flight` and shows the cut to the servers.
///
/// Returns what they saw; panics when any of them would act on a request that is not safe.
pub fn check(flight: &[u8]) -> Seen {
    check_by(Methods::Safe, flight)
}

/// The same, by other rules.
pub fn check_by(methods: Methods, flight: &[u8]) -> Seen {
    let rules = Classifier::new().methods(methods);
    let class = rules.classify(flight);
    let cut = flight.get(..class.cut()).expect("the cut is inside the flight");
    let tell = || format!("{class:?}\n  flight {}\n  cut    {}", flight.escape_ascii(), cut.escape_ascii());
    assert_eq!(class.is_whole(), cut.len() == flight.len(), "{}", tell());
    let again = rules.classify(cut);
    assert!(again.is_whole(), "the cut itself is not whole: {again:?}\n{}", tell());
    assert_eq!(again.requests(), class.requests(), "{}", tell());

    let seen = see_by(methods, cut);
    assert_eq!(seen.violation, None, "{seen:?}\n{}", tell());
    assert!(seen.requests <= class.requests(), "a server saw more requests: {seen:?}\n{}", tell());
    let careless = see_all_by(methods, cut);
    assert_eq!(careless.violation, None, "lenient: {careless:?}\n{}", tell());
    // A lone CR at the end may be taken for the end of the head.
    let more = usize::from(!is_http2(cut) && cut.ends_with(b"\r"));
    assert!(class.requests() <= careless.requests, "lenient: {careless:?}\n{}", tell());
    assert!(careless.requests <= class.requests() + more, "lenient: {careless:?}\n{}", tell());
    // httparse knows no bodies.
    if !is_http2(cut) && methods == Methods::Safe {
        let parsed = httparse(cut);
        assert_eq!(parsed.violation, None, "httparse: {parsed:?}\n{}", tell());
        assert_eq!(parsed.requests, class.requests(), "httparse: {parsed:?}\n{}", tell());
    }
    seen
}

/// What the server of the protocol in question makes of `bytes`.
pub fn see(bytes: &[u8]) -> Seen {
    see_by(Methods::Safe, bytes)
}

fn see_by(methods: Methods, bytes: &[u8]) -> Seen {
    if is_http2(bytes) { http2(methods, bytes) } else { http1(methods, bytes) }
}

/// What a server that takes anything makes of `bytes`; of TLS nothing.
pub fn see_all(bytes: &[u8]) -> Seen {
    see_all_by(Methods::Safe, bytes)
}

fn see_all_by(methods: Methods, bytes: &[u8]) -> Seen {
    match bytes.first() {
        None | Some(0x16) => Seen::default(),
        _ if is_http2(bytes) => lenient::http2(methods, bytes),
        _ => lenient::http1(methods, bytes),
    }
}

fn is_http2(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
}

/// hyper's HTTP/1 server, which gets `bytes` and then the end of the stream.
fn http1(methods: Methods, bytes: &[u8]) -> Seen {
    let seen = RefCell::new(Seen::by(methods));
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        let has_body = !request.body().is_end_stream();
        seen.borrow_mut().request(&request, has_body);
        async { Ok::<_, Infallible>(http::Response::new(Empty::<Bytes>::new())) }
    });
    let wire = Wire { rest: bytes, at_end: AtEnd::Eof, is_framed: false, is_paused: false };
    let mut server = hyper::server::conn::http1::Builder::new();
    server.half_close(true);
    let mut connection = pin!(server.serve_connection(wire, service));
    run(|cx| connection.as_mut().poll(cx).map(|_| ()));
    seen.into_inner()
}

/// The h2 server, which gets `bytes` frame by frame.
///
/// It forgets requests that it has not handed out when an error follows, so it may hand out after every frame.
fn http2(methods: Methods, bytes: &[u8]) -> Seen {
    let mut seen = Seen::by(methods);
    let wire = Wire { rest: bytes, at_end: AtEnd::Silence, is_framed: true, is_paused: false };
    let mut builder = h2::server::Builder::new();
    builder.enable_connect_protocol();
    let mut handshake = pin!(builder.handshake::<_, Bytes>(wire));
    let Some(Ok(mut connection)) = run(|cx| handshake.as_mut().poll(cx)) else {
        return seen;
    };
    while let Some(Some(Ok((request, mut respond)))) = run(|cx| connection.poll_accept(cx)) {
        seen.request(&request, !request.body().is_end_stream());
        // The stream may be gone already.
        let _ = respond.send_response(http::Response::new(()), true);
    }
    seen
}

/// httparse, in a loop: how many complete requests it finds, one behind the other.
fn httparse(mut bytes: &[u8]) -> Seen {
    let mut seen = Seen::default();
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 1024];
        let mut request = httparse::Request::new(&mut headers);
        let Ok(httparse::Status::Complete(len)) = request.parse(bytes) else {
            return seen;
        };
        seen.requests += 1;
        if !matches!(request.method, Some("GET" | "HEAD" | "OPTIONS" | "TRACE")) {
            seen.violation = Some("unsafe method");
        }
        bytes = &bytes[len..];
    }
}

/// Polls until there is a result, or nothing more will happen.
fn run<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    struct Flag(AtomicBool);
    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let flag = Arc::new(Flag(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&flag));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = poll(&mut cx) {
            return Some(value);
        }
        if !flag.0.swap(false, Ordering::Relaxed) {
            return None;
        }
    }
}

enum AtEnd {
    Eof,
    Silence,
}

/// A connection that has these bytes to read and takes all that is written.
struct Wire<'a> {
    rest: &'a [u8],
    at_end: AtEnd,
    /// Whether it pauses after every HTTP/2 frame.
    is_framed: bool,
    is_paused: bool,
}

impl<'a> Wire<'a> {
    fn next(&mut self, cx: &Context<'_>, room: usize) -> Poll<&'a [u8]> {
        if self.rest.is_empty() && matches!(self.at_end, AtEnd::Silence) {
            return Poll::Pending;
        }
        self.is_paused = self.is_framed && !self.is_paused;
        if self.is_paused {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let len = match self.rest {
            [b'P', ..] if is_http2(self.rest) => 24,
            [high, middle, low, _, _, _, _, _, _, ..] if self.is_framed => {
                9 + u32::from_be_bytes([0, *high, *middle, *low]) as usize
            }
            all => all.len(),
        };
        let (bytes, rest) = self.rest.split_at(len.min(room).min(self.rest.len()));
        self.rest = rest;
        Poll::Ready(bytes)
    }
}

impl hyper::rt::Read for Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.next(cx, buf.remaining()).map(|bytes| {
            buf.put_slice(bytes);
            Ok(())
        })
    }
}

impl hyper::rt::Write for Wire<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncRead for Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.next(cx, buf.remaining()).map(|bytes| {
            buf.put_slice(bytes);
            Ok(())
        })
    }
}

impl tokio::io::AsyncWrite for Wire<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
