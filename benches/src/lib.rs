//! What TCP Fast Open costs and what it saves: measured, told, and kept from growing.
//!
//! * `cargo run --profile dist -p benches --bin report`: measures, and writes `results.json` and a page.
//! * `cargo run --release -p benches --bin gate`: instructions per operation against committed numbers.

pub mod claims;
pub mod cost;
pub mod hostile;
pub mod instructions;
pub mod latency;
pub mod load;
pub mod machine;
pub mod markdown;
pub mod memory;
pub mod micro;
pub mod ops;
pub mod page;
mod plot;
pub mod process;
pub mod restart;
pub mod result;
pub mod run;
pub mod server;
mod servers;
pub mod stats;
pub mod tables;
