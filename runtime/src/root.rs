//! The only way to open a path inside of a rootfs.
//!
//! Whatever an image, a volume or a running container can influence is resolved once, by openat2(2) with
//! `RESOLVE_IN_ROOT` and without magic links, into a descriptor; everything after works on the descriptor
//! (CVE-2019-16884, CVE-2021-30465, CVE-2024-45310 and the rest of that family). Nothing here allocates: all of it runs
//! in the child between clone and exec.

mod near;

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::error::{Error, Kind, Result};
use crate::sys::fs::{self, Resolve};
use crate::sys::{Errno, copy};

/// A path inside of a rootfs, cleaned and cut up before the clone: `/dev/pts` is `dev/pts`, in `dev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Relative to the root, `.` for the root itself.
    path: CString,
    /// The same for the directory that it is in.
    parent: CString,
}

impl Place {
    /// Cuts up `path`; `.`, `..` and doubled slashes are resolved lexically first, as for runc.
    ///
    /// # Errors
    /// `Invalid` for a zero byte.
    pub fn new(path: &str) -> Result<Place> {
        let mut names: Vec<&str> = Vec::new();
        for name in path.split('/') {
            match name {
                "" | "." => {}
                ".." => drop(names.pop()),
                name => names.push(name),
            }
        }
        let joined = |names: &[&str]| {
            let joined = if names.is_empty() { ".".to_owned() } else { names.join("/") };
            CString::new(joined).map_err(|_| Error::new(Kind::Invalid, format!("{path:?}: has a zero byte")))
        };
        Ok(Place { path: joined(&names)?, parent: joined(&names[..names.len().saturating_sub(1)])? })
    }

    /// The path relative to the root, `.` for the root itself.
    pub fn path(&self) -> &CStr {
        &self.path
    }

    /// The path of the directory that it is in, and its name there.
    fn split(&self) -> (&CStr, &CStr) {
        (&self.parent, last_name(&self.path))
    }

    /// Whether it is the root itself.
    pub fn is_root(&self) -> bool {
        self.path.as_bytes() == b"."
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.is_root() {
            false => write!(f, "/{}", self.path.to_string_lossy()),
            true => f.write_str("/"),
        }
    }
}

/// The part after the last slash, without a copy.
fn last_name(path: &CStr) -> &CStr {
    let bytes = path.to_bytes_with_nul();
    let start = bytes.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    CStr::from_bytes_with_nul(&bytes[start..]).unwrap_or(path)
}

/// What is to be at a place before something is mounted on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A directory; missing ones are made with mode 0755.
    Directory,
    /// Anything but a directory; a missing one is made as an empty file.
    File,
}

/// The root of a container, by descriptor.
#[derive(Debug)]
pub struct RootDir {
    dir: OwnedFd,
    /// Device and inode, once somebody asked.
    identity: Cell<Option<(u64, u64)>>,
    near: RefCell<near::Near>,
}

impl RootDir {
    /// Takes a handle on the directory that is the root.
    pub fn new(dir: OwnedFd) -> RootDir {
        RootDir { dir, identity: Cell::new(None), near: RefCell::new(near::Near::nowhere()) }
    }

    /// Opens what is there, following symbolic links as the container itself would.
    pub fn open(&self, path: &CStr, flags: i32) -> Result<OwnedFd, Errno> {
        fs::openat2(self.dir.as_fd(), path, flags, 0, Resolve::InRoot)
    }

    /// A handle (`O_PATH`) on what is at the place.
    pub fn find(&self, place: &Place) -> Result<OwnedFd, Errno> {
        self.find_near(place).unwrap_or_else(|| self.open(place.path(), libc::O_PATH))
    }

    /// A handle on the entry itself: refuses (`ELOOP`) a path with a symbolic link anywhere in it.
    pub fn find_plain(&self, place: &Place) -> Result<OwnedFd, Errno> {
        let walk = || fs::openat2(self.dir.as_fd(), place.path(), libc::O_PATH, 0, Resolve::Plain);
        self.find_near(place).unwrap_or_else(walk)
    }

    /// Whether a handle stands for the root itself.
    pub fn is(&self, handle: &OwnedFd) -> Result<bool, Errno> {
        let identity = |fd: BorrowedFd<'_>| fs::fstat(fd).map(|about| (about.st_dev, about.st_ino));
        let root = match self.identity.get() {
            Some(root) => root,
            None => identity(self.dir.as_fd())?,
        };
        self.identity.set(Some(root));
        Ok(root == identity(handle.as_fd())?)
    }

