//! What a process is to the kernel: ids, capabilities, limits, keyrings, filters, its program.

use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::errno::{Errno, check, check_fd};

/// Longest `HOME=...` that fits into the room of [`CStringArray::with_home`], its end included.
const HOME_ROOM: usize = 512;

/// A null-terminated array of C strings, as execve(2) wants it; built before the clone, owns its strings.
#[derive(Debug)]
pub struct CStringArray {
    pointers: Vec<*const c_char>,
    strings: Vec<CString>,
    home: Vec<u8>,
}

impl Default for CStringArray {
    fn default() -> CStringArray {
        CStringArray::new(Vec::new())
    }
}

impl CStringArray {
    /// Takes the strings and lays the pointers out.
    pub fn new(strings: Vec<CString>) -> CStringArray {
        let mut pointers: Vec<*const c_char> = strings.iter().map(|s| s.as_ptr()).collect();
        pointers.push(std::ptr::null());
        CStringArray { pointers, strings, home: Vec::new() }
    }

    /// As `new`, with room at the end for a `HOME` that only the child can find; `/` until then.
    pub fn with_home(strings: Vec<CString>) -> CStringArray {
        let mut array = CStringArray::new(strings);
        array.home = vec![0; HOME_ROOM];
        array.pointers.insert(array.strings.len(), std::ptr::null());
        array.set_home(b"/");
        array
    }

    /// Fills the room in; a path that does not fit, or has a zero byte, leaves it as it is.
    pub fn set_home(&mut self, path: &[u8]) {
        let key = b"HOME=";
        if self.home.is_empty() || path.contains(&0) || key.len() + path.len() >= self.home.len() {
            return;
        }
        self.home[..key.len()].copy_from_slice(key);
        self.home[key.len()..key.len() + path.len()].copy_from_slice(path);
        self.home[key.len() + path.len()] = 0;
        self.pointers[self.strings.len()] = self.home.as_ptr().cast();
    }

    /// The strings.
    pub fn strings(&self) -> &[CString] {
        &self.strings
    }
}

/// execve(2); returns only on failure.
pub fn execve(path: &CStr, args: &CStringArray, env: &CStringArray) -> Errno {
    // SAFETY: `path` is a C string; both arrays end with null and their strings live as long as they do.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    Errno::last()
}

/// execveat(2) of the file that `fd` is open on; returns only on failure.
pub fn execve_fd(fd: BorrowedFd<'_>, args: &CStringArray, env: &CStringArray) -> Errno {
    // SAFETY: the path is a static C string; both arrays end with null and their strings live as long as they do.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            args.pointers.as_ptr(),
            env.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::last()
}

/// `_exit(2)`: no destructors, no buffers flushed, as a cloned child has to leave.
pub fn leave(code: i32) -> ! {
    // SAFETY: _exit ends the process and touches no memory of it.
    unsafe { libc::_exit(code) }
}

/// close_range(2) with `CLOSE_RANGE_CLOEXEC`: everything from `first` on is closed by the next exec.
pub fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: close_range reads three integers and no memory; with CLOEXEC it closes nothing now.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    check(ret).map(drop)
}

/// close_range(2): closes everything from `first` on. Only for a child that is about to exec and owns nothing else.
pub fn close_from(first: u32) -> Result<(), Errno> {
    // SAFETY: close_range reads three integers; the caller is a forked child that uses none of these descriptors again.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    check(ret).map(drop)
}

/// fcntl(2): whether the next exec closes `fd`. The number is one that the caller's own user passed in.
pub fn set_close_on_exec(fd: RawFd, on: bool) -> Result<(), Errno> {
    // SAFETY: F_SETFD reads integers only.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, if on { libc::FD_CLOEXEC } else { 0 }) }.into()).map(drop)
}

/// Whether this number is an open descriptor.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD reads integers only; a number that is not open answers EBADF.
    unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
}

/// dup3(2) onto a fixed number, open across exec; when it has the number already, only its close-on-exec flag goes.
pub fn place_fd(fd: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    if fd.as_raw_fd() == number {
        return set_close_on_exec(number, false);
    }
    // SAFETY: the caller places standard streams in a child that owns its descriptor table; what the number meant
    // before is closed on purpose.
    check(unsafe { libc::dup3(fd.as_raw_fd(), number, 0) }.into()).map(drop)
}

