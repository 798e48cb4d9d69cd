//! Packets as the wire, the middleboxes and the tap see them.

mod edit;
mod options;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};

pub use edit::TcpEdit;
pub use options::FastOpenOption;

/// One IP packet, with what its headers say and where it was seen.
///
/// Any bytes make a packet: what cannot be parsed answers `None` or `false`. A clone is cheap.
#[derive(Clone)]
pub struct Packet {
    bytes: Arc<[u8]>,
    ip: Option<(IpAddr, IpAddr)>,
    ports: (u16, u16),
    tcp: Option<Tcp>,
    payload: Range<usize>,
    pub(crate) way: Way,
}

/// Where a packet came from, where it goes, and when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Way {
    /// Tells packets apart; a packet keeps it through middleboxes.
    pub(crate) id: u64,
    pub(crate) from: Option<Arc<str>>,
    pub(crate) to: Option<Arc<str>>,
    pub(crate) at: Duration,
}

/// The fixed fields of a TCP header.
#[derive(Clone, Debug)]
struct Tcp {
    /// Where the header starts.
    offset: usize,
    seq: u32,
    ack: u32,
    syn: bool,
    has_ack: bool,
    fin: bool,
    rst: bool,
    psh: bool,
    options: Range<usize>,
}

impl Packet {
    /// Parses an IP packet.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        let Parsed { ip, ports, tcp, payload } = Parsed::of(&bytes);
        Self { bytes, ip, ports, tcp, payload, way: Way::default() }
    }

    /// The whole packet, from the IP header on.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The name of the host that sent it; `None` if no host did (a middlebox, or the test, made it).
    pub fn from_host(&self) -> Option<&str> {
        self.way.from.as_deref()
    }

    /// The name of the host that owns its destination address, if one does.
    pub fn to_host(&self) -> Option<&str> {
        self.way.to.as_deref()
    }

    /// When it was sent, since the lab was built.
    pub fn time(&self) -> Duration {
        self.way.at
    }

    /// The source address, with the port if it is TCP or UDP (else 0). `None` if it is no IP packet.
    pub fn src(&self) -> Option<SocketAddr> {
        self.ip.map(|(src, _)| SocketAddr::new(src, self.ports.0))
    }

    /// The destination address, with the port if it is TCP or UDP (else 0). `None` if it is no IP packet.
    pub fn dst(&self) -> Option<SocketAddr> {
        self.ip.map(|(_, dst)| SocketAddr::new(dst, self.ports.1))
    }

    /// Whether it is TCP with a whole header.
    pub fn is_tcp(&self) -> bool {
        self.tcp.is_some()
    }

    /// Whether it opens a connection: SYN without ACK.
    pub fn is_syn(&self) -> bool {
        self.tcp.as_ref().is_some_and(|tcp| tcp.syn && !tcp.has_ack)
    }

    /// Whether it answers a SYN: SYN and ACK.
    pub fn is_syn_ack(&self) -> bool {
        self.tcp.as_ref().is_some_and(|tcp| tcp.syn && tcp.has_ack)
    }

    /// Whether RST is set.
    pub fn is_rst(&self) -> bool {
        self.tcp.as_ref().is_some_and(|tcp| tcp.rst)
    }

    /// Whether FIN is set.
    pub fn is_fin(&self) -> bool {
        self.tcp.as_ref().is_some_and(|tcp| tcp.fin)
    }

    /// Whether ACK is set.
    pub fn is_ack(&self) -> bool {
        self.tcp.as_ref().is_some_and(|tcp| tcp.has_ack)
    }

    /// The sequence number, if it is TCP.
    pub fn seq(&self) -> Option<u32> {
        self.tcp.as_ref().map(|tcp| tcp.seq)
    }

    /// The acknowledgment number, if it is TCP with ACK set.
    pub fn ack(&self) -> Option<u32> {
        self.tcp.as_ref().filter(|tcp| tcp.has_ack).map(|tcp| tcp.ack)
    }

    /// What follows the TCP or UDP header; empty for anything else.
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(self.payload.clone()).unwrap_or_default()
    }

    /// The TCP Fast Open option, if there is one.
    pub fn fast_open(&self) -> Option<FastOpenOption> {
        FastOpenOption::find(self.options())
    }

    /// The maximum segment size option, if there is one.
    pub fn mss(&self) -> Option<u16> {
        options::walk(self.options()).find_map(|option| option.mss())
    }

    /// The flags that are set, as the ladder prints them: `SYN ACK`.
    pub(crate) fn flags(&self) -> String {
        let Some(tcp) = &self.tcp else { return String::new() };
        let named =
            [(tcp.syn, "SYN"), (tcp.fin, "FIN"), (tcp.rst, "RST"), (tcp.psh, "PSH"), (tcp.has_ack, "ACK")];
        named.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
    }

    fn options(&self) -> &[u8] {
        self.tcp.as_ref().and_then(|tcp| self.bytes.get(tcp.options.clone())).unwrap_or_default()
    }
}

