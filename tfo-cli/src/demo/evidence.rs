//! Whether those who saw a visit say the same of it.

use tfo_http::SynOutcome;

use super::visits::{Mode, Visit};

impl Visit {
    /// Where the observers contradict each other; `None` if they agree.
    pub(super) fn disagreement(&self) -> Option<String> {
        let acked = self.outcome == SynOutcome::SynDataAcked;
        let acked_bytes = if acked { self.syn_data_bytes } else { 0 };
        let at_server = match self.server_saw_syn_data {
            Some(saw) if saw == acked => None,
            Some(true) => Some("the server says that data came in the SYN".to_owned()),
            Some(false) => Some("the server says that no data came in the SYN".to_owned()),
            None => Some("the server has not seen this connection".to_owned()),
        };
        let on_wire = self.packets.and_then(|packets| {
            if packets.syn_data_bytes != self.syn_data_bytes {
                Some(format!("the SYN on the wire carried {} bytes", packets.syn_data_bytes))
            } else if packets.syn_data_acked_bytes != acked_bytes {
                Some(format!("the SYN-ACK on the wire acked {} bytes", packets.syn_data_acked_bytes))
            } else if packets.delivered_in_syn != acked {
                Some("the packets on the wire do not show that".to_owned())
            } else if packets.answered_early && !acked {
                Some("the answer left before the request can have arrived behind the handshake".to_owned())
            } else {
                None
            }
        });
        let other = at_server.or(on_wire)?;
        let mode = match self.mode {
            Mode::Plain => "plain",
            Mode::Tfo => "TCP Fast Open",
        };
        Some(format!(
            "visit {} ({mode}): TCP_INFO says {} with {} bytes in the SYN, but {other}",
            self.number, self.outcome, self.syn_data_bytes,
        ))
    }
}

/// A visit in a lab that no tap has seen says nothing about the wire.
pub(super) fn unseen(visits: &[Visit], tapped: bool) -> Option<String> {
    let missing = visits.iter().find(|visit| tapped && visit.packets.is_none())?;
    Some(format!("visit {}: its packets are not on the wire", missing.number))
}
