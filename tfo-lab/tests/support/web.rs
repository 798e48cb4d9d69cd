//! A server that does what its paths say, well or badly, and keeps what it saw.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tfo_lab::Host;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::tcp::TcpServer;

/// One request, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) head: String,
    pub(crate) body: String,
    /// The how manieth on its connection, from 0.
    pub(crate) place: usize,
    pub(crate) connection: usize,
}

impl Asked {
    /// Method and target.
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().and_then(|line| line.strip_suffix(" HTTP/1.1")).expect("a request line")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

pub(crate) struct Web {
    asked: Arc<Mutex<Vec<Asked>>>,
    _server: TcpServer,
}

impl Web {
    pub(crate) fn start(host: &Host, addr: SocketAddr) -> Self {
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (list, connections) = (asked.clone(), Arc::new(AtomicUsize::new(0)));
        let server = TcpServer::start(host, addr, move |stream| {
            serve(stream, list.clone(), connections.fetch_add(1, Ordering::Relaxed))
        });
        Self { asked, _server: server }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no handler panicked").clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked().iter().map(|asked| asked.line().to_owned()).collect()
    }
}

async fn serve(mut stream: TcpStream, list: Arc<Mutex<Vec<Asked>>>, connection: usize) {
    for place in 0.. {
        let Some((head, body)) = read(&mut stream).await else { return };
        let asked = Asked { head, body, place, connection };
        list.lock().expect("no other panicked").push(asked.clone());
        if answer(&mut stream, &asked).await.is_none() {
            return;
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).expect("text");
    let length = head.to_ascii_lowercase().split("content-length: ").nth(1).and_then(|rest| {
        let end = rest.find("\r\n")?;
        rest[..end].parse().ok()
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    Some((head, String::from_utf8(body).expect("text")))
}

/// `None`: the connection is over.
async fn answer(stream: &mut TcpStream, asked: &Asked) -> Option<()> {
    let target = asked.line().split_once(' ')?.1;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut say = async |text: &str| stream.write_all(text.as_bytes()).await.ok();
    match path {
        "/silent" => sleep(Duration::from_secs(60)).await,
        "/stall" => {
            say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await?;
            sleep(Duration::from_secs(60)).await;
        }
        "/drip" => {
            say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
            loop {
                say("1\r\nx\r\n").await?;
                sleep(Duration::from_millis(50)).await;
            }
        }
        "/broken" => {
            say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await?;
            return None;
        }
        // Only a request that is the first on its connection is answered.
        "/once" if asked.place > 0 => return None,
        "/never" => return None,
        "/nonsense" => say("SSH-2.0-OpenSSH_10.2\r\n").await?,
        "/huge" => {
            say("HTTP/1.1 200 OK\r\n").await?;
            loop {
                say(&format!("X-Huge: {}\r\n", "x".repeat(8000))).await?;
            }
        }
        "/loop" => say("HTTP/1.1 302 Found\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n").await?,
        "/to" => {
            let (status, location) = query.split_once('&')?;
            say(&format!("HTTP/1.1 {status} R\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")).await?;
        }
        _ => say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await?,
    }
    Some(())
}
