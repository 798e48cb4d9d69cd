//! Linux: namespaces held by descriptors only, TUN devices, netlink.

mod netlink;
mod userns;
mod wait;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::error::LabError;

pub(crate) use userns::enter_user_namespace;
pub(crate) use wait::{Bell, precise_timers, wait};

/// The one device of a host, besides loopback.
const DEVICE: &str = "tun0";
/// Where TUN devices come from.
const TUN_NODE: &str = "/dev/net/tun";
/// How many packets a host may send before the wire has read the first.
const TX_QUEUE_LEN: u32 = 10_000;

/// How long the kernel may take until it accepts packets for a new IPv6 address.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(10);

/// A network namespace. It has no name in `/run/netns`: it ends with the last descriptor, thread and socket.
#[derive(Debug)]
pub(crate) struct Namespace(File);

impl Namespace {
    /// Moves the calling thread into it.
    pub(crate) fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.0, CloneFlags::CLONE_NEWNET)?)
    }

    /// Moves the calling thread into a new one.
    fn unshare() -> Result<Self, LabError> {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|errno| privileged("making a network namespace", errno.into()))?;
        let file =
            File::open("/proc/thread-self/ns/net").map_err(LabError::setup("opening the namespace"))?;
        Ok(Self(file))
    }
}

/// The wire's end of a host's device. The device goes when this is dropped.
pub(crate) struct Tun(SyncDevice);

impl Tun {
    /// The next packet that the host sent; [`WouldBlock`](io::ErrorKind::WouldBlock) if there is none.
    pub(crate) fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.recv(buffer)
    }

    /// Hands a packet to the host.
    pub(crate) fn send(&self, packet: &[u8]) -> io::Result<usize> {
        self.0.send(packet)
    }

    fn create(mtu: u16) -> Result<Self, LabError> {
        check_tun_node()?;
        let device = DeviceBuilder::new()
            .name(DEVICE)
            .layer(Layer::L3)
            .packet_information(false)
            .offload(false)
            .mtu(mtu)
            .enable(false)
            .build_sync()
            .map_err(|source| privileged("making a TUN device", source))?;
        device.set_nonblocking(true).map_err(LabError::setup("making the TUN device non-blocking"))?;
        Ok(Self(device))
    }
}

/// Makes a namespace with loopback and a device up, and leaves the calling thread in it.
pub(crate) fn make_host(mtu: u16) -> Result<(Namespace, Tun), LabError> {
    let namespace = Namespace::unshare()?;
    // Only what the test sends shall be on the wire: no link-local address, no neighbour or router talk.
    // Kernels without IPv6 lack the files; adding the address says so if it matters.
    for (name, value) in [("addr_gen_mode", "1"), ("accept_ra", "0"), ("dad_transmits", "0")] {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/default/{name}"), value);
    }
    let tun = Tun::create(mtu)?;
    netlink::link_up("lo", None).map_err(LabError::setup("bringing loopback up"))?;
    netlink::link_up(DEVICE, Some(TX_QUEUE_LEN)).map_err(LabError::setup("bringing the TUN device up"))?;
    Ok((namespace, tun))
}

/// Gives the device in the calling thread's namespace an address, and the default route.
pub(crate) fn add_address(ip: IpAddr) -> Result<(), LabError> {
    netlink::add_address(DEVICE, ip).map_err(LabError::setup("adding an address"))?;
    if let IpAddr::V6(ip) = ip {
        wait_for_local_route(ip).map_err(LabError::setup("waiting for an IPv6 address"))?;
    }
    netlink::default_route(DEVICE, ip.is_ipv6()).map_err(LabError::setup("adding the default route"))
}

/// Waits until the kernel takes packets for the address.
///
/// For IPv6 a worker of the kernel does that some time after the address was added, also without duplicate
/// address detection: late if many labs are made at once. A SYN that comes before is lost, and a socket that is
/// connecting at that moment forgets its route, and with it the cookie.
fn wait_for_local_route(ip: Ipv6Addr) -> io::Result<()> {
    /// `RTF_LOCAL` (linux/ipv6_route.h).
    const LOCAL: u32 = 0x8000_0000;
    let address = ip.octets().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    // Destination, its prefix length, source, its prefix length, gateway, metric, use counts, flags, device.
    let is_local = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let flags = fields.get(8).and_then(|flags| u32::from_str_radix(flags, 16).ok());
        fields.first() == Some(&address.as_str()) && flags.is_some_and(|flags| flags & LOCAL != 0)
    };
    let deadline = Instant::now() + ROUTE_TIMEOUT;
    while !fs::read_to_string("/proc/thread-self/net/ipv6_route")?.lines().any(is_local) {
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Takes an address from the device in the calling thread's namespace.
pub(crate) fn remove_address(ip: IpAddr) -> Result<(), LabError> {
    netlink::remove_address(DEVICE, ip).map_err(LabError::setup("removing an address"))?;
    // The kernel drops the routes of a device with its last IPv4 address.
    netlink::default_route(DEVICE, ip.is_ipv6()).map_err(LabError::setup("restoring the default route"))
}

/// Flushes the TCP metrics, cookies among them, of the calling thread's namespace.
pub(crate) fn flush_cookies() -> Result<(), LabError> {
    netlink::flush_tcp_metrics().map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => LabError::FlushDenied { source },
        _ => LabError::Setup { step: "flushing the cookies", source },
    })
}

/// The error of a step that only the privileged may take.
fn privileged(step: &'static str, source: io::Error) -> LabError {
    match source.kind() {
        io::ErrorKind::PermissionDenied => LabError::NotPrivileged { step, source },
        _ => LabError::Setup { step, source },
    }
}

fn check_tun_node() -> Result<(), LabError> {
    match OpenOptions::new().read(true).write(true).open(TUN_NODE) {
        Ok(_) => Ok(()),
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            Err(LabError::TunDenied { source })
        }
        Err(source) => Err(match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => LabError::NoTunDevice,
            _ => LabError::Setup { step: "opening /dev/net/tun", source },
        }),
    }
}
