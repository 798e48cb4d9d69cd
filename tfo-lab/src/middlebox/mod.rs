//! What a hostile, or merely old, path does to packets.
//!
//! A middlebox is anything that looks at a [`Packet`] and gives a [`Verdict`]; a closure will do. One file
//! per behaviour in this directory. Each has [`Counts`], by which a test proves that it had a part in what it
//! saw, and remembers at most 4096 connections. Both address families.
//!
//! What Linux does about each, as the tests `middleboxes_*` see it on the kernel that they run on (6.18 when
//! this was written; round trip 10 ms). *Fail* is `tcpi_fastopen_client_fail`: 1 no cookie, 2 data not acked,
//! 3 SYN sent again. Plain TCP passes all of them at full speed, except where it says otherwise.
//!
//! | middlebox | what Linux does | how it was seen |
//! |---|---|---|
//! | [`DropSynData`] | answered after 1.02–1.05 s, each time; fail 3; never learned | tap: SYN with data, plain SYN a second later |
//! | [`DropFastOpen`], requests | the same on every visit that asks for a cookie, but fail 1: only the retransmission tells; never turns to option 254 | tap; `total_retrans` 1 |
//! | [`DropFastOpen`], cookies | as `DropSynData` | tap, fail 3 |
//! | [`DropFastOpen::grants`] | 1.02–1.04 s; the SYN-ACK sent again has no option; fail 1 | tap |
//! | [`StripFastOpen`] | no time lost; fail 2; `total_retrans` 1; after a stripped *request* it asks by option 254 | `TCP_INFO`, one SYN |
//! | [`StripSynData`] | no time lost; fail 2; the server's child is TFO without data | `TCP_INFO` of both |
//! | [`CorruptCookie`] | no time lost; fail 2; the SYN-ACK grants the right one again | tap, `TCPFastOpenPassiveFail` |
//! | [`DropNthSyn`] | the dropped: 1 s, fail 3; plain TCP as slow when it is hit | tap |
//! | [`DropDataSynAck`] | the request is executed; plain SYNs at 1.02 and 2.04 s, each answered by the same SYN-ACK; never established | tap; `SYN_SENT` after 2.6 s |
//! | [`RewriteSynAck::denying_data`] | no time lost; data sent twice, delivered once; fail 2, although the server took it | `TCP_INFO` of both, tap |
//! | [`RewriteSynAck::claiming_data`] | "success" (fail 0, SYN data acked); the request never arrives | `TCP_INFO`, silence |
//! | [`ProxySynData`] | "success" (fail 0, SYN data acked), but it took two round trips | tap |
//! | [`ResetSyn::with_data`] | `ECONNREFUSED` after one round trip, each time; one SYN; nothing remembered | tap, error |
//! | [`ResetSyn::deliver`] | the same, and the request is executed | the server |
//! | [`ResetSyn::any`] | the same; plain TCP is refused too | error |
//! | [`BlackholeAnswers`] | "success" (fail 0, `TCPFastOpenActive` + 1), then silence; the request is executed | counters, 4 answers within 2.6 s, none arrived |
//! | [`DelayFastOpen`] | "success" and a slow server | tap |
//! | [`BlackholeClient`] | silence; the plain SYNs vanish too; so does plain TCP | tap |
//! | [`AfterFastOpen`] | as the middlebox inside; what was open before goes on | tap |
//! | [`RotateClient`] | no time lost; fail 2 and a new cookie each time | tap, `TCPFastOpenPassiveFail` |
//! | [`BalanceServers::translating`] | no time lost; fail 2 and a new cookie each time, also with one key | tap |
//! | [`BalanceServers::forwarding`] | rides with one key; else fail 2 each time | `TCP_INFO` of both |
//! | [`DropOversize::syns_only`] | large SYNs as `DropSynData`; small ones ride | tap |
//! | [`DropOversize`] | large SYNs: plain SYN after 1 s, then the data vanishes too; plain TCP is as stuck | silence |
//! | [`DropOversize::with_icmp`] | plain SYN at once; fail 3; the next SYN is small enough (1220 and 1200 bytes of data at 1300) and rides | tap |
//! | [`Reorder`] | rides; all bytes in order | tap |
//! | [`DuplicateSyn`] | delivered twice if the client had closed | the server |
//!
//! Not a middlebox, but the same to a client: another key ([`Host::set_fastopen_key`](crate::Host::set_fastopen_key)),
//! a port without Fast Open, or Fast Open switched off ([`Host::set_fastopen`](crate::Host::set_fastopen)): fail
//! 2, no time lost. The client switched off: `EOPNOTSUPP`. Cookies flushed
//! ([`Host::flush_cookies`](crate::Host::flush_cookies)): fail 1. Loss and delay belong to the wire.
//!
//! Packets pass the stack in the order in which it was built, in both directions. What a middlebox makes itself
//! (a RST, an ICMP message) goes past the others: put those that answer in front of those that translate
//! addresses.

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
mod hold_proof;
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
pub use hold_proof::HoldProof;
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
