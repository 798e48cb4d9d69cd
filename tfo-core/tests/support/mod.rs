//! What the tests of the classifier share.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

pub mod dice;
pub mod generate;
pub mod hpack;
pub mod lenient;
pub mod oracle;
