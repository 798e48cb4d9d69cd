//! HTTP/2 with prior knowledge (RFC 9113 3.3): frames, and the requests in them.

use super::frame::{
    ACK, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEAD, HEADERS, PADDED, PING, PREFACE, PRIORITY,
    PRIORITY_UPDATE, RESERVED, RST_STREAM, SETTINGS, WINDOW_UPDATE, WITH_PRIORITY,
};
use super::{Classifier, End, FirstFlight, Methods, Protocol, Stop, hpack};

/// Classifies a flight that starts with the preface.
pub(super) fn classify(flight: &[u8], rules: &Classifier) -> FirstFlight {
    let mut connection = Connection::default();
    let mut rest = flight.get(PREFACE.len()..).unwrap_or_default();
    let stop = loop {
        if rest.is_empty() {
            break None;
        }
        match connection.frame(rest, rules) {
            Ok(behind) => rest = behind,
            Err(End::Unfinished) => {
                rest = &[];
                break None;
            }
            Err(End::Unsafe(stop)) => break Some(stop),
        }
    };
    let cut = flight.len() - rest.len();
    match stop {
        None => FirstFlight::whole(Protocol::Http2, cut, connection.requests),
        Some(stop) => FirstFlight::stopped(Protocol::Http2, cut, connection.requests, stop),
    }
}

/// RFC 9113 4.2: the frame size that every endpoint takes. A larger one needs the server's SETTINGS.
const MAX_FRAME: usize = 1 << 14;

/// What the frames so far say about the next.
#[derive(Debug, Default)]
struct Connection {
    /// Whether there were SETTINGS.
    settled: bool,
    /// The stream of the last request.
    last_stream: u32,
    /// The streams whose request has a body to come, one bit each: stream 1 is the lowest. Those behind the 64th have
    /// no bit, and may have no body.
    open: u64,
    requests: usize,
    table: hpack::Table,
}

impl Connection {
    /// What follows the frame that `bytes` start with.
    fn frame<'a>(&mut self, bytes: &'a [u8], rules: &Classifier) -> Result<&'a [u8], End> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else {
            return Err(self.unfinished_head(bytes));
        };
        let head = Frame::checked(head)?;
        self.expects(head.kind)?;
        let (payload, behind) = rest.split_at(head.len.min(rest.len()));
        match head.kind {
            HEADERS => self.headers(&head, payload, rules)?,
            DATA => self.data(&head)?,
            _ => head.check_control(self.settled)?,
        }
        if payload.len() < head.len {
            return Err(End::Unfinished);
        }
        self.settled = true;
        Ok(behind)
    }

    /// What it means that a flight ends in the head of a frame: it is harmless if its type is known and all frames of
    /// that type are.
    fn unfinished_head(&self, bytes: &[u8]) -> End {
        match bytes {
            [_, _, _, HEADERS, ..] | [_] | [_, _] | [_, _, _] => End::Unsafe(Stop::MalformedFrame),
            [high, middle, low, kind, ..] => {
                let fits = u32::from_be_bytes([0, *high, *middle, *low]) as usize <= MAX_FRAME;
                match self.expects(*kind) {
                    Ok(()) if fits => End::Unfinished,
                    Ok(()) => End::Unsafe(Stop::MalformedFrame),
                    Err(end) => end,
                }
            }
            [] => End::Unfinished,
        }
    }

    /// Whether a frame of this type may come here at all.
    fn expects(&self, kind: u8) -> Result<(), End> {
        match kind {
            SETTINGS => Ok(()),
            // RFC 9113 3.4: the preface "MUST be followed by a SETTINGS frame".
            _ if !self.settled => Err(End::Unsafe(Stop::MalformedFrame)),
            HEADERS | PRIORITY | RST_STREAM | PING | GOAWAY | WINDOW_UPDATE | PRIORITY_UPDATE => Ok(()),
            DATA if self.open != 0 => Ok(()),
            DATA => Err(End::Unsafe(Stop::RequestBody)),
            // CONTINUATION belongs to a block that was not scanned, PUSH_PROMISE is not for clients, and what an
            // extension does is not known.
            _ => Err(End::Unsafe(Stop::UnsafeFrame)),
        }
    }

    /// RFC 9113 6.2: a request, or the beginning of one if the payload is shorter than the head says.
    fn headers(&mut self, head: &Frame, payload: &[u8], rules: &Classifier) -> Result<(), End> {
        // RFC 9113 5.1.1: streams of a client are odd, and each is "numerically greater than all streams" before.
        // On an open one these would be trailers.
        if head.stream.is_multiple_of(2) || head.stream <= self.last_stream {
            return Err(End::Unsafe(Stop::MalformedFrame));
        }
        let has_body = !head.has(END_STREAM);
        if has_body && rules.methods == Methods::Safe {
            return Err(End::Unsafe(Stop::RequestBody));
        }
        if !head.has(END_HEADERS) {
            return Err(End::Unsafe(Stop::UnsafeFrame));
        }
        let is_whole = payload.len() == head.len;
        match head.block(payload).and_then(|block| self.table.scan(block, rules)) {
            Ok(Some(method)) if has_body && !method.may_have_body => Err(End::Unsafe(Stop::RequestBody)),
            Ok(Some(_)) if is_whole => {
                if has_body {
                    self.open |= bit(head.stream).ok_or(End::Unsafe(Stop::RequestBody))?;
                }
                self.last_stream = head.stream;
                self.requests += 1;
                Ok(())
            }
            // Some servers take a default for what is missing.
            Ok(None) if is_whole => Err(End::Unsafe(Stop::MalformedRequest)),
            Err(End::Unfinished) if is_whole => Err(End::Unsafe(Stop::CompressedHeaders)),
            Ok(_) | Err(End::Unfinished) => Err(End::Unfinished),
            Err(end) => Err(end),
        }
    }
}

