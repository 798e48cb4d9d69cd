//! A server and a client that ride, small enough to see that they do not cheat.
#![allow(dead_code, reason = "not every test binary uses all of it")]

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tfo_core::{SynSend, send_syn, sockopt};
use tfo_lab::Host;

/// Longer than anything takes; shorter than a patient person's patience.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What every server answers.
pub(crate) const ANSWER: &[u8] = b"answer";

/// Answers the first bytes of every connection, and lets the client close first.
pub(crate) struct Server {
    listener: Socket,
    requests: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(host: &Host, addr: SocketAddr) -> Self {
        let listener = host.run(|| listen(addr)).expect("a listener");
        let accepting: TcpListener = listener.try_clone().expect("a clone").into();
        let (sender, requests) = mpsc::channel();
        let thread = host.spawn(move || {
            let mut connections = Vec::new();
            while let Ok((stream, _)) = accepting.accept() {
                let sender = sender.clone();
                let handle = stream.try_clone().expect("a clone");
                connections.push((handle, thread::spawn(move || answer(stream, &sender))));
            }
            // A client's FIN may never come: its lab may be gone.
            for (stream, thread) in connections {
                let _ = stream.shutdown(Shutdown::Both);
                let _ = thread.join();
            }
        });
        Self { listener, requests, thread: Some(thread) }
    }

    /// The first bytes of the next connection.
    pub(crate) fn request(&self) -> Option<Vec<u8>> {
        self.requests.recv_timeout(PATIENCE).ok()
    }

    /// The first bytes of a connection that has been accepted already.
    pub(crate) fn pending_request(&self) -> Option<Vec<u8>> {
        self.requests.try_recv().ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.listener.shutdown(Shutdown::Both);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// How a request went.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Went {
    /// Bytes that the kernel put in the SYN.
    pub(crate) in_syn: usize,
    pub(crate) answer: Vec<u8>,
    /// The client's port.
    pub(crate) port: u16,
}

/// Sends a request with Fast Open, and reads the answer.
pub(crate) fn request(client: &Host, to: SocketAddr, request: &[u8]) -> io::Result<Went> {
    client.run(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let sent = send_syn(&socket, &to, &[IoSlice::new(request)]).map_err(io::Error::other)?;
        let in_syn = match sent {
            SynSend::Data(len) => len,
            _ => 0,
        };
        let mut stream = TcpStream::from(socket);
        stream.write_all(&request[in_syn..])?;
        let mut answer = vec![0; ANSWER.len()];
        stream.read_exact(&mut answer)?;
        Ok(Went { in_syn, answer, port: stream.local_addr()?.port() })
    })
}

fn answer(mut stream: TcpStream, requests: &Sender<Vec<u8>>) {
    let mut buffer = [0; 4096];
    let Ok(len) = stream.read(&mut buffer) else { return };
    let _ = requests.send(buffer[..len].to_vec());
    let _ = stream.write_all(ANSWER);
    let _ = stream.read(&mut buffer);
    // Dropping it would not do: the accepting thread has a handle too.
    let _ = stream.shutdown(Shutdown::Both);
}

fn listen(addr: SocketAddr) -> io::Result<Socket> {
    let listener = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    listener.bind(&addr.into())?;
    listener.listen(128)?;
    sockopt::set_fastopen(&listener, 128).map_err(io::Error::other)?;
    Ok(listener)
}
