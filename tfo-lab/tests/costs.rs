//! System calls per connection, as exact numbers. One more is a failure.
//!
//! One request on a new connection, which the server closes.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::http::{Runtime, run};
use support::{Until, flows, serve};
use tfo_http::{SynData, TfoConnector};
use tfo_lab::{Flow, Lab, lab_tests, syscalls};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tfo::TfoStream;
use tower_service::Service;

lab_tests! {
    fn what_a_client_connection_costs() {
        let trace = syscalls::trace_test("what_a_client_connection_costs", || {
            let lab = Lab::builder().rtt(Duration::from_millis(40)).build().unwrap();
            let (client, host) = (lab.host("client"), lab.host("server"));
            let addr = host.addr(80);
            let server = serve(&host, addr, Until::EmptyLine, 9);
            run(&client, Runtime::CurrentThread, async move {
                let mut never = TfoConnector::new();
                never.set_syn_data(SynData::Never);
                // The first of each warms up: thread-locals, the runtime's own descriptors, the cookie.
                get("warm", HttpConnector::new(), addr).await;
                get("theirs", HttpConnector::new(), addr).await;
                get("warm", never.clone(), addr).await;
                get("plain", never, addr).await;
                // One path memory: the ride is on a path that has carried one.
                let tfo = TfoConnector::new();
                get("first visit", tfo.clone(), addr).await;
                get("warm", tfo.clone(), addr).await;
                get("ride", tfo, addr).await;
                get("warm", TokioTfo, addr).await;
                get("tokio-tfo", TokioTfo, addr).await;
            });
            server.join().unwrap();
            let rode: Vec<_> = flows(&lab, 80).iter().map(Flow::request_delivered_in_syn).collect();
            assert_eq!(rode, [false, false, false, false, false, true, true, true, true]);
        });
        let cost = |name| trace.section(name).unwrap().counts().without(&NOT_COUNTED);
        let theirs = cost("theirs");
        for (name, committed, total) in [
            ("theirs", THEIRS, 12),
            ("tokio-tfo", TOKIO_TFO, 10),
            ("plain", PLAIN, 11),
            ("first visit", FIRST_VISIT, 13),
            ("ride", RIDE, 10),
        ] {
            let ours = cost(name);
            assert_eq!(ours.to_string(), committed, "{name}\n{}", trace.section(name).unwrap());
            assert_eq!(ours.total(), total, "{name}");
            assert!(ours.total() <= theirs.total() || name == "first visit", "{name}: {ours}; HttpConnector: {theirs}");
        }
    }
}

/// `write` is the runtime waking itself for the hedge's timer. The reactor's turns depend on timing; `fcntl` is tokio's check in debug builds.
const NOT_COUNTED: [&str; 2] = ["epoll_wait", "fcntl"];

const THEIRS: &str = "close 1, connect 1, epoll_ctl 2, getpeername 1, getsockname 1, getsockopt 1, \
                      recvfrom 1, setsockopt 1, shutdown 1, socket 1, writev 1";
/// It knows neither its address nor a deadline: `getsockname` and the `write` are missing.
const TOKIO_TFO: &str = "close 1, connect 1, epoll_ctl 2, getsockopt 1, recvfrom 1, sendto 1, \
                         setsockopt 1, shutdown 1, socket 1";
const PLAIN: &str = "close 1, connect 1, epoll_ctl 2, getpeername 1, getsockname 1, getsockopt 1, \
                     recvfrom 1, shutdown 1, socket 1, writev 1";
const FIRST_VISIT: &str = "close 1, connect 1, epoll_ctl 2, getpeername 1, getsockname 1, getsockopt 1, \
                           recvfrom 1, setsockopt 1, shutdown 1, socket 1, write 1, writev 1";
const RIDE: &str = "close 1, epoll_ctl 2, getsockname 1, getsockopt 1, recvfrom 1, sendmsg 1, \
                    shutdown 1, socket 1, write 1";

/// A connector of the crate tokio-tfo, which has none of its own: as little as hyper asks for.
#[derive(Clone)]
struct TokioTfo;

impl Service<Uri> for TokioTfo {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let addr = format!("{}:{}", uri.host().unwrap(), uri.port_u16().unwrap_or(80)).parse().unwrap();
        Box::pin(async move { Ok(TokioIo::new(Stream(TfoStream::connect(addr).await?))) })
    }
}

struct Stream(TfoStream);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }
}

async fn get<C: Connect + Clone + Send + Sync + 'static>(name: &str, connector: C, addr: SocketAddr) {
    let client: Client<C, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let begun = syscalls::begin(name);
    let response = client.get(format!("http://{addr}/").parse().unwrap()).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    // The connection's own task closes it.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    drop(begun);
}
