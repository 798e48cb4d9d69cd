//! Random first flights: valid ones, hostile ones, and valid ones that were damaged.

use super::dice::Dice;
use super::hpack;

/// A random first flight.
pub fn flight(dice: &mut Dice) -> Vec<u8> {
    let mut flight = match dice.below(16) {
        0..8 => http1(dice),
        8..15 => http2(dice),
        _ => tls(dice),
    };
    match dice.below(12) {
        0..8 => {}
        8 => flight.truncate(dice.below(flight.len() + 1)),
        9 => {
            // The beginning of one and the end of another.
            let other = if dice.one_in(2) { http1(dice) } else { http2(dice) };
            flight.truncate(dice.below(flight.len() + 1));
            flight.extend_from_slice(&other[dice.below(other.len() + 1)..]);
        }
        _ => {
            for _ in 0..=dice.below(3) {
                damage(&mut flight, dice);
            }
        }
    }
    flight
}

/// A flight of safe and well-formed requests only.
pub fn clean(dice: &mut Dice) -> Vec<u8> {
    let mut flight = Vec::new();
    if dice.one_in(2) {
        for _ in 0..=dice.below(4) {
            clean_request(&mut flight, dice);
        }
        return flight;
    }
    flight.extend_from_slice(PREFACE);
    frame(&mut flight, 4, 0, 0, &[]);
    let mut writer = hpack::Writer::default();
    for request in 0..=dice.below(4) {
        headers(&mut flight, 2 * request as u32 + 1, false, &mut writer, dice);
    }
    flight
}

