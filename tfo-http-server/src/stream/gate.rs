//! The gate's decisions, without the shell around them: no socket, no clock.

use tfo_core::{TcpInfo, TcpState};

use super::replayable::{Replayable, classify};
use crate::outcome::{AcceptOutcome, PlainReason};

/// Where a connection stands with its proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Proven,
    Unproven,
    Disproven,
}

impl Standing {
    /// From the kernel's state of the connection; `None` where the kernel did not say.
    pub(crate) fn of(state: Option<TcpState>) -> Self {
        match state {
            Some(state) if state.is_proven() => Self::Proven,
            // This side has shut down, and the peer has acked or closed since: it is there.
            Some(TcpState::FinWait2 | TcpState::Closing | TcpState::LastAck | TcpState::TimeWait) => {
                Self::Proven
            }
            // A replayed SYN's connection goes from SYN_RECV to CLOSE, and its data stays readable.
            Some(TcpState::Close) => Self::Disproven,
            // Not FIN_WAIT1: before Linux 6.9 a shutdown led there from SYN_RECV. What the kernel
            // does not tell, or this version does not know, proves nothing.
            _ => Self::Unproven,
        }
    }
}

/// What a connection is when it is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Birth {
    pub(crate) standing: Standing,
    pub(crate) outcome: AcceptOutcome,
}

impl Birth {
    /// From `TCP_INFO`; `plain` is why the connection would be an ordinary one.
    pub(crate) fn of(info: &TcpInfo, plain: PlainReason) -> Self {
        let standing = Standing::of(info.state());
        let syn_data = info.syn_data() == Some(true);
        let child = syn_data || info.tfo_child() == Some(true) || standing == Standing::Unproven;
        let outcome = match (syn_data, child) {
            (true, _) => AcceptOutcome::SynData { bytes: syn_bytes(info) },
            (false, true) => AcceptOutcome::CookieOnly,
            (false, false) => AcceptOutcome::Plain(plain),
        };
        // An ordinary connection that is over already was proven before.
        Self { standing: if child { standing } else { Standing::Proven }, outcome }
    }
}

/// The bytes of the SYN's data, if no others have come: before the ACK the kernel takes none.
fn syn_bytes(info: &TcpInfo) -> Option<u32> {
    let alone = info.state() == Some(TcpState::SynRecv) || info.data_segs_in() == Some(1);
    let bytes = info.bytes_received().filter(|bytes| alone && *bytes > 0)?;
    u32::try_from(bytes).ok()
}

/// What to do with the unread bytes of a connection that is not proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Let everything through: these bytes are replay-safe, and any later ones only come with the
    /// proof, because the kernel takes none before the ACK.
    Open,
    /// The buffer was full: look again with a larger one.
    LookFurther,
    /// Release so many; withhold what is behind them until the connection is proven.
    Hold { released: usize },
}

impl Judgement {
    /// On all unread bytes, from the first byte of the stream on, peeked with room for `room`.
    pub(crate) fn of(peeked: &[u8], room: usize, rule: Option<&Replayable>) -> Self {
        if peeked.len() >= room {
            return Self::LookFurther;
        }
        Self::of_prefix(peeked, false, rule)
    }

