//! Whatever is split wherever: nothing unsafe is read before the proof, and what is read is what was sent.
//!
//! `TFO_SEGMENT_CASES` sets the number of cases, `TFO_SEED` the first of the seeds, which count up. A failure prints
//! the seed of its case.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(any(not(target_os = "linux"), tfo_fallback), allow(unused, reason = "no TCP Fast Open there"))]

mod support;

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use support::{GET, POST, RawClient, Runtime, serve};
use tfo_http_server::AcceptedStream;
use tfo_lab::lab_tests;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::yield_now;

#[cfg(tfo_fallback)]
fn main() {}

#[cfg(not(tfo_fallback))]
lab_tests! {
    fn nothing_unsafe_comes_before_the_proof_and_everything_comes() {
        let cases = std::env::var("TFO_SEGMENT_CASES").map_or(300, |count| count.parse().unwrap());
        let first: u64 = std::env::var("TFO_SEED").map_or(7413, |seed| seed.parse().unwrap());
        let (mut early, mut gated, mut unsafe_in_syn) = (0, 0, 0);
        // A lab remembers every packet: some cases to each.
        for begin in (0..cases).step_by(100) {
            let lab = support::lab();
            serve(&lab, Runtime::CurrentThread, |builder| builder, async |listener| {
                for index in begin..cases.min(begin + 100) {
                    // Each case has its own seed, so that it can be repeated alone.
                    let seed = first.wrapping_add(index as u64);
                    let _told = ToldOnPanic(seed);
                    let mut dice = Dice::new(seed);
                    let case = Case::new(&mut dice);
                    let mut client = RawClient::v4(&lab, 1000 + u16::try_from(index % 100).unwrap());
                    client.syn(case.in_syn());
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut got = Vec::new();
                    read_all_there_is(&mut stream, &mut dice, &mut got).await;
                    let text = case.bytes.escape_ascii();
                    assert!(!stream.info().is_proven());
                    assert!(case.in_syn().starts_with(&got), "{index}: {text}");
                    assert!(got.len() <= case.released_at_most, "{index}: {} of {text}", got.len());
                    early += usize::from(!got.is_empty());
                    gated += usize::from(stream.info().was_gated());
                    unsafe_in_syn += usize::from(case.released_at_most < case.syn);

                    let mut sent = case.syn;
                    if sent == case.bytes.len() {
                        client.ack(b"");
                    }
                    while sent < case.bytes.len() {
                        let next = (sent + dice.up_to(300) + 1).min(case.bytes.len());
                        client.ack(&case.bytes[sent..next]);
                        sent = next;
                        read_all_there_is(&mut stream, &mut dice, &mut got).await;
                    }
                    while got.len() < case.bytes.len() {
                        let room = 1 + dice.up_to(400);
                        got.extend(support::read_counted(&mut stream, room, &mut 0).await.unwrap());
                    }
                    assert_eq!(got, case.bytes, "{index}");
                }
            });
        }
        // It is worth something only if there was something to release, and to withhold.
        let enough = early * 4 > cases && gated * 4 > cases && unsafe_in_syn * 4 > cases;
        assert!(cases < 100 || enough, "{early} {gated} {unsafe_in_syn}");
    }
}

/// What a client sends, and where it is split.
struct Case {
    bytes: Vec<u8>,
    syn: usize,
    /// The first byte of the first unsafe request.
    released_at_most: usize,
}

impl Case {
    fn new(dice: &mut Dice) -> Self {
        let http2 = dice.up_to(4) == 0;
        let mut bytes = Vec::new();
        if http2 {
            bytes.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
        }
        let mut first_unsafe = None;
        for index in 0..=dice.up_to(5) {
            let (message, safe) = if http2 { http2_message(dice, index) } else { http1_message(dice) };
            if !safe && first_unsafe.is_none() {
                first_unsafe = Some(bytes.len());
            }
            bytes.extend_from_slice(&message);
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
        Self { bytes, syn, released_at_most }
    }

    fn in_syn(&self) -> &[u8] {
        &self.bytes[..self.syn]
    }
}

fn http1_message(dice: &mut Dice) -> (Vec<u8>, bool) {
    let messages: [(&[u8], bool); 8] = [
        (GET, true),
        (b"HEAD /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n", true),
        (b"OPTIONS * HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", true),
        (POST, false),
        (b"DELETE /1 HTTP/1.1\r\nHost: h\r\n\r\n", false),
        // Bodies that look like requests.
        (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\n", false),
        (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nGET \r\n0\r\n\r\n", false),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false),
    ];
    let (message, safe) = messages[dice.up_to(messages.len() - 1)];
    // A GET with a body is safe until the header that says so.
    if !safe && message.starts_with(b"GET") {
        return ([b"PATCH / HTTP/1.1\r\n\r\n", message].concat(), false);
    }
    (message.to_vec(), safe)
}

fn http2_message(dice: &mut Dice, index: usize) -> (Vec<u8>, bool) {
    let stream = u8::try_from(2 * index + 1).unwrap();
    let safe = dice.up_to(2) > 0;
    let block = [&[if safe { 0x82 } else { 0x83 }, 0x86, 0x84, 0x41, 6][..], b"server"].concat();
    let length = u8::try_from(block.len()).unwrap();
    ([&[0, 0, length, 1, 5, 0, 0, 0, stream][..], &block].concat(), safe)
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
