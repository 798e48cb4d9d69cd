//! Connections of a `Server` that are kept alive: they wait together, and each goes its own way when its next
//! request asks for more than an answer.

// Elsewhere none is kept.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests")]

mod clients;
#[path = "../running/mod.rs"]
mod running;

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use clients::{Client, kept, request, wait_for, waiting};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Bytes;
use hyper::header::{HeaderValue, UPGRADE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use running::{PATIENCE, Running, SHORT, status};
use socket2::SockRef;
use tfo_http_server::server::{Limits, RequestBody, Server, ServerBuilder};
use tokio::sync::Notify;
use tokio::time::sleep;

/// What `/wait` waits for.
static GO: Notify = Notify::const_new();
const LARGE: usize = 5_000_000;

async fn answer(mut request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    if request.method() == Method::POST {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let text = format!("{} {}", body.len(), body == pattern(body.len()));
        return Ok(Response::new(text.into()));
    }
    match &*path {
        "/wait" => GO.notified().await,
        "/block" => thread::sleep(SHORT),
        "/panic" => panic!("on purpose"),
        "/large" => return Ok(Response::new(pattern(LARGE).into())),
        "/echo" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let (mut from, mut to) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
                tokio::io::copy(&mut from, &mut to).await
            });
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(UPGRADE, HeaderValue::from_static("echo"));
            return Ok(response);
        }
        _ => {}
    }
    Ok(Response::new(path.into()))
}

/// Bytes that are not the same when they are moved.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

/// A server whose worker is a thread of its own: the tests block, and connections are polled where they are
/// accepted.
fn start(builder: ServerBuilder) -> Running {
    static ROOM: Once = Once::new();
    ROOM.call_once(|| {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(20_000), hard).unwrap();
    });
    Running::with(builder.workers(1), service_fn(answer))
}

