//! What an ended criu leaves mounted in its directory: a tmpfs on which it had the cgroups of the images.
//!
//! criu takes it away when it ends by itself. One that waits for processes which the audit has killed does not end, so it
//! is killed, and its yard is taken away here. Only what was not there before goes, and never through a link.

use std::collections::HashSet;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;

use crate::sys::mount;

/// criu's name for it (criu/cgroup.c), completed by mkdtemp(3).
const NAME: &str = ".criu.cgyard.";

/// The directory in which criu works, and the yards that others have in it.
pub(super) struct Yard<'a> {
    dir: BorrowedFd<'a>,
    others: HashSet<OsString>,
}

impl<'a> Yard<'a> {
    /// Before criu is started: remembers what is there.
    pub(super) fn before(dir: BorrowedFd<'a>) -> Yard<'a> {
        Yard { dir, others: yards(dir).collect() }
    }

    /// After it has ended, however it did.
    pub(super) fn clear(&self) {
        for name in yards(self.dir).filter(|name| !self.others.contains(name)) {
            let path = format!("{}/", at(self.dir)).into_bytes().into_iter().chain(name.as_bytes().iter().copied());
            let path: Vec<u8> = path.collect();
            if let Ok(whole) = CString::new(path.clone()) {
                let _ = mount::detach_entry(&whole);
            }
            // A directory only, and an empty one.
            let _ = fs::remove_dir(OsStr::from_bytes(&path));
        }
    }
}

fn at(dir: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", dir.as_raw_fd())
}

fn yards(dir: BorrowedFd<'_>) -> impl Iterator<Item = OsString> {
    let entries = fs::read_dir(at(dir)).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| entry.file_name()).filter(|name| name.as_bytes().starts_with(NAME.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn what_was_not_there_before_goes_and_nothing_else() {
        let dir = std::env::temp_dir().join(format!("gantry-criu-yard-{}", std::process::id()));
        fs::create_dir_all(dir.join(".criu.cgyard.others")).unwrap();
        let opened = fs::File::open(&dir).unwrap();
        let yard = Yard::before(opened.as_fd());
        for name in [".criu.cgyard.ours", "images", ".criu.cgyard.full"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        fs::write(dir.join(".criu.cgyard.full/file"), "").unwrap();
        fs::write(dir.join(".criu.cgyard.file"), "").unwrap();
        std::os::unix::fs::symlink("images", dir.join(".criu.cgyard.link")).unwrap();
        yard.clear();
        let mut left: Vec<String> =
            fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        let kept = [".criu.cgyard.file", ".criu.cgyard.full", ".criu.cgyard.link", ".criu.cgyard.others", "images"];
        assert_eq!(left, kept);
        fs::remove_dir_all(&dir).unwrap();
    }
}
