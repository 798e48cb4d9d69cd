use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

/// The longest name of a network interface: `IFNAMSIZ`, less the final zero.
const INTERFACE_MAX: usize = 15;

/// What TCP Fast Open works or fails on: (interface, local address, network) × (remote address,
/// port). RFC 7413 section 4.1.3.1: "the specific path (source and destination IP addresses and
/// ports)"; of what the caller did not set, any will do.
///
/// The remote port is in it because a cookie is good for a host, and the next port may well be a
/// server without TCP Fast Open.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Path {
    remote: IpAddr,
    port: u16,
    scope: u32,
    local: Option<IpAddr>,
    interface: [u8; INTERFACE_MAX],
    network: Option<NetworkId>,
}

/// A name for the network that this host is attached to, as the caller knows it: any number that
/// stays the same on that network and differs on others, for example a hash of the gateway's
/// hardware address and the name of the radio network. With a file store it has to be the same in
/// the next process: `std`'s default hashers do not promise that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetworkId(u64);

/// What has one owner: the /24 of an IPv4 address, the /48 of an IPv6 address. Who holds one has any
/// number of addresses and names in it, so whatever is counted over many hosts is counted by these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Prefix(u64);

impl Path {
    /// The path to `remote` from wherever the system sends it. An IPv4 address mapped into IPv6 is
    /// the IPv4 address; a flow label is no part of a path.
    pub fn new(remote: SocketAddr) -> Self {
        let scope = match remote {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(v6) => v6.scope_id(),
        };
        Self {
            remote: remote.ip().to_canonical(),
            port: remote.port(),
            scope,
            local: None,
            interface: [0; INTERFACE_MAX],
            network: None,
        }
    }

    /// From this local address.
    #[must_use]
    pub fn with_local(mut self, local: IpAddr) -> Self {
        self.local = Some(local.to_canonical());
        self
    }

    /// Through this network interface: the first 15 bytes of its name, which are all that the kernel
    /// takes.
    #[must_use]
    pub fn with_interface(mut self, interface: &str) -> Self {
        self.interface = [0; INTERFACE_MAX];
        for (to, from) in self.interface.iter_mut().zip(interface.bytes()) {
            *to = from;
        }
        self
    }

    /// On this network. Without it, the one of
    /// [`PathMemory::set_network`](super::PathMemory::set_network).
    #[must_use]
    pub fn with_network(mut self, network: NetworkId) -> Self {
        self.network = Some(network);
        self
    }

    /// The address at the other end.
    pub fn remote(&self) -> SocketAddr {
        let mut remote = SocketAddr::new(self.remote, self.port);
        if let SocketAddr::V6(v6) = &mut remote {
            v6.set_scope_id(self.scope);
        }
        remote
    }

    /// The local address, if one was set.
    pub fn local(&self) -> Option<IpAddr> {
        self.local
    }

    /// The interface, if one was set (and is UTF-8).
    pub fn interface(&self) -> Option<&str> {
        let name = self.interface.split(|byte| *byte == 0).next().unwrap_or_default();
        std::str::from_utf8(name).ok().filter(|name| !name.is_empty())
    }

    /// The network, if it was set.
    pub fn network(&self) -> Option<NetworkId> {
        self.network
    }

    /// On `network`, unless it says otherwise itself.
    pub(super) fn or_network(mut self, network: Option<NetworkId>) -> Self {
        self.network = self.network.or(network);
        self
    }

    pub(super) fn prefix(&self) -> Prefix {
        Prefix(match self.remote {
            IpAddr::V4(v4) => 1 << 63 | u64::from(v4.to_bits() >> 8),
            IpAddr::V6(v6) => (v6.to_bits() >> 80) as u64,
        })
    }
}

impl Hash for Path {
    /// Most of a path is usually not set: what is, is packed, because a keyed hash costs by the byte.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let rest = u64::from(self.port) | u64::from(self.scope) << 16;
        match self.remote {
            IpAddr::V4(v4) => state.write_u64(u64::from(v4.to_bits()) << 32 | rest),
            IpAddr::V6(v6) => {
                state.write_u128(v6.to_bits());
                state.write_u64(rest);
            }
        }
        if let Some(local) = self.local {
            local.hash(state);
        }
        if self.interface[0] != 0 {
            state.write(&self.interface);
        }
        if let Some(NetworkId(network)) = self.network {
            state.write_u64(network);
        }
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.remote())?;
        if let Some(local) = self.local {
            write!(f, " from {local}")?;
        }
        if let Some(interface) = self.interface() {
            write!(f, " through {interface}")?;
        }
        if let Some(NetworkId(network)) = self.network {
            write!(f, " on {network:#x}")?;
        }
        Ok(())
    }
}

impl NetworkId {
    /// From the caller's number.
    pub const fn new(id: u64) -> Self {
        Self(id)
    }

    /// The caller's number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::hash_map::DefaultHasher;

    use super::*;

    fn path(remote: &str) -> Path {
        Path::new(remote.parse().unwrap())
    }

    fn hash(path: &Path) -> u64 {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn whatever_was_set_tells_paths_apart() {
        let base = path("192.0.2.1:80");
        let all = [
            base,
            path("192.0.2.1:81"),
            path("192.0.2.2:80"),
            path("[2001:db8::1]:80"),
            path("[fe80::1%2]:80"),
            path("[fe80::1%3]:80"),
            base.with_local("192.0.2.9".parse().unwrap()),
            base.with_interface("eth0"),
            base.with_network(NetworkId::new(7)),
        ];
        for (i, one) in all.iter().enumerate() {
            for (j, two) in all.iter().enumerate() {
                assert_eq!(i == j, one == two);
                assert_eq!(i == j, hash(one) == hash(two), "{one:?} {two:?}");
            }
        }
    }

    #[test]
    fn what_is_no_part_of_a_path_does_not_matter() {
        assert_eq!(path("[::ffff:192.0.2.1]:80"), path("192.0.2.1:80"));
        assert_eq!(path("[fe80::1%2]:80").remote(), "[fe80::1%2]:80".parse().unwrap());
        let long = path("192.0.2.1:80").with_interface("an-interface-name-that-is-too-long");
        assert_eq!(long.interface(), Some("an-interface-na"));
        assert_eq!(long.with_interface("").interface(), None);
        assert_eq!(format!("{:?}", long.with_interface("eth0")), "192.0.2.1:80 through eth0");
    }

    #[test]
    fn a_prefix_is_what_one_holder_has() {
        let prefix = |remote: &str| path(remote).prefix();
        assert_eq!(prefix("192.0.2.1:80"), prefix("192.0.2.254:443"));
        assert_ne!(prefix("192.0.2.1:80"), prefix("192.0.3.1:80"));
        assert_eq!(prefix("[2001:db8:1::1]:80"), prefix("[2001:db8:1:ffff::2]:80"));
        assert_ne!(prefix("[2001:db8:1::1]:80"), prefix("[2001:db8:2::1]:80"));
        assert_ne!(prefix("192.0.2.1:80"), prefix("[::c000:201]:80"));
    }
}
