//! `Server` on loopback: every kind of service over both kinds of HTTP, its limits, and its end.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "tests")]

mod running;

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::{get, post};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use running::{PATIENCE, Running, SHORT, read_to_end, status};
use tfo_http_server::server::{
    HttpService, Limits, LimitsError, RequestBody, Server, ServerBuilder, ServerError,
};
use tfo_http_server::{AcceptInfo, BindStep};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

async fn hello(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
    let info = request.extensions().get::<AcceptInfo>().unwrap();
    assert!(info.is_proven());
    let text = match (request.method(), request.uri().path()) {
        (&Method::POST, _) => match request.into_body().collect().await {
            Ok(body) => format!("{} bytes\n", body.to_bytes().len()),
            Err(_) => "no body\n".into(),
        },
        (_, "/slow") => {
            sleep(SHORT).await;
            "slow\n".into()
        }
        (_, "/large") => "x".repeat(20_000_000),
        (_, "/panic") => panic!("on purpose"),
        _ => "hello\n".into(),
    };
    Ok(Response::new(Full::from(text)))
}

async fn curl(address: SocketAddr, args: &'static [&'static str]) -> String {
    spawn_blocking(move || {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "10", "-w", "%{http_version} %{http_code}"]).args(args);
        let output = command.arg(format!("http://{address}/")).output().expect("curl is installed");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    })
    .await
    .unwrap()
}

const H1: &[&str] = &["--http1.1"];
const H2: &[&str] = &["--http2-prior-knowledge"];

fn start(builder: ServerBuilder) -> Running {
    Running::with(builder, service_fn(hello))
}

/// Both kinds of HTTP, in the caller's runtime and on workers.
async fn both<S: HttpService>(service: S) {
    for builder in [Server::builder(), Server::builder().workers(2)] {
        let server = Running::with(builder, service.clone());
        assert_eq!(curl(server.address, H1).await, "hello\n1.1 200");
        assert_eq!(curl(server.address, H2).await, "hello\n2 200");
        let stats = server.handle.stats();
        assert_eq!((stats.http1, stats.http2, stats.statuses), (1, 1, [0, 2, 0, 0, 0]));
        assert_eq!(server.handle.listener_stats().accepted, 2);
        assert_eq!(server.end().await.cut_off, 0);
    }
}

