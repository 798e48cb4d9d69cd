//! Rewriting packets, as middleboxes do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, Icmpv6Type, IpHeaders, PacketBuilder, TcpHeader};

use super::{Packet, options};

/// Where ICMP messages come from: the address for routers that have none (RFC 7600 6).
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
/// The same for IPv6: one that no host has.
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0xffff, 0, 0, 0, 1);
/// The time to live of packets made here.
const TTL: u8 = 64;

/// A TCP packet taken apart: change what you like, lengths and checksums are put right afterwards.
///
/// The types are [`etherparse`]'s. See [`Packet::rewrite`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TcpEdit {
    /// The IPv4 or IPv6 header with its extensions.
    pub ip: IpHeaders,
    /// The TCP header with its options.
    pub tcp: TcpHeader,
    /// What follows the TCP header.
    pub payload: Vec<u8>,
}

impl TcpEdit {
    /// Gives the packet another source, of the same address family; another is left as it is.
    pub fn set_src(&mut self, src: SocketAddr) {
        match (&mut self.ip, src) {
            (IpHeaders::Ipv4(ip, _), SocketAddr::V4(src)) => ip.source = src.ip().octets(),
            (IpHeaders::Ipv6(ip, _), SocketAddr::V6(src)) => ip.source = src.ip().octets(),
            _ => return,
        }
        self.tcp.source_port = src.port();
    }

    /// Gives the packet another destination, of the same address family; another is left as it is.
    pub fn set_dst(&mut self, dst: SocketAddr) {
        match (&mut self.ip, dst) {
            (IpHeaders::Ipv4(ip, _), SocketAddr::V4(dst)) => ip.destination = dst.ip().octets(),
            (IpHeaders::Ipv6(ip, _), SocketAddr::V6(dst)) => ip.destination = dst.ip().octets(),
            _ => return,
        }
        self.tcp.destination_port = dst.port();
    }

    /// Overwrites the Fast Open option, if there is one, by padding (NOPs): `true` if there was one.
    pub fn strip_fast_open(&mut self, experimental: bool) -> bool {
        let places: Vec<_> = options::walk(self.tcp.options.as_slice())
            .filter(|option| option.fast_open().is_some_and(|found| experimental || !found.is_experimental()))
            .map(|option| option.offset..option.offset + option.len())
            .collect();
        for place in &places {
            self.tcp.options.as_mut_slice()[place.clone()].fill(1);
        }
        !places.is_empty()
    }

    /// The cookie of the first Fast Open option, to be changed in place. `None` if there is no option; empty if
    /// it asks for a cookie.
    pub fn cookie_mut(&mut self) -> Option<&mut [u8]> {
        let (end, len) = options::walk(self.tcp.options.as_slice()).find_map(|option| {
            let found = option.fast_open()?;
            Some((option.offset + option.len(), found.cookie().len()))
        })?;
        self.tcp.options.as_mut_slice().get_mut(end - len..end)
    }

    fn of(packet: &Packet) -> Option<Self> {
        let tcp_at = packet.tcp.as_ref()?.offset;
        let bytes = packet.bytes();
        let (ip, _) = IpHeaders::from_slice_lax(bytes).map(|(ip, rest, _)| (ip, rest)).ok()?;
        let (tcp, _) = TcpHeader::from_slice(bytes.get(tcp_at..)?).ok()?;
        Some(Self { ip, tcp, payload: packet.payload().to_vec() })
    }

    fn into_bytes(mut self) -> Option<Vec<u8>> {
        self.ip.set_payload_len(self.tcp.header_len() + self.payload.len()).ok()?;
        self.tcp.checksum = match &self.ip {
            IpHeaders::Ipv4(ip, _) => self.tcp.calc_checksum_ipv4(ip, &self.payload).ok()?,
            IpHeaders::Ipv6(ip, _) => self.tcp.calc_checksum_ipv6(ip, &self.payload).ok()?,
        };
        let mut bytes = Vec::with_capacity(self.ip.header_len() + self.tcp.header_len() + self.payload.len());
        self.ip.write(&mut bytes).ok()?;
        self.tcp.write(&mut bytes).ok()?;
        bytes.extend_from_slice(&self.payload);
        Some(bytes)
    }
}

