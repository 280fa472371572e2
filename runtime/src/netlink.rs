//! Netlink by hand: one message builder and one blocking socket, for links (rtnetlink) and the firewall (nf_tables).
//!
//! A dozen kinds of message are all that a bridge network needs, and nf_tables has no small crate; so both are
//! encoded here, and a request is one `send` and one `recv`. A socket belongs to the network namespace of the thread
//! that made it, whichever thread uses it later. Format: netlink(7), rtnetlink(7).
//!
//! ```text
//! message   = length:u32 kind:u16 flags:u16 sequence:u32 port:u32 family-header attribute*
//! attribute = length:u16 kind:u16 value padding-to-4        a nested attribute's value is attribute*
//! ```

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use std::os::fd::{AsRawFd, OwnedFd};

const HEADER: usize = 16;
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;
/// The kernel answers within microseconds; this only keeps a thread from waiting for ever.
const PATIENCE: TimeVal = TimeVal::new(10, 0);

/// One request under construction.
#[derive(Debug, Clone)]
pub struct Message {
    bytes: Vec<u8>,
    overlong: bool,
}

impl Message {
    /// A message of `kind` with the `NLM_F_*` of `flags` beside REQUEST, followed by its family's header.
    pub fn new(kind: u16, flags: i32, family_header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(REQUEST | flags as u16).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(family_header);
        Self { bytes, overlong: false }
    }

    /// Appends an attribute. A value that does not fit the 16-bit length makes the whole message an error, instead of
    /// one whose tail the kernel reads as further attributes (CVE-2021-43784).
    #[must_use]
    pub fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        let Ok(length) = u16::try_from(value.len() + 4) else {
            self.overlong = true;
            return self;
        };
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends a zero-terminated string.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Appends a number in the host's order, as rtnetlink wants it.
    #[must_use]
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends a number in network order, as nf_tables wants it.
    #[must_use]
    pub fn be32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends an attribute whose value `fill` writes: attributes, or a family header and attributes.
    #[must_use]
    pub fn nested(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | libc::NLA_F_NESTED as u16).to_ne_bytes());
        let mut filled = fill(self);
        match u16::try_from(filled.bytes.len() - start) {
            Ok(length) => filled.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => filled.overlong = true,
        }
        filled.pad();
        filled
    }

    /// Appends bytes as they are (the `ifinfomsg` inside `VETH_INFO_PEER`).
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn seal(mut self, sequence: u32, acknowledge: bool) -> Result<Vec<u8>, Errno> {
        let length = u32::try_from(self.bytes.len()).map_err(|_| Errno::EMSGSIZE)?;
        if self.overlong {
            return Err(Errno::EMSGSIZE);
        }
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        if acknowledge {
            let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | ACK;
            self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        }
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        Ok(self.bytes)
    }
}

/// A netlink socket; one request at a time.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// For links, addresses and routes of this thread's network namespace.
    pub fn route() -> Result<Self, Errno> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// For the firewall of this thread's network namespace.
    pub fn netfilter() -> Result<Self, Errno> {
        Self::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> Result<Self, Errno> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &PATIENCE)?;
        // A batch of rules is one send; the default (208 KiB) holds about 500 of them.
        setsockopt(&fd, sockopt::SndBufForce, &(8 << 20)).or_else(|_| setsockopt(&fd, sockopt::SndBuf, &(8 << 20)))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends the messages at once and waits until the kernel has answered each; the first refusal is the error. The
    /// kernel goes on with the later ones, as rtnetlink has no transactions.
    pub fn request(&mut self, messages: Vec<Message>) -> Result<(), Errno> {
        let first = self.sequence + 1;
        let count = messages.len();
        let mut batch = Vec::new();
        for message in messages {
            self.sequence += 1;
            batch.extend(message.seal(self.sequence, true)?);
        }
        self.send(&batch)?;
        let mut outcome = Ok(());
        let mut answered = 0;
        while answered < count {
            self.receive(|sequence, answer| {
                if let (Answer::Ack(errno), true) = (answer, sequence >= first) {
                    answered += 1;
                    outcome = outcome.and(errno);
                }
            })?;
        }
        outcome
    }

    /// Sends an nfnetlink batch, which happens whole or not at all. Only the last message but one (before BATCH_END) is
    /// acknowledged: an answer for each of many rules would overflow the receive buffer.
    pub fn transact(&mut self, messages: Vec<Message>) -> Result<(), Errno> {
        let first = self.sequence + 1;
        let count = messages.len();
        let last = first + count as u32 - 2;
        let mut batch = Vec::new();
        for message in messages {
            self.sequence += 1;
            batch.extend(message.seal(self.sequence, self.sequence == last)?);
        }
        self.send(&batch)?;
        let mut outcome = None;
        while outcome.is_none() {
            self.receive(|sequence, answer| {
                if let (Answer::Ack(errno), true) = (answer, sequence >= first) {
                    outcome.get_or_insert(errno);
                }
            })?;
        }
        outcome.unwrap_or(Ok(()))
    }

    /// Asks for one object or a list of them (with `NLM_F_DUMP`); gives each answer's body: family header, attributes.
    pub fn query(&mut self, message: Message) -> Result<Vec<Vec<u8>>, Errno> {
        self.sequence += 1;
        let wanted = self.sequence;
        self.send(&message.seal(wanted, true)?)?;
        let mut found = Vec::new();
        let mut end = None;
        while end.is_none() {
            self.receive(|sequence, answer| match answer {
                _ if sequence != wanted => {}
                Answer::Ack(errno) => end = Some(errno),
                Answer::Object(body) => found.push(body.to_vec()),
            })?;
        }
        end.unwrap_or(Ok(())).map(|()| found)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        send(self.fd.as_raw_fd(), bytes, MsgFlags::empty()).map(drop)
    }

    fn receive(&self, mut each: impl FnMut(u32, Answer<'_>)) -> Result<(), Errno> {
        let mut buffer = [0; 1 << 16];
        let length = loop {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                other => break other?,
            }
        };
        for (kind, sequence, body) in messages(&buffer[..length]) {
            match i32::from(kind) {
                libc::NLMSG_NOOP => {}
                libc::NLMSG_ERROR | libc::NLMSG_DONE => each(sequence, Answer::Ack(errno(body))),
                _ => each(sequence, Answer::Object(body)),
            }
        }
        Ok(())
    }
}

