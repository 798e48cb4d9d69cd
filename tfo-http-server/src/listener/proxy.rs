//! The PROXY protocol (HAProxy's `proxy-protocol.txt`): who a connection is really from.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ppp::{v1, v2};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::shared::Proxied;
use crate::stream::AcceptedStream;

/// How long a header may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many connections may be without one at a time.
const MOST: usize = 1024;

/// Who is a trusted proxy.
#[derive(Clone)]
pub(crate) struct Trust(Arc<dyn Fn(IpAddr) -> bool + Send + Sync>);

impl Trust {
    pub(super) fn new(trusted: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(trusted))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trust")
    }
}

/// Connections whose header is still to come.
#[derive(Debug)]
pub(super) struct Proxies {
    trust: Trust,
    /// For those that are proven. The kernel limits the others: `fastopen_queue`.
    places: Arc<Semaphore>,
    waiting: Mutex<FuturesUnordered<Waiting>>,
}

type Waiting = Pin<Box<dyn Future<Output = Option<AcceptedStream>> + Send>>;

impl Proxies {
    pub(super) fn new(trust: Trust) -> Self {
        Self { trust, places: Arc::new(Semaphore::new(MOST)), waiting: Mutex::default() }
    }

    /// The next connection whose header has come.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<(AcceptedStream, SocketAddr)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while let Poll::Ready(Some(done)) = waiting.poll_next_unpin(cx) {
            if let Some(stream) = done {
                let client = stream.peer_addr();
                return Poll::Ready((stream, client));
            }
        }
        Poll::Pending
    }

    #[cfg(feature = "server")]
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Keeps a connection from a trusted proxy until its header has come; gives back any other.
    pub(super) fn take(proxies: Option<&Self>, stream: AcceptedStream) -> Option<AcceptedStream> {
        let Some(proxies) = proxies.filter(|it| (it.trust.0)(stream.peer_addr().ip().to_canonical())) else {
            return Some(stream);
        };
        let header = behind_header(stream, Arc::clone(&proxies.places));
        proxies.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(header));
        None
    }
}

/// The connection behind its header.
///
/// The proxy is trusted for its address. Until the handshake is complete that may be forged, and then the
/// client's address in the header is whatever the forger likes.
async fn behind_header(mut stream: AcceptedStream, places: Arc<Semaphore>) -> Option<AcceptedStream> {
    stream.proven().await.ok()?;
    let proxied = match places.try_acquire() {
        Ok(_place) => {
            let mut front = Vec::new();
            let header = poll_fn(|cx| stream.poll_front(cx, &mut front, parse));
            timeout(PATIENCE, header).await.ok().and_then(Result::ok)
        }
        Err(_) => None,
    };
    let Some(proxied) = proxied else {
        stream.refuse_proxy();
        return None;
    };
    if let Some(proxied) = proxied {
        stream.set_proxied(proxied);
    }
    Some(stream)
}

/// The header at the front of `bytes`, and its length; `None` if it is not all there.
fn parse(bytes: &[u8]) -> io::Result<Option<(Option<Proxied>, usize)>> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let Some((version, length)) = frame(bytes)? else { return Ok(None) };
    let header = &bytes[..length];
    let proxied = match version {
        Version::One => of_v1(&v1::Header::try_from(header).map_err(|_| bad())?.addresses),
        Version::Two => {
            let header = v2::Header::try_from(header).map_err(|_| bad())?;
            let named = header.command == v2::Command::Proxy && header.protocol == v2::Protocol::Stream;
            of_v2(&header.addresses).filter(|_| named)
        }
    };
    Ok(Some((proxied, length)))
}

#[derive(Clone, Copy, Debug)]
enum Version {
    One,
    Two,
}

