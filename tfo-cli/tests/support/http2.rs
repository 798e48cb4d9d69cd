//! A client of HTTP/2 that opens its windows when it is told to, and counts what comes.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What has come of an answer.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) head: bool,
    pub(crate) bytes: usize,
    pub(crate) ended: bool,
    pub(crate) reset: bool,
}

/// A connection.
pub(crate) struct Http2 {
    stream: TcpStream,
    next: u32,
    pub(crate) answers: HashMap<u32, Answer>,
}

impl Http2 {
    /// A stream may send `window` bytes; all streams together as much as they like.
    pub(crate) fn connect(address: SocketAddr, window: u32) -> Self {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("the preface");
        let mut client = Self { stream, next: 1, answers: HashMap::new() };
        // SETTINGS_INITIAL_WINDOW_SIZE
        client.send(SETTINGS, 0, 0, &[&[0, 4], &window.to_be_bytes()[..]].concat());
        client.open(0, (1 << 31) - 1 - 65_535);
        client
    }

    /// Asks for a path, and tells the number of the stream.
    pub(crate) fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> u32 {
        let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
        // Indexed: GET, http; with an indexed name: path, authority. RFC 7541 appendix A.
        let mut block = [&[0x82, 0x86, 0x04], &text(path)[..], &[0x01], &text("h")].concat();
        for (name, value) in headers {
            block.extend([&[0], &text(name)[..], &text(value)].concat());
        }
        let id = self.next;
        self.next += 2;
        self.answers.insert(id, Answer::default());
        self.send(HEADERS, END_STREAM | END_HEADERS, id, &block);
        id
    }

    /// Lets a stream send more.
    pub(crate) fn open(&mut self, id: u32, bytes: u32) {
        self.send(WINDOW_UPDATE, 0, id, &bytes.to_be_bytes());
    }

    fn send(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        let length = &(payload.len() as u32).to_be_bytes()[1..];
        let frame = [length, &[kind, flags], &id.to_be_bytes(), payload].concat();
        self.stream.write_all(&frame).expect("a frame");
    }

    /// Reads until all answers are as far.
    pub(crate) fn until(&mut self, far: impl Fn(&Answer) -> bool) {
        while !self.answers.values().all(&far) {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).expect("a frame");
            let [a, b, c, kind, flags, id @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.stream.read_exact(&mut payload).expect("a frame");
            let Some(answer) = self.answers.get_mut(&u32::from_be_bytes(id)) else { continue };
            answer.head |= kind == HEADERS;
            answer.bytes += if kind == DATA { payload.len() } else { 0 };
            answer.ended |= [DATA, HEADERS].contains(&kind) && flags & END_STREAM != 0;
            answer.reset |= kind == RST_STREAM;
        }
    }
}
