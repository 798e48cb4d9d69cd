//! What the kernel says about a connection, now or when it changes.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tfo_core::TcpInfo;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::gate::Standing;
use super::socket::Socket;

/// Asks the kernel where the connection stands. One system call.
pub(crate) fn look(socket: &Socket) -> io::Result<Standing> {
    Ok(Standing::of(TcpInfo::read(socket)?.state()))
}

/// Looks whenever the socket has an event in this direction, until it is proven or disproven.
///
/// "Would block" from a look clears the readiness that was seen *before* the look, so an ACK
/// between the two is an event that is still to come.
pub(crate) fn poll_look(
    socket: &Socket,
    interest: Interest,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Standing>> {
    loop {
        if interest.is_readable() {
            ready!(socket.poll_read_ready(cx))?;
        } else {
            ready!(socket.poll_write_ready(cx))?;
        }
        let looked = socket.try_io(interest, || match look(socket)? {
            Standing::Unproven => Err(io::ErrorKind::WouldBlock.into()),
            settled => Ok(settled),
        });
        match looked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            looked => return Poll::Ready(looked),
        }
    }
}

/// The same, but ready at the deadline, too: then unproven is an answer. `sleep` is made when something
/// has to wait.
pub(super) fn poll_standing(
    socket: &Socket,
    interest: Interest,
    sleep: &mut Option<Pin<Box<Sleep>>>,
    deadline: Option<Instant>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Standing>> {
    if let Poll::Ready(looked) = poll_look(socket, interest, cx) {
        return Poll::Ready(looked);
    }
    let sleep = sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline.unwrap_or_else(Instant::now))));
    ready!(sleep.as_mut().poll(cx));
    // The last look: whatever happened to events, a proven connection is not failed.
    Poll::Ready(look(socket))
}

/// A second descriptor, registered apart.
pub(crate) fn duplicate(socket: &Socket) -> io::Result<Socket> {
    TcpStream::from_std(SockRef::from(socket).try_clone()?.into()).map(Socket::Registered)
}
