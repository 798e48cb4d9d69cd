//! An HTTP/2 client that sends what it is told to, frame by frame (RFC 9113).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::running::PATIENCE;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// RFC 9113 7.
pub(crate) const NO_ERROR: [u8; 4] = [0, 0, 0, 0];
pub(crate) const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// SETTINGS_INITIAL_WINDOW_SIZE.
pub(crate) const WINDOW: u16 = 4;

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Whether it is the last of its stream.
    pub(crate) fn ends(&self) -> bool {
        self.kind == RST_STREAM || [DATA, HEADERS].contains(&self.kind) && self.flags & END_STREAM != 0
    }
}

pub(crate) struct Client {
    stream: TcpStream,
    /// Read by a thread of its own; closed when the connection is.
    frames: Receiver<Frame>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        let (to, frames) = channel();
        let mut reader = stream.try_clone().unwrap();
        thread::spawn(move || {
            while let Some(frame) = read(&mut reader) {
                if to.send(frame).is_err() {
                    break;
                }
            }
        });
        let mut client = Self { stream, frames };
        let settings = settings.iter().flat_map(|(name, value)| {
            let value = value.to_be_bytes();
            name.to_be_bytes().into_iter().chain(value)
        });
        client.send(SETTINGS, 0, 0, &settings.collect::<Vec<_>>());
        client
    }

    /// False when the server has closed.
    pub(crate) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.send_all(&frame(kind, flags, stream, payload))
    }

    pub(crate) fn send_all(&mut self, frames: &[u8]) -> bool {
        self.stream.write_all(frames).is_ok()
    }

    pub(crate) fn request(&mut self, stream: u32, head: &[u8], flags: u8) -> bool {
        self.send(HEADERS, END_HEADERS | flags, stream, head)
    }

    pub(crate) fn get(&mut self, stream: u32, path: &str) -> bool {
        self.request(stream, &head(0x82, path), END_STREAM)
    }

    pub(crate) fn open_window(&mut self, stream: u32, bytes: u32) -> bool {
        self.send(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
    }

    /// The next frame within the time, if the connection is open.
    pub(crate) fn poll(&self, time: Duration) -> Result<Frame, RecvTimeoutError> {
        self.frames.recv_timeout(time)
    }

    /// The next frame of a stream; none if the connection is closed.
    pub(crate) fn next_of(&self, stream: u32) -> Option<Frame> {
        loop {
            match self.frames.recv_timeout(PATIENCE) {
                Ok(frame) if frame.stream == stream => return Some(frame),
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => panic!("stream {stream}: nothing comes"),
            }
        }
    }

    /// Waits until the connection is closed.
    pub(crate) fn wait_closed(&self) {
        loop {
            match self.frames.recv_timeout(PATIENCE) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => panic!("it is not closed"),
            }
        }
    }

    /// That the connection goes on: a whole answer on a new stream.
    pub(crate) fn assert_alive(&mut self, stream: u32) {
        assert!(self.get(stream, "/"));
        let head = self.next_of(stream).expect("it is open");
        assert!(head.kind == HEADERS && head.payload[0] == 0x88, "{head:?}");
        let body = self.next_of(stream).expect("it is open");
        assert!(body.ends() && body.payload == b"hello\n", "{body:?}");
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// RFC 7541: the method by its index (2 is GET, 3 is POST), `:scheme`, `:path` and `:authority`.
pub(crate) fn head(method: u8, path: &str) -> Vec<u8> {
    let mut head = vec![method, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    head.extend(path.as_bytes());
    head.extend(*b"\x01\x01h");
    head
}

fn read(stream: &mut TcpStream) -> Option<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let [a, b, c, kind, flags, id @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    stream.read_exact(&mut payload).ok()?;
    Some(Frame { kind, flags, stream: u32::from_be_bytes(id), payload })
}
