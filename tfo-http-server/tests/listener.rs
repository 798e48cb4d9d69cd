//! The listener as an ordinary one, on loopback: also where there is no TCP Fast Open.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::error::Error;
use std::io::ErrorKind;
use std::net::SocketAddr;

use tfo_http_server::{AcceptOutcome, AcceptedStream, BindStep, TfoListener};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

const LOOPBACK: &str = "127.0.0.1:0";

fn loopback() -> SocketAddr {
    LOOPBACK.parse().unwrap()
}

#[tokio::test]
async fn an_ordinary_connection_reads_and_writes() {
    for address in [LOOPBACK, "[::1]:0", "[::]:0"] {
        let listener = TfoListener::bind(address.parse().unwrap()).unwrap();
        let to = SocketAddr::new(listener.local_addr().ip(), listener.local_addr().port());
        let mut client = TcpStream::connect(to).await.unwrap();
        let (mut stream, remote) = listener.accept().await.unwrap();
        assert_eq!(remote, client.local_addr().unwrap());
        assert_eq!(stream.peer_addr(), remote);
        assert_eq!(stream.local_addr().unwrap(), client.peer_addr().unwrap());
        assert!(stream.is_write_vectored());
        let info = stream.info();
        assert!(matches!(info.outcome(), AcceptOutcome::Plain(_)), "{info:?}");
        assert!(info.is_proven() && !info.arrived_in_syn());
        assert_eq!(info.proven().await, Ok(()));

        client.write_all(b"POST / HTTP/1.1\r\n").await.unwrap();
        let mut got = [0; 17];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"POST / HTTP/1.1\r\n");
        stream.write_all(b"answer").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        drop(stream);
        assert!(info.is_proven());
        assert_eq!(info.tcp_info().unwrap_err().kind(), ErrorKind::NotConnected);
    }
}

#[tokio::test]
async fn bind_errors_say_what_failed_and_what_to_do() {
    let error = TfoListener::builder().fastopen_queue(0).bind(loopback()).unwrap_err();
    assert_eq!((error.step(), error.kind()), (BindStep::Settings, ErrorKind::InvalidInput));
    assert!(error.to_string().contains("fastopen(false)"), "{error}");
    TfoListener::builder().fastopen_queue(0).fastopen(false).bind(loopback()).unwrap();

    let taken = TfoListener::bind(loopback()).unwrap();
    let error = TfoListener::bind(taken.local_addr()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert_eq!(error.address(), taken.local_addr());
    assert!(error.to_string().contains("the port is in use"), "{error}");
    assert!(error.source().is_some());

    let error = TfoListener::bind("192.0.2.1:0".parse().unwrap()).unwrap_err();
    assert_eq!((error.step(), error.kind()), (BindStep::Bind, ErrorKind::AddrNotAvailable));
    assert!(error.to_string().contains("192.0.2.1:0"), "{error}");
    assert_eq!(std::io::Error::from(error).kind(), ErrorKind::AddrNotAvailable);
}

#[test]
#[should_panic(expected = "runtime")]
fn bind_outside_a_runtime_panics_at_once() {
    let _ = TfoListener::bind(loopback());
}

#[tokio::test]
async fn a_listener_made_elsewhere_is_taken_over() {
    let made = std::net::TcpListener::bind(loopback()).unwrap();
    let address = made.local_addr().unwrap();
    let listener = TfoListener::builder().from_std(made).unwrap();
    assert_eq!(listener.local_addr(), address);
    let _client = TcpStream::connect(address).await.unwrap();
    let (stream, _) = listener.accept_next().await;
    assert!(stream.info().is_proven());
    let made = std::net::TcpListener::bind(loopback()).unwrap();
    assert!(TfoListener::builder().fastopen_queue(0).from_std(made).is_err());
}

#[cfg(all(target_os = "linux", not(tfo_fallback)))]
#[tokio::test]
async fn the_queue_is_taken_away_where_there_is_no_gate() {
    let listener = TfoListener::builder().backlog(77).bind(loopback()).unwrap();
    assert_eq!(listener.effect().queue(), 77);
    let std = listener.into_std().unwrap();
    assert_eq!(tfo_core::sockopt::fastopen(&std).unwrap(), 0);

    let listener = TfoListener::builder().fastopen_queue(33).bind(loopback()).unwrap();
    let std = listener.danger_into_std_ungated().unwrap();
    assert_eq!(tfo_core::sockopt::fastopen(&std).unwrap(), 33);
    let again = TfoListener::builder().fastopen(false).from_std(std).unwrap();
    assert_eq!(again.effect().queue(), 0);
    assert!(again.effect().to_string().contains("switched off for this listener"));
}

#[tokio::test]
async fn connections_inherit_nodelay() {
    let off = TfoListener::builder().nodelay(false).bind(loopback()).unwrap();
    for (listener, nodelay) in [(TfoListener::bind(loopback()).unwrap(), true), (off, false)] {
        let _client = TcpStream::connect(listener.local_addr()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        assert_eq!(stream.info().nodelay().unwrap(), nodelay);
        stream.info().set_nodelay(!nodelay).unwrap();
        assert_eq!(stream.info().nodelay().unwrap(), !nodelay);
    }
}

#[test]
fn streams_go_where_they_must() {
    fn is<T: Send + Sync + Unpin + std::fmt::Debug + 'static>() {}
    is::<AcceptedStream>();
    is::<tfo_http_server::AcceptInfo>();
    is::<TfoListener>();
}
