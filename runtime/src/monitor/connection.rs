//! One client's connection, on the monitor's side: never waits, neither to read nor to write.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::protocol::{Reply, Request, encode, hello, length};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::rights;

/// How much may wait for a client that does not read before it is let go: some thousand events.
const MOST_WAITING: usize = 1 << 20;

/// A client.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    inbox: Vec<u8>,
    fds: Vec<OwnedFd>,
    outbox: Vec<u8>,
    /// What it is open for.
    pub(super) role: Role,
}

/// What a connection is open for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Its request has not come yet.
    Asking,
    /// It waits for an exec to end.
    Exec,
    /// It is attached to the container of this key.
    Attached(u32),
    /// It wants events.
    Subscriber,
    /// It has its answer and is closed once that is out.
    Answered,
}

/// A request and the descriptors that came with it.
pub(super) type Asked = (Request, Vec<OwnedFd>);

impl Connection {
    /// Takes a connection over, if it comes from root: nobody else has any business here.
    pub(super) fn accept(stream: UnixStream) -> Result<Self> {
        let peer = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials)
            .map_err(|errno| Error::system("ask who the peer is", errno.into()))?;
        if peer.uid() != 0 {
            return Err(Error::new(Kind::Invalid, format!("a client of uid {} is turned away", peer.uid())));
        }
        stream.set_nonblocking(true).context(|| "set up a connection")?;
        let (inbox, fds, outbox) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { stream, inbox, fds, outbox, role: Role::Asking })
    }

    /// Reads what is there. The request, once it is whole; an error ends the connection (it is answered if it can be).
    pub(super) fn read(&mut self) -> Result<Option<Asked>> {
        let mut chunk = [0; 4096];
        match rights::receive(self.stream.as_fd(), &mut chunk, &mut self.fds) {
            Ok(0) => return Err(Error::new(Kind::NotFound, "the client has gone")),
            Ok(count) => self.inbox.extend_from_slice(&chunk[..count]),
            Err(errno) if errno.raw() == libc::EAGAIN => return Ok(None),
            Err(errno) => return Err(Error::system("read a request", errno)),
        }
        let one = || Error::new(Kind::Invalid, "a connection carries one request");
        if self.role != Role::Asking || self.fds.len() > rights::MOST {
            return Err(one());
        }
        let Some(length) = length(&self.inbox)? else { return Ok(None) };
        if self.inbox.len() > 4 + length {
            return Err(one());
        }
        if self.inbox.len() < 4 + length {
            return Ok(None);
        }
        let inbox = std::mem::take(&mut self.inbox);
        let hello = hello(&inbox[4..4 + length])?;
        self.role = Role::Answered;
        Ok(Some((hello.request, std::mem::take(&mut self.fds))))
    }

    /// Sends a reply, and a descriptor with its first byte.
    ///
    /// # Errors
    /// `System`, if the client has gone or does not read: the connection is to be closed.
    pub(super) fn send(&mut self, reply: &Reply, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.outbox.extend_from_slice(&encode(reply));
        if let Some(fd) = fd {
            let sent = rights::send(self.stream.as_fd(), &self.outbox, &[fd]).context(|| "send a reply")?;
            self.outbox.drain(..sent);
        }
        self.flush()?;
        match self.outbox.len() {
            waiting if waiting > MOST_WAITING => Err(Error::new(Kind::System, "a client does not read its answers")),
            _ => Ok(()),
        }
    }

    /// Writes what waits, as much as is taken now.
    pub(super) fn flush(&mut self) -> Result<()> {
        while !self.outbox.is_empty() {
            match rights::send(self.stream.as_fd(), &self.outbox, &[]) {
                Ok(sent) => drop(self.outbox.drain(..sent)),
                Err(errno) if errno.raw() == libc::EAGAIN => return Ok(()),
                Err(errno) => return Err(Error::system("send a reply", errno)),
            }
        }
        self.outbox = Vec::new();
        Ok(())
    }

    /// Whether a reply waits to be written.
    pub(super) fn is_waiting(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Whether there is nothing left to be said.
    pub(super) fn is_over(&self) -> bool {
        self.role == Role::Answered && self.outbox.is_empty()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::monitor::protocol::{Hello, VERSION};

    fn pair() -> (Connection, UnixStream) {
        let (here, there) = UnixStream::pair().unwrap();
        (Connection::accept(here).unwrap(), there)
    }

    fn is_root() -> bool {
        let root = nix::unistd::geteuid().is_root();
        if !root {
            eprintln!("SKIPPED: the monitor serves root only");
        }
        root
    }

    #[test]
    fn a_request_may_come_in_pieces() {
        if !is_root() {
            return;
        }
        let (mut connection, mut client) = pair();
        assert!(connection.read().unwrap().is_none());
        let bytes = encode(&Hello { version: VERSION, request: Request::State });
        for byte in &bytes[..bytes.len() - 1] {
            client.write_all(&[*byte]).unwrap();
            assert!(connection.read().unwrap().is_none());
        }
        client.write_all(&bytes[bytes.len() - 1..]).unwrap();
        assert_eq!(connection.read().unwrap().unwrap().0, Request::State);
        client.write_all(b"more").unwrap();
        assert_eq!(connection.read().unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn another_version_and_garbage_are_answered_with_a_reason() {
        if !is_root() {
            return;
        }
        for (text, kind) in [
            (r#"{"version":99,"request":{"fly":{}}}"#, Kind::Unsupported),
            (r#"{"version":1,"request":{"fly":{}}}"#, Kind::Invalid),
            ("nonsense", Kind::Invalid),
        ] {
            let (mut connection, mut client) = pair();
            client.write_all(&(text.len() as u32).to_le_bytes()).unwrap();
            client.write_all(text.as_bytes()).unwrap();
            assert_eq!(connection.read().unwrap_err().kind(), kind, "{text}");
        }
        let (mut connection, mut client) = pair();
        client.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert_eq!(connection.read().unwrap_err().kind(), Kind::Invalid, "an absurd length");
    }

    /// Anything in any pieces, with any number of descriptors: a request or a reason, and never more memory than the
    /// longest message takes.
    #[test]
    fn whatever_comes_is_a_request_or_has_a_reason() {
        if !is_root() {
            return;
        }
        let mut state = 3u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let null = std::fs::File::open("/dev/null").unwrap();
        let mut understood = 0;
        for _ in 0..3000 {
            let request = Request::Kill { id: "x".repeat(random(9000)), signal: 9, all: true };
            let mut bytes = encode(&Hello { version: VERSION, request });
            for _ in 0..random(3) {
                // The length as often as the rest.
                let at = if random(2) == 0 { random(4) } else { random(bytes.len()) };
                bytes[at] = random(256) as u8;
            }
            let (mut connection, client) = pair();
            let (mut rest, mut last) = (bytes.as_slice(), Ok(None));
            while let (false, Ok(None)) = (rest.is_empty(), &last) {
                let (now, later) = rest.split_at((1 + random(6000)).min(rest.len()));
                rights::send(client.as_fd(), now, &vec![null.as_fd(); random(20).saturating_sub(15)]).unwrap();
                rest = later;
                for _ in 0..3 {
                    last = if let Ok(None) = last { connection.read() } else { last };
                }
                assert!(connection.inbox.len() <= bytes.len() && connection.fds.len() <= 2 * rights::MOST);
                assert!(connection.inbox.capacity() <= 2 * (bytes.len() + 4096), "by what came, not by what it says");
            }
            match last {
                Ok(Some(_)) => understood += 1,
                Ok(None) => assert!(matches!(length(&connection.inbox), Ok(Some(more)) if more > bytes.len() - 4)),
                Err(why) => assert!(matches!(why.kind(), Kind::Invalid | Kind::Unsupported), "{why}"),
            }
        }
        assert!(understood > 300, "{understood}");
    }

    #[test]
    fn a_client_that_does_not_read_is_let_go() {
        if !is_root() {
            return;
        }
        let (mut connection, mut client) = pair();
        let reply = Reply::Detached { reason: Some("x".repeat(100_000)) };
        assert!((0..100).any(|_| connection.send(&reply, None).is_err()));
        assert!(connection.is_waiting());
        let mut some = [0; 4];
        client.read_exact(&mut some).unwrap();
    }
}