/// A copy of `fd` numbered 3 or higher, closed on exec.
pub fn dup_above_streams(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    // SAFETY: F_DUPFD_CLOEXEC reads integers only and opens a new descriptor.
    check_fd(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) }.into())
}

/// One of the standard streams, 0 to 2.
pub fn stream(number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: F_DUPFD_CLOEXEC reads integers only; a number that is not open answers EBADF.
    check_fd(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) }.into())
}

/// setsid(2).
pub fn setsid() -> Result<(), Errno> {
    // SAFETY: setsid takes nothing.
    check(unsafe { libc::setsid() }.into()).map(drop)
}

/// setgroups(2), the system call itself: musl's wrapper would signal threads that do not exist.
pub fn setgroups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: `groups` is readable for its length.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// setgid(2): with CAP_SETGID real, effective and saved at once. The call that runc makes, which profiles know.
pub fn setgid(gid: u32) -> Result<(), Errno> {
    // SAFETY: setgid reads one integer.
    check(unsafe { libc::syscall(libc::SYS_setgid, gid) }).map(drop)
}

/// setuid(2): with CAP_SETUID real, effective and saved at once. The call that runc makes, which profiles know.
pub fn setuid(uid: u32) -> Result<(), Errno> {
    // SAFETY: setuid reads one integer.
    check(unsafe { libc::syscall(libc::SYS_setuid, uid) }).map(drop)
}

fn prctl(option: i32, two: u64, three: u64) -> Result<libc::c_long, Errno> {
    // SAFETY: every caller below passes options whose arguments are integers.
    check(unsafe { libc::prctl(option, two, three, 0u64, 0u64) }.into())
}

/// `PR_SET_DUMPABLE`: at 0 no other process may look into this one through procfs or ptrace (CVE-2016-9962).
pub fn set_dumpable(on: bool) -> Result<(), Errno> {
    prctl(libc::PR_SET_DUMPABLE, on.into(), 0).map(drop)
}

/// `PR_SET_NO_NEW_PRIVS`.
pub fn no_new_privileges() -> Result<(), Errno> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// `PR_SET_KEEPCAPS`: whether the permitted set outlives the change to another uid.
pub fn keep_capabilities(on: bool) -> Result<(), Errno> {
    prctl(libc::PR_SET_KEEPCAPS, on.into(), 0).map(drop)
}

/// `PR_SET_CHILD_SUBREAPER`.
pub fn become_subreaper() -> Result<(), Errno> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).map(drop)
}

/// `PR_CAPBSET_DROP`.
pub fn drop_from_bounding_set(capability: u32) -> Result<(), Errno> {
    prctl(libc::PR_CAPBSET_DROP, capability.into(), 0).map(drop)
}

/// `PR_CAP_AMBIENT_CLEAR_ALL`.
pub fn clear_ambient() -> Result<(), Errno> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0).map(drop)
}

/// `PR_CAP_AMBIENT_RAISE`.
pub fn raise_ambient(capability: u32) -> Result<(), Errno> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, capability.into()).map(drop)
}

/// The three sets of capset(2), one bit a capability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    /// What counts now.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What survives an exec of a file that has it, too.
    pub inheritable: u64,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

const CAP_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// capset(2) on this process.
pub fn capset(sets: CapabilitySets) -> Result<(), Errno> {
    let half = |shift: u32| CapData {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads one header and two data structs, both of which outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Whether this process is less than root of the whole host: another user, or root of a user namespace.
pub fn is_unprivileged() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !nix::unistd::geteuid().is_root() || !map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Whether this process lives in the host's own user namespace, as root (its number is `PROC_USER_INIT_INO`).
pub fn is_root_of_host() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    const INITIAL: u64 = 0xefff_fffd;
    nix::unistd::geteuid().is_root()
        && std::fs::metadata("/proc/self/ns/user").is_ok_and(|space| space.ino() == INITIAL)
}

/// capget(2) of this process.
pub fn capget() -> Result<CapabilitySets, Errno> {
    let header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 reads one header and writes two data structs, both of which outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    let whole = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok(CapabilitySets {
        effective: whole(data[0].effective, data[1].effective),
        permitted: whole(data[0].permitted, data[1].permitted),
        inheritable: whole(data[0].inheritable, data[1].inheritable),
    })
}

/// setrlimit(2) by way of prlimit64(2); `resource` is a `RLIMIT_*`.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = [soft, hard];
    let old = std::ptr::null_mut::<u64>();
    // SAFETY: `limit` has the layout of struct rlimit64 (soft, hard) and outlives the call; the old one may be null.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, limit.as_ptr(), old) }).map(drop)
}

