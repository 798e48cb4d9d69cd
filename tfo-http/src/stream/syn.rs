//! The first SYN: on what it is sent, what goes with it, and when it is answered.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use socket2::Socket;
use tfo_core::first_flight::Stop;
use tfo_core::{SynSend, TcpInfo, TcpState};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::attempts::Attempts;
use super::delivery::{Cargo, Delivery, Plan, Probe};
use super::evidence::{Handshake, Syn};
use super::table::Event;
use super::trip::Trip;
use super::{Early, State, TfoStream, cork, probe};
use crate::config::{Config, begin_plain, register};
use crate::error::ConnectError;
use crate::info::Reason;
use crate::path::Advice;
use crate::policy::Clearance;

/// A socket on which nothing was sent yet.
pub(crate) enum Unsent {
    /// Its connect was deferred: there was a cookie, and route and local address were chosen.
    Deferred(Socket),
    /// Not connected: one call does all of it when there is something to send. For paths on which rides
    /// are known to arrive; if the cookie has vanished, the same call asks for another.
    Fresh(Socket),
}

/// A SYN that has left, or what stood against it.
pub(super) struct Sent {
    pub(super) stream: Result<TcpStream, ConnectError>,
    /// How much of the flight went with it.
    pub(super) bytes: usize,
    pub(super) syn: Syn,
}

impl TfoStream {
    /// Sends the SYN, with as much of the first flight as may ride.
    pub(super) fn release(&mut self) {
        let from = self.state.phase();
        let (State::Idle(early) | State::Corked(early)) = self.take() else { return };
        let Early { unsent, others, mut trip, flight, .. } = *early;
        let (address, now) = (self.info.remote_addr(), Instant::now());
        let unsent = if trip.is_stale(now) { unsent.renewed(&self.config, &address) } else { unsent };
        let advice = trip.ask_again(now);
        let clearance = self.config.syn_data.judge(&flight);
        let sent = unsent.send(&self.config, &address, &flight, &clearance, advice);
        // Of a plain SYN nothing is learnt.
        if !matches!(sent.syn, Syn::Plain(_)) {
            trip.sent(now);
        }
        self.info.update(|facts| {
            facts.first_flight_bytes = Some(flight.len());
            facts.syn_data_bytes = sent.bytes;
        });
        // With HTTP/2 the server's settings come first, whatever it does with the request.
        let may_clear = sent.syn == Syn::WithData { void: Some(Reason::Held) } && !cork::is_http2(&flight);
        self.doubted_since = may_clear.then_some(now);
        let delivery = Delivery::begin(self.plan(sent.syn, &clearance, others.len(), &trip), now);
        let lot = self.config.lot.clone();
        let flight = (flight, clearance.early);
        let attempts = Attempts::new(sent, address, flight, delivery, others, trip, lot);
        self.go(from, Event::Release, State::Delivering(Box::new(attempts)));
    }

    fn plan(&self, syn: Syn, clearance: &Clearance, others: usize, trip: &Trip) -> Plan {
        let guard = self.config.hedge.guard(trip.rtt());
        let doubtful = trip.is_doubtful() && matches!(syn, Syn::WithData { .. });
        Plan {
            first: match syn {
                Syn::WithData { .. } => Cargo::Data,
                Syn::AskedForCookie(_) | Syn::DataLess { .. } => Cargo::Option,
                Syn::Plain(_) => Cargo::Nothing,
            },
            repeatable: clearance.repeatable,
            capable: trip.is_proven(),
            due: trip.due(),
            hedge: self.config.hedge_delay(trip.due(), doubtful),
            guard,
            // What is kept back until there is a connection waits for a handshake, not for an answer.
            probe: guard.filter(|_| clearance.stop.is_none()).map(|guard| Probe {
                after: guard.max(probe::INTERVAL),
                within: trip.due(),
                interval: probe::INTERVAL,
                // To lose a request is worse than to send it twice.
                times: if clearance.repeatable { 2 } else { 5 },
            }),
            next_address: self.config.happy_eyeballs_timeout,
            patience: self.config.connect_timeout,
            others,
        }
    }
}

