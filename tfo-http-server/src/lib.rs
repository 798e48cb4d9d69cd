//! The server: a TCP Fast Open listener whose accepted streams hold back what could be replayed.
//!
//! Nothing here yet: the listener and its replay gate stand on `tfo-core`, which comes first.
#![forbid(unsafe_code)]