/// Where the header ends. The parser wants it whole: of half an address it says that it is a bad one.
fn frame(bytes: &[u8]) -> io::Result<Option<(Version, usize)>> {
    const V1: &[u8] = b"PROXY ";
    // "the longest line the receiver must support": 107 bytes with its CRLF.
    const LONGEST_V1: usize = 107;
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    let begins = |signature: &[u8]| {
        let length = signature.len().min(bytes.len());
        bytes[..length] == signature[..length]
    };
    if begins(V2) {
        // Signature, version and command, family and protocol, and how much follows.
        let Some(&[high, low]) = bytes.get(14..16) else { return Ok(None) };
        let length = 16 + usize::from(u16::from_be_bytes([high, low]));
        return Ok((bytes.len() >= length).then_some((Version::Two, length)));
    }
    let line = &bytes[..bytes.len().min(LONGEST_V1)];
    match line.windows(2).position(|pair| pair == b"\r\n") {
        Some(end) if begins(V1) => Ok(Some((Version::One, end + 2))),
        None if begins(V1) && bytes.len() < LONGEST_V1 => Ok(None),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn of_v1(addresses: &v1::Addresses) -> Option<Proxied> {
    let (source, destination) = match addresses {
        v1::Addresses::Unknown => return None,
        v1::Addresses::Tcp4(ip) => (
            SocketAddr::from((ip.source_address, ip.source_port)),
            SocketAddr::from((ip.destination_address, ip.destination_port)),
        ),
        v1::Addresses::Tcp6(ip) => (
            SocketAddr::from((ip.source_address, ip.source_port)),
            SocketAddr::from((ip.destination_address, ip.destination_port)),
        ),
    };
    Some(Proxied { source, destination })
}

fn of_v2(addresses: &v2::Addresses) -> Option<Proxied> {
    let (source, destination) = match addresses {
        v2::Addresses::IPv4(ip) => (
            SocketAddr::from((ip.source_address, ip.source_port)),
            SocketAddr::from((ip.destination_address, ip.destination_port)),
        ),
        v2::Addresses::IPv6(ip) => (
            SocketAddr::from((ip.source_address, ip.source_port)),
            SocketAddr::from((ip.destination_address, ip.destination_port)),
        ),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => return None,
    };
    Some(Proxied { source, destination })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n";

    fn v2() -> Vec<u8> {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        bytes.extend_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2, 3, 232, 0, 80]);
        bytes
    }

    #[test]
    fn both_versions_and_every_beginning_of_them() {
        for header in [V1.to_vec(), v2()] {
            let flight = [header.as_slice(), b"GET / HTTP/1.1\r\n"].concat();
            let (proxied, length) = parse(&flight).unwrap().unwrap();
            assert_eq!(length, header.len());
            let proxied = proxied.unwrap();
            assert_eq!(proxied.source, "192.0.2.1:1000".parse().unwrap());
            assert_eq!(proxied.destination, "192.0.2.2:80".parse().unwrap());
            for length in 0..header.len() {
                assert!(parse(&header[..length]).unwrap().is_none(), "{length} of {}", header.escape_ascii());
            }
        }
    }

    #[test]
    fn a_header_may_name_nobody() {
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
        for header in [b"PROXY UNKNOWN\r\n".as_slice(), local] {
            let (proxied, length) = parse(header).unwrap().unwrap();
            assert!(proxied.is_none(), "{proxied:?}");
            assert_eq!(length, header.len());
        }
    }

    #[test]
    fn bad_headers_are_errors() {
        let long = [b"PROXY TCP4 192.0.2.1 ".as_slice(), &[b' '; 200]].concat();
        let bad: [&[u8]; 7] = [
            b"GET / HTTP/1.1\r\n\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 99999\r\n",
            b"PROXY TCP4 2001:db8::1 192.0.2.2 1000 80\r\n",
            b"PROXY TCP5 192.0.2.1 192.0.2.2 1000 80\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
            b"\r\n\r\n\0\r\nQUIX",
            &long,
        ];
        for header in bad {
            assert!(parse(header).is_err(), "{}", header.escape_ascii());
        }
    }
}
