//! The only way to open a path inside of a rootfs.
//!
//! Whatever an image, a volume or a running container can influence is resolved once, by openat2(2) with
//! `RESOLVE_IN_ROOT` and without magic links, into a descriptor; everything after works on the descriptor
//! (CVE-2019-16884, CVE-2021-30465, CVE-2024-45310 and the rest of that family). Nothing here allocates: all of it runs
//! in the child between clone and exec.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::error::{Error, Kind, Result};
use crate::sys::Errno;
use crate::sys::fs::{self, Resolve};

/// A path inside of a rootfs, cut up before the clone: `/dev/pts` is `dev` and `dev/pts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    prefixes: Vec<CString>,
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
        let cut = |count: usize| {
            let prefix = names[..count].join("/");
            CString::new(prefix).map_err(|_| Error::new(Kind::Invalid, format!("{path:?}: has a zero byte")))
        };
        Ok(Place { prefixes: (1..=names.len()).map(cut).collect::<Result<_>>()? })
    }

    /// The path relative to the root, `.` for the root itself.
    pub fn path(&self) -> &CStr {
        self.prefixes.last().map_or(c".", CString::as_c_str)
    }

    /// The name of the entry, and the path of the directory that it is in.
    fn split(&self) -> (&CStr, &CStr) {
        let name = last_name(self.path());
        let parent = self.prefixes.len().checked_sub(2).map_or(c".", |at| self.prefixes[at].as_c_str());
        (parent, name)
    }

    /// Whether it is the root itself.
    pub fn is_root(&self) -> bool {
        self.prefixes.is_empty()
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.prefixes.last() {
            Some(path) => write!(f, "/{}", path.to_string_lossy()),
            None => f.write_str("/"),
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
pub struct RootDir(OwnedFd);

impl RootDir {
    /// Takes a handle on the directory that is the root.
    pub fn new(dir: OwnedFd) -> RootDir {
        RootDir(dir)
    }

    /// Opens what is there, following symbolic links as the container itself would.
    pub fn open(&self, path: &CStr, flags: i32) -> Result<OwnedFd, Errno> {
        fs::openat2(self.0.as_fd(), path, flags, 0, Resolve::InRoot)
    }

    /// A handle (`O_PATH`) on what is at the place.
    pub fn find(&self, place: &Place) -> Result<OwnedFd, Errno> {
        self.open(place.path(), libc::O_PATH)
    }

    /// A handle on the entry itself: refuses (`ELOOP`) a path with a symbolic link anywhere in it.
    pub fn find_plain(&self, place: &Place) -> Result<OwnedFd, Errno> {
        fs::openat2(self.0.as_fd(), place.path(), libc::O_PATH, 0, Resolve::Plain)
    }

    /// A handle on what is at the place, made first where it is missing.
    pub fn ensure(&self, place: &Place, entry: Entry) -> Result<OwnedFd, Errno> {
        match self.find(place) {
            Err(errno) if errno.raw() == libc::ENOENT => {}
            done => return done,
        }
        match entry {
            Entry::Directory => self.make_dirs(&place.prefixes),
            Entry::File => {
                let (parent, name) = self.parent(place)?;
                match fs::mknodat(parent.as_fd(), name, libc::S_IFREG | 0o644, 0) {
                    Err(errno) if errno.raw() != libc::EEXIST => Err(errno),
                    _ => self.find(place),
                }
            }
        }
    }

    /// The directory that the place is in, made where it is missing, and the name of the entry in it.
    pub fn parent<'a>(&self, place: &'a Place) -> Result<(OwnedFd, &'a CStr), Errno> {
        let (parent, name) = place.split();
        match self.open(parent, libc::O_PATH | libc::O_DIRECTORY) {
            Ok(dir) => Ok((dir, name)),
            Err(errno) if errno.raw() == libc::ENOENT => {
                let above = place.prefixes.len().saturating_sub(1);
                Ok((self.make_dirs(&place.prefixes[..above])?, name))
            }
            Err(errno) => Err(errno),
        }
    }

    /// Makes every directory on the way that is missing. Each is made in the directory found by descriptor just before,
    /// so a link that appears meanwhile is never followed out of the root; at worst the next lookup fails.
    fn make_dirs(&self, prefixes: &[CString]) -> Result<OwnedFd, Errno> {
        let mut dir = self.open(c".", libc::O_PATH | libc::O_DIRECTORY)?;
        for prefix in prefixes {
            dir = match self.open(prefix, libc::O_PATH | libc::O_DIRECTORY) {
                Err(errno) if errno.raw() == libc::ENOENT => match fs::mkdirat(dir.as_fd(), last_name(prefix), 0o755) {
                    Err(errno) if errno.raw() != libc::EEXIST => return Err(errno),
                    _ => self.open(prefix, libc::O_PATH | libc::O_DIRECTORY)?,
                },
                found => found?,
            };
        }
        Ok(dir)
    }
}

impl From<RootDir> for OwnedFd {
    fn from(root: RootDir) -> OwnedFd {
        root.0
    }
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(std::path::PathBuf, RootDir);

    impl Scratch {
        fn new(name: &str) -> Scratch {
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

    fn place(path: &str) -> Place {
        Place::new(path).unwrap()
    }

    #[test]
    fn paths_are_cut_up_lexically() {
        let cut = place("//a/./b/../c/");
        assert_eq!(cut.to_string(), "/a/c");
        assert_eq!(cut.split(), (c"a", c"c"));
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
    fn a_dangling_link_is_refused_rather_than_followed() {
        let Scratch(path, root) = &Scratch::new("dangling");
        std::os::unix::fs::symlink("/nowhere/at/all", path.join("link")).unwrap();
        assert!(root.ensure(&place("/link/sub"), Entry::Directory).is_err());
        assert!(root.ensure(&place("/link"), Entry::File).is_err());
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 1);
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
