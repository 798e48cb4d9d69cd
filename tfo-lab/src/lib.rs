//! A test network on the real kernel.

#![forbid(unsafe_code)]

pub mod syscalls;
