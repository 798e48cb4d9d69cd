//! HTTP/1 (RFC 9112): request heads, strictly.
//!
//! Servers are lenient in ways that differ: some take a bare LF for the end of a line, some skip an empty line in
//! front of a request, some allow white space before a colon. Each of these makes a complete request of bytes in which
//! a strict parser sees an unfinished or another one. So whatever leaves the grammar ends the cut at the start of the
//! request, and only a strict prefix of a head counts as unfinished.

use super::fields::{self, Field};
use super::{Classifier, End, FirstFlight, Protocol, Stop};

/// Classifies a flight that is not known to speak another protocol.
pub(super) fn classify(flight: &[u8], rules: &Classifier) -> FirstFlight {
    let mut rest = flight;
    let mut requests = 0;
    let stop = loop {
        if rest.is_empty() {
            break None;
        }
        match head(rest, rules) {
            Ok(head) => {
                requests += 1;
                rest = head.rest;
                // RFC 9110 7.8: a server that switches goes on in the new protocol, so these bytes may be of that.
                if head.upgrade && !rest.is_empty() {
                    break Some(Stop::BehindUpgrade);
                }
                rest = rest.get(head.body..).unwrap_or_default();
            }
            Err(End::Unfinished) => {
                rest = &[];
                break None;
            }
            Err(End::Unsafe(stop)) => break Some(stop),
        }
    };
    let cut = flight.len() - rest.len();
    match stop {
        None => FirstFlight::whole(Protocol::Http1, cut, requests),
        Some(_) if cut == 0 && !looks_like_http1(flight, rules) => {
            FirstFlight::stopped(Protocol::Unknown, 0, 0, Stop::UnknownProtocol)
        }
        Some(stop) => FirstFlight::stopped(Protocol::Http1, cut, requests, stop),
    }
}

/// A complete head of a request that may be processed twice.
struct Head<'a> {
    /// Whether it asks to change the protocol.
    upgrade: bool,
    /// The length of its body.
    body: usize,
    /// What follows it.
    rest: &'a [u8],
}

/// RFC 9112 2.1: `start-line CRLF *( field-line CRLF ) CRLF`.
fn head<'a>(bytes: &'a [u8], rules: &Classifier) -> Result<Head<'a>, End> {
    let (mut rest, may_have_body) = request_line(bytes, rules)?;
    let mut upgrade = false;
    let mut length = None;
    loop {
        if let [b'\r', ..] = rest {
            return Ok(Head { upgrade, body: length.unwrap_or(0), rest: expect(rest, b"\r\n")? });
        }
        let name;
        (name, rest) = field_name(rest)?;
        let field = Field::of(name);
        let (value, behind) = rest.split_at(value_len(rest));
        match field {
            Field::Plain => {}
            Field::Upgrade => upgrade = true,
            // RFC 9112 6.3: no body follows only if neither of these says so. The value may be unfinished: it may
            // become `0` only if nothing or `0` is there.
            Field::ContentLength => match (fields::trim(value), length) {
                (b"0", None | Some(0)) => length = Some(0),
                (b"", None | Some(0)) if behind.is_empty() => {}
                // Where the body ends, the next request begins: only what all parsers read alike.
                (value, None) if may_have_body && name.eq_ignore_ascii_case(b"content-length") => {
                    length = Some(fields::decimal(value).ok_or(End::Unsafe(Stop::RequestBody))?);
                }
                _ => return Err(End::Unsafe(Stop::RequestBody)),
            },
            Field::TransferEncoding => return Err(End::Unsafe(Stop::RequestBody)),
            Field::MethodOverride => return Err(End::Unsafe(Stop::MethodOverride)),
        }
        // RFC 9112 5.2: a line that starts with white space would continue this value. Such a line has no name, so
        // the next turn refuses it.
        rest = expect(behind, b"\r\n")?;
    }
}

