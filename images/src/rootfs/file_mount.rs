//! Mounting an EROFS image straight from its file (Linux 6.12 and later), read-only; no loop device, no daemon.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};

use crate::erofs::image::Image;
use crate::error::{Context, Error, Kind, Result};
use crate::fault;

/// A mounted image that has no place in the tree of files: gone with its descriptor, also when its owner is killed.
pub(crate) struct Detached(OwnedFd);

impl Detached {
    /// The root directory, for as long as this value lives and in this process alone.
    pub(crate) fn path(&self) -> PathBuf {
        // The dot: a link in /proc is not opened as the last component.
        PathBuf::from(format!("/proc/self/fd/{}/.", self.0.as_raw_fd()))
    }
}

/// Mounts the image in a file, nowhere.
///
/// # Errors
/// [`Kind::Unsupported`] if the kernel has no EROFS or mounts it only from block devices; [`Kind::System`].
pub(crate) fn detached(image: &Path) -> Result<Detached> {
    let what = || format!("mount the image {}", image.display());
    let unsupported = |why: &str| Error::new(Kind::Unsupported, format!("{}: {why}", what()));
    fault::point("mount an image").context(what)?;
    let context = match rustix::mount::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(Errno::NODEV) => return Err(unsupported("the kernel has no EROFS: modprobe erofs, or build it in")),
        Err(Errno::NOSYS) => return Err(unsupported("the kernel is older than 5.2")),
        other => other.context(what)?,
    };
    rustix::mount::fsconfig_set_string(&context, "source", image).context(what)?;
    rustix::mount::fsconfig_set_flag(&context, "ro").context(what)?;
    match rustix::mount::fsconfig_create(&context) {
        Err(Errno::NOTBLK) => return Err(unsupported("the kernel, older than 6.12, mounts no EROFS from a file")),
        other => other.context(what)?,
    }
    let mount = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY);
    Ok(Detached(mount.context(what)?))
}

/// Mounts the image in a file on the directory `at`.
///
/// # Errors
/// As [`detached`].
pub(crate) fn mount(image: &Path, at: &Path) -> Result<()> {
    let Detached(mount) = detached(image)?;
    attach(&mount, at)?;
    rustix::mount::mount_change(at, rustix::mount::MountPropagationFlags::PRIVATE)
        .context(|| format!("make {} private", at.display()))
}

/// Puts a detached mount on a directory.
pub(crate) fn attach(mount: &OwnedFd, at: &Path) -> Result<()> {
    fault::point("show a mount").context(|| format!("mount on {}", at.display()))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", rustix::fs::CWD, at, flags).context(|| format!("mount on {}", at.display()))
}

/// Whether this kernel mounts images from files on the filesystem of the empty file `at`, found out by doing it.
///
/// # Errors
/// [`Kind::Unsupported`] with the reason if it does not.
pub(crate) fn probe(at: &Path) -> Result<()> {
    let what = || format!("try an image at {}", at.display());
    let file = File::options().read(true).write(true).create_new(true).open(at).context(what)?;
    let tried = Image::new(file).complete([1; 16]).and_then(|()| detached(at).map(drop));
    drop(std::fs::remove_file(at));
    tried
}
