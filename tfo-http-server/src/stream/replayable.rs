//! Requests that the caller has declared replayable: found in a SYN, strictly.

use std::fmt;
use std::str;
use std::sync::Arc;

use tfo_core::FirstFlight;
use tfo_core::first_flight::{Protocol, Stop};

/// The caller's rule; [`ListenerBuilder::replayable`](crate::ListenerBuilder::replayable).
#[derive(Clone)]
pub(crate) struct Replayable(pub(crate) Arc<dyn Fn(&EarlyRequest<'_>) -> bool + Send + Sync>);

impl fmt::Debug for Replayable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replayable")
    }
}

/// An HTTP/1 request that came in a SYN and whose method is not safe, as
/// [`ListenerBuilder::replayable`](crate::ListenerBuilder::replayable) sees it.
///
/// Its head is complete and well-formed; it has no `Transfer-Encoding`, no `Upgrade`, at most one
/// `Content-Length`, and no header that overrides its method. Its target is a plain path: without
/// `%`, `\\`, `;`, an empty segment, `.` or `..`, so that no router reads it differently. All others
/// are not offered, and wait.
#[derive(Clone, Copy, Debug)]
pub struct EarlyRequest<'a> {
    method: &'a str,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> EarlyRequest<'a> {
    /// The method, case-sensitive: `POST`.
    pub fn method(&self) -> &'a str {
        self.method
    }

    /// The path, from its first `/` on, without the query.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// What follows the `?`, if there is one.
    pub fn query(&self) -> Option<&'a str> {
        self.query
    }
}

/// As [`FirstFlight::classify`], with requests that `rule` takes for replayable: the cut, and whether
/// the flight is whole.
pub(super) fn classify(flight: &[u8], rule: Option<&Replayable>) -> (usize, bool) {
    let mut cut = 0;
    loop {
        let rest = &flight[cut..];
        let seen = FirstFlight::classify(rest);
        // Behind HTTP/1 there is HTTP/1, whatever these bytes could be alone.
        if cut > 0 && !rest.is_empty() && seen.protocol() != Protocol::Http1 {
            return (cut, false);
        }
        // Behind a request that changes the protocol this is not the beginning of one.
        let upgraded = seen.stop() == Some(Stop::BehindUpgrade);
        cut += seen.cut();
        if seen.is_whole() {
            return (cut, true);
        }
        let request = match rule {
            Some(rule) if seen.protocol() == Protocol::Http1 && !upgraded => {
                whole_request(&flight[cut..]).filter(|(request, _)| (rule.0)(request))
            }
            _ => None,
        };
        let Some((_, length)) = request else { return (cut, false) };
        // The rest of an unfinished body comes with the proof.
        if length >= flight.len() - cut {
            return (flight.len(), true);
        }
        cut += length;
    }
}

/// The request at the front of `bytes`, and its length with its body.
fn whole_request(bytes: &[u8]) -> Option<(EarlyRequest<'_>, usize)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = str::from_utf8(&bytes[..end]).ok()?;
    let (line, fields) = head.split_once("\r\n")?;
    let (method, target) = line.split_once(' ')?;
    let (target, version) = target.split_once(' ')?;
    let token = |byte: u8| byte.is_ascii_uppercase() || byte == b'-';
    if method.is_empty() || !method.bytes().all(token) || method == "CONNECT" {
        return None;
    }
    let body = body_length(fields)?;
    // The classifier is the judge of all else: as a GET without its body this must be safe to it, and
    // one more request behind it must be, too (behind an upgrade none is).
    let mut as_get = format!("GET {target} {version}\r\n").into_bytes();
    for field in fields.split_inclusive("\r\n").filter(|field| !is_content_length(field)) {
        as_get.extend_from_slice(field.as_bytes());
    }
    let one = FirstFlight::classify(&as_get);
    as_get.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
    let two = FirstFlight::classify(&as_get);
    if !(one.is_whole() && one.requests() == 1 && two.is_whole() && two.requests() == 2) {
        return None;
    }
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let request = EarlyRequest { method, path, query };
    is_plain(path).then_some((request, end.checked_add(body)?))
}

/// From the field lines. None if they say it in a way that could be read in two.
fn body_length(fields: &str) -> Option<usize> {
    let mut lengths = fields.split("\r\n").filter(|field| is_content_length(field));
    let Some(field) = lengths.next() else { return Some(0) };
    let (name, value) = field.split_once(':')?;
    let value = value.trim_matches([' ', '\t']);
    let exact =
        name.eq_ignore_ascii_case("content-length") && value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|_| exact && lengths.next().is_none())
}

