//! A question to the peer's kernel on a connection on which nothing comes: is it there?
//!
//! A TCP keepalive probe (RFC 9293 section 3.8.4): the kernel that gets it answers, whatever its
//! application does. The request goes nowhere a second time, and a server that is slow is told from a
//! path that swallows its answer.

use std::io;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tfo_core::TcpInfo;
use tokio::net::TcpStream;

/// The least time between two probes, and before the first: keepalive counts in seconds.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// More than are ever sent: the kernel would end the connection after the last.
const RETRIES: u32 = 100;

/// A question that was asked, and the caller's settings, which are set aside meanwhile.
#[derive(Debug)]
pub(super) struct Probe {
    asked: Instant,
    keepalive: bool,
    settings: TcpKeepalive,
    #[cfg(target_os = "linux")]
    user_timeout: Option<Duration>,
}

impl Probe {
    /// Asks at once, if nothing has come for a second, and every second until [`Probe::end`].
    #[cfg(target_os = "linux")]
    pub(super) fn begin(stream: &TcpStream) -> io::Result<Self> {
        let socket = SockRef::from(stream);
        let settings = TcpKeepalive::new()
            .with_time(socket.tcp_keepalive_time()?)
            .with_interval(socket.tcp_keepalive_interval()?)
            .with_retries(socket.tcp_keepalive_retries()?);
        let (keepalive, user_timeout) = (socket.keepalive()?, socket.tcp_user_timeout()?);
        // It would end the connection together with a probe that is lost.
        socket.set_tcp_user_timeout(None)?;
        let probe = Self { asked: Instant::now(), keepalive, settings, user_timeout };
        // The time comes last: it sets the clock going.
        let patient = TcpKeepalive::new().with_interval(INTERVAL).with_retries(RETRIES);
        let begun = socket.set_tcp_keepalive(&patient);
        let begun = begun.and_then(|()| socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(INTERVAL)));
        match begun {
            Ok(()) => Ok(probe),
            Err(error) => {
                probe.end(stream);
                Err(error)
            }
        }
    }

    /// Nothing rides elsewhere.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn begin(_: &TcpStream) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Whether the peer has acked anything since.
    pub(super) fn is_answered(&self, stream: &TcpStream) -> bool {
        let asked = self.asked.elapsed();
        // What cannot be known is no reason to do anything.
        TcpInfo::read(stream).map_or(true, |info| info.last_ack_recv().is_none_or(|heard| heard < asked))
    }

    /// Gives the caller's settings back.
    pub(super) fn end(self, stream: &TcpStream) {
        let socket = SockRef::from(stream);
        // A connection that ends meanwhile refuses them, and has no use for them.
        let _ = socket.set_tcp_keepalive(&self.settings);
        let _ = socket.set_keepalive(self.keepalive);
        #[cfg(target_os = "linux")]
        let _ = socket.set_tcp_user_timeout(self.user_timeout);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::config::{Config, Keepalive, begin_plain};

    #[tokio::test]
    async fn the_callers_settings_come_back_and_a_living_peer_answers() {
        const S: Duration = Duration::from_secs(1);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let set = Keepalive { time: Some(7 * S), interval: Some(3 * S), retries: Some(4) };
        let timeout = Some(Duration::from_millis(1234));
        for (keepalive, tcp_user_timeout) in [(Keepalive::default(), None), (set, timeout)] {
            let config = Config { keepalive, tcp_user_timeout, ..Config::default() };
            let address = listener.local_addr().expect("an address");
            let stream = begin_plain(&config, &address).expect("a socket");
            stream.writable().await.expect("a handshake");
            let settings = || {
                let socket = SockRef::from(&stream);
                let all = (socket.tcp_keepalive_time()?, socket.tcp_keepalive_interval()?);
                io::Result::Ok((
                    all,
                    socket.tcp_keepalive_retries()?,
                    socket.keepalive()?,
                    socket.tcp_user_timeout()?,
                ))
            };
            let before = settings().expect("settings");
            tokio::time::sleep(S + S / 10).await;
            let probe = Probe::begin(&stream).expect("a probe");
            let (times, .., timeout) = settings().expect("settings");
            assert_eq!((times, timeout), ((S, S), None), "a timeout would end the connection");
            tokio::time::sleep(S / 5).await;
            assert!(probe.is_answered(&stream));
            probe.end(&stream);
            assert_eq!(settings().expect("settings"), before);
        }
    }
}
