use std::fmt;
use std::time::Duration;

use crate::Error;
use crate::sys::{self, AsSocket, TcpOption};

/// `TCP_INFO` of one connection, as the kernel gave it.
///
/// The structure has grown with every kernel since Linux 2.4: 104 bytes in 3.14, 192 in 4.10, 232 in
/// 5.4, 240 in 6.2, 248 in 6.7, 280 in 6.18. A field that the kernel did not give is `None`, never
/// zero. A newer kernel's additional fields are ignored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TcpInfo {
    bytes: [u8; Self::KNOWN],
    length: usize,
}

impl TcpInfo {
    /// Bytes of the newest structure that this version knows.
    pub const KNOWN: usize = 280;

    /// `getsockopt(TCP_INFO)`. One system call.
    ///
    /// # Errors
    ///
    /// The kernel's, in an [`Error`].
    pub fn read(socket: &impl AsSocket) -> Result<Self, Error> {
        let mut bytes = [0; Self::KNOWN];
        let length = sys::getsockopt(socket, TcpOption::Info, &mut bytes)
            .map_err(|error| Error::new("getsockopt TCP_INFO", error, sys::OPTION_UNSUPPORTED))?;
        Ok(Self { bytes, length })
    }

    /// Decodes what a kernel returned: exactly the bytes that it wrote.
    pub fn from_bytes(returned: &[u8]) -> Self {
        let length = returned.len().min(Self::KNOWN);
        let mut bytes = [0; Self::KNOWN];
        bytes[..length].copy_from_slice(&returned[..length]);
        Self { bytes, length }
    }

    /// The bytes that the kernel returned, as far as this version knows them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The connection's state.
    pub fn state(&self) -> Option<TcpState> {
        self.u8(0).map(TcpState::from)
    }

    /// The options and features that were negotiated.
    pub fn options(&self) -> Option<TcpOptions> {
        self.u8(5).map(TcpOptions)
    }

    /// Whether data in the SYN was taken. At the client: the server acked all of it. At the server:
    /// the SYN carried data, and it was accepted. Final once the handshake is over.
    pub fn syn_data(&self) -> Option<bool> {
        self.options().map(TcpOptions::syn_data)
    }

    /// At the server: whether the SYN brought a valid cookie (or none was asked for), so that the
    /// connection was accepted before its handshake was over. Also true when the SYN had no data.
    ///
    /// Linux 6.16. The structure of that kernel is as long as that of 6.7, so with fewer than 280
    /// bytes only "yes" can be told; "no" is `None`.
    pub fn tfo_child(&self) -> Option<bool> {
        let set = self.options()?.tfo_child();
        (set || self.length >= 280).then_some(set)
    }

    /// At the client: why data in the SYN, or the wish for a cookie, came to nothing.
    ///
    /// Linux 5.5. The structure of that kernel is as long as that of 5.4, so with 232 bytes only a
    /// failure can be told; "nothing to report" is `None` there, and on older kernels always.
    pub fn client_fail(&self) -> Option<ClientFail> {
        let fail = ClientFail::from_bits(self.u8(7)? >> 1);
        match self.length {
            233.. => Some(fail),
            232 => Some(fail).filter(|fail| *fail != ClientFail::Unspecified),
            _ => None,
        }
    }

    /// Consecutive retransmission timeouts of the segment at the head (also of the SYN).
    pub fn retransmits(&self) -> Option<u8> {
        self.u8(2)
    }

    /// Segments retransmitted in this connection's life. Counts the data of a SYN that the server
    /// did not ack, although nothing was lost.
    pub fn total_retrans(&self) -> Option<u32> {
        self.u32(100)
    }

    /// The smoothed round-trip time; right after the handshake it is the time from SYN to SYN-ACK.
    /// `None` before there is a sample.
    pub fn rtt(&self) -> Option<Duration> {
        self.u32(68).filter(|micros| *micros != 0).map(micros)
    }

    /// The round-trip time's mean deviation. `None` before there is a sample.
    pub fn rtt_var(&self) -> Option<Duration> {
        self.rtt()?;
        self.u32(72).map(micros)
    }

