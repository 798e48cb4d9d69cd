//! Whatever is split wherever: nothing unsafe is read before the proof, and what is read is what was sent.
//!
//! `TFO_SEGMENT_CASES` sets the number of cases, `TFO_SEED` the first of the seeds, which count up. A failure prints
//! the seed of its case.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(any(not(target_os = "linux"), tfo_fallback), allow(unused, reason = "no TCP Fast Open there"))]

mod support;

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::UPGRADE;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use support::{GET, PATIENCE, POST, RawClient, Runtime, WHILE, beside_server, serve, wait};
use tfo_core::FirstFlight;
use tfo_http_server::server::{RequestBody, ServerBuilder};
use tfo_http_server::{AcceptInfo, AcceptedStream, Disproven, TfoListener};
use tfo_lab::{Lab, Packet, lab_tests};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::task::yield_now;

#[cfg(tfo_fallback)]
fn main() {}

#[cfg(not(tfo_fallback))]
lab_tests! {
    fn nothing_unsafe_comes_before_the_proof_and_everything_comes() {
        let (mut early, mut gated, mut unsafe_in_syn) = (0, 0, 0);
        for batch in batches() {
            let lab = support::lab();
            serve(&lab, Runtime::CurrentThread, |builder| builder, async |listener| {
                for (port, seed) in batch {
                    let _told = ToldOnPanic(seed);
                    let mut dice = Dice::new(seed);
                    let case = Case::new(&mut dice);
                    let mut client = RawClient::v4(&lab, port);
                    client.syn(case.in_syn());
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut got = Vec::new();
                    read_all_there_is(&mut stream, &mut dice, &mut got).await;
                    assert!(!stream.info().is_proven());
                    assert_eq!(got, case.bytes[..case.cut()], "{case}");
                    early += usize::from(!got.is_empty());
                    gated += usize::from(stream.info().was_gated());
                    unsafe_in_syn += usize::from(case.released_at_most < case.syn);

                    if dice.up_to(7) == 0 {
                        client.rst();
                        lab.tap().wait_quiet(Duration::from_millis(2), PATIENCE);
                        assert_eq!(stream.info().proven().await, Err(Disproven::Reset));
                        // Of a stream that has nothing to hide an end or an error.
                        let read = support::read(&mut stream).await;
                        assert!(read.is_err() || read.is_ok_and(|bytes| bytes.is_empty()), "{case}");
                        continue;
                    }
                    for segment in case.segments(&mut dice) {
                        client.ack(segment);
                        read_all_there_is(&mut stream, &mut dice, &mut got).await;
                    }
                    while got.len() < case.bytes.len() {
                        let room = 1 + dice.up_to(400);
                        got.extend(support::read_counted(&mut stream, room, &mut 0).await.unwrap());
                    }
                    assert_eq!(got, case.bytes, "{case}");
                }
            });
        }
        is_worth_something(early, gated, unsafe_in_syn);
    }

    fn a_server_runs_what_is_released_and_after_the_proof_everything() {
        let (mut early, mut gated, mut unsafe_in_syn) = (0, 0, 0);
        for batch in batches() {
            let lab = support::lab();
            let heard = Heard::default();
            let service = service_fn({
                let heard = heard.clone();
                move |request| heard.clone().answer(request)
            });
            let at_once = |server: ServerBuilder| {
                let listener = TfoListener::builder().danger_answer_forged_addresses(true);
                server.listener(listener).shutdown_deadline(Duration::ZERO)
            };
            beside_server(&lab.host("server"), at_once, service, |handle| {
                let mut visits: Vec<_> = batch.map(|(port, seed)| Visit::new(&lab, port, seed)).collect();
                for visit in &mut visits {
                    visit.client.syn(visit.case.in_syn());
                }
                // It polls them where it accepts them: what is to run has run by the time it is counted.
                wait(|| handle.listener_stats().outcomes.syn_data == visits.len() as u64);
                wait(|| visits.iter().all(|visit| heard.of(visit.port).requests.len() >= visit.early().len()));
                lab.tap().wait_quiet(Duration::from_millis(10), PATIENCE);
                std::thread::sleep(WHILE);
                for visit in &visits {
                    visit.has_run(&heard, visit.early(), b"");
                    early += usize::from(!visit.early().is_empty());
                    unsafe_in_syn += usize::from(visit.case.released_at_most < visit.case.syn);
                }
                gated += usize::try_from(handle.listener_stats().gate.gated).unwrap();

                visits.iter_mut().for_each(Visit::go_on);
                lab.tap().wait_quiet(Duration::from_millis(10), PATIENCE);
                for visit in visits.iter().filter(|visit| visit.fate == Fate::Acked) {
                    let _told = ToldOnPanic(visit.seed);
                    let case = &visit.case;
                    wait(|| {
                        let so_far = heard.of(visit.port);
                        so_far.requests.len() >= case.requests.len() && so_far.raw.len() >= case.raw().len()
                    });
                }
                std::thread::sleep(WHILE);
                // Whoever is never acked is withheld until the end.
                handle.shutdown();
                wait(|| handle.open_connections() == 0);
                for visit in &visits {
                    match visit.fate {
                        Fate::Acked => visit.has_run(&heard, &visit.case.requests, visit.case.raw()),
                        Fate::Reset | Fate::Never => visit.has_run(&heard, visit.early(), b""),
                    }
                    if visit.fate == Fate::Never && visit.case.cut() == 0 {
                        visit.client.wait_for("a RST", Packet::is_rst);
                    }
                }
            });
        }
        is_worth_something(early, gated, unsafe_in_syn);
    }
}

