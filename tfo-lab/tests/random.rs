//! Random operations on deferred streams: whatever the order, the bytes come back as they were.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Duration;

use support::flows;
use support::http::{RUNTIMES, Runtime, run};
use support::tcp::{TcpServer, dial, fetch_cookie, known, phase};
use tfo_http::{SynOutcome, TfoConnector, TfoStream};
use tfo_lab::{DropSynData, Lab, StripFastOpen, lab_tests};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, split};
use tokio::time::timeout;

const SEQUENCES: u64 = 320;
const AT_ONCE: u64 = 16;
/// Less than the buffers on the way hold: nobody has to read for the writer to go on.
const MOST: usize = 48 * 1024;

lab_tests! {
    fn sequences_in_one_thread() {
        sequences(Runtime::CurrentThread);
    }

    fn sequences_on_a_path_that_loses_packets() {
        for runtime in RUNTIMES {
            hostile(runtime, |lab| {
                lab.set_loss("client", "server", 0.05);
                lab.set_loss("server", "client", 0.05);
            });
        }
    }

    fn sequences_on_a_path_that_drops_data_in_the_syn() {
        let rides = hostile(Runtime::MultiThread, |lab| drop(lab.middlebox(DropSynData::new())));
        assert_eq!(rides, 0);
    }

    fn sequences_on_a_path_that_strips_the_option() {
        let rides = hostile(Runtime::MultiThread, |lab| drop(lab.middlebox(StripFastOpen::new())));
        assert_eq!(rides, 0);
    }

    /// The option goes, and the data stays: the server must not take it.
    fn sequences_with_a_server_that_has_switched_it_off() {
        let off = |lab: &Lab| lab.host("server").set_sysctl("net.ipv4.tcp_fastopen", 1).unwrap();
        assert_eq!(hostile(Runtime::MultiThread, off), 0);
    }

    fn sequences_in_several_threads() {
        sequences(Runtime::MultiThread);
    }
}

fn sequences(runtime: Runtime) {
    let lab = Lab::builder().rtt(Duration::from_millis(4)).build().unwrap();
    let (client, server) = (lab.host("client"), lab.host("server"));
    let addr = server.addr(80);
    let (_server, received) = TcpServer::echo(&server, addr);
    let (rides, silent) = run(&client, runtime, async move {
        fetch_cookie(addr).await;
        let (mut rides, mut silent) = (0, 0);
        for first in (0..SEQUENCES).step_by(AT_ONCE as usize) {
            let tasks: Vec<_> =
                (first..first + AT_ONCE).map(|seed| tokio::spawn(sequence(addr, seed))).collect();
            for (seed, task) in (first..).zip(tasks) {
                let outcome = timeout(Duration::from_secs(10), task).await;
                let outcome = outcome.unwrap_or_else(|_| panic!("seed {seed} hangs")).unwrap();
                rides += usize::from(outcome == SynOutcome::SynDataAcked);
                silent += usize::from(outcome == SynOutcome::Unknown);
            }
        }
        (rides, silent)
    });
    // All sorts have been there.
    let sequences = SEQUENCES as usize;
    assert!(rides > sequences / 10 && silent > 0, "{rides} rides, {silent} without a byte");
    assert!(rides + silent < sequences * 9 / 10, "{rides} rides, {silent} without a byte");
    let flows = flows(&lab, 80);
    assert_eq!(flows.len(), 1 + sequences - silent);
    assert_eq!(received.ended().len(), flows.len());
    let with_data = flows.iter().filter(|flow| flow.request_delivered_in_syn()).count();
    assert_eq!(with_data, rides, "what is claimed is what the wire has seen");
    assert!(flows.iter().all(|flow| !flow.sent_by_client().any(|record| record.packet().is_rst())));
}

/// The same, less of it, when the path has turned hostile behind the first visit: how many rode.
fn hostile(runtime: Runtime, turn: impl FnOnce(&Lab)) -> usize {
    let lab = Lab::builder().rtt(Duration::from_millis(4)).build().unwrap();
    let (client, server) = (lab.host("client"), lab.host("server"));
    let addr = server.addr(80);
    let (_server, _) = TcpServer::echo(&server, addr);
    run(&client, runtime, fetch_cookie(addr));
    turn(&lab);
    run(&client, runtime, async move {
        // All at once: what is lost costs a second and more.
        let tasks: Vec<_> = (0..100).map(|seed| tokio::spawn(sequence(addr, seed))).collect();
        let mut rides = 0;
        for (seed, task) in tasks.into_iter().enumerate() {
            let outcome = timeout(Duration::from_secs(25), task).await;
            let outcome = outcome.unwrap_or_else(|_| panic!("seed {seed} hangs")).unwrap();
            rides += usize::from(outcome == SynOutcome::SynDataAcked);
        }
        rides
    })
}

