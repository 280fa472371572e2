//! DO: one mount, by descriptor from source to target.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use super::{Ground, copy_up};
use crate::plan::{Mount, Slot, Target, What};
use crate::root::{Entry, RootDir};
use crate::sys::mount::{self, Depth, MountAttr, attr};
use crate::sys::{Errno, fs};

const PROC_MAGIC: i64 = 0x9fa0;

/// What the kernel locks on a mount that comes from a user namespace with more rights (mount_namespaces(7)), besides
/// access times.
const LOCKABLE: u64 = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC | attr::NODIRATIME;

/// Makes the mount and attaches it at its place below `root`.
pub(super) fn mount(root: &RootDir, wanted: &Mount, ground: &Ground) -> Result<(), Errno> {
    match &wanted.what {
        What::Again { options } => change(root.find(&wanted.to)?, options, wanted),
        What::New { kind, source, options, inherit, copy_up } => {
            let target = target(root, wanted, Entry::Directory)?;
            let mode = inherit.then(|| target.found_mode()).transpose()?.flatten();
            let made = match new(kind, source, options, mode, wanted.attributes) {
                Err(errno) if errno.raw() == libc::EPERM => stand_in(kind, wanted.attributes)?.ok_or(errno)?,
                made => made?,
            };
            if *copy_up {
                copy_up::copy(&target.fd, &made)?;
            }
            attach(&made, &target.fd, wanted)
        }
        What::Bind { source, inside, slot, depth, follow, idmap } => {
            let made = match (slot, inside) {
                (Some(slot), _) => slot_of(ground, *slot)?.try_clone().map_err(|_| Errno::last())?,
                (None, Some(inside)) => mount::clone_tree(root.find(inside)?.as_fd(), c"", *depth)?,
                (None, None) => mount::clone_path(source, *depth, *follow)?,
            };
            if let (None, Some((slot, depth))) = (slot, idmap) {
                map_ids(&made, slot_of(ground, *slot)?, *depth)?;
            }
            let is_dir = fs::fstat(made.as_fd())?.st_mode & libc::S_IFMT == libc::S_IFDIR;
            if wanted.target == Target::Proc && fs::magic(made.as_fd())? != PROC_MAGIC {
                return Err(Errno::from_raw(libc::EPERM));
            }
            change_attributes(&made, wanted)?;
            let target = target(root, wanted, if is_dir { Entry::Directory } else { Entry::File })?;
            attach(&made, &target.fd, wanted)
        }
    }
}

fn slot_of(ground: &Ground, slot: Slot) -> Result<&OwnedFd, Errno> {
    ground.slots.get(slot).ok_or(Errno::from_raw(libc::EBADF))
}

/// Maps the ids of a detached mount by a user namespace; before anything else sees it, as the kernel demands.
pub(crate) fn map_ids(made: &OwnedFd, user: &OwnedFd, depth: Depth) -> Result<(), Errno> {
    let userns_fd = user.as_raw_fd().unsigned_abs().into();
    set(made, depth, MountAttr { set: attr::IDMAP, userns_fd, ..MountAttr::default() })
}

/// A detached mount of a new file system, with this mode of its root, if any.
fn new(
    kind: &CStr,
    source: &CStr,
    options: &[(CString, Option<CString>)],
    mode: Option<u32>,
    attributes: MountAttr,
) -> Result<OwnedFd, Errno> {
    let fs = mount::fsopen(kind)?;
    mount::fsconfig_set(fs.as_fd(), c"source", Some(source))?;
    if let Some(mode) = mode {
        let mut digits = [0; 8];
        mount::fsconfig_set(fs.as_fd(), c"mode", Some(octal(mode, &mut digits)))?;
    }
    for (key, value) in options {
        mount::fsconfig_set(fs.as_fd(), key, value.as_deref())?;
    }
    mount::fsconfig_create(fs.as_fd())?;
    let made = mount::fsmount(fs.as_fd(), attributes.set & !attr::NOSYMFOLLOW)?;
    if attributes.set & attr::NOSYMFOLLOW != 0 {
        set(&made, Depth::One, MountAttr { set: attr::NOSYMFOLLOW, ..MountAttr::default() })?;
    }
    Ok(made)
}

/// The host's mount in place of a new one, for a user namespace that does not own the network namespace (sysfs) or the
/// IPC namespace (mqueue); with all that is mounted there, which gets the same attributes.
fn stand_in(kind: &CStr, asked: MountAttr) -> Result<Option<OwnedFd>, Errno> {
    let path = match kind.to_bytes() {
        b"sysfs" => c"/sys",
        b"mqueue" => c"/dev/mqueue",
        _ => return Ok(None),
    };
    let made = mount::clone_path(path, Depth::All, true)?;
    let attributes = asked.set & (attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC);
    set(&made, Depth::All, MountAttr { set: attributes, propagation: libc::MS_PRIVATE, ..MountAttr::default() })?;
    Ok(Some(made))
}

