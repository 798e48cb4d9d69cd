use std::net::{SocketAddr, TcpStream};

use crate::Error;
use crate::sys::{self, AsSocket};

/// `accept4(SOCK_NONBLOCK | SOCK_CLOEXEC)`: the next connection of a listener, set not to block, and
/// where it comes from. Of a listener that blocks, it waits for one.
///
/// # Errors
///
/// As `accept(2)`; `WouldBlock` when there is none.
pub fn accept(listener: &impl AsSocket) -> Result<(TcpStream, SocketAddr), Error> {
    sys::accept(listener).map_err(|error| Error::new("accept4", error, &[]))
}

/// `poll(2)` without waiting: whether a connection waits to be accepted. Less than half of what an
/// `accept4` in vain costs, which makes a file before it finds nothing.
///
/// # Errors
///
/// As `poll(2)`; `Unsupported` elsewhere than on Linux.
pub fn has_connection(listener: &impl AsSocket) -> Result<bool, Error> {
    sys::has_input(listener).map_err(|error| Error::new("poll", error, &[]))
}
