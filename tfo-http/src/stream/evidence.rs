//! What the kernel says of a handshake, as an outcome. Nothing is concluded from what was sent.

use std::time::Duration;

use tfo_core::{ClientFail, TcpInfo};

use super::attempts::{FirstAttempt, Won};
use crate::info::{ConnInfo, Facts, Reason, SynOutcome};

/// What the kernel says of a handshake that is over: that much of `TCP_INFO`. `None`: it does not say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Handshake {
    /// Whether the data of the SYN was acked.
    taken: Option<bool>,
    fail: Option<ClientFail>,
    retransmissions: Option<u32>,
    rtt: Option<Duration>,
}

impl From<&TcpInfo> for Handshake {
    fn from(tcp_info: &TcpInfo) -> Self {
        Self {
            taken: tcp_info.syn_data(),
            fail: tcp_info.client_fail(),
            retransmissions: tcp_info.total_retrans(),
            rtt: tcp_info.rtt(),
        }
    }
}

impl Handshake {
    /// Whether the server has acked the data of the SYN.
    pub(crate) fn is_taken(&self) -> bool {
        self.taken == Some(true)
    }

    /// The time from SYN to SYN-ACK.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Whether the kernel had to repeat the SYN; the repeated one has no TCP Fast Open in it.
    ///
    /// Linux says so of a SYN with data only (tcp_fastopen.c, `TFO_SYN_RETRANSMITTED`). Of others its
    /// count of retransmissions does, when nothing but the SYN was sent; but not of a SYN with data,
    /// because data that was not taken is retransmitted too.
    pub(crate) fn was_repeated(&self, with_data: bool) -> bool {
        match self.fail {
            Some(ClientFail::SynRetransmitted) => true,
            _ if with_data => false,
            _ => self.retransmissions.is_some_and(|times| times > 0),
        }
    }

    /// How long it took; `None` if that is not clear, because the SYN was repeated (RFC 6298 section 3).
    pub(crate) fn clear_rtt(&self, with_data: bool) -> Option<Duration> {
        let once = match self.fail {
            Some(ClientFail::SynRetransmitted) => false,
            // The one retransmission is that of the data.
            Some(ClientFail::DataNotAcked) if with_data => true,
            _ => self.retransmissions == Some(0),
        };
        self.rtt.filter(|_| once)
    }
}

/// What the SYN was: what its outcome is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syn {
    /// Without TCP Fast Open, and why.
    Plain(Reason),
    /// It asked for a cookie, because of that.
    AskedForCookie(Reason),
    /// It had a cookie and no data, because of that; and what to say if it turns out that there was none.
    DataLess { why: Reason, no_cookie: Reason },
    /// It had a cookie and data.
    WithData {
        /// Why nothing is saved even if the server takes it.
        void: Option<Reason>,
    },
}

/// Notes what became of a handshake that is over.
pub(crate) fn note(handshake: &Handshake, info: &ConnInfo, syn: Syn) {
    info.update(|facts| judge(facts, handshake, syn));
}

/// Notes what became of a delivery: of the first attempt, whoever has won.
pub(super) fn note_winner(won: &Won, info: &ConnInfo, syn: Syn) {
    let local_addr = won.stream.local_addr().ok();
    info.update(|facts| {
        facts.local_addr = local_addr;
        facts.remote_addr = won.address;
        facts.hedged = won.hedged;
        judge(facts, &won.handshake, syn);
        // The winner's kernel speaks of the winner. What the first attempt came to was seen here.
        match (won.instead_of, syn) {
            (None, _) => {}
            (Some(_), Syn::Plain(reason)) => {
                (facts.outcome, facts.reason) = (SynOutcome::Plain, Some(reason));
            }
            (Some(first), _) => replaced(facts, first),
        }
    });
}

/// Notes that the first byte of an answer came so long after the SYN. Before one and a half round trips
/// it cannot have waited for the end of the handshake.
pub(super) fn note_answer(after: Duration, info: &ConnInfo) {
    info.update(|facts| {
        let in_time = facts.handshake_rtt.is_some_and(|rtt| after < rtt * 3 / 2);
        if in_time && facts.outcome == SynOutcome::SynDataAcked && facts.reason == Some(Reason::Held) {
            facts.reason = None;
        }
    });
}

/// Notes that a plain handshake has replaced one with TCP Fast Open.
pub(crate) fn note_plain_instead(handshake: &Handshake, info: &ConnInfo, first: FirstAttempt) {
    info.update(|facts| {
        facts.handshake_rtt = handshake.rtt;
        facts.hedged = true;
        replaced(facts, first);
    });
}

fn replaced(facts: &mut Facts, first: FirstAttempt) {
    let (outcome, reason) = match first {
        FirstAttempt::Silent => (SynOutcome::Silent, Reason::Silent),
        FirstAttempt::Refused => (SynOutcome::Refused, Reason::Refused),
        FirstAttempt::Stalled => (SynOutcome::Stalled, Reason::Stalled),
    };
    (facts.outcome, facts.reason) = (outcome, Some(reason));
}

