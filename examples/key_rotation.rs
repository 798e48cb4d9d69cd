//! Two servers that change their cookie keys without a word between them, and lose no ride by it.
//!
//! Both derive their keys from one secret and the time; the clock of one is 25 s fast, that of the other
//! 25 s slow. A client visits them in turns around midnight, when the key of the next day comes into
//! force. The clocks are made up, so it takes no day; the connections are real ones, in a private network
//! on this machine's kernel, of which no setting is changed.
//!
//! ```sh
//! cargo run -p examples --example key_rotation
//! ```

use std::error::Error;
use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, SystemTime};

use tfo_core::{SynSend, TcpInfo, send_syn};
use tfo_http_server::TfoListener;
use tfo_http_server::keys::{Keys, Rotation, Schedule};
use tfo_lab::Lab;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: server\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
const DAY: i64 = 24 * 3600;
const MIDNIGHT: i64 = 20_000 * DAY;
const MOMENTS: [(&str, i64); 5] = [
    ("ten minutes to midnight", -600),
    ("one minute to midnight", -60),
    ("ten seconds to midnight", -10),
    ("one minute past midnight", 60),
    ("two days later", 2 * DAY + 60),
];

fn main() -> Result<(), Box<dyn Error>> {
    tfo_lab::enter_user_namespace()?;
    let lab = Lab::builder().rtt(Duration::from_millis(20)).build()?;
    let (client, server) = (lab.host("client"), lab.host("server"));

    let clock = Arc::new(AtomicI64::new(MIDNIGHT + MOMENTS[0].1));
    let schedule = Schedule::new(b"a secret of 32 bytes or more, from a file", Rotation::default())?;
    let servers = [("fast", 80, 25), ("slow", 81, -25)].map(|(name, port, offset)| {
        let clock = clock.clone();
        let keys = Keys::derived(schedule.clone()).with_clock(move || {
            let seconds = clock.load(Ordering::Relaxed) + offset;
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs())
        });
        // Cookies are good for all ports of an address.
        (name, server.addr(port), keys)
    });
    let (listening, all_listening) = channel();
    for (_, address, keys) in servers.clone() {
        let listening = listening.clone();
        server.spawn(move || serve(address, keys, &listening));
    }
    for _ in &servers {
        all_listening.recv_timeout(Duration::from_secs(10))?;
    }

    for (when, offset) in MOMENTS {
        println!("{when}:");
        clock.store(MIDNIGHT + offset, Ordering::Relaxed);
        for (name, address, keys) in &servers {
            // A program spawns `keys.run()`, which does this when it is time.
            keys.rotate()?;
            let status = keys.status();
            let (makes, takes) = status.primary.zip(status.backup).ok_or("the servers have keys")?;
            let rode = client.run(|| visit(*address))?;
            let visit = if rode { "rode" } else { "did not ride" };
            println!("  the {name} server makes {makes}, takes {takes} too: the visit {visit}");
        }
    }
    Ok(())
}

/// Serves for as long as the program runs.
fn serve(address: SocketAddr, keys: Keys, listening: &Sender<()>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TfoListener::builder().keys(keys).bind(address)?;
        listening.send(()).map_err(io::Error::other)?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            stream.read_exact(&mut [0; REQUEST.len()]).await?;
            stream.write_all(ANSWER).await?;
        }
    })
}

/// Whether the request rode.
fn visit(address: SocketAddr) -> io::Result<bool> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    let sent = match send_syn(&socket, &address, &[IoSlice::new(REQUEST)])? {
        SynSend::Data(bytes) => bytes,
        // No cookie yet: this handshake fetches one.
        _ => 0,
    };
    let mut stream = TcpStream::from(socket);
    stream.write_all(&REQUEST[sent..])?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(TcpInfo::read(&stream)?.syn_data() == Some(true))
}
