//! Single operations: timed by the report, and counted in instructions by the gate.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use tfo_core::{FirstFlight, TcpInfo};
use tfo_http::path::{Event, Path, PathMemory};
use tfo_http::{SynData, corked_flushes};
use tfo_http_server::keys::{Rotation, Schedule};

const CURL: &[u8] =
    b"GET /index.html HTTP/1.1\r\nHost: www.example.org\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";

/// Preface, SETTINGS, WINDOW_UPDATE and a GET with a Huffman-coded authority and user agent.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
\x00\x00\x0c\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64\x00\x04\x00\x10\x00\x00\
\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x4f\x00\x01\
\x00\x00\x1c\x01\x05\x00\x00\x00\x01\
\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff\x7a\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf";

/// How many bytes of it are the request.
const HEADERS: usize = 9 + 28;

/// An operation that can be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "for the programs of this crate only")]
pub enum Op {
    /// A first flight of HTTP/1.1.
    ClassifyHttp1,
    /// A first flight of HTTP/2.
    ClassifyHttp2,
    /// The first flight of HTTP/2 as it comes: flushed without its request, then with it.
    Cork,
    /// What the kernel returned, decoded, and the fields that a connection looks at.
    DecodeTcpInfo,
    /// The path memory, about a path that is known to carry TCP Fast Open.
    AskPath,
    /// The same, with the report that follows.
    AskAndReportPath,
    /// The two keys of an epoch.
    DeriveKeys,
}

impl Op {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::ClassifyHttp1,
        Self::ClassifyHttp2,
        Self::Cork,
        Self::DecodeTcpInfo,
        Self::AskPath,
        Self::AskAndReportPath,
        Self::DeriveKeys,
    ];

    /// Its name in files and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClassifyHttp1 => "classify_http1",
            Self::ClassifyHttp2 => "classify_http2",
            Self::Cork => "cork",
            Self::DecodeTcpInfo => "decode_tcp_info",
            Self::AskPath => "ask_path",
            Self::AskAndReportPath => "ask_and_report_path",
            Self::DeriveKeys => "derive_keys",
        }
    }

    /// The operation of that name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.name() == name)
    }

    /// Prepares it, then does it `times` times; how long that took, without the preparation.
    pub fn run(self, times: u32) -> Duration {
        match self {
            Self::ClassifyHttp1 => repeat(times, || FirstFlight::classify(black_box(CURL))),
            Self::ClassifyHttp2 => repeat(times, || FirstFlight::classify(black_box(HTTP2))),
            Self::Cork => {
                let flushes = [HTTP2.len() - HEADERS, HTTP2.len()];
                repeat(times, || corked_flushes(black_box(HTTP2), &flushes, &SynData::SafeMethods))
            }
            Self::DecodeTcpInfo => {
                // Of an established connection, as long as Linux 6.18 makes it.
                let mut bytes = [0_u8; TcpInfo::KNOWN];
                (bytes[0], bytes[5], bytes[68]) = (1, 32, 99);
                repeat(times, || {
                    let info = TcpInfo::from_bytes(black_box(&bytes));
                    (info.state(), info.syn_data(), info.tfo_child(), info.client_fail(), info.rtt())
                })
            }
            Self::AskPath => {
                let (memory, path, now) = remembered();
                repeat(times, || memory.ask(black_box(&path), now).advice())
            }
            Self::AskAndReportPath => {
                let (memory, path, now) = remembered();
                repeat(times, || memory.report(&mut memory.ask(black_box(&path), now), Event::Acked, now))
            }
            Self::DeriveKeys => {
                let secret = [7; 32];
                let Ok(schedule) = Schedule::new(&secret, Rotation::default()) else {
                    unreachable!("32 bytes are a secret");
                };
                let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
                repeat(times, || schedule.slots(black_box(now)))
            }
        }
    }
}

fn remembered() -> (PathMemory, Path, Instant) {
    let (memory, now) = (PathMemory::new(), Instant::now());
    let path = Path::new(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 80)));
    memory.report(&mut memory.ask(&path, now), Event::Acked, now);
    (memory, path, now)
}

fn repeat<T>(times: u32, mut work: impl FnMut() -> T) -> Duration {
    let begun = Instant::now();
    for _ in 0..times {
        black_box(work());
    }
    begun.elapsed()
}
