//! What copying a tree takes, entry by entry: getdents64(2), fstatat(2), readlinkat(2), sendfile(2), xattr(7).

use std::ffi::{CStr, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::errno::{Errno, check};

/// Bytes of names that one look into a directory brings.
pub const NAMES: usize = 4096;

/// Reads some entries of a directory as `linux_dirent64`; returns how many bytes, 0 at the end.
pub fn entries(dir: BorrowedFd<'_>, into: &mut [u8; NAMES]) -> Result<usize, Errno> {
    // SAFETY: `into` is writable for its length.
    let ret = unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), into.as_mut_ptr(), into.len()) };
    check(ret).map(|read| read as usize)
}

/// The entry at `at` in what [`entries`] read: its name, and where the next one starts. `None` behind the last.
pub fn entry_at(read: &[u8], at: usize) -> Option<(&CStr, usize)> {
    // d_ino (8), d_off (8), d_reclen (2), d_type (1), d_name.
    let length = u16::from_ne_bytes(read.get(at + 16..at + 18)?.try_into().ok()?);
    let name = CStr::from_bytes_until_nul(read.get(at + 19..at + usize::from(length))?).ok()?;
    Some((name, at + usize::from(length)))
}

/// fstatat(2) of the entry itself.
pub fn stat_entry(dir: BorrowedFd<'_>, name: &CStr) -> Result<libc::stat, Errno> {
    // SAFETY: an all-zero stat is valid: it is a C struct of integers.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: `name` is a C string, `stat` writable; both outlive the call.
    check(unsafe { libc::fstatat(dir.as_raw_fd(), name.as_ptr(), &raw mut stat, flags) }.into())?;
    Ok(stat)
}

/// readlinkat(2) as a C string in `into`; an empty `name` reads the link that `dir` stands for. `ENAMETOOLONG` where it
/// does not fit.
pub fn read_link<'a>(dir: BorrowedFd<'_>, name: &CStr, into: &'a mut [u8]) -> Result<&'a CStr, Errno> {
    // SAFETY: `name` is a C string, `into` writable for its length; both outlive the call.
    let ret = unsafe { libc::readlinkat(dir.as_raw_fd(), name.as_ptr(), into.as_mut_ptr().cast(), into.len()) };
    let length = check(ret as libc::c_long)? as usize;
    match into.get_mut(length) {
        Some(end) => *end = 0,
        None => return Err(Errno::from_raw(libc::ENAMETOOLONG)),
    }
    CStr::from_bytes_until_nul(into).map_err(|_| Errno::from_raw(libc::ENAMETOOLONG))
}