impl Unsent {
    /// In place of one whose connect was deferred long ago: route and local address were chosen then. If there
    /// is no other, it will do.
    fn renewed(self, config: &Config, address: &SocketAddr) -> Self {
        let Self::Deferred(_) = self else { return self };
        match config.open(address) {
            Ok(fresh) if config.go_without_cookie(address, &fresh).is_ok() => Self::Fresh(fresh),
            _ => self,
        }
    }

    /// Sends the SYN as the path memory advises. Whatever the kernel has against it, a plain one can still
    /// be sent.
    fn send(
        self,
        config: &Config,
        address: &SocketAddr,
        flight: &[u8],
        clearance: &Clearance,
        advice: Advice,
    ) -> Sent {
        let why_not = match advice {
            Advice::Ride if clearance.early > 0 => None,
            Advice::Ride if flight.is_empty() => Some(Reason::NothingWritten),
            Advice::Ride => Some(clearance.stop.unwrap_or(Reason::NotReplaySafe(Stop::UnknownProtocol))),
            Advice::AskCookie => Some(Reason::Resting),
            Advice::Avoid => return self.give_way(config, address, Reason::Avoided),
        };
        let early = if why_not.is_none() { clearance.early } else { 0 };
        let no_cookie = match self {
            Self::Deferred(_) => Reason::CookieVanished,
            Self::Fresh(_) => Reason::NoCookie,
        };
        let (bytes, syn) = match (self.send_syn(address, &flight[..early]), why_not) {
            (Ok(SynSend::Data(bytes)), None) => {
                let too_large = (bytes < early).then_some(Reason::TooLarge);
                let held = (!clearance.safe).then_some(Reason::Held);
                (bytes, Syn::WithData { void: too_large.or(clearance.stop).or(held) })
            }
            // The kernel has begun an ordinary handshake instead, and taken nothing.
            (Ok(_), None) => (0, Syn::AskedForCookie(no_cookie)),
            (Ok(_), Some(why)) => (0, Syn::DataLess { why, no_cookie }),
            (Err(error), _) => {
                let reason = if error.is_unsupported() { Reason::Unsupported } else { Reason::Error };
                return self.give_way(config, address, reason);
            }
        };
        let (Self::Deferred(socket) | Self::Fresh(socket)) = self;
        Sent { stream: register(socket), bytes, syn }
    }

    /// To a plain SYN. On the same socket, if it will do: there may be no other.
    fn give_way(self, config: &Config, address: &SocketAddr, reason: Reason) -> Sent {
        let stream = match self {
            Self::Fresh(socket) if tfo_core::connect(&socket, address).is_ok() => register(socket),
            unsent => {
                drop(unsent);
                begin_plain(config, address)
            }
        };
        Sent { stream, bytes: 0, syn: Syn::Plain(reason) }
    }

    /// Without data, it goes all the same.
    fn send_syn(&self, address: &SocketAddr, data: &[u8]) -> Result<SynSend, tfo_core::Error> {
        let data_in = [IoSlice::new(data)];
        match self {
            Self::Fresh(socket) => tfo_core::send_syn(socket, address, &data_in),
            Self::Deferred(socket) if data.is_empty() => {
                tfo_core::send_empty_syn(socket).map(|()| SynSend::NoCookie)
            }
            Self::Deferred(socket) => match tfo_core::send(socket, &data_in) {
                Ok(bytes) => Ok(SynSend::Data(bytes)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(SynSend::NoCookie),
                Err(error) => Err(error),
            },
        }
    }
}

/// Ready when the handshake is over: with what the kernel says of it, or why it failed.
pub(crate) fn poll_established(stream: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<Handshake>> {
    loop {
        let ready = ready!(stream.poll_write_ready(cx));
        let tcp_info = TcpInfo::read(stream).ok();
        match (ready, tcp_info.as_ref().and_then(TcpInfo::state)) {
            // Writable, but not connected: wait for the next event.
            (Ok(()), Some(TcpState::SynSent)) => {
                let again = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                let _ = stream.try_io(Interest::WRITABLE, again);
            }
            (Ok(()), state) if state != Some(TcpState::Close) => {
                return Poll::Ready(Ok(tcp_info.as_ref().map(Handshake::from).unwrap_or_default()));
            }
            (ready, _) => {
                return Poll::Ready(Err(match stream.take_error() {
                    Ok(Some(error)) | Err(error) => error,
                    Ok(None) => ready.err().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
                }));
            }
        }
    }
}
