//! `TcpInfo` against the structures of five generations of kernels.
//!
//! The 280 bytes in `captures/` are what Linux 6.18 returned on both ends of a ride over IPv6: the
//! server at once after `accept`, the client when the answer was there and the server had closed. The shorter
//! structures are the same connection as an older kernel tells it: cut at the length of that
//! kernel's structure, with the bits that it did not have yet cleared.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::mem::offset_of;
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

/// The C library's own structure, where it has one, agrees on every offset.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn offsets_are_those_of_the_c_header() {
    use libc::tcp_info as c;
    let at = |offset: usize, width: usize| {
        let mut bytes = [0_u8; 280];
        bytes[offset] = 5;
        (TcpInfo::from_bytes(&bytes[..offset + width]), TcpInfo::from_bytes(&bytes[..offset + width - 1]))
    };
    macro_rules! agree {
        ($($field:ident, $width:literal, $getter:ident, $value:expr;)*) => {$(
            let (whole, cut) = at(offset_of!(c, $field), $width);
            assert_eq!(whole.$getter(), Some($value), stringify!($field));
            assert_eq!(cut.$getter(), None, stringify!($field));
        )*};
    }
    let micros = Duration::from_micros;
    agree! {
        tcpi_retransmits, 1, retransmits, 5;
        tcpi_rto, 4, rto, micros(5);
        tcpi_snd_mss, 4, snd_mss, 5;
        tcpi_unacked, 4, unacked, 5;
        tcpi_pmtu, 4, pmtu, 5;
        tcpi_rtt, 4, rtt, micros(5);
        tcpi_snd_cwnd, 4, snd_cwnd, 5;
        tcpi_advmss, 4, advmss, 5;
        tcpi_total_retrans, 4, total_retrans, 5;
        tcpi_bytes_acked, 8, bytes_acked, 5;
        tcpi_bytes_received, 8, bytes_received, 5;
        tcpi_segs_out, 4, segs_out, 5;
        tcpi_segs_in, 4, segs_in, 5;
        tcpi_notsent_bytes, 4, notsent_bytes, 5;
        tcpi_min_rtt, 4, min_rtt, micros(5);
        tcpi_data_segs_in, 4, data_segs_in, 5;
        tcpi_data_segs_out, 4, data_segs_out, 5;
        tcpi_bytes_sent, 8, bytes_sent, 5;
        tcpi_bytes_retrans, 8, bytes_retrans, 5;
        tcpi_snd_wnd, 4, snd_wnd, 5;
        tcpi_rcv_wnd, 4, rcv_wnd, 5;
        tcpi_total_rto, 2, total_rto, 5;
    }
    assert_eq!(offset_of!(c, tcpi_state), 0);
    assert_eq!(offset_of!(c, tcpi_options), 5);
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
