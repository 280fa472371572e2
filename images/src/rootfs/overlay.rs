//! Mounting overlayfs (kernel documentation, filesystems/overlayfs.rst).
//!
//! `index=off`: hard links break on copy-up as they always did, but one upper directory may be mounted again after a
//! crash without ESTALE. `metacopy=off` and `redirect_dir=off`: layers mean what their files say, whatever a hostile
//! image or the kernel's build options suggest. `xino=on` where layers lie on several filesystems (images): what a
//! container sees is one filesystem, whose inode numbers tell files apart, and `tar --one-file-system` takes all of it.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::disk;
use crate::error::{Context, Error, Kind, Result};

/// mount(2) copies one page of options.
const MOST_OPTIONS: usize = 4095;
const FIXED: &str = "index=off,metacopy=off,redirect_dir=off";

/// Where what is written goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Writes<'a> {
    /// To `upper`, by way of `work`.
    To { upper: &'a Path, work: &'a Path },
    /// Nowhere. `top` is the highest lower directory, which gives the root its look.
    No { top: &'a Path },
}

/// Mounts `lower` (highest first; may be empty) at `at`, private to this mount namespace.
///
/// # Errors
/// [`Kind::System`]; [`Kind::Unsupported`] if the kernel has no overlayfs, or overlayfs does not take these directories;
/// [`Kind::TooLarge`] with too many layers.
pub(crate) fn mount(lower: &[PathBuf], writes: Writes<'_>, at: &Path) -> Result<()> {
    let what = || format!("mount an overlay on {}", at.display());
    let mut lower = lower.to_vec();
    let upper = match writes {
        Writes::To { upper, work } => Some([upper, work]),
        Writes::No { top } => {
            lower.insert(0, top.to_owned());
            None
        }
    };
    // overlayfs wants a lower directory, and two if there is nothing else; an image without layers has an empty one.
    if lower.len() + upper.map_or(0, |_| 1) < 2 {
        let nothing = at.with_file_name("lower");
        disk::private_dir(&nothing)?;
        lower.push(nothing);
    }
    let bytes = |path: &'_ Path| path.as_os_str().as_bytes().to_vec();
    let lower_bytes: Vec<Vec<u8>> = lower.iter().map(|path| bytes(path)).collect();
    let fixed = if several(&lower, at)? { format!("{FIXED},xino=on") } else { FIXED.to_owned() };
    let named = options(&fixed, lower_bytes.iter().map(Vec::as_slice), upper.map(|two| two.map(bytes)));
    // Long paths of many layers do not fit: name the open directories instead, 20 bytes each.
    let fds: Vec<OwnedFd>;
    let data = match named {
        Some(data) => data,
        None => {
            let dirs = lower.iter().map(PathBuf::as_path).chain(upper.into_iter().flatten());
            fds = dirs.map(disk::open_dir).collect::<Result<_>>()?;
            let names: Vec<String> = fds.iter().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd())).collect();
            let (lower, rest) = names.split_at(lower.len());
            let many = || Error::new(Kind::TooLarge, format!("{}: {} layers do not fit", what(), lower.len()));
            let upper = (rest.len() == 2).then(|| [rest[0].clone().into_bytes(), rest[1].clone().into_bytes()]);
            options(&fixed, lower.iter().map(String::as_bytes), upper).ok_or_else(many)?
        }
    };
    let data = CString::new(data).map_err(|why| Error::caused(Kind::System, what(), why))?;
    match rustix::mount::mount("overlay", at, "overlay", MountFlags::empty(), Some(data.as_c_str())) {
        Err(Errno::NODEV) => {
            let why = "the kernel has no overlayfs: modprobe overlay, or build it in";
            return Err(Error::new(Kind::Unsupported, format!("{}: {why}", what())));
        }
        Err(Errno::INVAL) => {
            let why = "refused; its filesystem may be none that overlayfs writes to (the kernel's log says more)";
            return Err(Error::new(Kind::Unsupported, format!("{}: {why}", what())));
        }
        other => other.context(what)?,
    }
    rustix::mount::mount_change(at, MountPropagationFlags::PRIVATE).context(what)
}

/// Not all of these directories are on the filesystem of `at`.
fn several(lower: &[PathBuf], at: &Path) -> Result<bool> {
    let device = |path: &Path| -> Result<u64> {
        Ok(rustix::fs::stat(path).context(|| format!("stat {}", path.display()))?.st_dev)
    };
    let own = device(at)?;
    for dir in lower {
        if device(dir)? != own {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The option string, or `None` if it exceeds a page. `upper` and its work directory.
fn options<'a>(fixed: &str, lower: impl Iterator<Item = &'a [u8]>, upper: Option<[Vec<u8>; 2]>) -> Option<Vec<u8>> {
    let lower: Vec<Vec<u8>> = lower.map(|path| escape(path, true)).collect();
    let mut data = [fixed.as_bytes(), b",lowerdir=", &lower.join(&b':')].concat();
    if let Some([upper, work]) = upper {
        data.extend([b",upperdir=", &escape(&upper, false)[..], b",workdir=", &escape(&work, false)].concat());
    }
    (data.len() <= MOST_OPTIONS).then_some(data)
}

/// Commas end an option and colons a lower directory; a backslash protects both.
fn escape(path: &[u8], lower: bool) -> Vec<u8> {
    let special = |byte: u8| byte == b',' || byte == b'\\' || lower && byte == b':';
    path.iter().flat_map(|byte| special(*byte).then_some(b'\\').into_iter().chain([*byte])).collect()
}

/// Something is mounted exactly here.
///
/// # Errors
/// [`Kind::System`].
pub(crate) fn is_mounted(at: &Path) -> Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(rustix::fs::CWD, at, flags, StatxFlags::MODE) {
        // Linux 5.8 and later say it; without the mask bit the answer means nothing.
        Ok(found) => Ok(found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
            && found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(why) => Err(why).context(|| format!("stat {}", at.display())),
    }
}

/// Unmounts whatever is mounted here, also several times over; nothing mounted is success. Lazily, so that a
/// process that still looks at it cannot hold up the rest.
///
/// # Errors
/// [`Kind::System`].
pub(crate) fn unmount(at: &Path) -> Result<()> {
    while is_mounted(at)? {
        match rustix::mount::unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(why) => return Err(why).context(|| format!("unmount {}", at.display())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lower: &[&str]) -> Option<String> {
        let upper = Some([b"/u,p".to_vec(), b"/w:k".to_vec()]);
        let data = options(FIXED, lower.iter().map(|path| path.as_bytes()), upper);
        data.map(|data| String::from_utf8(data).unwrap())
    }

    #[test]
    fn option_strings() {
        assert_eq!(
            said(&["/a", "/b:c,d\\e"]).unwrap(),
            "index=off,metacopy=off,redirect_dir=off,lowerdir=/a:/b\\:c\\,d\\\\e,upperdir=/u\\,p,workdir=/w:k"
        );
        assert!(said(&["/x"; 1300]).is_some());
        assert!(said(&["/a/long/path/to/a/layer"; 200]).is_none());
    }

    #[test]
    fn a_plain_directory_is_not_mounted() {
        assert!(!is_mounted(&std::env::temp_dir().join("gantry-none")).unwrap());
        assert!(is_mounted(Path::new("/proc")).unwrap());
        unmount(&std::env::temp_dir().join("gantry-none")).unwrap();
    }
}
