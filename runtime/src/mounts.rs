//! The rootfs of a container without a mount namespace: it is bound on itself in the runtime's own, and `delete` takes
//! that mount, with all below, away again. (runc leaves them to the host.)

use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use crate::cgroup::unescape;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::{Errno, fs, mount};

/// More mounts on one directory than anybody makes.
const MOST: u32 = 16;

/// The kernel's number of the topmost mount that a directory lies on. Recorded before the container's is made: whatever
/// lies above it later is ours, and nothing else is ever taken away.
pub(crate) fn number(path: &Path) -> Result<u64> {
    let opened = std::fs::File::open(path).context(|| format!("open {}", path.display()))?;
    let about = format!("/proc/self/fdinfo/{}", opened.as_raw_fd());
    let text = std::fs::read_to_string(&about).context(|| format!("read {about}"))?;
    let number = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    number.ok_or_else(|| Error::new(Kind::Unsupported, format!("{about} has no mnt_id")))
}

/// Takes away what was mounted on the rootfs since.
///
/// # Errors
/// `System`, if something stays.
pub(crate) fn undo(rootfs: &Path, below: u64) -> Result<()> {
    let path = std::ffi::CString::new(rootfs.as_os_str().as_encoded_bytes())
        .map_err(|_| Error::new(Kind::Invalid, "the rootfs has a zero byte in its name"))?;
    for _ in 0..MOST {
        if !rootfs.exists() || number(rootfs)? == below {
            return Ok(());
        }
        match mount::detach(&path) {
            // Not a mount point: somebody else has been faster, and took away more.
            Err(errno) if errno.raw() == libc::EINVAL => return Ok(()),
            done => done.context(|| format!("unmount {}", rootfs.display()))?,
        }
    }
    let what = format!("unmount {}: there are ever more mounts on it", rootfs.display());
    Err(Error::system(what, Errno::from_raw(libc::EBUSY)))
}

/// Where procfs and sysfs are mounted in full outside of a rootfs, as the mount table says.
pub(crate) fn full_views(rootfs: &Path) -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").context(|| "read /proc/self/mountinfo")?;
    Ok(full_views_in(&text, rootfs))
}

fn full_views_in(table: &str, rootfs: &Path) -> Vec<PathBuf> {
    let view = |line: &str| -> Option<PathBuf> {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, place) = (fields.next()?, PathBuf::from(unescape(fields.next()?)));
        let kind = after.split(' ').next()?;
        (root == "/" && matches!(kind, "proc" | "sysfs") && !place.starts_with(rootfs)).then_some(place)
    };
    table.lines().filter_map(view).collect()
}

/// A handle on a process' root directory, for another process to be confined to it.
pub(crate) fn root_of(pid: i32) -> Result<std::os::fd::OwnedFd> {
    let path = std::ffi::CString::new(format!("/proc/{pid}/root")).unwrap_or_default();
    fs::open(&path, libc::O_PATH | libc::O_DIRECTORY).context(|| format!("open the root of process {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_full_views_outside_of_the_rootfs_count() {
        let table = "\
22 1 0:20 / /proc rw - proc proc rw
23 1 0:21 / /sys rw shared:1 - sysfs sysfs rw
24 22 0:20 /sys /proc/sys ro - proc proc rw
25 1 0:22 / /b/rootfs/proc rw - proc proc rw
26 1 0:22 / /srv/my\\040jail/proc rw - proc proc rw
27 1 0:23 / /tmp rw - tmpfs tmpfs rw
";
        let found = full_views_in(table, Path::new("/b/rootfs"));
        assert_eq!(found, ["/proc", "/sys", "/srv/my jail/proc"].map(PathBuf::from));
    }
}