/// RFC 9112 3: `method SP request-target SP HTTP-version`, and CRLF. Returns what follows, and whether such a request
/// may have a body.
fn request_line<'a>(bytes: &'a [u8], rules: &Classifier) -> Result<(&'a [u8], bool), End> {
    let (rest, may_have_body) = method(bytes, rules)?;
    let len = target_len(rest);
    if len == 0 && !rest.is_empty() {
        return Err(End::Unsafe(Stop::MalformedRequest));
    }
    let rest = expect(rest.get(len..).unwrap_or_default(), b" HTTP/1.")?;
    match rest {
        [] => Err(End::Unfinished),
        [b'0' | b'1', rest @ ..] => Ok((expect(rest, b"\r\n")?, may_have_body)),
        _ => Err(End::Unsafe(Stop::MalformedRequest)),
    }
}

/// What follows the method and its space, and whether such a request may have a body.
#[inline]
fn method<'a>(bytes: &'a [u8], rules: &Classifier) -> Result<(&'a [u8], bool), End> {
    for &method in rules.allowed() {
        if let Some([b' ', rest @ ..]) = bytes.strip_prefix(method) {
            return Ok((rest, rules.allows_body(method)));
        }
    }
    Err(End::Unsafe(not_a_method(bytes)))
}

/// Why there is no safe method at the start of `bytes`.
#[cold]
fn not_a_method(bytes: &[u8]) -> Stop {
    match bytes.iter().position(|&byte| !fields::is_token_byte(byte)) {
        None => Stop::UnfinishedMethod,
        Some(1..) if bytes.iter().find(|&&byte| !fields::is_token_byte(byte)) == Some(&b' ') => {
            Stop::UnsafeMethod
        }
        Some(_) => Stop::MalformedRequest,
    }
}

/// Whether a flight whose first request stopped the cut is HTTP/1 at all.
#[cold]
fn looks_like_http1(flight: &[u8], rules: &Classifier) -> bool {
    const UNSAFE: [&[u8]; 5] = [b"POST", b"PUT", b"PATCH", b"DELETE", b"CONNECT"];
    let line = flight.split(|&byte| byte == b'\r' || byte == b'\n').next().unwrap_or_default();
    let Some(space) = line.iter().position(|&byte| byte == b' ') else {
        return false;
    };
    let (method, rest) = line.split_at(space);
    let versioned = rest.windows(8).any(|window| window == b" HTTP/1.");
    let is_token = !method.is_empty() && method.iter().all(|&byte| fields::is_token_byte(byte));
    UNSAFE.contains(&method) || rules.allows(method) || (is_token && versioned && method != b"PROXY")
}

/// RFC 9112 5: the name of a field line and what follows its colon. Nothing may stand between them (RFC 9112 5.1).
#[inline]
fn field_name(bytes: &[u8]) -> Result<(&[u8], &[u8]), End> {
    let len = bytes.iter().position(|&byte| !TOKEN_BYTES[usize::from(byte)]).unwrap_or(bytes.len());
    match bytes.split_at(len) {
        (_, []) => Err(End::Unfinished),
        ([_, ..], [b':', rest @ ..]) => Ok((&bytes[..len], rest)),
        _ => Err(End::Unsafe(Stop::MalformedRequest)),
    }
}

/// What follows `literal`, if `bytes` start with it.
#[inline]
fn expect<'a>(bytes: &'a [u8], literal: &[u8]) -> Result<&'a [u8], End> {
    match bytes.strip_prefix(literal) {
        Some(rest) => Ok(rest),
        None if literal.starts_with(bytes) => Err(End::Unfinished),
        None => Err(End::Unsafe(Stop::MalformedRequest)),
    }
}

const TOKEN_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = fields::is_token_byte(byte as u8);
        byte += 1;
    }
    table
};

/// How many leading bytes may stand in a field value.
#[inline]
fn value_len(bytes: &[u8]) -> usize {
    let mut len = 0;
    loop {
        len += span(&bytes[len..], |word| below(word, b' ') | equal(word, 0x7f), fields::is_value_byte);
        // The words take HTAB, which is allowed, for a control byte.
        if bytes.get(len) != Some(&b'\t') {
            return len;
        }
        len += 1;
    }
}

