//! TCP Fast Open (RFC 7413) for Rust.

pub mod first_flight;