    /// On the first unread bytes. With `more` behind them those are held, whatever these are.
    pub(crate) fn of_prefix(peeked: &[u8], more: bool, rule: Option<&Replayable>) -> Self {
        let (cut, whole) = classify(peeked, rule);
        if whole && !more { Self::Open } else { Self::Hold { released: cut } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";

    #[test]
    fn every_state_has_its_standing() {
        let table = [
            (1, Standing::Proven),    // ESTABLISHED
            (2, Standing::Unproven),  // SYN_SENT
            (3, Standing::Unproven),  // SYN_RECV
            (4, Standing::Unproven),  // FIN_WAIT1
            (5, Standing::Proven),    // FIN_WAIT2
            (6, Standing::Proven),    // TIME_WAIT
            (7, Standing::Disproven), // CLOSE
            (8, Standing::Proven),    // CLOSE_WAIT
            (9, Standing::Proven),    // LAST_ACK
            (10, Standing::Unproven), // LISTEN
            (11, Standing::Proven),   // CLOSING
            (12, Standing::Unproven), // NEW_SYN_RECV
            (200, Standing::Unproven),
        ];
        for (number, standing) in table {
            assert_eq!(Standing::of(Some(TcpState::from(number))), standing, "state {number}");
        }
        assert_eq!(Standing::of(None), Standing::Unproven);
    }

    #[test]
    fn births() {
        use AcceptOutcome::{CookieOnly, Plain, SynData};
        let (syn_data, child) = (32, 128);
        let table = [
            // state, options, data segments, bytes: standing, outcome
            (1, 0, 0, 0, Standing::Proven, Plain(PlainReason::NotUsed)),
            (1, 0, 3, 99, Standing::Proven, Plain(PlainReason::NotUsed)),
            (7, 0, 1, 99, Standing::Proven, Plain(PlainReason::NotUsed)), // over, but it was complete
            (3, child, 0, 0, Standing::Unproven, CookieOnly),
            (3, 0, 0, 0, Standing::Unproven, CookieOnly), // before Linux 6.16
            (1, child, 0, 0, Standing::Proven, CookieOnly),
            (3, syn_data | child, 1, 99, Standing::Unproven, SynData { bytes: Some(99) }),
            (3, syn_data, 1, 0, Standing::Unproven, SynData { bytes: None }),
            (1, syn_data | child, 1, 99, Standing::Proven, SynData { bytes: Some(99) }),
            (1, syn_data | child, 2, 199, Standing::Proven, SynData { bytes: None }),
            (8, syn_data | child, 1, 99, Standing::Proven, SynData { bytes: Some(99) }),
            (7, syn_data | child, 1, 99, Standing::Disproven, SynData { bytes: Some(99) }),
            (7, child, 0, 0, Standing::Disproven, CookieOnly),
        ];
        for row @ (state, options, segments, bytes, standing, outcome) in table {
            let mut raw = [0; TcpInfo::KNOWN];
            (raw[0], raw[5]) = (state, options);
            raw[128..136].copy_from_slice(&u64::to_ne_bytes(bytes));
            raw[152..156].copy_from_slice(&u32::to_ne_bytes(segments));
            let birth = Birth::of(&TcpInfo::from_bytes(&raw), PlainReason::NotUsed);
            assert_eq!(birth, Birth { standing, outcome }, "{row:?}");
        }
        let birth = Birth::of(&TcpInfo::from_bytes(&[]), PlainReason::NotUsed);
        assert_eq!(birth.standing, Standing::Unproven, "no answer proves nothing");
    }

    #[test]
    fn judgements() {
        let both = [GET, POST].concat();
        let hello = [&[22, 3, 1, 0, 5, 2][..], &[0; 4]].concat(); // a TLS record, but no ClientHello
        let table: [(&[u8], Judgement); 8] = [
            (GET, Judgement::Open),
            (b"", Judgement::Open),
            (&GET[..10], Judgement::Open), // what completes it proves the handshake
            (POST, Judgement::Hold { released: 0 }),
            (&POST[..10], Judgement::Hold { released: 0 }),
            (&both, Judgement::Hold { released: GET.len() }),
            (b"\x05\x01\x00", Judgement::Hold { released: 0 }),
            (&hello, Judgement::Hold { released: 0 }),
        ];
        for (bytes, judgement) in table {
            assert_eq!(Judgement::of(bytes, 2048, None), judgement, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_full_buffer_is_no_whole_flight() {
        assert_eq!(Judgement::of(GET, GET.len(), None), Judgement::LookFurther);
        assert_eq!(Judgement::of(GET, GET.len() + 1, None), Judgement::Open);
        assert_eq!(Judgement::of_prefix(GET, true, None), Judgement::Hold { released: GET.len() });
    }
}
