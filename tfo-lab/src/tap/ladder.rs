//! Packets as lines of text, for people who wonder why a test failed.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use super::{End, Record};
use crate::packet::Packet;

/// Packets as text: one line each, in the order in which they were sent.
///
/// ```text
///    0.000 ms  client → server  SYN        seq 0 len 120 tfo=cookie:1a2b3c4d5e6f7081  (arrived 20.041)
///   20.093 ms  server → client  SYN ACK    seq 0 ack 121  (arrived 40.120)
///   20.150 ms  server → client  PSH ACK    seq 1 ack 121 len 5  (never arrived)
/// ```
#[derive(Clone, Debug)]
pub struct Ladder {
    lines: Vec<Line>,
    width: usize,
}

#[derive(Clone, Debug)]
struct Line {
    time: Duration,
    from: Arc<str>,
    to: Arc<str>,
    packet: Packet,
    seq: Option<u32>,
    ack: Option<u32>,
    arrival: Arrival,
}

#[derive(Clone, Debug)]
enum Arrival {
    At(Duration),
    Changed(Duration, Packet),
    Never,
    /// It was made on the way, by a middlebox or by the test.
    Made(Duration),
}

impl Ladder {
    pub(super) fn new(records: &[Record]) -> Self {
        let start = records.first().map(|record| record.time).unwrap_or_default();
        let mut isns = HashMap::new();
        let mut arrivals: HashMap<u64, &Record> = HashMap::new();
        let mut sent = HashSet::new();
        for record in records {
            let packet = &record.packet;
            if packet.is_syn() || packet.is_syn_ack() {
                isns.entry((packet.src(), packet.dst())).or_insert_with(|| packet.seq().unwrap_or_default());
            }
            match record.end {
                End::Sent => drop(sent.insert(packet.way.id)),
                End::Received => drop(arrivals.entry(packet.way.id).or_insert(record)),
            }
        }
        let line = |record: &Record, arrival| {
            let packet = &record.packet;
            let nobody: Arc<str> = "?".into();
            // Sequence numbers count from the SYN's, as in tcpdump and Wireshark.
            let isn = isns.get(&(packet.src(), packet.dst())).copied().unwrap_or_default();
            let peer_isn = isns.get(&(packet.dst(), packet.src())).copied().unwrap_or_default();
            Line {
                time: record.time.saturating_sub(start),
                from: packet.way.from.clone().unwrap_or_else(|| nobody.clone()),
                to: packet.way.to.clone().unwrap_or(nobody),
                packet: packet.clone(),
                seq: packet.seq().map(|seq| seq.wrapping_sub(isn)),
                ack: packet.ack().map(|ack| ack.wrapping_sub(peer_isn)),
                arrival,
            }
        };
        let lines: Vec<_> = records
            .iter()
            .filter_map(|record| match record.end {
                End::Sent => {
                    let arrival = arrivals.get(&record.packet.way.id).map_or(Arrival::Never, |there| {
                        let time = there.time.saturating_sub(start);
                        match there.packet.bytes() == record.packet.bytes() {
                            true => Arrival::At(time),
                            false => Arrival::Changed(time, there.packet.clone()),
                        }
                    });
                    Some(line(record, arrival))
                }
                End::Received if !sent.contains(&record.packet.way.id) => {
                    Some(line(record, Arrival::Made(record.time.saturating_sub(start))))
                }
                End::Received => None,
            })
            .collect();
        let width = lines.iter().map(|line| line.from.len() + line.to.len()).max().unwrap_or_default();
        Self { lines, width }
    }
}

impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lines.is_empty() {
            return f.write_str("(no packets)");
        }
        for line in &self.lines {
            let ends = format!("{} → {}", line.from, line.to);
            write!(f, "{:>9.3} ms  {ends:<width$}  ", millis(line.time), width = self.width + 3)?;
            writeln!(f, "{}{}", what(&line.packet, line.seq, line.ack), line.arrival)?;
        }
        Ok(())
    }
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(time) => write!(f, "  (arrived {:.3})", millis(*time)),
            Self::Changed(time, packet) => {
                let now = what(packet, None, None);
                write!(f, "  (changed; arrived {:.3} as {})", millis(*time), now.trim_end())
            }
            Self::Never => f.write_str("  (never arrived)"),
            Self::Made(time) => write!(f, "  (made on the way; arrived {:.3})", millis(*time)),
        }
    }
}

/// Flags, numbers, length and the options that matter here.
fn what(packet: &Packet, seq: Option<u32>, ack: Option<u32>) -> String {
    let mut text = String::new();
    match packet.is_tcp() {
        true => text.push_str(&format!("{:<9}", packet.flags())),
        false => text.push_str("not TCP  "),
    }
    let mut add = |part: fmt::Arguments<'_>| {
        // Writing to a string cannot fail.
        let _ = write!(text, " {part}");
    };
    if let Some(seq) = seq {
        add(format_args!("seq {seq}"));
    }
    if let Some(ack) = ack {
        add(format_args!("ack {ack}"));
    }
    if !packet.payload().is_empty() {
        add(format_args!("len {}", packet.payload().len()));
    }
    if let Some(option) = packet.fast_open() {
        let form = if option.is_experimental() { "tfo-exp" } else { "tfo" };
        match option.is_request() {
            true => add(format_args!("{form}=request")),
            false => add(format_args!("{form}=cookie:{}", hex(option.cookie()))),
        }
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
