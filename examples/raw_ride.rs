//! A ride by hand: plain sockets, no runtime, no HTTP stack.
//!
//! Builds a private network on this machine's kernel (a client, a server, 40 ms between them), visits
//! the server twice and shows what everybody saw: the first visit's SYN asks for a cookie, the
//! second's carries cookie and request, and is answered one round trip earlier.
//!
//! ```sh
//! cargo run -p examples --example raw_ride
//! ```

use std::error::Error;
use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use tfo_core::{SynSend, TcpInfo, send_syn, sockopt};
use tfo_lab::Lab;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";

fn main() -> Result<(), Box<dyn Error>> {
    tfo_lab::enter_user_namespace()?;
    let lab = Lab::builder().rtt(Duration::from_millis(40)).build()?;
    let (client, server) = (lab.host("client"), lab.host("server"));
    let addr = server.addr(80);

    let listener = server.run(|| listen(addr))?;
    let served = server.spawn(move || serve(&listener, 2));
    for name in ["first", "second"] {
        println!("{name} visit:");
        client.run(|| visit(addr))?;
    }
    for (name, info) in ["first", "second"].into_iter().zip(served.join().expect("the server runs")?) {
        println!("at the server, {name} visit: accepted in {:?}, {:?}", info.state(), info.options());
    }
    lab.tap().wait_quiet(Duration::from_millis(50), Duration::from_secs(5));
    for flow in lab.tap().flows() {
        println!("\non the wire, {} to {}:\n{flow}", flow.client(), flow.server());
    }
    Ok(())
}

/// A listener takes data in SYNs once `TCP_FASTOPEN` is set (and the sysctl allows it).
fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(addr)?;
    sockopt::set_fastopen(&listener, 64)?;
    Ok(listener)
}

fn serve(listener: &TcpListener, connections: usize) -> io::Result<Vec<TcpInfo>> {
    (0..connections)
        .map(|_| {
            let (mut stream, _) = listener.accept()?;
            let info = TcpInfo::read(&stream)?;
            let mut request = vec![0; REQUEST.len()];
            stream.read_exact(&mut request)?;
            stream.write_all(ANSWER)?;
            Ok(info)
        })
        .collect()
}

/// Connects and sends the request in one call; in the SYN if there is a cookie.
fn visit(addr: SocketAddr) -> io::Result<()> {
    let begun = Instant::now();
    let socket = socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::STREAM, None)?;
    let sent = match send_syn(&socket, &addr, &[IoSlice::new(REQUEST)])? {
        SynSend::Data(bytes) => bytes,
        // No cookie yet: this handshake fetches one.
        _ => 0,
    };
    let mut stream = TcpStream::from(socket);
    stream.write_all(&REQUEST[sent..])?; // waits for the handshake, if there is anything left
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    assert_eq!(answer, ANSWER);
    let info = TcpInfo::read(&stream)?;
    println!("  {sent} of {} bytes in the SYN, answered after {:.1?}", REQUEST.len(), begun.elapsed());
    println!("  SYN data acked: {:?}, {:?}", info.syn_data(), info.client_fail());
    Ok(())
}
