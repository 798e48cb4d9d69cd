//! The servers that are measured: ours, and those beside it. Each is a process of its own.

use std::convert::Infallible;
use std::error::Error;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tfo_http_server::TfoListener;
use tokio::io::{AsyncRead, AsyncWrite};
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
    /// The server under test.
    Ours,
    /// The server under test, on HTTP/1.1 and HTTP/2.
    OursAuto,
    /// What one writes with hyper and tokio alone, on a listener that has TCP Fast Open switched on.
    NaiveHyper,
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
    /// Threads, each with a runtime and a listener of its own.
    #[arg(long, default_value_t = 1)]
    pub workers: usize,
}

/// Serves until standard input ends. Says `ready` when it listens.
///
/// # Errors
/// If it cannot listen.
pub fn run(args: &ServerArgs) -> Result<(), Box<dyn Error>> {
    let runtimes: Vec<_> = (0..args.workers)
        .map(|_| Builder::new_current_thread().enable_all().build())
        .collect::<Result<_, _>>()?;
    for runtime in runtimes {
        let listener = {
            let _inside = runtime.enter();
            Listener::bind(args)?
        };
        let keep_alive = args.keep_alive;
        // A spawned task: the root future of `block_on` costs turns of the reactor.
        thread::spawn(move || runtime.block_on(async { tokio::spawn(listener.serve(keep_alive)).await }));
    }
    println!("ready");
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

enum Listener {
    Ours(TfoListener),
    OursAuto(TfoListener),
    Naive(TcpListener),
}

impl Listener {
    /// The one place where the server under test is made.
    fn bind(args: &ServerArgs) -> Result<Self, Box<dyn Error>> {
        let ours = || {
            let builder = TfoListener::builder().backlog(BACKLOG).reuse_port(args.workers > 1);
            builder.bind(args.listen)
        };
        Ok(match args.kind {
            Kind::Ours => Self::Ours(ours()?),
            Kind::OursAuto => Self::OursAuto(ours()?),
            Kind::NaiveHyper => {
                let listener = std::net::TcpListener::bind(args.listen)?;
                // Again, with the backlog that all have.
                socket2::SockRef::from(&listener).listen(BACKLOG as i32)?;
                tfo_core::sockopt::set_fastopen(&listener, BACKLOG)?;
                listener.set_nonblocking(true)?;
                Self::Naive(TcpListener::from_std(listener)?)
            }
        })
    }

    async fn serve(self, keep_alive: bool) {
        let mut http1 = http1::Builder::new();
        http1.keep_alive(keep_alive).timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE);
        match self {
            Self::Ours(listener) => loop {
                let (stream, _) = listener.accept_next().await;
                connection(&http1, stream);
            },
            Self::OursAuto(listener) => loop {
                let (stream, _) = listener.accept_next().await;
                tokio::spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // What a client does to its own connection is its own affair.
                    let _ = builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
                });
            },
            Self::Naive(listener) => loop {
                if let Ok((stream, _)) = listener.accept().await {
                    connection(&http1, stream);
                }
            },
        }
    }
}

fn connection(builder: &http1::Builder, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
    let connection = builder.serve_connection(TokioIo::new(stream), service_fn(answer));
    tokio::spawn(async move { drop(connection.await) });
}

/// `/` is answered with `hello`, `/1000` with a thousand bytes.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let length = request.uri().path().trim_start_matches('/').parse::<usize>().ok();
    let body = length.map_or(HELLO, |length| &ZEROS[..length.min(LONGEST)]);
    let mut response = Response::new(Full::new(Bytes::from_static(body)));
    let text = http::HeaderValue::from_static("text/plain");
    response.headers_mut().insert(http::header::CONTENT_TYPE, text);
    Ok(response)
}