async fn sequence(addr: SocketAddr, seed: u64) -> SynOutcome {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let connector = TfoConnector::new();
    if seed % 2 == 1 {
        known(&connector, addr);
    }
    let stream = dial(&connector, addr).await;
    assert_eq!(phase(&stream), "Idle");
    let (stream, written, echo, log) = match dice.roll(3) {
        0 => two_tasks(stream, dice).await,
        _ => one_task(stream, dice).await,
    };
    let same = written == echo;
    assert!(same, "seed {seed}: {} bytes sent, {} came back\n{log}", written.len(), echo.len());
    stream.conn_info().outcome()
}

type End = (TfoStream, Vec<u8>, Vec<u8>, String);

async fn one_task(mut stream: TfoStream, mut dice: Dice) -> End {
    let (mut written, mut echo, mut log) = (Vec::new(), Vec::new(), String::new());
    for _ in 0..dice.roll(12) {
        match dice.roll(8) {
            0..=2 => {
                let bytes = dice.bytes(&written);
                log += &format!("write {}\n", bytes.len());
                stream.write_all(&bytes).await.unwrap();
                written.extend_from_slice(&bytes);
            }
            3 => {
                let bytes = dice.bytes(&written);
                let (one, two) = bytes.split_at(dice.roll(bytes.len() + 1));
                let count = stream.write_vectored(&[IoSlice::new(one), IoSlice::new(two)]).await.unwrap();
                log += &format!("write {count} of {}\n", bytes.len());
                written.extend_from_slice(&bytes[..count]);
            }
            4 => {
                log += "flush\n";
                stream.flush().await.unwrap();
            }
            5 | 6 => {
                let patience = Duration::from_millis(dice.roll(4) as u64);
                log += &format!("read for {patience:?}\n");
                if let Ok(result) = timeout(patience, stream.read_buf(&mut echo)).await {
                    assert!(result.unwrap() > 0, "an early end\n{log}");
                }
            }
            _ => {
                log += "yield\n";
                tokio::task::yield_now().await;
            }
        }
    }
    stream.shutdown().await.unwrap();
    stream.read_to_end(&mut echo).await.unwrap();
    (stream, written, echo, log)
}

async fn two_tasks(stream: TfoStream, mut dice: Dice) -> End {
    let (mut read, mut write) = split(stream);
    let reader = tokio::spawn(async move {
        let mut echo = Vec::new();
        read.read_to_end(&mut echo).await.unwrap();
        (read, echo)
    });
    let (mut written, mut log) = (Vec::new(), "two tasks\n".to_owned());
    for _ in 0..dice.roll(8) {
        let bytes = dice.bytes(&written);
        log += &format!("write {}\n", bytes.len());
        write.write_all(&bytes).await.unwrap();
        written.extend_from_slice(&bytes);
        match dice.roll(3) {
            0 => write.flush().await.unwrap(),
            1 => tokio::task::yield_now().await,
            _ => {}
        }
    }
    write.shutdown().await.unwrap();
    let (read, echo) = reader.await.unwrap();
    (read.unsplit(write), written, echo, log)
}

/// xorshift64*: seeded, the same everywhere.
struct Dice(u64);

impl Dice {
    /// 0 to `sides` - 1.
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % sides
    }

    /// What to write next: a request at the beginning, often, and anything behind it.
    fn bytes(&mut self, before: &[u8]) -> Vec<u8> {
        let size = match self.roll(6) {
            0 => 1,
            1 | 2 => 1 + self.roll(200),
            3 => 1 + self.roll(1500),
            4 => 1 + self.roll(5000),
            _ => 1 + self.roll(20_000),
        };
        let size = size.min(MOST.saturating_sub(before.len())).max(1);
        let begin: &[u8] = if before.is_empty() && self.roll(4) > 0 { b"GET / HTTP/1.1\r\nA: " } else { b"" };
        let letters = (0..size).map(|_| b'a' + self.roll(26) as u8);
        begin.iter().copied().chain(letters).collect()
    }
}
