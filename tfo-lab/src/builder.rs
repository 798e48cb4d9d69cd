//! Building a lab.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::error::LabError;
use crate::host::Host;
use crate::lab::Lab;
use crate::sys::{self, Tun};
use crate::tap::Tap;
use crate::wire::{Link, Settings, Wire, WireStats};

/// The sysctl that switches Fast Open on.
const FASTOPEN: &str = "net.ipv4.tcp_fastopen";
/// Fast Open as a client and as a server.
const BOTH: u32 = 3;
/// The smallest packet size that IPv6 works with.
const MIN_MTU: u16 = 1280;

/// The questions that a lab answers before it is built. See [`Lab::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct LabBuilder {
    hosts: Vec<String>,
    rtt: Duration,
    delays: Vec<(String, String, Duration)>,
    losses: Vec<(String, String, f64)>,
    fastopen: Vec<(String, u32)>,
    mtu: u16,
    seed: u64,
    capacity: usize,
    tap_limit: usize,
}

impl LabBuilder {
    pub(crate) fn new() -> Self {
        Self {
            hosts: Vec::new(),
            rtt: Duration::ZERO,
            delays: Vec::new(),
            losses: Vec::new(),
            fastopen: Vec::new(),
            mtu: 1500,
            seed: 7413,
            capacity: 100_000,
            tap_limit: 1_000_000,
        }
    }

    /// Adds a host. Without any there are two: `client` and `server`.
    pub fn host(mut self, name: impl Into<String>) -> Self {
        self.hosts.push(name.into());
        self
    }

    /// The round-trip time between any two hosts: half of it in each direction. Default 0.
    pub fn rtt(mut self, rtt: Duration) -> Self {
        self.rtt = rtt;
        self
    }

    /// The delay in one direction, instead of half the round-trip time.
    pub fn delay(mut self, from: impl Into<String>, to: impl Into<String>, delay: Duration) -> Self {
        self.delays.push((from.into(), to.into(), delay));
        self
    }

    /// The share of packets that is lost in one direction, 0 to 1. Default 0.
    pub fn loss(mut self, from: impl Into<String>, to: impl Into<String>, loss: f64) -> Self {
        self.losses.push((from.into(), to.into(), loss));
        self
    }

    /// What the losses are drawn from. Default 7413. With the same seed, the same packets of a direction are
    /// lost, counted from the lab's start.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The largest packet, 1280 to 65,535 bytes. Default 1500.
    pub fn mtu(mut self, mtu: u16) -> Self {
        self.mtu = mtu;
        self
    }

    /// The bits of `net.ipv4.tcp_fastopen` on one host. Default 3, client and server; the kernel's own is 1,
    /// client only.
    pub fn fastopen(mut self, host: impl Into<String>, bits: u32) -> Self {
        self.fastopen.push((host.into(), bits));
        self
    }

    /// How many packets may be on the wire at once; further ones are dropped and counted. Default 100,000.
    pub fn capacity(mut self, packets: usize) -> Self {
        self.capacity = packets;
        self
    }

    /// How many records the tap keeps, two for each packet; further ones are counted only. Default 1,000,000.
    /// With 0 it records nothing, for benches.
    pub fn tap_limit(mut self, records: usize) -> Self {
        self.tap_limit = records;
        self
    }

    /// Builds it, within some milliseconds.
    ///
    /// # Errors
    /// If the system does not allow it (the error says how to change that), or two hosts have the same name,
    /// or an argument names no host or makes no sense.
    pub fn build(mut self) -> Result<Lab, LabError> {
        if self.hosts.is_empty() {
            self.hosts = vec!["client".to_owned(), "server".to_owned()];
        }
        self.check()?;
        let tap = Tap::new(self.tap_limit, self.hosts.clone());
        let (hosts, tuns): (Vec<_>, Vec<_>) = self.make_hosts()?.into_iter().unzip();
        let settings = self.settings(&hosts)?;
        let wire = Wire::start(hosts.iter().map(Host::shared_name).collect(), tuns, settings, tap)?;
        Ok(Lab::new(hosts, wire))
    }

    fn check(&self) -> Result<(), LabError> {
        if self.mtu < MIN_MTU {
            return Err(LabError::argument(format!(
                "the MTU {} is below {MIN_MTU}, IPv6's smallest",
                self.mtu
            )));
        }
        if self.hosts.len() > 200 {
            return Err(LabError::argument(format!("{} hosts are too many: 200 at most", self.hosts.len())));
        }
        for (at, name) in self.hosts.iter().enumerate() {
            if self.hosts[..at].contains(name) {
                return Err(LabError::argument(format!("two hosts are named {name:?}")));
            }
            // Threads are named after hosts.
            if name.contains('\0') {
                return Err(LabError::argument(format!("the name {name:?} has a NUL in it")));
            }
        }
        for (.., loss) in &self.losses {
            check_loss(*loss)?;
        }
        Ok(())
    }

    /// All hosts at once: most of the time goes into waiting for the kernel.
    fn make_hosts(&self) -> Result<Vec<(Host, Tun)>, LabError> {
        thread::scope(|scope| {
            let threads: Vec<_> =
                (0..self.hosts.len()).map(|index| scope.spawn(move || self.make_host(index))).collect();
            threads.into_iter().map(|thread| thread.join().expect("making a host does not panic")).collect()
        })
    }

    fn make_host(&self, index: usize) -> Result<(Host, Tun), LabError> {
        let (namespace, tun) = sys::make_host(self.mtu)?;
        let host = Host::new(index, Arc::from(self.hosts[index].as_str()), namespace);
        sys::add_address(host.ipv4().into())?;
        sys::add_address(host.ipv6().into())?;
        let own = self.fastopen.iter().rev().find(|(name, _)| name == host.name());
        host.set_sysctl(FASTOPEN, own.map_or(BOTH, |(_, bits)| *bits))?;
        Ok((host, tun))
    }

    fn settings(&self, hosts: &[Host]) -> Result<Settings, LabError> {
        let place = |name: &str| {
            let found = self.hosts.iter().position(|known| known == name);
            found.ok_or_else(|| LabError::argument(format!("no host is named {name:?}")))
        };
        let mut links: Vec<Vec<_>> = (0..hosts.len())
            .map(|from| (0..hosts.len()).map(|to| Link::new(self.seed, from, to)).collect())
            .collect();
        for link in links.iter_mut().flatten() {
            link.delay = self.rtt / 2;
        }
        for (from, to, delay) in &self.delays {
            links[place(from)?][place(to)?].delay = *delay;
        }
        for (from, to, loss) in &self.losses {
            links[place(from)?][place(to)?].loss = *loss;
        }
        for (name, _) in &self.fastopen {
            place(name)?;
        }
        let mut owners = HashMap::new();
        for host in hosts {
            owners.insert(host.ipv4().into(), host.index);
            owners.insert(host.ipv6().into(), host.index);
        }
        Ok(Settings { owners, links, stats: WireStats::default(), capacity: self.capacity })
    }
}

pub(crate) fn check_loss(loss: f64) -> Result<(), LabError> {
    match (0.0..=1.0).contains(&loss) {
        true => Ok(()),
        false => Err(LabError::argument(format!("a loss of {loss} makes no sense: it is a share, 0 to 1"))),
    }
}
