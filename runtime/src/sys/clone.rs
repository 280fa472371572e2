//! Processes and namespaces: clone3(2), setns(2), unshare(2), pidfds and waitid(2).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::Solo;
use super::errno::{Errno, check, check_fd};

/// Namespaces of clone3 and setns, as the kernel numbers them.
pub mod flags {
    /// Mounts.
    pub const MOUNT: u64 = libc::CLONE_NEWNS as u64;
    /// Control groups.
    pub const CGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
    /// Host and domain name.
    pub const UTS: u64 = libc::CLONE_NEWUTS as u64;
    /// System V and POSIX message queues.
    pub const IPC: u64 = libc::CLONE_NEWIPC as u64;
    /// User and group ids.
    pub const USER: u64 = libc::CLONE_NEWUSER as u64;
    /// Process ids.
    pub const PID: u64 = libc::CLONE_NEWPID as u64;
    /// Network.
    pub const NETWORK: u64 = libc::CLONE_NEWNET as u64;
    /// Monotonic and boot-time clocks.
    pub const TIME: u64 = 0x80;
}

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of linux/sched.h, up to `cgroup` (Linux 5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// On which side of the clone the caller is.
#[derive(Debug)]
pub enum Side {
    /// The new process.
    Child,
    /// The old one, with the new one's pid and pidfd.
    Parent(i32, OwnedFd),
}

/// clone3(2) with fork semantics: a copy of this process in the new namespaces `flags`, born in `cgroup` (a directory
/// of a v2 hierarchy) where one is given.
pub fn clone3(_alone: &Solo, flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Side, Errno> {
    let mut pidfd: i32 = -1;
    let args = CloneArgs {
        flags: flags | CLONE_PIDFD | if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 },
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
        ..CloneArgs::default()
    };
    let size = if cgroup.is_some() { size_of::<CloneArgs>() } else { 80 };
    // SAFETY: `args` is a valid clone_args of `size` bytes whose pidfd pointer outlives the call; without CLONE_VM the
    // child works on a copy of this memory, and `Solo` proves that no other thread held a lock at the copy.
    let made = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size) });
    let made = match made {
        // A filter that cannot look into memory says so (Docker's does); a hook may have to be started under it.
        Err(errno) if errno.raw() == libc::ENOSYS && cgroup.is_none() && flags == 0 => {
            let flags = CLONE_PIDFD | libc::SIGCHLD as u64;
            // SAFETY: fork semantics as above: no new stack and no shared memory; the pidfd is stored where parent_tid
            // points, which outlives the call.
            check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) })
        }
        made => made,
    };
    match made? {
        0 => Ok(Side::Child),
        // SAFETY: clone3 succeeded with CLONE_PIDFD, so the kernel stored a descriptor that is ours alone.
        pid => Ok(Side::Parent(pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// clone3(2) of a sibling: a copy of this process in the new namespaces `flags`, whose parent is this one's. The pid is
/// that in this process' own PID namespace, whichever its children are born into.
pub fn clone_sibling(_alone: &Solo, flags: u64) -> Result<Side, Errno> {
    let mut pidfd: i32 = -1;
    let flags = flags | CLONE_PIDFD | CLONE_PARENT;
    // The signal at exit is the caller's own: with CLONE_PARENT none may be named.
    let args = CloneArgs { flags, pidfd: &raw mut pidfd as u64, ..CloneArgs::default() };
    // SAFETY: as in `clone3`: a copy of this memory, of a process that `Solo` proves to be alone, and a pidfd pointer
    // that outlives the call.
    let ret = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })?;
    match ret {
        0 => Ok(Side::Child),
        // SAFETY: clone3 succeeded with CLONE_PIDFD, so the kernel stored a descriptor that is ours alone.
        pid => Ok(Side::Parent(pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// setns(2): enters the namespaces `flags` that `fd` (a namespace or, with several flags, a pidfd) stands for.
pub fn setns(fd: BorrowedFd<'_>, flags: u64) -> Result<(), Errno> {
    // SAFETY: setns reads two integers and no memory.
    check(unsafe { libc::syscall(libc::SYS_setns, fd.as_raw_fd(), flags as libc::c_int) }).map(drop)
}

/// unshare(2): moves this process into new namespaces `flags`.
pub fn unshare(flags: u64) -> Result<(), Errno> {
    // SAFETY: unshare reads one integer and no memory.
    check(unsafe { libc::syscall(libc::SYS_unshare, flags as libc::c_int) }).map(drop)
}

/// pidfd_open(2): a handle on the process that has this number now.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_open reads two integers and no memory.
    check_fd(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// pidfd_getfd(2): a copy of a descriptor of that process.
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, number: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_getfd reads three integers and no memory; what it returns is new and ours.
    check_fd(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) })
}

/// pidfd_send_signal(2).
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed and means the one that kill(2) would send.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) }).map(drop)
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It called exit with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl Exit {
    /// As a shell shows it: the code, or 128 and the signal.
    pub fn shell_code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

/// What to do with a child that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reap {
    /// Take its status and free its pid.
    Yes,
    /// Only look (`WNOWAIT`): it stays a zombie.
    No,
}

/// waitid(2) on a child's pidfd; blocks until it has ended, and starts again after a signal handler ran.
pub fn wait(pidfd: BorrowedFd<'_>, reap: Reap) -> Result<Exit, Errno> {
    let options = libc::WEXITED | if reap == Reap::No { libc::WNOWAIT } else { 0 };
    loop {
        // SAFETY: an all-zero siginfo_t is valid: it is a C struct of integers and pointers.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is writable for the whole call.
        let ret = unsafe { libc::waitid(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t, &raw mut info, options) };
        match check(ret.into()) {
            Ok(_) => {
                // SAFETY: waitid filled `info` in for a child, so si_status is the member that is set.
                let status = unsafe { info.si_status() };
                return Ok(if info.si_code == libc::CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) });
            }
            Err(errno) if errno.raw() == libc::EINTR => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Kills a child and reaps it. Nothing can be done about a failure: it is gone already, or somebody else reaped it.
pub fn kill_and_reap(pidfd: BorrowedFd<'_>) {
    let _ = pidfd_send_signal(pidfd, libc::SIGKILL);
    let _ = wait(pidfd, Reap::Yes);
}

/// poll(2): whether `fd` is readable (a pidfd: its process has ended) before so many milliseconds are over; -1 waits
/// for ever. A signal handler that runs meanwhile starts the time again.
pub fn wait_readable(fd: BorrowedFd<'_>, milliseconds: i32) -> Result<bool, Errno> {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: `poll` is one writable pollfd.
        match check(unsafe { libc::poll(&raw mut poll, 1, milliseconds) }.into()) {
            Err(errno) if errno.raw() == libc::EINTR => {}
            done => return done.map(|ready| ready > 0),
        }
    }
}
