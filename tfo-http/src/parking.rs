//! Where sockets wait that nobody needs any more, but whose SYN may still be answered.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::timeout;

/// Sockets that one connector, its clones and their streams keep here at most.
const PLACES: usize = 256;

/// How long a socket waits for its answer.
const STAY: Duration = Duration::from_secs(3);

/// A closed socket answers a late SYN-ACK with a RST, and each connection that is reset before it is
/// proven occupies the server's queue for a minute. So a socket that has lost, or was given up, is
/// kept until its handshake is complete, and then closed in order; for three seconds at most.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lot {
    taken: Arc<AtomicUsize>,
}

impl Lot {
    /// Keeps a socket until its handshake is over. Where there is no place, or no runtime to wait
    /// in, it is closed at once.
    pub(crate) fn park(&self, stream: TcpStream) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.taken.fetch_add(1, Ordering::Relaxed) >= PLACES {
            self.taken.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let place = Place(self.taken.clone());
        runtime.spawn(async move {
            let _ = timeout(STAY, stream.writable()).await;
            drop((stream, place));
        });
    }
}

/// A socket under way that is parked if nobody takes it.
#[derive(Debug)]
pub(crate) struct Parkable {
    stream: Option<TcpStream>,
    lot: Lot,
}

impl Parkable {
    pub(crate) fn new(stream: TcpStream, lot: &Lot) -> Self {
        Self { stream: Some(stream), lot: lot.clone() }
    }

    pub(crate) fn stream(&self) -> io::Result<&TcpStream> {
        self.stream.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The socket, not to be parked.
    pub(crate) fn take(mut self) -> io::Result<TcpStream> {
        self.stream.take().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Parkable {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.lot.park(stream);
        }
    }
}

/// One place; dropping it gives it back.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::Instant;

    use socket2::{Domain, Socket, Type};

    use super::*;
    use crate::config::{Config, begin_plain};

    /// A listener whose queue is full: it answers no SYN.
    #[expect(clippy::unwrap_used, reason = "tests")]
    fn silent() -> (Vec<Socket>, SocketAddr) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        filler.connect(&address).unwrap();
        (vec![listener, filler], address.as_socket().unwrap())
    }

    #[tokio::test]
    async fn there_are_so_many_places_and_they_are_free_again_in_time() {
        let (_full, address) = silent();
        let (lot, config) = (Lot::default(), Config::default());
        let taken = |lot: &Lot| lot.taken.load(Ordering::Relaxed);
        for number in 0..2 * PLACES {
            let stream = begin_plain(&config, &address).unwrap();
            // As it is, and as the loser of a race.
            match number % 2 {
                0 => lot.clone().park(stream),
                _ => drop(Parkable::new(stream, &lot)),
            }
            assert_eq!(taken(&lot), PLACES.min(number + 1));
        }
        tokio::time::sleep(STAY / 2).await;
        assert_eq!(taken(&lot), PLACES, "they wait for their answer");
        let begun = Instant::now();
        while taken(&lot) > 0 {
            assert!(begun.elapsed() < 3 * STAY, "{} are still there", taken(&lot));
            tokio::time::sleep(STAY / 30).await;
        }
    }

    #[tokio::test]
    async fn who_is_answered_leaves_and_who_is_taken_does_not_park() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (lot, config) = (Lot::default(), Config::default());
        let begin = || begin_plain(&config, &listener.local_addr().unwrap()).unwrap();
        assert!(Parkable::new(begin(), &lot).take().is_ok());
        assert_eq!(lot.taken.load(Ordering::Relaxed), 0);
        drop(Parkable::new(begin(), &lot));
        let begun = Instant::now();
        while lot.taken.load(Ordering::Relaxed) > 0 {
            assert!(begun.elapsed() < STAY, "its handshake is over");
            tokio::task::yield_now().await;
        }
    }
}
