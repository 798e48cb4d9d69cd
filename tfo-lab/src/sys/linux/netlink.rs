//! Links, addresses, routes and TCP metrics of the calling thread's namespace.

use std::fmt::Debug;
use std::io;
use std::net::IpAddr;

use neli::consts::genl::{Cmd, CtrlAttr, CtrlCmd};
use neli::consts::nl::{GenlId, NlType, NlmF};
use neli::consts::rtnl::{Ifa, IfaF, Iff, Ifla, RtAddrFamily, RtScope, RtTable, Rta, Rtm, Rtn, Rtprot};
use neli::consts::socket::NlFamily;
use neli::genl::{AttrTypeBuilder, Genlmsghdr, GenlmsghdrBuilder, NlattrBuilder};
use neli::nl::{NlPayload, NlmsghdrBuilder};
use neli::rtnl::{Ifaddrmsg, IfaddrmsgBuilder, IfinfomsgBuilder, RtattrBuilder, RtmsgBuilder};
use neli::socket::synchronous::NlSocketHandle;
use neli::types::{Buffer, GenlBuffer, RtBuffer};
use neli::utils::Groups;
use neli::{FromBytesWithInput, Size, ToBytes, neli_enum};
use nix::net::if_::if_nametoindex;

/// The generic netlink family of the TCP metrics, which keep the cookies.
const TCP_METRICS: &str = "tcp_metrics";

/// Brings a link up, and takes multicast from it: the kernel would announce its groups on the wire.
///
/// The queue length goes this way because the ioctl for it is closed to root in a user namespace.
pub(super) fn link_up(link: &str, queue_len: Option<u32>) -> io::Result<()> {
    let mut attrs = RtBuffer::<Ifla, Buffer>::new();
    if let Some(len) = queue_len {
        let attr = RtattrBuilder::default().rta_type(Ifla::Txqlen).rta_payload(len);
        attrs.push(attr.build().map_err(io::Error::other)?);
    }
    let message = IfinfomsgBuilder::default()
        .ifi_family(RtAddrFamily::Unspecified)
        .ifi_index(if_nametoindex(link)? as i32)
        .ifi_flags(Iff::UP)
        .ifi_change(Iff::UP | Iff::MULTICAST)
        .rtattrs(attrs)
        .build()
        .map_err(io::Error::other)?;
    route_request(Rtm::Newlink, NlmF::empty(), message)
}

/// Adds one address, without the duplicate address detection that would keep it unusable for a second.
pub(super) fn add_address(link: &str, ip: IpAddr) -> io::Result<()> {
    route_request(Rtm::Newaddr, NlmF::CREATE | NlmF::EXCL, address(link, ip)?)
}

/// Removes one address.
pub(super) fn remove_address(link: &str, ip: IpAddr) -> io::Result<()> {
    route_request(Rtm::Deladdr, NlmF::empty(), address(link, ip)?)
}

/// Routes everything of one address family through the link. No error if it is so already.
pub(super) fn default_route(link: &str, ipv6: bool) -> io::Result<()> {
    let mut attrs = RtBuffer::<Rta, Buffer>::new();
    let out = RtattrBuilder::default().rta_type(Rta::Oif).rta_payload(if_nametoindex(link)?);
    attrs.push(out.build().map_err(io::Error::other)?);
    let message = RtmsgBuilder::default()
        .rtm_family(if ipv6 { RtAddrFamily::Inet6 } else { RtAddrFamily::Inet })
        .rtm_dst_len(0)
        .rtm_src_len(0)
        .rtm_tos(0)
        .rtm_table(RtTable::Main)
        .rtm_protocol(Rtprot::Static)
        .rtm_scope(if ipv6 { RtScope::Universe } else { RtScope::Link })
        .rtm_type(Rtn::Unicast)
        .rtattrs(attrs)
        .build()
        .map_err(io::Error::other)?;
    route_request(Rtm::Newroute, NlmF::CREATE | NlmF::REPLACE, message)
}

