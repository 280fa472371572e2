//! The default profile: what containerd and Docker let a container call (their state of mid-2026), as data.
//!
//! Everything that is not listed answers `EPERM`: io_uring, keyrings, kexec, modules, mounting, userfaultfd and the
//! like; `clone3` answers `ENOSYS`, since a filter cannot see its flags in memory and C libraries then use `clone`.
//! Sockets of `AF_ALG` and `AF_VSOCK` are refused. What a capability makes sense of is open to who has it.

use std::collections::HashSet;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator,
    LinuxSyscall,
};

/// Open to every container, whatever the architecture (names that one lacks are passed over).
const ALWAYS: &str = "
    _llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown
    chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
    eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark
    fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock
    fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex
    futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu
    getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer
    getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32
    getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents
    io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount
    listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack
    membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2
    mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
    mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap
    name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2
    pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64
    process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv
    recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat
    renameat2 restart_syscall riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
    seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg
    sendto set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
    setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid
    setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl
    shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat
    stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
    timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
    timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate
    truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork
    vmsplice wait4 waitid waitpid write writev
    arch_prctl modify_ldt process_vm_readv process_vm_writev ptrace
    arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls
";

/// Open to containers with a capability.
const WITH: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules
         lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname
         sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module init_module finit_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
    (Capability::SysRawio, "iopl ioperm"),
    (Capability::SysTime, "settimeofday stime clock_settime clock_settime64"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// `AF_ALG`: the kernel's cryptography, a source of local exploits that no container needs.
const AF_ALG: u64 = 38;
/// `AF_VSOCK`: reaches the hypervisor's other guests past every network namespace.
const AF_VSOCK: u64 = 40;

/// The flags of clone(2) that make namespaces: mount, cgroup, UTS, IPC, user, PID, network.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// The execution domains that are no security risk: Linux, UNAME26, 32 bit, both, and asking for the current one.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The default profile for a container whose bounding set is `capabilities`.
pub fn default_profile(capabilities: &HashSet<Capability>) -> LinuxSeccomp {
    let mut syscalls = vec![allow(ALWAYS, &[])];
    for (capability, names) in WITH {
        if capabilities.contains(capability) {
            syscalls.push(allow(names, &[]));
        }
    }
    for test in [
        arg(LinuxSeccompOperator::ScmpCmpLt, AF_ALG),
        arg(LinuxSeccompOperator::ScmpCmpEq, AF_ALG + 1),
        arg(LinuxSeccompOperator::ScmpCmpEq, AF_VSOCK + 1),
        block(AF_VSOCK + 2, 2),
        block(AF_VSOCK + 4, 4),
        block(AF_VSOCK + 8, 16),
    ] {
        syscalls.push(allow("socket", &[test]));
    }
    for domain in PERSONALITIES {
        syscalls.push(allow("personality", &[arg(LinuxSeccompOperator::ScmpCmpEq, domain)]));
    }
    if !capabilities.contains(&Capability::SysAdmin) {
        syscalls.push(allow("clone", &[arg(LinuxSeccompOperator::ScmpCmpMaskedEq, NEW_NAMESPACES)]));
        let mut clone3 = allow("clone3", &[]);
        clone3.set_action(LinuxSeccompAction::ScmpActErrno).set_errno_ret(Some(libc::ENOSYS as u32));
        syscalls.push(clone3);
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(libc::EPERM as u32))
        .set_architectures(Some(architectures()))
        .set_syscalls(Some(syscalls));
    profile
}

#[cfg(target_arch = "x86_64")]
fn architectures() -> Vec<Arch> {
    vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
}

#[cfg(not(target_arch = "x86_64"))]
fn architectures() -> Vec<Arch> {
    vec![Arch::ScmpArchNative]
}

fn allow(names: &str, tests: &[LinuxSeccompArg]) -> LinuxSyscall {
    let mut entry = LinuxSyscall::default();
    let names = names.split_whitespace().map(str::to_owned).collect();
    entry.set_names(names).set_action(LinuxSeccompAction::ScmpActAllow);
    if !tests.is_empty() {
        entry.set_args(Some(tests.to_vec()));
    }
    entry
}

/// `size` values of the first argument from `first` on, a multiple of it, and nothing above. A "greater than" would be
/// true of any number with a bit above the 32 that the kernel looks at: 2^32 + 38 is `AF_ALG`, too.
fn block(first: u64, size: u64) -> LinuxSeccompArg {
    let arg = LinuxSeccompArgBuilder::default().index(0usize).op(LinuxSeccompOperator::ScmpCmpMaskedEq);
    let arg = arg.value(!(size - 1)).value_two(first).build();
    arg.expect("every field of an argument test has a default")
}

/// A test of the first argument; a masked one asks that none of the bits of `value` is set.
fn arg(operator: LinuxSeccompOperator, value: u64) -> LinuxSeccompArg {
    let arg = LinuxSeccompArgBuilder::default().index(0usize).op(operator).value(value).value_two(0u64);
    arg.build().expect("every field of an argument test has a default")
}
