//! HTTP/2: h2's own server reads the flight, so that the rule sees what a server will see.

use std::collections::HashMap;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use http::request::Parts;
use tfo_core::first_flight::Stop;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::info::Reason;
use crate::policy::{Clearance, Ride};
use crate::stream::frames::{self, Frame, PREFACE};

pub(super) fn judge(flight: &[u8], mut rule: impl FnMut(&Parts) -> Ride) -> Clearance {
    let requests = requests(flight);
    let mut clearance = Clearance { early: 0, repeatable: true, safe: true, stop: None };
    let (mut last_stream, mut admitted) = (0, false);
    let mut at = PREFACE.len();
    while at < flight.len() {
        let stop = match frames::next(flight, at) {
            None => Some(Reason::NotReplaySafe(Stop::MalformedFrame)),
            // Of a new stream; on an old one they are trailers.
            Some(Frame { kind: frames::HEADERS, stream, .. }) if stream > last_stream => {
                last_stream = stream;
                match requests.get(&stream) {
                    Some(head) if clearance.admit(rule(head), at) => {
                        admitted = true;
                        None
                    }
                    Some(_) => clearance.stop,
                    None => Some(Reason::NotReplaySafe(Stop::MalformedRequest)),
                }
            }
            Some(Frame { kind, .. }) if frames::is_known(kind) => None,
            Some(_) => Some(Reason::NotReplaySafe(Stop::UnsafeFrame)),
        };
        if stop.is_some() {
            clearance.stop = stop;
            break;
        }
        // What is not there yet may ride as well, if it ever comes.
        at = frames::next(flight, at).map_or(at, |frame| frame.end.min(flight.len()));
    }
    // A beginning without a request gains nothing.
    clearance.early = if admitted || clearance.stop.is_none() { at } else { 0 };
    clearance
}

/// The heads in the flight, by their streams.
fn requests(flight: &[u8]) -> HashMap<u32, Parts> {
    let mut found = HashMap::new();
    let mut cx = Context::from_waker(Waker::noop());
    let mut handshake = pin!(h2::server::handshake(Wire { rest: flight.to_vec(), at: 0 }));
    let Poll::Ready(Ok(mut connection)) = handshake.as_mut().poll(&mut cx) else { return found };
    // Everything is there: what is not ready now will never be.
    while let Poll::Ready(Some(Ok((request, _)))) = connection.poll_accept(&mut cx) {
        let (head, body) = request.into_parts();
        found.insert(body.stream_id().into(), head);
    }
    found
}

/// A connection that has these bytes to read, and takes what is written.
struct Wire {
    rest: Vec<u8>,
    at: usize,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = self.rest.get(self.at..).unwrap_or_default();
        if rest.is_empty() {
            return Poll::Pending;
        }
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