fn cases() -> usize {
    std::env::var("TFO_SEGMENT_CASES").map_or(300, |count| count.parse().unwrap())
}

/// Ports and seeds: a lab remembers every packet, so some cases to each. Each case has its own seed, so that it
/// can be repeated alone.
fn batches() -> impl Iterator<Item = impl Iterator<Item = (u16, u64)>> {
    let first: u64 = std::env::var("TFO_SEED").map_or(7413, |seed| seed.parse().unwrap());
    (0..cases()).step_by(100).map(move |begin| {
        (1000..).zip((begin..cases().min(begin + 100)).map(move |index| first.wrapping_add(index as u64)))
    })
}

/// There was something to release, and to withhold.
fn is_worth_something(early: usize, gated: usize, unsafe_in_syn: usize) {
    let (cases, least) = (cases(), early.min(gated).min(unsafe_in_syn));
    assert!(cases < 100 || least * 4 > cases, "{early} {gated} {unsafe_in_syn}");
}

/// One client of a server.
struct Visit<'a> {
    client: RawClient<'a>,
    port: u16,
    seed: u64,
    dice: Dice,
    case: Case,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Acked,
    Reset,
    Never,
}

impl<'a> Visit<'a> {
    fn new(lab: &'a Lab, port: u16, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let case = Case::new(&mut dice);
        let fate = [Fate::Acked, Fate::Acked, Fate::Reset, Fate::Never][dice.up_to(3)];
        Self { client: RawClient::v4(lab, port), port, seed, dice, case, fate }
    }

    /// Those requests that are complete in what is released.
    fn early(&self) -> &[Request] {
        let cut = self.case.cut();
        let count = self.case.requests.iter().take_while(|request| request.end <= cut).count();
        &self.case.requests[..count]
    }

    fn go_on(&mut self) {
        match self.fate {
            Fate::Never => _ = self.client.data_without_ack(&self.case.bytes[self.case.syn..]),
            Fate::Reset if self.dice.up_to(1) == 0 => _ = self.client.rst(),
            Fate::Reset => _ = self.client.rst_ack(),
            Fate::Acked => {
                for segment in self.case.segments(&mut self.dice) {
                    self.client.ack(segment);
                }
            }
        }
    }

    fn has_run(&self, heard: &Heard, requests: &[Request], raw: &[u8]) {
        let _told = ToldOnPanic(self.seed);
        let so_far = heard.of(self.port);
        let mut expected: Vec<_> = requests.iter().map(|request| request.heard.clone()).collect();
        let mut got = so_far.requests;
        if self.case.http2 {
            // Each of them is a task.
            expected.sort();
            got.sort();
        }
        assert_eq!(got, expected, "{:?} {}", self.fate, self.case);
        assert_eq!(so_far.raw, raw, "{:?} {}", self.fate, self.case);
        if !got.is_empty() {
            assert_eq!(so_far.released, Some(self.case.cut()), "{}", self.case);
        }
    }
}

