//! From a list of addresses to a stream: at once, with nothing sent, where a cookie is cached or rides are
//! known to arrive; else by a race of ordinary handshakes.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use socket2::Socket;
use tfo_core::Connect;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::config::{Config, begin_plain, register};
use crate::error::{ConnectError, ConnectErrorKind};
use crate::info::{ConnInfo, Reason};
use crate::parking::Parkable;
use crate::path::{self, Advice};
use crate::stream::evidence::{self, Handshake, Syn};
use crate::stream::syn::{Unsent, poll_established};
use crate::stream::{FirstAttempt, TfoStream, Trip};

/// The first call on a socket where rides are known to arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstCall {
    /// The one that sends.
    Send,
    /// `connect`, which asks for a cookie if there is none.
    Connect,
}

/// Connects to the first of `addresses` that answers, within the connect timeout.
pub(super) async fn dial(
    config: Arc<Config>,
    mut addresses: Vec<SocketAddr>,
    dns: Option<Duration>,
    first_call: FirstCall,
) -> Result<TfoStream, ConnectError> {
    if addresses.len() > 1 && config.prefer_rides && config.syn_data.is_wanted() {
        addresses.sort_by_cached_key(|address| !Trip::is_known_to_arrive(&config, address));
    }
    let Some((first, others)) = addresses.split_first() else { return Err(unreachable_family()) };
    let dialling = Dialling { config: &config, dns, first_call };
    let first = match dialling.start(*first) {
        // Nothing to wait for.
        Ok(Started::Unsent(stream)) => return Ok(stream.with_others(others)),
        Ok(Started::Handshake(handshake)) => Ok(handshake),
        Err(error) => Err(error),
    };
    // Boxed: the most usual way needs no room for it.
    Box::pin(dialling.wait(first, &addresses)).await
}

fn unreachable_family() -> ConnectError {
    ConnectError::new(ConnectErrorKind::Dns, "no address of a family that can be reached")
}

/// What all attempts of one connection have in common.
#[derive(Clone, Copy)]
struct Dialling<'a> {
    config: &'a Arc<Config>,
    dns: Option<Duration>,
    first_call: FirstCall,
}

/// An attempt that has begun.
enum Started {
    /// Nothing was sent, and nothing is to be waited for.
    Unsent(TfoStream),
    Handshake(Handshaking),
}

/// An ordinary handshake under way.
struct Handshaking {
    first: TcpStream,
    info: ConnInfo,
    reason: Reason,
    trip: Option<Trip>,
}

