//! Files by descriptor: openat2(2) and the calls that act on what it resolved.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::errno::{Errno, check, check_fd};
use super::mount::attr;

/// How far a path may lead (linux/openat2.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolve {
    /// `dir` is `/` for absolute paths, symbolic links and `..`; magic links are refused.
    InRoot,
    /// As `InRoot`, but a symbolic link anywhere in the path is refused.
    Plain,
    /// Nothing but plain entries of one mount: no symbolic links, no mount points, nothing above `dir`.
    Strict,
    /// As `Strict`, but ordinary symbolic links (procfs' `self`) are followed.
    OneMount,
}

const RESOLVE_NO_XDEV: u64 = 0x01;
const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
const RESOLVE_NO_SYMLINKS: u64 = 0x04;
const RESOLVE_BENEATH: u64 = 0x08;
const RESOLVE_IN_ROOT: u64 = 0x10;

impl Resolve {
    const fn bits(self) -> u64 {
        match self {
            Resolve::InRoot => RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
            Resolve::Plain => RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS,
            Resolve::Strict => RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
            Resolve::OneMount => RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
        }
    }
}

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// openat2(2); `O_CLOEXEC` is always set. `mode` counts with `O_CREAT` only.
pub fn openat2(dir: BorrowedFd<'_>, path: &CStr, flags: i32, mode: u32, resolve: Resolve) -> Result<OwnedFd, Errno> {
    let how = OpenHow { flags: (flags | libc::O_CLOEXEC) as u64, mode: mode.into(), resolve: resolve.bits() };
    let size = size_of::<OpenHow>();
    loop {
        // SAFETY: `path` is a C string and `how` an open_how of `size` bytes; both outlive the call.
        let ret =
            check_fd(unsafe { libc::syscall(libc::SYS_openat2, dir.as_raw_fd(), path.as_ptr(), &raw const how, size) });
        match ret {
            // EAGAIN: a rename raced with the walk (openat2(2)); trying again is the documented answer.
            Err(errno) if errno.raw() == libc::EAGAIN || errno.raw() == libc::EINTR => {}
            done => return done,
        }
    }
}

/// openat(2) on a path of the host that the container has no say in; `O_CLOEXEC` is always set.
pub fn open(path: &CStr, flags: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: `path` is a C string that outlives the call.
    check_fd(unsafe { libc::openat(libc::AT_FDCWD, path.as_ptr(), flags | libc::O_CLOEXEC, 0) }.into())
}

/// As [`open`], for a path that is no C string yet. Not std's: musl's open(2) sets the close-on-exec flag twice.
pub fn open_path(path: &Path, flags: i32) -> Result<OwnedFd, Errno> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::from_raw(libc::EINVAL))?;
    open(&path, flags)
}

/// The whole of a small file, as those of procfs and of cgroups are: they tell no size, so std would ask in vain and
/// then read in steps of 32 bytes.
pub fn read_small(path: &Path) -> Result<Vec<u8>, Errno> {
    let file = open_path(path, libc::O_RDONLY)?;
    let mut bytes = vec![0; 4096];
    let mut length = 0;
    loop {
        match read(file.as_fd(), &mut bytes[length..])? {
            0 => break,
            more => length += more,
        }
        if length == bytes.len() {
            bytes.resize(length * 2, 0);
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// As [`read_small`], as text; what is not UTF-8 is replaced.
pub fn read_text(path: &Path) -> Result<String, Errno> {
    let bytes = read_small(path)?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|why| String::from_utf8_lossy(why.as_bytes()).into_owned()))
}

/// A new handle on what the `O_PATH` handle `fd` stands for, by way of its entry below `proc` (a verified procfs).
pub fn reopen(proc: BorrowedFd<'_>, fd: BorrowedFd<'_>, flags: i32) -> Result<OwnedFd, Errno> {
    let mut path = [0u8; 32];
    let prefix = b"self/fd/";
    path[..prefix.len()].copy_from_slice(prefix);
    write_decimal(fd.as_raw_fd() as u32, &mut path[prefix.len()..]);
    // SAFETY: `path` ends with the zero bytes that write_decimal left alone.
    check_fd(unsafe { libc::openat(proc.as_raw_fd(), path.as_ptr().cast(), flags | libc::O_CLOEXEC, 0) }.into())
}

/// Writes `number` in decimal to the start of `into`; returns the length. The child cannot format.
pub fn write_decimal(mut number: u32, into: &mut [u8]) -> usize {
    let mut digits = [0u8; 10];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    let length = digits.len() - at;
    into[..length].copy_from_slice(&digits[at..]);
    length
}

/// mkdirat(2); the mode is not subject to a umask only where the caller has cleared it.
pub fn mkdirat(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: `name` is a C string that outlives the call.
    check(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) }.into()).map(drop)
}

/// mknodat(2).
pub fn mknodat(dir: BorrowedFd<'_>, name: &CStr, mode: u32, device: u64) -> Result<(), Errno> {
    // SAFETY: `name` is a C string that outlives the call.
    check(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, device) }.into()).map(drop)
}

/// symlinkat(2): `name` below `dir` leads to `target`.
pub fn symlinkat(target: &CStr, dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    // SAFETY: both are C strings that outlive the call.
    check(unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), name.as_ptr()) }.into()).map(drop)
}