    /// A handle on what is at the place, made first where it is missing. Symbolic links that lead to nothing are
    /// followed, and what they lead to is made, always inside of the root.
    pub fn ensure(&self, place: &Place, entry: Entry) -> Result<OwnedFd, Errno> {
        match self.find(place) {
            Err(errno) if errno.raw() == libc::ENOENT => {
                self.make_near(place, entry).unwrap_or_else(|| self.make(place.path(), entry))
            }
            done => done,
        }
    }

    /// The directory that the place is in, made where it is missing, and the name of the entry in it.
    fn parent<'a>(&self, place: &'a Place) -> Result<(OwnedFd, &'a CStr), Errno> {
        let (parent, name) = place.split();
        match self.open(parent, libc::O_PATH | libc::O_DIRECTORY) {
            Ok(dir) => Ok((dir, name)),
            Err(errno) if errno.raw() == libc::ENOENT => Ok((self.make(parent, Entry::Directory)?, name)),
            Err(errno) => Err(errno),
        }
    }

    /// Makes every directory on the way that is missing, and the entry at its end. Each is made in a directory found by
    /// descriptor just before, by a path without links that this walk has resolved by itself, so a link that appears
    /// meanwhile is never followed out of the root; at worst the next lookup fails.
    fn make(&self, path: &CStr, entry: Entry) -> Result<OwnedFd, Errno> {
        let mut way = Way::new(path)?;
        let mut steps = 0;
        loop {
            let last = match way.step()? {
                Some(last) => last,
                None => return self.open(way.done(), libc::O_PATH),
            };
            loop {
                steps += 1;
                if steps > MOST_STEPS {
                    return Err(Errno::from_raw(libc::ELOOP));
                }
                let flags = libc::O_PATH | libc::O_NOFOLLOW;
                match fs::openat2(self.dir.as_fd(), way.done(), flags, 0, Resolve::Plain) {
                    Ok(found) if fs::fstat(found.as_fd())?.st_mode & libc::S_IFMT == libc::S_IFLNK => {
                        let mut target = [0; LONGEST];
                        way.turn(copy::read_link(found.as_fd(), c"", &mut target)?)?;
                        break;
                    }
                    Ok(_) => break,
                    Err(errno) if errno.raw() == libc::ENOENT => self.add(&way, last && entry == Entry::File)?,
                    Err(errno) => return Err(errno),
                }
            }
        }
    }

    /// Makes the entry at the end of the way.
    fn add(&self, way: &Way, file: bool) -> Result<(), Errno> {
        let (mut above, name) = ([0; LONGEST], last_name(way.done()));
        let length = way.done().to_bytes().len() - name.to_bytes().len();
        above[..length].copy_from_slice(&way.done().to_bytes()[..length]);
        let above = if length == 0 { c"." } else { CStr::from_bytes_until_nul(&above).unwrap_or(c".") };
        let dir = fs::openat2(self.dir.as_fd(), above, libc::O_PATH | libc::O_DIRECTORY, 0, Resolve::Plain)?;
        let made = match file {
            true => fs::mknodat(dir.as_fd(), name, libc::S_IFREG | 0o644, 0),
            false => fs::mkdirat(dir.as_fd(), name, 0o755),
        };
        match made {
            Err(errno) if errno.raw() == libc::EEXIST => Ok(()),
            made => made,
        }
    }
}

/// Longest path, with its zero byte.
const LONGEST: usize = 4096;

/// Components and links that a walk takes in all; a rootfs that changes all the time must not hold it up for ever.
const MOST_STEPS: u32 = 1024;

/// A path on its way to be resolved, without memory from the heap.
struct Way {
    /// What is resolved: no links, no dots, ends with a zero byte.
    done: [u8; LONGEST],
    length: usize,
    /// What is left, at the end of the buffer.
    rest: [u8; LONGEST],
    start: usize,
}

impl Way {
    fn new(path: &CStr) -> Result<Way, Errno> {
        let mut way = Way { done: [0; LONGEST], length: 0, rest: [0; LONGEST], start: LONGEST };
        way.prepend(path.to_bytes())?;
        Ok(way)
    }

    fn prepend(&mut self, path: &[u8]) -> Result<(), Errno> {
        let start = self.start.checked_sub(path.len() + 1).ok_or(Errno::from_raw(libc::ENAMETOOLONG))?;
        self.rest[start..start + path.len()].copy_from_slice(path);
        self.rest[start + path.len()] = b'/';
        self.start = start;
        Ok(())
    }

    /// Moves the next name over; whether it was the last. `None` when there is none.
    fn step(&mut self) -> Result<Option<bool>, Errno> {
        while self.start < LONGEST {
            let rest = &self.rest[self.start..];
            let length = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
            let from = self.start;
            self.start = (from + length + 1).min(LONGEST);
            match &self.rest[from..from + length] {
                b"" | b"." => {}
                b".." => self.up(),
                _ => {
                    self.down(from, length)?;
                    return Ok(Some(!self.rest[self.start..].iter().any(|&byte| byte != b'/')));
                }
            }
        }
        Ok(None)
    }

