//! How long a first flight that is flushed is held back: with HTTP/2, until there is a request in it.
//!
//! An HTTP/2 client flushes its preface and its settings when the connection is made, and the first
//! request a moment later: each flushed alone. Held back together they ride together. When a request
//! comes, the client writes it and flushes again, so nobody needs to be woken for it.

use std::time::{Duration, Instant};

use tfo_core::first_flight::frame::{self, Frame, PREFACE};

use crate::policy::SynData;

/// How long an HTTP/2 first flight waits for a request. It only passes where there is none yet: on a
/// connection that is made ahead.
pub(super) const PATIENCE: Duration = Duration::from_millis(20);

/// More does not fit into a SYN, whatever the path.
const SYN_FULL: usize = 1460;

/// What a first flight waits for, and how far it was read for that.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cork {
    /// Somebody has read since the last write, so it is not waiting for more to be written.
    pub(super) armed: bool,
    /// Where the first frame begins that was not read yet; 0: none was.
    at: usize,
    /// The stream of the first request, whose body is to come along.
    waits_for: Option<u32>,
    /// There is a request in it.
    drawn: bool,
    /// Until when it is waited for, once somebody has flushed.
    pub(super) until: Option<Instant>,
}

/// How many of a flight's flushes are held back: each is of so many leading bytes. For the benches.
#[doc(hidden)]
pub fn corked_flushes(flight: &[u8], flushes: &[usize], policy: &SynData) -> usize {
    let mut cork = Cork::default();
    flushes.iter().filter(|&&len| flight.get(..len).is_some_and(|begun| cork.holds(begun, policy))).count()
}

/// Whether a flight speaks HTTP/2.
pub(super) fn is_http2(flight: &[u8]) -> bool {
    flight.starts_with(PREFACE)
}

impl Cork {
    /// Whether the flight is to be held back for now. Each frame is looked at once.
    pub(super) fn holds(&mut self, flight: &[u8], policy: &SynData) -> bool {
        if self.drawn || flight.len() >= SYN_FULL || !is_http2(flight) {
            return false;
        }
        self.at = self.at.max(PREFACE.len());
        while let Some(next) = Frame::at(flight, self.at) {
            let end = next.end(self.at);
            if end > flight.len() {
                break;
            }
            self.at = end;
            let ends_head = matches!(next.kind, frame::HEADERS | frame::CONTINUATION);
            let ends_head = ends_head && next.has(frame::END_HEADERS);
            // CONTINUATION has no such flag: then nobody waits for the body.
            let ends_stream = next.kind != frame::HEADERS || next.has(frame::END_STREAM);
            self.drawn = match self.waits_for {
                Some(first) => {
                    let ends = matches!(next.kind, frame::DATA | frame::HEADERS);
                    ends && next.stream == first && next.has(frame::END_STREAM)
                }
                None => ends_head && ends_stream,
            };
            if self.drawn {
                return false;
            }
            if ends_head && self.waits_for.is_none() {
                // A body is worth waiting for if it may ride too.
                if !policy.may_take_bodies() || policy.judge(&flight[..end]).early < end {
                    self.drawn = true;
                    return false;
                }
                self.waits_for = Some(next.stream);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream], payload].concat()
    }

    /// Whether each beginning is held back: for how many bytes, when all are written one by one.
    fn held(policy: &SynData, parts: &[Vec<u8>]) -> usize {
        let flight = parts.concat();
        let mut cork = Cork::default();
        (1..=flight.len()).take_while(|len| *len < 24 || cork.holds(&flight[..*len], policy)).count()
    }

    #[test]
    fn it_holds_until_the_head_of_a_request_is_there() {
        let (safe, settings) = (SynData::SafeMethods, frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]));
        let get = frame(1, 5, 1, b"\x82\x84\x86");
        let (start, parts) = (24 + 15, [PREFACE.to_vec(), settings.clone(), get, b"more".to_vec()]);
        assert_eq!(held(&safe, &parts), start + 12 - 1);
        // A head in two frames.
        let (first, second) = (frame(1, 1, 1, b"\x82\x84"), frame(9, 4, 1, b"\x86"));
        assert_eq!(held(&safe, &[PREFACE.to_vec(), settings.clone(), first, second]), start + 11 + 10 - 1);
        // A request whose body would not ride is not waited for.
        let post = frame(1, 4, 1, b"\x83\x84\x86");
        let with_body = [PREFACE.to_vec(), settings, post, frame(0, 0, 1, b"bo"), frame(0, 1, 1, b"dy")];
        assert_eq!(held(&safe, &with_body), start + 12 - 1);
        assert_eq!(held(&SynData::IdempotentMethods, &with_body), start + 12 - 1);
        assert_eq!(held(&SynData::DangerEverything, &with_body), start + 12 + 11 + 11 - 1);
    }

    #[test]
    fn it_holds_nothing_else() {
        for flight in [&b"GET / HTTP/1.1\r\n"[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", b"\x16\x03\x01"] {
            assert!(!Cork::default().holds(flight, &SynData::SafeMethods));
        }
        let full = [PREFACE, &[0; SYN_FULL]].concat();
        assert!(!Cork::default().holds(&full, &SynData::SafeMethods));
        // A frame that never ends is released by the timer, or when the SYN is full.
        let endless = [PREFACE, b"\xff\xff\xff\x01\x05\0\0\0\x01"].concat();
        assert!(Cork::default().holds(&endless, &SynData::SafeMethods));
    }
}