impl From<Vec<u8>> for Packet {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl From<&[u8]> for Packet {
    fn from(bytes: &[u8]) -> Self {
        Self::new(bytes)
    }
}

impl From<&Self> for Packet {
    fn from(packet: &Self) -> Self {
        packet.clone()
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("src", &self.src())
            .field("dst", &self.dst())
            .field("flags", &self.flags())
            .field("seq", &self.seq())
            .field("ack", &self.ack())
            .field("payload", &self.payload().len())
            .field("fast_open", &self.fast_open())
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Parsed {
    ip: Option<(IpAddr, IpAddr)>,
    ports: (u16, u16),
    tcp: Option<Tcp>,
    payload: Range<usize>,
}

impl Parsed {
    fn of(bytes: &[u8]) -> Self {
        let mut parsed = Self::default();
        let Ok(sliced) = LaxSlicedPacket::from_ip(bytes) else { return parsed };
        parsed.ip = match sliced.net {
            Some(LaxNetSlice::Ipv4(ip)) => {
                let header = ip.header();
                Some((header.source_addr().into(), header.destination_addr().into()))
            }
            Some(LaxNetSlice::Ipv6(ip)) => {
                let header = ip.header();
                Some((header.source_addr().into(), header.destination_addr().into()))
            }
            _ => None,
        };
        // The slices lie within `bytes`, so their addresses tell where.
        let place = |part: &[u8]| {
            let start = (part.as_ptr() as usize).saturating_sub(bytes.as_ptr() as usize);
            start..start + part.len()
        };
        match sliced.transport {
            Some(TransportSlice::Tcp(tcp)) => {
                parsed.ports = (tcp.source_port(), tcp.destination_port());
                parsed.payload = place(tcp.payload());
                parsed.tcp = Some(Tcp {
                    offset: place(tcp.slice()).start,
                    seq: tcp.sequence_number(),
                    ack: tcp.acknowledgment_number(),
                    syn: tcp.syn(),
                    has_ack: tcp.ack(),
                    fin: tcp.fin(),
                    rst: tcp.rst(),
                    psh: tcp.psh(),
                    options: place(tcp.options()),
                });
            }
            Some(TransportSlice::Udp(udp)) => {
                parsed.ports = (udp.source_port(), udp.destination_port());
                parsed.payload = place(udp.payload());
            }
            _ => {}
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    /// A SYN with options and payload.
    fn syn(ipv6: bool, options: &[u8], payload: &[u8]) -> Packet {
        let builder = match ipv6 {
            false => PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64),
            true => PacketBuilder::ipv6([1; 16], [2; 16], 64),
        };
        let builder = builder.tcp(40_000, 80, 1000, 65_535).syn().options_raw(options).unwrap();
        let mut bytes = Vec::new();
        builder.write(&mut bytes, payload).unwrap();
        bytes.into()
    }

    /// Asks everything there is to ask.
    fn ask_all(packet: &Packet) {
        let _ = (packet.src(), packet.dst(), packet.is_syn(), packet.is_syn_ack(), packet.is_rst());
        let _ = (packet.is_fin(), packet.is_ack(), packet.seq(), packet.ack(), packet.payload());
        let _ = (packet.fast_open(), packet.mss(), packet.flags(), format!("{packet:?}"));
        let _ = packet.rewrite(|edit| {
            edit.strip_fast_open(true);
            edit.payload.push(1);
        });
        let _ = (packet.reset_reply(), packet.reset_behind(), packet.without_payload());
        let _ = (packet.too_big_reply(1280), packet.may_be_fragmented());
        let _ = packet.rewrite(|edit| {
            if let Some(cookie) = edit.cookie_mut() {
                cookie.fill(0);
            }
        });
    }

    #[test]
    fn a_syn_is_understood() {
        for ipv6 in [false, true] {
            let packet = syn(ipv6, &[2, 4, 5, 180, 34, 6, 1, 2, 3, 4, 1, 1], b"GET /");
            assert!(packet.is_tcp() && packet.is_syn() && !packet.is_syn_ack() && !packet.is_ack());
            assert_eq!((packet.seq(), packet.ack(), packet.mss()), (Some(1000), None, Some(1460)));
            assert_eq!(packet.payload(), b"GET /");
            assert_eq!(packet.fast_open().unwrap().cookie(), [1, 2, 3, 4]);
            assert_eq!((packet.src().unwrap().port(), packet.dst().unwrap().port()), (40_000, 80));
        }
    }

    #[test]
    fn rewriting_nothing_changes_nothing() {
        for ipv6 in [false, true] {
            let packet = syn(ipv6, &[34, 2, 1, 1], b"odd");
            assert_eq!(packet.rewrite(|_| ()).unwrap().bytes(), packet.bytes());
        }
    }

    #[test]
    fn stripping_leaves_padding() {
        let packet = syn(false, &[2, 4, 5, 180, 34, 6, 1, 2, 3, 4, 254, 6, 0xF9, 0x89, 7, 7], b"x");
        let stripped = packet.rewrite(|edit| assert!(edit.strip_fast_open(false))).unwrap();
        assert!(stripped.fast_open().unwrap().is_experimental());
        assert_eq!((stripped.mss(), stripped.bytes().len()), (Some(1460), packet.bytes().len()));
        let stripped = packet.rewrite(|edit| assert!(edit.strip_fast_open(true))).unwrap();
        assert_eq!((stripped.fast_open(), stripped.payload()), (None, &b"x"[..]));
    }

    #[test]
    fn a_reset_refuses_a_syn_with_its_data() {
        let reset = syn(true, &[], b"abc").reset_reply().unwrap();
        assert!(reset.is_rst() && reset.is_ack() && !reset.is_syn());
        // RFC 9293 3.5.2: the SYN counts one, as does each byte.
        assert_eq!((reset.seq(), reset.ack()), (Some(0), Some(1004)));
        assert_eq!((reset.src().unwrap().port(), reset.dst().unwrap().port()), (80, 40_000));
        assert!(reset.payload().is_empty());
    }

    #[test]
    fn a_reset_behind_a_syn_is_next_in_sequence() {
        let syn = syn(false, &[34, 2, 1, 1], b"abc");
        let reset = syn.reset_behind().unwrap();
        assert!(reset.is_rst() && !reset.is_syn() && !reset.is_ack());
        assert_eq!((reset.seq(), reset.src(), reset.dst()), (Some(1004), syn.src(), syn.dst()));
        assert_eq!((reset.payload(), reset.fast_open()), (&[][..], None));
    }

    #[test]
    fn the_cookie_is_changed_in_place() {
        for (options, length) in [
            (&[2, 4, 5, 180, 34, 6, 1, 2, 3, 4, 1, 1][..], 4),
            (&[254, 8, 0xF9, 0x89, 1, 2, 3, 4], 4),
            (&[34, 2, 1, 1], 0),
        ] {
            let packet = syn(true, options, b"x");
            let changed = packet.rewrite(|edit| edit.cookie_mut().unwrap().fill(9)).unwrap();
            let option = changed.fast_open().unwrap();
            assert_eq!(option.cookie(), vec![9; length]);
            assert_eq!(option.is_experimental(), packet.fast_open().unwrap().is_experimental());
            assert_eq!((changed.payload(), changed.mss()), (packet.payload(), packet.mss()));
        }
        assert!(syn(true, &[], b"").rewrite(|edit| assert!(edit.cookie_mut().is_none())).is_some());
    }

    /// RFC 1191 4 and RFC 1812 4.3.2.3; RFC 4443 3.2 and 2.4 (c).
    #[test]
    fn too_big_is_told_to_the_sender_with_what_was_too_big() {
        for (ipv6, headers, whole) in [(false, 20, 576), (true, 40, 1280)] {
            let packet = syn(ipv6, &[], &[7; 1400]);
            let reply = packet.too_big_reply(1300).unwrap();
            let (bytes, icmp) = (reply.bytes(), &reply.bytes()[headers..]);
            assert_eq!(reply.dst().unwrap().ip(), packet.src().unwrap().ip());
            assert_ne!(reply.src().unwrap().ip(), packet.dst().unwrap().ip(), "a router's own");
            assert_eq!((bytes.len(), &icmp[..2]), (whole, if ipv6 { &[2, 0][..] } else { &[3, 4] }));
            assert_eq!(icmp[4..8], if ipv6 { 1300_u32.to_be_bytes() } else { [0, 0, 5, 20] });
            assert_eq!(icmp[8..], packet.bytes()[..whole - headers - 8], "the packet as it was");
            let sum = |bytes: &[u8]| {
                bytes.chunks(2).fold(0_u32, |sum, pair| {
                    sum + u32::from(pair[0]) * 256 + pair.get(1).map_or(0, |low| u32::from(*low))
                })
            };
            // The IPv6 pseudo header: addresses, length, next header.
            let pseudo = if ipv6 { sum(&bytes[8..40]) + icmp.len() as u32 + 58 } else { 0 };
            let total = sum(icmp) + pseudo;
            assert_eq!((total & 0xFFFF) + (total >> 16), 0xFFFF, "the checksum");
            assert!(reply.too_big_reply(1280).is_none(), "no ICMP about ICMP");
        }
        let mut fragmentable = syn(false, &[], b"x").bytes().to_vec();
        fragmentable[6] &= !0x40;
        assert!(Packet::from(fragmentable).too_big_reply(1300).is_none());
    }

    proptest! {
        #[test]
        fn garbage_does_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            ask_all(&bytes.into());
        }

        #[test]
        fn damage_does_no_harm(
            ipv6: bool,
            options in proptest::collection::vec(any::<u8>(), 0..=40),
            payload in proptest::collection::vec(any::<u8>(), 0..40),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            keep in any::<prop::sample::Index>(),
        ) {
            let mut bytes = syn(ipv6, &options, &payload).bytes().to_vec();
            for (place, value) in damage {
                *place.get_mut(&mut bytes) = value;
            }
            ask_all(&bytes.clone().into());
            bytes.truncate(keep.index(bytes.len() + 1));
            ask_all(&bytes.into());
        }
    }
}
