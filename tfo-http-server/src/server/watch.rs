//! Many sockets that wait for something to read, and cost the reactor one registration.
//!
//! A socket of tokio's is registered for its writes, too, gets a place in the reactor's memory, and is
//! taken out again by a call of its own. One of these is put into an epoll instance, and leaves it when
//! it is closed. The reactor watches the instance: epoll(7), "can be nested".

#[cfg(target_os = "linux")]
pub(super) use linux::Watch;
#[cfg(not(target_os = "linux"))]
pub(super) use other::Watch;

/// What has happened to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// What it was added with.
    pub(super) key: usize,
    /// The peer will send no more, or there was an error.
    pub(super) ends: bool,
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::fd::{AsFd, OwnedFd};
    use std::task::{Context, Poll, ready};

    use rustix::event::{Timespec, epoll};
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    use super::Seen;

    /// Events that are fetched at a time.
    const EVENTS: usize = 64;
    /// Each of them is told of once.
    const FLAGS: epoll::EventFlags =
        epoll::EventFlags::IN.union(epoll::EventFlags::RDHUP).union(epoll::EventFlags::ET);
    const ENDS: epoll::EventFlags =
        epoll::EventFlags::RDHUP.union(epoll::EventFlags::HUP).union(epoll::EventFlags::ERR);

    pub(in super::super) struct Watch {
        epoll: AsyncFd<OwnedFd>,
        fetched: Vec<Seen>,
    }

    impl Watch {
        pub(in super::super) fn new() -> io::Result<Self> {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            #[expect(deprecated, reason = "its successor is unsafe; this owns its descriptor, which stays")]
            let epoll = AsyncFd::with_interest(epoll, Interest::READABLE)?;
            Ok(Self { epoll, fetched: Vec::with_capacity(EVENTS) })
        }

        /// What is readable already is told of, too.
        pub(in super::super) fn add(&self, socket: &impl AsFd, key: usize) -> io::Result<()> {
            let data = epoll::EventData::new_u64(key as u64);
            Ok(epoll::add(&self.epoll, socket, data, FLAGS)?)
        }

        /// Needs not be called for one that is closed.
        pub(in super::super) fn remove(&self, socket: &impl AsFd) {
            // It is not there if it was closed.
            let _ = epoll::delete(&self.epoll, socket);
        }

        /// Whether all that was fetched was told of.
        pub(in super::super) fn has_told_all(&self) -> bool {
            self.fetched.is_empty()
        }

        pub(in super::super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Seen> {
            loop {
                if let Some(seen) = self.fetched.pop() {
                    return Poll::Ready(seen);
                }
                // As long as the runtime lives.
                let Ok(mut ready) = ready!(self.epoll.poll_read_ready(cx)) else { return Poll::Pending };
                let mut room = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                let (events, _) = epoll::wait(ready.get_inner(), &mut room, Some(&now)).unwrap_or_default();
                self.fetched.extend(events.iter().map(|event| {
                    let (flags, data) = (event.flags, event.data);
                    Seen { key: data.u64() as usize, ends: flags.intersects(ENDS) }
                }));
                // All there was: the next one is an event of the instance.
                if events.len() < EVENTS {
                    ready.clear_ready();
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use std::io;
    use std::task::{Context, Poll};

    use tfo_core::AsSocket;

    use super::Seen;

    pub(in super::super) enum Watch {}

    impl Watch {
        pub(in super::super) fn new() -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(in super::super) fn add(&self, _: &impl AsSocket, _: usize) -> io::Result<()> {
            match *self {}
        }

        pub(in super::super) fn remove(&self, _: &impl AsSocket) {
            match *self {}
        }

        pub(in super::super) fn has_told_all(&self) -> bool {
            match *self {}
        }

        pub(in super::super) fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Seen> {
            match *self {}
        }
    }
}
