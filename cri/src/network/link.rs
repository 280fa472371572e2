//! Links, addresses and routes as rtnetlink messages: what a bridge, a veth pair and a pod's `eth0` need.

use super::range::Cidr;
use gantry_runtime::netlink::{Message, Socket, attributes, link_header, number};
use nix::errno::Errno;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// The pod's device.
pub(super) const POD_DEVICE: &str = "eth0";

const CREATE: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
/// `VETH_INFO_PEER` (linux/veth.h); its value is an `ifinfomsg` and the peer's attributes.
const VETH_INFO_PEER: u16 = 1;
/// `IFLA_BRPORT_MODE` (linux/if_link.h): hairpin, for a pod that reaches itself through a host port.
const BRPORT_MODE: u16 = 4;

/// A link of one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// Index of the bridge it is a port of, or 0.
    pub(super) master: u32,
    /// Kind (`veth`, `bridge`), empty for hardware and `lo`.
    pub(super) kind: String,
}

/// A hardware address.
pub(super) type Mac = [u8; 6];

/// The hardware address that goes with an address: locally administered, and derived, so that neighbours whose ARP
/// cache still knows the address from an earlier pod reach the new one.
pub(super) fn mac(ip: IpAddr) -> Mac {
    let [a, b, c, d] = match ip {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(ip) => ip.octets().last_chunk().copied().unwrap_or_default(),
    };
    [0x0a, 0x58, a, b, c, d]
}

/// The bytes of an address.
fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().into(),
        IpAddr::V6(ip) => ip.octets().into(),
    }
}

fn family(ip: IpAddr) -> u8 {
    let family = if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    family as u8
}

fn ifinfo(family: i32, index: u32, up: bool) -> [u8; 16] {
    let flag = if up { libc::IFF_UP } else { 0 };
    link_header(family, index, flag, flag)
}

/// A bridge, up, with a hardware address that does not change with its ports.
pub(super) fn new_bridge(name: &str, mac: Mac, mtu: u32) -> Message {
    Message::new(libc::RTM_NEWLINK, CREATE, &ifinfo(libc::AF_UNSPEC, 0, true))
        .text(libc::IFLA_IFNAME, name)
        .attr(libc::IFLA_ADDRESS, &mac)
        .u32(libc::IFLA_MTU, mtu)
        .nested(libc::IFLA_LINKINFO, |m| m.text(libc::IFLA_INFO_KIND, "bridge"))
}

/// What a veth pair is made of.
#[derive(Debug)]
pub(super) struct Pair<'a> {
    /// Name of the host's end.
    pub(super) host: &'a str,
    /// Index of the bridge that the host's end becomes a port of.
    pub(super) bridge: u32,
    /// Hardware address of the pod's end.
    pub(super) mac: Mac,
    pub(super) mtu: u32,
    /// Network namespace in which the pod's end is made.
    pub(super) netns: BorrowedFd<'a>,
}

/// Both ends of a pair in one message, the pod's directly in its namespace: the kernel makes all of it or nothing.
pub(super) fn new_pair(pair: &Pair<'_>) -> Message {
    Message::new(libc::RTM_NEWLINK, CREATE, &ifinfo(libc::AF_UNSPEC, 0, true))
        .text(libc::IFLA_IFNAME, pair.host)
        .u32(libc::IFLA_MASTER, pair.bridge)
        .u32(libc::IFLA_MTU, pair.mtu)
        .nested(libc::IFLA_LINKINFO, |m| {
            m.text(libc::IFLA_INFO_KIND, "veth").nested(libc::IFLA_INFO_DATA, |m| {
                m.nested(VETH_INFO_PEER, |m| {
                    m.raw(&ifinfo(libc::AF_UNSPEC, 0, false))
                        .text(libc::IFLA_IFNAME, POD_DEVICE)
                        .u32(libc::IFLA_NET_NS_FD, pair.netns.as_raw_fd() as u32)
                        .attr(libc::IFLA_ADDRESS, &pair.mac)
                        .u32(libc::IFLA_MTU, pair.mtu)
                })
            })
        })
}

/// Lets the bridge send a frame back through the port that it came in by.
pub(super) fn hairpin(port: u32) -> Message {
    Message::new(libc::RTM_SETLINK, 0, &ifinfo(libc::AF_BRIDGE, port, false))
        .nested(libc::IFLA_PROTINFO, |m| m.attr(BRPORT_MODE, &[1]))
}

