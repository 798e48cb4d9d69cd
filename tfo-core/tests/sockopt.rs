//! The options and the send calls on real sockets.

#![cfg(all(target_os = "linux", not(tfo_fallback)))]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use socket2::{Domain, Socket, Type};
use tfo_core::sockopt::{self, CookieKey};
use tfo_core::{SynSend, TcpInfo, TcpState, peek, send, send_syn};

fn socket() -> Socket {
    Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()
}

fn listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

#[test]
fn the_queue_is_what_was_set_up_to_somaxconn() {
    let listener = listener();
    assert_eq!(sockopt::fastopen(&listener).unwrap(), 0);
    sockopt::set_fastopen(&listener, 7).unwrap();
    assert_eq!(sockopt::fastopen(&listener).unwrap(), 7);
    sockopt::set_fastopen(&listener, u32::MAX).unwrap();
    let somaxconn = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    assert_eq!(sockopt::fastopen(&listener).unwrap().to_string(), somaxconn.trim());
    sockopt::set_fastopen(&listener, 0).unwrap();
    assert_eq!(sockopt::fastopen(&listener).unwrap(), 0);
}

#[test]
fn keys_are_those_of_the_listener() {
    let (one, two) = (CookieKey::from_bytes([1; 16]), CookieKey::from_bytes([2; 16]));
    let listener = listener();
    assert_eq!(sockopt::fastopen_key(&listener).unwrap(), None);
    sockopt::set_fastopen_key(&listener, &one, Some(&two)).unwrap();
    assert_eq!(sockopt::fastopen_key(&listener).unwrap(), Some((one.clone(), Some(two.clone()))));
    sockopt::set_fastopen_key(&listener, &two, None).unwrap();
    assert_eq!(sockopt::fastopen_key(&listener).unwrap(), Some((two, None)));
    assert_eq!(format!("{one:?}"), "CookieKey(secret)");
}

#[test]
fn switches() {
    let socket = socket();
    assert!(!sockopt::fastopen_no_cookie(&socket).unwrap());
    sockopt::set_fastopen_no_cookie(&socket, true).unwrap();
    assert!(sockopt::fastopen_no_cookie(&socket).unwrap());
    let bits = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fastopen").unwrap();
    match sockopt::set_fastopen_connect(&socket, true) {
        Ok(()) => assert!(sockopt::fastopen_connect(&socket).unwrap()),
        Err(error) => assert!(error.is_unsupported() && bits.trim() == "0", "{error}: {bits}"),
    }
}

#[test]
fn accepts_are_deferred_for_the_next_retransmission() {
    let listener = listener();
    assert_eq!(sockopt::defer_accept(&listener).unwrap(), 0);
    for (set, got) in [(1, 1), (2, 3), (3, 3), (5, 7), (10, 15), (0, 0)] {
        sockopt::set_defer_accept(&listener, set).unwrap();
        assert_eq!(sockopt::defer_accept(&listener).unwrap(), got, "{set}");
    }
}

#[test]
fn options_are_refused_on_what_is_not_tcp() {
    let (pair, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let error = sockopt::set_fastopen(&pair, 1).unwrap_err();
    assert_eq!(error.call(), "setsockopt TCP_FASTOPEN");
    assert!(error.is_unsupported(), "{error}: {}", error.io_error());
    assert!(TcpInfo::read(&pair).unwrap_err().is_unsupported());
}

#[test]
fn without_a_cookie_nothing_is_taken_and_a_handshake_begins() {
    let listener = listener();
    let address = listener.local_addr().unwrap();
    let client = socket();
    // The first visit to this address, or one without TCP Fast Open: nothing rides.
    match send_syn(&client, &address, &[IoSlice::new(b"hello")]) {
        Ok(SynSend::NoCookie) => {}
        Ok(other) => assert!(matches!(other, SynSend::Data(5)), "{other:?}"),
        Err(error) => {
            assert!(error.is_unsupported(), "{error}");
            assert_eq!(error.address(), Some(address));
            client.connect(&address.into()).unwrap(); // the same socket is as good as new
        }
    }
    let _server = listener.accept().unwrap();
    let info = TcpInfo::read(&client).unwrap();
    assert_eq!(info.state(), Some(TcpState::Established));
    assert_eq!(info.as_bytes().len().min(104), 104);
}

#[test]
fn a_send_takes_all_slices_and_never_raises_a_signal() {
    let listener = listener();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    assert_eq!(send(&client, &[IoSlice::new(b"one "), IoSlice::new(b"two")]).unwrap(), 7);
    let mut bytes = [0; 7];
    io::Read::read_exact(&mut server, &mut bytes).unwrap();
    assert_eq!(&bytes, b"one two");

    drop((server, listener));
    let error = (0..100_000).find_map(|_| send(&client, &[IoSlice::new(&[0; 4096])]).err()).unwrap();
    let kinds = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
    assert!(kinds.contains(&error.kind()), "{error}: {}", error.io_error());

    let idle = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let full = TcpStream::connect(idle.local_addr().unwrap()).unwrap();
    let error = (0..100_000).find_map(|_| send(&full, &[IoSlice::new(&[0; 65_536])]).err()).unwrap();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}: it never blocks");
}

#[test]
fn a_peek_leaves_the_bytes_and_never_blocks() {
    let listener = listener();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let mut bytes = [0; 16];
    assert_eq!(peek(&server, &mut bytes).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    io::Write::write_all(&mut client, b"hello").unwrap();
    let mut first = [0; 1];
    server.peek(&mut first).unwrap(); // waits for the bytes
    assert_eq!(peek(&server, &mut bytes).unwrap(), 5);
    assert_eq!(peek(&server, &mut bytes[..2]).unwrap(), 2);
    let mut read = [0; 5];
    io::Read::read_exact(&mut server, &mut read).unwrap();
    assert_eq!(&read, b"hello");
    drop(client);
    server.peek(&mut first).unwrap();
    assert_eq!(peek(&server, &mut bytes).unwrap(), 0);
}