/// How many leading bytes may stand in a request target: visible ASCII (RFC 3986 2; RFC 9112 3.2: no white space).
#[inline]
fn target_len(bytes: &[u8]) -> usize {
    span(
        bytes,
        |word| below(word, b'!') | equal(word, 0x7f) | (word & HIGH_BITS),
        |byte| byte.is_ascii_graphic(),
    )
}

/// How many leading bytes are allowed: eight at a time by `refused`, which marks (at least) the first byte that is not
/// allowed by its high bit, and the last few one by one.
#[inline]
fn span(bytes: &[u8], refused: impl Fn(u64) -> u64, allowed: impl Fn(u8) -> bool) -> usize {
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let marks = refused(u64::from_le_bytes(*word));
        if marks != 0 {
            return index * 8 + (marks.trailing_zeros() / 8) as usize;
        }
    }
    let whole = bytes.len() - tail.len();
    whole + tail.iter().position(|&byte| !allowed(byte)).unwrap_or(tail.len())
}

const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// Marks the bytes of `word` that are less than `limit`, which is at most 128.
///
/// A borrow can mark a byte wrongly, but only above (in a little-endian word: behind) one that is marked rightly.
const fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(LOW_BITS * limit as u64) & !word & HIGH_BITS
}

/// Marks the bytes of `word` that equal `byte`; exact up to the first, as [`below`] is.
const fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ (LOW_BITS * byte as u64), 1)
}

#[cfg(test)]
mod tests {
    use super::super::Methods;
    use super::*;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n";

    #[test]
    fn idempotent_requests_ride_by_choice_with_their_bodies() {
        let rules = Classifier::new().methods(Methods::Idempotent);
        let put =
            |head: &str, body: &str| format!("PUT /a HTTP/1.1\r\nHost: h\r\n{head}\r\n{body}").into_bytes();
        let whole = [&put("Content-Length: 4\r\n", "body")[..], b"DELETE /a HTTP/1.1\r\n\r\n", GET].concat();
        assert_eq!(rules.classify(&whole), FirstFlight::whole(Protocol::Http1, whole.len(), 3));
        assert_eq!(FirstFlight::classify(&whole).stop(), Some(Stop::UnsafeMethod));
        // Its end is still to come, and harmless before.
        let begun = put("Content-Length: 40\r\n", "body");
        assert_eq!(rules.classify(&begun), FirstFlight::whole(Protocol::Http1, begun.len(), 1));
        for (length, behind, stop) in [
            ("Content-Length: 4\r\n", "POST / HTTP/1.1\r\n\r\n", Stop::UnsafeMethod),
            ("Content-Length: 4\r\n", "more", Stop::UnfinishedMethod),
        ] {
            let put = put(length, "body");
            let seen = rules.classify(&[&put[..], behind.as_bytes()].concat());
            assert_eq!((seen.cut(), seen.requests(), seen.stop()), (put.len(), 1, Some(stop)), "{behind}");
        }
        for head in [
            "Content-Length: 04\r\n",
            "Content-Length: +4\r\n",
            "Content_Length: 4\r\n",
            "Content-Length: 4\r\nContent-Length: 4\r\n",
            "Content-Length: 4\r\nContent-Length: 0\r\n",
            "Content-Length: 0\r\nContent-Length: 4\r\n",
            "Transfer-Encoding: chunked\r\n",
        ] {
            let seen = rules.classify(&put(head, "body"));
            assert_eq!((seen.cut(), seen.stop()), (0, Some(Stop::RequestBody)), "{head}");
        }
        let get = rules.classify(b"GET / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody");
        assert_eq!(get.stop(), Some(Stop::RequestBody));
        let upgrade = rules.classify(&put("Upgrade: x\r\nContent-Length: 4\r\n", "body"));
        assert_eq!(upgrade.stop(), Some(Stop::BehindUpgrade));
    }