fn judge(facts: &mut Facts, handshake: &Handshake, syn: Syn) {
    facts.handshake_rtt = handshake.rtt;
    let retransmitted = handshake.was_repeated(matches!(syn, Syn::WithData { .. }));
    let (outcome, reason) = match syn {
        Syn::Plain(reason) => (SynOutcome::Plain, Some(reason)),
        _ if retransmitted => (SynOutcome::SynRetransmitted, Some(Reason::Retransmitted)),
        Syn::AskedForCookie(reason) => (SynOutcome::CookieRequested, Some(reason)),
        // Sending nothing says nothing of the cookie.
        Syn::DataLess { no_cookie, .. } if handshake.fail == Some(ClientFail::CookieUnavailable) => {
            (SynOutcome::CookieRequested, Some(no_cookie))
        }
        Syn::DataLess { why, .. } => (SynOutcome::DataLess, Some(why)),
        Syn::WithData { void } if handshake.is_taken() => (SynOutcome::SynDataAcked, void),
        Syn::WithData { .. } => (SynOutcome::SynDataNotAcked, Some(Reason::NotAcked)),
    };
    (facts.outcome, facts.reason) = (outcome, reason);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a `TCP_INFO` of an established connection, 280 bytes.
    fn handshake(options: u8, client_fail: u8) -> Handshake {
        let mut bytes = [0; 280];
        (bytes[0], bytes[5], bytes[7]) = (1, options, client_fail << 1);
        bytes[68..72].copy_from_slice(&40_000_u32.to_ne_bytes());
        Handshake::from(&TcpInfo::from_bytes(&bytes))
    }

    fn outcome(handshake: Handshake, syn: Syn) -> (SynOutcome, Option<Reason>) {
        let mut facts = Facts::new(([192, 0, 2, 1], 80).into());
        judge(&mut facts, &handshake, syn);
        assert_eq!(facts.handshake_rtt, handshake.rtt());
        (facts.outcome, facts.reason)
    }

    #[test]
    fn a_time_is_clear_if_its_syn_went_once() {
        // Fail, total_retrans, with data: clear, repeated.
        for (fail, retrans, with_data, clear, repeated) in [
            (0, 0, true, true, false),
            (2, 1, true, true, false), // the data went again
            (3, 1, true, false, true),
            (0, 1, true, false, false), // the SYN-ACK was lost, or late
            (1, 0, false, true, false),
            (1, 1, false, false, true),
            (0, 1, false, false, true),
        ] {
            let mut bytes = [0; 280];
            (bytes[0], bytes[7]) = (1, fail << 1);
            bytes[100..104].copy_from_slice(&u32::to_ne_bytes(retrans));
            bytes[68..72].copy_from_slice(&40_000_u32.to_ne_bytes());
            let handshake = Handshake::from(&TcpInfo::from_bytes(&bytes));
            let rtt = handshake.clear_rtt(with_data);
            assert_eq!(rtt, clear.then_some(Duration::from_millis(40)), "{fail} {retrans} {with_data}");
            assert_eq!(handshake.was_repeated(with_data), repeated, "{fail} {retrans} {with_data}");
        }
        let unknown = Handshake::default();
        assert_eq!((unknown.clear_rtt(true), unknown.was_repeated(true)), (None, false));
    }

    #[test]
    fn the_kernel_has_the_last_word() {
        use SynOutcome as O;
        let data = |void| Syn::WithData { void };
        let large = Some(Reason::TooLarge);
        let stop = Reason::NotReplaySafe(tfo_core::first_flight::Stop::UnsafeMethod);
        let asked = Syn::AskedForCookie(Reason::NoCookie);
        let data_less = Syn::DataLess { why: stop, no_cookie: Reason::CookieVanished };
        for (options, fail, syn, expected) in [
            (0x27, 0, data(None), (O::SynDataAcked, None)),
            (0x27, 0, data(large), (O::SynDataAcked, Some(Reason::TooLarge))),
            (0x07, 2, data(None), (O::SynDataNotAcked, Some(Reason::NotAcked))),
            (0x07, 0, data(None), (O::SynDataNotAcked, Some(Reason::NotAcked))),
            (0x07, 3, data(None), (O::SynRetransmitted, Some(Reason::Retransmitted))),
            (0x07, 1, asked, (O::CookieRequested, Some(Reason::NoCookie))),
            (0x07, 3, asked, (O::SynRetransmitted, Some(Reason::Retransmitted))),
            (0x07, 0, data_less, (O::DataLess, Some(stop))),
            (0x07, 1, data_less, (O::CookieRequested, Some(Reason::CookieVanished))),
            (0x07, 0, Syn::Plain(Reason::Off), (O::Plain, Some(Reason::Off))),
        ] {
            assert_eq!(outcome(handshake(options, fail), syn), expected, "{options:#x} {fail} {syn:?}");
        }
        // A SYN without data that was repeated shows in the count only.
        let mut repeated = [0; 280];
        (repeated[0], repeated[7]) = (1, 1 << 1);
        repeated[100..104].copy_from_slice(&1_u32.to_ne_bytes());
        repeated[68..72].copy_from_slice(&40_000_u32.to_ne_bytes());
        let repeated = Handshake::from(&TcpInfo::from_bytes(&repeated));
        let answer = (O::SynRetransmitted, Some(Reason::Retransmitted));
        assert_eq!(outcome(repeated, asked), answer);
        assert_eq!(outcome(repeated, data_less), answer);
        assert_eq!(outcome(repeated, Syn::Plain(Reason::Off)), (O::Plain, Some(Reason::Off)));
        // No evidence, no claim.
        assert_eq!(outcome(Handshake::default(), data(None)), (O::SynDataNotAcked, Some(Reason::NotAcked)));
    }
}
