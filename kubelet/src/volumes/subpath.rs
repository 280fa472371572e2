//! subPath: a directory or file inside a volume, mounted without ever following a path that the pod can
//! change. Each step is an openat2 that cannot leave the volume; what is mounted is the file descriptor
//! (CVE-2017-1002101, CVE-2021-25741).

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};

use crate::error::{Error, Result};

/// Bind-mounts `sub` inside `volume` at `target` and returns the target. What is missing is made as a
/// directory with the volume's mode.
///
/// # Errors
/// `Kind::Pod` where `sub` leaves the volume; `Kind::Io` where a step fails.
pub(crate) fn bind(volume: &Path, sub: &str, target: &Path) -> Result<PathBuf> {
    let inside = open_inside(volume, sub)?;
    let what = || format!("mount subPath {sub:?} at {}", target.display());
    let stat = fstat(&inside).map_err(|e| Error::io(what(), e))?;
    detach(target);
    let parent = target.parent().unwrap_or(Path::new("/"));
    crate::files::make_private_dir(parent)?;
    let made = if kind(&stat) == SFlag::S_IFDIR {
        let _ = fs::remove_file(target);
        fs::create_dir_all(target)
    } else {
        let _ = fs::remove_dir(target);
        fs::OpenOptions::new().write(true).create(true).truncate(false).open(target).map(drop)
    };
    made.map_err(|e| Error::io(what(), e))?;
    let source = format!("/proc/self/fd/{}", inside.as_raw_fd());
    let none: Option<&str> = None;
    mount(Some(source.as_str()), target, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
        .map_err(|e| Error::io(what(), e))?;
    Ok(target.to_path_buf())
}

/// Unmounts whatever is at `target`.
pub(crate) fn detach(target: &Path) {
    while umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Opens `sub` in `volume` as an O_PATH descriptor, making missing directories on the way.
pub(crate) fn open_inside(volume: &Path, sub: &str) -> Result<OwnedFd> {
    if sub.starts_with('/') || sub.split('/').any(|part| part == "..") || sub.contains('\0') {
        return Err(Error::pod(format!("subPath {sub:?} is absolute or climbs")));
    }
    let how = |flags| {
        OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS)
    };
    let root = fs::File::open(volume).map_err(|e| Error::io(format!("open volume {}", volume.display()), e))?;
    let escaped = |e: Errno| match e {
        Errno::EXDEV | Errno::ELOOP => Error::pod(format!("subPath {sub:?} leads out of its volume")),
        other => Error::io(format!("open subPath {sub:?}"), other),
    };
    match openat2(&root, sub, how(OFlag::O_PATH)) {
        Ok(fd) => return Ok(fd),
        Err(Errno::ENOENT) => {}
        Err(e) => return Err(escaped(e)),
    }
    let mode = fstat(&root).map_or(0o750, |s| s.st_mode & 0o777);
    let mut at = String::new();
    for part in sub.split('/').filter(|p| !p.is_empty() && *p != ".") {
        let parent = if at.is_empty() { "." } else { at.as_str() };
        let dir = openat2(&root, parent, how(OFlag::O_PATH | OFlag::O_DIRECTORY)).map_err(escaped)?;
        match mkdirat(&dir, part, Mode::from_bits_truncate(mode)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => return Err(Error::io(format!("make subPath {sub:?}"), e)),
        }
        if !at.is_empty() {
            at.push('/');
        }
        at.push_str(part);
    }
    openat2(&root, sub, how(OFlag::O_PATH)).map_err(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_subpath_never_leaves_its_volume() {
        let dir = TempDir::new("subpath");
        let volume = dir.path().join("v");
        fs::create_dir_all(volume.join("in")).expect("volume");
        fs::write(dir.path().join("secret"), "x").expect("secret");
        symlink("../secret", volume.join("out")).expect("link");
        symlink(dir.path(), volume.join("abs")).expect("link");
        symlink("in", volume.join("fine")).expect("link");
        symlink("/proc/self/root", volume.join("magic")).expect("link");
        for bad in ["out", "abs/secret", "magic/etc", "../secret", "/etc", "in/../../secret", "abs/new"] {
            let said = open_inside(&volume, bad).expect_err(bad);
            assert_eq!(said.kind(), crate::Kind::Pod, "{bad}: {said}");
        }
        for fine in ["in", "fine", "fine/deep/new", "."] {
            open_inside(&volume, fine).expect(fine);
        }
        assert!(volume.join("in/deep/new").is_dir());
        assert!(!dir.path().join("new").exists());
    }
}
