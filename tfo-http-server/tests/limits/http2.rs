//! Over HTTP/2: windows, floods, and what is left of streams.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tfo_http_server::server::Limits;

use crate::frames::{
    ACK, CANCEL, CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM,
    SETTINGS, WINDOW, WINDOW_UPDATE, frame, head,
};
use crate::running::{PATIENCE, SHORT};
use crate::service::{late, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_of_zero_costs_the_stream_and_not_the_connection() {
    let server = start(Limits::default().write_timeout(SHORT));
    let mut client = Client::connect(server.address, &[(WINDOW, 0)]);
    // None of these has anything that waits for the window.
    client.get(1, "/empty");
    client.request(3, &head_of_head("/"), END_STREAM);
    // These have, however lively the connection is.
    client.get(5, "/");
    client.get(7, "/large");
    let (mut ended, begun) = (Vec::new(), Instant::now());
    while ended.len() < 4 && begun.elapsed() < PATIENCE {
        assert!(client.send(PING, 0, 0, b"are you?"), "after {ended:?}");
        if let Ok(frame) = client.poll(Duration::from_millis(20))
            && frame.ends()
        {
            ended.push((frame.stream, frame.kind, frame.payload));
        }
    }
    ended.sort();
    let ended: Vec<_> = ended.iter().map(|(stream, kind, payload)| (*stream, *kind, &**payload)).collect();
    assert!(matches!(ended[..2], [(1, HEADERS, _), (3, HEADERS, _)]), "{ended:?}");
    assert_eq!(ended[2..], [(5, RST_STREAM, &CANCEL[..]), (7, RST_STREAM, &CANCEL[..])]);
    assert_eq!((late(&server), server.handle.open_connections()), (2, 1));
    client.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]);
    client.assert_alive(9);
    drop(client);
    server.end().await;
}

