//! The `tfo` command: requests in the SYN from the shell.
//!
//! Nothing here yet: the command comes with the connector and the listener.
#![forbid(unsafe_code)]
