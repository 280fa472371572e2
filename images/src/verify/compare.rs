//! Two trees, entry by entry: the skeleton of what an archive says, and the layer on disk.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::disk;
use crate::error::{Context, Result};
use crate::unpack::skeleton::Contents;
use crate::unpack::tree::is_whiteout;
use crate::verify::content;

/// Differences of one layer that are told; the rest is counted.
const TOLD: usize = 10;
/// Bytes of a path that the kernel takes at once.
const LONG: usize = 2048;

/// What differs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Differences {
    /// `PATH: what`, the first ten.
    pub(crate) told: Vec<String>,
    pub(crate) count: u64,
}

struct Comparison<'a> {
    wanted: OwnedFd,
    found: OwnedFd,
    contents: &'a Contents,
    differences: Differences,
    /// The found inode of each wanted one that has several names.
    links: HashMap<u64, u64>,
    read: HashSet<u64>,
    go_on: &'a mut dyn FnMut(u64) -> std::io::Result<()>,
}

/// Compares the layer at `found` with `wanted`, whose files are empty and whose content is `contents`. `root`: the layer
/// says itself how its root directory looks. `go_on` is told bytes read and may end the comparison.
///
/// # Errors
/// Those of the disk, and of `go_on`.
pub(crate) fn trees(
    wanted: &Path,
    found: &Path,
    contents: &Contents,
    root: bool,
    go_on: &mut dyn FnMut(u64) -> std::io::Result<()>,
) -> Result<Differences> {
    let (wanted, found) = (disk::open_dir(wanted)?, disk::open_dir(found)?);
    let (differences, links, read) = (Differences::default(), HashMap::new(), HashSet::new());
    let mut comparison = Comparison { wanted, found, contents, differences, links, read, go_on };
    if root {
        comparison.entry(b".", c".")?;
    }
    let mut todo: Vec<Vec<u8>> = vec![b".".to_vec()];
    while let Some(path) = todo.pop() {
        for name in comparison.directory(&path)? {
            let below = [&path, &b"/"[..], name.as_bytes()].concat();
            if comparison.entry(&path, &name)? {
                todo.push(below);
            }
        }
    }
    Ok(comparison.differences)
}

impl Comparison<'_> {
    fn tell(&mut self, dir: &[u8], name: &CStr, what: &str) {
        self.differences.count += 1;
        if self.differences.told.len() < TOLD {
            let path = [dir, b"/", name.to_bytes()].concat();
            let path = String::from_utf8_lossy(path.strip_prefix(b".").unwrap_or(&path)).into_owned();
            self.differences.told.push(format!("{path}: {what}"));
        }
    }

    /// The names that both have; those that only one has are told.
    fn directory(&mut self, path: &[u8]) -> Result<Vec<CString>> {
        (self.go_on)(0).context(|| "verify a layer")?;
        let wanted = names(&open(&self.wanted, path)?)?;
        let found = names(&open(&self.found, path)?)?;
        let known: HashSet<&CString> = found.iter().collect();
        wanted.iter().filter(|name| !known.contains(name)).for_each(|name| self.tell(path, name, "is missing"));
        let known: HashSet<&CString> = wanted.iter().collect();
        let (both, more): (Vec<CString>, Vec<CString>) = found.into_iter().partition(|name| known.contains(name));
        more.iter().for_each(|name| self.tell(path, name, "does not belong here"));
        Ok(both)
    }

    /// Compares one name; whether it is a directory in both.
    fn entry(&mut self, dir: &[u8], name: &CStr) -> Result<bool> {
        let (own, other) = (open(&self.wanted, dir)?, open(&self.found, dir)?);
        let stat = |dir: &OwnedFd| rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).context(|| "stat");
        let (wanted, found) = (stat(&own)?, stat(&other)?);
        let kind = FileType::from_raw_mode(wanted.st_mode);
        if kind != FileType::from_raw_mode(found.st_mode) {
            self.tell(dir, name, "is of another kind");
            return Ok(false);
        }
        if let Some(what) = looks(&wanted, &found, kind) {
            self.tell(dir, name, &what);
        }
        if attributes(&own, name)? != attributes(&other, name)? {
            self.tell(dir, name, "has other extended attributes");
        }
        if kind == FileType::Symlink && target(&own, name)? != target(&other, name)? {
            self.tell(dir, name, "links elsewhere");
        }
        let linked = wanted.st_nlink > 1 || found.st_nlink > 1;
        if kind != FileType::Directory && linked {
            let first = *self.links.entry(wanted.st_ino).or_insert(found.st_ino);
            if first != found.st_ino || wanted.st_nlink != found.st_nlink {
                self.tell(dir, name, "has other hard links");
            }
        }
        if kind == FileType::RegularFile && wanted.st_size == found.st_size && self.read.insert(found.st_ino) {
            let expected = match self.contents.get(&wanted.st_ino) {
                Some(known) => *known,
                None => self.content(&own, name)?,
            };
            if self.content(&other, name)? != expected {
                self.tell(dir, name, "has other content");
            }
        }
        Ok(kind == FileType::Directory)
    }

    fn content(&mut self, dir: &OwnedFd, name: &CStr) -> Result<u128> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(dir, name, flags, Mode::empty()).context(|| "open a file")?);
        content::of(&file, self.go_on).context(|| format!("read {name:?}"))
    }
}

