use super::{Middlebox, Verdict};
use crate::packet::Packet;

/// Drops every SYN that carries data. Cookie requests, and SYNs without data, pass.
///
/// The commonest of the hostile behaviours: about 6 % of paths in RFC 7413 7.1.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct DropSynData;

impl DropSynData {
    /// For all connections.
    pub fn new() -> Self {
        Self
    }
}

impl Middlebox for DropSynData {
    fn handle(&mut self, packet: &Packet) -> Verdict {
        if packet.is_syn() && !packet.payload().is_empty() { Verdict::Drop } else { Verdict::Pass }
    }
}