    /// What is behind one safe request.
    fn behind(second: &[u8]) -> (usize, Option<Stop>) {
        let seen = FirstFlight::classify(&[GET, second].concat());
        assert_eq!(seen.protocol(), Protocol::Http1);
        assert!(seen.cut() >= GET.len());
        (seen.cut() - GET.len(), seen.stop())
    }

    #[test]
    fn safe_requests_ride() {
        let whole: [&[u8]; 12] = [
            GET,
            b"GET / HTTP/1.0\r\n\r\n",
            b"HEAD /a?b=c%20d HTTP/1.1\r\nHost:h\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\nHost: h\r\nEmpty:\r\nTab:\ta\tb \r\n\r\n",
            b"TRACE http://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length:\t0 \r\n\r\n",
            b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
            b"GET / HTTP/1.1\r\nLatin: \xe4\xff\r\n\r\n",
            b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            b"GET / HTTP/1.1\r\n!#$%&'*+-.^_`|~09azAZ: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nX-HTTP-Methods: DELETE\r\nExpect: 100-continue\r\n\r\n",
        ];
        for flight in whole {
            let seen = FirstFlight::classify(flight);
            assert_eq!(
                seen,
                FirstFlight::whole(Protocol::Http1, flight.len(), 1),
                "{}",
                flight.escape_ascii()
            );
            assert_eq!(behind(flight), (flight.len(), None));
        }
    }

    #[test]
    fn every_beginning_rides_from_the_method_on() {
        let flight = [GET, b"OPTIONS * HTTP/1.0\r\nA:\r\nContent-Length: 0\r\n\r\n"].concat();
        for len in 1..=flight.len() {
            let seen = FirstFlight::classify(&flight[..len]);
            let expected = match len {
                0..4 => 0,
                _ if (GET.len()..GET.len() + 8).contains(&len) => GET.len(),
                _ => len,
            };
            assert_eq!(seen.cut(), expected, "{len}");
            assert_eq!(seen.is_whole(), expected == len);
            assert_eq!(seen.requests(), usize::from(len >= GET.len()) + usize::from(len == flight.len()));
        }
    }

    #[test]
    fn unsafe_methods_stop_the_cut() {
        for method in
            ["POST", "PUT", "DELETE", "PATCH", "CONNECT", "get", "Get", "GETS", "PRI", "M-SEARCH", "PROPFIND"]
        {
            let flight = format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n");
            assert_eq!(behind(flight.as_bytes()), (0, Some(Stop::UnsafeMethod)));
            let first = FirstFlight::classify(flight.as_bytes());
            assert_eq!(first, FirstFlight::stopped(Protocol::Http1, 0, 0, Stop::UnsafeMethod));
        }
        for method in ["G", "GE", "GET", "POS", "POST", "OPTIONS", "x"] {
            assert_eq!(behind(method.as_bytes()), (0, Some(Stop::UnfinishedMethod)));
        }
    }

    #[test]
    fn whatever_leaves_the_grammar_stops_the_cut() {
        let malformed: [&[u8]; 38] = [
            b"\r\n",
            b"\n",
            b" ",
            b"\r\nGET / HTTP/1.1\r\n\r\n",
            b"GET  / HTTP/1.1\r\n\r\n",
            b"GET /  HTTP/1.1\r\n\r\n",
            b"GET / x HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1 \r\n\r\n",
            b"GET\t/ HTTP/1.1\r\n\r\n",
            b"GET /\tHTTP/1.1\r\n\r\n",
            b"GET HTTP/1.1\r\n\r\n",
            b"GET /\r\n",
            b"GET /\n",
            b"GET /\0 HTTP/1.1\r\n\r\n",
            b"GET /\x7f HTTP/1.1\r\n\r\n",
            b"GET /\xe4 HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.2\r\n\r\n",
            b"GET / HTTP/2.0\r\n\r\n",
            b"GET / HTTP/0.9\r\n\r\n",
            b"GET / HTTP/1.1x",
            b"GET / http/1.1\r\n\r\n",
            b"GET / HTTP/1.1\n",
            b"GET / HTTP/1.1\r\r",
            b"GET / HTTP/1.1\r\n\n",
            b"GET / HTTP/1.1\r\n\rx",
            b"GET / HTTP/1.1\r\n x: y\r\n\r\n",
            b"GET / HTTP/1.1\r\na: b\n\r\n\r\n",
            b"GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n",
            b"GET / HTTP/1.1\r\na: b\r\n\tc",
            b"GET / HTTP/1.1\r\na : b",
            b"GET / HTTP/1.1\r\n: b",
            b"GET / HTTP/1.1\r\na\r\n\r\n",
            b"GET / HTTP/1.1\r\na(b: c",
            b"GET / HTTP/1.1\r\na\xe4: c",
            b"GET / HTTP/1.1\r\na: b\0",
            b"GET / HTTP/1.1\r\na: b\x7f",
            b"GET / HTTP/1.1\r\na: b\rc",
            b"GET / HTTP/1.1\r\na: 12345678\x0b",
        ];
        for flight in malformed {
            assert_eq!(behind(flight), (0, Some(Stop::MalformedRequest)), "{}", flight.escape_ascii());
            assert_eq!(FirstFlight::classify(flight).cut(), 0);
        }
    }

