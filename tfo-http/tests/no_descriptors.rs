//! Out of descriptors, a connection that was asked for goes on with the one that it has. In a process of its
//! own: the limit is the process's.

#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use hyper::Uri;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tfo_http::TfoConnector;
use tfo_http::path::{Event, Path};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tower_service::Service as _;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";

#[tokio::test]
async fn one_descriptor_will_do_whatever_the_first_syn_is() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let apart = Arc::new(Barrier::new(2));
    let begun = Arc::clone(&apart);
    thread::spawn(move || {
        // The server has a table of its own.
        unshare(CloneFlags::CLONE_FILES).unwrap();
        begun.wait();
        for accepted in listener.incoming() {
            let mut stream = accepted.unwrap();
            let mut request = vec![0; GET.len()];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(&request).unwrap();
        }
    });
    apart.wait();
    let uri: Uri = format!("http://{address}/").parse().unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // One call that connects and sends; an ordinary connect in its place, because the path went off meanwhile.
    for goes_off in [false, true] {
        let mut connector = TfoConnector::new();
        let (memory, path) = (connector.path_memory().clone(), Path::new(address));
        let mut ticket = memory.ask(&path, Instant::now());
        memory.report(&mut ticket, Event::Acked, Instant::now());
        let mut stream = connector.call(uri.clone()).await.unwrap().into_inner();
        for _ in 0..if goes_off { 4 } else { 0 } {
            let mut ticket = memory.ask(&path, Instant::now());
            memory.report(&mut ticket, Event::Silent, Instant::now());
        }
        assert_eq!(memory.is_capable(&path, Instant::now()), !goes_off);
        setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
        let hogs: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        stream.write_all(GET).await.unwrap();
        let mut echo = vec![0; GET.len()];
        timeout(Duration::from_secs(5), stream.read_exact(&mut echo)).await.unwrap().unwrap();
        assert_eq!(echo, GET);
        drop(hogs);
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    }
}
