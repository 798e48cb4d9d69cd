//! A server in the process of the test, and a client of a few bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tfo_http_server::server::{Ended, HttpService, ServerBuilder, ServerError, ServerHandle};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const SHORT: Duration = Duration::from_millis(300);

/// A running server.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) handle: ServerHandle,
    ended: JoinHandle<Result<Ended, ServerError>>,
}

impl Running {
    pub(crate) fn with<S: HttpService>(builder: ServerBuilder, service: S) -> Self
    where
        S::Future: Send,
    {
        let server = builder.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let (address, handle) = (server.local_addr(), server.handle());
        let ended = tokio::spawn(server.serve(service));
        Self { address, handle, ended }
    }

    pub(crate) async fn end(self) -> Ended {
        self.handle.shutdown();
        timeout(PATIENCE, self.ended).await.unwrap().unwrap().unwrap()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What the server answers to these bytes until it closes; the second is how long it took.
    pub(crate) async fn exchange(&self, request: &'static [u8]) -> (String, Duration) {
        let mut stream = self.connect();
        spawn_blocking(move || {
            let begun = Instant::now();
            stream.write_all(request).unwrap();
            (read_to_end(&mut stream), begun.elapsed())
        })
        .await
        .unwrap()
    }
}

pub(crate) fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => answer.extend_from_slice(b"<reset>"),
        Err(error) => panic!("{error}"),
    }
    String::from_utf8(answer).unwrap()
}

pub(crate) fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or(answer)
}