/// The (soft, hard) limit of this process.
pub fn limit(resource: u32) -> Result<(u64, u64), Errno> {
    let mut limit = [0u64; 2];
    let new = std::ptr::null::<u64>();
    // SAFETY: `limit` has the layout of struct rlimit64 and is writable; the new one may be null.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, new, limit.as_mut_ptr()) })?;
    Ok((limit[0], limit[1]))
}

/// keyctl(2), `KEYCTL_JOIN_SESSION_KEYRING`: the keyring of this name, a new one where there is none. Its serial number.
pub fn join_session_keyring(name: &CStr) -> Result<i32, Errno> {
    // SAFETY: `name` is a C string that outlives the call.
    check(unsafe { libc::syscall(libc::SYS_keyctl, 1, name.as_ptr()) }).map(|serial| serial as i32)
}

/// Adds bits to the permissions of a key (`KEYCTL_DESCRIBE`, `KEYCTL_SETPERM`).
pub fn permit_key(serial: i32, bits: u32) -> Result<(), Errno> {
    let mut text = [0u8; 512];
    // SAFETY: 6 is KEYCTL_DESCRIBE, which writes at most the length given; it returns how long the text is.
    let length = check(unsafe { libc::syscall(libc::SYS_keyctl, 6, serial, text.as_mut_ptr(), text.len()) })?;
    // `keyring;uid;gid;permissions in hexadecimal;name`
    let text = text.get(..length as usize).unwrap_or(&text);
    let field = text.split(|&byte| byte == b';').nth(3).and_then(|field| std::str::from_utf8(field).ok());
    let old = field.and_then(|field| u32::from_str_radix(field, 16).ok()).ok_or(Errno::from_raw(libc::EBADMSG))?;
    // SAFETY: 5 is KEYCTL_SETPERM, which reads integers only.
    check(unsafe { libc::syscall(libc::SYS_keyctl, 5, serial, old | bits) }).map(drop)
}

/// sched_setaffinity(2) of this process: one bit a CPU. The kernel takes those that the cgroup allows.
pub fn set_affinity(cpus: &[u64]) -> Result<(), Errno> {
    // SAFETY: `cpus` is readable for the length given, which the kernel cuts to its own.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(cpus), cpus.as_ptr()) }).map(drop)
}

/// set_mempolicy(2) of this process: a mode with its flags, one bit a node.
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> Result<(), Errno> {
    // The kernel reads one bit less than it is told (set_mempolicy(2), "BUGS" of the C library's documentation).
    let most = if nodes.is_empty() { 0 } else { nodes.len() * 64 + 1 };
    let list = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // SAFETY: `list` is null, or readable for the bits that are told.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, list, most) }).map(drop)
}

/// sethostname(2).
pub fn set_hostname(name: &CStr) -> Result<(), Errno> {
    // SAFETY: `name` is readable for the length given.
    check(unsafe { libc::sethostname(name.as_ptr(), name.count_bytes()) }.into()).map(drop)
}

/// setdomainname(2).
pub fn set_domainname(name: &CStr) -> Result<(), Errno> {
    // SAFETY: `name` is readable for the length given.
    check(unsafe { libc::setdomainname(name.as_ptr(), name.count_bytes()) }.into()).map(drop)
}

/// personality(2).
pub fn set_personality(persona: u64) -> Result<(), Errno> {
    // SAFETY: personality reads one integer.
    check(unsafe { libc::syscall(libc::SYS_personality, persona) }).map(drop)
}

/// ioprio_set(2) on this process; the value is class and priority as the kernel packs them.
pub fn set_io_priority(value: i32) -> Result<(), Errno> {
    // SAFETY: ioprio_set reads three integers; 1 is IOPRIO_WHO_PROCESS, 0 this process.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, 1, 0, value) }).map(drop)
}

