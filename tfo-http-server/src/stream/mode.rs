//! Where the gate of one connection stands, what a read gets there, and how it goes on.
//!
//! | mode | a read gets | goes on to |
//! |---|---|---|
//! | `Unseen` | what is unread is judged, once | all may go, or it is proven by now: `Open`; a part, or nothing: `Released`, `Withheld`; disproven: `Failed` |
//! | `Released` | the front that may go, from the kernel | at its end: `Withheld` |
//! | `Withheld` | nothing, it waits | proven: `Open`, or `Rest` if it was taken out of the kernel; else `Failed` |
//! | `Rest` | what was taken out | at its end: `Open` |
//! | `Open` | all there is | |
//! | `Failed` | the reason | |
//!
//! A connection that was proven when it was accepted begins as `Open`, one that was reset by then as
//! `Failed`, all others as `Unseen`.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tfo_core::peek;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::gate::{Judgement, Standing};
use super::look::{duplicate, look, poll_standing};
use super::replayable::Replayable;
use super::socket::Socket;
use super::{LARGEST_FLIGHT, USUAL_FLIGHT};
use crate::outcome::Disproven;
use crate::shared::{Flight, Proof, State};

/// Each variant owns what only that state needs.
pub(super) enum Mode {
    /// Not proven when it was accepted; the unread bytes have not been looked at.
    Unseen { rule: Option<Replayable> },
    /// So many bytes may be read; behind them are some that may not.
    Released { left: usize },
    /// The next byte waits for the proof.
    Withheld(Withheld),
    /// What was taken out of the kernel, and may be read.
    Rest { bytes: Vec<u8>, read: usize },
    /// There is nothing, or no longer anything, to withhold.
    Open,
    /// Disproven: what was withheld is gone.
    Failed(Disproven),
}

#[derive(Default)]
pub(super) struct Withheld {
    /// Something in front of it was released, and perhaps answered.
    answered: bool,
    /// Where the bytes are: `None` for the kernel.
    taken: Option<Taken>,
    deadline: Option<Pin<Box<Sleep>>>,
}

/// What was read at once, because most flights may go as a whole, and must not be handed on yet.
struct Taken {
    bytes: Vec<u8>,
    /// A second descriptor: the ACK is no event for a reader whose data is drained, and clearing the
    /// stream's own write readiness would make its writes wait.
    watch: Option<Socket>,
}