impl Connection {
    /// RFC 9113 6.1: a part of the body of a request that was let through.
    fn data(&mut self, head: &Frame) -> Result<(), End> {
        let bit = bit(head.stream).filter(|bit| self.open & bit != 0);
        let bit = bit.ok_or(End::Unsafe(Stop::RequestBody))?;
        if head.has(END_STREAM) {
            self.open &= !bit;
        }
        Ok(())
    }
}

/// The bit of a client's stream, if it has one.
fn bit(stream: u32) -> Option<u64> {
    1_u64.checked_shl(stream / 2).filter(|_| !stream.is_multiple_of(2))
}

impl Frame {
    fn checked(head: &[u8; HEAD]) -> Result<Self, End> {
        let frame = Self::with_reserved_bit(head);
        // RFC 9113 4.1: the reserved bit "MUST be ignored when receiving", so a peer may; nobody sends it.
        if frame.len > MAX_FRAME || frame.stream & RESERVED != 0 {
            return Err(End::Unsafe(Stop::MalformedFrame));
        }
        Ok(frame)
    }

    /// Checks a frame that is no request, by RFC 9113 6.3 to 6.9 and RFC 9218 7.1.
    fn check_control(&self, settled: bool) -> Result<(), End> {
        let is_ack = self.has(ACK);
        let fits = match self.kind {
            SETTINGS if is_ack => settled && self.len == 0 && self.stream == 0,
            SETTINGS => self.len.is_multiple_of(6) && self.stream == 0,
            PING => self.len == 8 && self.stream == 0,
            GOAWAY => self.len >= 8 && self.stream == 0,
            WINDOW_UPDATE => self.len == 4,
            PRIORITY_UPDATE => self.len >= 4 && self.stream == 0,
            PRIORITY => self.len == 5 && self.stream != 0,
            RST_STREAM => self.len == 4 && self.stream != 0,
            _ => false,
        };
        if fits { Ok(()) } else { Err(End::Unsafe(Stop::MalformedFrame)) }
    }

