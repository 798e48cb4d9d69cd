use std::time::Duration;

use super::{Counts, Extra, FastOpenSign, Middlebox, Verdict};
use crate::packet::Packet;

/// How far behind the SYN the RST to the server leaves: it must not come first.
const BEHIND: Duration = Duration::from_millis(1);

/// Answers SYNs by RST, as if the server did not listen.
///
/// Apple's kernel counts it (`data_rst`, `req_rst`), Firefox had a reason for it. Linux fails the connection
/// with `ECONNREFUSED`, tries nothing else and remembers nothing: whoever used Fast Open has to try again
/// without, before the server is said to refuse connections.
///
/// The RST goes to the source address of the packet as it is here: behind a translation of addresses
/// (in the stack) it finds nobody.
#[derive(Clone, Debug)]
pub struct ResetSyn {
    sign: Option<FastOpenSign>,
    deliver: bool,
    both_ends: bool,
    counts: Counts,
}

impl ResetSyn {
    /// Those with data.
    pub fn with_data() -> Self {
        Self::of(Some(FastOpenSign::Data))
    }

    /// Those with the Fast Open option: requests for a cookie too.
    pub fn with_option() -> Self {
        Self::of(Some(FastOpenSign::Option))
    }

    /// All of them. Plain TCP fares no better.
    pub fn any() -> Self {
        Self::of(None)
    }

    /// Lets the SYN go on to the server, which acts on its data: why a RST is no proof that nothing was
    /// processed. By default it is dropped.
    pub fn deliver(mut self) -> Self {
        self.deliver = true;
        self
    }

    /// Lets the SYN go on, and resets the server's side too, as if the client did it. A Linux server still
    /// hands such a connection, and its data, to the application, and keeps its place in the Fast Open queue
    /// taken for a minute (RFC 7413 5.1).
    pub fn both_ends(mut self) -> Self {
        self.deliver = true;
        self.both_ends = true;
        self
    }

    /// What it has seen and done.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }

    fn of(sign: Option<FastOpenSign>) -> Self {
        Self { sign, deliver: false, both_ends: false, counts: Counts::default() }
    }

    fn verdict(&self, packet: &Packet) -> Verdict {
        let concerned = packet.is_syn() && self.sign.is_none_or(|sign| sign.is_on(packet));
        let Some(reset) = packet.reset_reply().filter(|_| concerned) else { return Verdict::Pass };
        let verdict = if self.deliver { Verdict::Pass } else { Verdict::Drop }.and(reset);
        match packet.reset_behind().filter(|_| self.both_ends) {
            Some(behind) => verdict.and(Extra::new(behind).after(BEHIND)),
            None => verdict,
        }
    }
}

impl Middlebox for ResetSyn {
    fn handle(&mut self, packet: &Packet) -> Verdict {
        self.counts.note(self.verdict(packet))
    }
}
