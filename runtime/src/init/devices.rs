//! DO: nodes and links below `/dev`.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use super::mounts::set;
use super::rootfs::PRIVATE;
use crate::plan::Device;
use crate::root::{Entry, Place, RootDir};
use crate::sys::mount::{self, Depth};
use crate::sys::{Errno, fs};

/// A mount of the host's null device, opened in this mount namespace, and verified to be it (CVE-2025-31133).
pub(super) fn null() -> Result<OwnedFd, Errno> {
    let null = fs::open(c"/dev/null", libc::O_PATH | libc::O_NOFOLLOW)?;
    let about = fs::fstat(null.as_fd())?;
    let is_null = about.st_mode & libc::S_IFMT == libc::S_IFCHR && about.st_rdev == libc::makedev(1, 3);
    if is_null { copy(&null) } else { Err(Errno::from_raw(libc::ENODEV)) }
}

/// Makes a node, or binds the host's where that is refused.
pub(super) fn make(root: &RootDir, device: &Device) -> Result<(), Errno> {
    if device.bind {
        return bind(root, device);
    }
    match root.within(&device.to, |dir, name| fs::mknodat(dir, name, device.mode, device.number)) {
        Ok(()) if device.owner == (0, 0) => Ok(()),
        Ok(()) => {
            let (uid, gid) = device.owner;
            root.within(&device.to, |dir, name| fs::chown_entry(dir, name, Some(uid), Some(gid)))
        }
        Err(errno) if errno.raw() == libc::EPERM => bind(root, device),
        Err(errno) if errno.raw() == libc::EEXIST => already(root, device),
        Err(errno) => Err(errno),
    }
}

/// A node that is there is fine if it is the one that was asked for.
fn already(root: &RootDir, device: &Device) -> Result<(), Errno> {
    let there = fs::fstat(root.find_plain(&device.to)?.as_fd())?;
    if is_node(&there, device) { Ok(()) } else { Err(Errno::from_raw(libc::EEXIST)) }
}

fn is_node(stat: &libc::stat, device: &Device) -> bool {
    stat.st_mode & libc::S_IFMT == device.mode & libc::S_IFMT && stat.st_rdev == device.number
}

/// A mount of one node, cut off from the host's mount that it lies on, which is shared where systemd runs.
fn copy(node: &OwnedFd) -> Result<OwnedFd, Errno> {
    let copy = mount::clone_tree(node.as_fd(), c"", Depth::One)?;
    set(&copy, Depth::One, PRIVATE)?;
    Ok(copy)
}

fn bind(root: &RootDir, device: &Device) -> Result<(), Errno> {
    let host = fs::open(&device.host, libc::O_PATH | libc::O_NOFOLLOW)?;
    if !is_node(&fs::fstat(host.as_fd())?, device) {
        return Err(Errno::from_raw(libc::ENODEV));
    }
    let node = copy(&host)?;
    let target = root.ensure(&device.to, Entry::File)?;
    mount::move_mount(node.as_fd(), target.as_fd())
}

/// Makes a link; whatever is there already stays, as in a rootfs that was used before.
pub(super) fn link(root: &RootDir, place: &Place, target: &CStr) -> Result<(), Errno> {
    match root.within(place, |dir, name| fs::symlinkat(target, dir, name)) {
        Err(errno) if errno.raw() == libc::EEXIST => Ok(()),
        done => done,
    }
}