/// HEAD has no index.
fn head_of_head(path: &str) -> Vec<u8> {
    let mut bytes = b"\x02\x04HEAD".to_vec();
    bytes.extend(&head(0x82, path)[1..]);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_body_has_none_over_http2_either() {
    let server = start(Limits::default());
    let io = TokioIo::new(tokio::net::TcpStream::connect(server.address).await.unwrap());
    let (mut requests, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    for (method, path, length) in [
        (Method::HEAD, "/32k", Some("32768")),
        (Method::HEAD, "/events", None),
        (Method::GET, "/status/204", None),
        (Method::GET, "/status/304", None),
    ] {
        let request = Request::builder().method(method).uri(format!("http://h{path}"));
        let response = requests.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        let told = response.headers().get("content-length").map(|value| value.to_str().unwrap());
        assert_eq!(told, length, "{path}");
        assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty(), "{path}");
    }
    // Nor is anything sent that a client would have to forget.
    let mut client = Client::connect(server.address, &[]);
    client.request(1, &head_of_head("/32k"), END_STREAM);
    let answer = client.next_of(1).unwrap();
    assert!(answer.kind == HEADERS && answer.ends(), "{answer:?}");
    drop((requests, client));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_is_not_opened_again_costs_the_stream() {
    let server = start(Limits::default().write_timeout(SHORT));
    let mut client = Client::connect(server.address, &[]);
    client.open_window(0, 100_000_000);
    client.get(1, "/large");
    // Others go on at its side.
    let mut taken = 0;
    for stream in (3..).step_by(2) {
        client.get(stream, "/32k");
        let reset = loop {
            let frame = client.poll(PATIENCE).unwrap();
            match (frame.stream, frame.kind) {
                (1, RST_STREAM) => break Some(frame.payload),
                (1, DATA) => taken += frame.payload.len(),
                (other, _) if other == stream && frame.ends() => break None,
                _ => {}
            }
        };
        if let Some(code) = reset {
            assert_eq!(code, CANCEL);
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    assert!((65_535..80_000).contains(&taken), "{taken}");
    assert_eq!((late(&server), server.handle.open_connections()), (1, 1));
    drop(client);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_within_http2_costs_the_connection() {
    let server = start(Limits::default().write_timeout(SHORT));
    let mut client = Client::connect(server.address, &[(WINDOW, 1)]);
    let begun = Instant::now();
    // A byte of it goes, and h2 has the rest, with its end.
    client.get(1, "/");
    for stream in (3..).step_by(2) {
        if !client.get(stream, "/") || !client.open_window(stream, 100) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(10));
    }
    client.wait_closed();
    assert!(begun.elapsed() >= SHORT);
    assert_eq!((late(&server), server.handle.open_connections()), (1, 0));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_be_reset_is_not_left() {
    let server = start(Limits::default().write_timeout(SHORT));
    let mut client = Client::connect(server.address, &[(WINDOW, 0)]);
    client.open_window(0, 100_000_000);
    let stalled = 2 * 60 + 1;
    for stream in 0..=60 {
        client.get(2 * stream + 1, "/16k");
    }
    thread::sleep(SHORT / 3);
    for stream in 0..60 {
        client.open_window(2 * stream + 1, 100_000);
    }
    // The last one stays shut while others come, one after the other.
    let (begun, mut reset, mut last) = (Instant::now(), false, stalled);
    while !reset {
        assert!(begun.elapsed() < PATIENCE);
        last += 2;
        assert!(client.get(last, "/32k") && client.open_window(last, 100_000));
        loop {
            let frame = client.poll(PATIENCE).unwrap();
            reset |= frame.kind == RST_STREAM && frame.stream == stalled;
            if frame.stream == last && frame.ends() {
                break;
            }
        }
        thread::sleep(SHORT / 3);
    }
    assert_eq!((late(&server), server.handle.open_connections()), (1, 1));
    drop(client);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_over_http2_has_all_of_it() {
    let second = Duration::from_secs(1);
    let server = start(Limits::default().write_timeout(second).idle_timeout(SHORT));
    let mut client = Client::connect(server.address, &[(WINDOW, 0)]);
    client.open_window(0, 100_000_000);
    client.get(1, "/1m");
    let mut taken = 0;
    // Four times as fast as it must be.
    while taken < 1024 * 1024 {
        thread::sleep(second / 8);
        assert!(client.open_window(1, 8 * 1024), "{taken} bytes");
        while let Ok(frame) = client.poll(Duration::ZERO) {
            assert_ne!(frame.kind, RST_STREAM, "{taken} bytes");
            taken += if frame.kind == DATA { frame.payload.len() } else { 0 };
        }
        // In the end, at once.
        if taken > 256 * 1024 {
            client.open_window(1, 10_000_000);
        }
    }
    assert_eq!((late(&server), taken), (0, 1024 * 1024));
    client.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]);
    client.assert_alive(3);
    // Nor is it idle when only h2 has something left for it.
    let mut client = Client::connect(server.address, &[(WINDOW, 1)]);
    client.get(1, "/");
    thread::sleep(3 * SHORT);
    client.open_window(1, 100);
    let frames = std::iter::from_fn(|| client.next_of(1)).take(3);
    let body: Vec<_> = frames.filter(|frame| frame.kind == DATA).flat_map(|frame| frame.payload).collect();
    assert_eq!(body, b"hello\n");
    drop(client);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_on_a_slow_line_wait_for_each_other() {
    let server = start(Limits::default().write_timeout(SHORT));
    let mut client = Client::connect(server.address, &[]);
    let streams = 64;
    for stream in 0..streams {
        client.get(2 * stream + 1, "/32k");
    }
    let (mut ended, mut taken) = (0, 0);
    // Five parts in the time in which one must be taken; each has its turn after many times that.
    while ended < streams {
        let frame = client.poll(PATIENCE).unwrap();
        assert!(![RST_STREAM, GOAWAY].contains(&frame.kind), "{frame:?} after {taken} bytes");
        ended += u32::from(frame.ends());
        if frame.kind == DATA {
            taken += frame.payload.len();
            thread::sleep(SHORT.mul_f64(frame.payload.len() as f64 / (5.0 * 16384.0)));
            client.open_window(0, u32::try_from(frame.payload.len()).unwrap().max(1));
        }
    }
    assert_eq!((late(&server), taken), (0, 64 * 32 * 1024));
    drop(client);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_came_before_the_crowd_is_not_to_blame_for_it() {
    let server = start(Limits::default().write_timeout(SHORT));
    let mut client = Client::connect(server.address, &[(WINDOW, 4_000_000)]);
    // These wait for each other, and for nobody else when they begin to.
    client.get(1, "/large");
    client.get(3, "/large");
    thread::sleep(SHORT / 6);
    for stream in 2..60 {
        client.get(2 * stream + 1, "/large");
    }
    // The line is never idle, and brings twelve parts in the time in which one must be taken. Whoever waits has
    // a little of it in his turn.
    let step = 1024;
    let (mut owed, mut next, begun) = (0, Instant::now(), Instant::now());
    while begun.elapsed() < 8 * SHORT {
        let frame = client.poll(PATIENCE).unwrap();
        assert!(![RST_STREAM, GOAWAY].contains(&frame.kind), "{frame:?} after {:?}", begun.elapsed());
        owed += if frame.kind == DATA { frame.payload.len() } else { 0 };
        while owed >= step {
            owed -= step;
            next += SHORT.mul_f64(step as f64 / (12.0 * 16384.0));
            thread::sleep(next.saturating_duration_since(Instant::now()));
            client.open_window(0, 1024);
        }
    }
    assert_eq!(late(&server), 0);
    drop(client);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_service_is_not_the_clients_fault() {
    let server = start(Limits::default().write_timeout(SHORT));
    let mut client = Client::connect(server.address, &[]);
    client.get(1, "/events");
    let mut events = 0;
    while let Some(frame) = client.next_of(1) {
        assert_ne!(frame.kind, RST_STREAM);
        events += usize::from(frame.kind == DATA && !frame.payload.is_empty());
        if frame.ends() {
            break;
        }
    }
    assert_eq!((late(&server), events), (0, 4));
    client.assert_alive(3);
    drop(client);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_once_in_one_packet_and_is_silent_is_idle() {
    let server = start(Limits::default().idle_timeout(SHORT));
    for path in ["/", "/32k", "/empty"] {
        let mut stream = server.connect();
        let mut flight = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        flight.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &head(0x82, path)));
        let begun = Instant::now();
        stream.write_all(&flight).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
        assert!(begun.elapsed() >= SHORT);
    }
    assert_eq!(server.handle.stats().refused.idle_timeout, 3);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_late_and_never_asks_has_the_time_of_a_first_request() {
    let server = start(Limits::default().header_timeout(4 * SHORT));
    let mut stream = server.connect();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    // Until the server's socket is full of what is answered.
    let flood = frame(PING, 0, 0, b"are you?").repeat(1000);
    stream.set_nonblocking(true).unwrap();
    let (begun, mut sent) = (Instant::now(), 0);
    while begun.elapsed() < SHORT {
        sent = (sent + stream.write(&flood[sent..]).unwrap_or(0)) % flood.len();
    }
    stream.set_nonblocking(false).unwrap();
    // What the server has not read makes a RST of its close.
    let _ = stream.read_to_end(&mut Vec::new());
    assert_eq!(server.handle.stats().refused.header_timeout, 1);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_closing_is_not_idle() {
    let server = start(Limits::default().idle_timeout(SHORT));
    let mut client = Client::connect(server.address, &[]);
    client.assert_alive(1);
    let counts = server.handle.clone();
    let end = tokio::spawn(server.end());
    let ping = std::iter::from_fn(|| client.next_of(0)).find(|frame| frame.kind == PING).unwrap();
    client.send(PING, ACK, 0, &ping.payload);
    client.wait_closed();
    // It has the last word, and does not close. That has its own time.
    thread::sleep(3 * SHORT);
    assert_eq!((counts.stats().refused.idle_timeout, counts.open_connections()), (0, 1));
    drop(client);
    end.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_control_frames() {
    let server = start(Limits::default().header_timeout(SHORT).write_timeout(SHORT));
    for flood in [
        frame(PING, 0, 0, b"are you?"),
        frame(SETTINGS, 0, 0, &[]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
    ] {
        let flood = flood.repeat(50_000);
        let before = server.handle.stats().refused.header_timeout;
        // Who reads what is answered has the time for a first request, and no more.
        let mut client = Client::connect(server.address, &[]);
        let begun = Instant::now();
        while client.send_all(&flood) {
            assert!(begun.elapsed() < PATIENCE);
        }
        assert!(begun.elapsed() >= SHORT - Duration::from_millis(20));
        client.wait_closed();
        assert_eq!(server.handle.stats().refused.header_timeout, before + 1);
        // Who does not read, not even that.
        let mut stream = server.connect();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let begun = Instant::now();
        while stream.write_all(&flood).is_ok() {}
        assert!(begun.elapsed() < PATIENCE);
    }
    assert_eq!(server.handle.open_connections(), 0);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_resets_what_it_asks_for_is_told_to_go() {
    let server = start(Limits::default().requests_per_connection(1000));
    let mut client = Client::connect(server.address, &[]);
    let begun = Instant::now();
    for stream in (1..).step_by(2) {
        if !client.get(stream, "/large") || !client.send(RST_STREAM, 0, stream, &CANCEL) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE);
    }
    client.wait_closed();
    let stats = server.handle.stats();
    assert!(stats.statuses[1] < 3000, "{stats:?}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_go_when_it_is_told_to_is_cut_off() {
    let server = start(Limits::default().requests_per_connection(10).streams(8));
    let mut client = Client::connect(server.address, &[]);
    let mut answered = 0;
    // The GOAWAY comes with a PING, which is not answered.
    for stream in (1..).step_by(2) {
        if !client.get(stream, "/") {
            break;
        }
        match client.next_of(stream) {
            Some(head) => assert_eq!(head.kind, HEADERS),
            None => break,
        }
        answered += 1;
        assert!(answered < 100);
    }
    // (10 + 8) × 2: all that may have been under way.
    assert!((11..40).contains(&answered), "{answered}");
    client.wait_closed();
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_trickle_through_continuation() {
    let limits = Limits::default().header_timeout(2 * SHORT).idle_timeout(2 * SHORT);
    let server = start(limits);
    // As the first request, and as a later one; some bytes at a time, and all at once.
    for (first, flood) in [(true, false), (false, false), (true, true), (false, true)] {
        let mut client = Client::connect(server.address, &[]);
        if !first {
            client.assert_alive(1);
        }
        client.send(HEADERS, END_STREAM, 3, &head(0x82, "/"));
        let begun = Instant::now();
        let field = b"\x00\x01x\x01y".repeat(if flood { 1000 } else { 1 });
        while client.send(CONTINUATION, 0, 3, &field) {
            assert!(begun.elapsed() < PATIENCE);
            if !flood {
                thread::sleep(Duration::from_millis(20));
            }
        }
        client.wait_closed();
        // The next one has an honest head.
        let mut client = Client::connect(server.address, &[]);
        client.send(HEADERS, END_STREAM, 1, &head(0x82, "/"));
        client.send(CONTINUATION, END_HEADERS, 1, b"\x00\x01x\x01y");
        assert_eq!(client.next_of(1).unwrap().payload[0], 0x88);
    }
    server.end().await;
}
