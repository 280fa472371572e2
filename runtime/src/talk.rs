//! What parent and child say to each other: one `SOCK_SEQPACKET` pair, messages of eight bytes.
//!
//! ```text
//!  parent (create, exec)                         child (init)
//!    clone3 ------------------------------------>  steps ...
//!    have systemd make its cgroup
//!    Limited ----------------------------------->  (only where the child begins before its cgroups are made)
//!    Placed  ----------------------------------->  (only with the systemd driver)
//!            <-----------------------------------  Hopped(pid) + pidfd    (only with a user namespace by path)
//!    Known   ----------------------------------->  a sibling goes on
//!    write id maps
//!    Mapped  ----------------------------------->  (only with a new user namespace)
//!    write the pid into the state directory
//!    Recorded ---------------------------------->  (said at once, waited for before the program)
//!            <-----------------------------------  Console + master fd    (only with a terminal)
//!            <-----------------------------------  Warned(step, errno)    (any number)
//!            <-----------------------------------  Devices                (only with network devices to be moved)
//!    Moved   ----------------------------------->
//!            <-----------------------------------  Hooks                  (only with runtime hooks)
//!    run createRuntime hooks
//!    Hooked  ----------------------------------->
//!            <-----------------------------------  Listener(fd)            (only with seccomp notifications)
//!    Taken   ----------------------------------->
//!            <-----------------------------------  Ready                  (create: waits at the exec fifo now)
//!            <-----------------------------------  Failed(step, errno)    (instead of anything above), exit
//!            <-----------------------------------  end of stream          (execve has closed the child's end)
//! ```
//!
//! A parent that dies ends the stream, and a child that has not been recorded yet leaves by itself: no container
//! exists that `delete` cannot find.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::error::{Context, Error, Kind, Result};
use crate::sys::{Errno, fs, socket};

/// A message. The numbers are an agreement between two halves of one process image, never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// To the child: systemd has put it into its cgroup.
    Placed,
    /// To the child: that it goes on in another's place is known.
    Known,
    /// To the child: its cgroups are made, and have their limits.
    Limited,
    /// To the child: the id maps are written.
    Mapped,
    /// To the child: the runtime hooks have run.
    Hooked,
    /// To the child: the pid is on disk.
    Recorded,
    /// To the parent: a sibling with this pid goes on; its pidfd comes along.
    Hopped(i32),
    /// To the parent: move the network devices.
    Devices,
    /// To the child: they are there.
    Moved,
    /// To the child: the listener is out of it.
    Taken,
    /// To the parent: take this descriptor, the listener of the seccomp filter.
    Listener(i32),
    /// To the parent: run the runtime hooks.
    Hooks,
    /// To the parent: the master of the terminal comes along.
    Console,
    /// To the parent: everything is set up.
    Ready,
    /// To the parent: this step could not be done in full and was left out.
    Warned(u16, Errno),
    /// To the parent: this step failed, and the child leaves.
    Failed(u16, Errno),
}

impl Word {
    fn encode(self) -> [u8; 8] {
        let (tag, step, errno) = match self {
            Word::Mapped => (1, 0, 0),
            Word::Hooked => (2, 0, 0),
            Word::Recorded => (3, 0, 0),
            Word::Hooks => (4, 0, 0),
            Word::Console => (5, 0, 0),
            Word::Ready => (6, 0, 0),
            Word::Warned(step, errno) => (7, step, errno.raw()),
            Word::Failed(step, errno) => (8, step, errno.raw()),
            Word::Placed => (9, 0, 0),
            Word::Hopped(pid) => (10, 0, pid),
            Word::Known => (11, 0, 0),
            Word::Taken => (12, 0, 0),
            Word::Devices => (16, 0, 0),
            Word::Moved => (17, 0, 0),
            Word::Listener(number) => (13, 0, number),
            Word::Limited => (14, 0, 0),
        };
        let mut bytes = [tag, 0, 0, 0, 0, 0, 0, 0];
        bytes[2..4].copy_from_slice(&step.to_ne_bytes());
        bytes[4..].copy_from_slice(&errno.to_ne_bytes());
        bytes
    }

    fn decode(bytes: [u8; 8]) -> Option<Word> {
        let step = u16::from_ne_bytes([bytes[2], bytes[3]]);
        let number = i32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let errno = Errno::from_raw(number);
        Some(match bytes[0] {
            1 => Word::Mapped,
            2 => Word::Hooked,
            3 => Word::Recorded,
            4 => Word::Hooks,
            5 => Word::Console,
            6 => Word::Ready,
            7 => Word::Warned(step, errno),
            8 => Word::Failed(step, errno),
            9 => Word::Placed,
            10 => Word::Hopped(number),
            11 => Word::Known,
            12 => Word::Taken,
            16 => Word::Devices,
            17 => Word::Moved,
            13 => Word::Listener(number),
            14 => Word::Limited,
            _ => return None,
        })
    }
}

