//! A pipe, a socket or a terminal's master as an asynchronous stream.
//!
//! Tokio's pipes read and write any descriptor that epoll takes; its `AsyncFd`, which is for that, cannot be made from
//! safe code.

use crate::error::{Context as _, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::os::fd::OwnedFd;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::{Receiver, Sender};

const WHAT: &str = "poll a process' stream";

/// The descriptor to write to, non-blocking; closed when dropped.
///
/// # Errors
/// For one that cannot be polled (a regular file).
pub(super) fn writer(fd: OwnedFd) -> Result<Sender> {
    Sender::from_owned_fd_unchecked(never_block(fd)?).context(|| WHAT)
}

/// The descriptor to read from; as [`writer`].
pub(super) fn reader(fd: OwnedFd) -> Result<Receiver> {
    Receiver::from_owned_fd_unchecked(never_block(fd)?).context(|| WHAT)
}

fn never_block(fd: OwnedFd) -> Result<OwnedFd> {
    let flags = fcntl(&fd, FcntlArg::F_GETFL).context(|| WHAT)?;
    let flags = OFlag::from_bits_truncate(flags) | OFlag::O_NONBLOCK;
    fcntl(&fd, FcntlArg::F_SETFL(flags)).context(|| WHAT)?;
    Ok(fd)
}

/// Reads what is there; 0 at the end, which a terminal's master calls EIO once the last process has closed its side.
pub(super) async fn read(from: &mut Receiver, buffer: &mut [u8]) -> std::io::Result<usize> {
    match from.read(buffer).await {
        Err(why) if why.raw_os_error() == Some(Errno::EIO as i32) => Ok(0),
        other => other,
    }
}
