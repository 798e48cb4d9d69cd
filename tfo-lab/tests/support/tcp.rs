//! Servers without HTTP, and streams of the connector used as they are.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Instant;

use hyper::Uri;
use tfo_core::sockopt;
use tfo_http::path::{Event, Path};
use tfo_http::{TfoConnector, TfoStream};
use tfo_lab::Host;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tower_service::Service as _;

/// A request that may ride.
pub(crate) const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: server\r\n\r\n";

/// A server that gives every connection to a function; with TCP Fast Open, without a gate.
pub(crate) struct TcpServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TcpServer {
    pub(crate) fn start<F>(
        host: &Host,
        addr: SocketAddr,
        handle: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_with(host, addr, None, handle)
    }

    fn start_with<F>(
        host: &Host,
        addr: SocketAddr,
        receive_buffer: Option<u32>,
        handle: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (ready_sender, ready) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = host.spawn(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build().expect("a runtime").block_on(async {
                let listener = listen(addr, receive_buffer);
                ready_sender.send(()).expect("somebody waits");
                let accept = async {
                    loop {
                        if let Ok((stream, _)) = listener.accept().await {
                            tokio::spawn(handle(stream));
                        }
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
        });
        ready.recv().expect("the server listens");
        Self { stop: Some(stop), thread: Some(thread) }
    }

    /// Sends everything back, and keeps it in the list, one entry for each connection that has ended.
    pub(crate) fn echo(host: &Host, addr: SocketAddr) -> (Self, Received) {
        Self::echo_with(host, addr, None)
    }

    /// The same, with a receive buffer: its window keeps a sender's segments small.
    pub(crate) fn echo_with(host: &Host, addr: SocketAddr, receive_buffer: Option<u32>) -> (Self, Received) {
        let received = Received::default();
        let list = received.clone();
        let handle = move |mut stream: TcpStream| {
            let list = list.clone();
            async move {
                let (mut all, mut bytes) = (Vec::new(), vec![0; 16 * 1024]);
                while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                    all.extend_from_slice(&bytes[..count]);
                    if stream.write_all(&bytes[..count]).await.is_err() {
                        break;
                    }
                }
                list.0.lock().expect("no handler panicked").push(all);
            }
        };
        (Self::start_with(host, addr, receive_buffer, handle), received)
    }
}

fn listen(addr: SocketAddr, receive_buffer: Option<u32>) -> TcpListener {
    let socket = match addr {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
    };
    let socket = socket.expect("a socket");
    socket.set_reuseaddr(true).expect("a free port");
    if let Some(size) = receive_buffer {
        socket.set_recv_buffer_size(size).expect("a buffer");
    }
    socket.bind(addr).expect("a free port");
    let listener = socket.listen(4096).expect("a listener");
    sockopt::set_fastopen(&listener, 4096).expect("TCP Fast Open");
    listener
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What a server has received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received(Arc<Mutex<Vec<Vec<u8>>>>);

impl Received {
    /// The connections that have ended, in the order of their ends.
    pub(crate) fn ended(&self) -> Vec<Vec<u8>> {
        self.0.lock().expect("no handler panicked").clone()
    }
}

/// One connection of a connector, as it is.
pub(crate) async fn dial(connector: &TfoConnector, addr: SocketAddr) -> TfoStream {
    connector.clone().call(uri(addr)).await.expect("a connection").into_inner()
}

/// Lets a connector know that rides to `addr` arrive, as if one had.
pub(crate) fn known<R>(connector: &TfoConnector<R>, addr: SocketAddr) {
    let memory = connector.path_memory();
    let mut ticket = memory.ask(&Path::new(addr), Instant::now());
    memory.report(&mut ticket, Event::Acked, Instant::now());
}

/// A first visit, for the cookie.
pub(crate) async fn fetch_cookie(addr: SocketAddr) {
    let mut stream = dial(&TfoConnector::new(), addr).await;
    assert_eq!(phase(&stream), "Open", "there is a cookie already");
    stream.shutdown().await.expect("an end");
    stream.read_to_end(&mut Vec::new()).await.expect("the server's end");
}

pub(crate) fn uri(addr: SocketAddr) -> Uri {
    format!("http://{addr}/").parse().expect("a URI")
}

/// The state of a stream, as its `Debug` has it.
pub(crate) fn phase(stream: &TfoStream) -> String {
    let text = format!("{stream:?}");
    let state = text.split("state: ").nth(1).and_then(|rest| rest.split(',').next());
    state.expect("a state").to_owned()
}

/// Polls once.
pub(crate) async fn once<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    poll_fn(|cx| Poll::Ready(poll(cx))).await
}

/// RFC 9110 section 9.3.6.
pub(crate) async fn connect_proxy(mut client: TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match client.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).expect("text");
    let target = head.split(' ').nth(1).expect("a target");
    let mut server = TcpStream::connect(target).await.expect("a server");
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("a client");
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

/// RFC 1928, without authentication, for IPv4 addresses.
pub(crate) async fn socks5_proxy(mut client: TcpStream) {
    let mut greeting = [0; 3];
    client.read_exact(&mut greeting).await.expect("a SOCKS client");
    assert_eq!(greeting, [5, 1, 0]);
    client.write_all(&[5, 0]).await.expect("a SOCKS client");
    let mut request = [0; 10];
    client.read_exact(&mut request).await.expect("a SOCKS client");
    let [5, 1, 0, 1, a, b, c, d, high, low] = request else { panic!("{request:?}") };
    let target = SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])));
    let mut server = TcpStream::connect(target).await.expect("a server");
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.expect("a SOCKS client");
    let _ = copy_bidirectional(&mut client, &mut server).await;
}