/// By its name, in every spelling that some server takes for it.
fn is_content_length(field: &str) -> bool {
    let name = field.split(':').next().unwrap_or_default();
    name.trim().replace('_', "-").eq_ignore_ascii_case("content-length")
}

/// Whether every router sees the same path in it.
fn is_plain(path: &str) -> bool {
    let Some(segments) = path.strip_prefix('/') else { return false };
    let last = segments.split('/').count() - 1;
    let plain = |segment: &str| segment != "." && segment != "..";
    !path.contains(['%', '\\', ';', '#'])
        && segments.split('/').enumerate().all(|(at, name)| plain(name) && (at == last || !name.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const SEARCH: &str = "POST /search?q=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    const TRANSFER: &str = "POST /transfer HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";

    fn search() -> Replayable {
        Replayable(Arc::new(|request| request.method() == "POST" && request.path() == "/search"))
    }

    fn everything() -> Replayable {
        Replayable(Arc::new(|_| true))
    }

    #[test]
    fn what_was_declared_rides_and_nothing_else() {
        let rule = search();
        for (flight, cut) in [
            (vec![SEARCH], SEARCH.len()),
            (vec![GET, SEARCH, GET], 2 * GET.len() + SEARCH.len()),
            (vec![SEARCH, SEARCH], 2 * SEARCH.len()),
            (vec![SEARCH, TRANSFER], SEARCH.len()),
            (vec![GET, TRANSFER, SEARCH], GET.len()),
            (vec![TRANSFER], 0),
            (vec![SEARCH, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], SEARCH.len()),
            // A body may look like anything.
            (vec!["POST /search HTTP/1.1\r\nContent-Length: 3\r\n\r\nGET", TRANSFER], 47),
        ] {
            let flight = flight.concat();
            let expected = (cut, cut == flight.len());
            assert_eq!(classify(flight.as_bytes(), Some(&rule)), expected, "{flight}");
        }
        assert_eq!(classify(SEARCH.as_bytes(), None), (0, false));
    }

    #[test]
    fn an_unfinished_body_rides_and_an_unfinished_head_does_not() {
        let head = SEARCH.find("\r\n\r\n").unwrap() + 4;
        for length in 0..=SEARCH.len() {
            let (cut, whole) = classify(&SEARCH.as_bytes()[..length], Some(&search()));
            let rides = length == 0 || length >= head;
            assert_eq!((cut, whole), (if rides { length } else { 0 }, rides), "{length}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_not_offered() {
        for target in
            ["/a/../b", "/./a", "//a", "/a//b", "/%61", "/a;b", "/a\\b", "*", "http://h/a", "a", "", "/.."]
        {
            let flight = format!("POST {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(classify(flight.as_bytes(), Some(&everything())).0, 0, "{target}");
        }
        for field in [
            "Transfer-Encoding: chunked",
            "Content-Length: 4\r\nContent-Length: 4",
            "Content-Length: 0\r\nContent-Length: 4",
            "content_length: 0\r\nContent-Length: 4",
            "Content-Length: +4",
            "Content-Length: 4, 4",
            "Content-Length:",
            "Content-Length : 4",
            "Content-Length: 99999999999999999999999999",
            "Upgrade: websocket",
            "X-HTTP-Method-Override: DELETE",
            "Bare: lf\nContent-Length: 4",
            " folded: x",
        ] {
            let flight = format!("POST /search HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\nbody");
            assert_eq!(classify(flight.as_bytes(), Some(&everything())).0, 0, "{field}");
        }
        for line in
            ["CONNECT /a HTTP/1.1", "post /a HTTP/1.1", "POST  /a HTTP/1.1", "POST /a HTTP/1.1 ", "POST /a"]
        {
            let flight = format!("{line}\r\nHost: a\r\n\r\n");
            assert_eq!(classify(flight.as_bytes(), Some(&everything())).0, 0, "{line}");
        }
        let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x01\x01\x05\0\0\0\x01\x83";
        assert!(!classify(http2, Some(&everything())).1);
        let upgrade = format!("GET / HTTP/1.1\r\nUpgrade: x\r\n\r\n{SEARCH}");
        assert_eq!(classify(upgrade.as_bytes(), Some(&everything())).0, upgrade.len() - SEARCH.len());
    }
}