    /// The header block in the payload of HEADERS, as far as it is there.
    fn block<'a>(&self, payload: &'a [u8]) -> Result<&'a [u8], End> {
        let malformed = End::Unsafe(Stop::MalformedFrame);
        let mut front = usize::from(self.has(PADDED));
        let mut padding = 0;
        if self.len < front + if self.has(WITH_PRIORITY) { 5 } else { 0 } {
            return Err(malformed);
        }
        if self.has(PADDED) {
            padding = usize::from(*payload.first().ok_or(End::Unfinished)?);
        }
        if self.has(WITH_PRIORITY) {
            let dependency = payload.get(front..front + 4).ok_or(End::Unfinished)?;
            // RFC 7540 5.3.1: "A stream cannot depend on itself."
            let is_self =
                dependency.iter().zip(self.stream.to_be_bytes()).enumerate().all(|(at, (&byte, own))| {
                    let mask = if at == 0 { 0x7f } else { 0xff };
                    byte & mask == own
                });
            if is_self {
                return Err(malformed);
            }
            front += 5;
        }
        // RFC 9113 6.2: padding that exceeds what is left for the block is an error.
        let end = self.len.checked_sub(padding).filter(|&end| end >= front).ok_or(malformed)?;
        Ok(payload.get(front..end.min(payload.len())).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &[u8] = b"\x82\x84\x86\x41\x01h";

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn get(stream: u32) -> Vec<u8> {
        frame(HEADERS, END_STREAM | END_HEADERS, stream, GET)
    }

    /// Preface, SETTINGS and these frames.
    fn flight(frames: &[Vec<u8>]) -> Vec<u8> {
        [PREFACE, &frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]), &frames.concat()].concat()
    }

    /// The cut behind preface and SETTINGS, the requests, and the stop.
    fn classify(frames: &[Vec<u8>]) -> (usize, usize, Option<Stop>) {
        let flight = flight(frames);
        let seen = FirstFlight::classify(&flight);
        assert_eq!(seen.protocol(), Protocol::Http2);
        assert_eq!(seen.is_whole(), seen.cut() == flight.len());
        (seen.cut() - 39, seen.requests(), seen.stop())
    }

    #[test]
    fn the_preface_rides() {
        assert_eq!(FirstFlight::classify(PREFACE), FirstFlight::whole(Protocol::Http2, 24, 0));
        assert_eq!(FirstFlight::classify(&PREFACE[..23]).protocol(), Protocol::Unknown);
        assert_eq!(classify(&[]), (0, 0, None));
    }

    #[test]
    fn settings_come_first() {
        for first in
            [get(1), frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, ACK, 0, &[]), frame(SETTINGS, 0, 1, &[])]
        {
            let seen = FirstFlight::classify(&[PREFACE, &first].concat());
            assert_eq!(seen, FirstFlight::stopped(Protocol::Http2, 24, 0, Stop::MalformedFrame));
        }
    }

    #[test]
    fn control_frames_and_requests_ride() {
        let frames = [
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]),
            get(1),
            frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 7]),
            frame(PING, 0, 0, &[1; 8]),
            frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\x01u=1"),
            frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 5, &[&[2], GET, &[0, 0]].concat()),
            frame(HEADERS, END_STREAM | END_HEADERS | WITH_PRIORITY, 7, &[&[0x80, 0, 0, 1, 9], GET].concat()),
            frame(RST_STREAM, 0, 7, &[0, 0, 0, 8]),
            frame(SETTINGS, ACK, 0, &[]),
            frame(GOAWAY, 0, 0, &[0; 8]),
        ];
        let whole = flight(&frames);
        assert_eq!(FirstFlight::classify(&whole), FirstFlight::whole(Protocol::Http2, whole.len(), 3));
        // A beginning rides, but for the head of a request and what does not yet show its type.
        let mut start = 24;
        let lens = [vec![frame(SETTINGS, 0, 0, &[0; 6])], frames.to_vec()].concat();
        for frame in &lens {
            for len in 1..frame.len() {
                let cut = FirstFlight::classify(&whole[..start + len]).cut() - start;
                let is_hidden = len < if frame[3] == HEADERS { 9 } else { 4 };
                assert_eq!(cut, if is_hidden { 0 } else { len }, "{frame:?} {len}");
            }
            start += frame.len();
        }
    }

    #[test]
    fn what_is_not_a_safe_request_stops_the_cut() {
        let request = END_STREAM | END_HEADERS;
        let before = get(1).len();
        let cases = [
            (frame(HEADERS, request, 3, b"\x83\x84\x86"), Stop::UnsafeMethod),
            (frame(HEADERS, END_HEADERS, 3, GET), Stop::RequestBody),
            (frame(HEADERS, END_STREAM, 3, GET), Stop::UnsafeFrame),
            (frame(HEADERS, request, 1, GET), Stop::MalformedFrame),
            (frame(HEADERS, request, 2, GET), Stop::MalformedFrame),
            (frame(HEADERS, request, 0, GET), Stop::MalformedFrame),
            (frame(HEADERS, request, 0x8000_0003, GET), Stop::MalformedFrame),
            (frame(HEADERS, request, 3, b""), Stop::MalformedRequest),
            (frame(HEADERS, request, 3, b"\x84"), Stop::MalformedRequest),
            (frame(HEADERS, request, 3, b"\x82\x41\x05h"), Stop::CompressedHeaders),
            (frame(HEADERS, request | PADDED, 3, b""), Stop::MalformedFrame),
            (frame(HEADERS, request | PADDED, 3, b"\x02\x82"), Stop::MalformedFrame),
            (frame(HEADERS, request | PADDED, 3, b"\x01\x82"), Stop::MalformedRequest),
            (frame(HEADERS, request | WITH_PRIORITY, 3, b"\0\0\0\x03\0\x82"), Stop::MalformedFrame),
            (frame(HEADERS, request | WITH_PRIORITY, 3, b"\0\0\0\x01"), Stop::MalformedFrame),
            (frame(DATA, 0, 1, b""), Stop::RequestBody),
            (frame(5, 0, 1, b""), Stop::UnsafeFrame),
            (frame(9, END_HEADERS, 1, b""), Stop::UnsafeFrame),
            (frame(0xff, 0, 0, b""), Stop::UnsafeFrame),
            (frame(PING, 0, 0, &[0; MAX_FRAME + 1]), Stop::MalformedFrame),
            (frame(PING, 0, 0, &[0; 7]), Stop::MalformedFrame),
            (frame(GOAWAY, 0, 1, &[0; 8]), Stop::MalformedFrame),
            (frame(WINDOW_UPDATE, 0, 1, &[0; 3]), Stop::MalformedFrame),
            (frame(PRIORITY_UPDATE, 0, 1, &[0; 4]), Stop::MalformedFrame),
            (frame(PRIORITY, 0, 0, &[0; 5]), Stop::MalformedFrame),
            (frame(RST_STREAM, 0, 0, &[0; 4]), Stop::MalformedFrame),
            (frame(SETTINGS, 0, 0, &[0; 5]), Stop::MalformedFrame),
        ];
        for (second, stop) in cases {
            assert_eq!(classify(&[get(1), second.clone(), get(9)]), (before, 1, Some(stop)), "{second:x?}");
        }
    }

    #[test]
    fn idempotent_requests_ride_by_choice_with_their_bodies() {
        let rules = Classifier::new().methods(Methods::Idempotent);
        let put = b"\x02\x03PUT\x84\x86";
        let with_length = [&put[..], b"\x0f\x0d\x014"].concat();
        let data = |stream, flags| frame(DATA, flags, stream, b"body");
        let frames = [
            frame(HEADERS, END_HEADERS, 1, put),
            frame(HEADERS, END_HEADERS, 3, &with_length),
            data(1, 0),
            get(5),
            data(3, END_STREAM),
            data(1, END_STREAM),
            frame(HEADERS, END_HEADERS | END_STREAM, 7, b"\x02\x06DELETE"),
        ];
        let whole = flight(&frames);
        assert_eq!(rules.classify(&whole), FirstFlight::whole(Protocol::Http2, whole.len(), 4));
        assert_eq!(classify(&frames), (0, 0, Some(Stop::RequestBody)));
        for (last, stop) in [
            (data(1, 0), Stop::RequestBody),
            (data(5, 0), Stop::RequestBody),
            (data(0, 0), Stop::RequestBody),
            (data(9, 0), Stop::RequestBody),
            (frame(HEADERS, END_HEADERS, 9, GET), Stop::RequestBody),
            (frame(HEADERS, END_HEADERS, 9, b"\x83"), Stop::UnsafeMethod),
            (frame(HEADERS, END_HEADERS, 9, b"\x0f\x0d\x014\x02\x03PUT"), Stop::RequestBody),
            (frame(HEADERS, END_HEADERS, 9, b"\x02\x03PUT\x0f\x0d\x01x"), Stop::RequestBody),
            (frame(HEADERS, END_HEADERS | END_STREAM, 3, put), Stop::MalformedFrame),
            (frame(HEADERS, END_HEADERS, 129, put), Stop::RequestBody),
        ] {
            let more = [whole.clone(), last.clone()].concat();
            let seen = rules.classify(&more);
            assert_eq!((seen.cut(), seen.requests(), seen.stop()), (whole.len(), 4, Some(stop)), "{last:x?}");
        }
        assert_eq!((bit(1), bit(127), bit(129), bit(2)), (Some(1), Some(1 << 63), None, None));
    }

    #[test]
    fn the_beginning_of_an_unsafe_request_stops_the_cut() {
        let mut post = frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x83\x84\x86");
        for len in 10..post.len() {
            post.truncate(len);
            assert_eq!(classify(&[post.clone()]), (0, 0, Some(Stop::UnsafeMethod)));
        }
        assert_eq!(classify(&[frame(DATA, 0, 1, b"xyz")[..4].to_vec()]), (0, 0, Some(Stop::RequestBody)));
    }

    #[test]
    fn blocks_share_a_table() {
        let request = END_STREAM | END_HEADERS;
        let plain = frame(HEADERS, request, 1, b"\x82\x40\x01a\x01b");
        let by_index = frame(HEADERS, request, 3, b"\x82\xbe");
        assert_eq!(classify(&[plain.clone(), by_index.clone()]).1, 2);
        let telling = frame(HEADERS, request, 1, b"\x42\x04HEAD");
        assert_eq!(classify(&[telling.clone(), by_index]), (telling.len(), 1, Some(Stop::CompressedHeaders)));
        let post = frame(HEADERS, request, 3, b"\x7e\x04POST");
        assert_eq!(classify(&[plain.clone(), post.clone()]), (plain.len(), 1, Some(Stop::MalformedRequest)));
        assert_eq!(classify(&[telling.clone(), post]), (telling.len(), 1, Some(Stop::CompressedHeaders)));
    }
}
