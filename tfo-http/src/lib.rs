//! The client: a hyper connector whose first flight rides in the SYN (TCP Fast Open, RFC 7413).

#![forbid(unsafe_code)]

mod config;
mod connector;
mod error;
mod heads;
mod info;
#[cfg(test)]
mod matrix;
pub mod path;
mod policy;
mod stream;

pub use config::Hedge;
pub use connector::{Resolve, TfoConnecting, TfoConnector, Warm};
pub use error::{ConnectError, ConnectErrorKind, connect_error, is_connect_error};
pub use info::{ConnInfo, Reason, SynOutcome};
pub use ipnet::IpNet;
pub use path::PathMemory;
pub use policy::{Ride, Rule, SynData};
pub use stream::TfoStream;
