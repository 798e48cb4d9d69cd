//! Connections that wait for their client's next request, or its first, and for nothing else.
//!
//! They are no tasks, and have no timers. Whoever has polled them where they were accepted keeps them
//! here, and polls them again when there is something to read.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tfo_core::peek;
use tokio::time::{Instant, Sleep, sleep};

use super::connection::{Connection, HttpService, Wait};
use super::control::Place;
use super::limits::Limits;
use super::stats::{Counts, one};
use super::watch::{Seen, Watch};
use crate::clock::later;
use crate::stream::socket::Socket;

/// The longest time between two looks at how long connections have been waiting, and the shortest.
const TICKS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(5));
/// Looks in the shortest time that a connection may wait.
const LOOKS: u32 = 8;

/// One connection, and its place among those that are open.
pub(super) struct Held<S: HttpService> {
    pub(super) connection: Pin<Box<Connection<S>>>,
    place: Place,
    /// It was accepted just now, and has not waited yet.
    pub(super) is_new: bool,
    /// Of the slot that it has among those that are kept, and watched, until it is
    /// [let go](Kept::let_go) of.
    key: Option<usize>,
}

/// All that are kept by one worker.
pub(super) struct Kept<S: HttpService> {
    /// `None` where there is no such thing: then none is kept.
    watch: Option<Watch>,
    slots: Slab<Slot<S>>,
    /// Ticks until now.
    now: u64,
    tick: Duration,
    /// For how many ticks one may wait: for its first request, and for its next.
    most: [u64; 2],
    /// It is due before those of connections that are tasks. Whenever a timer is set that is due before all
    /// others, tokio wakes its reactor, though the thread that sets it be the reactor's own: a write, and a
    /// turn in vain, for each connection that is alone.
    ticker: Option<Pin<Box<Sleep>>>,
}

struct Slot<S: HttpService> {
    /// `None` while it is polled.
    held: Option<Held<S>>,
    wait: Wait,
    /// The last tick that it may see.
    until: u64,
}

impl<S: HttpService> Held<S> {
    pub(super) fn new(connection: Connection<S>, place: Place) -> Self {
        Self { connection: Box::pin(connection), place, is_new: true, key: None }
    }

    pub(super) fn into_parts(self) -> (Pin<Box<Connection<S>>>, Place) {
        (self.connection, self.place)
    }
}

impl<S: HttpService> Kept<S> {
    /// For connections that may wait as long as `limits` say, and a tick longer.
    pub(super) fn new(limits: &Limits) -> Self {
        let times = [limits.header_timeout, limits.idle_timeout];
        let tick = (times[0].min(times[1]) / LOOKS).clamp(TICKS.1, TICKS.0);
        let ticks = |time: Duration| u64::try_from(time.as_nanos().div_ceil(tick.as_nanos()));
        Self {
            watch: Watch::new().ok(),
            slots: Slab::new(),
            now: 0,
            tick,
            most: times.map(|time| ticks(time).unwrap_or(u64::MAX)),
            ticker: None,
        }
    }

    /// Sets the ticker, if it is not.
    pub(super) fn begin(&mut self) {
        match &mut self.ticker {
            // Nobody has counted on it.
            Some(ticker) if ticker.is_elapsed() && self.slots.is_empty() => {
                ticker.as_mut().reset(later(Instant::now(), self.tick));
            }
            Some(_) => {}
            none => {
                let ticker = none.insert(Box::pin(sleep(self.tick)));
                // It is set when it is polled.
                let _ = ticker.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            }
        }
    }