fn looks(wanted: &Stat, found: &Stat, kind: FileType) -> Option<String> {
    if is_whiteout(wanted) && is_whiteout(found) {
        // Its mode and time no image says.
        return None;
    }
    let link = kind == FileType::Symlink;
    if kind == FileType::RegularFile && wanted.st_size != found.st_size {
        return Some(format!("has {} bytes instead of {}", found.st_size, wanted.st_size));
    }
    if !link && wanted.st_mode != found.st_mode {
        return Some(format!("has mode {:04o} instead of {:04o}", found.st_mode & 0o7777, wanted.st_mode & 0o7777));
    }
    if (wanted.st_uid, wanted.st_gid) != (found.st_uid, found.st_gid) {
        let (uid, gid) = (found.st_uid, found.st_gid);
        return Some(format!("belongs to {uid}:{gid} instead of {}:{}", wanted.st_uid, wanted.st_gid));
    }
    if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) && wanted.st_rdev != found.st_rdev {
        return Some("is another device".into());
    }
    let time = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
    (time(wanted) != time(found)).then(|| "has another time".into())
}

/// A directory below `start`, reached through no link.
pub(crate) fn open(start: &OwnedFd, path: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let (mut rest, mut at): (&[u8], Option<OwnedFd>) = (path, None);
    loop {
        let cut = match rest.len() > LONG {
            true => rest[..LONG].iter().rposition(|byte| *byte == b'/').unwrap_or(rest.len()),
            false => rest.len(),
        };
        let dir = rustix::fs::openat2(at.as_ref().unwrap_or(start), &rest[..cut], flags, Mode::empty(), resolve);
        let dir = dir.context(|| format!("open {:?}", String::from_utf8_lossy(path)))?;
        if cut == rest.len() {
            return Ok(dir);
        }
        rest = &rest[cut + 1..];
        at = Some(dir);
    }
}

fn names(dir: &OwnedFd) -> Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir).context(|| "read a directory")? {
        let entry = entry.context(|| "read a directory")?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn target(dir: &OwnedFd, name: &CStr) -> Result<CString> {
    rustix::fs::readlinkat(dir, name, Vec::new()).context(|| "read a link")
}

/// Names and values that an image determines, sorted; labels of security modules are this host's.
fn attributes(dir: &OwnedFd, name: &CStr) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name.to_bytes()].concat();
    let what = || "read extended attributes";
    let mut buffer = vec![0u8; 0];
    let listed = grown(&mut buffer, |buffer| rustix::fs::llistxattr(path.as_slice(), buffer)).context(what)?;
    let mut found = Vec::new();
    for name in buffer[..listed].split(|byte| *byte == 0) {
        let ours = |prefix: &str| name.starts_with(prefix.as_bytes());
        if ours("user.") || ours("trusted.") || name == b"security.capability" || ours("system.posix_acl_") {
            let mut value = vec![0u8; 0];
            let count =
                grown(&mut value, |buffer| rustix::fs::lgetxattr(path.as_slice(), name, buffer)).context(what)?;
            value.truncate(count);
            found.push((name.to_vec(), value));
        }
    }
    found.sort();
    Ok(found)
}

/// Asks with a buffer as large as needed.
fn grown(
    buffer: &mut Vec<u8>,
    mut ask: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<usize> {
    for size in [256, 64 << 10, 1 << 20] {
        buffer.resize(size, 0);
        match ask(buffer) {
            Err(Errno::RANGE) => {}
            Err(Errno::NOTSUP) => return Ok(0),
            other => return other,
        }
    }
    Err(Errno::RANGE)
}
