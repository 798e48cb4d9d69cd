//! The requests of a first flight, head by head, for a caller's rule.

#[cfg(feature = "http2")]
mod http2;

use http::header::{CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Uri, Version};
use tfo_core::FirstFlight;
use tfo_core::first_flight::{Protocol, Stop};

use crate::info::Reason;
use crate::policy::{Clearance, Ride};

/// The most header fields of an HTTP/1 request.
const FIELDS: usize = 100;

/// Asks a rule about each request of a flight, up to the first that may not ride.
pub(crate) fn judge(flight: &[u8], class: &FirstFlight, rule: impl FnMut(&Parts) -> Ride) -> Clearance {
    match class.protocol() {
        Protocol::Http1 => http1(flight, rule),
        #[cfg(feature = "http2")]
        Protocol::Http2 => http2::judge(flight, rule),
        #[cfg(not(feature = "http2"))]
        Protocol::Http2 => Clearance::none(Reason::NotReplaySafe(Stop::CompressedHeaders)),
        _ => Clearance::none(Reason::NotReplaySafe(class.stop().unwrap_or(Stop::UnknownProtocol))),
    }
}

impl Clearance {
    const fn none(reason: Reason) -> Self {
        Self { early: 0, repeatable: true, safe: true, stop: Some(reason) }
    }

    /// One more request is let through, or not.
    fn admit(&mut self, ride: Ride, end: usize) -> bool {
        match ride {
            Ride::No => self.stop = Some(Reason::ByRule),
            Ride::Once | Ride::Repeatable => {
                self.early = end;
                self.repeatable &= ride == Ride::Repeatable;
            }
        }
        ride != Ride::No
    }
}

fn http1(flight: &[u8], mut rule: impl FnMut(&Parts) -> Ride) -> Clearance {
    let mut clearance = Clearance { early: 0, repeatable: true, safe: true, stop: None };
    while clearance.early < flight.len() {
        let rest = flight.get(clearance.early..).unwrap_or_default();
        let (head, len) = match head(rest) {
            Ok(head) => head,
            Err(stop) => {
                clearance.stop = Some(Reason::NotReplaySafe(stop));
                break;
            }
        };
        // What follows a request that changes the protocol may be of the new one.
        if head.headers.contains_key(UPGRADE) && len < rest.len() {
            clearance.stop = Some(Reason::NotReplaySafe(Stop::BehindUpgrade));
            break;
        }
        if !clearance.admit(rule(&head), clearance.early + len) {
            break;
        }
    }
    clearance
}

/// A complete head, and the length of the request with as much of its body as is there.
fn head(bytes: &[u8]) -> Result<(Parts, usize), Stop> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    let len = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) | Err(_) => return Err(Stop::MalformedRequest),
    };
    let parts = parts(&parsed).ok_or(Stop::MalformedRequest)?;
    if parts.headers.contains_key(TRANSFER_ENCODING) {
        return Err(Stop::RequestBody);
    }
    let mut lengths = parts.headers.get_all(CONTENT_LENGTH).iter();
    let body = match (lengths.next(), lengths.next()) {
        (None, _) => 0,
        (Some(length), None) => decimal(length).ok_or(Stop::RequestBody)?,
        _ => return Err(Stop::RequestBody),
    };
    Ok((parts, len.saturating_add(body).min(bytes.len())))
}

fn parts(parsed: &httparse::Request<'_, '_>) -> Option<Parts> {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = Method::from_bytes(parsed.method?.as_bytes()).ok()?;
    parts.uri = parsed.path?.parse::<Uri>().ok()?;
    parts.version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        parts.headers.append(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    Some(parts)
}

/// Digits only: `parse` takes a sign.
fn decimal(value: &HeaderValue) -> Option<usize> {
    let text = value.to_str().ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(flight: &[u8]) -> (usize, Vec<String>, Option<Reason>) {
        let mut seen = Vec::new();
        let clearance = http1(flight, |head| {
            seen.push(format!("{} {} {}", head.method, head.uri, head.headers.len()));
            Ride::Repeatable
        });
        (clearance.early, seen, clearance.stop)
    }

    #[test]
    fn bodies_are_not_taken_for_requests() {
        let hidden = b"POST /a HTTP/1.1\r\nContent-Length: 20\r\n\r\nGET /b HTTP/1.1\r\n\r\n\0GET /c HTTP/1.0\r\nA: b\r\nC: d\r\n\r\n";
        assert_eq!(asked(hidden), (hidden.len(), vec!["POST /a 1".to_owned(), "GET /c 2".to_owned()], None));
        let begun = b"POST /a?b HTTP/1.1\r\nContent-Length: 200\r\n\r\nso far";
        assert_eq!(asked(begun), (begun.len(), vec!["POST /a?b 1".to_owned()], None));
    }

    #[test]
    fn what_cannot_be_judged_does_not_ride() {
        for (second, stop) in [
            (&b"GET / HTTP/1.1\r\nHo"[..], Stop::MalformedRequest),
            (b"\0", Stop::MalformedRequest),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", Stop::RequestBody),
            (b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\nx", Stop::RequestBody),
            (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", Stop::RequestBody),
            (b"GET / HTTP/1.1\r\nUpgrade: x\r\n\r\nx", Stop::BehindUpgrade),
        ] {
            let first = b"GET / HTTP/1.1\r\n\r\n";
            let (early, seen, reason) = asked(&[first, second].concat());
            assert_eq!((early, seen.len()), (first.len(), 1), "{}", second.escape_ascii());
            assert_eq!(reason, Some(Reason::NotReplaySafe(stop)), "{}", second.escape_ascii());
        }
    }
}
