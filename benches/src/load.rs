//! The clients that are measured, and the one that loads the servers. Each is a process of its own.

use std::error::Error;
use std::future::Future;
use std::io::{self, BufRead as _, IoSlice, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use http::Uri;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::{Domain, Socket, Type};
use tfo_core::{SynSend, TcpInfo, send_syn};
use tfo_http::{SynData, TfoConnector};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Builder;
use tower_service::Service;

/// Between a connection and its request, where that does not ride.
const LATE: Duration = Duration::from_millis(1);

/// The clients that this program can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(clippy::exhaustive_enums, reason = "for the programs of this crate only")]
pub enum Kind {
    /// Blocking sockets, TCP Fast Open, no HTTP library: the least that a client can cost.
    Raw,
    /// The same without TCP Fast Open, over a path of a millisecond: the requests come when the connections are
    /// accepted.
    RawPlain,
    /// Ours.
    Ours,
    /// Ours, with TCP Fast Open off.
    OursPlain,
    /// hyper-util's.
    HttpConnector,
    /// The crate `tokio-tfo` under hyper-util.
    TokioTfo,
}

/// Does what standard input says, a line at a time, until it ends.
///
/// A line is `get ADDRESS PATH COUNT CONCURRENCY`, and its answer the number of requests that were
/// answered; or `hold ADDRESS PATH COUNT`, which leaves the connections open.
///
/// # Errors
/// If there is no runtime to be had, or a line makes no sense.
pub fn run(kind: Kind) -> Result<(), Box<dyn Error>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let client = AnyClient::new(kind);
    let mut held = Vec::new();
    println!("ready");
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<_> = line.split_whitespace().collect();
        let answered = match words[..] {
            ["get", address, path, count, concurrency] => {
                let job = Job { address: address.parse()?, path: path.to_owned(), count: count.parse()? };
                client.get(&runtime, &job, concurrency.parse()?)
            }
            ["hold", address, path, count] => {
                let (address, count): (SocketAddr, usize) = (address.parse()?, count.parse()?);
                match &client {
                    // Its pool holds them: each of the requests under way has one of its own.
                    AnyClient::Hyper { .. } => {
                        client.get(&runtime, &Job { address, path: path.to_owned(), count }, count)
                    }
                    AnyClient::Raw { .. } => {
                        let before = held.len();
                        held.extend((0..count).filter_map(|_| hold(address, path).ok()));
                        held.len() - before
                    }
                }
            }
            _ => return Err(format!("this makes no sense: {line}").into()),
        };
        println!("{answered}");
        io::stdout().flush()?;
    }
    Ok(())
}

#[derive(Clone, Debug)]
struct Job {
    address: SocketAddr,
    path: String,
    count: usize,
}

enum AnyClient {
    Raw { tfo: bool },
    Hyper { fetch: Fetch },
}

type Fetch = Arc<dyn Fn(Uri) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

impl AnyClient {
    fn new(kind: Kind) -> Self {
        let ours = |syn_data| {
            let mut connector = TfoConnector::new();
            connector.set_syn_data(syn_data);
            connector
        };
        let fetch = match kind {
            Kind::Raw => return Self::Raw { tfo: true },
            Kind::RawPlain => return Self::Raw { tfo: false },
            Kind::Ours => fetch_with(ours(SynData::SafeMethods)),
            Kind::OursPlain => fetch_with(ours(SynData::Never)),
            Kind::HttpConnector => fetch_with(HttpConnector::new()),
            Kind::TokioTfo => fetch_with(TokioTfo),
        };
        Self::Hyper { fetch }
    }

    /// How many of the requests were answered.
    fn get(&self, runtime: &tokio::runtime::Runtime, job: &Job, concurrency: usize) -> usize {
        match self {
            Self::Raw { tfo } => raw(job, concurrency, *tfo),
            Self::Hyper { fetch } => {
                let Ok(uri) = format!("http://{}{}", job.address, job.path).parse::<Uri>() else { return 0 };
                // All in spawned tasks: each turn of the root future costs turns of the reactor.
                let left = Arc::new(AtomicUsize::new(job.count));
                let work = async |left: Arc<AtomicUsize>, fetch: Fetch, uri: Uri| {
                    let mut answered = 0;
                    while take_one(&left) {
                        answered += usize::from(fetch(uri.clone()).await);
                    }
                    answered
                };
                runtime.block_on(async {
                    let running: Vec<_> = (0..concurrency)
                        .map(|_| tokio::spawn(work(left.clone(), fetch.clone(), uri.clone())))
                        .collect();
                    let mut answered = 0;
                    for task in running {
                        answered += task.await.unwrap_or(0);
                    }
                    answered
                })
            }
        }
    }
}

