//! A restart without a gap: the listening sockets go from this process to its successor.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use tokio::time::{Instant, sleep};

use super::control::ServerHandle;
use crate::clock::later;

/// sd_listen_fds(3): the first descriptor that is handed over.
const FIRST: i32 = 3;
/// sd_notify(3): where a process says that it is ready.
const NOTIFY: &str = "NOTIFY_SOCKET";
const LOOK_EVERY: Duration = Duration::from_millis(5);

impl ServerHandle {
    /// Starts `successor` with this server's listening sockets, waits until it serves, and begins the
    /// [graceful end](Self::shutdown) of this one. No connection is refused or reset meanwhile: the sockets
    /// stay open, and who accepts is all that changes.
    ///
    /// The sockets go as systemd's do (`LISTEN_FDS`): the successor takes them with
    /// [`ServerBuilder::inherit_or_bind`](super::ServerBuilder::inherit_or_bind). It says that it is ready
    /// through `NOTIFY_SOCKET` (sd_notify(3)), as [`Server::serve`](super::Server::serve) does by itself.
    ///
    /// # Errors
    ///
    /// [`HandOverError`]: it did not start, or was not ready within `patience` and was killed. This server
    /// then goes on serving.
    ///
    /// # Cancel safety
    ///
    /// Given up, the successor may be there, and serve the same sockets; this server goes on, too.
    pub async fn hand_over(
        &self,
        mut successor: Command,
        patience: Duration,
    ) -> Result<Child, HandOverError> {
        let ready = ready_socket().map_err(HandOverError::Start)?;
        let sockets = {
            let sockets = self.0.sockets();
            sockets.iter().map(|socket| socket.try_clone().map(OwnedFd::from)).collect::<io::Result<Vec<_>>>()
        };
        let sockets = sockets.map_err(HandOverError::Start)?;
        if sockets.is_empty() {
            return Err(HandOverError::NotServing);
        }
        successor.env("LISTEN_FDS", sockets.len().to_string()).env_remove("LISTEN_PID");
        successor.env_remove("LISTEN_FDNAMES").env_remove("LISTEN_FDS_FIRST_FD");
        successor.env(NOTIFY, ready.1);
        let mappings = (FIRST..).zip(sockets).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd });
        successor
            .fd_mappings(mappings.collect())
            .map_err(|error| HandOverError::Start(io::Error::other(error)))?;
        let mut child = successor.spawn().map_err(HandOverError::Start)?;
        // It holds copies of the sockets.
        drop(successor);
        let deadline = later(Instant::now(), patience);
        loop {
            if is_told(&ready.0) {
                self.shutdown();
                return Ok(child);
            }
            if let Some(status) = child.try_wait().map_err(HandOverError::Start)? {
                return Err(HandOverError::Ended(status));
            }
            if Instant::now() >= deadline {
                let _ = child.kill();
                let _ = child.wait();
                return Err(HandOverError::NotReady(patience));
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// A successor that did not take over. The server that wanted to hand over goes on.
#[derive(Debug)]
#[non_exhaustive]
pub enum HandOverError {
    /// There is nothing to hand over: the server does not serve yet, or its end has begun.
    NotServing,
    /// It could not be started.
    Start(io::Error),
    /// It has ended before it was ready.
    Ended(ExitStatus),
    /// It was not ready in time, and was killed.
    NotReady(Duration),
}

impl fmt::Display for HandOverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotServing => f.write_str("there is no listener to hand over: the server is not serving"),
            Self::Start(_) => f.write_str("cannot start the successor"),
            Self::Ended(status) => write!(f, "the successor ended before it was ready ({status})"),
            Self::NotReady(patience) => {
                write!(f, "the successor was not ready within {patience:?}, and was killed")
            }
        }
    }
}

impl std::error::Error for HandOverError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start(error) => Some(error),
            _ => None,
        }
    }
}

/// A socket that a successor can speak to, and its name in the environment.
#[cfg(target_os = "linux")]
fn ready_socket() -> io::Result<(UnixDatagram, String)> {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::SocketAddr;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("tfo-http-server-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    socket.set_nonblocking(true)?;
    // sd_notify(3): an abstract address is written with an @.
    Ok((socket, format!("@{name}")))
}

#[cfg(not(target_os = "linux"))]
fn ready_socket() -> io::Result<(UnixDatagram, String)> {
    Err(io::ErrorKind::Unsupported.into())
}

fn is_told(socket: &UnixDatagram) -> bool {
    let mut message = [0; 256];
    let read = socket.recv(&mut message).unwrap_or(0);
    message[..read].split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
}

/// sd_notify(3), to whoever wants to know. Nobody has to.
pub(super) fn tell_ready() {
    let Some(name) = std::env::var_os(NOTIFY) else { return };
    let Ok(socket) = UnixDatagram::unbound() else { return };
    #[cfg(target_os = "linux")]
    if let Some(name) = name.to_str().and_then(|name| name.strip_prefix('@')) {
        use std::os::linux::net::SocketAddrExt as _;
        if let Ok(address) = std::os::unix::net::SocketAddr::from_abstract_name(name) {
            let _ = socket.send_to_addr(b"READY=1", &address);
        }
        return;
    }
    let _ = socket.send_to(b"READY=1", name);
}
