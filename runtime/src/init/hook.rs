//! DO: a hook that the container's own process runs: a child of it, with the state on standard input. What it says is
//! the parent's to read.

use std::os::fd::{AsFd, OwnedFd};

use crate::plan::Hook;
use crate::sys::clone::{self, Reap, Side};
use crate::sys::{Errno, Solo, fs, process};

/// Runs the hook to its end. `streams`: the state before and after `start`, and where it says what it has to say.
///
/// # Errors
/// `EIO` when it failed, `ETIME` when its time was up.
pub(super) fn run(hook: &Hook, streams: Option<&[OwnedFd; 3]>) -> Result<(), Errno> {
    let alone = Solo::of_a_clone();
    match clone::clone3(&alone, 0, None)? {
        Side::Child => become_hook(hook, streams),
        Side::Parent(_, pidfd) => {
            let in_time = clone::wait_readable(pidfd.as_fd(), hook.timeout)?;
            if !in_time {
                let _ = clone::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            }
            match clone::wait(pidfd.as_fd(), Reap::Yes)? {
                _ if !in_time => Err(Errno::from_raw(libc::ETIME)),
                clone::Exit::Code(0) => Ok(()),
                _ => Err(Errno::from_raw(libc::EIO)),
            }
        }
    }
}

fn become_hook(hook: &Hook, streams: Option<&[OwnedFd; 3]>) -> ! {
    if let Some([creating, created, said]) = streams {
        let state = if hook.kind == "startContainer" { created } else { creating };
        let placed = fs::rewind(state.as_fd())
            .and_then(|()| process::place_fd(state.as_fd(), 0))
            .and_then(|()| process::place_fd(said.as_fd(), 1))
            .and_then(|()| process::place_fd(said.as_fd(), 2));
        if placed.is_err() {
            process::leave(126);
        }
    }
    let _ = process::close_on_exec_from(3);
    process::execve(&hook.path, &hook.args, &hook.env);
    process::leave(127)
}