#[tokio::test]
async fn a_hyper_service_over_http1_and_http2() {
    both(service_fn(hello)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hyper_service_on_many_threads() {
    both(service_fn(hello)).await;
}

#[tokio::test]
async fn an_axum_router_over_http1_and_http2() {
    async fn hello(ConnectInfo(info): ConnectInfo<AcceptInfo>) -> String {
        assert!(info.remote_addr().ip().is_loopback());
        "hello\n".into()
    }
    let app = Router::new().route("/", get(hello)).route("/echo", post(|body: String| async { body }));
    both(hyper_util::service::TowerToHyperService::new(app.clone())).await;
    let server = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = server.local_addr();
    let handle = server.handle();
    let serving = tokio::spawn(server.serve_tower(app));
    assert_eq!(curl(address, H1).await, "hello\n1.1 200");
    handle.shutdown();
    serving.await.unwrap().unwrap();
}

#[derive(Clone)]
struct Tower;

impl tower_service::Service<Request<RequestBody>> for Tower {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        Box::pin(hello(request))
    }
}

#[tokio::test]
async fn a_tower_service_over_http1_and_http2() {
    both(hyper_util::service::TowerToHyperService::new(Tower)).await;
}

#[tokio::test]
async fn slow_and_oversized_heads() {
    let limits = Limits::default().header_timeout(SHORT).idle_timeout(SHORT).header_size(2048);
    let server = start(Server::builder().limits(limits));
    // A part of a head, a part of the HTTP/2 preface, nothing, and nothing after an answer.
    for (request, expected) in [
        (&b"GET / HTTP/1.1\r\nHost: h\r\nX-"[..], "408"),
        (b"PRI * HT", "408"),
        (b"", ""),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "200"),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HT", "200"),
    ] {
        let (answer, took) = server.exchange(request).await;
        assert_eq!(status(&answer), expected, "{answer}");
        assert!(took >= SHORT - Duration::from_millis(20), "{took:?}");
    }
    let stats = server.handle.stats();
    assert_eq!((stats.refused.header_timeout, stats.refused.idle_timeout), (3, 2));
    // Larger than allowed, and far more than what is read of it.
    let mut stream = server.connect();
    let answer = spawn_blocking(move || {
        let _ = stream.write_all(format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(200_000)).as_bytes());
        read_to_end(&mut stream)
    });
    let answer = answer.await.unwrap();
    assert!(status(&answer) == "431" && !answer.contains("reset"), "{answer}");
    let (answer, _) = server.exchange(b"NONSENSE\r\n\r\n").await;
    assert_eq!(status(&answer), "400");
    let begun = Instant::now();
    while (server.handle.stats().refused.header_size, server.handle.stats().refused.malformed) != (1, 1) {
        assert!(begun.elapsed() < PATIENCE, "{:?}", server.handle.stats());
        sleep(SHORT / 10).await;
    }
    // A client that sends a byte at a time keeps nobody else waiting, and has no more time than others.
    let mut slow = server.connect();
    let slow = spawn_blocking(move || {
        let begun = Instant::now();
        for byte in b"GET / HTTP/1.1\r\nHost: h\r\nX-Slow: ".iter().cycle() {
            if slow.write_all(&[*byte]).is_err() || begun.elapsed() > PATIENCE {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        begun.elapsed()
    });
    assert_eq!(curl(server.address, H1).await, "hello\n1.1 200");
    assert!(slow.await.unwrap() < PATIENCE / 2);
    server.end().await;
}

#[tokio::test]
async fn greedy_and_slow_bodies() {
    let limits = Limits::default().body_size(1000).body_rate(1000, SHORT);
    let server = start(Server::builder().limits(limits));
    let head = "POST / HTTP/1.1\r\nHost: h\r\n";
    let large = format!("{head}Content-Length: 3000000\r\n\r\n{}", "x".repeat(3_000_000));
    let chunks = format!(
        "{head}Transfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        "64\r\n".to_owned() + &"x".repeat(100) + "\r\n"
    );
    let many = chunks.replace("0\r\n\r\n", "")
        + &("64\r\n".to_owned() + &"x".repeat(100) + "\r\n").repeat(20)
        + "0\r\n\r\n";
    for (request, expected, refused) in [
        (format!("{head}Content-Length: 3\r\nConnection: close\r\n\r\nabc"), "200", (0, 0)),
        (chunks.replace("Host: h", "Host: h\r\nConnection: close"), "200", (0, 0)),
        (large, "413", (1, 0)),
        (many, "413", (2, 0)),
        // Half of it, and no more.
        (format!("{head}Content-Length: 100\r\n\r\nabc"), "408", (2, 1)),
    ] {
        let begun = request.len();
        let (answer, _) = server.exchange(Box::leak(request.into_boxed_str()).as_bytes()).await;
        assert!(status(&answer) == expected && !answer.contains("reset"), "{begun} bytes: {answer}");
        let stats = server.handle.stats().refused;
        assert_eq!((stats.body_size, stats.body_rate), refused);
    }
    // Over HTTP/2 too a body within the limit is taken. What is beyond it is not for this client: curl 7.88
    // gives up when an answer comes while it sends (limits.rs has one that does not).
    let small = curl(
        server.address,
        &[
            "--http2-prior-knowledge",
            "-d",
            concat!("0123456789012345678901234567890123456789", "0123456789012345678901234567890123456789"),
        ],
    );
    assert_eq!(small.await, "80 bytes\n2 200");
    server.end().await;
}

#[tokio::test]
async fn a_client_that_never_reads() {
    let server = start(Server::builder().limits(Limits::default().write_timeout(SHORT)));
    let mut stream = server.connect();
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let begun = Instant::now();
    while server.handle.stats().refused.write_timeout == 0 {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(server.handle.open_connections(), 0);
    server.end().await;
}

#[tokio::test]
async fn too_many_connections_and_requests() {
    let limits = Limits::default().connections(2).requests_per_connection(2);
    let server = start(Server::builder().limits(limits));
    let held = [server.connect(), server.connect()];
    while server.handle.open_connections() < 2 {
        sleep(Duration::from_millis(5)).await;
    }
    let (answer, _) = server.exchange(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert!(status(&answer) == "503" && answer.contains("retry-after: 1"), "{answer}");
    assert_eq!(server.handle.stats().refused.connections, 1);
    drop(held);
    while server.handle.open_connections() > 0 {
        sleep(Duration::from_millis(5)).await;
    }
    let (answer, _) =
        server.exchange(b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(answer.matches("200 OK").count(), 2, "{answer}");
    assert_eq!(answer.matches("connection: close").count(), 1, "{answer}");
    // Over HTTP/2 the connection ends by GOAWAY, when what is under way is answered.
    let io = TokioIo::new(tokio::net::TcpStream::connect(server.address).await.unwrap());
    let (mut requests, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let over = tokio::spawn(connection);
    for _ in 0..2 {
        let request = Request::get("http://h/").body(Full::<Bytes>::default()).unwrap();
        assert_eq!(requests.send_request(request).await.unwrap().status(), 200);
    }
    timeout(PATIENCE, over).await.unwrap().unwrap().unwrap();
    assert_eq!(server.handle.stats().http2, 1);
    server.end().await;
}

#[tokio::test]
async fn keep_alive_off() {
    let server = start(Server::builder().keep_alive(false));
    let (answer, _) = server.exchange(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert!(answer.contains("connection: close") && answer.ends_with("hello\n"), "{answer}");
    server.end().await;
}

#[tokio::test]
async fn the_end_answers_what_is_under_way_and_closes_the_rest() {
    for builder in [Server::builder(), Server::builder().workers(2)] {
        let server = start(builder);
        let (address, handle) = (server.address, server.handle.clone());
        let mut idle = server.connect();
        idle.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let slow = tokio::spawn(async move {
            server.exchange(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n").await.0.pipe(server)
        });
        let mut late = TcpStream::connect(address).unwrap();
        sleep(SHORT / 3).await;
        handle.shutdown();
        sleep(SHORT / 6).await;
        // It was there before: it still has a request.
        late.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let late = spawn_blocking(move || read_to_end(&mut late)).await.unwrap();
        assert!(late.contains("connection: close") && late.ends_with("hello\n"), "{late}");
        let (answer, server) = slow.await.unwrap();
        assert!(answer.contains("connection: close") && answer.ends_with("slow\n"), "{answer}");
        let idle = spawn_blocking(move || read_to_end(&mut idle)).await.unwrap();
        assert!(idle.ends_with("hello\n"), "{idle}");
        assert_eq!(server.end().await.cut_off, 0);
        assert!(TcpStream::connect(address).is_err());
    }
}

trait Pipe: Sized {
    fn pipe<T>(self, other: T) -> (Self, T) {
        (self, other)
    }
}

impl Pipe for String {}

#[tokio::test]
async fn the_deadline_cuts_off() {
    let server = start(Server::builder().shutdown_deadline(SHORT / 6));
    let mut stream = server.connect();
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    sleep(SHORT / 3).await;
    assert_eq!(server.end().await.cut_off, 1);
    assert_eq!(spawn_blocking(move || read_to_end(&mut stream)).await.unwrap(), "");
}

#[tokio::test]
async fn a_handler_that_panics_fails_its_own_connection_only() {
    for builder in [Server::builder(), Server::builder().workers(1)] {
        let server = start(builder);
        let (answer, _) = server.exchange(b"GET /panic HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert!(["", "<reset>"].contains(&&*answer), "{answer}");
        assert_eq!(curl(server.address, H1).await, "hello\n1.1 200");
        assert_eq!(server.end().await.cut_off, 0);
    }
}

#[tokio::test]
async fn requests_are_logged() {
    let (log, mut logged) = tokio::sync::mpsc::unbounded_channel();
    let server = start(Server::builder().on_request(move |record| log.send(record.clone()).unwrap()));
    curl(server.address, H1).await;
    curl(server.address, H2).await;
    for version in [hyper::Version::HTTP_11, hyper::Version::HTTP_2] {
        let record = logged.recv().await.unwrap();
        assert_eq!((record.version, record.body_bytes, record.uri.path()), (version, 6, "/"));
        assert_eq!(record.status, Some(hyper::StatusCode::OK));
        assert!(record.connection.remote_addr().ip().is_loopback() && record.duration < PATIENCE);
    }
    server.end().await;
}

#[tokio::test]
async fn bad_settings_are_errors() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let failed = |builder: ServerBuilder| builder.bind(any).err().unwrap();
    let none = Duration::ZERO;
    let default = Limits::default();
    for (limits, limit) in [
        (default.header_timeout(none), "header_timeout"),
        (default.write_timeout(none), "write_timeout"),
        (default.idle_timeout(none), "idle_timeout"),
        (default.connections(0), "connections"),
        (default.requests_per_connection(0), "requests_per_connection"),
        (default.streams(0), "streams"),
        (default.body_rate(0, SHORT), "body_rate"),
    ] {
        let error = failed(Server::builder().limits(limits));
        assert!(
            matches!(error, ServerError::Limits(LimitsError::Zero { name, .. }) if name == limit),
            "{error:?}"
        );
    }
    let error = failed(Server::builder().limits(default.header_size(1023)));
    assert!(matches!(error, ServerError::Limits(LimitsError::HeaderSize { bytes: 1023, .. })), "{error:?}");
    let error = failed(Server::builder().limits(default.body_size(10).body_rate(11, none)));
    assert!(
        matches!(
            error,
            ServerError::Limits(LimitsError::BodyRate { bytes_per_second: 11, body_size: 10, .. })
        ),
        "{error:?}"
    );
    assert!(matches!(failed(Server::builder().workers(0)), ServerError::NoWorkers));
    let limits = Limits::default().requests_per_connection(5);
    let error = failed(Server::builder().limits(limits).keep_alive(false));
    assert!(matches!(
        error,
        ServerError::Limits(LimitsError::KeepAliveOff { requests_per_connection: 5, .. })
    ));
    assert!(matches!(Server::builder().from_std(vec![]).err().unwrap(), ServerError::NoListeners));
    // Workers share a port among themselves, and with nobody else.
    let first = Server::builder().workers(2).bind(any).unwrap();
    let error = Server::builder().workers(2).bind(first.local_addr()).err().unwrap();
    assert!(
        matches!(&error, ServerError::Bind(error) if error.step() == BindStep::Bind || error.step() == BindStep::Listen),
        "{error:?}"
    );
    // Only where the kernel moves connections.
    let migrate = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req").unwrap_or_default();
    if migrate.trim() != "1" {
        let error = failed(Server::builder().overlap(true));
        assert!(matches!(error, ServerError::Overlap { .. }), "{error:?}");
        assert!(
            error.to_string().contains("sysctl -w net.ipv4.tcp_migrate_req=1") || migrate.is_empty(),
            "{error}"
        );
    }
}

#[tokio::test]
async fn limits_without_an_end_limit_nothing() {
    let none = Duration::MAX;
    let limits = Limits::default().header_timeout(none).idle_timeout(none).write_timeout(none);
    let builder = Server::builder().limits(limits.body_rate(1, none)).shutdown_deadline(none);
    for builder in [builder.clone(), builder.workers(1)] {
        let server = start(builder);
        let mut stream = server.connect();
        let answer = spawn_blocking(move || {
            for part in ["GET /large HTTP/1.1\r\n", "Host: h\r\n\r\n"] {
                stream.write_all(part.as_bytes()).unwrap();
                std::thread::sleep(SHORT / 6);
            }
            std::thread::sleep(SHORT);
            for part in
                ["POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbo", "dy"]
            {
                stream.write_all(part.as_bytes()).unwrap();
                std::thread::sleep(SHORT / 6);
            }
            read_to_end(&mut stream)
        });
        let answer = answer.await.unwrap();
        assert!(answer.ends_with("4 bytes\n"), "{} bytes", answer.len());
        server.end().await;
    }
}

#[tokio::test]
async fn a_slow_reader_is_not_idle() {
    let server = start(Server::builder().limits(Limits::default().idle_timeout(SHORT)));
    let mut stream = server.connect();
    let read = spawn_blocking(move || {
        stream.write_all(b"GET /large HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n\r\n").unwrap();
        let mut room = vec![0; 1_000_000];
        let mut all = 0;
        loop {
            std::thread::sleep(SHORT / 3);
            match stream.read(&mut room) {
                Ok(0) => break,
                Ok(some) => all += some,
                Err(error) => return Err((all, error)),
            }
        }
        Ok(all)
    });
    let read = read.await.unwrap();
    assert!(matches!(read, Ok(20_000_000..)), "{read:?} {:?}", server.handle.stats());
    server.end().await;
}

/// A close makes a RST of what is unread, and throws away what was not sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_at_the_last_moment_takes_no_answer_along() {
    let builder = Server::builder().workers(1).keep_alive(false).end_in_last_packet(true);
    let server = Running::with(builder, service_fn(hello));
    for turn in 0..3000 {
        let mut stream = server.connect();
        let ask = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        stream.write_all(ask).unwrap();
        let (asked, late) = (Instant::now(), Duration::from_micros(turn % 200));
        while asked.elapsed() < late {
            std::hint::spin_loop();
        }
        // Too late, perhaps.
        let _ = stream.write_all(ask);
        let mut answer = [0; 1000];
        let read = stream.read(&mut answer);
        assert!(
            read.as_ref().is_ok_and(|read| answer[..*read].starts_with(b"HTTP/1.1 200 ")),
            "{turn}: {read:?}"
        );
    }
    server.end().await;
}
