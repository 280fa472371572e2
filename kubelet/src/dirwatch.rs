//! Waiting until something in a directory changes, by inotify(7). What changed is looked up afterwards:
//! events may be merged or lost, the directory is not.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};

/// See the module.
pub(crate) struct DirWatch(AsyncFd<OwnedFd>);

impl DirWatch {
    /// Watches `dir` for files that are written, made, renamed or removed.
    ///
    /// # Errors
    /// `Kind::Io` where the kernel refuses.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let what = |e: nix::Error| Error::io(format!("watch {}", dir.display()), e);
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(what)?;
        let flags = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE_SELF;
        inotify.add_watch(dir, flags).map_err(what)?;
        register(inotify.into()).map(Self).map_err(|e| Error::io(format!("watch {}", dir.display()), e))
    }

    /// Returns after the next change; at once for one since the last call.
    ///
    /// # Errors
    /// `Kind::Io` where the runtime's reactor fails.
    pub(crate) async fn changed(&self) -> Result<()> {
        let mut guard = self.0.readable().await.map_err(|e| Error::io("wait for a change of a directory", e))?;
        let mut events = [0u8; 4096];
        while nix::unistd::read(self.0.get_ref(), &mut events).is_ok_and(|n| n > 0) {}
        guard.clear_ready();
        Ok(())
    }
}

#[allow(deprecated, reason = "the successor is unsafe; an OwnedFd always gives its own descriptor")]
fn register(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}
