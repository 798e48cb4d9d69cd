use super::memory::{Connections, Direction};
use crate::packet::Packet;

/// By what a middlebox tells that a SYN belongs to Fast Open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FastOpenSign {
    /// It carries data.
    #[default]
    Data,
    /// It carries the option, in either form; a request for a cookie too.
    Option,
}

impl FastOpenSign {
    pub(super) fn is_on(self, packet: &Packet) -> bool {
        packet.is_syn()
            && match self {
                Self::Data => !packet.payload().is_empty(),
                Self::Option => packet.fast_open().is_some(),
            }
    }
}

/// The connections whose SYN bore the sign.
#[derive(Debug, Default)]
pub(super) struct FastOpenConnections {
    sign: FastOpenSign,
    /// With the sequence number of their SYN.
    known: Connections<u32>,
}

impl FastOpenConnections {
    pub(super) fn set_sign(&mut self, sign: FastOpenSign) {
        self.sign = sign;
    }

    /// Looks at every packet: `true` for the first SYN of such a connection.
    pub(super) fn begins(&mut self, packet: &Packet) -> bool {
        let Some(isn) = packet.seq().filter(|_| packet.is_syn()) else { return false };
        // The SYN that Linux sends again bears no sign, but has the same number.
        if self.known.of(packet).is_some_and(|(_, known)| *known == isn) {
            return false;
        }
        if self.sign.is_on(packet) {
            self.known.begin(packet, isn);
            true
        } else {
            self.known.forget(packet);
            false
        }
    }

    /// Which way a packet of such a connection goes; `None` for all others.
    pub(super) fn direction(&mut self, packet: &Packet) -> Option<Direction> {
        self.known.of(packet).map(|(direction, _)| direction)
    }
}
