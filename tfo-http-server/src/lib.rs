//! The server side of HTTP in the SYN: a TCP Fast Open listener whose accepted streams hold back
//! what could be replayed.
//!
//! With TCP Fast Open (RFC 7413) a request arrives in the first packet of the handshake, and is
//! answered one round trip earlier. The price: nobody has proven yet that the client holds the
//! address that it speaks from, and whoever recorded that packet can send it again. So this
//! listener's streams have a gate. What is replay-safe (a GET) is handed to the application at
//! once; everything else that came in the SYN (a POST, and what follows it) waits, unread in the
//! kernel, until the handshake is complete, and is thrown away if it never is. The gate is in the
//! stream itself, so it holds in every framework.
//!
//! * [`TfoListener`]: listens, accepts, and says whether TCP Fast Open will work here.
//! * [`AcceptedStream`]: the gate; an ordinary tokio stream to everyone else.
//! * [`Keys`]: what cookies are made with, shared between listeners and servers, and changed in time.
//! * [`AcceptInfo`]: what a handler may ask: did it ride, is it proven, wait until it is.
//! * `ProofLayer` (features `tower`, `hyper`): a route whose GET changes something asks for the proof.
//! * [`ListenerBuilder::replayable`]: an idempotent POST declines the gate. A rule of the listener, for
//!   HTTP/1: a layer cannot release what is still in the kernel.
//! * `Server` (feature `server`): serves hyper and tower services and axum routers, with limits and a graceful
//!   end.
//! * [`StatsHandle`]: what the listener has done, counted.
//!
//! # With hyper
//!
//! ```no_run
//! use std::convert::Infallible;
//!
//! use http_body_util::Full;
//! use hyper::body::{Bytes, Incoming};
//! use hyper::service::service_fn;
//! use hyper::{Request, Response};
//! use hyper_util::rt::{TokioExecutor, TokioIo};
//! use hyper_util::server::conn::auto;
//! use tfo_http_server::TfoListener;
//!
//! async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
//!     Ok(Response::new(Full::from("hello\n")))
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let listener = TfoListener::bind("0.0.0.0:8080".parse()?)?;
//!     println!("{}", listener.effect()); // whether it works here, and if not, the command that helps
//!     loop {
//!         let (stream, _) = listener.accept_next().await;
//!         tokio::spawn(async move {
//!             let builder = auto::Builder::new(TokioExecutor::new());
//!             let served = builder.serve_connection(TokioIo::new(stream), service_fn(hello)).await;
//!             if let Err(error) = served {
//!                 eprintln!("{error}");
//!             }
//!         });
//!     }
//! }
//! ```
//!
//! # With axum
//!
//! With the feature `axum`, [`TfoListener`] goes where `tokio::net::TcpListener` went:
//!
//! ```no_run
//! # #[cfg(feature = "axum")] mod example {
//! use axum::Router;
//! use axum::extract::ConnectInfo;
//! use axum::routing::get;
//! use tfo_http_server::{AcceptInfo, TfoListener};
//!
//! async fn hello(ConnectInfo(info): ConnectInfo<AcceptInfo>) -> String {
//!     format!("{} arrived in the SYN: {}\n", info.remote_addr(), info.arrived_in_syn())
//! }
//!
//! async fn transfer(ConnectInfo(info): ConnectInfo<AcceptInfo>) -> Result<&'static str, &'static str> {
//!     // Not needed after a POST: its bytes are only here because the connection is proven. It is
//!     // for a GET that changes something all the same.
//!     info.proven().await.map_err(|_| "try again")?;
//!     Ok("done\n")
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let listener = TfoListener::bind("0.0.0.0:8080".parse()?)?;
//!     println!("{}", listener.effect());
//!     let app = Router::new().route("/", get(hello)).route("/transfer", get(transfer));
//!     axum::serve(listener, app.into_make_service_with_connect_info::<AcceptInfo>()).await?;
//!     Ok(())
//! }
//! # }
//! ```
//!
//! For `ConnectInfo<SocketAddr>`, which axum gives only to its own listeners, wrap it:
//! `axum::serve(listener.tap_io(|_| {}), …)` with `axum::serve::ListenerExt`. For both, keep
//! `ConnectInfo<AcceptInfo>` and add the layer `axum::middleware::map_request(with_socket_addr)`.
//!
//! # With tonic
//!
//! With the feature `tonic`: `Server::builder().serve_with_incoming(service, listener.into_incoming())`,
//! and `request.extensions().get::<AcceptInfo>()` in a method. Every call is a POST, so one that came in
//! the SYN waits for the ACK.
//!
//! # Ending
//!
//! A request that is withheld has not been seen by the framework, whose graceful shutdown takes the
//! connection for an idle one. [`StatsHandle::settled`] waits for those: between the signal, and telling
//! hyper, axum or tonic.
//!
//! # The runtime
//!
//! A tokio runtime with IO and time, 1.54 or newer (its accepted sockets start readable, so what
//! came in the SYN is read without a turn of the reactor). Elsewhere than on Linux everything
//! compiles, and every connection is an ordinary one.
#![forbid(unsafe_code)]

#[cfg(feature = "axum")]
mod axum;
mod clock;
mod info;
pub mod keys;
mod listener;
mod outcome;
#[cfg(any(feature = "hyper", feature = "tower"))]
mod route;
#[cfg(feature = "server")]
pub mod server;
mod settle;
mod shared;
mod stats;
mod stream;
#[cfg(feature = "tonic")]
mod tonic;

#[cfg(feature = "axum")]
pub use crate::axum::with_socket_addr;
#[cfg(feature = "tonic")]
pub use crate::tonic::Incoming;
pub use info::AcceptInfo;
pub use keys::Keys;
pub use listener::{BindError, BindStep, Effect, ListenerBuilder, TfoListener};
pub use outcome::{AcceptOutcome, Disproven, PlainReason};
#[cfg(any(feature = "hyper", feature = "tower"))]
pub use route::{ProofFuture, ProofLayer, ProofService};
#[cfg(feature = "server")]
pub use server::Server;
pub use stats::{GateStats, LimitStats, ListenerStats, OutcomeStats, ProofStats, StatsHandle};
pub use stream::AcceptedStream;
pub use stream::replayable::EarlyRequest;
