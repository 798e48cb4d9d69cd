//! The client: a hyper connector whose first flight rides in the SYN (TCP Fast Open, RFC 7413).
//!
//! Nothing here yet: the connector and its lazy stream stand on `tfo-core`, which comes first.
#![forbid(unsafe_code)]
