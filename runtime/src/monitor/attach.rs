//! Streams that clients attach to a container: copies of its output, and one hand on its input.
//!
//! A slow client never slows a container down: what its pipe does not take waits in a buffer of bounded size, and a
//! client that lets that overflow is detached with the reason.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::write;

/// How far a client may lag behind, in bytes.
pub(super) const MOST_LAG: usize = 256 << 10;

/// One attached client.
#[derive(Debug)]
pub(super) struct Attachment {
    /// Its number, never used twice.
    pub(super) key: u32,
    /// The connection that it came on; it ends with it.
    pub(super) connection: u32,
    /// Where it says what the container is to read.
    pub(super) stdin: Option<OwnedFd>,
    /// Where it wants stdout and stderr.
    pub(super) sinks: [Option<Sink>; 2],
}

/// A pipe or socket that takes output when it can.
#[derive(Debug)]
pub(super) struct Sink {
    fd: OwnedFd,
    waiting: VecDeque<u8>,
}

/// What became of bytes given to a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// All written, or waiting within bounds.
    Yes,
    /// Too far behind.
    TooSlow,
    /// The other end is closed.
    Gone,
}

impl Sink {
    /// Takes over a descriptor that a client sent.
    pub(super) fn new(fd: OwnedFd) -> Result<Self, crate::sys::Errno> {
        set_nonblocking(fd.as_fd())?;
        Ok(Self { fd, waiting: VecDeque::new() })
    }

    /// Whether something waits to be written.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Writes `bytes` after what waits already.
    pub(super) fn give(&mut self, bytes: &[u8]) -> Taken {
        let mut rest = bytes;
        if self.waiting.is_empty() {
            match put(&self.fd, bytes) {
                Ok(count) => rest = &bytes[count..],
                Err(Errno::EAGAIN) => {}
                Err(_) => return Taken::Gone,
            }
        }
        if self.waiting.len() + rest.len() > MOST_LAG {
            return Taken::TooSlow;
        }
        self.waiting.extend(rest);
        Taken::Yes
    }

    /// Writes what waits, as much as is taken now.
    pub(super) fn flush(&mut self) -> Taken {
        while !self.waiting.is_empty() {
            let (front, _) = self.waiting.as_slices();
            match put(&self.fd, front) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(Errno::EAGAIN) => return Taken::Yes,
                Err(_) => return Taken::Gone,
            }
        }
        self.waiting = VecDeque::new();
        Taken::Yes
    }
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Writes what is taken without waiting; at least one byte, or `EAGAIN`.
fn put(fd: &OwnedFd, bytes: &[u8]) -> nix::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match write(fd, &bytes[done..]) {
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if done > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

/// Never wait on this descriptor again. It holds for every copy of the open file: clients send ends of their own.
pub(super) fn set_nonblocking(fd: BorrowedFd<'_>) -> Result<(), crate::sys::Errno> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn output_waits_in_order_and_within_bounds() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut sink = Sink::new(writer.into()).unwrap();
        let all: Vec<u8> = (0..200_000u32).map(|at| (at % 251) as u8).collect();
        let (first, second) = all.split_at(100_000);
        assert_eq!(sink.give(first), Taken::Yes);
        assert!(sink.is_waiting(), "a pipe takes 64 KiB");
        assert_eq!(sink.give(second), Taken::Yes);
        let mut got = Vec::new();
        while got.len() < all.len() {
            let mut chunk = [0; 5000];
            let count = reader.read(&mut chunk).unwrap();
            got.extend_from_slice(&chunk[..count]);
            assert_eq!(sink.flush(), Taken::Yes);
        }
        assert_eq!(got, all);
        assert!(!sink.is_waiting());
        assert_eq!(sink.waiting.capacity(), 0, "memory is given back");
    }

    #[test]
    fn a_stuck_reader_is_too_slow_and_a_closed_one_gone() {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut sink = Sink::new(writer.into()).unwrap();
        let chunk = [0; 64 << 10];
        let taken: Vec<Taken> = (0..6).map(|_| sink.give(&chunk)).collect();
        assert_eq!(taken[4..], [Taken::Yes, Taken::TooSlow]);
        drop(reader);
        assert_eq!(sink.flush(), Taken::Gone);
    }
}
