//! Out of descriptors, the listener goes on. In a process of its own: the limit is the process's.

#![cfg(target_os = "linux")]

use std::fs::File;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tfo_http_server::TfoListener;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

#[tokio::test]
async fn a_listener_survives_having_no_descriptors_left() {
    let listener = TfoListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let _client = TcpStream::connect(listener.local_addr()).await.unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
    let hogs: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();

    let error = listener.accept().await.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::EMFILE as i32));
    let accepting = tokio::spawn(async move { listener.accept_next().await });
    sleep(Duration::from_millis(50)).await;
    assert!(!accepting.is_finished());

    drop(hogs);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    let (stream, _) = timeout(Duration::from_secs(2), accepting).await.unwrap().unwrap();
    assert!(stream.info().is_proven());
}
