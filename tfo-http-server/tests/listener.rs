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

#[tokio::test]
async fn settings_that_make_no_sense_are_named() {
    let error = TfoListener::builder().max_connections(0).bind(loopback()).unwrap_err();
    assert_eq!(error.step(), BindStep::Settings);
    assert!(error.to_string().contains("would reset every connection"), "{error}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_socket_that_does_not_listen_is_refused() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&loopback().into()).unwrap();
    let error = TfoListener::builder().from_std(socket.into()).unwrap_err();
    assert_eq!(error.step(), BindStep::HandOver);
    assert!(error.to_string().contains("TCP socket that listens"), "{error}");
}

#[tokio::test]
async fn ipv6_alone_or_both() {
    let both = TfoListener::builder().only_v6(false).bind("[::]:0".parse().unwrap()).unwrap();
    let port = both.local_addr().port();
    TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    drop(both);
    let alone = TfoListener::builder().only_v6(true).bind("[::]:0".parse().unwrap()).unwrap();
    let port = alone.local_addr().port();
    TcpStream::connect(("127.0.0.1", port)).await.unwrap_err();
    TcpStream::connect(("::1", port)).await.unwrap();
    // The same port is free for IPv4.
    TfoListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn listeners_share_a_port_if_both_say_so() {
    let one = TfoListener::builder().reuse_port(true).bind(loopback()).unwrap();
    let two = TfoListener::builder().reuse_port(true).bind(one.local_addr()).unwrap();
    assert_eq!(one.local_addr(), two.local_addr());
    assert_eq!(TfoListener::bind(one.local_addr()).unwrap_err().kind(), ErrorKind::AddrInUse);
}

#[tokio::test]
async fn connections_are_counted_and_shed() {
    let listener = TfoListener::builder().max_connections(1).bind(loopback()).unwrap();
    let stats = listener.stats();
    let _first = TcpStream::connect(listener.local_addr()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let mut second = TcpStream::connect(listener.local_addr()).await.unwrap();
    let accepting = tokio::spawn(async move { listener.accept().await });
    assert_eq!(second.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let now = stats.snapshot();
    assert_eq!((now.accepted, now.limits.in_flight, now.limits.shed), (1, 1, 1));
    assert_eq!(now.outcomes.plain, 1);
    drop(stream);
    assert_eq!(stats.snapshot().limits.in_flight, 0);
    assert!(!accepting.is_finished());
}

/// The environment variable that turns [`a_listener_from_systemd_is_taken_over`] into its other half.
#[cfg(target_os = "linux")]
const ACTIVATED: &str = "TFO_TEST_ACTIVATED";

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_listener_from_systemd_is_taken_over() {
    const NAME: &str = "a_listener_from_systemd_is_taken_over";
    if std::env::var_os(ACTIVATED).is_some() {
        let mut handed = TfoListener::builder().from_environment().unwrap();
        let (mut stream, _) = handed.pop().unwrap().accept_next().await;
        stream.write_all(b"activated").await.unwrap();
        assert!(TfoListener::builder().from_environment().unwrap().is_empty(), "they are taken once");
        return;
    }
    use std::os::fd::AsRawFd;
    let listener = std::net::TcpListener::bind(loopback()).unwrap();
    socket2::SockRef::from(&listener).set_cloexec(false).unwrap();
    let descriptor = listener.as_raw_fd();
    let script = format!("exec 3<&{descriptor}; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" --exact {NAME}");
    let program = std::env::current_exe().unwrap();
    let mut child = std::process::Command::new("bash")
        .arg("-c")
        .arg(script)
        .arg(program)
        .env(ACTIVATED, "1")
        .spawn()
        .unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    drop(listener);
    let mut got = Vec::new();
    client.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"activated");
    assert!(child.wait().unwrap().success());
}
