//! The limits of `Server` as slow and greedy clients find them, over real sockets.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../frames/mod.rs"]
mod frames;
mod http2;
#[path = "../running/mod.rs"]
mod running;
mod service;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use frames::{
    ACK, Client, DATA, END_HEADERS, END_STREAM, HEADERS, NO_ERROR, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    frame, head,
};
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use running::{PATIENCE, SHORT, read_to_end, status};
use service::{LARGE, late, start};
use tfo_http_server::server::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_do_not_come() {
    let server = start(Limits::default().body_size(1000).body_rate(1000, SHORT).streams(20));
    // On all streams at once: nothing, or a byte at a time.
    let mut client = Client::connect(server.address, &[]);
    for stream in 0..20 {
        client.request(2 * stream + 1, &head(0x83, "/"), 0);
    }
    let mut ended = 0;
    let begun = Instant::now();
    while ended < 20 {
        for stream in 0..10 {
            client.send(DATA, 0, 2 * stream + 1, b"x");
        }
        if let Ok(frame) = client.poll(Duration::from_millis(20)) {
            // 0x88 were 200.
            assert!(frame.kind != HEADERS || frame.payload[0] != 0x88, "{frame:?}");
            ended += usize::from(frame.kind == HEADERS);
        }
        assert!(begun.elapsed() < PATIENCE);
    }
    assert_eq!(server.handle.stats().refused.body_rate, 20);
    client.assert_alive(101);
    // The same over HTTP/1, where the client waits to be asked for the body.
    let expect = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n";
    let (answer, _) = server.exchange(expect).await;
    let statuses: Vec<_> = answer.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["100", "408"], "{answer}");
    // Nobody is asked for what is too large.
    let expect = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n";
    let (answer, _) = server.exchange(expect).await;
    assert_eq!(status(&answer), "413", "{answer}");
    // A byte at a time.
    let mut slow = server.connect();
    slow.write_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n").unwrap();
    let begun = Instant::now();
    while slow.write_all(b"x").is_ok() && begun.elapsed() < PATIENCE / 2 {
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(status(&read_to_end(&mut slow)), "408");
    drop(client);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_early_answer_says_that_the_body_is_not_wanted() {
    let server = start(Limits::default().body_size(1000));
    let mut client = Client::connect(server.address, &[]);
    let mut post = head(0x83, "/");
    post.extend(b"\x0f\x0d\x045000");
    client.request(1, &post, 0);
    let answer = client.next_of(1).unwrap();
    // :status 413, with Huffman's code.
    assert_eq!((answer.kind, answer.flags), (HEADERS, END_HEADERS | END_STREAM));
    assert!(answer.payload.starts_with(b"\x48\x83\x68\x2c\xff"), "{answer:x?}");
    // RFC 9113 8.1: the client shall not send the rest, and has nothing to complain of.
    let reset = client.next_of(1).unwrap();
    assert_eq!((reset.kind, &*reset.payload), (RST_STREAM, &NO_ERROR[..]));
    // What was under way does no harm.
    client.send(DATA, END_STREAM, 1, &[b'x'; 5000]);
    client.send(PING, 0, 0, b"are you?");
    let pong = std::iter::from_fn(|| client.next_of(0)).find(|frame| frame.kind == PING).unwrap();
    assert_eq!((pong.flags, &*pong.payload), (ACK, &b"are you?"[..]));
    client.assert_alive(3);
    assert_eq!(server.handle.stats().refused.body_size, 1);
    drop(client);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_too_slow_and_one_that_is_not() {
    // A whole second: the kernel must see progress in it.
    let server = start(Limits::default().write_timeout(Duration::from_secs(1)));
    let http1 = b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n".to_vec();
    let read = |request: &[u8], bytes: usize| {
        let mut stream = server.connect();
        stream.write_all(request).unwrap();
        let (mut room, begun, mut taken) = (vec![0; bytes], Instant::now(), 0);
        while begun.elapsed() < 4 * Duration::from_secs(1) {
            match stream.read(&mut room) {
                Ok(0) | Err(_) => return Err(taken),
                Ok(some) => taken += some,
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(taken)
    };
    // 1.5 MB a second: the kernel's queue is not free by a third in a second, but it moves.
    let steady = read(&http1, 30_000);
    assert!(steady.is_ok(), "{steady:?}");
    // Nor are the windows of HTTP/2 to blame for it, which are open.
    let mut http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    http2.extend(frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]));
    http2.extend(frame(WINDOW_UPDATE, 0, 0, &100_000_000_u32.to_be_bytes()));
    http2.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &head(0x82, "/large")));
    let steady = read(&http2, 30_000);
    assert!(steady.is_ok(), "{steady:?}");
    assert_eq!(late(&server), 0);
    // 50 bytes a second.
    let _ = read(&http1, 1);
    assert_eq!(late(&server), 1);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_are_not_idle() {
    let server = start(Limits::default().idle_timeout(SHORT).header_timeout(SHORT).write_timeout(SHORT));
    for (request, expected) in [
        (&b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n"[..], "200"),
        (b"GET /echo HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", "101"),
    ] {
        let mut tunnel = server.connect();
        tunnel.write_all(request).unwrap();
        thread::sleep(3 * SHORT);
        tunnel.write_all(b"ping").unwrap();
        let said = read_to_end(&mut tunnel);
        assert!(status(&said) == expected && said.ends_with("\r\n\r\nping"), "{said}");
        // Nor late, when there is more than finds room on the way.
        let mut tunnel = server.connect();
        tunnel.write_all(request).unwrap();
        tunnel.write_all(b"more").unwrap();
        thread::sleep(4 * SHORT);
        assert!(read_to_end(&mut tunnel).len() > LARGE.len());
    }
    let io = TokioIo::new(tokio::net::TcpStream::connect(server.address).await.unwrap());
    let (mut requests, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::connect("h:1").body(Empty::<Bytes>::new()).unwrap();
    let response = requests.send_request(request).await.unwrap();
    let mut tunnel = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    sleep(3 * SHORT).await;
    tunnel.write_all(b"ping").await.unwrap();
    let mut said = Vec::new();
    timeout(PATIENCE, tunnel.read_to_end(&mut said)).await.unwrap().unwrap();
    assert_eq!(said, b"ping");
    // A request for an upgrade that is not given is one like others.
    let (answer, _) =
        server.exchange(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n").await;
    assert_eq!(status(&answer), "200", "{answer}");
    drop((requests, tunnel));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_whose_answers_are_not_read() {
    let server = start(Limits::default().write_timeout(SHORT));
    let mut stream = server.connect();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let requests = b"GET /1m HTTP/1.1\r\nHost: h\r\n\r\n".repeat(1000);
    let begun = Instant::now();
    while stream.write_all(&requests).is_ok() {}
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!((late(&server), server.handle.open_connections()), (1, 0));
    // No more of them were answered than find room on the way.
    assert!(server.handle.stats().statuses[1] < 100);
    server.end().await;
}

/// slowhttptest(1): slow heads, slow bodies, overlapping ranges, slow reading.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slowhttptest_keeps_nobody_waiting() {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&paths).any(|path| path.join("slowhttptest").exists()) {
        let required = std::env::var_os("TFO_LAB").is_some_and(|value| value == "require");
        assert!(!required, "slowhttptest is not installed (TFO_LAB=require)");
        eprintln!("\n!!! SKIPPED: slowhttptest is not installed\n");
        return;
    }
    let second = Duration::from_secs(1);
    let limits = Limits::default().header_timeout(second).idle_timeout(second).write_timeout(second);
    let server = start(limits.body_rate(1000, second));
    for mode in ["-H", "-B", "-R", "-X"] {
        let mut attack = Command::new("slowhttptest");
        // Some more at each second, for longer than the limits are.
        attack.args([mode, "-c", "200", "-r", "200", "-i", "1", "-l", "8", "-p", "5", "-s", "100000"]);
        attack.args(["-w", "256", "-y", "1024", "-n", "1", "-z", "32"]);
        attack.arg("-u").arg(format!("http://{}/large", server.address));
        let attack = thread::spawn(move || attack.output().unwrap());
        // Meanwhile honest clients come and go.
        let (mut took, mut kept) = (Vec::new(), usize::MAX);
        while !attack.is_finished() {
            let begun = Instant::now();
            let (answer, _) =
                server.exchange(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
            assert!(status(&answer) == "200" && answer.ends_with("\r\n\r\nhello\n"), "{mode}: {answer}");
            took.push(begun.elapsed());
            if late(&server) >= 200 {
                kept = kernel_keeps(server.address);
            }
            sleep(Duration::from_millis(5)).await;
        }
        let said = attack.join().unwrap();
        let said = String::from_utf8_lossy(&said.stdout);
        took.sort();
        let median = took[took.len() / 2];
        // It sees that all are closed, before its own time is over. But when it reads slowly, not before it has
        // read what its kernel has.
        match mode {
            "-X" => assert!(kept < 10, "{kept} are still in the kernel"),
            _ => assert!(said.contains("No open connections left"), "{mode}: {said}"),
        }
        assert!(median < second / 4, "{mode}: {} requests, {median:?}", took.len());
    }
    let stats = server.handle.stats();
    assert_eq!(stats.refused.connections, 0);
    let refused = stats.refused;
    for (limit, count) in [
        ("header_timeout", refused.header_timeout),
        ("body_rate", refused.body_rate),
        ("write_timeout", refused.write_timeout),
    ] {
        assert!(count >= 200, "{limit}: {stats:?}");
    }
    let begun = Instant::now();
    while server.handle.open_connections() > 0 {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(20)).await;
    }
    server.end().await;
}

/// How many connections that are closed the kernel keeps, because the client does not take the rest.
fn kernel_keeps(address: SocketAddr) -> usize {
    let port = format!(":{:04X}", address.port());
    let sockets = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap_or_default();
    let kept = |line: &&str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // proc(5): the local address, and the state; 4 is FIN_WAIT1.
        fields.get(1).is_some_and(|local| local.ends_with(&port)) && fields.get(3) == Some(&"04")
    };
    sockets.lines().filter(kept).count()
}
