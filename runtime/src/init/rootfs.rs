//! DO: the rootfs from a path on the host to `/`, and what is hidden in it.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use super::mounts::set;
use super::{Init, devices};
use crate::root::{Place, RootDir};
use crate::sys::mount::{self, Depth, MountAttr, attr};
use crate::sys::{Errno, fs, process};

const READ_ONLY: MountAttr = MountAttr { set: attr::RDONLY, clear: 0, propagation: 0, userns_fd: 0 };

pub(super) const PRIVATE: MountAttr = MountAttr { set: 0, clear: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };

/// Clones the rootfs and stacks the copy on `/`, where nothing on the host is its parent: neither the mount that the
/// bundle lies on nor its peers learn of it. For that, and for pivot_root(2), `/` must not be shared. A slave may stay
/// one: volumes that lie on the same mount go on receiving what the host mounts.
pub(super) fn attach(path: &CStr, shared: bool) -> Result<RootDir, Errno> {
    let old = fs::open(c"/", libc::O_PATH | libc::O_DIRECTORY)?;
    let tree = mount::clone_path(path, Depth::All, true)?;
    set(&tree, Depth::All, PRIVATE)?;
    if shared {
        mount::set_propagation(c"/", libc::MS_PRIVATE, Depth::One)?;
    }
    mount::move_mount(tree.as_fd(), old.as_fd())?;
    Ok(RootDir::new(tree))
}

/// Clones the rootfs and stacks the copy on the rootfs itself, in a mount namespace that others live in.
pub(super) fn attach_on_itself(path: &CStr) -> Result<RootDir, Errno> {
    let there = fs::open(path, libc::O_PATH | libc::O_DIRECTORY)?;
    let tree = mount::clone_tree(there.as_fd(), c"", Depth::All)?;
    set(&tree, Depth::All, PRIVATE)?;
    mount::move_mount(tree.as_fd(), there.as_fd())?;
    Ok(RootDir::new(tree))
}

/// Unmounts what would stay in the container's mount namespace without pivot_root(2). The kernel lets a user namespace
/// mount a new procfs or sysfs only while one is to be seen in full, without anything masked (runc's msMoveRoot).
pub(super) fn take_away(path: &CStr) -> Result<(), Errno> {
    match mount::set_propagation(path, libc::MS_SLAVE, Depth::All) {
        // It went with one above it.
        Err(errno) if matches!(errno.raw(), libc::ENOENT | libc::EINVAL) => return Ok(()),
        done => done?,
    }
    match mount::detach(path) {
        Err(errno) if matches!(errno.raw(), libc::EINVAL | libc::EPERM) => {
            let there = fs::open(path, libc::O_PATH)?;
            mount::move_mount(empty()?.as_fd(), there.as_fd())
        }
        done => done,
    }
}

/// For a process that comes later into a container without a mount namespace.
pub(super) fn confine(root: &OwnedFd) -> Result<(), Errno> {
    process::fchdir(root.as_fd())?;
    process::chroot_here()?;
    process::chdir(c"/")
}

/// A path that is not there needs no protection.
fn unless_missing<T>(found: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(errno) if matches!(errno.raw(), libc::ENOENT | libc::ENOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Binds a path, with all below, read-only onto itself.
pub(super) fn make_read_only(root: &RootDir, place: &Place) -> Result<(), Errno> {
    let Some(target) = unless_missing(root.find(place))? else { return Ok(()) };
    let tree = mount::clone_tree(target.as_fd(), c"", Depth::All)?;
    set(&tree, Depth::All, READ_ONLY)?;
    mount::move_mount(tree.as_fd(), target.as_fd())
}

/// The root mount alone: what is mounted below keeps its own attributes.
pub(super) fn make_root_read_only(root: &RootDir) -> Result<(), Errno> {
    mount::mount_setattr(root.as_fd(), c"", Depth::One, &READ_ONLY)
}

/// pivot_root(".", ".") (pivot_root(2), "NOTES"): the old root ends up stacked on the new one and is detached, slave
/// first so that the host does not lose its mounts.
pub(super) fn pivot(root: &RootDir) -> Result<(), Errno> {
    let old = fs::open(c"/", libc::O_PATH | libc::O_DIRECTORY)?;
    process::fchdir(root.as_fd())?;
    mount::pivot_here()?;
    process::fchdir(old.as_fd())?;
    mount::set_propagation(c".", libc::MS_SLAVE, Depth::All)?;
    mount::detach(c".")?;
    process::chdir(c"/")
}

/// For a root on the initial ramfs, which cannot be pivoted away.
pub(super) fn move_root(root: &RootDir) -> Result<(), Errno> {
    process::fchdir(root.as_fd())?;
    process::chroot_here()?;
    process::chdir(c"/")
}

impl Init<'_> {
    /// Covers a file with the host's null device (verified), a directory with an empty tmpfs.
    pub(super) fn mask(&mut self, place: &Place) -> Result<(), Errno> {
        let Some(target) = unless_missing(self.root()?.find(place))? else { return Ok(()) };
        if fs::fstat(target.as_fd())?.st_mode & libc::S_IFMT != libc::S_IFDIR {
            return cover(&mut self.null, &target, devices::null);
        }
        cover(&mut self.empty, &target, empty)
    }
}

/// Attaches a copy of the first cover, or makes that. The first is attached before it is copied: older kernels (6.1 is
/// one) copy no mount that lies nowhere.
fn cover(
    first: &mut Option<OwnedFd>,
    target: &OwnedFd,
    make: impl FnOnce() -> Result<OwnedFd, Errno>,
) -> Result<(), Errno> {
    if let Some(first) = first {
        let copy = mount::clone_tree(first.as_fd(), c"", Depth::One)?;
        return mount::move_mount(copy.as_fd(), target.as_fd());
    }
    let made = make()?;
    mount::move_mount(made.as_fd(), target.as_fd())?;
    *first = Some(made);
    Ok(())
}

/// An empty tmpfs that nobody can write to.
fn empty() -> Result<OwnedFd, Errno> {
    let fs = mount::fsopen(c"tmpfs")?;
    mount::fsconfig_set(fs.as_fd(), c"size", Some(c"0"))?;
    mount::fsconfig_create(fs.as_fd())?;
    mount::fsmount(fs.as_fd(), attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC)
}
