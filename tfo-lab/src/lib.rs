//! A test network on the real kernel.
//!
//! Hosts are network namespaces; a wire of TUN devices and one thread moves packets between them, through a
//! delay, seeded loss and a stack of middleboxes; a tap keeps every packet at both ends. [`Lab`] is where to
//! begin.
//!
//! It needs Linux, and root or unprivileged user namespaces: a program that shall work for ordinary users
//! calls [`enter_user_namespace`] first. Elsewhere the crate compiles, and says [`LabError::NotLinux`].
#![forbid(unsafe_code)]

mod builder;
mod command;
mod error;
mod host;
mod lab;
pub mod middlebox;
mod packet;
mod sys;
pub mod syscalls;
mod tap;
pub mod test;
mod wire;

pub use builder::LabBuilder;
pub use command::HostCommand;
pub use error::LabError;
pub use host::Host;
pub use lab::Lab;
#[doc(no_inline)]
pub use middlebox::{
    AfterFastOpen, BalanceServers, BlackholeAnswers, BlackholeClient, Blacklist, Captured, CorruptCookie,
    Counts, DelayFastOpen, DropDataSynAck, DropFastOpen, DropNthSyn, DropOversize, DropSynData, DuplicateSyn,
    Extra, FastOpenSign, HoldProof, Middlebox, MiddleboxHandle, ProxySynData, Reorder, ResetSyn,
    RewriteSynAck, RotateClient, StripFastOpen, StripSynData, Verdict,
};
pub use packet::{FastOpenOption, Packet, TcpEdit};
pub use tap::{End, Flow, FlowKey, Ladder, Record, Tap};
pub use wire::WireStats;

/// Gives the process the right to make labs, if it has not got it: it enters a user namespace in which it is
/// root.
///
/// Call it first in `main`, before there is a second thread: a runtime, say. It does nothing for root.
/// Afterwards files are still accessed with the rights of the user, but seem to belong to root.
///
/// # Errors
/// If the process has several threads, or the system does not allow it; the error says what to do.
pub fn enter_user_namespace() -> Result<(), LabError> {
    sys::enter_user_namespace()
}

/// Whether labs can be made here: makes one of one host, and removes it.
///
/// # Errors
/// What stands in the way, and what to do about it.
pub fn check() -> Result<(), LabError> {
    Lab::builder().host("check").build().map(drop)
}
