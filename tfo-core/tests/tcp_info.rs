//! `TcpInfo` against the structures of five generations of kernels.
//!
//! The 280 bytes in `captures/` are what Linux 6.18 returned on both ends of a ride over IPv6: the
//! server at once after `accept`, the client when the answer was there and the server had closed. The shorter
//! structures are the same connection as an older kernel tells it: cut at the length of that
//! kernel's structure, with the bits that it did not have yet cleared.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use proptest::prelude::*;
use tfo_core::{ClientFail, TcpInfo, TcpState};

const CLIENT: &str = include_str!("captures/tcp_info_client_280.hex");
const SERVER: &str = include_str!("captures/tcp_info_server_280.hex");

/// Length and kernel, and whether that kernel reports `fastopen_client_fail` and `TFO_CHILD`.
const GENERATIONS: [(usize, &str, bool, bool); 6] = [
    (104, "3.14", false, false),
    (192, "4.10", false, false),
    (232, "5.4", false, false),
    (232, "5.15", true, false),
    (248, "6.12", true, false),
    (280, "6.18", true, true),
];

fn capture(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn told_by(full: &[u8], (length, _, client_fail, tfo_child): (usize, &str, bool, bool)) -> TcpInfo {
    let mut bytes = full[..length].to_vec();
    if !client_fail {
        bytes[7] &= !0b110;
    }
    if !tfo_child {
        bytes[5] &= !0x80;
    }
    TcpInfo::from_bytes(&bytes)
}

#[test]
fn both_ends_of_a_ride_in_every_generation() {
    for generation in GENERATIONS {
        let (length, kernel, tells_fail, tells_child) = generation;
        let client = told_by(&capture(CLIENT), generation);
        assert_eq!(client.as_bytes().len(), length);
        assert_eq!(client.state(), Some(TcpState::CloseWait), "{kernel}");
        assert_eq!(client.syn_data(), Some(true), "{kernel}");
        assert!(client.rtt().is_some_and(|rtt| rtt > Duration::from_millis(1)), "{kernel}: {client:?}");
        assert_eq!(client.snd_mss(), Some(1428), "{kernel}");
        assert_eq!(client.min_rtt().is_some(), length >= 152, "{kernel}");
        assert_eq!(client.bytes_acked().is_some(), length >= 128, "{kernel}");
        assert_eq!(client.bytes_sent().is_some(), length >= 208, "{kernel}");
        assert_eq!(client.snd_wnd().is_some(), length >= 232, "{kernel}");
        assert_eq!(client.rcv_wnd().is_some(), length >= 236, "{kernel}");
        assert_eq!(client.total_rto().is_some(), length >= 242, "{kernel}");
        // Two kernels share 232 bytes: "nothing to report" is then not told apart from "not told".
        let expected = (tells_fail && length > 232).then_some(ClientFail::Unspecified);
        assert_eq!(client.client_fail(), expected, "{kernel}");

        let server = told_by(&capture(SERVER), generation);
        assert_eq!(server.state(), Some(TcpState::SynRecv), "{kernel}");
        assert_eq!(server.syn_data(), Some(true), "{kernel}");
        assert_eq!(server.tfo_child(), tells_child.then_some(true), "{kernel}");
    }
}

#[test]
fn a_failure_is_told_even_where_its_absence_is_not() {
    for (bits, fail) in [
        (1_u8, ClientFail::CookieUnavailable),
        (2, ClientFail::DataNotAcked),
        (3, ClientFail::SynRetransmitted),
    ] {
        let mut bytes = capture(CLIENT);
        bytes[7] |= bits << 1;
        assert_eq!(TcpInfo::from_bytes(&bytes).client_fail(), Some(fail));
        assert_eq!(TcpInfo::from_bytes(&bytes[..232]).client_fail(), Some(fail));
        assert_eq!(TcpInfo::from_bytes(&bytes[..192]).client_fail(), None);
    }
}

/// The kernel's structure (`linux/tcp.h`): every field that there is a getter for, where it is and how
/// wide. Each getter shows its own field and no other, and nothing of a field that was cut.
#[test]
fn every_getter_reads_its_field() {
    type Getter = fn(&TcpInfo) -> Option<u64>;
    let fields: &[(&str, usize, usize, Getter)] = &[
        ("state", 0, 1, |info| info.state().map(number)),
        ("retransmits", 2, 1, |info| info.retransmits().map(u64::from)),
        ("options", 5, 1, |info| info.options().map(|options| options.bits().into())),
        ("rto", 8, 4, |info| info.rto().map(micros)),
        ("snd_mss", 16, 4, |info| info.snd_mss().map(u64::from)),
        ("unacked", 24, 4, |info| info.unacked().map(u64::from)),
        ("pmtu", 60, 4, |info| info.pmtu().map(u64::from)),
        ("rtt", 68, 4, |info| info.rtt().map(micros)),
        ("rttvar", 72, 4, |info| info.rtt_var().map(micros)),
        ("snd_cwnd", 80, 4, |info| info.snd_cwnd().map(u64::from)),
        ("advmss", 84, 4, |info| info.advmss().map(u64::from)),
        ("total_retrans", 100, 4, |info| info.total_retrans().map(u64::from)),
        ("bytes_acked", 120, 8, TcpInfo::bytes_acked),
        ("bytes_received", 128, 8, TcpInfo::bytes_received),
        ("segs_out", 136, 4, |info| info.segs_out().map(u64::from)),
        ("segs_in", 140, 4, |info| info.segs_in().map(u64::from)),
        ("notsent_bytes", 144, 4, |info| info.notsent_bytes().map(u64::from)),
        ("min_rtt", 148, 4, |info| info.min_rtt().map(micros)),
        ("data_segs_in", 152, 4, |info| info.data_segs_in().map(u64::from)),
        ("data_segs_out", 156, 4, |info| info.data_segs_out().map(u64::from)),
        ("bytes_sent", 200, 8, TcpInfo::bytes_sent),
        ("bytes_retrans", 208, 8, TcpInfo::bytes_retrans),
        ("snd_wnd", 228, 4, |info| info.snd_wnd().map(u64::from)),
        ("rcv_wnd", 232, 4, |info| info.rcv_wnd().map(u64::from)),
        ("total_rto", 240, 2, |info| info.total_rto().map(u64::from)),
    ];
    // Every field has a number of its own.
    let mut bytes = [0xa5_u8; TcpInfo::KNOWN];
    let value = |at: usize, width: usize| match width {
        1 => at as u64 + 3,
        _ => 1000 + at as u64,
    };
    for (_, at, width, _) in fields {
        let all = value(*at, *width).to_le_bytes();
        bytes[*at..at + width].copy_from_slice(&all[..*width]);
        if cfg!(target_endian = "big") {
            bytes[*at..at + width].reverse();
        }
    }
    for (name, at, width, get) in fields {
        assert_eq!(get(&TcpInfo::from_bytes(&bytes)), Some(value(*at, *width)), "{name}");
        assert_eq!(get(&TcpInfo::from_bytes(&bytes[..at + width])), Some(value(*at, *width)), "{name}");
        assert_eq!(get(&TcpInfo::from_bytes(&bytes[..at + width - 1])), None, "{name}");
    }
    // The C library's own structure, where it has one, agrees.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (name, at) in c_offsets() {
        let here = fields.iter().find(|field| field.0 == name).map(|field| field.1);
        assert_eq!(here, Some(at), "{name}");
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap()
}

/// A state's number, as `tcp_states.h` has it.
fn number(state: TcpState) -> u64 {
    let known = STATES.iter().position(|known| *known == state).map(|at| at as u64 + 1);
    known.unwrap_or_else(|| if let TcpState::Other(number) = state { number.into() } else { 0 })
}

/// `tcp_states.h`, from 1 on.
const STATES: [TcpState; 11] = [
    TcpState::Established,
    TcpState::SynSent,
    TcpState::SynRecv,
    TcpState::FinWait1,
    TcpState::FinWait2,
    TcpState::TimeWait,
    TcpState::Close,
    TcpState::CloseWait,
    TcpState::LastAck,
    TcpState::Listen,
    TcpState::Closing,
];

#[test]
fn every_state_has_its_number() {
    for byte in 0..=u8::MAX {
        let expected = usize::from(byte).checked_sub(1).and_then(|at| STATES.get(at).copied());
        let state = TcpInfo::from_bytes(&[byte]).state();
        assert_eq!(state, Some(expected.unwrap_or(TcpState::Other(byte))), "{byte}");
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn c_offsets() -> impl Iterator<Item = (&'static str, usize)> {
    macro_rules! offsets {
        ($($name:literal $field:ident,)*) => {
            [$(($name, std::mem::offset_of!(libc::tcp_info, $field))),*].into_iter()
        };
    }
    offsets! {
        "state" tcpi_state, "retransmits" tcpi_retransmits, "options" tcpi_options, "rto" tcpi_rto,
        "snd_mss" tcpi_snd_mss, "unacked" tcpi_unacked, "pmtu" tcpi_pmtu, "rtt" tcpi_rtt, "rttvar" tcpi_rttvar,
        "snd_cwnd" tcpi_snd_cwnd, "advmss" tcpi_advmss, "total_retrans" tcpi_total_retrans,
        "bytes_acked" tcpi_bytes_acked, "bytes_received" tcpi_bytes_received, "segs_out" tcpi_segs_out,
        "segs_in" tcpi_segs_in, "notsent_bytes" tcpi_notsent_bytes, "min_rtt" tcpi_min_rtt,
        "data_segs_in" tcpi_data_segs_in, "data_segs_out" tcpi_data_segs_out, "bytes_sent" tcpi_bytes_sent,
        "bytes_retrans" tcpi_bytes_retrans, "snd_wnd" tcpi_snd_wnd, "rcv_wnd" tcpi_rcv_wnd,
        "total_rto" tcpi_total_rto,
    }
}

/// Of a socket that is not connected the kernel says 0 and means nothing.
#[test]
#[cfg(all(target_os = "linux", not(tfo_fallback)))]
fn a_listener_has_no_round_trip_time() {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
    let info = TcpInfo::read(&listener).unwrap();
    assert_eq!(info.state(), Some(TcpState::Listen));
    assert_eq!((info.rtt(), info.rtt_var(), info.min_rtt()), (None, None, None));
}

#[test]
fn only_established_and_close_wait_are_proof() {
    let proven: Vec<u8> = (0..=u8::MAX).filter(|number| TcpState::from(*number).is_proven()).collect();
    assert_eq!(proven, [1, 8]);
}

proptest! {
    #[test]
    fn any_bytes_decode_and_nothing_is_invented(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let info = TcpInfo::from_bytes(&bytes);
        prop_assert_eq!(info.as_bytes(), &bytes[..bytes.len().min(TcpInfo::KNOWN)]);
        prop_assert_eq!(info.state().is_some(), !bytes.is_empty());
        prop_assert_eq!(info.syn_data().is_some(), bytes.len() > 5);
        prop_assert!(info.client_fail().is_none() || bytes.len() >= 232);
        prop_assert!(info.rtt().is_none() || bytes.len() >= 72);
        prop_assert!(info.rtt_var().is_none() || bytes.len() >= 76);
        prop_assert!(info.min_rtt().is_none() || bytes.len() >= 152);
        prop_assert_ne!(info.rtt(), Some(Duration::ZERO));
        let _ = format!("{info:?}");
    }
}