impl Dialling<'_> {
    /// Begins with one address.
    fn start(&self, address: SocketAddr) -> Result<Started, ConnectError> {
        let config = self.config;
        let info = ConnInfo::new(address, self.dns);
        let mut trip = config.syn_data.is_wanted().then(|| Trip::ask(config, &address));
        let unsent =
            |unsent, trip, info| Started::Unsent(TfoStream::unsent(unsent, trip, config.clone(), info));
        if self.first_call == FirstCall::Send && trip.as_ref().is_some_and(Trip::is_proven) {
            // Rides arrive there: the call that sends one needs none before it.
            let socket = config.open(&address)?;
            if config.go_without_cookie(&address, &socket).is_ok()
                && let Some(trip) = trip.take()
            {
                return Ok(unsent(Unsent::Fresh(socket), trip, info));
            }
        }
        match begin(config, &address, trip.as_ref().map(Trip::advice))? {
            Begun::Deferred(socket) => match trip {
                Some(trip) => Ok(unsent(Unsent::Deferred(socket), trip, info)),
                None => Err(ConnectError::bare(ConnectErrorKind::Socket).at(address)),
            },
            Begun::Handshake(socket, reason) => {
                let first = register(socket).map_err(|error| error.at(address))?;
                Ok(Started::Handshake(Handshaking { first, info, reason, trip }))
            }
        }
    }

    /// The first address' attempt, and if need be the others', within the connect timeout.
    async fn wait(
        &self,
        first: Result<Handshaking, ConnectError>,
        addresses: &[SocketAddr],
    ) -> Result<TfoStream, ConnectError> {
        match self.config.connect_timeout {
            None => self.race(first, addresses).await,
            Some(whole) => timeout(whole, self.race(first, addresses)).await.unwrap_or_else(|_| {
                let error = ConnectError::bare(ConnectErrorKind::TimedOut);
                Err(addresses.first().map_or_else(unreachable_family, |first| error.at(*first)))
            }),
        }
    }

    /// Attempts in order, each begun when the one before has failed or has kept quiet for the happy
    /// eyeballs delay (RFC 8305 section 5). The first connection wins; if there is none, the first error
    /// is told. `first` is the attempt to the first address.
    async fn race(
        &self,
        first: Result<Handshaking, ConnectError>,
        addresses: &[SocketAddr],
    ) -> Result<TfoStream, ConnectError> {
        if addresses.len() == 1 {
            return self.finish(first?, None).await;
        }
        let share = self.config.connect_timeout.map(|whole| whole / addresses.len().max(1) as u32);
        let mut waiting = addresses.iter().skip(1);
        let mut running = FuturesUnordered::new();
        let (mut started, mut first_error) = (Some(first.map(Started::Handshake)), None);
        // Whose handshakes are under way, in order.
        let mut begun = Vec::new();
        loop {
            match started.take().or_else(|| Some(self.start(*waiting.next()?))) {
                // A deferred connect is there at once. Should it come to nothing, those that are given up for
                // it are tried again.
                Some(Ok(Started::Unsent(stream))) => {
                    begun.extend(waiting);
                    return Ok(stream.with_others(&begun));
                }
                Some(Ok(Started::Handshake(handshake))) => {
                    begun.push(handshake.info.remote_addr());
                    running.push(self.finish(handshake, share));
                }
                Some(Err(error)) => {
                    first_error.get_or_insert(error);
                    continue;
                }
                None if running.is_empty() => return Err(first_error.unwrap_or_else(unreachable_family)),
                None => {}
            }
            let delay = self.config.happy_eyeballs_timeout.filter(|_| waiting.len() > 0);
            tokio::select! {
                biased;
                Some(result) = running.next() => match result {
                    Ok(stream) => return Ok(stream),
                    Err(error) => {
                        begun.retain(|address| Some(*address) != error.address());
                        first_error.get_or_insert(error);
                    }
                },
                () = async { sleep(delay.unwrap_or_default()).await }, if delay.is_some() => {}
            }
        }
    }

    /// Waits for the end of a handshake, for its share of the time at most.
    async fn finish(
        &self,
        handshaking: Handshaking,
        share: Option<Duration>,
    ) -> Result<TfoStream, ConnectError> {
        let Handshaking { first, info, reason, mut trip } = handshaking;
        let address = info.remote_addr();
        let handshake = handshake(self.config, first, address, &info, reason, trip.as_mut());
        let result = match share {
            None => handshake.await,
            Some(share) => timeout(share, handshake)
                .await
                .unwrap_or_else(|_| Err(ConnectError::bare(ConnectErrorKind::TimedOut))),
        };
        let stream = result.map_err(|error| error.at(address))?;
        Ok(TfoStream::open(stream, self.config.clone(), info))
    }
}

/// What came of `connect`.
enum Begun {
    /// A cookie is cached, nothing was sent.
    Deferred(Socket),
    /// An ordinary handshake is under way, and why it is that.
    Handshake(Socket, Reason),
}

/// `advice` is the path memory's; `None`: TCP Fast Open is not wanted.
fn begin(config: &Config, address: &SocketAddr, advice: Option<Advice>) -> Result<Begun, ConnectError> {
    let socket = config.open(address)?;
    let reason = match advice {
        None => Reason::Off,
        Some(Advice::Avoid) => Reason::Avoided,
        Some(Advice::Ride | Advice::AskCookie) => match config.want_fastopen(address, &socket) {
            Ok(()) => Reason::NoCookie,
            // Whatever the kernel has against it, an ordinary connection can still be had.
            Err(_) => Reason::Unsupported,
        },
    };
    match tfo_core::connect(&socket, address) {
        Ok(Connect::Deferred) if reason == Reason::NoCookie => Ok(Begun::Deferred(socket)),
        Ok(_) => Ok(Begun::Handshake(socket, reason)),
        Err(error) => Err(connect_error(error.into_io_error()).at(*address)),
    }
}