/// Copies the content of a regular file of `size` bytes; holes stay holes.
pub fn content(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: i64) -> Result<(), Errno> {
    let seek = |fd: BorrowedFd<'_>, at: i64, whence: i32| {
        // SAFETY: lseek reads three integers and no memory.
        check(unsafe { libc::lseek(fd.as_raw_fd(), at, whence) } as libc::c_long)
    };
    // SAFETY: ftruncate reads two integers and no memory.
    check(unsafe { libc::ftruncate(to.as_raw_fd(), size) }.into())?;
    let mut at = 0;
    while at < size {
        let start = match seek(from, at, libc::SEEK_DATA) {
            Err(errno) if errno.raw() == libc::ENXIO => return Ok(()),
            start => start?.min(size),
        };
        let end = seek(from, start, libc::SEEK_HOLE)?.min(size);
        seek(to, start, libc::SEEK_SET)?;
        at = start;
        while at < end {
            let count = (end - at).min(1 << 30) as usize;
            // SAFETY: `at` is writable for the whole call.
            let sent = unsafe { libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), &raw mut at, count) };
            // Shortened meanwhile.
            if check(sent as libc::c_long)? == 0 {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// fchmod(2).
pub fn chmod(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    // SAFETY: fchmod reads two integers and no memory.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) }.into()).map(drop)
}

/// fchmodat(2) of an entry that this process has just made and that nobody else can see.
pub fn chmod_entry(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: `name` is a C string that outlives the call.
    check(unsafe { libc::fchmodat(dir.as_raw_fd(), name.as_ptr(), mode, 0) }.into()).map(drop)
}

/// utimensat(2) of the entry itself, with the times of `like`; an empty name is `dir` itself.
pub fn set_times(dir: BorrowedFd<'_>, name: &CStr, like: &libc::stat) -> Result<(), Errno> {
    let times = [
        libc::timespec { tv_sec: like.st_atime, tv_nsec: like.st_atime_nsec as _ },
        libc::timespec { tv_sec: like.st_mtime, tv_nsec: like.st_mtime_nsec as _ },
    ];
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    // SAFETY: `name` is a C string, `times` two timespecs; both outlive the call.
    check(unsafe { libc::utimensat(dir.as_raw_fd(), name.as_ptr(), times.as_ptr(), flags) }.into()).map(drop)
}

/// Copies the extended attributes of one open file to another; those that the other's file system or this process'
/// rights do not allow are left out.
pub fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let (mut names, mut value) = ([0u8; 4096], [0u8; 4096]);
    // SAFETY: `names` is writable for its length.
    let ret = unsafe { libc::flistxattr(from.as_raw_fd(), names.as_mut_ptr().cast(), names.len()) };
    let length = match check(ret as libc::c_long) {
        Err(errno) if errno.raw() == libc::EOPNOTSUPP => return Ok(()),
        length => length? as usize,
    };
    let mut rest = &names[..length];
    while let Ok(name) = CStr::from_bytes_until_nul(rest) {
        rest = &rest[name.to_bytes_with_nul().len()..];
        let into = value.as_mut_ptr().cast::<c_void>();
        // SAFETY: `name` is a C string, `value` writable for its length; both outlive the call.
        let ret = unsafe { libc::fgetxattr(from.as_raw_fd(), name.as_ptr(), into, value.len()) };
        let Ok(size) = check(ret as libc::c_long) else { continue };
        let bytes = value.as_ptr().cast::<c_void>();
        // SAFETY: `name` is a C string, `value` readable for `size`, which fgetxattr has filled.
        let ret = unsafe { libc::fsetxattr(to.as_raw_fd(), name.as_ptr(), bytes, size as usize, 0) };
        match check(ret.into()) {
            Err(errno) if matches!(errno.raw(), libc::EOPNOTSUPP | libc::EPERM | libc::EINVAL) => {}
            done => drop(done?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn entries_are_all_there() {
        let dir = std::env::temp_dir().join(format!("gantry-entries-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        for number in 0..300 {
            fs::write(dir.join(format!("a-rather-long-name-{number}")), "").unwrap();
        }
        let open = fs::File::open(&dir).unwrap();
        let (mut buffer, mut count) = ([0; NAMES], 0);
        loop {
            let read = entries(open.as_fd(), &mut buffer).unwrap();
            if read == 0 {
                break;
            }
            let mut at = 0;
            while let Some((name, next)) = entry_at(&buffer[..read], at) {
                count += usize::from(!name.to_bytes().starts_with(b"."));
                at = next;
            }
        }
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(count, 300);
    }

    #[test]
    fn holes_stay_holes() {
        let path = std::env::temp_dir().join(format!("gantry-holes-{}", std::process::id()));
        let mut from = fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        from.seek(SeekFrom::Start(64 << 20)).unwrap();
        from.write_all(b"middle").unwrap();
        from.set_len(128 << 20).unwrap();
        let mut to =
            fs::File::options().read(true).write(true).create_new(true).open(path.with_extension("to")).unwrap();
        content(from.as_fd(), to.as_fd(), 128 << 20).unwrap();
        let about = to.metadata().unwrap();
        to.seek(SeekFrom::Start(64 << 20)).unwrap();
        let mut middle = [0; 6];
        to.read_exact(&mut middle).unwrap();
        fs::remove_file(&path).unwrap();
        fs::remove_file(path.with_extension("to")).unwrap();
        assert_eq!((about.len(), &middle), (128 << 20, b"middle"));
        assert!(about.blocks() * 512 < 1 << 20, "{}", about.blocks());
    }
}