    fn down(&mut self, from: usize, length: usize) -> Result<(), Errno> {
        let at = self.length + usize::from(self.length > 0);
        if at + length >= LONGEST {
            return Err(Errno::from_raw(libc::ENAMETOOLONG));
        }
        if self.length > 0 {
            self.done[self.length] = b'/';
        }
        self.done[at..at + length].copy_from_slice(&self.rest[from..from + length]);
        self.done[at + length] = 0;
        self.length = at + length;
        Ok(())
    }

    fn up(&mut self) {
        self.length = self.done[..self.length].iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        self.done[self.length] = 0;
    }

    /// What was reached is a link to `target`.
    fn turn(&mut self, target: &CStr) -> Result<(), Errno> {
        self.up();
        if target.to_bytes().first() == Some(&b'/') {
            self.length = 0;
            self.done[0] = 0;
        }
        self.prepend(target.to_bytes())
    }

    fn done(&self) -> &CStr {
        if self.length == 0 {
            return c".";
        }
        CStr::from_bytes_until_nul(&self.done).unwrap_or(c".")
    }
}

impl From<RootDir> for OwnedFd {
    fn from(root: RootDir) -> OwnedFd {
        root.dir
    }
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory, removed at the end.
    pub(super) struct Scratch(pub(super) std::path::PathBuf, pub(super) RootDir);

    impl Scratch {
        pub(super) fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("gantry-root-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            let dir = std::fs::File::open(&path).unwrap();
            Scratch(path, RootDir::new(dir.into()))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    pub(super) fn place(path: &str) -> Place {
        Place::new(path).unwrap()
    }

    #[test]
    fn paths_are_cut_up_lexically() {
        let cut = place("//a/./b/../c/");
        assert_eq!(cut.to_string(), "/a/c");
        assert_eq!(cut.split(), (c"a", c"c"));
        assert_eq!(place("/one").split(), (c".", c"one"));
        assert_eq!(place("/../..").path(), c".");
        assert!(place("/").is_root());
        assert!(Place::new("/a\0b").is_err());
    }

    #[test]
    fn links_stay_inside() {
        let Scratch(path, root) = &Scratch::new("links");
        std::fs::create_dir(path.join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc", path.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../../../etc", path.join("upwards")).unwrap();
        for link in ["/absolute/new/dir", "/upwards/new/dir"] {
            root.ensure(&place(link), Entry::Directory).unwrap();
            assert!(path.join("etc/new/dir").is_dir(), "{link}");
            std::fs::remove_dir_all(path.join("etc/new")).unwrap();
        }
        assert_eq!(root.find_plain(&place("/absolute")).unwrap_err().raw(), libc::ELOOP);
    }

    #[test]
    fn a_dangling_link_is_followed_inside_of_the_root() {
        let Scratch(path, root) = &Scratch::new("dangling");
        for (link, target) in [("link", "/nowhere/at/all"), ("up", "../../../../over/there"), ("round", "/round/x")] {
            std::os::unix::fs::symlink(target, path.join(link)).unwrap();
        }
        root.ensure(&place("/link/sub"), Entry::Directory).unwrap();
        assert!(path.join("nowhere/at/all/sub").is_dir());
        root.ensure(&place("/up"), Entry::File).unwrap();
        assert!(path.join("over/there").is_file());
        assert_eq!(root.ensure(&place("/round"), Entry::File).unwrap_err().raw(), libc::ELOOP);
        assert_eq!(root.ensure(&place("/round/y"), Entry::Directory).unwrap_err().raw(), libc::ELOOP);
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 5);
    }

    #[test]
    fn a_path_that_grows_with_every_link_comes_to_an_end() {
        let Scratch(path, root) = &Scratch::new("grow");
        std::os::unix::fs::symlink(format!("a/{}/a", "x/..".repeat(1000)), path.join("a")).unwrap();
        assert!(root.ensure(&place("/a"), Entry::Directory).is_err());
    }

    #[test]
    fn magic_links_are_refused() {
        let proc = RootDir::new(std::fs::File::open("/proc").unwrap().into());
        assert!(proc.find(&place("/self/root/etc")).is_err());
    }

    #[test]
    fn files_and_their_parents_are_made() {
        let Scratch(path, root) = &Scratch::new("files");
        root.ensure(&place("/a/b/file"), Entry::File).unwrap();
        assert!(path.join("a/b/file").is_file());
    }
}