/// One end of the conversation.
#[derive(Debug)]
pub struct End(OwnedFd);

/// Both ends: the parent's and the child's.
pub fn pair() -> Result<(End, End)> {
    let (parent, child) = socket::pair().context(|| "make a socket pair")?;
    Ok((End(parent), End(child)))
}

impl End {
    /// Says a word; a partner that has gone is `EPIPE`.
    pub fn say(&self, word: Word) -> Result<(), Errno> {
        socket::send(self.0.as_fd(), &word.encode(), None)
    }

    /// Says a word with write(2): for a child under a filter that may know no other way. A partner that has gone ends
    /// the caller by SIGPIPE.
    pub fn write(&self, word: Word) -> Result<(), Errno> {
        fs::write_once(self.0.as_fd(), &word.encode())
    }

    /// The next word by read(2), likewise; `None` when the partner has closed its end.
    pub fn read(&self) -> Result<Option<Word>, Errno> {
        let mut bytes = [0; 8];
        match fs::read(self.0.as_fd(), &mut bytes)? {
            0 => Ok(None),
            8 => Word::decode(bytes).map(Some).ok_or(Errno::from_raw(libc::EBADMSG)),
            _ => Err(Errno::from_raw(libc::EBADMSG)),
        }
    }

    /// Says a word and hands a descriptor over with it.
    pub fn say_with(&self, word: Word, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        socket::send(self.0.as_fd(), &word.encode(), Some(fd))
    }

    /// The next word; `None` when the partner has closed its end.
    pub fn hear(&self) -> Result<Option<(Word, Option<OwnedFd>)>, Errno> {
        let mut bytes = [0; 8];
        let received = match socket::receive(self.0.as_fd(), &mut bytes) {
            // A partner that left words of ours unread resets the connection; what it said before is still there.
            Err(errno) if errno.raw() == libc::ECONNRESET => socket::receive(self.0.as_fd(), &mut bytes),
            received => received,
        };
        match received? {
            (0, _) => Ok(None),
            (8, fd) => {
                let word = Word::decode(bytes).ok_or(Errno::from_raw(libc::EBADMSG))?;
                Ok(Some((word, fd)))
            }
            _ => Err(Errno::from_raw(libc::EBADMSG)),
        }
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What a child that ended its stream too early is called.
pub(crate) fn lost() -> Error {
    Error::new(Kind::System, "the container's first process ended before it was set up (killed, or out of memory)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_survives_the_wire() {
        let errno = Errno::from_raw(libc::EPERM);
        let words = [
            Word::Placed,
            Word::Limited,
            Word::Mapped,
            Word::Hooked,
            Word::Recorded,
            Word::Hopped(4_194_304),
            Word::Known,
            Word::Hooks,
            Word::Console,
            Word::Ready,
            Word::Warned(7, errno),
            Word::Failed(u16::MAX, errno),
            Word::Taken,
            Word::Devices,
            Word::Moved,
            Word::Listener(7),
        ];
        let (parent, child) = pair().unwrap();
        for word in words {
            child.say(word).unwrap();
            assert_eq!(parent.hear().unwrap().unwrap().0, word);
            parent.write(word).unwrap();
            assert_eq!(child.read().unwrap(), Some(word));
        }
        drop(child);
        assert!(parent.hear().unwrap().is_none());
    }

    #[test]
    fn strange_bytes_are_refused() {
        let (parent, child) = pair().unwrap();
        socket::send(child.as_fd(), &[99; 8], None).unwrap();
        assert_eq!(parent.hear().unwrap_err().raw(), libc::EBADMSG);
        socket::send(child.as_fd(), &[1; 3], None).unwrap();
        assert_eq!(parent.hear().unwrap_err().raw(), libc::EBADMSG);
    }

    #[test]
    fn last_words_are_heard_though_ours_were_not() {
        let (parent, child) = pair().unwrap();
        parent.say(Word::Recorded).unwrap();
        let failed = Word::Failed(3, Errno::from_raw(libc::ENOENT));
        child.say(failed).unwrap();
        drop(child);
        assert_eq!(parent.hear().unwrap().unwrap().0, failed);
        assert!(parent.hear().unwrap().is_none());
    }

    #[test]
    fn a_descriptor_travels_with_its_word() {
        let (parent, child) = pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        child.say_with(Word::Console, null.as_fd()).unwrap();
        let (word, fd) = parent.hear().unwrap().unwrap();
        assert_eq!(word, Word::Console);
        assert!(fd.is_some());
    }
}
