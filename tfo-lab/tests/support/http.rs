//! A hyper server on our listener and a tokio runtime for clients, each in its host.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tfo_http::ConnInfo;
use tfo_http_server::{AcceptInfo, AcceptOutcome, TfoListener};
use tfo_lab::{Flow, Host};
use tokio::sync::oneshot;

/// One request, as its handler saw it when it began.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Bytes,
    pub(crate) client: SocketAddr,
    pub(crate) outcome: AcceptOutcome,
    pub(crate) proven: bool,
    pub(crate) was_gated: bool,
}

/// A running server that answers every request with `hello`.
pub(crate) struct Server {
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(host: &Host, addr: SocketAddr) -> Self {
        Self::start_with(host, addr, true)
    }

    /// One whose listener has no TCP Fast Open.
    pub(crate) fn without_fastopen(host: &Host, addr: SocketAddr) -> Self {
        Self::start_with(host, addr, false)
    }

    fn start_with(host: &Host, addr: SocketAddr, fastopen: bool) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (ready_sender, ready) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let list = seen.clone();
        let thread = host.spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TfoListener::builder().fastopen(fastopen).bind(addr).expect("a listener");
                ready_sender.send(()).expect("somebody waits");
                tokio::select! {
                    () = accept(listener, list) => {}
                    _ = stopped => {}
                }
            });
        });
        ready.recv().expect("the server listens");
        Self { seen, stop: Some(stop), thread: Some(thread) }
    }

    /// All requests so far, in the order of their handlers.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no handler panicked").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn accept(listener: TfoListener, seen: Arc<Mutex<Vec<Seen>>>) {
    loop {
        let (stream, client) = listener.accept_next().await;
        let (seen, info) = (seen.clone(), stream.info());
        tokio::spawn(async move {
            let service = service_fn(|request| handle(request, client, info.clone(), seen.clone()));
            let http = auto::Builder::new(TokioExecutor::new());
            let _ = http.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        });
    }
}

async fn handle(
    request: Request<Incoming>,
    client: SocketAddr,
    info: AcceptInfo,
    seen: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let proven = info.is_proven();
    let (mut head, body) = request.into_parts();
    let upgrade = head.headers.contains_key("upgrade");
    if upgrade {
        let upgraded = hyper::upgrade::on(Request::from_parts(head.clone(), ()));
        let _ = head.extensions.remove::<hyper::upgrade::OnUpgrade>();
        tokio::spawn(echo(upgraded));
    }
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    seen.lock().expect("no handler panicked").push(Seen {
        method: head.method,
        path: head.uri.path().to_owned(),
        body,
        client,
        outcome: info.outcome(),
        proven,
        was_gated: info.was_gated(),
    });
    let mut response = Response::new(Full::from("hello"));
    if upgrade {
        *response.status_mut() = hyper::StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert("upgrade", "echo".parse().expect("a value"));
        response.headers_mut().insert("connection", "upgrade".parse().expect("a value"));
        *response.body_mut() = Full::default();
    }
    Ok(response)
}

async fn echo(upgraded: hyper::upgrade::OnUpgrade) {
    let Ok(upgraded) = upgraded.await else { return };
    let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

/// The two runtimes that people use.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Runtime {
    CurrentThread,
    MultiThread,
}

pub(crate) const RUNTIMES: [Runtime; 2] = [Runtime::CurrentThread, Runtime::MultiThread];

/// Runs `work` as a task of a runtime in the host, for at most half a minute.
pub(crate) fn run<T: Send + 'static>(
    host: &Host,
    runtime: Runtime,
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    let enter = host.enter();
    host.run(|| {
        let mut builder = match runtime {
            Runtime::CurrentThread => tokio::runtime::Builder::new_current_thread(),
            Runtime::MultiThread => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime =
            builder.worker_threads(2).on_thread_start(enter).enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let task = tokio::spawn(tokio::time::timeout(Duration::from_secs(30), work));
            task.await.expect("no panic").expect("the test does not hang")
        })
    })
}

/// Whether a request rode: client, server and wire are asked, and the first that denies is quoted.
pub(crate) fn rode(info: &ConnInfo, seen: &Seen, flow: &Flow) -> Result<(), String> {
    let syn = flow.syn();
    let questions = [
        ("the outcome is syn_data_acked", info.outcome().as_str() == "syn_data_acked"),
        ("there is no reason against it", info.reason().is_none()),
        ("one round trip is said to be saved", info.saved_rtts() == 1),
        ("the saved time is the handshake's", info.handshake_rtt() == Some(info.saved())),
        ("the SYN has the bytes that are claimed", syn.payload().len() == info.syn_data_bytes()),
        ("the first flight is all of it", info.first_flight_bytes() == Some(info.syn_data_bytes())),
        ("both speak of the same connection", info.local_addr() == Some(flow.client())),
        ("the server saw it come", seen.outcome.is_syn_data() && seen.client == flow.client()),
        ("the handler ran before the proof", !seen.proven && !seen.was_gated),
        ("the SYN-ACK acks the data", flow.request_delivered_in_syn()),
        ("nothing but the SYN caused the answer", flow.answered_before_any_further_client_packet()),
    ];
    match questions.iter().find(|(_, yes)| !yes) {
        None => Ok(()),
        Some((question, _)) => Err(format!("not so: {question}\n{info:?}\n{seen:?}\n{flow}")),
    }
}
