//! DO: `tmpcopyup`: a new tmpfs starts with what the directory has that it covers.
//!
//! The directory belongs to an image, and perhaps to other containers that change it meanwhile. Every entry is opened
//! by its name in a directory that is open already, without following a link and without leaving the one mount; nothing
//! is ever looked up by a path. What is mounted below is not copied: it becomes an empty directory or file. The depth is
//! bounded by the stack, the number of entries by a limit, the bytes by the size of the tmpfs.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::fs::{self, Resolve};
use crate::sys::{Errno, copy};

/// Directories in directories.
const DEEPEST: u32 = 128;

/// Entries in all.
const MOST: u32 = 1 << 20;

/// Copies what is in the directory `from` (a handle) to the root of the detached mount `to`.
pub(super) fn copy(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let open = |dir: &OwnedFd| fs::openat2(dir.as_fd(), c".", DIRECTORY, 0, Resolve::Strict);
    let (from, to) = (open(from)?, open(to)?);
    let mut left = MOST;
    content(from.as_fd(), to.as_fd(), DEEPEST, &mut left)?;
    let about = fs::fstat(from.as_fd())?;
    own(to.as_fd(), &about)?;
    copy::attributes(from.as_fd(), to.as_fd())?;
    copy::set_times(to.as_fd(), c"", &about)
}

const DIRECTORY: i32 = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;

/// Copies every entry of one directory.
fn content(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: u32, left: &mut u32) -> Result<(), Errno> {
    let depth = depth.checked_sub(1).ok_or(Errno::from_raw(libc::E2BIG))?;
    let mut names = [0; copy::NAMES];
    loop {
        let read = copy::entries(from, &mut names)?;
        if read == 0 {
            return Ok(());
        }
        let mut at = 0;
        while let Some((name, next)) = copy::entry_at(&names[..read], at) {
            at = next;
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            *left = left.checked_sub(1).ok_or(Errno::from_raw(libc::E2BIG))?;
            match entry(from, to, name, depth, left) {
                // Gone meanwhile.
                Err(errno) if errno.raw() == libc::ENOENT => {}
                done => done?,
            }
        }
    }
}

fn entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: u32, left: &mut u32) -> Result<(), Errno> {
    let about = copy::stat_entry(from, name)?;
    match about.st_mode & libc::S_IFMT {
        libc::S_IFDIR => directory(from, to, name, depth, left),
        libc::S_IFREG => file(from, to, name),
        libc::S_IFLNK => {
            let mut buffer = [0; 4096];
            fs::symlinkat(copy::read_link(from, name, &mut buffer)?, to, name)?;
            own_link(to, name, &about)?;
            copy::set_times(to, name, &about)
        }
        _ => {
            fs::mknodat(to, name, about.st_mode, about.st_rdev)?;
            own_link(to, name, &about)?;
            copy::chmod_entry(to, name, about.st_mode & 0o7777)?;
            copy::set_times(to, name, &about)
        }
    }
}

/// Opens an entry; `None` for one that something is mounted on.
fn open(from: BorrowedFd<'_>, name: &CStr, flags: i32) -> Result<Option<OwnedFd>, Errno> {
    match fs::openat2(from, name, flags, 0, Resolve::Strict) {
        Err(errno) if errno.raw() == libc::EXDEV => Ok(None),
        opened => opened.map(Some),
    }
}

fn directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: u32, left: &mut u32) -> Result<(), Errno> {
    fs::mkdirat(to, name, 0o755)?;
    let Some(from) = open(from, name, DIRECTORY)? else { return Ok(()) };
    let to = fs::openat2(to, name, DIRECTORY, 0, Resolve::Strict)?;
    content(from.as_fd(), to.as_fd(), depth, left)?;
    let about = fs::fstat(from.as_fd())?;
    own(to.as_fd(), &about)?;
    copy::chmod(to.as_fd(), about.st_mode & 0o7777)?;
    copy::attributes(from.as_fd(), to.as_fd())?;
    copy::set_times(to.as_fd(), c"", &about)
}

fn file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let create = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    let to = fs::openat2(to, name, create, 0o600, Resolve::Strict)?;
    // Non-blocking: a pipe may have taken its place.
    let Some(from) = open(from, name, libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK)? else { return Ok(()) };
    let about = fs::fstat(from.as_fd())?;
    if about.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Errno::from_raw(libc::ESTALE));
    }
    copy::content(from.as_fd(), to.as_fd(), about.st_size)?;
    own(to.as_fd(), &about)?;
    copy::chmod(to.as_fd(), about.st_mode & 0o7777)?;
    copy::attributes(from.as_fd(), to.as_fd())?;
    copy::set_times(to.as_fd(), c"", &about)
}

/// The owner, where this user namespace knows and allows it.
fn own(to: BorrowedFd<'_>, about: &libc::stat) -> Result<(), Errno> {
    allowed(fs::fchown(to, about.st_uid, about.st_gid))
}

fn own_link(to: BorrowedFd<'_>, name: &CStr, about: &libc::stat) -> Result<(), Errno> {
    allowed(fs::chown_entry(to, name, Some(about.st_uid), Some(about.st_gid)))
}

fn allowed(done: Result<(), Errno>) -> Result<(), Errno> {
    match done {
        Err(errno) if matches!(errno.raw(), libc::EPERM | libc::EINVAL) => Ok(()),
        done => done,
    }
}
