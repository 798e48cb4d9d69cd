//! The servers that are measured: ours, and those beside it. Each is a process of its own.

use std::convert::Infallible;
use std::error::Error;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tfo_core::TcpInfo;
use tfo_http_server::TfoListener;
use tfo_http_server::server::{Limits, Server};
use tokio::net::TcpListener;
use tokio::runtime::Builder;

/// Connections that may wait, for every server alike.
pub const BACKLOG: u32 = 16_384;
/// What is answered to `/`.
pub const HELLO: &[u8] = b"hello";
/// The longest body that a path may ask for: `/102400`.
const LONGEST: usize = 1 << 20;
static ZEROS: [u8; LONGEST] = [b'0'; LONGEST];
/// For the head of a request.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);

/// The servers that this program can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(clippy::exhaustive_enums, reason = "for the programs of this crate only")]
pub enum Kind {
    /// The server under test, as `tfo serve` runs it.
    Ours,
    /// What one writes with hyper and tokio alone, on a listener that has TCP Fast Open switched on.
    NaiveHyper,
    /// The system calls that the server under test makes without keep-alive, and nothing else: the same bytes for
    /// whatever is asked. No server that makes these calls costs less.
    CallsAlone,
}

/// The questions that a server answers before it starts.
#[derive(Clone, Debug, clap::Args)]
#[non_exhaustive]
pub struct ServerArgs {
    /// Which.
    #[arg(long)]
    pub kind: Kind,
    /// Where.
    #[arg(long)]
    pub listen: SocketAddr,
    /// Whether a connection may carry more than one request.
    #[arg(long)]
    pub keep_alive: bool,
    /// Whether the server under test sends the FIN with the answer.
    #[arg(long)]
    pub end_in_last_packet: bool,
    /// Threads of the server under test, each with a runtime and a listener of its own.
    #[arg(long, default_value_t = 1)]
    pub workers: usize,
    /// Whether the server under test takes data without a cookie.
    #[arg(long)]
    pub no_cookie: bool,
}

/// Serves until standard input ends. Says `ready` when it listens.
///
/// # Errors
/// If it cannot listen.
pub fn run(args: &ServerArgs) -> Result<(), Box<dyn Error>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let inside = runtime.enter();
    match args.kind {
        Kind::Ours => {
            let server = ours(args)?;
            runtime.spawn(server.serve(service_fn(answer)));
        }
        Kind::NaiveHyper => {
            // A spawned task: the root future of `block_on` costs turns of the reactor.
            runtime.spawn(naive(TcpListener::from_std(listener(args.listen)?)?, args.keep_alive));
        }
        Kind::CallsAlone => {
            let listener = listener(args.listen)?;
            thread::spawn(move || calls_alone(&listener));
        }
    }
    drop(inside);
    thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    println!("ready");
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// The one place where the server under test is made.
fn ours(args: &ServerArgs) -> Result<Server, Box<dyn Error>> {
    let listener = TfoListener::builder().backlog(BACKLOG).no_cookie(args.no_cookie);
    let limits = Limits::default().connections(BACKLOG);
    let builder = Server::builder().listener(listener).limits(limits);
    let builder = builder.end_in_last_packet(args.end_in_last_packet);
    Ok(builder.keep_alive(args.keep_alive).workers(args.workers).bind(args.listen)?)
}

fn listener(address: SocketAddr) -> Result<std::net::TcpListener, Box<dyn Error>> {
    let listener = std::net::TcpListener::bind(address)?;
    // Again, with the backlog that all have.
    socket2::SockRef::from(&listener).listen(BACKLOG as i32)?;
    tfo_core::sockopt::set_fastopen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn calls_alone(listener: &std::net::TcpListener) -> io::Result<()> {
    let events = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    events.add(listener, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
    let head =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: 5\r\n\r\n";
    let mut room = [0; 8192];
    loop {
        // Whoever interrupts it is no connection.
        let _ = events.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE);
        while let Ok((mut stream, _)) = tfo_core::accept(listener) {
            let _ = TcpInfo::read(&stream)?;
            // What a client does to its own connection is its own affair.
            let _ = stream.read(&mut room);
            let _ = stream.write_vectored(&[IoSlice::new(head), IoSlice::new(HELLO)]);
            drop(stream);
            if !tfo_core::has_connection(listener)? {
                break;
            }
        }
    }
}

async fn naive(listener: TcpListener, keep_alive: bool) {
    let mut http1 = http1::Builder::new();
    http1.keep_alive(keep_alive).timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE);
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let connection = http1.serve_connection(TokioIo::new(stream), service_fn(answer));
            // What a client does to its own connection is its own affair.
            tokio::spawn(async move { drop(connection.await) });
        }
    }
}

/// `/` is answered with `hello`, `/1000` with a thousand bytes.
async fn answer<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    let length = request.uri().path().trim_start_matches('/').parse::<usize>().ok();
    let body = length.map_or(HELLO, |length| &ZEROS[..length.min(LONGEST)]);
    let mut response = Response::new(Full::new(Bytes::from_static(body)));
    let text = http::HeaderValue::from_static("text/plain");
    response.headers_mut().insert(http::header::CONTENT_TYPE, text);
    Ok(response)
}
