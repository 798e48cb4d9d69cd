//! Servers that take anything: what the most careless parser could make of the bytes.
//!
//! Real servers refuse much of what a classifier must not let through (a second `:method`, a `content-length` that does
//! not fit), so they cannot show that it did. These act on all of it.

use super::hpack::{self, STATIC};
use super::oracle::Seen;
use tfo_core::first_flight::Methods;

/// HTTP/1 with every liberty that some server has taken: lines end with CRLF, LF or CR, lines in front of a request are
/// skipped if empty, white space surrounds names, folded lines count as fields, and a version is not required.
pub fn http1(methods: Methods, bytes: &[u8]) -> Seen {
    let mut seen = Seen::by(methods);
    let mut rest = bytes;
    'request: while let Some(line) = line(&mut rest) {
        if line.is_empty() {
            continue;
        }
        let method = line.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
        seen.require(seen.allows(method), "unsafe method");
        let may_have_body = seen.allows_body(method);
        let mut upgrade = false;
        let mut body = 0;
        if line.windows(5).any(|window| window.eq_ignore_ascii_case(b"HTTP/")) {
            loop {
                let Some(line) = self::line(&mut rest) else {
                    // Without its end it is no request.
                    break 'request;
                };
                if line.is_empty() {
                    break;
                }
                let (name, value) =
                    line.split_at(line.iter().position(|&byte| byte == b':').unwrap_or(line.len()));
                let (name, value) = (name.trim_ascii(), value.get(1..).unwrap_or_default().trim_ascii());
                upgrade |= field(&mut seen, name, value, may_have_body);
                if name.eq_ignore_ascii_case(b"content-length") {
                    body = str::from_utf8(value).ok().and_then(|value| value.parse().ok()).unwrap_or(0);
                }
            }
        }
        seen.requests += 1;
        seen.require(!upgrade || rest.iter().all(|&byte| byte == b'\n'), "behind an upgrade");
        rest = rest.get(body..).unwrap_or_default();
    }
    seen
}

fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|&byte| matches!(byte, b'\r' | b'\n'))?;
    let (line, behind) = rest.split_at(end);
    *rest = behind.strip_prefix(b"\r\n").unwrap_or_else(|| &behind[1..]);
    Some(line)
}

/// HTTP/2 with a whole HPACK decoder and no other demands: every block on every stream is a request.
pub fn http2(methods: Methods, bytes: &[u8]) -> Seen {
    let mut seen = Seen::by(methods);
    // Which streams may have a body, as far as their heads say.
    let mut with_body = Vec::new();
    let mut rest = &bytes[24..];
    let mut reader = Reader::default();
    let mut block = Vec::new();
    while let Some((head, behind)) = rest.split_first_chunk::<9>() {
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some((mut payload, behind)) = behind.split_at_checked(len) else {
            break;
        };
        rest = behind;
        let flags = head[4];
        let mut is_open = false;
        match head[3] {
            0 => seen.require(with_body.iter().any(|stream: &Vec<u8>| stream[..] == head[5..]), "body"),
            1 => {
                is_open = flags & 1 == 0;
                let padding =
                    if flags & 8 != 0 { usize::from(payload.first().copied().unwrap_or(0)) } else { 0 };
                let front = usize::from(flags & 8 != 0) + if flags & 0x20 != 0 { 5 } else { 0 };
                payload = payload.get(front..payload.len().saturating_sub(padding)).unwrap_or_default();
                block = payload.to_vec();
            }
            9 => block.extend_from_slice(payload),
            _ => continue,
        }
        if flags & 4 != 0 && head[3] != 0 {
            let (mut methods, mut may_have_body) = (0, false);
            let is_read = reader.read(&block, |name, value| {
                if name == b":method" {
                    methods += 1;
                    seen.require(seen.allows(value), "unsafe method");
                    may_have_body = seen.allows_body(value);
                }
                seen.require(name != b":protocol", "extended CONNECT");
                field(&mut seen, name, value, may_have_body);
            });
            seen.require(!is_open || may_have_body, "body");
            if is_open {
                with_body.push(head[5..].to_vec());
            }
            if is_read.is_none() {
                break;
            }
            seen.require(methods == 1, "not one method");
            seen.requests += 1;
        }
    }
    seen
}

/// Looks at a field; returns whether it asks for another protocol.
fn field(seen: &mut Seen, name: &[u8], value: &[u8], may_have_body: bool) -> bool {
    let folded: Vec<u8> = name
        .iter()
        .map(|&byte| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' })
        .collect();
    match &folded[..] {
        b"x-http-method" | b"x-http-method-override" | b"x-method-override" => {
            seen.require(false, "method override")
        }
        b"transfer-encoding" => seen.require(false, "transfer encoding"),
        b"content-length" => seen.require(value == b"0" || may_have_body, "content length"),
        b"upgrade" => return true,
        _ => {}
    }
    seen.require(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "line end in a value");
    false
}

/// One direction of a connection.
#[derive(Default)]
struct Reader {
    /// The dynamic table, newest first. Nothing is evicted but by a size of 0.
    table: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Reader {
    /// Reads the fields; `None` if nobody could.
    fn read(&mut self, block: &[u8], mut field: impl FnMut(&[u8], &[u8])) -> Option<()> {
        let mut rest = block;
        while let Some(&byte) = rest.first() {
            if byte >= 0x80 {
                let (name, value) = self.entry(integer(&mut rest, 7)?)?;
                field(&name, &value);
                continue;
            }
            if (0x20..0x40).contains(&byte) {
                if integer(&mut rest, 5)? == 0 {
                    self.table.clear();
                }
                continue;
            }
            let name = match integer(&mut rest, if byte >= 0x40 { 6 } else { 4 })? {
                0 => string(&mut rest)?,
                index => self.entry(index)?.0,
            };
            let value = string(&mut rest)?;
            field(&name, &value);
            if byte >= 0x40 {
                self.table.insert(0, (name, value));
            }
        }
        Some(())
    }

    /// The entry at `index`, or one that means nothing where a decoder would give up.
    fn entry(&self, index: usize) -> Option<(Vec<u8>, Vec<u8>)> {
        if index == 0 {
            return None;
        }
        let fixed =
            STATIC.iter().find(|entry| entry.0 == index).map(|entry| (entry.1.into(), entry.2.into()));
        let dynamic = || index.checked_sub(62).and_then(|at| self.table.get(at).cloned());
        Some(fixed.or_else(dynamic).unwrap_or_else(|| (b"x-plain".into(), Vec::new())))
    }
}

fn integer(rest: &mut &[u8], prefix: u32) -> Option<usize> {
    let (&first, mut behind) = rest.split_first()?;
    let mask = (1 << prefix) - 1;
    let mut value = usize::from(first) & mask;
    if value == mask {
        for shift in (0..35).step_by(7) {
            let (&byte, next) = behind.split_first()?;
            behind = next;
            value += usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
    }
    *rest = behind;
    Some(value)
}

fn string(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let is_huffman = *rest.first()? >= 0x80;
    let len = integer(rest, 7)?;
    let (text, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    Some(if is_huffman { hpack::unhuffman(text) } else { text.to_vec() })
}
