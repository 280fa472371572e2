//! Mounts by file descriptor: fsopen(2), fsconfig(2), fsmount(2), open_tree(2), mount_setattr(2), move_mount(2).

use std::ffi::{CStr, c_char};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::errno::{Errno, check, check_fd};

const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSPICK_CLOEXEC: u32 = 1;
const FSPICK_EMPTY_PATH: u32 = 8;
const OPEN_TREE_CLONE: u32 = 1;
const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
const AT_RECURSIVE: u32 = 0x8000;

/// Attributes of a mount, as `struct mount_attr` of linux/mount.h (Linux 5.12).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountAttr {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear; the whole access-time field has to be cleared to change it.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`, or 0 to leave propagation alone.
    pub propagation: u64,
    /// A user namespace, with `MOUNT_ATTR_IDMAP`.
    pub userns_fd: u64,
}

/// `MOUNT_ATTR_*` of linux/mount.h.
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// Ignore set-user-id and set-group-id bits.
    pub const NOSUID: u64 = 0x2;
    /// No device nodes.
    pub const NODEV: u64 = 0x4;
    /// No programs.
    pub const NOEXEC: u64 = 0x8;
    /// The access-time field.
    pub const ATIME: u64 = 0x70;
    /// Access times are not updated.
    pub const NOATIME: u64 = 0x10;
    /// Access times are always updated.
    pub const STRICTATIME: u64 = 0x20;
    /// Access times of directories are not updated.
    pub const NODIRATIME: u64 = 0x80;
    /// The ids are mapped by a user namespace.
    pub const IDMAP: u64 = 0x10_0000;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// Whether a call covers the mounts below as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The one mount.
    One,
    /// It and everything mounted below.
    All,
}

/// fsopen(2): a context in which a new file system is configured.
pub fn fsopen(kind: &CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: `kind` is a C string that outlives the call.
    check_fd(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })
}

fn fsconfig(fs: BorrowedFd<'_>, command: u32, key: *const c_char, value: *const c_char) -> Result<(), Errno> {
    // SAFETY: the callers below pass C strings that outlive the call, or null where the command takes none.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), command, key, value, 0) }).map(drop)
}

/// fsconfig(2), `FSCONFIG_SET_STRING` (or `SET_FLAG` without a value).
pub fn fsconfig_set(fs: BorrowedFd<'_>, key: &CStr, value: Option<&CStr>) -> Result<(), Errno> {
    match value {
        Some(value) => fsconfig(fs, 1, key.as_ptr(), value.as_ptr()),
        None => fsconfig(fs, 0, key.as_ptr(), std::ptr::null()),
    }
}

/// fsconfig(2), `FSCONFIG_CMD_CREATE`: the super block comes to be.
pub fn fsconfig_create(fs: BorrowedFd<'_>) -> Result<(), Errno> {
    fsconfig(fs, 6, std::ptr::null(), std::ptr::null())
}

/// fspick(2): a context to change the super block of the file system that is mounted at `dir`.
pub fn fspick(dir: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = FSPICK_CLOEXEC | FSPICK_EMPTY_PATH;
    // SAFETY: the path is a static C string.
    check_fd(unsafe { libc::syscall(libc::SYS_fspick, dir.as_raw_fd(), c"".as_ptr(), flags) })
}

/// fsconfig(2), `FSCONFIG_CMD_RECONFIGURE`: the super block gets the new options.
pub fn fsconfig_reconfigure(fs: BorrowedFd<'_>) -> Result<(), Errno> {
    fsconfig(fs, 7, std::ptr::null(), std::ptr::null())
}

/// fsmount(2): a detached mount of the file system with these `MOUNT_ATTR_*`.
pub fn fsmount(fs: BorrowedFd<'_>, attributes: u64) -> Result<OwnedFd, Errno> {
    // SAFETY: fsmount reads three integers and no memory.
    check_fd(unsafe { libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), FSMOUNT_CLOEXEC, attributes as u32) })
}

/// open_tree(2) with `OPEN_TREE_CLONE`: a detached copy of the mount at `path` (relative to `dir`; an empty path is
/// `dir` itself). A final symbolic link is followed.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &CStr, depth: Depth) -> Result<OwnedFd, Errno> {
    let mut flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    if depth == Depth::All {
        flags |= AT_RECURSIVE;
    }
    // SAFETY: `path` is a C string that outlives the call.
    check_fd(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
}

/// [`clone_tree`] of an absolute path of the host. A final symbolic link is followed if so.
pub fn clone_path(path: &CStr, depth: Depth, follow: bool) -> Result<OwnedFd, Errno> {
    let recursive = if depth == Depth::All { AT_RECURSIVE } else { 0 };
    let nofollow = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW as u32 };
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | recursive | nofollow;
    // SAFETY: `path` is a C string that outlives the call.
    check_fd(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

/// mount_setattr(2) on the mount whose root is `path` (relative to `dir`; an empty path is `dir` itself).
pub fn mount_setattr(dir: BorrowedFd<'_>, path: &CStr, depth: Depth, attributes: &MountAttr) -> Result<(), Errno> {
    let mut flags = libc::AT_EMPTY_PATH as u32;
    if depth == Depth::All {
        flags |= AT_RECURSIVE;
    }
    let size = size_of::<MountAttr>();
    // SAFETY: `path` is a C string and `attributes` a mount_attr of `size` bytes; both outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size,
        )
    })
    .map(drop)
}

/// move_mount(2): attaches the detached mount `from` on the file or directory `to`.
pub fn move_mount(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    let empty = c"".as_ptr();
    // SAFETY: both paths are empty C strings of static life.
    check(unsafe { libc::syscall(libc::SYS_move_mount, from.as_raw_fd(), empty, to.as_raw_fd(), empty, flags) })
        .map(drop)
}

/// mount(2) that changes nothing but propagation (`MS_*`). Not mount_setattr(2): before Linux 6.9 that refuses a root
/// without a parent, which is what a root on the initial ramfs or in another container is.
pub fn set_propagation(path: &CStr, flags: u64, depth: Depth) -> Result<(), Errno> {
    let none = std::ptr::null::<c_char>();
    let recursive = if depth == Depth::All { libc::MS_REC } else { 0 };
    // SAFETY: `path` is a C string that outlives the call; source, type and data may be null for propagation.
    check(unsafe { libc::mount(none, path.as_ptr(), none, flags | recursive, none.cast()) }.into()).map(drop)
}

/// pivot_root(2) of the working directory: it becomes `/`, with the old root stacked on top of it.
pub fn pivot_here() -> Result<(), Errno> {
    // SAFETY: both paths are static C strings.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) }).map(drop)
}

/// umount2(2) with `MNT_DETACH`, of the last name of `path` itself where that is a link.
pub fn detach_entry(path: &CStr) -> Result<(), Errno> {
    // SAFETY: `path` is a C string that outlives the call.
    check(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) }.into()).map(drop)
}

/// umount2(2) with `MNT_DETACH`.
pub fn detach(path: &CStr) -> Result<(), Errno> {
    // SAFETY: `path` is a C string that outlives the call.
    check(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) }.into()).map(drop)
}
