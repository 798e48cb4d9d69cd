//! See the files beside `src`: each is a program of its own.

/// The README's code, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
