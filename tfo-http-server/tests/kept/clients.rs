//! Clients that are kept alive, and what the kernel knows of them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::running::{PATIENCE, Running, read_to_end, status};

pub(crate) struct Client(pub(crate) BufReader<std::net::TcpStream>);

impl Client {
    pub(crate) fn new(server: &Running) -> Self {
        let stream = server.connect();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    pub(crate) fn send(&mut self, path: &str) {
        self.write(request(path));
    }

    /// The head of the next answer.
    pub(crate) fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.0.read_line(&mut head).unwrap() > 0, "the end after {head:?}");
        }
        head
    }

    /// The next answer, to a request that is to succeed.
    pub(crate) fn body(&mut self) -> Vec<u8> {
        let head = self.head();
        assert_eq!(status(&head), "200", "{head}");
        let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        body
    }

    pub(crate) fn expect(&mut self, path: &str) {
        let body = self.body();
        assert_eq!(String::from_utf8_lossy(&body), path);
    }

    pub(crate) fn get(&mut self, path: &str) {
        self.send(path);
        self.expect(path);
    }

    /// All that comes until the server closes.
    pub(crate) fn rest(mut self) -> String {
        let mut rest = String::from_utf8(self.0.buffer().to_vec()).unwrap();
        rest += &read_to_end(self.0.get_mut());
        rest
    }

    /// Whether the server has closed. Not for one that has been answered and has not read it.
    pub(crate) fn is_closed(&self) -> bool {
        let stream = self.0.get_ref();
        stream.set_nonblocking(true).unwrap();
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false).unwrap();
        match peeked {
            Ok(0) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")
}

pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Clients that have been answered once, and are kept.
pub(crate) fn kept(server: &Running, count: usize) -> Vec<Client> {
    let (before, _) = waiting(server);
    let mut clients: Vec<_> = (0..count).map(|_| Client::new(server)).collect();
    clients.iter_mut().for_each(|client| client.send("/first"));
    clients.iter_mut().for_each(|client| client.expect("/first"));
    wait_for("all are kept", || waiting(server).0 == before + count);
    clients
}

/// How many of the server's connections are kept, and how many are tasks.
pub(crate) fn waiting(server: &Running) -> (usize, usize) {
    let [reads, writes] = watched(server.address);
    (reads.len(), writes.len())
}

/// The ports of a server's clients that wait for something to read and nothing else, and of those that are
/// watched for their writes too, as tokio's are.
pub(crate) fn watched(address: SocketAddr) -> [HashSet<u16>; 2] {
    let own = format!(":{:04X}", address.port());
    let sockets = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let inode = |line: &str| {
        // proc(5): the local address, the remote one, and the inode behind much else.
        let fields: Vec<_> = line.split_whitespace().collect();
        let (_, port) = fields[2].split_once(':')?;
        let port = u16::from_str_radix(port, 16).unwrap();
        (fields[1].ends_with(&own) && port > 0).then(|| (fields[9].parse().unwrap(), port))
    };
    let ports: HashMap<u64, u16> = sockets.lines().skip(1).filter_map(inode).collect();
    let mut found = [HashSet::new(), HashSet::new()];
    for entry in fs::read_dir("/proc/self/fdinfo").unwrap() {
        // Other tests open and close.
        let text = entry.and_then(|entry| fs::read_to_string(entry.path())).unwrap_or_default();
        // proc(5): "tfd: 7 events: 80002019 data: 0 pos:0 ino:1f sdev:8", and no other file has such lines.
        for line in text.lines().filter(|line| line.starts_with("tfd:")) {
            let fields: Vec<_> = line.split_whitespace().collect();
            let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
            let inode = fields.iter().find_map(|field| field.strip_prefix("ino:")).map(hex).unwrap();
            let Some(port) = ports.get(&inode) else { continue };
            // EPOLLOUT; EPOLLIN, EPOLLRDHUP and EPOLLET.
            let events = hex(fields[3]);
            assert!(events & 0x4 != 0 || events & 0x8000_2001 == 0x8000_2001, "{events:x}");
            found[usize::from(events & 0x4 != 0)].insert(*port);
        }
    }
    found
}
