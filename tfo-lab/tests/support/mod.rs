//! One request and one answer over plain sockets, and what each observer says of it.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod http;
pub(crate) mod oracle;
pub(crate) mod paths;
pub(crate) mod report;
pub(crate) mod subject;
pub(crate) mod tcp;
pub(crate) mod visits;
pub(crate) mod web;

use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tfo_core::{SynSend, TcpInfo, TcpState, send_syn, sockopt};
use tfo_lab::{Flow, Host, Lab};

pub(crate) const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";

/// What the server saw of one connection.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// `TCP_INFO` right after `accept`.
    pub(crate) info: TcpInfo,
    pub(crate) request: Vec<u8>,
}

/// What the client saw of one connection.
#[derive(Debug)]
pub(crate) struct Visit {
    /// What `sendmsg(MSG_FASTOPEN)` said; the error if there is no TCP Fast Open.
    pub(crate) sent: Result<SynSend, tfo_core::Error>,
    /// `TCP_INFO` when the answer was there.
    pub(crate) info: TcpInfo,
    pub(crate) answer: Vec<u8>,
}

/// Where a request ends.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    /// After so many bytes.
    Bytes(usize),
    /// After an empty line.
    EmptyLine,
}

/// A server that answers `connections` requests, one after the other.
pub(crate) fn serve(
    host: &Host,
    addr: SocketAddr,
    until: Until,
    connections: usize,
) -> JoinHandle<Vec<Accepted>> {
    let listener = listen(host, addr);
    host.spawn(move || (0..connections).map(|_| answer(&listener, until).expect("a request")).collect())
}

/// A listener with TCP Fast Open.
pub(crate) fn listen(host: &Host, addr: SocketAddr) -> TcpListener {
    let listener = host.run(|| {
        let listener = TcpListener::bind(addr)?;
        sockopt::set_fastopen(&listener, 64)?;
        io::Result::Ok(listener)
    });
    listener.expect("a listener")
}

impl Until {
    fn reached(self, request: &[u8]) -> bool {
        match self {
            Self::Bytes(length) => request.len() >= length,
            Self::EmptyLine => request.ends_with(b"\r\n\r\n"),
        }
    }
}

pub(crate) fn answer(listener: &TcpListener, until: Until) -> io::Result<Accepted> {
    let (mut stream, _) = listener.accept()?;
    let info = TcpInfo::read(&stream)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut request = Vec::new();
    while !until.reached(&request) {
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => request.extend_from_slice(&bytes[..count]),
        }
    }
    stream.write_all(ANSWER)?;
    Ok(Accepted { info, request })
}

/// One visit: the request in the SYN if it may be, else in the ordinary way.
pub(crate) fn visit(host: &Host, addr: SocketAddr, request: &[u8]) -> Visit {
    host.run(|| {
        let (mut stream, sent, rest) = begin(addr, request);
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.write_all(rest).expect("the rest of the request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let info = TcpInfo::read(&stream).expect("TCP_INFO");
        Visit { sent, info, answer }
    })
}

/// Sends what fits of a request in the SYN if it may be there, and says what `sendmsg` said and what is left.
pub(crate) fn begin(
    addr: SocketAddr,
    request: &[u8],
) -> (TcpStream, Result<SynSend, tfo_core::Error>, &[u8]) {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).expect("a socket");
    let sent = send_syn(&socket, &addr, &[IoSlice::new(request)]);
    let begun = match sent {
        Ok(SynSend::Data(bytes)) => bytes,
        Ok(_) => 0,
        Err(ref error) if error.is_unsupported() => {
            socket.connect(&addr.into()).expect("an ordinary connection on the same socket");
            0
        }
        Err(ref error) => panic!("{error}: {}", error.io_error()),
    };
    (TcpStream::from(socket), sent, &request[begun..])
}

/// The connections on `port` so far, when all is quiet.
pub(crate) fn flows(lab: &Lab, port: u16) -> Vec<Flow> {
    let quiet = lab.tap().wait_quiet(Duration::from_millis(30), Duration::from_secs(10));
    assert!(quiet, "the wire does not come to rest\n{}", lab.tap().ladder());
    lab.tap().flows_of(port)
}

/// Whether `request` rode: every observer is asked, and the first that denies it is quoted.
pub(crate) fn rode(request: &[u8], visit: &Visit, accepted: &Accepted, flow: &Flow) -> Result<(), String> {
    let syn = flow.syn();
    let cookie = syn.fast_open().map_or(0, |option| option.cookie().len());
    let questions = [
        ("sendmsg took the whole request", matches!(visit.sent, Ok(SynSend::Data(n)) if n == request.len())),
        ("the client's TCP_INFO says that the SYN data was acked", visit.info.syn_data() == Some(true)),
        ("the server's TCP_INFO says that the SYN brought data", accepted.info.syn_data() == Some(true)),
        ("the server's TCP_INFO says TFO child", accepted.info.tfo_child() == Some(true)),
        ("it was accepted in SYN_RECV", accepted.info.state() == Some(TcpState::SynRecv)),
        ("the SYN carries a cookie", cookie >= 4),
        ("the SYN carries the request", syn.payload() == request),
        ("the SYN-ACK acks it", flow.request_delivered_in_syn()),
        ("nothing but the SYN caused the answer", flow.answered_before_any_further_client_packet()),
    ];
    match questions.iter().find(|(_, yes)| !yes) {
        None => Ok(()),
        Some((question, _)) => Err(format!("not so: {question}\n{visit:?}\n{accepted:?}\n{flow}")),
    }
}

/// The bytes arrived, whatever became of TCP Fast Open.
pub(crate) fn assert_exchanged(request: &[u8], visit: &Visit, accepted: &Accepted) {
    assert_eq!(accepted.request, request);
    assert_eq!(visit.answer, ANSWER);
}
