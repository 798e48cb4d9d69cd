use super::{Counts, Middlebox, Verdict};
use crate::packet::Packet;

/// Changes the bytes of cookies in SYNs; the length, and the data, stay.
///
/// To a server it is what an expired or foreign cookie is: Linux answers with a SYN-ACK that does not ack the
/// data and brings the right cookie; the data goes out again at once.
#[derive(Clone, Debug, Default)]
pub struct CorruptCookie {
    granted: bool,
    counts: Counts,
}

impl CorruptCookie {
    /// Those that clients send.
    pub fn new() -> Self {
        Self::default()
    }

    /// Those that servers grant instead: clients keep wrong ones.
    pub fn granted() -> Self {
        Self { granted: true, ..Self::default() }
    }

    /// What it has seen and done.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }
}

impl Middlebox for CorruptCookie {
    fn handle(&mut self, packet: &Packet) -> Verdict {
        let concerned = if self.granted { packet.is_syn_ack() } else { packet.is_syn() };
        let has_one = packet.fast_open().is_some_and(|option| !option.is_request());
        self.counts.note(match concerned && has_one {
            true => {
                let corrupted = packet.rewrite(|edit| {
                    if let Some(cookie) = edit.cookie_mut() {
                        cookie.iter_mut().for_each(|byte| *byte ^= 0x5A);
                    }
                });
                corrupted.map_or(Verdict::Drop, Verdict::Replace)
            }
            false => Verdict::Pass,
        })
    }
}