    /// The least round-trip time seen. Linux 4.6. `None` before there is a sample, and of a listener.
    pub fn min_rtt(&self) -> Option<Duration> {
        // A connection without a sample has the largest number there, a listener 0.
        self.u32(148).filter(|micros| ![0, u32::MAX].contains(micros)).map(micros)
    }

    /// The retransmission timeout.
    pub fn rto(&self) -> Option<Duration> {
        self.u32(8).map(micros)
    }

    /// The maximum segment size for sending, bytes.
    pub fn snd_mss(&self) -> Option<u32> {
        self.u32(16)
    }

    /// The maximum segment size that this side announced, bytes.
    pub fn advmss(&self) -> Option<u32> {
        self.u32(84)
    }

    /// The path's MTU, bytes.
    pub fn pmtu(&self) -> Option<u32> {
        self.u32(60)
    }

    /// The congestion window, segments.
    pub fn snd_cwnd(&self) -> Option<u32> {
        self.u32(80)
    }

    /// Segments sent and not yet acked.
    pub fn unacked(&self) -> Option<u32> {
        self.u32(24)
    }

    /// How long ago the peer last acked something, a keepalive probe too; in the kernel's ticks, so 1 to
    /// 10 ms too short or too long. A repeated SYN-ACK does not count.
    pub fn last_ack_recv(&self) -> Option<Duration> {
        self.u32(56).map(|millis| Duration::from_millis(millis.into()))
    }

    /// Bytes that the peer acked. Linux 4.1.
    pub fn bytes_acked(&self) -> Option<u64> {
        self.u64(120)
    }

    /// Bytes received in order. Linux 4.1.
    pub fn bytes_received(&self) -> Option<u64> {
        self.u64(128)
    }

    /// Segments sent. Linux 4.2.
    pub fn segs_out(&self) -> Option<u32> {
        self.u32(136)
    }

    /// Segments received. Linux 4.2.
    pub fn segs_in(&self) -> Option<u32> {
        self.u32(140)
    }

    /// Bytes in the send queue that were not sent yet. Linux 4.6.
    pub fn notsent_bytes(&self) -> Option<u32> {
        self.u32(144)
    }

    /// Segments with data received. Linux 4.6.
    pub fn data_segs_in(&self) -> Option<u32> {
        self.u32(152)
    }

    /// Segments with data sent. Linux 4.6.
    pub fn data_segs_out(&self) -> Option<u32> {
        self.u32(156)
    }

    /// Bytes sent, retransmissions included. Linux 4.19.
    pub fn bytes_sent(&self) -> Option<u64> {
        self.u64(200)
    }

    /// Bytes sent again. Linux 4.19.
    pub fn bytes_retrans(&self) -> Option<u64> {
        self.u64(208)
    }

    /// The window that the peer announced last, bytes. Linux 5.4.
    pub fn snd_wnd(&self) -> Option<u32> {
        self.u32(228)
    }

    /// The window that this side announced last, bytes. Linux 6.2.
    pub fn rcv_wnd(&self) -> Option<u32> {
        self.u32(232)
    }

    /// Retransmission timeouts, of the SYN too. Linux 6.7.
    pub fn total_rto(&self) -> Option<u16> {
        self.field(240).map(u16::from_ne_bytes)
    }

    fn u8(&self, offset: usize) -> Option<u8> {
        self.field::<1>(offset).map(|[byte]| byte)
    }

    fn u32(&self, offset: usize) -> Option<u32> {
        self.field(offset).map(u32::from_ne_bytes)
    }

    fn u64(&self, offset: usize) -> Option<u64> {
        self.field(offset).map(u64::from_ne_bytes)
    }

    /// A field that the kernel returned whole.
    fn field<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.as_bytes().get(offset..offset + N)?.try_into().ok()
    }
}

fn micros(micros: u32) -> Duration {
    Duration::from_micros(micros.into())
}

impl fmt::Debug for TcpInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpInfo")
            .field("length", &self.length)
            .field("state", &self.state())
            .field("options", &self.options())
            .field("client_fail", &self.client_fail())
            .field("tfo_child", &self.tfo_child())
            .field("rtt", &self.rtt())
            .field("min_rtt", &self.min_rtt())
            .field("total_retrans", &self.total_retrans())
            .finish_non_exhaustive()
    }
}

