//! The caller's side of a process in the foreground: signals to it, its terminal to ours, its exit code to our caller.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{self, SetArg, Termios};

use crate::error::{Context, Result};
use crate::sys::clone::{self, Reap};
use crate::sys::{Errno, tty};

/// Signals of this process, taken out of their usual way. To be made before the clone, so that none is lost.
pub(super) struct Signals(SignalFd);

impl Signals {
    /// Blocks every signal that can be passed on, and opens a descriptor that tells of them.
    pub(super) fn take() -> Result<Signals> {
        let mut set = SigSet::all();
        // Faults are our own, and stopping is for the shell.
        for own in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT, Signal::SIGTRAP] {
            set.remove(own);
        }
        set.thread_block().map_err(Errno::from).context(|| "block signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let fd = SignalFd::with_flags(&set, flags).map_err(Errno::from).context(|| "open a signalfd")?;
        Ok(Signals(fd))
    }

    /// Passes on what has come; tells whether the window changed.
    fn forward(&self, to: BorrowedFd<'_>) -> bool {
        let mut resized = false;
        while let Ok(Some(info)) = self.0.read_signal() {
            match info.ssi_signo as i32 {
                libc::SIGCHLD | libc::SIGPIPE => {}
                libc::SIGWINCH => resized = true,
                // Only a process that has just ended refuses; its end is told next.
                signal => drop(clone::pidfd_send_signal(to, signal)),
            }
        }
        resized
    }
}

/// Our own terminal in raw mode until dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> Option<Raw> {
        let before = termios::tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw).ok()?;
        Some(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

/// Relays until the process has ended, reaps it, and returns its exit code as a shell would.
pub(super) fn until_exit(signals: &Signals, pidfd: OwnedFd, console: Option<OwnedFd>) -> Result<i32> {
    let _raw = console.as_ref().and_then(|_| Raw::enter());
    if let Some(master) = &console {
        copy_size(master);
    }
    let mut input_open = console.is_some();
    loop {
        let stdin = std::io::stdin();
        let mut fds =
            vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN), PollFd::new(signals.0.as_fd(), PollFlags::POLLIN)];
        if let Some(master) = &console {
            fds.push(PollFd::new(master.as_fd(), PollFlags::POLLIN));
        }
        if input_open {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            polled => polled.map_err(Errno::from).context(|| "poll")?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if ready[1] && signals.forward(pidfd.as_fd()) {
            console.iter().for_each(copy_size);
        }
        if let Some(master) = &console {
            if ready[2] {
                copy(master.as_fd(), std::io::stdout().as_fd());
            }
            if input_open && ready[3] {
                input_open = copy(stdin.as_fd(), master.as_fd());
            }
        }
        if ready[0] {
            let exit = clone::wait(pidfd.as_fd(), Reap::Yes).context(|| "wait for the process")?;
            console.iter().for_each(drain);
            return Ok(exit.shell_code());
        }
    }
}

fn copy_size(master: &OwnedFd) {
    if let Ok((rows, columns)) = tty::size(std::io::stdin().as_fd()) {
        let _ = tty::resize(master.as_fd(), rows, columns);
    }
}

/// Copies what is there; `false` at the end (of a terminal: EIO).
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0u8; 8192];
    match nix::unistd::read(from, &mut buffer) {
        Ok(0) | Err(_) => false,
        Ok(length) => {
            let mut rest = &buffer[..length];
            while !rest.is_empty() {
                match nix::unistd::write(to, rest) {
                    Ok(wrote) => rest = &rest[wrote..],
                    Err(nix::errno::Errno::EINTR) => {}
                    Err(_) => return false,
                }
            }
            true
        }
    }
}

/// What the program wrote last, still in the terminal. Nothing more comes, unless it left children: not waited for.
fn drain(master: &OwnedFd) {
    loop {
        let mut fds = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
        let waiting = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        let readable = fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN));
        if !waiting || !readable || !copy(master.as_fd(), std::io::stdout().as_fd()) {
            return;
        }
    }
}