/// What a service has got, by the client's port.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<HashMap<u16, Got>>>);

#[derive(Clone, Default)]
struct Got {
    requests: Vec<String>,
    /// Behind an upgrade.
    raw: Vec<u8>,
    released: Option<usize>,
}

impl Heard {
    fn of(&self, port: u16) -> Got {
        self.0.lock().unwrap().get(&port).cloned().unwrap_or_default()
    }

    async fn answer(
        self,
        mut request: hyper::Request<RequestBody>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let info = request.extensions().get::<AcceptInfo>().unwrap().clone();
        let port = info.remote_addr().port();
        let upgraded = request.headers().contains_key(UPGRADE).then(|| hyper::upgrade::on(&mut request));
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8_lossy(&body);
        let text = format!("{} {} {}", head.method, head.uri.path(), body.escape_debug());
        {
            let mut all = self.0.lock().unwrap();
            let got = all.entry(port).or_default();
            got.requests.push(text);
            got.released = info.released_bytes();
        }
        let mut response = Response::new(Full::default());
        if let Some(upgraded) = upgraded {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgraded.await.unwrap());
                // Smaller than what is behind it.
                let mut room = [0; 50];
                while let Ok(bytes @ 1..) = stream.read(&mut room).await {
                    let mut all = self.0.lock().unwrap();
                    all.entry(port).or_default().raw.extend_from_slice(&room[..bytes]);
                }
            });
        }
        Ok(response)
    }
}

/// What a client sends, and where it is split.
struct Case {
    bytes: Vec<u8>,
    syn: usize,
    /// The first byte of the first unsafe request.
    released_at_most: usize,
    http2: bool,
    requests: Vec<Request>,
    /// What is behind an upgrade begins here.
    raw: usize,
}

/// What a service gets of a request.
struct Request {
    heard: String,
    /// Where its last byte ends.
    end: usize,
}

impl Case {
    fn new(dice: &mut Dice) -> Self {
        let http2 = dice.up_to(4) == 0;
        let (mut bytes, mut requests) = (Vec::new(), Vec::new());
        if http2 {
            bytes.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
        }
        let mut first_unsafe = None;
        for index in 0..=dice.up_to(5) {
            let messages = if http2 { http2_message(dice, index) } else { http1_message(dice, index) };
            for (message, heard, safe) in messages {
                if !safe && first_unsafe.is_none() {
                    first_unsafe = Some(bytes.len());
                }
                bytes.extend_from_slice(&message);
                requests.push(Request { heard, end: bytes.len() });
            }
        }
        let mut raw = bytes.len();
        if !http2 && dice.up_to(2) == 0 {
            bytes.extend_from_slice(
                b"GET /up HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
            );
            requests.push(Request { heard: "GET /up ".to_owned(), end: bytes.len() });
            raw = bytes.len();
            first_unsafe.get_or_insert(raw);
            // Anything, requests too.
            let tail = [GET, POST, &dice.0.to_ne_bytes()].concat();
            bytes.extend(tail.iter().cycle().take(1 + dice.up_to(500)));
        }
        // Anywhere, but more often between two messages, where mistakes are.
        let syn = match (dice.up_to(3), first_unsafe) {
            (0, Some(at)) if at > 0 => at + dice.up_to(4),
            (1, _) => bytes.len(),
            _ => 1 + dice.up_to(bytes.len()),
        };
        let syn = syn.clamp(1, bytes.len().min(1400));
        // Of an HTTP/2 frame the beginning may be read, but not so much that it is a request.
        let frame_header = if http2 { 9 } else { 0 };
        let released_at_most = first_unsafe.map_or(usize::MAX, |at| at + frame_header);
        Self { bytes, syn, released_at_most, http2, requests, raw }
    }

    fn in_syn(&self) -> &[u8] {
        &self.bytes[..self.syn]
    }

    /// What the classifier says, which knows no more than the SYN; never more than is known here.
    fn cut(&self) -> usize {
        let cut = FirstFlight::classify(self.in_syn()).cut();
        assert!(cut <= self.released_at_most, "{self}");
        cut
    }