/// Brings a link up.
pub(super) fn up(index: u32) -> Message {
    Message::new(libc::RTM_NEWLINK, 0, &ifinfo(libc::AF_UNSPEC, index, true))
}

/// The group of links that are about to be removed; a number that nobody else uses.
const LEAVING: u32 = u32::from_be_bytes(*b"gant");

/// Removes the links of these names in one step: the kernel waits out its readers (milliseconds) once for all of them
/// instead of once for each. Absent ones are no error.
pub(super) fn delete_all(socket: &mut Socket, names: &[String]) -> Result<(), Errno> {
    let absent = |outcome| if outcome == Err(Errno::ENODEV) { Ok(()) } else { outcome };
    let header = ifinfo(libc::AF_UNSPEC, 0, false);
    if names.is_empty() {
        return Ok(());
    }
    if let [name] = names {
        let request = Message::new(libc::RTM_DELLINK, 0, &header).text(libc::IFLA_IFNAME, name);
        return absent(socket.request(vec![request]));
    }
    for name in names {
        let request = Message::new(libc::RTM_SETLINK, 0, &header).text(libc::IFLA_IFNAME, name);
        absent(socket.request(vec![request.u32(libc::IFLA_GROUP, LEAVING)]))?;
    }
    let request = Message::new(libc::RTM_DELLINK, 0, &header).u32(libc::IFLA_GROUP, LEAVING);
    absent(socket.request(vec![request]))
}

/// Gives a link an address of `range`; EEXIST when it has it. One of IPv6 can be used at once: nobody else can have it,
/// so whether somebody does (RFC 4862, 5.4: a second) is not asked.
pub(super) fn address(index: u32, ip: IpAddr, range: Cidr) -> Message {
    let flags = if ip.is_ipv4() { 0 } else { libc::IFA_F_NODAD as u8 };
    let [i0, i1, i2, i3] = index.to_ne_bytes();
    // struct ifaddrmsg: family, prefix length, flags, scope, index
    let header = [family(ip), range.prefix(), flags, 0, i0, i1, i2, i3];
    let message = Message::new(libc::RTM_NEWADDR, CREATE, &header)
        .attr(libc::IFA_LOCAL, &octets(ip))
        .attr(libc::IFA_ADDRESS, &octets(ip));
    match ip {
        IpAddr::V4(ip) => {
            let broadcast = Ipv4Addr::from(u32::from(ip) | (u32::MAX >> range.prefix()));
            message.attr(libc::IFA_BROADCAST, &broadcast.octets())
        }
        IpAddr::V6(_) => message,
    }
}

/// The default route of the gateway's family, through it.
pub(super) fn default_route(index: u32, gateway: IpAddr) -> Message {
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
    let header = [
        family(gateway),
        0,
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_BOOT,
        libc::RT_SCOPE_UNIVERSE,
        libc::RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    Message::new(libc::RTM_NEWROUTE, CREATE, &header)
        .attr(libc::RTA_GATEWAY, &octets(gateway))
        .u32(libc::RTA_OIF, index)
}

/// The link of this name, if there is one.
pub(super) fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>, Errno> {
    let query = Message::new(libc::RTM_GETLINK, 0, &ifinfo(libc::AF_UNSPEC, 0, false)).text(libc::IFLA_IFNAME, name);
    match socket.query(query) {
        Ok(found) => Ok(found.iter().find_map(|body| read(body))),
        Err(Errno::ENODEV) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Every link of the namespace.
pub(super) fn list(socket: &mut Socket) -> Result<Vec<Link>, Errno> {
    let header = ifinfo(libc::AF_UNSPEC, 0, false);
    let query = Message::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &header);
    let found = socket.query(query)?;
    Ok(found.iter().filter_map(|body| read(body)).collect())
}

fn read(body: &[u8]) -> Option<Link> {
    let mut link = Link { index: number(body.get(4..)?)?, name: String::new(), master: 0, kind: String::new() };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_MASTER => link.master = number(value)?,
            libc::IFLA_LINKINFO => {
                link.kind = attributes(value)
                    .find(|(kind, _)| *kind == libc::IFLA_INFO_KIND)
                    .map(|(_, value)| text(value))
                    .unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}