impl Mode {
    pub(super) fn poll_read(
        &mut self,
        state: &mut State,
        deadline: Option<Instant>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            let Some(socket) = state.socket.as_mut() else {
                return Poll::Ready(Err(self.closed(state).into()));
            };
            *self = match self {
                Self::Open => return Pin::new(socket).poll_read(cx, buf),
                Self::Failed(why) => return Poll::Ready(Err((*why).into())),
                Self::Unseen { rule } => match state.proof {
                    // Somebody has asked since.
                    Proof::Proven => Self::Open,
                    Proof::Disproven(why) => Self::Failed(why),
                    Proof::Pending => {
                        let rule = rule.take();
                        if socket.is_inline() && buf.remaining() >= USUAL_FLIGHT {
                            Self::first_read(state, rule.as_ref(), cx, buf)?
                        } else {
                            Self::first_look(state, rule.as_ref())?
                        }
                    }
                },
                Self::Released { left } => {
                    *left -= ready!(poll_read_some(socket, *left, cx, buf))?;
                    if *left == 0 {
                        *self = Self::Withheld(Withheld { answered: true, ..Withheld::default() });
                    }
                    return Poll::Ready(Ok(()));
                }
                Self::Withheld(withheld) => {
                    let standing = ready!(withheld.poll_standing(socket, deadline, cx))?;
                    Self::after_look(standing, state, withheld.taken.take())
                }
                Self::Rest { bytes, read } => {
                    let part = &bytes[*read..];
                    let part = &part[..part.len().min(buf.remaining())];
                    buf.put_slice(part);
                    *read += part.len();
                    if *read == bytes.len() {
                        *self = Self::Open;
                    }
                    return Poll::Ready(Ok(()));
                }
            };
            // Some of what was judged was read.
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Decides on all that is unread, without taking it out of the kernel.
    fn first_look(state: &mut State, rule: Option<&Replayable>) -> io::Result<Self> {
        let Some(socket) = &state.socket else { return Ok(Self::Failed(Disproven::Closed)) };
        let mut room = [0; USUAL_FLIGHT];
        let peeked = match peek(socket, &mut room) {
            Ok(bytes) => &room[..bytes],
            // No data was in the SYN, and what comes now comes behind the ACK.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Self::Open),
            Err(error) => return Err(error.into()),
        };
        let (judgement, all) = match Judgement::of(peeked, room.len(), rule) {
            Judgement::LookFurther => match look(socket)? {
                Standing::Unproven => look_further(socket, rule)?,
                // The usual reason: it is proven by now, and its data has arrived.
                settled => return Ok(Self::after_look(settled, state, None)),
            },
            judgement => (judgement, peeked.len()),
        };
        Ok(match judgement {
            Judgement::Open | Judgement::LookFurther => {
                state.set_flight(Flight { released: all, gated: false });
                Self::Open
            }
            Judgement::Hold { released } => {
                state.set_flight(Flight { released, gated: true });
                match released {
                    0 => Self::Withheld(Withheld::default()),
                    left => Self::Released { left },
                }
            }
        })
    }

    /// Reads what there is, decides on it, and takes back what must wait. Most flights may go as a whole:
    /// then a look at them before would have been in vain.
    fn first_read(
        state: &mut State,
        rule: Option<&Replayable>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> io::Result<Self> {
        let Some(socket) = &mut state.socket else { return Ok(Self::Failed(Disproven::Closed)) };
        let (before, room) = (buf.filled().len(), buf.remaining());
        // As in a first look.
        if Pin::new(socket).poll_read(cx, buf)?.is_pending() {
            return Ok(Self::Open);
        }
        let flight = &buf.filled()[before..];
        // As much as was asked for: there may be more.
        let more = flight.len() >= room;
        Ok(match Judgement::of_prefix(flight, more, rule) {
            Judgement::Open | Judgement::LookFurther => {
                state.set_flight(Flight { released: flight.len(), gated: false });
                Self::Open
            }
            Judgement::Hold { released } => {
                let taken = Taken { bytes: flight[released..].to_vec(), watch: None };
                buf.set_filled(before + released);
                state.set_flight(Flight { released, gated: true });
                Self::Withheld(Withheld { answered: released > 0, taken: Some(taken), deadline: None })
            }
        })
    }

    /// What becomes of a gate with something behind it. Unproven means: at the deadline.
    fn after_look(standing: Standing, state: &mut State, taken: Option<Taken>) -> Self {
        state.note(standing);
        match (standing, taken) {
            (Standing::Proven, Some(Taken { bytes, .. })) if !bytes.is_empty() => {
                Self::Rest { bytes, read: 0 }
            }
            (Standing::Proven, _) => Self::Open,
            (Standing::Disproven, _) => Self::Failed(Disproven::Reset),
            (Standing::Unproven, _) => {
                // Now, whenever the stream is dropped.
                state.abort(Disproven::Deadline);
                Self::Failed(Disproven::Deadline)
            }
        }
    }

    /// Whether the reader has all that came in the SYN, or the first of what was withheld, or will never
    /// have it. That it could read is not enough: it may be told to stop before it does.
    pub(super) fn withholds_nothing(&self, state: &State, read: &Poll<io::Result<()>>) -> bool {
        match read {
            Poll::Ready(Ok(())) => matches!(self, Self::Open | Self::Rest { .. }),
            Poll::Ready(Err(_)) => true,
            // There was nothing in the SYN.
            Poll::Pending => matches!(self, Self::Open) && state.flight.is_none(),
        }
    }

    /// Whether something was read by, and perhaps answered to, a peer whose further bytes are
    /// withheld.
    pub(super) fn has_answered(&self) -> bool {
        match self {
            Self::Released { .. } => true,
            Self::Withheld(withheld) => withheld.answered,
            _ => false,
        }
    }

    /// Whether something is withheld that the kernel does not have any more.
    pub(super) fn has_taken(&self) -> bool {
        matches!(self, Self::Withheld(Withheld { taken: Some(_), .. }))
    }

    /// Why there is no socket.
    pub(super) fn closed(&self, state: &State) -> Disproven {
        match (self, state.proof) {
            (Self::Failed(why), _) => *why,
            (_, Proof::Disproven(why)) => why,
            _ => Disproven::Closed,
        }
    }
}

impl fmt::Debug for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unseen { .. } => f.write_str("not looked at"),
            Self::Released { left } => write!(f, "{left} bytes released"),
            Self::Withheld(_) => f.write_str("withheld"),
            Self::Rest { bytes, read } => write!(f, "{} bytes left", bytes.len() - read),
            Self::Open => f.write_str("open"),
            Self::Failed(why) => write!(f, "{why}"),
        }
    }
}

impl Withheld {
    fn poll_standing(
        &mut self,
        socket: &Socket,
        deadline: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Standing>> {
        if socket.is_inline() {
            return Poll::Pending;
        }
        let Some(Taken { watch, .. }) = &mut self.taken else {
            return poll_standing(socket, Interest::READABLE, &mut self.deadline, deadline, cx);
        };
        if watch.is_none() {
            *watch = duplicate(socket).ok();
        }
        // Without a descriptor left, writes wait.
        let watch = watch.as_ref().unwrap_or(socket);
        poll_standing(watch, Interest::WRITABLE, &mut self.deadline, deadline, cx)
    }
}

/// A SYN larger than usual: a path with jumbo frames, or the loopback interface.
fn look_further(socket: &Socket, rule: Option<&Replayable>) -> io::Result<(Judgement, usize)> {
    let mut room = vec![0; LARGEST_FLIGHT];
    let bytes = peek(socket, &mut room)?;
    let judgement = match Judgement::of(&room[..bytes], room.len(), rule) {
        Judgement::LookFurther => Judgement::of_prefix(&room[..bytes], true, rule),
        judgement => judgement,
    };
    Ok((judgement, bytes))
}

/// Reads at most `most` bytes.
fn poll_read_some(
    socket: &Socket,
    most: usize,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_read_ready(cx))?;
        let most = most.min(buf.remaining());
        // Not `poll_read`: it takes a short read for a drained socket, and this one is short on purpose.
        match socket.try_read(buf.initialize_unfilled_to(most)) {
            Ok(bytes) => {
                buf.advance(bytes);
                return Poll::Ready(Ok(bytes));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}
