//! Out of descriptors, listener and server go on. In a process of its own: the limit is the process's.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::convert::Infallible;
use std::fs::File;
use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Request, Response};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tfo_http_server::TfoListener;
use tfo_http_server::server::{RequestBody, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(5);

/// One at a time, and in a runtime that has its descriptors by then.
fn alone(test: impl Future<Output = ()>) {
    static LIMIT: Mutex<()> = Mutex::new(());
    let _alone = LIMIT.lock().unwrap();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// Does something while there are no descriptors left.
async fn without_descriptors<T>(work: impl Future<Output = T>) -> T {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
    let hogs: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    let done = work.await;
    drop(hogs);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    done
}

#[test]
fn a_server_serves_whom_it_keeps_while_it_has_no_descriptors_left() {
    alone(async {
        let service = service_fn(async |_: Request<RequestBody>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
        });
        let server = Server::builder().workers(1).bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (address, handle) = (server.local_addr(), server.handle());
        let serving = tokio::spawn(server.serve(service));
        let asked = async |client: &mut TcpStream| {
            client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
            let mut answer = [0; 200];
            let read = timeout(PATIENCE, client.read(&mut answer)).await.unwrap().unwrap();
            assert!(answer[..read].ends_with(b"hello"), "{}", String::from_utf8_lossy(&answer[..read]));
        };
        let mut kept = TcpStream::connect(address).await.unwrap();
        asked(&mut kept).await;
        let next = TcpSocket::new_v4().unwrap();
        let mut next = without_descriptors(async {
            let next = next.connect(address).await.unwrap();
            // It pauses longer and longer, a second at last; who is kept does not notice.
            while handle.listener_stats().limits.no_resources < 5 {
                sleep(Duration::from_millis(5)).await;
            }
            for _ in 0..100 {
                asked(&mut kept).await;
            }
            // Otherwise each of them would have waited for one more.
            let failed = handle.listener_stats().limits.no_resources;
            assert!(failed < 5 + 50, "{failed}");
            next
        })
        .await;
        asked(&mut next).await;
        handle.shutdown();
        serving.await.unwrap().unwrap();
    });
}

#[test]
fn a_listener_survives_having_no_descriptors_left() {
    alone(async {
        let listener = TfoListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let _client = TcpStream::connect(listener.local_addr()).await.unwrap();
        let (accepting,) = without_descriptors(async {
            let error = listener.accept().await.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(Errno::EMFILE as i32));
            let accepting = tokio::spawn(async move { listener.accept_next().await });
            sleep(Duration::from_millis(50)).await;
            assert!(!accepting.is_finished());
            (accepting,)
        })
        .await;
        let (stream, _) = timeout(PATIENCE, accepting).await.unwrap().unwrap();
        assert!(stream.info().is_proven());
    });
}
