//! Rewriting packets, as middleboxes do.

use std::net::SocketAddr;

use etherparse::{IpHeaders, TcpHeader};

use super::{Packet, options};

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
