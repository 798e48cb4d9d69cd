//! A server for short-lived HTTP: HTTP/1.1 and h2c behind the gate, with limits, and an end in order.

mod accept;
mod body;
mod builder;
mod connection;
mod control;
mod error;
#[cfg(unix)]
mod hand_over;
mod idle;
mod io;
mod kept;
mod limits;
mod progress;
#[cfg(feature = "prometheus")]
mod prometheus;
mod service;
mod stats;
mod timer;
mod watch;
mod window;

use std::fmt;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hyper_util::service::TowerToHyperService;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use control::{Context, Control, Stage, reached};

use crate::Effect;

pub use body::{BodyError, RequestBody};
pub use builder::ServerBuilder;
pub use connection::HttpService;
pub use control::ServerHandle;
pub use error::ServerError;
#[cfg(unix)]
pub use hand_over::HandOverError;
pub use limits::{Limits, LimitsError};
pub use progress::RequestRecord;
#[cfg(feature = "prometheus")]
pub use prometheus::CONTENT_TYPE as PROMETHEUS_CONTENT_TYPE;
pub use stats::{RefusedStats, ServerStats};

/// Serves HTTP/1.1 and HTTP/2 without TLS (h2c with prior knowledge, RFC 9113 3.3), told from each other by
/// the first bytes.
///
/// It listens from the moment it is made; connections wait in the kernel until it [serves](Self::serve).
/// Limits against slow and greedy clients are [on](Limits) unless changed. Handlers find the
/// [`AcceptInfo`](crate::AcceptInfo) in the request's extensions, with the feature `axum` as
/// `ConnectInfo<AcceptInfo>` too.
///
/// A worker with a thread of its own polls a connection where it has accepted it. Most are over then: they have
/// cost no task, no timer and no registration with the reactor. So it is with those that wait for their client's
/// next request, or its first (on Linux); only one whose handler, or whose client, has to be waited for in
/// the middle of something becomes a task.
///
/// ```no_run
/// use std::convert::Infallible;
///
/// use http_body_util::Full;
/// use hyper::body::Bytes;
/// use hyper::service::service_fn;
/// use hyper::{Request, Response};
/// use tfo_http_server::server::{RequestBody, Server};
///
/// async fn hello(_: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
///     Ok(Response::new(Full::from("hello\n")))
/// }
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let server = Server::builder().workers(2).bind("0.0.0.0:8080".parse()?)?;
///     println!("{}", server.effect()); // whether it works here, and if not, the command that helps
///     let ctrl_c = async { drop(tokio::signal::ctrl_c().await) };
///     server.shutdown_on(ctrl_c).serve(service_fn(hello)).await?;
///     Ok(())
/// }
/// ```
///
/// An axum router, or any other tower service:
///
/// ```no_run
/// # #[cfg(feature = "axum")] mod example {
/// use axum::{Router, routing::get};
/// use tfo_http_server::server::Server;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let app = Router::new().route("/", get("hello\n"));
/// Server::bind("0.0.0.0:8080".parse()?)?.serve_tower(app).await?;
/// # Ok(())
/// # }
/// # }
/// ```
#[must_use = "it does nothing unless it serves"]
pub struct Server {
    builder: ServerBuilder,
    listeners: Vec<TcpListener>,
    effect: Effect,
    address: SocketAddr,
    control: Arc<Control>,
    stop: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// How a server has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// Connections that were cut off at the [deadline](ServerBuilder::shutdown_deadline).
    pub cut_off: u64,
}

impl Server {
    /// Listens on `address` with all defaults: `Server::builder().bind(address)`.
    ///
    /// # Errors
    ///
    /// As [`ServerBuilder::bind`].
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with IO and time.
    pub fn bind(address: SocketAddr) -> Result<Self, ServerError> {
        Self::builder().bind(address)
    }

    /// The questions that a server answers before it listens.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }

    /// The address that it listens on, with the port that the system chose if it was asked for 0; the first,
    /// if it has inherited several.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Whether data in the SYN will really be taken; see [`TfoListener::effect`](crate::TfoListener::effect).
    pub fn effect(&self) -> &Effect {
        &self.effect
    }

