//! The tap: every packet, at both ends, in the order of cause and effect.

mod flow;
mod ladder;
mod pcap;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::packet::Packet;

pub use flow::Flow;
pub use ladder::Ladder;

/// At which end of the wire a packet was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// It left its sender.
    Sent,
    /// It arrived at its receiver.
    Received,
}

/// One packet at one end.
#[derive(Clone, Debug)]
pub struct Record {
    end: End,
    host: Arc<str>,
    time: Duration,
    packet: Packet,
}

impl Record {
    /// At which end it was seen.
    pub fn end(&self) -> End {
        self.end
    }

    /// The name of the host at that end.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// When, since the lab was built.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// The packet as it was at that end: a middlebox may have changed it on the way.
    pub fn packet(&self) -> &Packet {
        &self.packet
    }
}

/// Everything that has happened on the wire. A clone shows the same.
///
/// Packets are recorded by the wire's thread, shortly after the hosts have sent them: a test that has only
/// just finished an exchange waits for its end by [`wait_until`](Self::wait_until) or
/// [`wait_quiet`](Self::wait_quiet).
///
/// Methods that take the name of a host panic if there is none.
#[derive(Clone)]
pub struct Tap(Arc<Inner>);

struct Inner {
    started: Instant,
    started_wall: SystemTime,
    hosts: Vec<String>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    records: Vec<Record>,
    limit: usize,
    missed: u64,
    in_flight: usize,
    /// When the last packet was recorded.
    last: Duration,
    /// Counts whatever may change an answer.
    changes: u64,
}

impl Tap {
    pub(crate) fn new(limit: usize, hosts: Vec<String>) -> Self {
        let state = State { limit, ..State::default() };
        Self(Arc::new(Inner {
            started: Instant::now(),
            started_wall: SystemTime::now(),
            hosts,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }))
    }

    /// The time since the lab was built: the clock of all records.
    pub fn now(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// All records, in the order of cause and effect.
    pub fn records(&self) -> Vec<Record> {
        self.state().records.clone()
    }

    /// The packets that a host has sent.
    pub fn sent_by(&self, host: &str) -> Vec<Record> {
        self.at(End::Sent, host)
    }

    /// The packets that have reached a host.
    pub fn received_by(&self, host: &str) -> Vec<Record> {
        self.at(End::Received, host)
    }

    /// All TCP connections, in the order of their SYNs.
    pub fn flows(&self) -> Vec<Flow> {
        flow::flows(&self.records())
    }

    /// The TCP connections that have the port, address, or both, at either end; in the order of their SYNs.
    pub fn flows_of(&self, key: impl Into<FlowKey>) -> Vec<Flow> {
        let key = key.into();
        self.flows().into_iter().filter(|flow| key.fits(flow.client()) || key.fits(flow.server())).collect()
    }

    /// The latest TCP connection that has the port, address, or both, at either end.
    pub fn flow(&self, key: impl Into<FlowKey>) -> Option<Flow> {
        self.flows_of(key).pop()
    }

    /// Everything on one page, one line per packet.
    pub fn ladder(&self) -> Ladder {
        Ladder::new(&self.records())
    }

    /// Waits until the question is answered by `true`; `false` if that took longer than `timeout`.
    ///
    /// It is asked now, and whenever something has happened to a packet. It may look at
    /// [`Lab::stats`](crate::Lab::stats) too.
    pub fn wait_until(&self, timeout: Duration, mut question: impl FnMut(&Self) -> bool) -> bool {
        let begun = Instant::now();
        loop {
            let seen = self.state().changes;
            if question(self) {
                return true;
            }
            let mut state = self.state();
            while state.changes == seen {
                let left = timeout.saturating_sub(begun.elapsed());
                if left.is_zero() {
                    drop(state);
                    return question(self);
                }
                state = self.wait(state, left);
            }
        }
    }

    /// Waits until nothing is on the wire and nothing has happened for `quiet`; `false` if that took longer
    /// than `timeout`.
    pub fn wait_quiet(&self, quiet: Duration, timeout: Duration) -> bool {
        let deadline = self.now().saturating_add(timeout);
        let begun = self.now();
        let mut state = self.state();
        loop {
            let now = self.now();
            let since = now.saturating_sub(state.last.max(begun));
            if state.in_flight == 0 && since >= quiet {
                return true;
            }
            let Some(left) = deadline.checked_sub(now).filter(|left| !left.is_zero()) else { return false };
            let until_quiet = if state.in_flight == 0 { quiet - since } else { left };
            state = self.wait(state, until_quiet.min(left));
        }
    }

    /// Forgets all records.
    pub fn clear(&self) {
        let mut state = self.state();
        state.records.clear();
        state.missed = 0;
    }

    /// How many packets were not recorded because the tap was full.
    pub fn missed(&self) -> u64 {
        self.state().missed
    }

    /// Writes what one host has sent and received to a pcap file, for tcpdump, tshark and Wireshark.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_pcap(&self, path: impl AsRef<Path>, host: &str) -> io::Result<()> {
        self.check(host);
        let records = self.records();
        let seen = records.iter().filter(|record| record.host() == host);
        pcap::write(
            path.as_ref(),
            seen.map(|record| (self.0.started_wall + record.time, record.packet.bytes())),
        )
    }

    pub(crate) fn record(&self, end: End, host: &Arc<str>, time: Duration, packet: &Packet) {
        let mut state = self.state();
        state.last = time;
        if state.records.len() < state.limit {
            state.records.push(Record { end, host: host.clone(), time, packet: packet.clone() });
        } else {
            state.missed += 1;
        }
    }

    pub(crate) fn on_wire(&self) {
        self.state().in_flight += 1;
    }

    pub(crate) fn off_wire(&self) {
        self.state().in_flight -= 1;
    }

    /// Wakes those who wait: something has happened, and is recorded and counted.
    pub(crate) fn changed(&self) {
        self.state().changes += 1;
        self.0.changed.notify_all();
    }

    fn at(&self, end: End, host: &str) -> Vec<Record> {
        self.check(host);
        let state = self.state();
        state.records.iter().filter(|record| record.end == end && record.host() == host).cloned().collect()
    }

    /// A name that is misspelt shall not look like silence.
    fn check(&self, host: &str) {
        let hosts = &self.0.hosts;
        assert!(
            hosts.iter().any(|known| known == host),
            "no host is named {host:?}; there are {}",
            hosts.join(", ")
        );
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        self.0.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap").field("records", &self.state().records.len()).finish_non_exhaustive()
    }
}

/// Which connections are meant: those with a port, an address, or both, at either end.
#[derive(Clone, Copy, Debug)]
pub struct FlowKey {
    ip: Option<IpAddr>,
    port: Option<u16>,
}

impl FlowKey {
    fn fits(&self, addr: SocketAddr) -> bool {
        self.ip.is_none_or(|ip| ip == addr.ip()) && self.port.is_none_or(|port| port == addr.port())
    }
}

impl From<u16> for FlowKey {
    fn from(port: u16) -> Self {
        Self { ip: None, port: Some(port) }
    }
}

impl From<IpAddr> for FlowKey {
    fn from(ip: IpAddr) -> Self {
        Self { ip: Some(ip), port: None }
    }
}

impl From<SocketAddr> for FlowKey {
    fn from(addr: SocketAddr) -> Self {
        Self { ip: Some(addr.ip()), port: Some(addr.port()) }
    }
}
