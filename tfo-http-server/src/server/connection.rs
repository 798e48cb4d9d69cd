//! One connection: which HTTP it speaks, and hyper's connection behind it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};

use http::{Request, Response};
use http_body::Body;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tfo_core::first_flight::frame::PREFACE;

use super::body::RequestBody;
use super::control;
use super::idle::Idle;
use super::io::Io;
use super::progress::Progress;
use super::service::Served;
use super::stats::one;
use super::window::{Leftovers, Streams};
use crate::AcceptedStream;
use crate::shared::Shared;
use crate::stream::socket::Socket;

/// What an HTTP/1 connection may have in memory of what was read or is to be written, bytes: at least, where heads
/// may be larger, and at most, as hyper has it.
const BUFFER: (usize, usize) = (64 * 1024, 8 * 1024 + 400 * 1024);

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a [`Server`](super::Server) serves: a hyper service whose requests have a [`RequestBody`]. Implemented
/// by all that fit, such as `hyper::service::service_fn` of an async function; tower services and axum routers
/// go to [`serve_tower`](super::Server::serve_tower).
pub trait HttpService:
    Service<Request<RequestBody>, Response = Response<Self::Body>, Error: Into<BoxError>, Future: Send>
    + Clone
    + Send
    + 'static
{
    /// The body of the responses.
    type Body: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;
}

impl<S, B> HttpService for S
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Body = B;
}

type Http1<S> = http1::UpgradeableConnection<TokioIo<Io>, Served<S>>;
type Http2<S> = http2::Connection<TokioIo<Io>, Served<S>, Streams>;

/// A request that is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    First,
    Next,
}

pin_project_lite::pin_project! {
    /// Ready when it is over.
    pub(super) struct Connection<S: HttpService> {
        #[pin]
        state: State<S>,
        progress: Arc<Progress>,
        stream: Weak<Shared>,
        // Told to end.
        ending: bool,
        // Its first writes go together.
        corked: bool,
        leftovers: Leftovers,
    }
}

pin_project_lite::pin_project! {
    #[project = StateProj]
    enum State<S: HttpService> {
        // The first bytes do not tell yet. Taken when they do.
        Unknown { parts: Option<(Io, Served<S>)> },
        Http1 { #[pin] connection: Http1<S> },
        // Twice as large as the other.
        Http2 { connection: Pin<Box<Http2<S>>>, idle: Idle },
    }
}

impl<S: HttpService> Connection<S> {
    pub(super) fn new(stream: AcceptedStream, context: Arc<control::Context>, service: S) -> Self {
        let progress = Progress::new(context);
        let connection = stream.downgrade();
        let served = Served { service, progress: Arc::clone(&progress), connection: connection.clone() };
        let io = Io::new(stream, Arc::clone(&progress));
        Self {
            state: State::Unknown { parts: Some((io, served)) },
            progress,
            stream: connection,
            ending: false,
            corked: false,
            leftovers: Leftovers::default(),
        }
    }

    /// Whether it has not brought a request yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.progress.begun() == 0
    }

    /// Polls it for an owner who does not wait: what is pending [registers](Self::register) it, and is polled
    /// again by whoever waits.
    pub(super) fn poll_here(mut self: Pin<&mut Self>) -> Poll<()> {
        self.progress.set_polled_here(true);
        let waker = Waker::from(Arc::clone(&self.progress));
        let polled = self.as_mut().poll(&mut Context::from_waker(&waker));
        self.progress.set_polled_here(false);
        polled
    }

    /// Which request it waits for, if it waits for nothing else: not for a proof, which is nothing to read. And what
    /// comes of its socket.
    pub(super) fn with_waiting<T>(&self, work: impl FnOnce(&Socket) -> T) -> Option<(Wait, T)> {
        let wait = match &self.state {
            State::Http1 { .. } if self.progress.is_idle() => Wait::Next,
            State::Unknown { parts: Some((io, _)) } if io.front().is_empty() => Wait::First,
            _ => return None,
        };
        let stream = self.stream.upgrade()?;
        let state = stream.state();
        if state.is_unsettled() { None } else { Some((wait, work(state.socket.as_ref()?))) }
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.progress.is_upgraded()
    }

    /// From now on it may wait.
    pub(super) fn register(&self) {
        if let Some(stream) = self.stream.upgrade() {
            stream.register();
        }
    }

    /// The socket, as long as there is one.
    pub(super) fn with_socket<T>(&self, work: impl FnOnce(&mut Socket) -> T) -> Option<T> {
        with_socket(&self.stream, work)
    }

    /// Whether the gate withholds something of it, or it has not been read since. That it is proven is not
    /// enough: the kernel knows before the reader does.
    pub(super) fn is_withheld(&self) -> bool {
        is_withheld(&self.stream)
    }

    /// No further request is wanted. One that is under way is answered.
    pub(super) fn end(self: Pin<&mut Self>) {
        let mut this = self.project();
        *this.ending = true;
        match this.state.as_mut().project() {
            StateProj::Unknown { parts } => *parts = None,
            StateProj::Http1 { connection } => connection.graceful_shutdown(),
            StateProj::Http2 { connection, .. } => connection.as_mut().graceful_shutdown(),
        }
    }
}