    /// Tells it to end, and what it has done.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle(Arc::clone(&self.control))
    }

    /// Begins the graceful end when `signal` is ready: as [`ServerHandle::shutdown`].
    pub fn shutdown_on(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.stop = Some(Box::pin(signal));
        self
    }

    /// Serves a tower service, an axum `Router` for one. Each request has a clone of it.
    ///
    /// # Errors
    ///
    /// As [`serve`](Self::serve).
    pub async fn serve_tower<S>(self, service: S) -> Result<Ended, ServerError>
    where
        TowerToHyperService<S>: HttpService,
    {
        self.serve(TowerToHyperService::new(service)).await
    }

    /// Serves until it is told to end, and all connections are over, or the deadline has passed. Each
    /// connection has a clone of the service.
    ///
    /// Tells the service manager that it is ready (`NOTIFY_SOCKET`, sd_notify(3)) when it is.
    ///
    /// # Errors
    ///
    /// [`ServerError`]: a worker cannot be started, or has panicked.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it ends at once, as with a deadline of zero.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with IO and time.
    pub async fn serve<S: HttpService>(mut self, service: S) -> Result<Ended, ServerError> {
        let _cut_off = CutOff(Arc::clone(&self.control));
        let (alive, mut all_gone) = mpsc::channel(1);
        let stop = self.stop.take();
        let deadline = self.builder.deadline;
        let control = Arc::clone(&self.control);
        #[cfg(unix)]
        self.keep_sockets();
        let ended = self.start(&service, &alive)?;
        drop((service, alive));
        #[cfg(unix)]
        hand_over::tell_ready();
        let mut watch = control.watch();
        let stopped = async {
            match stop {
                Some(stop) => stop.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stopped => {}
            () = reached(&mut watch, Stage::Draining) => {}
            // Whether all went well, or a worker has failed.
            _ = all_gone.recv() => {}
        }
        control.advance(Stage::Draining);
        let in_time = timeout(deadline, all_gone.recv()).await.is_ok();
        let cut_off = if in_time { 0 } else { control.open() };
        control.advance(Stage::Ending);
        for worker in ended {
            // A worker that some handler keeps from ending is left behind.
            if let Ok(ended) = timeout(LAST_TURN, worker).await {
                ended.map_err(|_| ServerError::Panicked)?;
            }
        }
        Ok(Ended { cut_off })
    }

    /// For a successor.
    #[cfg(unix)]
    fn keep_sockets(&self) {
        let copies = self.listeners.iter().map_while(|listener| listener.try_clone().ok());
        *self.control.sockets() = copies.collect();
    }

    /// Starts all that accepts; each of the results is ready when its worker has ended.
    fn start<S: HttpService>(
        self,
        service: &S,
        alive: &mpsc::Sender<()>,
    ) -> Result<Vec<oneshot::Receiver<()>>, ServerError> {
        let Self { builder, listeners, control, .. } = self;
        let workers = builder.workers.unwrap_or(1);
        let mut ended = Vec::new();
        for (index, listeners) in share(listeners, workers)?.into_iter().enumerate() {
            let context = Arc::new(Context {
                limits: builder.limits,
                keep_alive: builder.keep_alive,
                half_close: builder.half_close,
                end_in_last_packet: builder.end_in_last_packet,
                counts: control.counts(index),
                control: Arc::clone(&control),
                on_request: builder.on_request.clone(),
            });
            let worker = Worker { builder: builder.clone(), listeners, context, alive: alive.clone() };
            let (done, when_done) = oneshot::channel();
            ended.push(when_done);
            if builder.workers.is_none() {
                let accepting = worker.listen(service)?;
                tokio::spawn(async move {
                    accepting.await;
                    let _ = done.send(());
                });
                continue;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(ServerError::Worker)?;
            let accepting = {
                let _inside = runtime.enter();
                worker.listen(service)?
            };
            let run = move || {
                // Not as the root future, which would cost two turns of the reactor for each event.
                let accepting = runtime.spawn(accepting);
                if runtime.block_on(accepting).is_ok() {
                    let _ = done.send(());
                }
            };
            thread::Builder::new()
                .name(format!("tfo-worker-{index}"))
                .spawn(run)
                .map_err(ServerError::Worker)?;
        }
        Ok(ended)
    }
}

/// How long a worker may take to drop what was cut off.
const LAST_TURN: Duration = Duration::from_secs(1);

/// One runtime's part of the server.
struct Worker {
    builder: ServerBuilder,
    listeners: Vec<TcpListener>,
    context: Arc<Context>,
    alive: mpsc::Sender<()>,
}

impl Worker {
    /// Registers the listeners with the runtime that this is called in. The future is ready when all of this
    /// worker is over.
    fn listen<S: HttpService>(
        self,
        service: &S,
    ) -> Result<impl Future<Output = ()> + Send + 'static, ServerError> {
        let Self { builder, listeners, context, alive } = self;
        let mut accepting = Vec::new();
        for listener in listeners {
            let listener = builder.each_listener().from_std(listener)?;
            context.control.add_listener(listener.stats());
            accepting.push((listener, service.clone()));
        }
        Ok(async move {
            // This worker's own: a runtime must not end before its connections.
            let (mine, mut all_gone) = mpsc::channel(1);
            for (listener, service) in accepting {
                tokio::spawn(accept::accept(listener, Arc::clone(&context), service, mine.clone()));
            }
            drop(mine);
            let _ = all_gone.recv().await;
            drop(alive);
        })
    }
}

/// Deals the listeners out to the workers; where there are fewer listeners, some are shared.
fn share(listeners: Vec<TcpListener>, workers: usize) -> Result<Vec<Vec<TcpListener>>, ServerError> {
    let mut shares: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    let count = listeners.len();
    for index in count..workers {
        let copy = listeners[index % count].try_clone().map_err(ServerError::Worker)?;
        shares[index].push(copy);
    }
    for (index, listener) in listeners.into_iter().enumerate() {
        shares[index % workers].push(listener);
    }
    Ok(shares)
}

/// Ends everything, if [`Server::serve`] is given up.
struct CutOff(Arc<Control>);

impl Drop for CutOff {
    fn drop(&mut self) {
        self.0.advance(Stage::Ending);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .field("builder", &self.builder)
            .finish_non_exhaustive()
    }
}
