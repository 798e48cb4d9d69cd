//! HTTP/2: h2's own server reads the flight, so that the rule sees what a server will see.

use std::collections::HashMap;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use http::request::Parts;
use tfo_core::first_flight::Stop;
use tfo_core::first_flight::frame::{self, Frame, PREFACE};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::info::Reason;
use crate::policy::{Clearance, Ride};

pub(super) fn judge(flight: &[u8], mut rule: impl FnMut(&Parts) -> Ride) -> Clearance {
    let requests = requests(flight);
    let mut clearance = Clearance { early: 0, repeatable: true, safe: true, stop: None };
    let (mut last_stream, mut admitted) = (0, false);
    let mut at = PREFACE.len();
    while at < flight.len() {
        let Some(next) = Frame::at(flight, at) else {
            clearance.stop = Some(Reason::NotReplaySafe(Stop::MalformedFrame));
            break;
        };
        let stop = match next.kind {
            // Of a new stream; on an old one they are trailers.
            frame::HEADERS if next.stream > last_stream => {
                last_stream = next.stream;
                match requests.get(&next.stream) {
                    Some(head) if clearance.admit(rule(head), at) => {
                        admitted = true;
                        None
                    }
                    Some(_) => clearance.stop,
                    None => Some(Reason::NotReplaySafe(Stop::MalformedRequest)),
                }
            }
            kind if is_known(kind) => None,
            _ => Some(Reason::NotReplaySafe(Stop::UnsafeFrame)),
        };
        if stop.is_some() {
            clearance.stop = stop;
            break;
        }
        // What is not there yet may ride as well, if it ever comes.
        at = next.end(at).min(flight.len());
    }
    // A beginning without a request gains nothing.
    clearance.early = if admitted || clearance.stop.is_none() { at } else { 0 };
    clearance
}

/// Whether a frame of this type does nothing but what the RFCs say: all but PUSH_PROMISE, which is
/// not for clients, and extensions.
fn is_known(kind: u8) -> bool {
    matches!(kind, frame::DATA..=frame::SETTINGS | frame::PING..=frame::CONTINUATION | frame::PRIORITY_UPDATE)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream], payload].concat()
    }

    /// A request for a path of two bytes.
    fn request(stream: u8, flags: u8, method: u8, path: &[u8; 2]) -> Vec<u8> {
        let block = [&[method, 0x86, 0x41, 1, b'h', 0x04, 2], &path[..]].concat();
        frame(frame::HEADERS, flags, stream, &block)
    }

    /// Where the cut is, counted in frames, what the rule was asked, and the stop.
    fn judged(parts: &[Vec<u8>]) -> (usize, Vec<String>, Option<Reason>) {
        let start = [PREFACE, &frame(4, 0, 0, &[])].concat();
        let mut asked = Vec::new();
        let clearance = judge(&[start.clone(), parts.concat()].concat(), |head| {
            asked.push(format!("{} {}", head.method, head.uri.path()));
            if head.uri.path() == "/n" { Ride::No } else { Ride::Repeatable }
        });
        let mut end = start.len();
        let mut cut = usize::from(clearance.early >= end) * 100;
        for (at, part) in parts.iter().enumerate() {
            end += part.len();
            cut = if clearance.early >= end { at + 1 } else { cut };
        }
        (cut, asked, clearance.stop)
    }

    const GET: u8 = 0x82;
    const POST: u8 = 0x83;
    const OPEN: u8 = frame::END_HEADERS;
    const WHOLE: u8 = frame::END_HEADERS | frame::END_STREAM;

    #[test]
    fn every_request_is_asked_about_in_its_turn() {
        let call = [request(1, OPEN, POST, b"/a"), frame(frame::DATA, 1, 1, b"body")];
        assert_eq!(judged(&call), (2, vec!["POST /a".to_owned()], None));
        let more = [&call[..], &[request(3, WHOLE, GET, b"/n"), request(5, WHOLE, GET, b"/b")]].concat();
        let asked = vec!["POST /a".to_owned(), "GET /n".to_owned()];
        assert_eq!(judged(&more), (2, asked, Some(Reason::ByRule)));
        let refused = [request(1, OPEN, POST, b"/n"), frame(frame::DATA, 1, 1, b"body")];
        assert_eq!(judged(&refused), (0, vec!["POST /n".to_owned()], Some(Reason::ByRule)));
        assert_eq!(judged(&[]), (100, vec![], None), "furniture may ride");
    }

    /// h2 forgets what it has not handed out when an error follows: then nothing rides.
    #[test]
    fn what_a_server_would_not_read_does_not_ride() {
        let first = request(1, WHOLE, GET, b"/a");
        for (second, cut) in [
            (request(4, WHOLE, GET, b"/b"), 0),
            (frame(frame::HEADERS, WHOLE, 3, b"\xff\xff\xff"), 0),
            (frame(5, 4, 1, b""), 0),
            (frame(0xfa, 0, 0, b"what"), 1),
            (request(3, WHOLE, GET, b"/b")[..15].to_vec(), 1),
            (request(3, WHOLE, GET, b"/b")[..5].to_vec(), 1),
        ] {
            let (seen, asked, stop) = judged(&[first.clone(), second.clone()]);
            assert_eq!((seen, asked.len()), (cut, cut), "{second:x?}");
            assert!(matches!(stop, Some(Reason::NotReplaySafe(_))), "{second:x?}: {stop:?}");
        }
    }
}
