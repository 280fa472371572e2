//! How much space a directory takes: allocated bytes and inodes, hard links counted once.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::disk;
use crate::error::{Context, Result};
use crate::store::Usage;

/// Measurements that cost something, so that whoever asks every few seconds about a tree of a million files does not
/// keep a processor busy: one is believed for twenty times as long as it took, if that was more than 10 ms.
#[derive(Debug, Default)]
pub(crate) struct Measured(Mutex<HashMap<PathBuf, (Usage, Instant, Duration)>>);

const CHEAP: Duration = Duration::from_millis(10);
const BELIEVED: u32 = 20;

impl Measured {
    /// As [`of`], or what was found shortly before.
    pub(crate) fn of(&self, path: &Path) -> Result<Usage> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path).copied();
        if let Some((usage, at, cost)) = known
            && at.elapsed() < cost * BELIEVED
        {
            return Ok(usage);
        }
        let begun = Instant::now();
        let usage = of(path)?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match begun.elapsed() {
            cost if cost > CHEAP => drop(all.insert(path.to_owned(), (usage, Instant::now(), cost))),
            _ => drop(all.remove(path)),
        }
        Ok(usage)
    }

    /// The tree is gone.
    pub(crate) fn forget(&self, path: &Path) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|known, _| !known.starts_with(path));
    }
}

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
    fn what_was_dear_is_believed_for_a_while() {
        let dir = Scratch::new("measured");
        let measured = Measured::default();
        let cheap = measured.of(dir.path()).unwrap();
        std::fs::write(dir.path().join("new"), "x").unwrap();
        assert_eq!(measured.of(dir.path()).unwrap().inodes, cheap.inodes + 1, "a cheap one is made again");
        let entry = (Usage { bytes: 7, inodes: 7 }, Instant::now(), Duration::from_secs(60));
        measured.0.lock().unwrap().insert(dir.path().to_owned(), entry);
        assert_eq!(measured.of(dir.path()).unwrap().inodes, 7);
        measured.forget(dir.path());
        assert_eq!(measured.of(dir.path()).unwrap().inodes, cheap.inodes + 1);
    }

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
