//! How much space a directory takes: allocated bytes and inodes, hard links counted once.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::disk;
use crate::error::{Context, Result};
use crate::store::Usage;

/// Measures a tree without following links. What disappears meanwhile is not counted; containers go on writing.
pub(crate) fn of(path: &Path) -> Result<Usage> {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    let start = disk::open_dir(path)?;
    let own = rustix::fs::fstat(&start).context(|| format!("stat {}", path.display()))?;
    add(&mut usage, &own);
    // Paths instead of open directories: a hostile tree is wide and deep, and descriptors are few. What lies deeper
    // than a path can say is not counted.
    let mut todo: Vec<Vec<u8>> = vec![b".".to_vec()];
    while let Some(path) = todo.pop() {
        let Some(dir) = open_below(&start, &path)? else { continue };
        for entry in rustix::fs::Dir::read_from(&dir).context(|| "read a directory")?.flatten() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                other => other.context(|| "stat")?,
            };
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if !is_dir && stat.st_nlink > 1 && !linked.insert((stat.st_dev, stat.st_ino)) {
                continue;
            }
            add(&mut usage, &stat);
            if is_dir {
                todo.push([&path, &b"/"[..], name.to_bytes()].concat());
            }
        }
    }
    Ok(usage)
}

/// A directory below `start`, reached through no link; `None` if it is gone or its path too long.
pub(crate) fn open_below(start: impl std::os::fd::AsFd, path: &[u8]) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match rustix::fs::openat2(start, path, flags, Mode::empty(), resolve) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::XDEV | Errno::AGAIN) => Ok(None),
        Err(why) => Err(why).context(|| "open a directory"),
    }
}

fn add(usage: &mut Usage, stat: &rustix::fs::Stat) {
    usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
    usage.inodes += 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn links_count_once() {
        let dir = Scratch::new("space");
        std::fs::write(dir.path().join("a"), vec![1; 10_000]).unwrap();
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("d/root")).unwrap();
        let usage = of(dir.path()).unwrap();
        assert_eq!(usage.inodes, 4, "{usage:?}");
        assert!((10_000..60_000).contains(&usage.bytes), "{usage:?}");
    }
}