/// An ordinary handshake, parked if it is given up.
async fn handshake(
    config: &Arc<Config>,
    first: TcpStream,
    address: SocketAddr,
    info: &ConnInfo,
    reason: Reason,
    trip: Option<&mut Trip>,
) -> Result<TcpStream, ConnectError> {
    let first = Parkable::new(first, &config.lot);
    match trip {
        Some(trip) if reason == Reason::NoCookie => ask_cookie(config, first, address, info, trip).await,
        _ => {
            let handshake = established(&first).await?;
            evidence::note(&handshake, info, Syn::Plain(reason));
            first.take().map_err(connect_error)
        }
    }
}

/// A handshake whose SYN asks for a cookie. It is joined by one that does not if it is not answered,
/// and replaced if it is refused: some boxes drop or refuse what they do not know.
async fn ask_cookie(
    config: &Arc<Config>,
    first: Parkable,
    address: SocketAddr,
    info: &ConnInfo,
    trip: &mut Trip,
) -> Result<TcpStream, ConnectError> {
    let asked = Syn::AskedForCookie(Reason::NoCookie);
    let measure = |trip: &Trip, handshake: &Handshake| {
        if let Some(rtt) = handshake.clear_rtt(false) {
            trip.measured(rtt, Instant::now());
        }
    };
    trip.sent(Instant::now());
    let hedge = config.hedge_delay(trip.due(), false);
    let refused = tokio::select! {
        biased;
        handshake = established(&first) => match handshake {
            Ok(handshake) => {
                let repeated = handshake.was_repeated(false);
                let event = if repeated { path::Event::Silent } else { path::Event::Answered };
                trip.tell_with(event, handshake.clear_rtt(false), Instant::now());
                evidence::note(&handshake, info, asked);
                return first.take().map_err(connect_error);
            }
            Err(error) => Some(error),
        },
        () = async { sleep(hedge.unwrap_or_default()).await }, if hedge.is_some() => None,
    };
    let plain = Parkable::new(begin_plain(config, &address)?, &config.lot);
    if let Some(refused) = refused {
        trip.answered();
        // If a plain SYN is refused too, it was not the cookie's fault.
        let Ok(handshake) = established(&plain).await else { return Err(refused) };
        trip.tell(path::Event::Refused, Instant::now());
        measure(trip, &handshake);
        evidence::note_plain_instead(&handshake, info, FirstAttempt::Refused);
        return plain.take().map_err(connect_error);
    }
    trip.tell(path::Event::Silent, Instant::now());
    tokio::select! {
        biased;
        Ok(handshake) = established(&first) => {
            if !handshake.was_repeated(false) {
                trip.tell(path::Event::Answered, Instant::now());
            }
            measure(trip, &handshake);
            evidence::note(&handshake, info, asked);
            info.update(|facts| facts.hedged = true);
            first.take().map_err(connect_error)
        }
        Ok(handshake) = established(&plain) => {
            measure(trip, &handshake);
            evidence::note_plain_instead(&handshake, info, FirstAttempt::Silent);
            plain.take().map_err(connect_error)
        }
        else => Err(connect_error(io::ErrorKind::ConnectionRefused.into())),
    }
}

async fn established(attempt: &Parkable) -> Result<Handshake, ConnectError> {
    let stream = attempt.stream().map_err(connect_error)?;
    poll_fn(|cx| poll_established(stream, cx)).await.map_err(connect_error)
}

fn connect_error(error: io::Error) -> ConnectError {
    ConnectError::new(ConnectErrorKind::Connect, error)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::policy::SynData;

    #[test]
    fn the_option_is_set_where_it_is_wanted_and_nothing_else_is_lost() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        for syn_data in [SynData::SafeMethods, SynData::Never] {
            let advice = (syn_data == SynData::SafeMethods).then_some(Advice::Ride);
            let config = Config {
                syn_data: syn_data.clone(),
                nodelay: true,
                reuse_address: true,
                ..Config::default()
            };
            let (socket, reason) = match begin(&config, &address, advice).unwrap() {
                Begun::Handshake(socket, reason) => (socket, reason),
                Begun::Deferred(socket) => (socket, Reason::NoCookie),
            };
            assert!(socket.tcp_nodelay().unwrap() && socket.reuse_address().unwrap());
            let asks = tfo_core::sockopt::fastopen_connect(&socket).unwrap();
            assert_eq!(asks, reason == Reason::NoCookie, "{reason:?}");
            assert!(syn_data == SynData::SafeMethods || reason == Reason::Off);
        }
    }
}
