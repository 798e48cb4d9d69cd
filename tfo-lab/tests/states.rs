//! Every state of a stream with everything that can be asked of it, used without hyper.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use support::http::{Runtime, run};
use support::tcp::{Received, TcpServer, dial, fetch_cookie, known, once, phase};
use tfo_http::{SynOutcome, TfoConnector, TfoStream};
use tfo_lab::{Flow, Lab, Packet, Record, Tap, Verdict, lab_tests};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};
use tokio::time::{sleep, timeout};

/// Long, so that what is polled in `SynSent` is polled in it.
const RTT: Duration = Duration::from_millis(60);

/// A request without its end: whatever follows, it may ride.
const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: server\r\nX: ";

const PHASES: [&str; 5] = ["Idle", "Corked", "SynSent", "Draining", "Open"];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Read,
    Write,
    EmptyWrite,
    VectoredWrite,
    Flush,
    FlushTwice,
    Shutdown,
    Drop,
}

lab_tests! {
    fn a_read() {
        every_state(Op::Read, ["pending"; 5]);
    }

    fn a_write() {
        every_state(Op::Write, ["4", "4", "pending", "pending", "4"]);
    }

    fn an_empty_write() {
        every_state(Op::EmptyWrite, ["0", "0", "pending", "pending", "0"]);
    }

    fn a_vectored_write() {
        every_state(Op::VectoredWrite, ["4", "4", "pending", "pending", "4"]);
    }

    fn a_flush() {
        every_state(Op::Flush, ["0", "0", "0", "pending", "0"]);
    }

    fn a_flush_twice() {
        every_state(Op::FlushTwice, ["0", "0", "0", "pending", "0"]);
    }

    fn a_shutdown() {
        every_state(Op::Shutdown, ["0", "pending", "pending", "pending", "0"]);
    }

    fn a_drop() {
        every_state(Op::Drop, ["0"; 5]);
    }
}