/// Changes a few bytes.
fn damage(flight: &mut Vec<u8>, dice: &mut Dice) {
    const NASTY: &[u8] = b"\r\n\0 \t:\x0b\x7f\x80\xff,;0GP/H1";
    if flight.is_empty() {
        return;
    }
    let at = dice.below(flight.len());
    let nasty = NASTY[dice.below(NASTY.len())];
    match dice.below(8) {
        0 => flight[at] ^= 1 << dice.below(8),
        1 => flight[at] = nasty,
        2 => flight.insert(at, nasty),
        3 => {
            flight.remove(at);
        }
        4 => flight[at] = dice.roll() as u8,
        5 => flight[at] ^= 0x20,
        6 => {
            let end = (at + dice.below(40)).min(flight.len());
            flight.drain(at..end);
        }
        _ => {
            let end = (at + dice.below(40)).min(flight.len());
            let part = flight[at..end].to_vec();
            let to = dice.below(flight.len());
            flight.splice(to..to, part);
        }
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const METHODS: &[&str] = &["GET", "GET", "GET", "HEAD", "OPTIONS", "TRACE"];
const UNSAFE_METHODS: &[&str] =
    &["POST", "PUT", "DELETE", "PATCH", "CONNECT", "get", "GETX", "GE", "Head", "PRI", "LOCK"];

fn http1(dice: &mut Dice) -> Vec<u8> {
    let mut flight = Vec::new();
    for _ in 0..=dice.below(4) {
        if dice.one_in(4) { hostile_request(&mut flight, dice) } else { clean_request(&mut flight, dice) }
    }
    flight
}

fn clean_request(flight: &mut Vec<u8>, dice: &mut Dice) {
    const TARGETS: &[&str] = &["/", "/index.html?a=1&b=%20", "*", "http://example.org/x", "/~a/(b)/c;d"];
    const FIELDS: &[&str] = &[
        "Accept: */*",
        "User-Agent: curl/8.5.0",
        "Cookie: a=b; c=d; session=0123456789abcdef",
        "Accept-Encoding: gzip, deflate, br",
        "X-Empty:",
        "X-Tab:\tvalue\twith\ttabs\t",
        "Content-Length: 0",
        "X-Latin: caf\u{e9}",
        "If-None-Match: \"x\"",
        "Connection: keep-alive",
        "Range: bytes=0-9",
    ];
    let method = dice.pick(METHODS);
    let target = dice.pick(TARGETS);
    let version = if dice.one_in(8) { "1.0" } else { "1.1" };
    let mut text = format!("{method} {target} HTTP/{version}\r\nHost: example.org\r\n");
    for _ in 0..dice.below(5) {
        text.push_str(dice.pick(FIELDS));
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    flight.extend_from_slice(text.as_bytes());
}

/// A request that is unsafe, or that some parser may take for something else.
fn hostile_request(flight: &mut Vec<u8>, dice: &mut Dice) {
    const FIELDS: &[&[u8]] = &[
        b"Content-Length: 5\r\n",
        b"Content-Length: 1\r\n",
        b"content-length:5\r\n",
        b"Content-Length: 00\r\n",
        b"Content-Length: 0\r\nContent-Length: 5\r\n",
        b"Content-Length: \r\n",
        b"Content_Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"transfer-encoding:\tCHUNKED \r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding\r\n : chunked\r\n",
        b"X-HTTP-Method-Override: DELETE\r\n",
        b"x_http_method: PUT\r\n",
        b"X-Method-Override:PATCH\r\n",
        b"X-Folded: a\r\n b\r\n",
        b"X-Folded: a\r\n\tContent-Length: 5\r\n",
        b"X-Bare: a\nContent-Length: 5\r\n",
        b"X-Bare: a\rContent-Length: 5\r\n",
        b"X-Nul: a\0b\r\n",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
        b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        b"Expect: 100-continue\r\n",
        b": x\r\n",
        b"no colon\r\n",
        b"\xffname: x\r\n",
        b"Host: h\n",
        b"A: b\r\r\n",
    ];
    const BODIES: &[&[u8]] =
        &[b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"0\r\n\r\n", b"\r\n", b"\n"];
    if dice.one_in(24) {
        flight.extend_from_slice(dice.pick(&[b"\r\n".as_slice(), b"\n", b" ", b"\r", b"\r\n\r\n"]));
    }
    let method = if dice.one_in(2) { dice.pick(UNSAFE_METHODS) } else { dice.pick(METHODS) };
    let gap = if dice.one_in(24) { dice.pick(&["  ", "\t", "", " \t"]) } else { " " };
    let target = if dice.one_in(24) { dice.pick(&["", "/a b", "/\u{e9}", "/a\tb", "/\0"]) } else { "/x" };
    let version = if dice.one_in(24) {
        dice.pick(&["HTTP/2.0", "HTTP/0.9", "HTTP/1.2", "http/1.1", "HTTP/1.1 ", "", "HTTP/1.11"])
    } else {
        "HTTP/1.1"
    };
    let mut end = || if dice.one_in(24) { dice.pick(&["\n", "\r", "\r\r\n", "\n\r"]) } else { "\r\n" };
    flight.extend_from_slice(format!("{method}{gap}{target} {version}{}Host: h{}", end(), end()).as_bytes());
    for _ in 0..dice.below(3) {
        flight.extend_from_slice(dice.pick(FIELDS));
    }
    let end = if dice.one_in(8) { dice.pick(&["\n", "\r", "", "\r\n "]) } else { "\r\n" };
    flight.extend_from_slice(end.as_bytes());
    if dice.one_in(2) {
        flight.extend_from_slice(dice.pick(BODIES));
    }
}

fn frame(flight: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    flight.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    flight.extend_from_slice(&[kind, flags]);
    flight.extend_from_slice(&stream.to_be_bytes());
    flight.extend_from_slice(payload);
}

fn http2(dice: &mut Dice) -> Vec<u8> {
    let mut flight = PREFACE.to_vec();
    if !dice.one_in(30) {
        frame(
            &mut flight,
            4,
            0,
            0,
            if dice.one_in(2) { &[] } else { &[0, 3, 0, 0, 0, 100, 0, 4, 0, 1, 0, 0] },
        );
    }
    let mut writer = hpack::Writer::default();
    let mut stream = 1;
    for _ in 0..=dice.below(6) {
        match dice.below(24) {
            0 => frame(&mut flight, 8, 0, 0, &[0, 0, 1, 0]),
            1 => frame(&mut flight, 6, dice.below(2) as u8, 0, b"pingpong"),
            2 => frame(&mut flight, 2, 0, stream + 2, &[0, 0, 0, 0, 16]),
            3 => frame(&mut flight, 4, 1, 0, &[]),
            4 => frame(&mut flight, 16, 0, 0, b"\0\0\0\x01u=3"),
            5 => frame(&mut flight, 3, 0, stream.saturating_sub(2).max(1), &[0, 0, 0, 8]),
            6 => match dice.below(6) {
                0 => frame(&mut flight, 0, 1, stream.saturating_sub(2).max(1), b"data"),
                1 => frame(&mut flight, 9, 4, stream, b"\x82"),
                2 => frame(&mut flight, 5, 4, stream, b"\0\0\0\x02\x82"),
                3 => frame(&mut flight, 0xfa, dice.roll() as u8, 0, b"grease"),
                4 => frame(&mut flight, 7, 0, 0, &[0; 8]),
                _ => frame(&mut flight, dice.below(18) as u8, dice.roll() as u8, stream, b"12345678"),
            },
            _ => {
                let is_hostile = dice.one_in(5);
                headers(&mut flight, stream, is_hostile, &mut writer, dice);
                stream += 2;
            }
        }
    }
    flight
}

fn headers(flight: &mut Vec<u8>, stream: u32, is_hostile: bool, writer: &mut hpack::Writer, dice: &mut Dice) {
    const FIELDS: &[(&str, &str)] = &[
        ("accept", "*/*"),
        ("user-agent", "test/1.0"),
        ("accept-encoding", "gzip, deflate"),
        ("cookie", "a=b"),
        ("cookie", "session=0123456789abcdef0123456789abcdef0123456789abcdef"),
        ("x-custom", "value"),
        ("x-custom", "POST"),
        ("te", "trailers"),
        ("range", "bytes=0-9"),
        ("content-length", "0"),
        ("x-request-id", "\u{e9}\t~"),
    ];
    const HOSTILE: &[(&str, &str)] = &[
        ("content-length", "5"),
        ("content-length", "00"),
        ("content-length", ""),
        ("transfer-encoding", "chunked"),
        ("x-http-method-override", "DELETE"),
        ("x-http-method", "PUT"),
        ("x_method_override", "PATCH"),
        (":method", "POST"),
        (":method", "GET"),
        (":protocol", "websocket"),
        (":status", "200"),
        ("upgrade", "h2c"),
        ("X-Upper", "x"),
        ("x-evil", "a\r\nb: c"),
        ("", "x"),
    ];
    let method = if is_hostile && dice.one_in(2) { dice.pick(UNSAFE_METHODS) } else { dice.pick(METHODS) };
    let path =
        if method == "OPTIONS" && dice.one_in(2) { "*" } else { dice.pick(&["/", "/index.html", "/x?y=z"]) };
    let mut fields =
        vec![(":method", method), (":scheme", "http"), (":authority", "example.org"), (":path", path)];
    let turn = dice.below(fields.len());
    fields.rotate_left(turn);
    for _ in 0..dice.below(5) {
        fields.push(FIELDS[dice.below(FIELDS.len())]);
    }
    let mut flags = 0x5;
    if is_hostile {
        for _ in 0..dice.below(3) {
            let at = if dice.one_in(2) { dice.below(fields.len() + 1) } else { 4 };
            fields.insert(at, HOSTILE[dice.below(HOSTILE.len())]);
        }
        if dice.one_in(4) {
            flags ^= 1 << dice.below(8);
        }
    }
    let block = writer.block(&fields, is_hostile, dice);
    let mut payload = Vec::new();
    let padding = if dice.one_in(6) { Some(dice.below(20) as u8) } else { None };
    if let Some(padding) = padding {
        flags |= 0x8;
        payload.push(padding);
    }
    if dice.one_in(6) {
        flags |= 0x20;
        payload.extend_from_slice(&[
            0x80 * dice.below(2) as u8,
            0,
            0,
            if is_hostile { dice.below(4) as u8 } else { 0 },
            15,
        ]);
    }
    payload.extend_from_slice(&block);
    payload.resize(payload.len() + usize::from(padding.unwrap_or(0)), 0);
    if is_hostile && dice.one_in(4) {
        let (front, back) = payload.split_at(dice.below(payload.len()));
        frame(flight, 1, flags & !0x4, stream, front);
        frame(flight, 9, 0x4, stream, back);
    } else {
        frame(flight, 1, flags, stream, &payload);
    }
    if flags & 1 == 0 && dice.one_in(2) {
        frame(flight, 0, 1, stream, b"body");
    }
}

fn tls(dice: &mut Dice) -> Vec<u8> {
    let mut message = vec![1, 0, 0, 0];
    message.resize(4 + dice.below(600), 0xab);
    let len = (message.len() - 4) as u16;
    message[2..4].copy_from_slice(&len.to_be_bytes());
    let mut flight = Vec::new();
    while !message.is_empty() {
        let len = if dice.one_in(2) { message.len() } else { 1 + dice.below(message.len()) };
        let part: Vec<u8> = message.drain(..len).collect();
        flight.extend_from_slice(&[22, 3, 1 + dice.below(3) as u8]);
        flight.extend_from_slice(&(len as u16).to_be_bytes());
        flight.extend_from_slice(&part);
    }
    if dice.one_in(2) {
        flight.extend_from_slice(&[20, 3, 3, 0, 1, 1]);
    }
    if dice.one_in(2) {
        flight.extend_from_slice(b"\x17\x03\x03\x00\x05early");
    }
    if dice.one_in(4) {
        clean_request(&mut flight, dice);
    }
    flight
}
