//! DO: one mount, by descriptor from source to target.

use std::os::fd::{AsFd, OwnedFd};

use super::Ground;
use crate::plan::{Mount, Target, What};
use crate::root::{Entry, RootDir};
use crate::sys::mount::{self, Depth, MountAttr, attr};
use crate::sys::{Errno, fs};

const PROC_MAGIC: i64 = 0x9fa0;

/// Makes the mount and attaches it at its place below `root`.
pub(super) fn mount(root: &RootDir, wanted: &Mount, ground: &Ground) -> Result<(), Errno> {
    match &wanted.what {
        What::Again => change(root.find(&wanted.to)?, wanted),
        What::New { kind, source, options } => {
            let fs = mount::fsopen(kind)?;
            mount::fsconfig_set(fs.as_fd(), c"source", Some(source))?;
            for (key, value) in options {
                mount::fsconfig_set(fs.as_fd(), key, value.as_deref())?;
            }
            mount::fsconfig_create(fs.as_fd())?;
            let made = mount::fsmount(fs.as_fd(), at_birth(wanted.attributes))?;
            if wanted.attributes.set & attr::NOSYMFOLLOW != 0 {
                set(&made, Depth::One, wanted.attributes)?;
            }
            let target = target(root, wanted, Entry::Directory)?;
            attach(&made, &target, wanted)
        }
        What::Bind { source, slot, depth } => {
            let made = match slot.and_then(|slot| ground.slots.get(slot)) {
                Some(opened) => opened.try_clone().map_err(|_| Errno::last())?,
                None => mount::clone_path(source, *depth)?,
            };
            let is_dir = fs::fstat(made.as_fd())?.st_mode & libc::S_IFMT == libc::S_IFDIR;
            if wanted.target == Target::Proc && fs::magic(made.as_fd())? != PROC_MAGIC {
                return Err(Errno::from_raw(libc::EPERM));
            }
            set(&made, Depth::One, wanted.attributes)?;
            let target = target(root, wanted, if is_dir { Entry::Directory } else { Entry::File })?;
            attach(&made, &target, wanted)
        }
    }
}

/// Attributes that fsmount(2) takes directly; it refuses `NOSYMFOLLOW`.
fn at_birth(attributes: MountAttr) -> u64 {
    attributes.set & !attr::NOSYMFOLLOW
}

fn attach(made: &OwnedFd, target: &OwnedFd, wanted: &Mount) -> Result<(), Errno> {
    set(made, Depth::All, wanted.recursive)?;
    mount::move_mount(made.as_fd(), target.as_fd())?;
    propagate(made, wanted)
}

fn change(there: OwnedFd, wanted: &Mount) -> Result<(), Errno> {
    set(&there, Depth::One, wanted.attributes)?;
    set(&there, Depth::All, wanted.recursive)?;
    propagate(&there, wanted)
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

/// The target, checked: nothing but a few files of procfs may be covered (CVE-2019-16884 and after).
fn target(root: &RootDir, wanted: &Mount, entry: Entry) -> Result<OwnedFd, Errno> {
    let found = match wanted.target {
        Target::Plain => {
            root.ensure(&wanted.to, entry)?;
            root.find_plain(&wanted.to)?
        }
        _ => root.ensure(&wanted.to, entry)?,
    };
    match wanted.target {
        Target::Any if fs::magic(found.as_fd())? == PROC_MAGIC => Err(Errno::from_raw(libc::EPERM)),
        _ => Ok(found),
    }
}