/// fchownat(2) on the entry itself, without following it; `None` leaves an id alone.
pub fn chown_entry(dir: BorrowedFd<'_>, name: &CStr, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    let (uid, gid) = (uid.unwrap_or(u32::MAX), gid.unwrap_or(u32::MAX));
    // SAFETY: `name` is a C string that outlives the call.
    let ret = unsafe { libc::fchownat(dir.as_raw_fd(), name.as_ptr(), uid, gid, libc::AT_SYMLINK_NOFOLLOW) };
    check(ret.into()).map(drop)
}

/// fchown(2).
pub fn fchown(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
    // SAFETY: fchown reads three integers and no memory.
    check(unsafe { libc::fchown(fd.as_raw_fd(), uid, gid) }.into()).map(drop)
}

/// fstat(2); works on `O_PATH` handles too.
pub fn fstat(fd: BorrowedFd<'_>) -> Result<libc::stat, Errno> {
    // SAFETY: an all-zero stat is valid: it is a C struct of integers.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is writable for the whole call.
    check(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) }.into())?;
    Ok(stat)
}

/// fstatfs(2): the magic number of the file system that `fd` lies on (linux/magic.h).
pub fn magic(fd: BorrowedFd<'_>) -> Result<i64, Errno> {
    // SAFETY: an all-zero statfs is valid: it is a C struct of integers.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is writable for the whole call.
    check(unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut stat) }.into())?;
    #[allow(clippy::unnecessary_cast, reason = "the type of the field differs between C libraries")]
    Ok(stat.f_type as i64)
}

/// statfs(2): as [`magic`], of a path of the host.
pub fn magic_at(path: &CStr) -> Result<i64, Errno> {
    // SAFETY: an all-zero statfs is valid: it is a C struct of integers.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` is a C string and `stat` is writable for the whole call.
    check(unsafe { libc::statfs(path.as_ptr(), &raw mut stat) }.into())?;
    #[allow(clippy::unnecessary_cast, reason = "the type of the field differs between C libraries")]
    Ok(stat.f_type as i64)
}

/// fstatvfs(3): whether the mount or the file system that `fd` lies on is read-only.
pub fn is_read_only(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    // SAFETY: an all-zero statvfs is valid: it is a C struct of integers.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is writable for the whole call.
    check(unsafe { libc::fstatvfs(fd.as_raw_fd(), &raw mut stat) }.into())?;
    Ok(stat.f_flag & libc::ST_RDONLY != 0)
}

/// linux/statfs.h; the libc crate has it for glibc alone.
const ST_RELATIME: libc::c_ulong = 0x1000;

/// fstatvfs(3): the attributes of the mount that `fd` lies on, as `MOUNT_ATTR_*`. Those of its super block are mixed in
/// by the kernel (read-only).
pub fn mount_attributes(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    const ST_NOSYMFOLLOW: u64 = 0x2000;
    // SAFETY: an all-zero statvfs is valid: it is a C struct of integers.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is writable for the whole call.
    check(unsafe { libc::fstatvfs(fd.as_raw_fd(), &raw mut stat) }.into())?;
    let flags = stat.f_flag;
    let table = [
        (libc::ST_RDONLY, attr::RDONLY),
        (libc::ST_NOSUID, attr::NOSUID),
        (libc::ST_NODEV, attr::NODEV),
        (libc::ST_NOEXEC, attr::NOEXEC),
        (libc::ST_NOATIME, attr::NOATIME),
        (libc::ST_NODIRATIME, attr::NODIRATIME),
        (ST_NOSYMFOLLOW, attr::NOSYMFOLLOW),
    ];
    let found = table.iter().filter(|(flag, _)| flags & flag != 0).fold(0, |all, (_, attribute)| all | attribute);
    // No kind of access times at all is the strict one.
    let strict = flags & (libc::ST_NOATIME | ST_RELATIME) == 0;
    Ok(found | if strict { attr::STRICTATIME } else { 0 })
}

/// Seals of a memfd (`F_GET_SEALS`); `EINVAL` for anything else.
pub fn seals(fd: BorrowedFd<'_>) -> Result<i32, Errno> {
    // SAFETY: F_GET_SEALS reads integers only.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) }.into()).map(|seals| seals as i32)
}

/// write(2) of the whole of `bytes` in one go, as procfs, sysfs and cgroupfs want it.
pub fn write_once(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), Errno> {
    // SAFETY: `bytes` is readable for its length.
    let ret = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    match check(ret as libc::c_long)? {
        wrote if wrote as usize == bytes.len() => Ok(()),
        _ => Err(Errno::from_raw(libc::EIO)),
    }
}

/// read(2); starts again after a signal handler ran. 0 is the end.
pub fn read(fd: BorrowedFd<'_>, into: &mut [u8]) -> Result<usize, Errno> {
    loop {
        // SAFETY: `into` is writable for its length.
        let ret = unsafe { libc::read(fd.as_raw_fd(), into.as_mut_ptr().cast(), into.len()) };
        match check(ret as libc::c_long) {
            Err(errno) if errno.raw() == libc::EINTR => {}
            done => return done.map(|read| read as usize),
        }
    }
}

/// lseek(2) to the start.
pub fn rewind(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: lseek reads three integers and no memory.
    check(unsafe { libc::lseek(fd.as_raw_fd(), 0, libc::SEEK_SET) } as libc::c_long).map(drop)
}

/// fsetxattr(2).
pub fn set_attribute(fd: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: `name` is a C string and `value` readable for its length; both outlive the call.
    let ret = unsafe { libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    check(ret.into()).map(drop)
}

/// umask(2); returns the old mask.
pub fn umask(mask: u32) -> u32 {
    // SAFETY: umask reads one integer and cannot fail.
    unsafe { libc::umask(mask) }
}
