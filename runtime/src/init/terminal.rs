//! DO: a terminal out of the container's own devpts.

use std::os::fd::{AsFd, AsRawFd};

use super::Init;
use crate::root::{Entry, Place};
use crate::sys::mount::{self, Depth};
use crate::sys::{Errno, fs, process, tty};
use crate::talk::Word;

const DEVPTS_MAGIC: i64 = 0x1cd1;

impl Init<'_> {
    /// Opens a pair, keeps the slave and hands the master to the parent. No path beyond `dev/pts/ptmx` is used, and
    /// what is found there has to be the multiplexer of a devpts (CVE-2025-52565).
    pub(super) fn open_terminal(&mut self, size: Option<(u16, u16)>) -> Result<(), Errno> {
        let master = self.root()?.open(c"dev/pts/ptmx", libc::O_RDWR | libc::O_NOCTTY)?;
        let about = fs::fstat(master.as_fd())?;
        let is_multiplexer = about.st_mode & libc::S_IFMT == libc::S_IFCHR && about.st_rdev == libc::makedev(5, 2);
        if fs::magic(master.as_fd())? != DEVPTS_MAGIC || !is_multiplexer {
            return Err(Errno::from_raw(libc::ENOTTY));
        }
        tty::unlock(master.as_fd())?;
        let slave = tty::peer(master.as_fd())?;
        if let Some((rows, columns)) = size {
            tty::resize(slave.as_fd(), rows, columns)?;
        }
        self.talk.say_with(Word::Console, master.as_fd())?;
        self.terminal = Some(slave);
        Ok(())
    }

    /// Mounts the terminal on `/dev/console`, without following a link there.
    pub(super) fn mount_console(&mut self, console: &Place) -> Result<(), Errno> {
        let Some(slave) = &self.terminal else { return Err(Errno::from_raw(libc::ENOTTY)) };
        let node = mount::clone_tree(slave.as_fd(), c"", Depth::One)?;
        let root = self.root.as_ref().ok_or(Errno::from_raw(libc::ENOTDIR))?;
        root.ensure(console, Entry::File)?;
        let target = root.find_plain(console)?;
        mount::move_mount(node.as_fd(), target.as_fd())
    }

    /// Puts the terminal, or what the caller gave, on 0, 1 and 2.
    pub(super) fn place_streams(&mut self) -> Result<(), Errno> {
        if let Some(terminal) = self.terminal.take() {
            tty::control(terminal.as_fd())?;
            for number in 0..3 {
                process::place_fd(terminal.as_fd(), number)?;
            }
            if terminal.as_raw_fd() < 3 {
                std::mem::forget(terminal);
            }
            return Ok(());
        }
        let Some(streams) = &self.ground.streams else { return Ok(()) };
        for (number, stream) in streams.iter().enumerate() {
            process::place_fd(stream.as_fd(), number as i32)?;
        }
        Ok(())
    }

    /// Gives the streams to the user of the container, so that it can open `/dev/stdout` again. Refusals do not matter:
    /// the streams themselves work.
    pub(super) fn own_streams(&self, uid: u32) {
        let null = libc::makedev(1, 3);
        for number in 0..3 {
            let Ok(stream) = process::stream(number) else { continue };
            let Ok(about) = fs::fstat(stream.as_fd()) else { continue };
            if about.st_uid != uid && about.st_rdev != null {
                let _ = fs::fchown(stream.as_fd(), uid, about.st_gid);
            }
        }
    }
}
