//! Out of memory: how often the kernel killed in a cgroup, and a descriptor that tells when it does.
//!
//! v1: `memory.oom_control` counts (`oom_kill`, since 4.13) and an eventfd is registered through `cgroup.event_control`.
//! v2: `memory.events` counts and is itself ready with `POLLPRI` on every change.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::controller::{Controller, Version};
use super::tree::{Cgroup, write_file};
use super::usage::value;
use crate::error::{Context, Error, Kind, Result};

/// Tells of an OOM kill: poll [`OomWatch::as_fd`] for [`OomWatch::events`], call [`OomWatch::seen`], read the count.
#[derive(Debug)]
pub enum OomWatch {
    /// An eventfd; readable.
    V1(EventFd),
    /// `memory.events`, opened; `POLLPRI`.
    V2(OwnedFd),
}

impl OomWatch {
    /// What to poll for: `POLLIN` or `POLLPRI`.
    pub fn events(&self) -> i16 {
        match self {
            Self::V1(_) => libc::POLLIN,
            Self::V2(_) => libc::POLLPRI,
        }
    }

    /// Takes the event, so that the descriptor is quiet until the next one. `false` once the cgroup has been removed:
    /// from then on v2's file is ready for ever.
    pub fn seen(&self) -> bool {
        match self {
            // Nothing to read is as good: the eventfd does not block.
            Self::V1(event) => {
                let _ = event.read();
                true
            }
            Self::V2(file) => nix::sys::uio::pread(file, &mut [0; 256], 0).is_ok(),
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::V1(event) => event.as_fd(),
            Self::V2(file) => file.as_fd(),
        }
    }
}

impl Cgroup {
    /// How many processes the kernel has killed here for want of memory; 0 without a memory controller.
    pub fn oom_kills(&self) -> u64 {
        let file = match self.version_of(Controller::Memory) {
            Some(Version::V1) => "memory.oom_control",
            Some(Version::V2) => "memory.events",
            None => return 0,
        };
        let Some(dir) = self.dir(Controller::Memory) else { return 0 };
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        value(&text, "oom_kill").unwrap_or(0)
    }

    /// Opens a watch on OOM kills.
    ///
    /// # Errors
    /// `Unsupported` without a memory controller, `System` otherwise.
    pub fn oom_watch(&self) -> Result<OomWatch> {
        let version = self.version_of(Controller::Memory);
        let (Some(version), Some(dir)) = (version, self.dir(Controller::Memory)) else {
            return Err(Error::new(Kind::Unsupported, "this host has no memory cgroup controller"));
        };
        let open = |file: &str| {
            let path = dir.join(file);
            File::open(&path).context(|| format!("open {}", path.display()))
        };
        match version {
            Version::V1 => {
                let control = open("memory.oom_control")?;
                let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                    .map_err(|errno| Error::system("open an eventfd", errno.into()))?;
                let line = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
                write_file(&dir.join("cgroup.event_control"), &line)?;
                Ok(OomWatch::V1(event))
            }
            Version::V2 => Ok(OomWatch::V2(open("memory.events")?.into())),
        }
    }
}