fn limited(limits: Limits) -> Running {
    start(Server::builder().limits(limits))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_kept_waits_in_an_instance_of_its_own() {
    let server = start(Server::builder());
    let mut clients = kept(&server, 100);
    assert_eq!(waiting(&server), (100, 0));
    for round in 0..3 {
        clients.iter_mut().for_each(|client| client.get(&format!("/{round}")));
        assert_eq!(waiting(&server), (100, 0));
    }
    // What has to be waited for is tokio's, and stays so.
    clients[7].write("GET /later");
    wait_for("one is a task", || waiting(&server) == (99, 1));
    clients[7].write(" HTTP/1.1\r\nHost: h\r\n\r\n");
    clients[7].expect("/later");
    assert_eq!(waiting(&server), (99, 1));
    drop(clients);
    wait_for("all are gone", || waiting(&server) == (0, 0));
    assert_eq!(server.handle.open_connections(), 0);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_not_asked_yet_waits_there_too() {
    let server = limited(Limits::default().header_timeout(3 * SHORT).idle_timeout(PATIENCE));
    let begun = Instant::now();
    let mut clients: Vec<_> = (0..30).map(|_| Client::new(&server)).collect();
    wait_for("all are kept", || waiting(&server) == (30, 0));
    // No answer, and no task, came of them.
    assert_eq!((server.handle.open_connections(), server.handle.stats().http1), (30, 0));
    clients.truncate(21);
    wait_for("nine are gone", || waiting(&server) == (21, 0));
    let mut part = clients.remove(20);
    part.write("GET /part HTTP/1.1\r\n");
    for client in &mut clients[..10] {
        client.get("/asked");
    }
    // Half of a head is a task's affair.
    wait_for("one is a task", || waiting(&server).1 == 1);
    assert!(part.rest().starts_with("HTTP/1.1 408 "));
    for client in clients.split_off(10) {
        assert_eq!(client.rest(), "");
    }
    assert!(begun.elapsed() >= 3 * SHORT);
    clients.iter_mut().for_each(|client| client.get("/again"));
    let stats = server.handle.stats();
    assert_eq!((stats.refused.header_timeout, stats.refused.idle_timeout, stats.http1), (11, 0, 11));
    assert_eq!(stats.at_once, 0);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_not_asked_when_the_end_begins_may_ask_still() {
    let server = start(Server::builder());
    let mut clients: Vec<_> = (0..3).map(|_| Client::new(&server)).collect();
    wait_for("all are kept", || waiting(&server) == (3, 0));
    server.handle.shutdown();
    wait_for("all are tasks", || waiting(&server) == (0, 3));
    for client in &mut clients[..2] {
        thread::sleep(SHORT / 3);
        client.send("/late");
    }
    let silent = clients.remove(2);
    for client in clients {
        let answer = client.rest();
        assert!(answer.contains("connection: close") && answer.ends_with("/late"), "{answer}");
    }
    assert_eq!(silent.rest(), "");
    assert_eq!(server.end().await.cut_off, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_client_has_its_own_answers_in_order() {
    let server = start(Server::builder());
    let mut clients = kept(&server, 100);
    let before = server.handle.stats();
    for round in 0..20 {
        for (index, client) in clients.iter_mut().enumerate() {
            client.get(&format!("/{index}/{round}"));
        }
    }
    let stats = server.handle.stats();
    assert_eq!((stats.http1, stats.statuses[1]), (before.http1, before.statuses[1] + 2000));
    assert_eq!(waiting(&server), (100, 0));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_may_ask_at_once() {
    let server = start(Server::builder());
    // More than are looked at at a time.
    let mut clients = kept(&server, 300);
    for round in 0..3 {
        for (index, client) in clients.iter_mut().enumerate() {
            client.send(&format!("/{index}/{round}"));
        }
        for (index, client) in clients.iter_mut().enumerate() {
            client.expect(&format!("/{index}/{round}"));
        }
    }
    assert_eq!(waiting(&server), (300, 0));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_a_head_has_the_time_of_a_head() {
    let server = limited(Limits::default().header_timeout(SHORT));
    let [mut slow, mut never, mut other] = <[_; 3]>::try_from(kept(&server, 3)).ok().unwrap();
    // Nobody who is kept has begun one.
    thread::sleep(2 * SHORT);
    slow.write("GET /slow HTTP/1.1\r\nHo");
    never.write("GET /never HT");
    let begun = Instant::now();
    thread::sleep(SHORT / 6);
    slow.write("st: h\r\n\r\n");
    slow.expect("/slow");
    let answer = never.rest();
    assert_eq!(status(&answer), "408", "{answer}");
    assert!(begun.elapsed() >= SHORT - Duration::from_millis(20), "{:?}", begun.elapsed());
    thread::sleep(SHORT);
    slow.get("/again");
    slow.write("GET /");
    assert_eq!(status(&slow.rest()), "408");
    other.get("/other");
    let refused = server.handle.stats().refused;
    assert_eq!((refused.header_timeout, refused.idle_timeout), (2, 0));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_comes_with_the_end_of_all_requests() {
    let server = start(Server::builder());
    for together in [true, false] {
        let [mut client, mut other] = <[_; 2]>::try_from(kept(&server, 2)).ok().unwrap();
        if together {
            // The worker is not to see one before the other.
            other.send("/block");
            thread::sleep(SHORT / 6);
        }
        client.send("/last");
        client.0.get_ref().shutdown(Shutdown::Write).unwrap();
        client.expect("/last");
        assert_eq!(client.rest(), "");
        if together {
            other.expect("/block");
        }
        other.0.get_ref().shutdown(Shutdown::Write).unwrap();
        assert_eq!(other.rest(), "");
    }
    wait_for("all are gone", || server.handle.open_connections() == 0);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_its_handler_keeps_nobody_waiting() {
    let server = start(Server::builder());
    let mut clients = kept(&server, 10);
    let mut patient = clients.swap_remove(3);
    patient.send("/wait");
    wait_for("one is a task", || waiting(&server) == (9, 1));
    for round in 0..20 {
        clients.iter_mut().for_each(|client| client.get(&format!("/{round}")));
    }
    // In its place.
    clients.extend(kept(&server, 1));
    assert!(!patient.is_closed());
    GO.notify_one();
    patient.expect("/wait");
    patient.get("/third");
    // Its end is its own.
    drop(patient);
    wait_for("it is gone", || server.handle.open_connections() == 10);
    clients.iter_mut().for_each(|client| client.get("/last"));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_costs_its_own_connection_only() {
    let server = start(Server::builder());
    let mut clients = kept(&server, 10);
    for left in (7..10).rev() {
        let mut client = clients.swap_remove(2);
        client.send("/panic");
        let rest = client.rest();
        assert!(["", "<reset>"].contains(&&*rest), "{rest}");
        clients.iter_mut().for_each(|client| client.get("/next"));
        wait_for("it is gone", || server.handle.open_connections() == left);
    }
    clients.extend(kept(&server, 3));
    clients.iter_mut().for_each(|client| client.get("/last"));
    assert_eq!(server.end().await.cut_off, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_upgraded_is_not_watched_any_more() {
    let server = start(Server::builder());
    let mut clients = kept(&server, 5);
    let mut tunnel = clients.swap_remove(1);
    tunnel.write("GET /echo HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    let head = tunnel.head();
    assert_eq!(status(&head), "101", "{head}");
    wait_for("it is the reactor's", || waiting(&server) == (4, 1));
    // In its place.
    clients.extend(kept(&server, 1));
    let said = pattern(100_000);
    let mut heard = vec![0; said.len()];
    for _ in 0..5 {
        tunnel.write(&said);
        tunnel.0.read_exact(&mut heard).unwrap();
        assert!(heard == said);
        clients.iter_mut().for_each(|client| client.get("/next"));
    }
    tunnel.write("the end");
    tunnel.0.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(tunnel.rest(), "the end");
    assert_eq!(waiting(&server), (5, 0));
    clients.iter_mut().for_each(|client| client.get("/last"));
    assert_eq!(server.handle.open_connections(), 5);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_and_a_slow_reader() {
    let server = start(Server::builder());
    let mut clients = kept(&server, 3);
    let mut slow = clients.pop().unwrap();
    for client in &mut clients {
        client.write("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n");
        client.write(pattern(1_000_000));
        client.expect("1000000 true");
    }
    slow.send("/large");
    wait_for("it is a task", || waiting(&server).0 == 0);
    clients.iter_mut().for_each(|client| client.get("/next"));
    let head = slow.head();
    assert!(head.contains(&format!("content-length: {LARGE}\r\n")), "{head}");
    let mut body = vec![0; LARGE];
    for part in body.chunks_mut(LARGE / 100) {
        slow.0.read_exact(part).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
    assert!(body == pattern(LARGE));
    for client in clients.iter_mut().chain([&mut slow]) {
        client.send("/large");
        assert!(client.body() == pattern(LARGE));
        client.get("/last");
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_nothing_to_say_is_closed_and_nobody_else() {
    let server = limited(Limits::default().idle_timeout(SHORT));
    let mut busy = Client::new(&server);
    let asked = |_| {
        // Its time has not begun yet.
        let begun = Instant::now();
        let mut client = Client::new(&server);
        client.get("/first");
        (client, begun)
    };
    let mut idle: Vec<_> = (0..100).map(asked).collect();
    let begun = Instant::now();
    let mut next = begun;
    let mut took = Vec::new();
    while !idle.is_empty() {
        if next <= Instant::now() {
            busy.get("/busy");
            next = Instant::now() + SHORT / 3;
        }
        idle.retain(|(client, begun)| {
            let closed = client.is_closed();
            took.extend(closed.then(|| begun.elapsed()));
            !closed
        });
        thread::sleep(Duration::from_millis(2));
        assert!(begun.elapsed() < PATIENCE, "{} are open", idle.len());
    }
    took.sort();
    assert!(took[0] >= SHORT && took[99] < 2 * SHORT, "{took:?}");
    for _ in 0..9 {
        busy.get("/busy");
        thread::sleep(SHORT / 3);
    }
    let handle = &server.handle;
    assert_eq!((handle.stats().refused.idle_timeout, handle.open_connections()), (100, 1));
    busy.get("/busy");
    assert_eq!(busy.rest(), "");
    assert_eq!(server.handle.stats().refused.idle_timeout, 101);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_nothing_to_say_is_closed_while_others_have_much() {
    let server = limited(Limits::default().idle_timeout(15 * SHORT));
    // More than are looked at at a time, so that the worker has always something to do.
    let mut busy = kept(&server, 500);
    let begun = Instant::now();
    let mut idle = kept(&server, 10);
    busy.iter_mut().for_each(|client| client.send("/busy"));
    while !idle.is_empty() {
        for client in &mut busy {
            client.expect("/busy");
            client.send("/busy");
        }
        idle.retain(|client| !client.is_closed());
        assert!(begun.elapsed() < 60 * SHORT, "{} are open", idle.len());
    }
    assert!(begun.elapsed() >= 15 * SHORT);
    assert_eq!(server.handle.stats().refused.idle_timeout, 10);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_closes_who_is_kept() {
    let server = start(Server::builder());
    let mut clients = kept(&server, 100);
    let mut patient = clients.pop().unwrap();
    patient.write("GET /part");
    wait_for("one is a task", || waiting(&server) == (99, 1));
    let begun = Instant::now();
    assert_eq!(server.end().await.cut_off, 0);
    // The deadline is 10 s.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    for client in clients {
        assert_eq!(client.rest(), "");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_come_before_the_end_is_answered() {
    let server = start(Server::builder());
    let [mut blocks, mut asks, idle] = <[_; 3]>::try_from(kept(&server, 3)).ok().unwrap();
    blocks.send("/block");
    thread::sleep(SHORT / 3);
    // It is the worker that is late.
    asks.send("/asked");
    server.handle.shutdown();
    blocks.expect("/block");
    let answer = asks.rest();
    assert!(answer.contains("connection: close") && answer.ends_with("/asked"), "{answer}");
    assert_eq!(blocks.rest() + &idle.rest(), "");
    assert_eq!(server.end().await.cut_off, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_resets_is_forgotten() {
    let server = start(Server::builder());
    let mut clients = kept(&server, 100);
    for (index, client) in clients.drain(50..).enumerate() {
        let stream = client.0.get_ref();
        if index % 2 == 0 {
            (&mut &*stream).write_all(request("/lost").as_bytes()).unwrap();
        }
        SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    wait_for("half are gone", || server.handle.open_connections() == 50);
    clients.iter_mut().for_each(|client| client.get("/next"));
    for client in clients.drain(..) {
        SockRef::from(client.0.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
    }
    wait_for("all are gone", || server.handle.open_connections() == 0);
    kept(&server, 100).iter_mut().for_each(|client| client.get("/last"));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_do_not_wait_for_answers() {
    let server = start(Server::builder());
    // hyper takes 16 in a turn.
    for many in [2, 15, 16, 17, 100] {
        let requests: String = (0..many).map(|index| request(&format!("/{index}"))).collect();
        let half = request("/half");
        for cut in [0, 10] {
            let mut client = kept(&server, 1).remove(0);
            for _ in 0..3 {
                client.write(requests.clone() + &half[..cut]);
                (0..many).for_each(|index| client.expect(&format!("/{index}")));
                if cut > 0 {
                    thread::sleep(SHORT / 10);
                    assert!(!client.is_closed());
                    client.write(&half[cut..]);
                    client.expect("/half");
                }
            }
            // With the first request, too.
            let mut client = Client::new(&server);
            client.write(requests.clone() + &half);
            (0..many).for_each(|index| client.expect(&format!("/{index}")));
            client.expect("/half");
        }
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_kept_counts_as_open() {
    let server = limited(Limits::default().connections(5));
    let mut clients = kept(&server, 5);
    for round in 0..3 {
        assert_eq!(server.handle.open_connections(), 5);
        let mut refused = Client::new(&server);
        refused.send("/sixth");
        let answer = refused.rest();
        assert!(status(&answer) == "503" && answer.contains("retry-after: 1"), "{answer}");
        assert_eq!(server.handle.stats().refused.connections, round + 1);
        drop(clients.remove(0));
        wait_for("one is gone", || server.handle.open_connections() == 4);
        clients.extend(kept(&server, 1));
        clients.iter_mut().for_each(|client| client.get("/next"));
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_last_answer_comes_the_end() {
    let server = limited(Limits::default().requests_per_connection(3));
    for mut client in kept(&server, 10) {
        client.get("/second");
        client.send("/third");
        let answer = client.rest();
        assert!(answer.contains("connection: close") && answer.ends_with("/third"), "{answer}");
    }
    // The client may say so, too.
    for (index, mut client) in kept(&server, 10).into_iter().enumerate() {
        let close = request("/last").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        client.write(if index % 2 == 0 { close } else { request("/last").replace("1.1", "1.0") });
        let answer = client.rest();
        assert!(status(&answer) == "200" && answer.ends_with("/last"), "{answer}");
    }
    wait_for("all are gone", || server.handle.open_connections() == 0);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_kept_without_keep_alive() {
    let server = start(Server::builder().keep_alive(false));
    for _ in 0..10 {
        let (answer, _) = server.exchange(b"GET /only HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert!(answer.contains("connection: close") && answer.ends_with("/only"), "{answer}");
    }
    assert_eq!((waiting(&server), server.handle.open_connections()), ((0, 0), 0));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_is_not_kept() {
    let server = start(Server::builder());
    let mut other = kept(&server, 1).remove(0);
    let io = TokioIo::new(tokio::net::TcpStream::connect(server.address).await.unwrap());
    let (mut requests, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    for round in 0..5 {
        let request = Request::get(format!("http://h/{round}")).body(Empty::<Bytes>::new()).unwrap();
        let answer = requests.send_request(request).await.unwrap().collect().await.unwrap();
        assert_eq!(answer.to_bytes(), format!("/{round}"));
        sleep(SHORT / 3).await;
        // With the client's own.
        assert_eq!(waiting(&server).0, 1);
        other.get("/other");
    }
    assert_eq!(server.handle.stats().http2, 1);
    drop((requests, other));
    wait_for("all are gone", || server.handle.open_connections() == 0);
    server.end().await;
}