impl Packet {
    /// A changed copy: takes the packet apart, lets `edit` change it, and puts it together with the right
    /// lengths and checksums. `None` if this is no TCP packet, or the result does not fit into one.
    pub fn rewrite(&self, edit: impl FnOnce(&mut TcpEdit)) -> Option<Self> {
        let mut parts = TcpEdit::of(self)?;
        edit(&mut parts);
        let mut packet = Self::new(parts.into_bytes()?);
        packet.way = self.way.clone();
        Some(packet)
    }

    /// The same without what follows the TCP header. `None` if this is no TCP packet.
    pub fn without_payload(&self) -> Option<Self> {
        self.rewrite(|edit| edit.payload.clear())
    }

    /// The RST that its sender would send behind it, to give the connection up. `None` if this is no TCP
    /// packet.
    pub fn reset_behind(&self) -> Option<Self> {
        let tcp = self.tcp.as_ref()?;
        let len = self.payload().len() as u32 + u32::from(tcp.syn) + u32::from(tcp.fin);
        let seq = tcp.seq.wrapping_add(len);
        let mut reset = self.rewrite(|edit| {
            edit.tcp = TcpHeader::new(edit.tcp.source_port, edit.tcp.destination_port, seq, 0);
            edit.tcp.rst = true;
            edit.payload.clear();
        })?;
        reset.way = super::Way::default();
        Some(reset)
    }

    /// The ICMP message of a router whose next link takes only `mtu` bytes: *fragmentation needed* (RFC 1191)
    /// or *packet too big* (RFC 8201), with as much of this packet as RFC 1812 4.3.2.3 and RFC 4443 2.4 ask
    /// for. `None` if this is no TCP packet, or may be fragmented.
    pub fn too_big_reply(&self, mtu: u16) -> Option<Self> {
        let sender = self.src().filter(|_| self.is_tcp() && !self.may_be_fragmented())?.ip();
        let quoted = |limit: usize| &self.bytes()[..limit.min(self.bytes().len())];
        let mut bytes = Vec::new();
        match sender {
            IpAddr::V4(sender) => {
                let why = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
                let builder = PacketBuilder::ipv4(ROUTER.octets(), sender.octets(), TTL)
                    .icmpv4(Icmpv4Type::DestinationUnreachable(why));
                builder.write(&mut bytes, quoted(576 - 20 - 8)).ok()?;
            }
            IpAddr::V6(sender) => {
                let builder = PacketBuilder::ipv6(ROUTER_V6.octets(), sender.octets(), TTL)
                    .icmpv6(Icmpv6Type::PacketTooBig { mtu: mtu.into() });
                builder.write(&mut bytes, quoted(1280 - 40 - 8)).ok()?;
            }
        }
        Some(Self::new(bytes))
    }

    /// Whether it is IPv4 without *don't fragment*.
    pub(crate) fn may_be_fragmented(&self) -> bool {
        let is_ipv4 = self.src().is_some_and(|src| src.is_ipv4());
        is_ipv4 && self.bytes().get(6).is_some_and(|flags| flags & 0x40 == 0)
    }

    /// The RST that a firewall, or a closed port, answers this packet with (RFC 9293 3.5.2). `None` if this
    /// is no TCP packet.
    pub fn reset_reply(&self) -> Option<Self> {
        let tcp = self.tcp.as_ref()?;
        let (src, dst) = (self.src()?, self.dst()?);
        let len = self.payload().len() as u32 + u32::from(tcp.syn) + u32::from(tcp.fin);
        let (seq, ack) = (tcp.seq, tcp.ack);
        let mut reply = self.rewrite(|edit| {
            let had_ack = edit.tcp.ack;
            edit.tcp = TcpHeader::new(dst.port(), src.port(), if had_ack { ack } else { 0 }, 0);
            edit.tcp.rst = true;
            edit.tcp.ack = !had_ack;
            edit.tcp.acknowledgment_number = if had_ack { 0 } else { seq.wrapping_add(len) };
            edit.set_src(dst);
            edit.set_dst(src);
            edit.payload.clear();
        })?;
        reply.way = super::Way::default();
        Some(reply)
    }
}
