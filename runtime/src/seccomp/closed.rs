//! SECURITY_CASES 30: what the default profile keeps from a container without special capabilities, call by call. A table.

use std::collections::HashSet;

use super::rules::{Abi, number};
use super::tests::{Call, run};
use super::{compile, default_profile};

const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const ALLOW: u32 = 0x7fff_0000;

/// Calls that have opened hosts, by what they reach.
const CLOSED: &[&str] = &[
    // io_uring: a second way to every other call, past this filter.
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    // Keyrings know no namespaces.
    "keyctl",
    "add_key",
    "request_key",
    // Code in the kernel, and the kernel itself.
    "bpf",
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "kexec_file_load",
    "reboot",
    "acct",
    // Mounts and namespaces.
    "mount",
    "umount2",
    "pivot_root",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "open_tree",
    "move_mount",
    "mount_setattr",
    "setns",
    "unshare",
    "chroot",
    "swapon",
    "swapoff",
    "quotactl",
    "nfsservctl",
    // Files past every mount (CVE-2014-3519, "shocker").
    "open_by_handle_at",
    // Other processes, and counters of the machine.
    "kcmp",
    "pidfd_getfd",
    "process_madvise",
    "perf_event_open",
    "lookup_dcookie",
    "userfaultfd",
    "move_pages",
    "migrate_pages",
    "mbind",
    "set_mempolicy",
    // The machine's clock, names, ports and log.
    "settimeofday",
    "clock_settime",
    "stime",
    "sethostname",
    "setdomainname",
    "ioperm",
    "iopl",
    "syslog",
    "vhangup",
    "fanotify_init",
    // Left over from other times.
    "uselib",
    "ustat",
    "sysfs",
    "_sysctl",
    "create_module",
    "get_kernel_syms",
    "query_module",
    "vm86",
    "vm86old",
];

#[test]
fn case_30_the_default_profile_keeps_the_doors_shut() {
    let program = compile(&default_profile(&HashSet::new())).unwrap().program;
    for abi in [Abi::X86_64, Abi::X86, Abi::X32] {
        for name in CLOSED {
            if number(name, abi).is_some() {
                assert_eq!(run(&program, Call::new(abi, name, [0; 6])).0, EPERM, "{name} on {abi:?}");
            }
        }
        // AF_ALG and AF_VSOCK among all families, also with bits above the 32 that the kernel looks at.
        for family in 0..64u64 {
            let verdict = if matches!(family, 38 | 40) { EPERM } else { ALLOW };
            assert_eq!(run(&program, Call::new(abi, "socket", [family, 0, 0, 0, 0, 0])).0, verdict, "{family}");
            let high = [family | 1 << 32, family | 1 << 63, family | 0xffff_ffff << 32];
            for high in high.into_iter().filter(|_| verdict == EPERM) {
                assert_eq!(run(&program, Call::new(abi, "socket", [high, 0, 0, 0, 0, 0])).0, EPERM, "{high:x}");
            }
        }
        for flag in [0x0002_0000u64, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
            assert_eq!(run(&program, Call::new(abi, "clone", [flag | 17, 0, 0, 0, 0, 0])).0, EPERM, "{flag:x}");
        }
        assert_eq!(run(&program, Call::new(abi, "clone", [17, 0, 0, 0, 0, 0])).0, ALLOW);
        assert_eq!(run(&program, Call::new(abi, "clone3", [0; 6])).0, ENOSYS, "its flags are in memory");
    }
}