enum Answer<'a> {
    Ack(Result<(), Errno>),
    Object(&'a [u8]),
}

fn errno(body: &[u8]) -> Result<(), Errno> {
    match number(body) {
        Some(0) | None => Ok(()),
        Some(code) => Err(Errno::from_raw((code as i32).wrapping_neg())),
    }
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let length = number(bytes)? as usize;
        let body = bytes.get(HEADER..length)?;
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        let sequence = number(&bytes[8..])?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, sequence, body))
    })
}

/// The attributes in `bytes`: kind (without the NESTED bit) and value; stops at the first that is malformed.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (head, _) = bytes.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// `family pad type index flags change` (struct ifinfomsg): the header of a message about a link, of which it changes
/// the flags in `change`.
pub fn link_header(family: i32, index: u32, flags: i32, change: i32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0] = family as u8;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

/// The number (host's order) that `bytes` start with.
pub fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested_ones_carry_their_length() {
        let message = Message::new(16, 0, &[]).nested(2, |m| m.text(1, "veth").u32(3, 7));
        let bytes = message.seal(9, true).unwrap();
        assert_eq!(bytes.len() as u32, number(&bytes).unwrap());
        assert_eq!(number(&bytes[8..]), Some(9));
        let outer: Vec<_> = attributes(&bytes[HEADER..]).collect();
        assert_eq!(outer.len(), 1);
        let inner: Vec<_> = attributes(outer[0].1).collect();
        assert_eq!(inner, [(1, &b"veth\0"[..]), (3, &7u32.to_ne_bytes()[..])]);
    }

    #[test]
    fn case_10_an_attribute_of_64_kib_is_an_error() {
        let fits = Message::new(16, 0, &[]).attr(1, &vec![0; 65531]);
        assert!(fits.seal(1, true).is_ok());
        let overlong = Message::new(16, 0, &[]).attr(1, &vec![0; 65532]);
        assert_eq!(overlong.seal(1, true), Err(Errno::EMSGSIZE));
        let nested = Message::new(16, 0, &[]).nested(1, |m| m.attr(2, &vec![0; 65531]));
        assert_eq!(nested.seal(1, true), Err(Errno::EMSGSIZE));
    }

    #[test]
    fn malformed_answers_end_the_iteration() {
        assert_eq!(attributes(&[3, 0, 1, 0, 9]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 9]).count(), 0);
        assert_eq!(messages(&[1; 40]).count(), 0);
        assert_eq!(messages(&[8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).count(), 0);
    }

    #[test]
    fn the_kernel_answers_and_its_refusals_are_errors() {
        let mut socket = Socket::route().unwrap();
        let mut ask = |name: &str| {
            let header = link_header(libc::AF_UNSPEC, 0, 0, 0);
            socket.query(Message::new(libc::RTM_GETLINK, 0, &header).text(libc::IFLA_IFNAME, name))
        };
        let lo = ask("lo").unwrap();
        assert_eq!((lo.len(), number(&lo[0][4..])), (1, Some(1)));
        assert_eq!(ask("gantry-absent").unwrap_err(), Errno::ENODEV);
    }
}
