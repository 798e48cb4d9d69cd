//! The frames of an HTTP/2 first flight, as far as anybody here needs to know them.

/// RFC 9113 section 3.4: what a client sends first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// RFC 9113 section 6 and RFC 9218 section 7.1.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;

/// The head of a frame, and where the frame ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    /// May lie behind the end of the flight.
    pub(crate) end: usize,
}

/// The frame that begins at `at`; `None` if its head is not there.
pub(crate) fn next(flight: &[u8], at: usize) -> Option<Frame> {
    let head = flight.get(at..at.checked_add(9)?)?;
    let &[high, middle, low, kind, flags, s0, s1, s2, s3] = head else { return None };
    let len = u32::from_be_bytes([0, high, middle, low]) as usize;
    Some(Frame { kind, flags, stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]), end: at + 9 + len })
}

/// Whether a frame of this type does nothing but what the RFCs say: all but PUSH_PROMISE, which is
/// not for clients, and extensions.
#[cfg(feature = "http2")]
pub(crate) fn is_known(kind: u8) -> bool {
    matches!(kind, 0..=4 | 6..=9 | 16)
}
