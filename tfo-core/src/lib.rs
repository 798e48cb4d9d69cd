//! TCP Fast Open (RFC 7413) for Rust: what the kernel offers, named as the kernel names it.
//!
//! * [`sockopt`]: the four socket options, on anything that is a socket.
//! * [`send_syn`] and [`send`]: the first flight, with and without `MSG_FASTOPEN`, vectored.
//! * [`TcpInfo`]: what really became of it, decoded from the bytes that the kernel returned.
//! * [`Support`]: what this host, namespace and kernel can do, with the reason and the fix.
//! * [`Counters`]: the kernel's `TCPFastOpen*` counters, by name, and their differences.
//! * [`FirstFlight`]: how many leading bytes of a first flight a server may safely see twice.
//!
//! No runtime and no HTTP stack is needed: this crate works with `std`, `socket2` and `tokio`
//! sockets alike. It is the only crate of the project that contains `unsafe`.
//!
//! On systems other than Linux everything compiles, and every kernel call answers with an error for
//! which [`Error::is_unsupported`] is true.
//!
//! # A ride by hand
//!
//! ```no_run
//! use std::io::{IoSlice, Read, Write};
//! use tfo_core::{SynSend, TcpInfo, send_syn};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = "192.0.2.1:80".parse()?;
//! let request = b"GET / HTTP/1.1\r\nHost: 192.0.2.1\r\nConnection: close\r\n\r\n";
//! let mut socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
//! let sent = match send_syn(&socket, &server, &[IoSlice::new(request)])? {
//!     SynSend::Data(bytes) => bytes, // a cookie is cached: these bytes are in the SYN
//!     _ => 0, // no cookie: an ordinary handshake has begun, and its SYN asks for one
//! };
//! socket.write_all(&request[sent..])?; // waits for the handshake
//! let mut answer = Vec::new();
//! socket.read_to_end(&mut answer)?;
//! println!("data in the SYN was acked: {:?}", TcpInfo::read(&socket)?.syn_data());
//! # Ok(())
//! # }
//! ```

mod accept;
mod counters;
mod error;
pub mod first_flight;
pub mod sockopt;
mod support;
mod syn;
mod sys;
mod tcp_info;

pub use accept::{accept, has_connection};
pub use counters::{Counters, CountersError};
pub use error::Error;
pub use first_flight::{Classifier, FirstFlight};
pub use support::{Ability, FastOpenBits, Host, KernelVersion, Problem, Severity, Side, Support, ThisHost};
pub use syn::{Connect, SynSend, connect, peek, recv_buf, send, send_empty_syn, send_syn};
pub use sys::AsSocket;
pub use tcp_info::{ClientFail, TcpInfo, TcpOptions, TcpState};
