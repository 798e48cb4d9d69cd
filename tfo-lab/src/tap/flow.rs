//! One TCP connection, and what its packets prove.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;

use super::{End, Ladder, Record};
use crate::packet::Packet;

/// One TCP connection as the tap has seen it, up to the moment it was asked for.
///
/// A connection begins with a SYN. Another SYN between the same addresses and ports belongs to it if it has the same
/// sequence number: a retransmission or a duplicate.
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
        let acked =
            self.syn_ack().and_then(Packet::ack).map(|ack| ack.wrapping_sub(self.isn.wrapping_add(1)));
        acked.map_or(0, |acked| self.syn.payload().len().min(acked as usize))
    }

    /// Whether data rode in the SYN and the server took it: the SYN arrived with all its data, and the first SYN-ACK
    /// acknowledged all of it.
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

    /// Whether the first byte of the response left the server before any packet of this connection other than a SYN
    /// had reached it: nothing but the SYN can have caused it.
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
