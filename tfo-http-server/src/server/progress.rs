//! How far one connection is: what its stream, its service and its bodies tell each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::Wake;
use std::time::Duration;

use http::{Method, StatusCode, Uri, Version};
use tokio::time::Instant;

use super::control::Context;
use super::stats::Counts;
use super::window::Window;
use crate::AcceptInfo;

/// One connection.
pub(super) struct Progress {
    context: Arc<Context>,
    /// Requests that have begun.
    begun: AtomicU64,
    /// Requests whose answer is not complete, and streams.
    in_flight: AtomicU32,
    upgraded: AtomicBool,
    /// The last request of this connection has begun.
    last: AtomicBool,
    /// hyper closes it behind the answer that is under way.
    closing: AtomicBool,
    /// The kernel holds the end of the last answer, so that the FIN goes with it.
    held: AtomicBool,
    /// A body was not read to its end: something may be in the kernel.
    unread: AtomicBool,
    /// A part of a head has come.
    head: AtomicBool,
    /// Nobody would be woken: who has polled it looks what it waits for.
    polled_here: AtomicBool,
    /// It asks to be polled again, whether there is something to read or not.
    woken: AtomicBool,
    window: Window,
}

impl Progress {
    pub(super) fn new(context: Arc<Context>) -> Arc<Self> {
        Arc::new(Self {
            context,
            begun: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            upgraded: AtomicBool::new(false),
            last: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            held: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            head: AtomicBool::new(false),
            polled_here: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            window: Window::default(),
        })
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.context.counts
    }

    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Relaxed)
    }

    pub(super) fn window(&self) -> &Window {
        &self.window
    }

    /// Whether it is the client's turn to wait, or to take what it has asked for.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.load(Relaxed) > 0 || self.window.parts() > 0
    }

    /// Something has begun that is not over when its answer is: a stream of HTTP/2.
    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// It is over.
    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Relaxed)
    }

    pub(super) fn set_upgraded(&self) {
        self.upgraded.store(true, Relaxed);
    }

    /// Whether no further request is wanted.
    pub(super) fn is_last(&self) -> bool {
        self.last.load(Relaxed) || self.context.control.is_draining()
    }

    /// Whether hyper has all of the last answer: the end comes right behind what it writes.
    pub(super) fn is_complete(&self) -> bool {
        self.closing.load(Relaxed) && !self.is_busy()
    }

    pub(super) fn set_closing(&self, closing: bool) {
        self.closing.store(closing, Relaxed);
    }

    /// Whether the kernel holds the end of the last answer.
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Relaxed)
    }

    pub(super) fn set_held(&self, held: bool) {
        self.held.store(held, Relaxed);
    }

    /// Whether an HTTP/2 connection has brought enough. Between two requests, if there is such a time: there
    /// are clients that give up what is under way when they are told to bring no more.
    pub(super) fn is_enough(&self) -> bool {
        let most = self.context.limits.requests;
        let begun = self.begun();
        begun >= most && (!self.is_busy() || begun >= most.saturating_mul(2))
    }

    /// Whether an HTTP/2 client has been told to bring no more, and does not hear. What it sent before it
    /// could know is welcome.
    pub(super) fn is_too_much(&self) -> bool {
        let limits = &self.context.limits;
        self.begun() >= limits.requests.saturating_add(limits.streams.into()).saturating_mul(2)
    }

    pub(super) fn is_unread(&self) -> bool {
        self.unread.load(Relaxed)
    }

    pub(super) fn set_unread(&self) {
        self.unread.store(true, Relaxed);
    }

    /// Whether a part of a head has come.
    pub(super) fn has_head(&self) -> bool {
        self.head.load(Relaxed)
    }

    pub(super) fn set_head(&self, begun: bool) {
        self.head.store(begun, Relaxed);
    }

    pub(super) fn is_polled_here(&self) -> bool {
        self.polled_here.load(Relaxed)
    }

    pub(super) fn set_polled_here(&self, here: bool) {
        self.polled_here.store(here, Relaxed);
        if here {
            self.woken.store(false, Relaxed);
        }
    }

    /// Whether all that was asked for is answered, and taken by the kernel.
    pub(super) fn is_idle(&self) -> bool {
        self.begun() > 0
            && !self.is_busy()
            && !self.is_upgraded()
            && !self.is_unread()
            && !self.has_head()
            && !self.woken.load(Relaxed)
            && !self.window.is_blocked()
    }

    /// A request has come.
    pub(super) fn begin(self: &Arc<Self>, record: Option<Box<RequestRecord>>) -> InFlight {
        self.enter();
        if self.begun.fetch_add(1, Relaxed) + 1 >= self.context.limits.requests {
            self.last.store(true, Relaxed);
        }
        InFlight { progress: Arc::clone(self), record }
    }
}

/// For who is [polled here](Progress::is_polled_here): hyper wakes itself when it has had enough for one turn,
/// and more in its buffer.
impl Wake for Progress {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Relaxed);
    }
}

/// One request, from its head until its answer is complete or given up.
pub(super) struct InFlight {
    progress: Arc<Progress>,
    record: Option<Box<RequestRecord>>,
}

impl InFlight {
    pub(super) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    pub(super) fn on_status(&mut self, status: StatusCode) {
        self.progress.counts().on_status(status);
        if let Some(record) = &mut self.record {
            record.status = Some(status);
        }
    }

    pub(super) fn on_sent(&mut self, bytes: u64) {
        if let Some(record) = &mut self.record {
            record.body_bytes += bytes;
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.progress.leave();
        if let (Some(mut record), Some(log)) = (self.record.take(), &self.progress.context.on_request) {
            record.duration = record.begun.elapsed();
            log(&record);
        }
    }
}

/// One request that is over, for an access log: [`ServerBuilder::on_request`](super::ServerBuilder::on_request).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RequestRecord {
    /// The method.
    pub method: Method,
    /// What was asked for, as the client has written it.
    pub uri: Uri,
    /// HTTP/1.0, HTTP/1.1 or HTTP/2.
    pub version: Version,
    /// The status of the answer; `None` if there was none: the client had gone, or the service failed.
    pub status: Option<StatusCode>,
    /// Bytes of the answer's body that were handed to the connection.
    pub body_bytes: u64,
    /// From the head of the request until the end of the answer.
    pub duration: Duration,
    /// The connection.
    pub connection: AcceptInfo,
    begun: Instant,
}

impl RequestRecord {
    pub(super) fn new<B>(request: &http::Request<B>, connection: AcceptInfo) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            status: None,
            body_bytes: 0,
            duration: Duration::ZERO,
            connection,
            begun: Instant::now(),
        }
    }
}
