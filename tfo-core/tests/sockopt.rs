//! The options and the send calls on real sockets.

#![cfg(all(target_os = "linux", not(tfo_fallback)))]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};

use socket2::{Domain, Socket, Type};
use tfo_core::sockopt::{self, CookieKey};
use tfo_core::{Connect, SynSend, TcpInfo, TcpState, connect, peek, send, send_empty_syn, send_syn};

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
fn options_are_refused_on_what_is_not_tcp_and_no_sysctl_is_blamed() {
    let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let errors = [
        sockopt::set_fastopen(&unix, 1).unwrap_err(),
        sockopt::set_fastopen(&udp, 1).unwrap_err(),
        TcpInfo::read(&unix).unwrap_err(),
        TcpInfo::read(&udp).unwrap_err(),
    ];
    assert_eq!(errors[0].call(), "setsockopt TCP_FASTOPEN");
    for error in errors {
        assert!(error.is_unsupported(), "{error}: {}", error.io_error());
        let text = error.to_string();
        assert!(text.contains("a socket of this kind") && !text.contains("sysctl"), "{text}");
    }
}

/// Whoever takes these for "nothing has been sent" sends twice.
#[test]
fn a_peer_that_has_gone_is_not_taken_for_missing_fast_open() {
    let listener = listener();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    drop(listener.accept().unwrap());
    let error = (0..100_000).find_map(|_| send(&client, &[IoSlice::new(b"x")]).err()).unwrap();
    let next = send(&client, &[IoSlice::new(b"x")]).unwrap_err();
    assert_eq!(next.kind(), io::ErrorKind::BrokenPipe);
    let empty = send_empty_syn(&client).map_err(|error| error.is_unsupported());
    assert_ne!(empty, Err(true));
    for error in [error, next] {
        assert!(!error.is_unsupported(), "{error}: {}", error.io_error());
        assert_eq!(error.to_string(), "sendmsg failed");
    }
}

#[test]
fn an_address_of_the_other_family_is_not_taken_for_missing_fast_open() {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    let address = (Ipv4Addr::LOCALHOST, 9).into();
    let errors = [
        connect(&socket, &address).unwrap_err(),
        send_syn(&socket, &address, &[IoSlice::new(b"x")]).unwrap_err(),
    ];
    let off = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fastopen").unwrap().trim() == "0";
    for error in &errors[..if off { 1 } else { 2 }] {
        assert!(!error.is_unsupported(), "{error}: {}", error.io_error());
    }
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
fn of_too_many_slices_the_first_are_taken() {
    let listener = listener();
    let address = listener.local_addr().unwrap();
    let slices = [IoSlice::new(b"x"); 1025];
    let client = TcpStream::connect(address).unwrap();
    assert_eq!(send(&client, &slices).unwrap(), 1024);
    // Taken or not, it is no error of the caller's.
    match send_syn(&socket(), &address, &slices) {
        Ok(SynSend::Data(1024) | SynSend::NoCookie) => {}
        other => assert!(other.as_ref().is_err_and(tfo_core::Error::is_unsupported), "{other:?}"),
    }
}

#[test]
fn connected_already_it_is_refused_and_a_blocking_connect_waits() {
    let listener = listener();
    let address = listener.local_addr().unwrap();
    let client = socket();
    assert_eq!(connect(&client, &address).unwrap(), Connect::Deferred);
    assert_eq!(TcpInfo::read(&client).unwrap().state(), Some(TcpState::Established));
    let error = send_syn(&client, &address, &[IoSlice::new(b"hello")]).unwrap_err();
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fastopen").unwrap();
    let off = text.trim() == "0";
    assert_eq!(
        (error.io_error().raw_os_error(), error.is_unsupported()),
        (Some(if off { libc::EOPNOTSUPP } else { libc::EISCONN }), off)
    );
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
