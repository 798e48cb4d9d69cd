//! The limit on what is written to a peer that is not proven.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::time::{Instant, Sleep};

use super::gate::Standing;
use super::look::poll_standing;
use crate::outcome::Disproven;
use crate::shared::{Proof, State};

#[derive(Debug)]
pub(super) struct Cap {
    left: usize,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Cap {
    pub(super) fn new(most: usize) -> Self {
        Self { left: most, deadline: None }
    }

    pub(super) fn spend(&mut self, written: usize) {
        self.left = self.left.saturating_sub(written);
    }

    /// How much may be written now; `None` when there is no limit any more.
    ///
    /// Woken by the ACK: what was written is below the kernel's own window, so the send buffer has
    /// room, and the change of state is an event for the writer.
    pub(super) fn poll_room(
        &mut self,
        state: &mut State,
        deadline: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<usize>>> {
        match state.proof {
            Proof::Proven => return Poll::Ready(Ok(None)),
            Proof::Disproven(why) => return Poll::Ready(Err(why.into())),
            Proof::Pending if self.left > 0 => return Poll::Ready(Ok(Some(self.left))),
            Proof::Pending => {}
        }
        let Some(socket) = &state.socket else { return Poll::Ready(Err(Disproven::Closed.into())) };
        let standing = ready!(poll_standing(socket, Interest::WRITABLE, &mut self.deadline, deadline, cx))?;
        state.note(standing);
        match standing {
            Standing::Proven => Poll::Ready(Ok(None)),
            Standing::Disproven => Poll::Ready(Err(Disproven::Reset.into())),
            Standing::Unproven => {
                state.abort(Disproven::Deadline);
                Poll::Ready(Err(Disproven::Deadline.into()))
            }
        }
    }
}
