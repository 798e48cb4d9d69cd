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