/// `struct sched_attr` of linux/sched/types.h, first version.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedAttr {
    /// Bytes of this struct, 48.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// For `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// For `SCHED_DEADLINE`, nanoseconds.
    pub runtime: u64,
    /// For `SCHED_DEADLINE`, nanoseconds.
    pub deadline: u64,
    /// For `SCHED_DEADLINE`, nanoseconds.
    pub period: u64,
}

/// sched_setattr(2) on this process.
pub fn set_scheduler(attributes: &SchedAttr) -> Result<(), Errno> {
    // SAFETY: `attributes` is a sched_attr of the size that it states and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(attributes), 0) }).map(drop)
}

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
pub const NEW_LISTENER: u32 = 8;

/// seccomp(2), `SECCOMP_SET_MODE_FILTER`: from here on the filter decides on every system call of this process. With
/// [`NEW_LISTENER`] the listener comes back.
pub fn install_filter(program: &[libc::sock_filter], flags: u32) -> Result<Option<OwnedFd>, Errno> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies `len` instructions from `filter`, which outlive the call, and writes nothing.
    let ret = unsafe { libc::syscall(libc::SYS_seccomp, 1, flags, &raw const program) };
    if flags & NEW_LISTENER != 0 { check_fd(ret).map(Some) } else { check(ret).map(|_| None) }
}

/// Whether the kernel knows a flag of `SECCOMP_SET_MODE_FILTER`: with a filter at no address a known one fails with
/// EFAULT, an unknown one with EINVAL (seccomp(2)). Installs nothing.
pub fn knows_filter_flag(flag: u32) -> bool {
    // Waiting killably is for listeners only.
    let listener = if flag == 32 { 8 } else { 0 };
    let null: *const libc::sock_fprog = std::ptr::null();
    // SAFETY: the kernel refuses the null pointer before it reads anything, and writes nothing.
    let ret = unsafe { libc::syscall(libc::SYS_seccomp, 1, flag | listener, null) };
    check(ret).is_err_and(|errno| errno.raw() == libc::EFAULT)
}

/// chdir(2).
pub fn chdir(path: &CStr) -> Result<(), Errno> {
    // SAFETY: `path` is a C string that outlives the call.
    check(unsafe { libc::chdir(path.as_ptr()) }.into()).map(drop)
}

/// fchdir(2).
pub fn fchdir(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: fchdir reads one integer.
    check(unsafe { libc::fchdir(dir.as_raw_fd()) }.into()).map(drop)
}

/// chroot(2) to the working directory.
pub fn chroot_here() -> Result<(), Errno> {
    // SAFETY: the path is a static C string.
    check(unsafe { libc::chroot(c".".as_ptr()) }.into()).map(drop)
}

/// Whether the working directory lies below this process' root: getcwd(2) of the kernel answers with a path that
/// starts with `(unreachable)` when it does not (CVE-2024-21626).
pub fn cwd_is_inside() -> Result<bool, Errno> {
    let mut path = [0u8; 4096];
    // SAFETY: `path` is writable for the length given; the raw call reports what C libraries turn into ENOENT.
    let length = check(unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) })?;
    Ok(length > 0 && path[0] == b'/')
}

/// access(2) for execution, with the effective ids where that may be asked (faccessat2 with `AT_EACCESS`).
///
/// A seccomp filter that is in force already may be older than faccessat2 and refuse it; the effective ids are the real
/// ones by then, so that faccessat says the same.
pub fn may_execute(path: &CStr) -> Result<(), Errno> {
    // SAFETY: `path` is a C string that outlives the call.
    let ret =
        unsafe { libc::syscall(libc::SYS_faccessat2, libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) };
    match check(ret) {
        Err(errno) if errno.is_refusal() => {
            // SAFETY: as above.
            check(unsafe { libc::syscall(libc::SYS_faccessat, libc::AT_FDCWD, path.as_ptr(), libc::X_OK) }).map(drop)
        }
        done => done.map(drop),
    }
}

/// All signals unblocked, and SIGPIPE back at its default action: Rust's start-up code ignores it, and what is ignored
/// stays so through clone and exec.
pub fn reset_signals() {
    // SAFETY: an all-zero sigset_t is an empty set; sigprocmask only reads it. SIG_DFL installs no code of ours.
    unsafe {
        let none: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}
