//! Accepting without the reactor: for a server that polls a connection where it accepts it.

use std::io;
use std::task::{Context, Poll, ready};

use tfo_core::{accept, has_connection};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::{Admission, TfoListener};
use crate::keys::Registration;
use crate::stats::Counts;
use crate::stream::AcceptedStream;
use crate::stream::socket::Socket;

/// A listener whose connections are not registered with the reactor.
pub(crate) struct InlineListener {
    /// The listening socket, as tokio lets one ask for its events.
    events: TcpStream,
    admission: Admission,
    /// Behind the socket, so that it goes after it.
    _keys: Option<Registration>,
}

impl InlineListener {
    /// The listener itself, where it cannot be: with the PROXY protocol, and on other systems than Linux.
    pub(crate) fn new(listener: TfoListener) -> Result<Self, Box<TfoListener>> {
        #[cfg(feature = "proxy")]
        if listener.proxies.is_some() {
            return Err(Box::new(listener));
        }
        #[cfg(all(target_os = "linux", not(tfo_fallback)))]
        if let Ok(copy) = std::os::fd::AsFd::as_fd(&listener.listener).try_clone_to_owned()
            && let Ok(events) = TcpStream::from_std(copy.into())
        {
            // The first descriptor goes, and with it a second event for each connection.
            let TfoListener { admission, keys, .. } = listener;
            return Ok(Self { events, admission, _keys: keys });
        }
        Err(Box::new(listener))
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.admission.counts
    }

    /// The next connection, not registered.
    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<AcceptedStream>> {
        loop {
            ready!(self.events.poll_read_ready(cx))?;
            match self.events.try_io(Interest::READABLE, || self.accept_now()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(None) => {}
                Ok(Some(stream)) => return Poll::Ready(Ok(stream)),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// The next connection, whatever the reactor knows; `None` if it was shed.
    ///
    /// # Errors
    ///
    /// As `accept(2)`; `WouldBlock` when there is none.
    pub(crate) fn accept_now(&self) -> io::Result<Option<AcceptedStream>> {
        let (socket, remote) = accept(&self.events)?;
        Ok(self.admission.admit(Socket::Inline { socket, drained: false }, remote))
    }

    /// Looks whether there is one more, so that [`poll_accept`](Self::poll_accept) does not try in vain.
    pub(crate) fn look(&self) {
        let _ = self.events.try_io(Interest::READABLE, || match has_connection(&self.events)? {
            true => Ok(()),
            false => Err(io::Error::from(io::ErrorKind::WouldBlock)),
        });
    }
}