fn every_state(op: Op, expected: [&'static str; 5]) {
    let lab = Lab::builder().rtt(RTT).build().unwrap();
    let (client, server) = (lab.host("client"), lab.host("server"));
    let addr = server.addr(80);
    let (_server, received) = TcpServer::echo_with(&server, addr, Some(4096));
    // As long as it holds, the client's segments behind the SYN are lost.
    let hold = Arc::new(AtomicBool::new(false));
    let held = hold.clone();
    lab.middlebox(move |packet: &Packet| {
        let to_server = packet.dst() == Some(addr);
        let data = to_server && !packet.is_syn() && !packet.payload().is_empty();
        if data && held.load(Ordering::SeqCst) { Verdict::Drop } else { Verdict::Pass }
    });
    let mut bench = Bench { addr, known: false, hold, tap: lab.tap(), received };
    run(&client, Runtime::CurrentThread, async move {
        fetch_cookie(addr).await;
        // Its connect was deferred, or none was made.
        for known in [false, true] {
            bench.known = known;
            for (phase, expected) in PHASES.into_iter().zip(expected) {
                bench.case(phase, op, expected).await;
            }
        }
    });
}

struct Bench {
    addr: SocketAddr,
    /// Whether rides are known to arrive.
    known: bool,
    hold: Arc<AtomicBool>,
    tap: Tap,
    received: Received,
}

/// A stream that has been brought to a state.
struct Ready {
    stream: TfoStream,
    written: Vec<u8>,
    /// How much of the echo has been read.
    read: usize,
}

impl Bench {
    async fn case(&self, start: &str, op: Op, expected: &str) {
        let what = format!("{start}, {op:?}, known {}", self.known);
        self.flows();
        self.tap.clear();
        let before = self.received.ended().len();
        let mut ready = self.bring_to(start).await;
        assert_eq!(phase(&ready.stream), start, "{what}");
        if op == Op::Drop {
            return self.drop_it(ready, start, before).await;
        }
        let first = once(|cx| Poll::Ready(perform(Pin::new(&mut ready.stream), op, cx))).await;
        assert!(matches!(first, Poll::Ready(ref first) if first == expected), "{what}: {first:?}");
        if expected == "4" {
            ready.written.extend_from_slice(b"more");
        }
        let releases = matches!(op, Op::Flush | Op::FlushTwice | Op::Shutdown);
        if start == "Idle" || start == "Corked" && !releases {
            assert!(self.flows().is_empty(), "{what}\n{}", self.tap.ladder());
        }
        self.hold.store(false, Ordering::SeqCst);
        match (start, op) {
            ("Idle", Op::Shutdown) => self.is_closed(ready.stream).await,
            _ => self.finish(ready, op, &what).await,
        }
    }

    async fn is_closed(&self, mut stream: TfoStream) {
        assert_eq!(phase(&stream), "Closed");
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(stream.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        stream.flush().await.unwrap();
        stream.shutdown().await.unwrap();
        drop(stream);
        assert!(self.flows().is_empty(), "{}", self.tap.ladder());
    }

    /// However it goes on, the server gets what was written, and a FIN behind it.
    async fn finish(&self, ready: Ready, op: Op, what: &str) {
        let Ready { mut stream, mut written, read } = ready;
        if op != Op::Shutdown {
            stream.write_all(b"tail").await.unwrap();
            written.extend_from_slice(b"tail");
        }
        stream.shutdown().await.unwrap();
        let mut echo = Vec::new();
        timeout(Duration::from_secs(10), stream.read_to_end(&mut echo)).await.unwrap().unwrap();
        assert!(echo == written[read..], "{what}: {} bytes of {}", echo.len(), written.len());
        assert_eq!(self.received.ended().pop().unwrap().len(), written.len());
        let mut flows = self.flows();
        assert_eq!(flows.len(), 1, "{what}\n{}", self.tap.ladder());
        let flow = flows.remove(0);
        let sent: Vec<_> = flow.sent_by_client().map(Record::packet).collect();
        let syn = flow.syn().seq().unwrap();
        let fin = sent.iter().find(|packet| packet.is_fin()).expect("a FIN");
        let end = fin.seq().unwrap().wrapping_add(fin.payload().len() as u32);
        assert_eq!(end.wrapping_sub(syn.wrapping_add(1)) as usize, written.len(), "{what}\n{flow}");
        assert!(!sent.iter().any(|packet| packet.is_rst()), "{what}\n{flow}");
        let info = stream.conn_info();
        assert_eq!(info.outcome(), rides(&written), "{what}\n{flow}");
        assert_eq!(info.syn_data_bytes(), flow.syn().payload().len());
        assert!(flow.syn().payload() == &written[..flow.syn().payload().len()]);
    }

    async fn drop_it(&self, ready: Ready, start: &str, before: usize) {
        let Ready { stream, written, .. } = ready;
        drop(stream);
        self.hold.store(false, Ordering::SeqCst);
        if start == "Idle" || start == "Corked" {
            return assert!(self.flows().is_empty(), "{start}\n{}", self.tap.ladder());
        }
        timeout(Duration::from_secs(10), async {
            while self.received.ended().len() == before {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the server has its end");
        let got = self.received.ended().pop().unwrap();
        assert!(written.starts_with(&got) && got.len() >= HEAD.len(), "{start}: {}", got.len());
        assert!(start == "Draining" || got == written, "{start}");
    }

    async fn bring_to(&self, phase: &str) -> Ready {
        let mut connector = TfoConnector::new();
        let mut written = HEAD.to_vec();
        if phase == "Draining" {
            connector.set_send_buffer_size(Some(4096));
            self.hold.store(true, Ordering::SeqCst);
            written = format!("GET /{} HTTP/1.1\r\nX: ", "x".repeat(14_000)).into_bytes();
        }
        if self.known {
            known(&connector, self.addr);
        }
        let mut stream = dial(&connector, self.addr).await;
        if phase == "Idle" {
            return Ready { stream, written: Vec::new(), read: 0 };
        }
        stream.write_all(&written).await.unwrap();
        let mut read = 0;
        match phase {
            "Corked" => {}
            "Draining" => {
                timeout(2 * RTT, stream.flush()).await.expect_err("the send buffer is full");
            }
            _ => stream.flush().await.unwrap(),
        }
        if phase == "Open" {
            let mut echo = vec![0; HEAD.len()];
            read = stream.read_exact(&mut echo).await.unwrap();
            assert_eq!(echo, HEAD);
        }
        Ready { stream, written, read }
    }

    fn flows(&self) -> Vec<Flow> {
        assert!(self.tap.wait_quiet(Duration::from_millis(20), Duration::from_secs(10)));
        self.tap.flows_of(80)
    }
}

/// What becomes of a first flight that begins so.
fn rides(written: &[u8]) -> SynOutcome {
    if written.starts_with(b"GET") { SynOutcome::SynDataAcked } else { SynOutcome::DataLess }
}

/// Polls once, twice where the operation is that.
fn perform(mut stream: Pin<&mut TfoStream>, op: Op, cx: &mut Context<'_>) -> String {
    let mut bytes = [0; 8];
    let result = match op {
        Op::Read => {
            let mut buffer = ReadBuf::new(&mut bytes);
            stream.poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().len())
        }
        Op::Write => stream.poll_write(cx, b"more"),
        Op::EmptyWrite => stream.poll_write(cx, b""),
        Op::VectoredWrite => {
            let slices = [&b""[..], b"mo", b"", b"re"].map(IoSlice::new);
            stream.poll_write_vectored(cx, &slices)
        }
        Op::Flush => stream.poll_flush(cx).map_ok(|()| 0),
        Op::FlushTwice => {
            let first = stream.as_mut().poll_flush(cx).map_ok(|()| 0);
            let second = stream.poll_flush(cx).map_ok(|()| 0);
            assert_eq!(first.is_pending(), second.is_pending());
            second
        }
        Op::Shutdown => stream.poll_shutdown(cx).map_ok(|()| 0),
        Op::Drop => unreachable!("it takes the stream"),
    };
    match result {
        Poll::Pending => "pending".to_owned(),
        Poll::Ready(result) => result.unwrap().to_string(),
    }
}
