//! What a hostile, or merely old, path does to packets.
//!
//! A middlebox is anything that looks at a [`Packet`] and gives a [`Verdict`]; a closure will do. One file
//! per behaviour in this directory.

mod after_fastopen;
mod balance_servers;
mod blackhole_answers;
mod blackhole_client;
mod corrupt_cookie;
mod counts;
mod delay_fastopen;
mod drop_data_syn_ack;
mod drop_fastopen;
mod drop_nth_syn;
mod drop_oversize;
mod drop_syn_data;
mod duplicate_syn;
mod memory;
mod nat;
mod proxy_syn_data;
mod reorder;
mod reset_syn;
mod rewrite_syn_ack;
mod rotate_client;
mod sign;
mod strip_fastopen;
mod strip_syn_data;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::packet::Packet;
use crate::wire::Shared;

pub use after_fastopen::AfterFastOpen;
pub use balance_servers::BalanceServers;
pub use blackhole_answers::BlackholeAnswers;
pub use blackhole_client::{BlackholeClient, Blacklist};
pub use corrupt_cookie::CorruptCookie;
pub use counts::Counts;
pub use delay_fastopen::DelayFastOpen;
pub use drop_data_syn_ack::DropDataSynAck;
pub use drop_fastopen::DropFastOpen;
pub use drop_nth_syn::DropNthSyn;
pub use drop_oversize::DropOversize;
pub use drop_syn_data::DropSynData;
pub use duplicate_syn::{Captured, DuplicateSyn};
pub use proxy_syn_data::ProxySynData;
pub use reorder::Reorder;
pub use reset_syn::ResetSyn;
pub use rewrite_syn_ack::RewriteSynAck;
pub use rotate_client::RotateClient;
pub use sign::FastOpenSign;
pub use strip_fastopen::StripFastOpen;
pub use strip_syn_data::StripSynData;

/// Something on the path that looks at every packet, of every direction.
///
/// It runs on the wire's thread: a slow one delays all packets. It may look at the tap, inject packets and
/// change delays and losses, but must not add or remove middleboxes. If it panics it is taken off the path,
/// and dropping the lab panics too.
///
/// ```no_run
/// # use tfo_lab::{Lab, Packet, Verdict};
/// # fn main() -> Result<(), tfo_lab::LabError> {
/// let lab = Lab::builder().build()?;
/// // A firewall that refuses connections to one port:
/// lab.middlebox(|packet: &Packet| match packet.reset_reply() {
///     Some(reset) if packet.is_syn() && packet.dst().is_some_and(|to| to.port() == 81) => {
///         Verdict::Drop.and(reset)
///     }
///     _ => Verdict::Pass,
/// });
/// # Ok(())
/// # }
/// ```
pub trait Middlebox: Send {
    /// Decides on one packet.
    fn handle(&mut self, packet: &Packet) -> Verdict;
}

impl<F: FnMut(&Packet) -> Verdict + Send> Middlebox for F {
    fn handle(&mut self, packet: &Packet) -> Verdict {
        self(packet)
    }
}

/// What becomes of a packet.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// It goes on as it is.
    Pass,
    /// It is gone.
    Drop,
    /// Another goes on in its place. See [`Packet::rewrite`].
    Replace(Packet),
    /// It goes on as it is, to the host of this name, whatever its destination address says. If there is no
    /// such host it is unroutable.
    Forward(Arc<str>),
    /// It goes on, this much later than it would. Others may overtake it.
    Delay(Duration),
    /// The verdict, and packets that leave the middlebox besides. See [`Verdict::and`].
    Also(Box<Self>, Vec<Extra>),
}

impl Verdict {
    /// The same, and a packet besides: a RST back to the sender, a duplicate.
    ///
    /// It goes wherever its destination address says, with the delay of that direction, past all middleboxes,
    /// and is never lost.
    pub fn and(self, extra: impl Into<Extra>) -> Self {
        match self {
            Self::Also(verdict, mut extras) => {
                extras.push(extra.into());
                Self::Also(verdict, extras)
            }
            verdict => Self::Also(Box::new(verdict), vec![extra.into()]),
        }
    }
}

/// A packet that a middlebox makes.
#[derive(Clone, Debug)]
pub struct Extra {
    pub(crate) packet: Packet,
    pub(crate) after: Duration,
}

impl Extra {
    /// Leaves the middlebox at once.
    pub fn new(packet: impl Into<Packet>) -> Self {
        Self { packet: packet.into(), after: Duration::ZERO }
    }

    /// Leaves it this much later.
    pub fn after(mut self, after: Duration) -> Self {
        self.after = after;
        self
    }
}

impl<P: Into<Packet>> From<P> for Extra {
    fn from(packet: P) -> Self {
        Self::new(packet)
    }
}

/// A middlebox on the path. Dropping this leaves it there.
#[derive(Clone)]
pub struct MiddleboxHandle {
    pub(crate) id: u64,
    pub(crate) wire: Weak<Shared>,
}

impl MiddleboxHandle {
    /// Takes it off the path. Nothing happens if it is gone already.
    pub fn remove(self) {
        if let Some(wire) = self.wire.upgrade() {
            wire.remove_middlebox(self.id);
        }
    }
}

impl fmt::Debug for MiddleboxHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MiddleboxHandle").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