/// Forgets every destination's TCP metrics.
pub(super) fn flush_tcp_metrics() -> io::Result<()> {
    let socket = connect(NlFamily::Generic)?;
    let family = generic_family(&socket, TCP_METRICS)?;
    let delete_all: Genlmsghdr<MetricsCmd, CtrlAttr> = GenlmsghdrBuilder::default()
        .cmd(MetricsCmd::Delete)
        .version(1)
        .attrs(GenlBuffer::new())
        .build()
        .map_err(io::Error::other)?;
    request(&socket, family, NlmF::empty(), delete_all, |_| ())
}

/// The commands of the `tcp_metrics` family (linux/tcp_metrics.h).
#[neli_enum(serialized_type = "u8")]
enum MetricsCmd {
    Unspec = 0,
    Get = 1,
    /// Without an address: all of them.
    Delete = 2,
}

impl Cmd for MetricsCmd {}

fn address(link: &str, ip: IpAddr) -> io::Result<Ifaddrmsg> {
    let (family, prefix, octets) = match ip {
        IpAddr::V4(ip) => (RtAddrFamily::Inet, 32, ip.octets().to_vec()),
        IpAddr::V6(ip) => (RtAddrFamily::Inet6, 128, ip.octets().to_vec()),
    };
    let mut attrs = RtBuffer::<Ifa, Buffer>::new();
    for kind in [Ifa::Local, Ifa::Address] {
        let attr = RtattrBuilder::default().rta_type(kind).rta_payload(octets.clone());
        attrs.push(attr.build().map_err(io::Error::other)?);
    }
    IfaddrmsgBuilder::default()
        .ifa_family(family)
        .ifa_prefixlen(prefix)
        .ifa_flags(IfaF::NODAD)
        .ifa_scope(RtScope::Universe)
        .ifa_index(if_nametoindex(link)?)
        .rtattrs(attrs)
        .build()
        .map_err(io::Error::other)
}

/// Asks the kernel for the number of a generic netlink family.
fn generic_family(socket: &NlSocketHandle, name: &str) -> io::Result<u16> {
    let kind = AttrTypeBuilder::default().nla_type(CtrlAttr::FamilyName).build().map_err(io::Error::other)?;
    let attr = NlattrBuilder::default().nla_type(kind).nla_payload(name).build().map_err(io::Error::other)?;
    let question: Genlmsghdr<CtrlCmd, CtrlAttr> = GenlmsghdrBuilder::default()
        .cmd(CtrlCmd::Getfamily)
        .version(2)
        .attrs([attr].into_iter().collect())
        .build()
        .map_err(io::Error::other)?;
    let mut found = None;
    request(socket, GenlId::Ctrl, NlmF::empty(), question, |answer| {
        found = answer.attrs().get_attr_handle().get_attr_payload_as::<u16>(CtrlAttr::FamilyId).ok();
    })?;
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no netlink family {name}")))
}

fn route_request<P>(kind: Rtm, flags: NlmF, message: P) -> io::Result<()>
where
    P: Size + ToBytes + FromBytesWithInput<Input = usize> + Debug,
{
    request(&connect(NlFamily::Route)?, kind, flags, message, |_| ())
}

fn connect(family: NlFamily) -> io::Result<NlSocketHandle> {
    NlSocketHandle::connect(family, None, Groups::empty()).map_err(io::Error::other)
}

/// Sends one message and reads up to its acknowledgement.
fn request<T, P>(
    socket: &NlSocketHandle,
    kind: T,
    flags: NlmF,
    message: P,
    mut on_answer: impl FnMut(&P),
) -> io::Result<()>
where
    T: NlType + Debug,
    P: Size + ToBytes + FromBytesWithInput<Input = usize> + Debug,
{
    let message = NlmsghdrBuilder::default()
        .nl_type(kind)
        .nl_flags(NlmF::REQUEST | NlmF::ACK | flags)
        .nl_payload(NlPayload::Payload(message))
        .build()
        .map_err(io::Error::other)?;
    socket.send(&message).map_err(io::Error::other)?;
    loop {
        let (answers, _) = socket.recv::<T, P>().map_err(io::Error::other)?;
        for answer in answers {
            match answer.map_err(io::Error::other)?.nl_payload() {
                NlPayload::Err(error) => return Err(io::Error::from_raw_os_error(-error.error())),
                NlPayload::Ack(_) => return Ok(()),
                NlPayload::Payload(payload) => on_answer(payload),
                NlPayload::DumpExtAck(_) | NlPayload::Empty => {}
            }
        }
    }
}
