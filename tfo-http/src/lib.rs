//! The client: a hyper connector whose first flight rides in the SYN (TCP Fast Open, RFC 7413).

#![forbid(unsafe_code)]

#[cfg(feature = "client")]
pub mod client;
mod config;
mod connector;
mod error;
mod heads;
mod info;
#[cfg(test)]
mod matrix;
pub mod metrics;
mod parking;
pub mod path;
mod policy;
#[cfg(feature = "hickory")]
mod resolver;
mod stream;

#[cfg(feature = "client")]
pub use client::Client;
pub use config::Hedge;
pub use connector::{Resolve, TfoConnecting, TfoConnector, Warm};
pub use error::{ConnectError, ConnectErrorKind, connect_error, is_connect_error};
pub use info::{ConnInfo, Reason, SynOutcome};
pub use ipnet::IpNet;
pub use metrics::TfoMetrics;
pub use path::PathMemory;
pub use policy::{Ride, Rule, SynData};
#[cfg(feature = "hickory")]
pub use resolver::CachingResolver;
pub use stream::TfoStream;
#[doc(hidden)]
pub use stream::corked_flushes;
