//! The kernel's error numbers: `Copy`, printable, and sent as an integer from the child to the parent.

use std::fmt;
use std::os::fd::{FromRawFd, OwnedFd};

/// An error number of the kernel; `Display` gives `Operation not permitted (EPERM)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(i32);

impl Errno {
    /// From the number itself, as in `errno(3)`; positive.
    pub const fn from_raw(raw: i32) -> Errno {
        Errno(raw)
    }

    /// The calling thread's `errno`, to be read right after a failed call.
    pub fn last() -> Errno {
        Errno(nix::errno::Errno::last_raw())
    }

    /// The number.
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// What a seccomp filter answers for a call that its author did not know, as does a kernel that lacks the call.
    pub const fn is_refusal(self) -> bool {
        matches!(self.0, libc::EPERM | libc::ENOSYS)
    }
}

impl From<nix::errno::Errno> for Errno {
    fn from(errno: nix::errno::Errno) -> Errno {
        Errno(errno as i32)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = nix::errno::Errno::from_raw(self.0);
        if known == nix::errno::Errno::UnknownErrno {
            return write!(f, "error {}", self.0);
        }
        write!(f, "{} ({known:?})", known.desc())
    }
}

/// Turns the `-1` of a libc call into [`Errno`].
pub(super) fn check(ret: libc::c_long) -> Result<libc::c_long, Errno> {
    if ret == -1 { Err(Errno::last()) } else { Ok(ret) }
}

/// Turns the result of a call that opens a file descriptor into its owner.
///
/// The value has to come straight out of such a call: what it names becomes owned.
pub(super) fn check_fd(ret: libc::c_long) -> Result<OwnedFd, Errno> {
    let raw = check(ret)?;
    // SAFETY: the kernel has just opened this descriptor for the caller, who passes it on here; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as i32) })
}

impl std::error::Error for Errno {}
