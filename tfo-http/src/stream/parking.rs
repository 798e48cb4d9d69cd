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
