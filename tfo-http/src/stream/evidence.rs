//! What the kernel says of a handshake, as an outcome. Nothing is concluded from what was sent.

use tfo_core::first_flight::Stop;
use tfo_core::{ClientFail, TcpInfo};

use crate::info::{ConnInfo, Facts, Reason, SynOutcome};

/// What the SYN was: what its outcome is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syn {
    /// Without TCP Fast Open, and why.
    Plain(Reason),
    /// It asked for a cookie, because of that.
    AskedForCookie(Reason),
    /// It had a cookie and no data.
    DataLess(Stop),
    /// It had a cookie and data.
    WithData {
        /// Whether there was more than fitted.
        rest: bool,
    },
}

/// Notes what became of a handshake that is over.
pub(crate) fn note(tcp_info: Option<&TcpInfo>, info: &ConnInfo, syn: Syn) {
    info.update(|facts| judge(facts, tcp_info, syn));
}

fn judge(facts: &mut Facts, tcp_info: Option<&TcpInfo>, syn: Syn) {
    facts.handshake_rtt = tcp_info.and_then(TcpInfo::rtt);
    let retransmitted = tcp_info.and_then(TcpInfo::client_fail) == Some(ClientFail::SynRetransmitted);
    let acked = tcp_info.and_then(TcpInfo::syn_data) == Some(true);
    let (outcome, reason) = match syn {
        Syn::Plain(reason) => (SynOutcome::Plain, Some(reason)),
        _ if retransmitted => (SynOutcome::SynRetransmitted, Some(Reason::Retransmitted)),
        Syn::AskedForCookie(reason) => (SynOutcome::CookieRequested, Some(reason)),
        Syn::DataLess(stop) => (SynOutcome::DataLess, Some(Reason::NotReplaySafe(stop))),
        Syn::WithData { rest } if acked => (SynOutcome::SynDataAcked, rest.then_some(Reason::TooLarge)),
        Syn::WithData { .. } => (SynOutcome::SynDataNotAcked, Some(Reason::NotAcked)),
    };
    (facts.outcome, facts.reason) = (outcome, reason);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A `TCP_INFO` of an established connection, 280 bytes.
    fn tcp_info(options: u8, client_fail: u8) -> TcpInfo {
        let mut bytes = [0; 280];
        (bytes[0], bytes[5], bytes[7]) = (1, options, client_fail << 1);
        bytes[68..72].copy_from_slice(&40_000_u32.to_ne_bytes());
        TcpInfo::from_bytes(&bytes)
    }

    fn outcome(tcp_info: Option<TcpInfo>, syn: Syn) -> (SynOutcome, Option<Reason>) {
        let mut facts = Facts::default();
        judge(&mut facts, tcp_info.as_ref(), syn);
        assert_eq!(facts.handshake_rtt, tcp_info.map(|_| Duration::from_millis(40)));
        (facts.outcome, facts.reason)
    }

    #[test]
    fn the_kernel_has_the_last_word() {
        use SynOutcome as O;
        let data = |rest| Syn::WithData { rest };
        let asked = Syn::AskedForCookie(Reason::NoCookie);
        for (options, fail, syn, expected) in [
            (0x27, 0, data(false), (O::SynDataAcked, None)),
            (0x27, 0, data(true), (O::SynDataAcked, Some(Reason::TooLarge))),
            (0x07, 2, data(false), (O::SynDataNotAcked, Some(Reason::NotAcked))),
            (0x07, 0, data(false), (O::SynDataNotAcked, Some(Reason::NotAcked))),
            (0x07, 3, data(false), (O::SynRetransmitted, Some(Reason::Retransmitted))),
            (0x07, 1, asked, (O::CookieRequested, Some(Reason::NoCookie))),
            (0x07, 3, asked, (O::SynRetransmitted, Some(Reason::Retransmitted))),
            (0x07, 0, Syn::Plain(Reason::Off), (O::Plain, Some(Reason::Off))),
        ] {
            assert_eq!(outcome(Some(tcp_info(options, fail)), syn), expected, "{options:#x} {fail} {syn:?}");
        }
        // No evidence, no claim.
        assert_eq!(outcome(None, data(false)), (O::SynDataNotAcked, Some(Reason::NotAcked)));
    }
}