fn take_one(left: &AtomicUsize) -> bool {
    left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
}

fn fetch_with<C: Connect + Clone + Send + Sync + 'static>(connector: C) -> Fetch {
    let client: Client<C, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    Arc::new(move |uri| {
        let client = client.clone();
        Box::pin(async move {
            let Ok(response) = client.get(uri).await else { return false };
            let whole = response.status().is_success();
            whole && response.into_body().collect().await.is_ok()
        })
    })
}

/// `concurrency` SYNs with their requests, or connections and then their requests, then as many answers, until all
/// were sent.
fn raw(job: &Job, concurrency: usize, tfo: bool) -> usize {
    let request = request(job.address, &job.path);
    let mut answered = 0;
    let mut left = job.count;
    while left > 0 {
        let burst = left.min(concurrency);
        left -= burst;
        let open: Vec<_> = match tfo {
            true => (0..burst).map(|_| send(job.address, &request)).collect(),
            false => {
                let open: Vec<_> = (0..burst).map(|_| TcpStream::connect(job.address)).collect();
                thread::sleep(LATE);
                let asking = open.into_iter().map(|open| {
                    let mut open = open?;
                    open.write_all(&request)?;
                    Ok(open)
                });
                asking.collect()
            }
        };
        answered += open
            .into_iter()
            .filter(|open| open.as_ref().is_ok_and(|stream| read_answer(stream, true).is_ok()))
            .count();
    }
    answered
}

/// One request on a connection of its own, which the server closes: whether it was in the SYN, as the kernel says.
pub(crate) fn visit(address: SocketAddr, tfo: bool, patience: Duration) -> io::Result<bool> {
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").into_bytes();
    let stream = match tfo {
        true => send(address, &request)?,
        false => {
            let mut stream = TcpStream::connect_timeout(&address, patience)?;
            stream.write_all(&request)?;
            stream
        }
    };
    stream.set_read_timeout(Some(patience))?;
    read_answer(&stream, true)?;
    Ok(TcpInfo::read(&stream).is_ok_and(|info| info.syn_data() == Some(true)))
}

fn hold(address: SocketAddr, path: &str) -> io::Result<TcpStream> {
    let stream = send(address, &request(address, path))?;
    read_answer(&stream, false)?;
    Ok(stream)
}

fn request(address: SocketAddr, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes()
}

/// A connection with the request in its SYN.
fn send(address: SocketAddr, request: &[u8]) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    let sent = match send_syn(&socket, &address, &[IoSlice::new(request)])? {
        SynSend::Data(bytes) => bytes,
        _ => 0,
    };
    let mut stream = TcpStream::from(socket);
    if sent < request.len() {
        stream.write_all(&request[sent..])?;
    }
    Ok(stream)
}

/// Reads the answer: up to the server's end if it says that it closes, else to the end of its body.
fn read_answer(mut stream: &TcpStream, to_end: bool) -> io::Result<()> {
    let mut answer = [0; 4096];
    let mut length = 0;
    let mut whole = None;
    loop {
        let got = stream.read(&mut answer[length..])?;
        length += got;
        let text = &answer[..length];
        if whole.is_none()
            && let Some(end) = text.windows(4).position(|four| four == b"\r\n\r\n")
        {
            let head = String::from_utf8_lossy(&text[..end]).to_ascii_lowercase();
            if !head.starts_with("http/1.1 200") {
                return Err(io::Error::other(head));
            }
            let body = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
            let Some(body) = body else { return Err(io::Error::other("an answer without a length")) };
            whole = Some((end + 4 + body, to_end && head.contains("connection: close")));
        }
        match whole {
            Some((end, closes)) if length >= end && (!closes || got == 0) => return Ok(()),
            _ if got == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
    }
}

/// The crate `tokio-tfo` as a connector, as its users write it.
#[derive(Clone, Copy, Debug)]
struct TokioTfo;

impl Service<Uri> for TokioTfo {
    type Response = TokioIo<Peer>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let address = uri.authority().and_then(|authority| authority.as_str().parse::<SocketAddr>().ok());
            let address = address.ok_or(io::ErrorKind::InvalidInput)?;
            Ok(TokioIo::new(Peer(tokio_tfo::TfoStream::connect(address).await?)))
        })
    }
}

struct Peer(tokio_tfo::TfoStream);

impl Connection for Peer {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Peer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