impl<S: HttpService> Future for Connection<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut this = self.as_mut().project();
            let next = match this.state.as_mut().project() {
                StateProj::Http1 { connection } => {
                    let polled = connection.poll(cx);
                    // The close does not come right behind it.
                    if polled.is_pending() && this.progress.is_held() {
                        with_socket(this.stream, |socket| socket.uncork());
                        this.progress.set_held(false);
                    }
                    // What a client does to its own connection is its own affair.
                    return polled.map(|over| over.err().iter().for_each(|error| note(error, this.progress)));
                }
                StateProj::Http2 { connection, idle } => {
                    let polled = connection.as_mut().poll(cx);
                    if std::mem::take(this.corked) {
                        with_socket(this.stream, |socket| socket.uncork());
                    }
                    if polled.is_ready() || this.progress.is_too_much() {
                        return Poll::Ready(());
                    }
                    if this.progress.is_enough() && !*this.ending {
                        self.as_mut().end();
                        continue;
                    }
                    if idle.poll_late(this.progress, || is_withheld(this.stream), cx).is_ready() {
                        return Poll::Ready(());
                    }
                    return this.leftovers.poll_late(this.progress, cx);
                }
                StateProj::Unknown { parts } => {
                    let Some((io, _)) = parts else { return Poll::Ready(()) };
                    let Ok(http2) = ready!(poll_protocol(io, cx)) else { return Poll::Ready(()) };
                    let Some((mut io, served)) = parts.take() else { return Poll::Ready(()) };
                    io.http2 = http2;
                    // Settings and their acknowledgment, each in a packet of its own, take more of the first
                    // window than an answer that just fits has to spare.
                    *this.corked = http2 && with_socket(this.stream, |socket| socket.cork()) == Some(true);
                    State::begin(io, served)
                }
            };
            this.state.set(next);
        }
    }
}

impl<S: HttpService> State<S> {
    fn begin(io: Io, served: Served<S>) -> Self {
        let progress = Arc::clone(&served.progress);
        let context = progress.context();
        let limits = &context.limits;
        if io.http2 {
            one(&context.counts.http2);
            let idle = Idle::new(io.accepted);
            let size = u32::try_from(limits.header_size).unwrap_or(u32::MAX);
            let connection = http2::Builder::new(Streams(Arc::clone(&progress)))
                .max_header_list_size(size)
                .max_concurrent_streams(limits.streams)
                .serve_connection(TokioIo::new(io), served);
            return Self::Http2 { connection: Box::pin(connection), idle };
        }
        one(&context.counts.http1);
        let connection = http1::Builder::new()
            .keep_alive(context.keep_alive)
            .half_close(context.half_close)
            .max_header_size(limits.header_size)
            .max_buf_size(limits.header_size.clamp(BUFFER.0, BUFFER.1))
            .serve_connection(TokioIo::new(io), served)
            .with_upgrades();
        Self::Http1 { connection }
    }
}

/// Counts what hyper has refused on its own.
fn note(error: &hyper::Error, progress: &Progress) {
    let counts = progress.counts();
    if error.is_parse_too_large() {
        one(&counts.header_size);
    } else if error.is_parse() {
        one(&counts.malformed);
    }
}

fn with_socket<T>(stream: &Weak<Shared>, work: impl FnOnce(&mut Socket) -> T) -> Option<T> {
    stream.upgrade()?.state().socket.as_mut().map(work)
}

fn is_withheld(stream: &Weak<Shared>) -> bool {
    stream.upgrade().is_some_and(|stream| stream.state().is_withheld())
}

/// Whether it is HTTP/2: known from the bytes that are read anyway.
fn poll_protocol(io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
    loop {
        let read = ready!(io.poll_front(cx))?;
        let front = io.front();
        let length = front.len().min(PREFACE.len());
        if front[..length] != PREFACE[..length] {
            return Poll::Ready(Ok(false));
        }
        if length == PREFACE.len() {
            return Poll::Ready(Ok(true));
        }
        // Too little for HTTP/2; hyper says what it is to HTTP/1.
        if read == 0 {
            return Poll::Ready(if length == 0 {
                Err(io::ErrorKind::UnexpectedEof.into())
            } else {
                Ok(false)
            });
        }
    }
}
