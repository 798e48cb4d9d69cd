//! One TCP connection, and what its packets prove.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;

use super::{End, Ladder, Record};
use crate::packet::Packet;

/// One TCP connection as the tap has seen it, up to the moment it was asked for.
///
/// A connection begins with a SYN. Another SYN between the same addresses and ports belongs to it if it has
/// the same sequence number: a retransmission or a duplicate.
#[derive(Clone, Debug)]
pub struct Flow {
    client: SocketAddr,
    server: SocketAddr,
    isn: u32,
    syn: Packet,
    records: Vec<Record>,
}

impl Flow {
    /// Who sent the SYN.
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// Whom it was for.
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// The first SYN, as it was sent.
    pub fn syn(&self) -> &Packet {
        &self.syn
    }

    /// The first SYN-ACK, as it was sent.
    pub fn syn_ack(&self) -> Option<&Packet> {
        self.sent_by_server().map(Record::packet).find(|packet| packet.is_syn_ack())
    }

    /// All records, in the order of cause and effect.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The packets of the client, as they were sent.
    pub fn sent_by_client(&self) -> impl Iterator<Item = &Record> {
        self.records_of(End::Sent, self.client)
    }

    /// The packets of the client that arrived.
    pub fn received_by_server(&self) -> impl Iterator<Item = &Record> {
        self.records_of(End::Received, self.client)
    }

    /// The packets of the server, as they were sent.
    pub fn sent_by_server(&self) -> impl Iterator<Item = &Record> {
        self.records_of(End::Sent, self.server)
    }

    /// The packets of the server that arrived.
    pub fn received_by_client(&self) -> impl Iterator<Item = &Record> {
        self.records_of(End::Received, self.server)
    }

    /// How many bytes of the SYN's data the first SYN-ACK acknowledged.
    pub fn syn_data_acked(&self) -> usize {
        let len = self.syn.payload().len();
        let ack = self.syn_ack().and_then(Packet::ack);
        let acked = ack.map(|ack| ack.wrapping_sub(self.isn.wrapping_add(1)) as usize);
        // More than was sent is nonsense, made by a middlebox.
        acked.filter(|acked| *acked <= len).unwrap_or_default()
    }

    /// Whether data rode in the SYN and the server took it: the SYN arrived with all its data, and the first
    /// SYN-ACK acknowledged all of it.
    pub fn request_delivered_in_syn(&self) -> bool {
        let sent = self.syn.payload();
        let arrived = self
            .received_by_server()
            .any(|record| record.packet().is_syn() && record.packet().payload() == sent);
        !sent.is_empty() && arrived && self.syn_data_acked() == sent.len()
    }

    /// The first packet with data that the server sent.
    pub fn first_response_byte_sent(&self) -> Option<&Record> {
        self.sent_by_server().find(|record| !record.packet().payload().is_empty())
    }

    /// The first packet with data that reached the client.
    pub fn first_response_byte_received(&self) -> Option<&Record> {
        self.received_by_client().find(|record| !record.packet().payload().is_empty())
    }

    /// Whether the first byte of the response left the server before any packet of this connection other than
    /// a SYN had reached it: nothing but the SYN can have caused it.
    pub fn answered_before_any_further_client_packet(&self) -> bool {
        for record in &self.records {
            let from_server = record.packet().src() == Some(self.server);
            match record.end() {
                End::Sent if from_server && !record.packet().payload().is_empty() => return true,
                End::Received if !from_server && !record.packet().is_syn() => return false,
                _ => {}
            }
        }
        false
    }

    /// The connection on one page, one line per packet.
    pub fn ladder(&self) -> Ladder {
        Ladder::new(&self.records)
    }

    fn records_of(&self, end: End, src: SocketAddr) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.end() == end && record.packet().src() == Some(src))
    }
}

/// The ladder.
impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ladder().fmt(f)
    }
}

