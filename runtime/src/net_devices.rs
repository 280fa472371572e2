//! `linux.netDevices`: devices of the runtime's network namespace that move into the container's.
//!
//! runtime-spec, config-linux.md, "Network Devices": down, then moved and renamed in one step, so that no name can be in
//! the way for a moment; addresses of global scope that do not expire come along (the kernel drops them with the move);
//! up again. The kernel moves physical devices back when the namespace ends, and removes virtual ones.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use oci_spec::runtime::Linux;

use crate::error::{Context as _, Error, Kind, Result};
use crate::netlink::{Message, Socket, attributes, link_header, number};
use crate::sys::clone::{self, flags};
use crate::sys::{Errno, fs};

/// Attributes of an address that are worth keeping: its own, the other end's, the broadcast.
const KEPT: [u16; 3] = [libc::IFA_ADDRESS, libc::IFA_LOCAL, libc::IFA_BROADCAST];

/// An address as an `RTM_NEWADDR` has it: `family prefix flags scope index` (struct ifaddrmsg), attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    header: [u8; 8],
    attributes: Vec<(u16, Vec<u8>)>,
}

/// Moves every device into the network namespace of this process.
///
/// # Errors
/// `System` or `NotFound`, with the device.
pub(crate) fn hand_over(linux: Option<&Linux>, pid: i32) -> Result<()> {
    let Some(devices) = linux.and_then(|linux| linux.net_devices().as_ref()) else { return Ok(()) };
    let path = std::ffi::CString::new(format!("/proc/{pid}/ns/net")).unwrap_or_default();
    let target = fs::open(&path, libc::O_RDONLY).context(|| "open the container's network namespace")?;
    let mut here = Socket::route().map_err(Errno::from).context(|| "open a netlink socket")?;
    let mut there = socket_in(&target)?;
    let mut names: Vec<&String> = devices.keys().collect();
    names.sort();
    for name in names {
        let new = devices[name].name().as_deref().filter(|new| !new.is_empty()).unwrap_or(name);
        one(&mut here, &mut there, name, new, &target).context(|| format!("linux.netDevices[{name:?}]"))?;
    }
    Ok(())
}

/// A netlink socket of another namespace: it belongs to the one that its maker stands in.
fn socket_in(target: &OwnedFd) -> Result<Socket> {
    let own = fs::open(c"/proc/self/ns/net", libc::O_RDONLY).context(|| "open the own network namespace")?;
    clone::setns(target.as_fd(), flags::NETWORK).context(|| "enter the container's network namespace")?;
    let made = Socket::route().map_err(Errno::from);
    clone::setns(own.as_fd(), flags::NETWORK).context(|| "return to the own network namespace")?;
    made.context(|| "open a netlink socket in the container's network namespace")
}

fn one(here: &mut Socket, there: &mut Socket, name: &str, new: &str, target: &OwnedFd) -> Result<()> {
    let index = match find(here, name) {
        Err(errno) if errno.raw() == libc::ENODEV => {
            return Err(Error::new(Kind::Invalid, "the runtime's network namespace has no such device"));
        }
        found => found.context(|| "look it up")?,
    };
    let kept = addresses(here, index).context(|| "list its addresses")?;
    let down = link_header(libc::AF_UNSPEC, index, 0, libc::IFF_UP);
    ask(here, vec![Message::new(libc::RTM_NEWLINK, 0, &down)]).context(|| "take it down")?;
    let across = Message::new(libc::RTM_NEWLINK, 0, &link_header(libc::AF_UNSPEC, index, 0, 0))
        .text(libc::IFLA_IFNAME, new)
        .u32(libc::IFLA_NET_NS_FD, target.as_raw_fd() as u32);
    ask(here, vec![across]).context(|| format!("move it into the container as {new}"))?;
    let index = find(there, new).context(|| format!("look {new} up in the container"))?;
    let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let again = kept.iter().map(|address| {
        let mut header = address.header;
        header[4..].copy_from_slice(&index.to_ne_bytes());
        let fill = |message: Message, (kind, value): &(u16, Vec<u8>)| message.attr(*kind, value);
        address.attributes.iter().fold(Message::new(libc::RTM_NEWADDR, create, &header), fill)
    });
    let again: Vec<Message> = again.collect();
    if !again.is_empty() {
        ask(there, again).context(|| format!("give {new} its addresses again"))?;
    }
    let up = link_header(libc::AF_UNSPEC, index, libc::IFF_UP, libc::IFF_UP);
    ask(there, vec![Message::new(libc::RTM_NEWLINK, 0, &up)]).context(|| format!("bring {new} up"))
}

fn ask(socket: &mut Socket, messages: Vec<Message>) -> Result<(), Errno> {
    socket.request(messages).map_err(Errno::from)
}

/// Index of the device of this name.
fn find(socket: &mut Socket, name: &str) -> Result<u32, Errno> {
    let header = link_header(libc::AF_UNSPEC, 0, 0, 0);
    let found = socket.query(Message::new(libc::RTM_GETLINK, 0, &header).text(libc::IFLA_IFNAME, name))?;
    let index = found.first().and_then(|body| number(body.get(4..)?));
    index.ok_or(Errno::from_raw(libc::ENODEV))
}

/// The addresses of a device that are to come along.
fn addresses(socket: &mut Socket, index: u32) -> Result<Vec<Address>, Errno> {
    let all = socket.query(Message::new(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; 8]))?;
    Ok(all.iter().filter_map(|body| lasting(body, index)).collect())
}

/// The address in an answer, if it is this device's, of global scope, and does not expire.
fn lasting(body: &[u8], index: u32) -> Option<Address> {
    let (header, rest) = body.split_first_chunk::<8>()?;
    let (flags, scope) = (header[2], header[3]);
    let stays = u32::from(flags) & libc::IFA_F_PERMANENT != 0 && scope == libc::RT_SCOPE_UNIVERSE;
    if !stays || number(&header[4..])? != index {
        return None;
    }
    let kept = attributes(rest).filter(|(kind, _)| KEPT.contains(kind));
    // Family and length alone: what else the kernel says of it is its own to find out.
    let header = [header[0], header[1], 0, 0, 0, 0, 0, 0];
    Some(Address { header, attributes: kept.map(|(kind, value)| (kind, value.to_vec())).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_stay_come_along() {
        let body = |flags: u8, scope: u8, index: u32| {
            let mut body = vec![2, 24, flags, scope];
            body.extend(index.to_ne_bytes());
            body.extend([8, 0, 2, 0, 10, 9, 8, 7, 8, 0, 6, 0, 1, 1, 1, 1]);
            body
        };
        let found = lasting(&body(0x80, 0, 7), 7).unwrap();
        assert_eq!(found.header, [2, 24, 0, 0, 0, 0, 0, 0]);
        assert_eq!(found.attributes, [(libc::IFA_LOCAL, vec![10, 9, 8, 7])]);
        assert_eq!(lasting(&body(0, 0, 7), 7), None, "it expires");
        assert_eq!(lasting(&body(0x80, 253, 7), 7), None, "of the link alone");
        assert_eq!(lasting(&body(0x80, 0, 8), 7), None, "another device's");
        assert_eq!(lasting(&[2, 24], 7), None);
    }
}
