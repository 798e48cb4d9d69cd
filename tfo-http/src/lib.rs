//! The client: a hyper connector whose first flight rides in the SYN (TCP Fast Open, RFC 7413).

#![forbid(unsafe_code)]

#[cfg(feature = "client")]
pub mod client;
mod config;
mod connector;
mod error;
mod info;
pub mod metrics;
pub mod path;
#[cfg(feature = "hickory")]
mod resolver;
mod stream;

#[cfg(feature = "client")]
pub use client::Client;
pub use config::{Hedge, SynData};
pub use connector::{Resolve, TfoConnecting, TfoConnector};
pub use error::{ConnectError, ConnectErrorKind, connect_error, is_connect_error};
pub use info::{ConnInfo, Reason, SynOutcome};
pub use metrics::TfoMetrics;
pub use path::PathMemory;
#[cfg(feature = "hickory")]
pub use resolver::CachingResolver;
pub use stream::TfoStream;
