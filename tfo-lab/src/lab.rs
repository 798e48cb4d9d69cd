//! The lab itself.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::builder::{LabBuilder, check_loss};
use crate::error::LabError;
use crate::host::Host;
use crate::middlebox::{Middlebox, MiddleboxHandle};
use crate::packet::Packet;
use crate::tap::Tap;
use crate::wire::{Wire, WireStats};

/// A private network: hosts, and a wire between them.
///
/// Nothing of it is visible outside the process, two labs never meet, and dropping it removes it, also in a
/// panic.
///
/// Methods that take the name of a host panic if there is none.
///
/// ```no_run
/// use std::time::Duration;
/// use tfo_lab::{DropSynData, Lab};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let lab = Lab::builder().rtt(Duration::from_millis(40)).build()?;
/// let (client, server) = (lab.host("client"), lab.host("server"));
/// let listener = server.run(|| std::net::TcpListener::bind("[::]:80"))?;
/// lab.middlebox(DropSynData::new());
/// client.run(|| std::net::TcpStream::connect(server.addr(80)))?;
/// println!("{}", lab.tap().ladder());
/// # drop(listener);
/// # Ok(())
/// # }
/// ```
pub struct Lab {
    hosts: Vec<Host>,
    wire: Wire,
}

impl Lab {
    /// Starts with two hosts, `client` and `server`, no delay and no loss; Fast Open is on in both.
    pub fn builder() -> LabBuilder {
        LabBuilder::new()
    }

    pub(crate) fn new(hosts: Vec<Host>, wire: Wire) -> Self {
        Self { hosts, wire }
    }

    /// A host by its name.
    pub fn host(&self, name: &str) -> Host {
        self.find(name).clone()
    }

    /// All hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// What has happened on the wire.
    pub fn tap(&self) -> Tap {
        self.wire.shared.tap.clone()
    }

    /// Counts of what the wire has done.
    pub fn stats(&self) -> WireStats {
        self.wire.shared.settings().stats
    }

    /// Sets the delay in one direction. It counts for packets sent from now on; they do not overtake earlier
    /// ones.
    pub fn set_delay(&self, from: &str, to: &str, delay: Duration) {
        let (from, to) = (self.find(from).index, self.find(to).index);
        self.wire.shared.settings().links[from][to].delay = delay;
    }

    /// Sets the round-trip time between any two hosts: half of it in each direction.
    pub fn set_rtt(&self, rtt: Duration) {
        for link in self.wire.shared.settings().links.iter_mut().flatten() {
            link.delay = rtt / 2;
        }
    }

    /// Sets the share of packets that is lost in one direction.
    ///
    /// # Panics
    /// If it is not within 0 and 1.
    pub fn set_loss(&self, from: &str, to: &str, loss: f64) {
        if let Err(error) = check_loss(loss) {
            panic!("{error}");
        }
        let (from, to) = (self.find(from).index, self.find(to).index);
        self.wire.shared.settings().links[from][to].loss = loss;
    }

    /// Puts a middlebox on the path, behind those that are there: packets sent from now on pass it.
    pub fn middlebox(&self, middlebox: impl Middlebox + 'static) -> MiddleboxHandle {
        let id = self.wire.shared.add_middlebox(Box::new(middlebox));
        MiddleboxHandle { id, wire: Arc::downgrade(&self.wire.shared) }
    }

    /// Takes all middleboxes off the path.
    pub fn clear_middleboxes(&self) {
        self.wire.shared.clear_middleboxes();
    }

    /// Puts a packet on the wire as if a host had sent it: through the middleboxes, the losses and the delay.
    pub fn inject(&self, from: &str, packet: impl Into<Packet>) {
        self.wire.shared.inject(self.find(from).index, packet.into());
    }

    /// Hands a packet to a host at once, whatever its destination address.
    pub fn deliver(&self, to: &str, packet: impl Into<Packet>) {
        self.wire.shared.deliver(self.find(to).index, packet.into());
    }

    /// Gives a host one more address.
    ///
    /// # Errors
    /// If another has it already, or the kernel does not take it.
    pub fn add_address(&self, host: &str, ip: impl Into<IpAddr>) -> Result<(), LabError> {
        let (host, ip) = (self.find(host), ip.into());
        if let Some(owner) = self.wire.shared.settings().owners.get(&ip) {
            let owner = self.hosts[*owner].name();
            return Err(LabError::argument(format!("{ip} belongs to {owner} already")));
        }
        host.add_address(ip)?;
        self.wire.shared.settings().owners.insert(ip, host.index);
        Ok(())
    }

    /// Gives several hosts the same address, as servers behind anycast or a forwarding load balancer have it.
    /// It is routed to the first, unless a middlebox decides otherwise
    /// ([`BalanceServers::forwarding`](crate::BalanceServers::forwarding)).
    ///
    /// # Errors
    /// If another host has it already, or a kernel does not take it.
    pub fn share_address(&self, hosts: &[&str], ip: impl Into<IpAddr>) -> Result<(), LabError> {
        let ip = ip.into();
        let Some((first, others)) = hosts.split_first() else { return Ok(()) };
        self.add_address(first, ip)?;
        others.iter().try_for_each(|host| self.find(host).add_address(ip))
    }

    /// Moves an address to another host. What is on its way to the old one still arrives there.
    ///
    /// # Errors
    /// If `from` has not got it, or the kernel does not agree.
    pub fn move_address(&self, from: &str, to: &str, ip: impl Into<IpAddr>) -> Result<(), LabError> {
        let (from, to, ip) = (self.find(from), self.find(to), ip.into());
        if self.wire.shared.settings().owners.get(&ip) != Some(&from.index) {
            return Err(LabError::argument(format!("{ip} does not belong to {}", from.name())));
        }
        from.remove_address(ip)?;
        self.wire.shared.settings().owners.remove(&ip);
        to.add_address(ip)?;
        self.wire.shared.settings().owners.insert(ip, to.index);
        Ok(())
    }

    fn find(&self, name: &str) -> &Host {
        let found = self.hosts.iter().find(|host| host.name() == name);
        found.unwrap_or_else(|| {
            let names: Vec<_> = self.hosts.iter().map(Host::name).collect();
            panic!("no host is named {name:?}; there are {}", names.join(", "))
        })
    }
}

impl fmt::Debug for Lab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lab")
            .field("hosts", &self.hosts)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
