//! What a proxy writes in front of everything else; it is taken out of the kernel by itself, so that the
//! gate sees what is behind it.

use std::io::{self, Read as _};
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tfo_core::peek;
use tokio::io::Interest;

use super::{AcceptedStream, USUAL_FLIGHT};
use crate::outcome::Disproven;
use crate::shared::Proxied;

impl AcceptedStream {
    /// Waits until the connection is proven, at most until the gate's deadline, which aborts it.
    pub(crate) async fn proven(&self) -> Result<(), Disproven> {
        let proven = self.info().proven().await;
        if let Err(why) = proven {
            self.shared.state().abort(why);
        }
        proven
    }

    /// Takes the first bytes into `front` until `parse` has found a header in them, and nothing that is
    /// behind it.
    ///
    /// Not all at once at the end: of a connection that the peer has closed tokio says for ever that
    /// it is readable, and only a read that finds nothing more tells that this is why.
    pub(crate) fn poll_front<T>(
        &mut self,
        cx: &mut Context<'_>,
        front: &mut Vec<u8>,
        mut parse: impl FnMut(&[u8]) -> io::Result<Option<(T, usize)>>,
    ) -> Poll<io::Result<T>> {
        let state = self.shared.state();
        let Some(socket) = &state.socket else { return Poll::Ready(Err(Disproven::Closed.into())) };
        loop {
            ready!(socket.poll_read_ready(cx))?;
            let mut room = [0; USUAL_FLIGHT];
            let length = match socket.try_io(Interest::READABLE, || Ok(peek(socket, &mut room)?)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Poll::Ready(Err(error)),
            };
            let before = front.len();
            front.extend_from_slice(&room[..length]);
            let found = parse(front)?;
            let taken = found.as_ref().map_or(length, |(_, end)| end.saturating_sub(before));
            (&*SockRef::from(socket)).read_exact(&mut room[..taken])?;
            match found {
                Some((found, _)) => return Poll::Ready(Ok(found)),
                None if front.len() >= USUAL_FLIGHT => {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                None => {}
            }
        }
    }

    /// Notes what it said, once.
    pub(crate) fn set_proxied(&self, proxied: Proxied) {
        let _ = self.shared.proxied.set(proxied);
    }

    /// Aborts a connection whose header is bad.
    pub(crate) fn refuse_proxy(self) {
        let mut state = self.shared.state();
        state.counts().on_proxy_refused();
        state.abort(Disproven::Closed);
    }
}