    /// Keeps one that waits for a request; gives it back if it does not, or cannot be watched.
    pub(super) fn keep(&mut self, mut held: Held<S>) -> Result<(), Held<S>> {
        // The tick in which it came is not a whole one.
        let until = |wait| self.now.saturating_add(self.most[wait as usize]);
        if let Some(slot) = held.key.and_then(|key| self.slots.get_mut(key)) {
            let Some((wait, ())) = held.connection.with_waiting(|_| ()) else { return Err(held) };
            *slot = Slot { held: Some(held), wait, until: until(wait) };
            return Ok(());
        }
        let Some(watch) = &self.watch else { return Err(held) };
        let entry = self.slots.vacant_entry();
        let added = held.connection.with_waiting(|socket| watch.add(socket, entry.key()));
        let Some((wait, Ok(()))) = added else { return Err(held) };
        (held.key, held.is_new) = (Some(entry.key()), false);
        entry.insert(Slot { held: Some(held), wait, until: until(wait) });
        Ok(())
    }

    /// Lets go of one that others are to watch.
    pub(super) fn let_go(&mut self, held: &mut Held<S>) {
        if self.forget(held)
            && let Some(watch) = &self.watch
        {
            held.connection.with_socket(|socket| watch.remove(socket));
        }
    }

    /// Forgets one that is over. Whether it was kept.
    pub(super) fn forget(&mut self, held: &mut Held<S>) -> bool {
        held.key.take().and_then(|key| self.slots.try_remove(key)).is_some()
    }

    /// The next that is to be polled: there is something to read.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Held<S>> {
        let Some(watch) = &mut self.watch else { return Poll::Pending };
        while let Poll::Ready(Seen { key, ends }) = watch.poll_next(cx) {
            let Some(mut held) = self.slots.get_mut(key).and_then(|slot| slot.held.take()) else { continue };
            if ends {
                self.slots.remove(key);
                if held.connection.with_socket(|socket| is_over(socket)) != Some(false) {
                    continue;
                }
                // Behind what is left comes its end: only who is added anew is told of it again. A task would
                // see both, and hyper gives up a request when it sees the end before it has the answer.
                held.key = None;
                held.connection.with_socket(|socket| watch.remove(socket));
            }
            held.connection.with_socket(Socket::refill);
            return Poll::Ready(held);
        }
        Poll::Pending
    }

    /// Whether a tick is over, and nothing is known to have come: nobody is closed who has just asked.
    pub(super) fn is_due(&self) -> bool {
        let is_over = self.ticker.as_ref().is_some_and(|ticker| ticker.is_elapsed());
        is_over && self.watch.as_ref().is_some_and(Watch::has_told_all)
    }

    /// Counts the time, while somebody waits, and closes who waits too long. To be polled when it
    /// [is due](Self::is_due), and when nothing else is to be done.
    pub(super) fn poll_tick(&mut self, counts: &Counts, cx: &mut Context<'_>) {
        while !self.slots.is_empty()
            && let Some(ticker) = &mut self.ticker
            && ticker.as_mut().poll(cx).is_ready()
        {
            // One at a time, however long nobody has looked; and without it no tick is longer than it is to be.
            let (now, next) = (Instant::now(), later(ticker.deadline(), self.tick));
            ticker.as_mut().reset(if next > now { next } else { later(now, self.tick) });
            self.now += 1;
            let now = self.now;
            self.slots.retain(|_, slot| {
                let in_time = slot.held.is_none() || now <= slot.until;
                if !in_time {
                    one(match slot.wait {
                        Wait::First => &counts.header_timeout,
                        Wait::Next => &counts.idle_timeout,
                    });
                }
                in_time
            });
        }
    }

    /// Lets go of all, to be polled once more: nobody has looked since when there is something to read.
    pub(super) fn take(&mut self) -> Vec<Held<S>> {
        self.watch = None;
        let all = self.slots.drain().filter_map(|slot| slot.held);
        all.inspect(|held| _ = held.connection.with_socket(Socket::refill)).collect()
    }
}

/// Whether there is nothing but the end to be read. Where there is nothing at all, somebody else's end was told
/// of: a socket of which a child process has a copy still leaves the instance late.
fn is_over(socket: &Socket) -> bool {
    match peek(socket, &mut [0]) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}
