//! HTTP/2 frames (RFC 9113 4.1), as far as a first flight needs them: where each begins, what it is, where it ends.
//!
//! For whoever looks at the bytes of a connection before an HTTP/2 library does. Nothing is checked here: what a frame
//! may hold, and whether it may come, is the classifier's to say.

/// RFC 9113 3.4: what a client sends first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's head.
pub const HEAD: usize = 9;

/// Type of a frame: a part of a body (RFC 9113 6.1).
pub const DATA: u8 = 0;
/// A request, or trailers (RFC 9113 6.2).
pub const HEADERS: u8 = 1;
/// A stream's priority, deprecated (RFC 9113 6.3).
pub const PRIORITY: u8 = 2;
/// The end of a stream that failed (RFC 9113 6.4).
pub const RST_STREAM: u8 = 3;
/// What the sender takes (RFC 9113 6.5).
pub const SETTINGS: u8 = 4;
/// A question for an echo, or the echo (RFC 9113 6.7).
pub const PING: u8 = 6;
/// The end of the connection is near (RFC 9113 6.8).
pub const GOAWAY: u8 = 7;
/// Leave to send more (RFC 9113 6.9).
pub const WINDOW_UPDATE: u8 = 8;
/// More of a header block (RFC 9113 6.10).
pub const CONTINUATION: u8 = 9;
/// A stream's priority (RFC 9218 7.1).
pub const PRIORITY_UPDATE: u8 = 16;

/// Flag of SETTINGS and PING: it answers one.
pub const ACK: u8 = 0x1;
/// Flag of DATA and HEADERS: the stream's last.
pub const END_STREAM: u8 = 0x1;
/// Flag of HEADERS and CONTINUATION: the header block ends here.
pub const END_HEADERS: u8 = 0x4;
/// Flag of DATA and HEADERS: there is padding.
pub const PADDED: u8 = 0x8;
/// Flag of HEADERS: there is a priority before the header block.
pub const WITH_PRIORITY: u8 = 0x20;

/// RFC 9113 4.1: the bit before the number of the stream.
pub(super) const RESERVED: u32 = 1 << 31;

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frame {
    /// Bytes of the payload, behind the head.
    pub len: usize,
    /// The type: [`HEADERS`], say.
    pub kind: u8,
    /// The flags; what each means, the type says.
    pub flags: u8,
    /// The stream; 0 is the connection. Without the reserved bit, which a receiver ignores.
    pub stream: u32,
}

impl Frame {
    /// The frame whose head begins at `at`; `None` if its head is not all there. Its payload may not be.
    ///
    /// ```
    /// use tfo_core::first_flight::frame::{self, Frame};
    ///
    /// let flight = [frame::PREFACE, &[0, 0, 0, frame::SETTINGS, 0, 0, 0, 0, 0]].concat();
    /// let settings = Frame::at(&flight, frame::PREFACE.len()).unwrap();
    /// assert_eq!((settings.kind, settings.end(frame::PREFACE.len())), (frame::SETTINGS, flight.len()));
    /// ```
    #[must_use]
    pub fn at(flight: &[u8], at: usize) -> Option<Self> {
        flight.get(at..)?.first_chunk().map(Self::parse)
    }

    /// Reads a head.
    #[must_use]
    pub const fn parse(head: &[u8; HEAD]) -> Self {
        let frame = Self::with_reserved_bit(head);
        Self { stream: frame.stream & !RESERVED, ..frame }
    }

    /// The same, with the reserved bit in the number of the stream.
    pub(super) const fn with_reserved_bit(head: &[u8; HEAD]) -> Self {
        let &[l0, l1, l2, kind, flags, s0, s1, s2, s3] = head;
        let len = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        Self { len, kind, flags, stream: u32::from_be_bytes([s0, s1, s2, s3]) }
    }

    /// Where the frame ends if it begins at `at`: where the next one does.
    #[must_use]
    pub const fn end(&self, at: usize) -> usize {
        at.saturating_add(HEAD + self.len)
    }

    /// Whether it has a flag.
    #[must_use]
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_the_standard_draws_it() {
        let bytes = [0xff, 0x01, 0x02, 0x03, HEADERS, 0x25, 0x80, 0, 1, 5, 0x82];
        let frame = Frame::at(&bytes, 1).unwrap();
        assert_eq!(frame, Frame { len: 0x01_0203, kind: HEADERS, flags: 0x25, stream: 0x105 });
        assert!(
            frame.has(END_STREAM) && frame.has(END_HEADERS) && frame.has(WITH_PRIORITY) && !frame.has(PADDED)
        );
        assert_eq!((frame.end(1), frame.end(usize::MAX)), (1 + 9 + 0x01_0203, usize::MAX));
        assert_eq!(
            [2, 3, 100, usize::MAX].map(|at| Frame::at(&bytes, at).is_some()),
            [true, false, false, false]
        );
    }
}