    #[test]
    fn a_body_stops_the_cut() {
        for field in [
            "Content-Length: 1",
            "Content-Length: 00",
            "Content-Length: +0",
            "Content-Length: 0, 0",
            "Content-Length: ",
            "content_length: 5",
            "Content-Length: 0\r\nContent-Length: 5",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: identity",
            "transfer_encoding: chunked",
        ] {
            let flight = format!("GET / HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n");
            assert_eq!(behind(flight.as_bytes()), (0, Some(Stop::RequestBody)), "{field}");
        }
    }

    #[test]
    fn an_override_stops_the_cut_even_in_an_unfinished_head() {
        for name in ["X-HTTP-Method-Override", "x-http-method", "X_METHOD_OVERRIDE"] {
            let flight = format!("GET / HTTP/1.1\r\nHost: h\r\n{name}:");
            assert_eq!(behind(flight.as_bytes()), (0, Some(Stop::MethodOverride)));
            let flight = format!("{flight} DELETE\r\n\r\n");
            assert_eq!(behind(flight.as_bytes()), (0, Some(Stop::MethodOverride)));
        }
        assert_eq!(behind(b"GET / HTTP/1.1\r\nTransfer-Encoding:"), (0, Some(Stop::RequestBody)));
        assert_eq!(behind(b"GET / HTTP/1.1\r\nContent-Length: 1"), (0, Some(Stop::RequestBody)));
        assert_eq!(behind(b"GET / HTTP/1.1\r\nContent-Length: ").1, None);
        assert_eq!(behind(b"GET / HTTP/1.1\r\nContent-Length: 0").1, None);
    }

    #[test]
    fn nothing_rides_behind_an_upgrade() {
        let upgrade = b"GET /chat HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n";
        for rest in [GET, b"\x81\x05hello"] {
            let flight = [upgrade, rest].concat();
            assert_eq!(behind(&flight), (upgrade.len(), Some(Stop::BehindUpgrade)));
        }
    }

    #[test]
    fn words_and_bytes_agree() {
        for byte in 0..=u8::MAX {
            for at in 0..20 {
                let mut bytes = [b'x'; 20];
                bytes[at] = byte;
                let allowed = |is: bool| if is { 20 } else { at };
                assert_eq!(value_len(&bytes), allowed(fields::is_value_byte(byte)), "{byte} at {at}");
                assert_eq!(target_len(&bytes), allowed(byte.is_ascii_graphic()), "{byte} at {at}");
                // A second refused byte in the same word must not hide the first.
                let mut bytes = [0x01; 20];
                bytes[..=at].fill(b'!');
                bytes[at] = byte;
                let (value, target) = (fields::is_value_byte(byte), byte.is_ascii_graphic());
                assert_eq!(value_len(&bytes), at + usize::from(value), "{byte} at {at}");
                assert_eq!(target_len(&bytes), at + usize::from(target), "{byte} at {at}");
            }
        }
    }
}