/// A connection's state, as the kernel numbers it (`tcp_states.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TcpState {
    /// The handshake is complete.
    Established,
    /// A SYN was sent, or a deferred `connect` waits for its first write.
    SynSent,
    /// At the server: the SYN was answered, the client has not proven its address yet. A
    /// connection with data in its SYN is accepted in this state.
    SynRecv,
    /// Closed by this side, the FIN is not acked.
    FinWait1,
    /// Closed by this side, the FIN is acked.
    FinWait2,
    /// Over, kept for late segments.
    TimeWait,
    /// No connection: not begun, over, or reset.
    Close,
    /// Closed by the peer.
    CloseWait,
    /// Closed by the peer first, then by this side.
    LastAck,
    /// A listener.
    Listen,
    /// Closed by both at once.
    Closing,
    /// A number that this version does not know.
    Other(u8),
}

impl TcpState {
    /// Whether the kernel has seen that the peer holds the address it speaks from: ESTABLISHED or
    /// CLOSE_WAIT. Having left SYN_RECV is not enough: a replayed SYN's connection goes from
    /// SYN_RECV to CLOSE.
    pub fn is_proven(self) -> bool {
        matches!(self, Self::Established | Self::CloseWait)
    }
}

impl From<u8> for TcpState {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 => Self::SynRecv,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Close,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            other => Self::Other(other),
        }
    }
}

/// `tcpi_options`: what was negotiated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TcpOptions(u8);

impl TcpOptions {
    /// Timestamps (RFC 7323).
    pub fn timestamps(self) -> bool {
        self.has(1)
    }

    /// Selective acknowledgements (RFC 2018).
    pub fn sack(self) -> bool {
        self.has(2)
    }

    /// Window scaling (RFC 7323).
    pub fn window_scale(self) -> bool {
        self.has(4)
    }

    /// Explicit congestion notification (RFC 3168) was negotiated.
    pub fn ecn(self) -> bool {
        self.has(8)
    }

    /// A packet marked by explicit congestion notification was received.
    pub fn ecn_seen(self) -> bool {
        self.has(16)
    }

    /// `TCPI_OPT_SYN_DATA`: see [`TcpInfo::syn_data`].
    pub fn syn_data(self) -> bool {
        self.has(32)
    }

    /// Timestamps in microseconds. Linux 6.7.
    pub fn usec_timestamps(self) -> bool {
        self.has(64)
    }

    /// `TCPI_OPT_TFO_CHILD`: see [`TcpInfo::tfo_child`], which knows what a missing bit means.
    pub fn tfo_child(self) -> bool {
        self.has(128)
    }

    /// The byte.
    pub fn bits(self) -> u8 {
        self.0
    }

    fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}

impl fmt::Debug for TcpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (1, "timestamps"),
            (2, "sack"),
            (4, "window_scale"),
            (8, "ecn"),
            (16, "ecn_seen"),
            (32, "syn_data"),
            (64, "usec_timestamps"),
            (128, "tfo_child"),
        ];
        f.debug_set().entries(names.iter().filter(|(bit, _)| self.has(*bit)).map(|(_, name)| name)).finish()
    }
}

/// `tcpi_fastopen_client_fail`: why a client's TCP Fast Open came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClientFail {
    /// Nothing to report: it worked, it was not tried, or the kernel's blackhole timer had it off.
    Unspecified,
    /// No cookie was cached: none was sent, one was asked for.
    CookieUnavailable,
    /// The SYN-ACK did not ack the data: the server has it off or full, the cookie was not valid, or
    /// the option or the data was taken out on the way.
    DataNotAcked,
    /// Only a SYN without data was answered, after a timeout: data in the SYN is dropped on the way,
    /// or a packet was lost.
    SynRetransmitted,
}

impl ClientFail {
    fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Unspecified,
            1 => Self::CookieUnavailable,
            2 => Self::DataNotAcked,
            _ => Self::SynRetransmitted,
        }
    }
}
