//! The directory that the last steps worked in, kept open: a dozen nodes and links in `/dev`, a directory and a mount
//! for every cgroup tree. Each would otherwise be looked up from the root again.
//!
//! What is kept was reached without a symbolic link, and entries are opened in it strictly: no link, no mount point.
//! Where that does not do, the whole path is walked as ever. It is forgotten as soon as something was mounted that is
//! not an entry of it, and by every step that might move things about.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Entry, Place, RootDir};
use crate::sys::Errno;
use crate::sys::fs::{self, Resolve};

/// Longest path that is remembered.
const LONGEST: usize = 128;

/// One directory and its path below the root; no memory from the heap.
#[derive(Debug)]
pub(super) struct Near {
    path: [u8; LONGEST],
    length: usize,
    dir: Option<OwnedFd>,
}

impl Near {
    pub(super) const fn nowhere() -> Near {
        Near { path: [0; LONGEST], length: 0, dir: None }
    }

    fn is(&self, path: &CStr) -> bool {
        self.path[..self.length] == *path.to_bytes()
    }

    fn dir(&self, path: &CStr) -> Option<BorrowedFd<'_>> {
        self.dir.as_ref().filter(|_| self.is(path)).map(AsFd::as_fd)
    }

    fn keep(&mut self, path: &CStr, dir: OwnedFd) {
        let bytes = path.to_bytes();
        if let Some(room) = self.path.get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
            (self.length, self.dir) = (bytes.len(), Some(dir));
        }
    }
}

impl RootDir {
    /// Something was mounted at the place: what is at hand may be covered by it now.
    pub fn attached(&self, place: &Place) {
        if !self.near.borrow().is(place.split().0) {
            self.forget();
        }
    }

    /// Nothing is at hand any more.
    pub fn forget(&self) {
        self.near.borrow_mut().dir = None;
    }

    /// The entry, if its directory is at hand and it is an ordinary one there, or none at all (`ENOENT`).
    pub(super) fn find_near(&self, place: &Place) -> Option<Result<OwnedFd, Errno>> {
        let (parent, name) = place.split();
        let found = fs::openat2(self.near.borrow().dir(parent)?, name, libc::O_PATH, 0, Resolve::Strict);
        match found {
            Err(errno) if errno.raw() == libc::EXDEV => None,
            Err(errno) if errno.raw() == libc::ELOOP => {
                // What is mounted over a link may cover the directory itself.
                self.forget();
                None
            }
            found => Some(found),
        }
    }

    /// Makes the entry, if its directory can be reached without a link and has none of this name.
    pub(super) fn make_near(&self, place: &Place, entry: Entry) -> Option<Result<OwnedFd, Errno>> {
        let (parent, name) = place.split();
        self.approach(parent)?;
        let near = self.near.borrow();
        let dir = near.dir(parent)?;
        let made = match entry {
            Entry::Directory => fs::mkdirat(dir, name, 0o755),
            Entry::File => fs::mknodat(dir, name, libc::S_IFREG | 0o644, 0),
        };
        made.ok()?;
        Some(fs::openat2(dir, name, libc::O_PATH, 0, Resolve::Strict))
    }

    /// Does something in the directory that the place is in, which is made where it is missing.
    pub fn within<T>(
        &self,
        place: &Place,
        act: impl FnOnce(BorrowedFd<'_>, &CStr) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (parent, name) = place.split();
        if self.approach(parent).is_some()
            && let Some(dir) = self.near.borrow().dir(parent)
        {
            return act(dir, name);
        }
        let (dir, name) = self.parent(place)?;
        act(dir.as_fd(), name)
    }

    /// Gets the directory at hand; `None` where a link leads to it, or where it is not there.
    fn approach(&self, parent: &CStr) -> Option<()> {
        let mut near = self.near.borrow_mut();
        if near.dir(parent).is_none() {
            let flags = libc::O_PATH | libc::O_DIRECTORY;
            near.keep(parent, fs::openat2(self.dir.as_fd(), parent, flags, 0, Resolve::Plain).ok()?);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Scratch, place};
    use super::*;
    use std::os::unix::fs::symlink;

    fn with_dev(name: &str) -> Scratch {
        let made = Scratch::new(name);
        std::fs::create_dir(made.0.join("dev")).unwrap();
        made
    }

    fn identity(fd: &OwnedFd) -> (u64, u64) {
        let about = fs::fstat(fd.as_fd()).unwrap();
        (about.st_dev, about.st_ino)
    }

    #[test]
    fn entries_are_found_where_they_are_with_and_without_the_directory_at_hand() {
        let Scratch(path, root) = &with_dev("near-found");
        let made = root.ensure(&place("/dev/pts"), Entry::Directory).unwrap();
        assert!(root.near.borrow().dir(c"dev").is_some());
        let near = root.find(&place("/dev/pts")).unwrap();
        root.forget();
        let far = root.find(&place("/dev/pts")).unwrap();
        assert_eq!((identity(&made), identity(&near)), (identity(&far), identity(&far)));
        root.ensure(&place("/dev/file"), Entry::File).unwrap();
        assert!(path.join("dev/file").is_file() && path.join("dev/pts").is_dir());
        root.within(&place("/dev/link"), |dir, name| fs::symlinkat(c"/", dir, name)).unwrap();
        assert!(path.join("dev/link").is_symlink());
    }

    #[test]
    fn links_are_followed_inside_though_their_directory_is_at_hand() {
        let Scratch(path, root) = &with_dev("near-links");
        std::fs::create_dir(path.join("other")).unwrap();
        symlink("/other", path.join("dev/out")).unwrap();
        symlink("/../../other/new", path.join("dev/up")).unwrap();
        symlink("/other", path.join("alias")).unwrap();
        root.ensure(&place("/dev/a"), Entry::Directory).unwrap();
        let out = root.find(&place("/dev/out")).unwrap();
        assert_eq!(identity(&out), identity(&root.find(&place("/other")).unwrap()));
        assert!(root.near.borrow().dir(c"dev").is_none(), "what is mounted there may cover dev");
        root.ensure(&place("/dev/b"), Entry::Directory).unwrap();
        root.ensure(&place("/dev/up"), Entry::Directory).unwrap();
        assert!(path.join("other/new").is_dir(), "inside of the root");
        root.within(&place("/alias/node"), |dir, name| fs::mkdirat(dir, name, 0o755)).unwrap();
        assert!(path.join("other/node").is_dir());
        assert_eq!(root.find_plain(&place("/dev/out")).unwrap_err().raw(), libc::ELOOP);
    }

    #[test]
    fn what_is_covered_is_forgotten() {
        let Scratch(path, root) = &with_dev("near-covered");
        root.ensure(&place("/dev/pts"), Entry::Directory).unwrap();
        root.attached(&place("/dev/pts"));
        assert!(root.near.borrow().dir(c"dev").is_some(), "an entry of it covers nothing else");
        for covers in ["/dev", "/", "/elsewhere"] {
            root.ensure(&place("/dev/more"), Entry::Directory).unwrap();
            root.attached(&place(covers));
            assert!(root.near.borrow().dir(c"dev").is_none(), "{covers}");
            std::fs::remove_dir(path.join("dev/more")).unwrap();
        }
    }

    #[test]
    fn a_long_path_is_not_remembered_but_works() {
        let Scratch(path, root) = &with_dev("near-long");
        let long = format!("/{}/entry", "d".repeat(LONGEST + 1));
        root.ensure(&place(&long), Entry::Directory).unwrap();
        assert!(path.join(&long[1..]).is_dir());
    }
}