/// Sorts records into connections.
pub(super) fn flows(records: &[Record]) -> Vec<Flow> {
    let mut flows: Vec<Flow> = Vec::new();
    // The latest connection between two addresses, by (client, server).
    let mut latest: HashMap<(SocketAddr, SocketAddr), usize> = HashMap::new();
    for record in records.iter().filter(|record| record.packet().is_tcp()) {
        let packet = record.packet();
        let (Some(src), Some(dst)) = (packet.src(), packet.dst()) else { continue };
        let known = latest.get(&(src, dst)).or_else(|| latest.get(&(dst, src))).copied();
        let begins = packet.is_syn() && known.is_none_or(|at| Some(flows[at].isn) != packet.seq());
        match known {
            _ if begins => {
                let isn = packet.seq().unwrap_or_default();
                latest.insert((src, dst), flows.len());
                let records = vec![record.clone()];
                flows.push(Flow { client: src, server: dst, isn, syn: packet.clone(), records });
            }
            Some(at) => flows[at].records.push(record.clone()),
            // The connection's beginning was cleared away.
            None => {}
        }
    }
    flows
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use etherparse::PacketBuilder;

    use super::*;

    const CLIENT: (u8, u16) = (1, 40_000);
    const SERVER: (u8, u16) = (2, 80);

    /// Flags as letters, then the sequence number, the acknowledgment number and the length of the data.
    fn packet(from: (u8, u16), flags: &str, seq: u32, ack: u32, len: usize) -> Packet {
        let to = if from == CLIENT { SERVER } else { CLIENT };
        let mut builder =
            PacketBuilder::ipv4([10, 0, 0, from.0], [10, 0, 0, to.0], 64).tcp(from.1, to.1, seq, 65_535);
        if flags.contains('S') {
            builder = builder.syn();
        }
        if flags.contains('A') {
            builder = builder.ack(ack);
        }
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &vec![b'x'; len]).unwrap();
        bytes.into()
    }

    fn records(seen: &[(End, Packet)]) -> Vec<Record> {
        let host: Arc<str> = "host".into();
        let record = |(end, packet): &(End, Packet)| Record {
            end: *end,
            host: host.clone(),
            time: Duration::ZERO,
            packet: packet.clone(),
        };
        seen.iter().map(record).collect()
    }

    #[test]
    fn an_answer_to_the_syn_alone_is_told_from_one_to_more() {
        let syn = packet(CLIENT, "S", 100, 0, 5);
        let syn_ack = packet(SERVER, "SA", 500, 106, 0);
        let ack = packet(CLIENT, "A", 106, 501, 0);
        let answer = packet(SERVER, "A", 501, 106, 6);
        let mut seen = vec![
            (End::Sent, syn.clone()),
            (End::Received, syn.clone()),
            (End::Received, syn),
            (End::Sent, syn_ack),
            (End::Sent, ack.clone()),
            (End::Sent, answer),
            (End::Received, ack),
        ];
        let flow = flows(&records(&seen)).pop().unwrap();
        assert!(flow.request_delivered_in_syn() && flow.answered_before_any_further_client_packet());
        assert_eq!(flow.syn_data_acked(), 5);
        // The same packets, but the ACK reaches the server before it answers.
        let ack_arrives = seen.pop().unwrap();
        seen.insert(5, ack_arrives);
        let flow = flows(&records(&seen)).pop().unwrap();
        assert!(flow.request_delivered_in_syn() && !flow.answered_before_any_further_client_packet());
    }

    #[test]
    fn refused_data_was_not_delivered() {
        let syn = packet(CLIENT, "S", u32::MAX, 0, 5);
        for (ack, acked) in [(0, 0), (3, 3), (5, 5), (6, 0), (u32::MAX, 0)] {
            let syn_ack = packet(SERVER, "SA", 500, ack, 0);
            let seen = [(End::Sent, syn.clone()), (End::Received, syn.clone()), (End::Sent, syn_ack)];
            let flow = flows(&records(&seen)).pop().unwrap();
            assert_eq!((flow.syn_data_acked(), flow.request_delivered_in_syn()), (acked, acked == 5));
        }
    }

    #[test]
    fn a_port_can_be_used_again() {
        let syn = |seq| (End::Sent, packet(CLIENT, "S", seq, 0, 0));
        let flows = flows(&records(&[syn(1), syn(1), syn(2)]));
        assert_eq!(flows.iter().map(|flow| flow.records().len()).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn the_rest_of_a_forgotten_connection_is_no_flow() {
        assert!(flows(&records(&[(End::Sent, packet(CLIENT, "A", 1, 1, 3))])).is_empty());
    }
}