    fn raw(&self) -> &[u8] {
        &self.bytes[self.raw..]
    }

    /// What comes behind the SYN, the first with the ACK.
    fn segments(&self, dice: &mut Dice) -> Vec<&[u8]> {
        let mut rest = &self.bytes[self.syn..];
        let mut segments = Vec::new();
        // An ACK alone is one, too.
        if rest.is_empty() || dice.up_to(1) == 0 {
            segments.push(&rest[..0]);
        }
        while !rest.is_empty() {
            let (segment, behind) = rest.split_at((dice.up_to(300) + 1).min(rest.len()));
            segments.push(segment);
            rest = behind;
        }
        segments
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes in the SYN of {}", self.syn, self.bytes.escape_ascii())
    }
}

/// Bytes, what a service gets of them, and whether they are safe.
type Message = (Vec<u8>, String, bool);

fn http1_message(dice: &mut Dice, index: usize) -> Vec<Message> {
    let message = |method: &str, fields: &str, body: &str, heard: &str, safe: bool| {
        let bytes = format!("{method} /{index} HTTP/1.1\r\nHost: h\r\n{fields}\r\n{body}");
        (bytes.into_bytes(), format!("{method} /{index} {}", heard.escape_debug()), safe)
    };
    let (none, chunked, get) =
        ("Content-Length: 0\r\n", "Transfer-Encoding: chunked\r\n", "GET / HTTP/1.1\r\n\r\n");
    match dice.up_to(7) {
        0 => vec![message("GET", "", "", "", true)],
        1 => vec![message("HEAD", "", "", "", true)],
        2 => vec![message("OPTIONS", none, "", "", true)],
        3 => vec![message("POST", "Content-Length: 4\r\n", "body", "body", false)],
        4 => vec![message("DELETE", "", "", "", false)],
        // Bodies that look like requests.
        5 => vec![message("PUT", "Content-Length: 18\r\n", get, get, false)],
        // A GET with a body is safe until the header that says so.
        6 => vec![
            message("PATCH", "", "", "", false),
            message("GET", chunked, "4\r\nGET \r\n0\r\n\r\n", "GET ", false),
        ],
        _ => vec![message("POST", chunked, "0\r\n\r\n", "", false)],
    }
}

fn http2_message(dice: &mut Dice, index: usize) -> Vec<Message> {
    let stream = u8::try_from(2 * index + 1).unwrap();
    let safe = dice.up_to(2) > 0;
    let block =
        [&[if safe { 0x82 } else { 0x83 }, 0x86, 0x44, 2, b'/', b'0' + stream, 0x41, 6][..], b"server"];
    let block = block.concat();
    let length = u8::try_from(block.len()).unwrap();
    let method = if safe { "GET" } else { "POST" };
    let frame = [&[0, 0, length, 1, 5, 0, 0, 0, stream][..], &block].concat();
    vec![(frame, format!("{method} /{} ", char::from(b'0' + stream)), safe)]
}

/// Reads in parts of all sizes until there is nothing to be had.
async fn read_all_there_is(stream: &mut AcceptedStream, dice: &mut Dice, got: &mut Vec<u8>) {
    let mut idle = 0;
    while idle < 4 {
        let mut room = vec![0; 1 + dice.up_to(400)];
        let mut buf = ReadBuf::new(&mut room);
        let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_read(cx, &mut buf))).await;
        match polled {
            Poll::Ready(result) => {
                result.unwrap();
                assert!(!buf.filled().is_empty(), "the client has not closed");
                got.extend_from_slice(buf.filled());
            }
            Poll::Pending => {
                idle += 1;
                yield_now().await;
            }
        }
    }
}

/// Throws that follow from a seed.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        // Seeds that are neighbours, and 0, are spread over all states.
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((mixed ^ (mixed >> 31)).max(1))
    }

    /// 0 to `most`.
    fn up_to(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % (most as u64 + 1)) as usize
    }
}

/// Says which seed it was.
struct ToldOnPanic(u64);

impl Drop for ToldOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("\nthe case has TFO_SEED={} TFO_SEGMENT_CASES=1", self.0);
        }
    }
}