/// A mode as text; the child cannot format.
fn octal(mode: u32, into: &mut [u8; 8]) -> &CStr {
    for (at, digit) in into[..4].iter_mut().enumerate() {
        *digit = b'0' + (mode >> (9 - 3 * at) & 7) as u8;
    }
    into[4] = 0;
    CStr::from_bytes_until_nul(into).unwrap_or(c"0755")
}

fn attach(made: &OwnedFd, target: &OwnedFd, wanted: &Mount) -> Result<(), Errno> {
    set(made, Depth::All, wanted.recursive)?;
    mount::move_mount(made.as_fd(), target.as_fd())?;
    propagate(made, wanted)
}

fn change(there: OwnedFd, options: &[(CString, Option<CString>)], wanted: &Mount) -> Result<(), Errno> {
    if !options.is_empty() {
        let fs = mount::fspick(there.as_fd())?;
        for (key, value) in options {
            mount::fsconfig_set(fs.as_fd(), key, value.as_deref())?;
        }
        mount::fsconfig_reconfigure(fs.as_fd())?;
    }
    change_attributes(&there, wanted)?;
    set(&there, Depth::All, wanted.recursive)?;
    propagate(&there, wanted)
}

/// Gives a bind mount its attributes: those that were asked for, and no other. Where the kernel has locked some (the
/// mount comes from a user namespace with more rights), they stay unless the specification speaks against them by name.
/// A copy that the parent made is not locked, but it is treated as if it were: a container in a user namespace must not
/// gain `dev` or `suid` because nobody mentioned them.
fn change_attributes(made: &OwnedFd, wanted: &Mount) -> Result<(), Errno> {
    let asked = wanted.attributes;
    if asked.set == 0 && asked.clear == 0 && asked.propagation == 0 && wanted.replaced == 0 {
        return Ok(());
    }
    let exactly = MountAttr { clear: asked.clear | wanted.replaced, ..asked };
    let refused = match wanted.locked {
        true => Errno::from_raw(libc::EPERM),
        false => match set(made, Depth::One, exactly) {
            Err(errno) if errno.raw() == libc::EPERM => errno,
            done => return done,
        },
    };
    let there = fs::mount_attributes(made.as_fd())?;
    let times = attr::ATIME | attr::NODIRATIME;
    let named = asked.clear & attr::ATIME != 0;
    if there & asked.clear & LOCKABLE != 0 || named && there & times != asked.set & times {
        return Err(refused);
    }
    let clear = exactly.clear & attr::NOSYMFOLLOW;
    set(made, Depth::One, MountAttr { set: asked.set & !times, clear, ..asked })
}

fn propagate(made: &OwnedFd, wanted: &Mount) -> Result<(), Errno> {
    wanted
        .propagation
        .iter()
        .try_for_each(|&(flags, depth)| set(made, depth, MountAttr { propagation: flags, ..MountAttr::default() }))
}

pub(super) fn set(on: &OwnedFd, depth: Depth, attributes: MountAttr) -> Result<(), Errno> {
    if attributes == MountAttr::default() {
        return Ok(());
    }
    mount::mount_setattr(on.as_fd(), c"", depth, &attributes)
}

/// Where a mount goes.
struct Found {
    fd: OwnedFd,
    /// It was there before.
    old: bool,
}

impl Found {
    /// The mode of a directory that was there before.
    fn found_mode(&self) -> Result<Option<u32>, Errno> {
        if !self.old {
            return Ok(None);
        }
        fs::fstat(self.fd.as_fd()).map(|about| Some(about.st_mode & 0o7777))
    }
}

/// The target, checked: nothing but a few files of procfs may be covered (CVE-2019-16884 and after).
fn target(root: &RootDir, wanted: &Mount, entry: Entry) -> Result<Found, Errno> {
    let plain = matches!(wanted.target, Target::Plain | Target::NoFollow);
    let look = || if plain { root.find_plain(&wanted.to) } else { root.find(&wanted.to) };
    let found = match look() {
        Ok(fd) => Found { fd, old: true },
        Err(errno) if errno.raw() == libc::ENOENT => {
            let made = root.ensure(&wanted.to, entry)?;
            Found { fd: if plain { look()? } else { made }, old: false }
        }
        Err(errno) => return Err(errno),
    };
    if root.is(&found.fd)? {
        return Err(Errno::from_raw(libc::EBUSY));
    }
    match wanted.target {
        Target::Any | Target::NoFollow if fs::magic(found.fd.as_fd())? == PROC_MAGIC => {
            Err(Errno::from_raw(libc::EPERM))
        }
        _ => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::octal;

    #[test]
    fn modes_as_text() {
        for (mode, text) in [(0o1777, c"1777"), (0o710, c"0710"), (0, c"0000"), (0o7777, c"7777")] {
            assert_eq!(octal(mode, &mut [0; 8]), text);
        }
    }
}
