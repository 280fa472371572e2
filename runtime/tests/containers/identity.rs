//! Who a process in a container is.

use std::fs;
use std::os::fd::AsRawFd as _;

use serde_json::json;

use crate::house::{house, said};

/// The five lines of capabilities, as one text of bits without leading zeros.
fn capability_lines(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.starts_with("Cap"));
    lines.map(|line| line.replace(":\t", " ").replace(" 0000000000000000", " 0").replace(" 00000000", " ")).collect()
}

#[test]
fn capabilities_in_all_five_sets() {
    let mut house = house!("caps");
    house.script("grep Cap /proc/self/status");
    let expected = ["CapInh 0", "CapPrm 20000420", "CapEff 20000420", "CapBnd 20000420", "CapAmb 0"];
    assert_eq!(capability_lines(&house.prints()), expected);

    house.set("/process/user/uid", json!(1000));
    let expected = ["CapInh 0", "CapPrm 0", "CapEff 0", "CapBnd 20000420", "CapAmb 0"];
    assert_eq!(capability_lines(&house.prints()), expected, "a user's own exec drops what is not ambient");

    house.set("/process/capabilities/inheritable", json!(["CAP_KILL"]));
    house.set("/process/capabilities/ambient", json!(["CAP_KILL"]));
    let expected = ["CapInh 00000020", "CapPrm 00000020", "CapEff 00000020", "CapBnd 20000420", "CapAmb 00000020"];
    let said: Vec<String> = capability_lines(&house.prints());
    assert_eq!(said, expected);
}

#[test]
fn without_capabilities_there_are_none() {
    let mut house = house!("no-caps");
    house.set("/process/capabilities", json!({}));
    house.script("grep Cap /proc/self/status");
    assert_eq!(capability_lines(&house.prints()), ["CapInh 0", "CapPrm 0", "CapEff 0", "CapBnd 0", "CapAmb 0"]);
}

#[test]
fn exec_has_the_containers_capabilities_and_what_is_added() {
    let mut house = house!("exec-caps");
    house.sleeping();
    let plain = house.ok(&["exec", "c", "grep", "Cap", "/proc/self/status"]);
    assert_eq!(capability_lines(&plain)[2], "CapEff 20000420");
    let more = house.ok(&["exec", "--cap", "CAP_CHOWN", "c", "grep", "Cap", "/proc/self/status"]);
    assert_eq!(
        capability_lines(&more),
        ["CapInh 0", "CapPrm 20000421", "CapEff 20000421", "CapBnd 20000421", "CapAmb 0"]
    );
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn no_new_privileges_user_groups_umask_and_home() {
    let mut house = house!("user");
    fs::write(house.rootfs().join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:7:8::/srv/web:/bin/sh").unwrap();
    house.set("/process/user", json!({ "uid": 7, "gid": 8, "additionalGids": [9, 10], "umask": 0o027 }));
    house.script("id -u; id -g; grep -E '^(Groups|NoNewPrivs|Umask)' /proc/self/status; echo $HOME; sleep 0");
    assert_eq!(house.prints(), "7\n8\nUmask:\t0027\nGroups:\t9 10 \nNoNewPrivs:\t1\n/srv/web\n");
    house.set("/process/noNewPrivileges", json!(false));
    assert!(house.prints().contains("NoNewPrivs:\t0\n"));
    house.push("/process/env", json!("HOME=/else"));
    assert!(house.prints().ends_with("/else\n"));
}

#[test]
fn limits_are_set_and_those_that_may_not_be_raised_are_lowered_with_a_warning() {
    let mut house = house!("rlimits");
    house.set(
        "/process/rlimits",
        json!([{ "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 }, { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }]),
    );
    house.script("grep -E 'open files|core file' /proc/self/limits");
    let out = house.prints();
    let words: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0][4..6], ["0", "0"], "{out}");
    assert_eq!(words[1][3..5], ["100", "200"], "{out}");

    house.set("/process/rlimits", json!([{ "type": "RLIMIT_NOFILE", "soft": 1_000_000_000, "hard": 1_000_000_000 }]));
    let said = house.run();
    assert_eq!(said.code, i32::from(!said.err.contains("limit RLIMIT_NOFILE")), "{said:?}");
}

#[test]
fn sysctls_of_the_container_and_oom_score() {
    let mut house = house!("sysctl");
    house.set("/linux/sysctl", json!({ "net.ipv4.ip_unprivileged_port_start": "77", "kernel.shm_rmid_forced": "1" }));
    house.set("/process/oomScoreAdj", json!(123));
    house.script(
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced /proc/self/oom_score_adj",
    );
    assert_eq!(house.prints(), "77\n1\n123\n");
    house.set("/linux/sysctl", json!({ "kernel.core_pattern": "|/bin/evil" }));
    let said = house.run();
    assert_eq!(said.code, 1);
    assert!(said.err.contains("linux.sysctl.kernel.core_pattern: does not belong"), "{said:?}");
}

#[test]
fn seccomp_denies_what_it_is_told_to_in_run_and_exec() {
    let mut house = house!("seccomp");
    house.set(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 }]
        }),
    );
    house.script("grep Seccomp: /proc/self/status; busybox mkdir /tmp/x");
    house.set("/root/readonly", json!(false));
    for safe in [true, false] {
        house.set("/process/noNewPrivileges", json!(safe));
        let said = house.run();
        assert_eq!(said.out, "Seccomp:\t2\n");
        assert!(said.err.contains("can't create directory '/tmp/x': Function not implemented"), "{said:?}");
    }
    house.sleeping();
    let said = house.call(&["exec", "c", "busybox", "mkdir", "/tmp/x"]);
    assert!(said.err.contains("Function not implemented"), "{said:?}");
    house.ok(&["delete", "--force", "c"]);
}

/// Profiles are older than the calls that look a program up: none of these may be needed once the filter is in force.
#[test]
fn a_filter_that_forbids_to_look_for_the_program_lets_it_be_found() {
    let mut house = house!("seccomp-lookup");
    house.set(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["faccessat2", "faccessat", "access", "openat2"], "action": "SCMP_ACT_ERRNO" }]
        }),
    );
    house.set("/process/noNewPrivileges", json!(false));
    house.set("/process/args", json!(["cat", "/proc/self/comm"]));
    house.set("/process/env", json!(["PATH=/nowhere:/etc:/bin"]));
    assert_eq!(house.prints(), "cat\n");
    house.set("/process/args", json!(["no-such-program"]));
    let said = house.run();
    assert!(said.code != 0 && said.err.contains("no-such-program"), "{said:?}");
}

/// The calls that change a process into the container's, as runc makes them behind a filter.
const OF_RUNC: &str = "chdir getcwd prctl setgroups setgid setuid capset read write execve";

/// What busybox itself calls.
const OF_BUSYBOX: &str = "
    arch_prctl brk close exit_group getegid geteuid getgid getgroups getpid getppid getrandom getuid
    mmap mprotect munmap newfstatat openat open poll prlimit64 readlink readlinkat rseq rt_sigaction
    rt_sigprocmask sendfile set_robust_list set_tid_address stat uname writev ioctl fstat dup2 fcntl
    wait4 clone vfork nanosleep clock_nanosleep
";

/// Without `noNewPrivileges` the filter is there before the user is: what changes it may need only the calls that runc
/// makes at that point, whatever newer or wider ones the kernel has. The list is those and what busybox itself needs.
#[test]
fn a_filter_before_the_user_needs_to_allow_no_more_than_for_runc() {
    let mut house = house!("seccomp-early");
    let names: Vec<&str> = OF_RUNC.split_whitespace().chain(OF_BUSYBOX.split_whitespace()).collect();
    house.set(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
            "syscalls": [{ "names": names, "action": "SCMP_ACT_ALLOW" }]
        }),
    );
    house.set("/process/noNewPrivileges", json!(false));
    house.set("/process/user", json!({ "uid": 1000, "gid": 1001, "additionalGids": [1002], "umask": 0o027 }));
    for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        house.set(&format!("/process/capabilities/{set}"), json!(["CAP_KILL"]));
    }
    house.set("/process/args", json!(["grep", "-E", "^(Umask|Uid|Gid|Groups|CapEff|Seccomp):", "/proc/self/status"]));
    let expected = "Umask:\t0027\nUid:\t1000\t1000\t1000\t1000\nGid:\t1001\t1001\t1001\t1001\nGroups:\t1002 \n\
                    CapEff:\t0000000000000020\nSeccomp:\t2\n";
    assert_eq!(house.prints(), expected);
    // The same for one that waits for its start, and for a process that is put beside it.
    let args = house.config["process"]["args"].clone();
    house.sleeping();
    assert_eq!(house.ok(&["exec", "c", "grep", "Uid", "/proc/self/status"]), "Uid:\t1000\t1000\t1000\t1000\n");
    house.ok(&["delete", "--force", "c"]);
    house.set("/process/args", args);
    // The list is sharp: without one of the calls there is no container, and the step says so.
    let become_user = "become uid 1000 gid 1001 groups [1002]";
    for (missing, step) in [
        ("setuid", become_user),
        ("setgid", become_user),
        ("setgroups", become_user),
        ("capset", "set capabilities"),
        ("chdir", "change to /"),
    ] {
        let rest: Vec<&&str> = names.iter().filter(|name| **name != missing).collect();
        house.set("/linux/seccomp/syscalls/0/names", json!(rest));
        let said = house.run();
        assert!(said.code == 1 && said.err.contains(step), "{missing}: {said:?}");
    }
}

#[test]
fn only_preserved_descriptors_are_handed_down() {
    if !std::path::Path::new("/bin/bash").exists() {
        eprintln!("SKIPPED only_preserved_descriptors_are_handed_down: needs bash, for redirections beyond 9");
        return;
    }
    let mut house = house!("fds");
    house.script("ls /proc/self/fd");
    house.write_config();
    let count = |preserved: &str| {
        let file = fs::File::open("/").unwrap();
        let raw = file.as_raw_fd();
        let line = format!(
            "exec 3<&{raw} 4<&{raw} 5<&{raw} 6<&{raw}; exec {} --root {} run --preserve-fds {preserved} c",
            env!("CARGO_BIN_EXE_gantry-runtime"),
            house.dir.join("state").display()
        );
        nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        let mut shell = std::process::Command::new("bash");
        said(shell.args(["-c", &line]).current_dir(house.dir.join("bundle")).output().unwrap())
    };
    // The listing itself opens one more.
    assert_eq!(count("0").out, "0\n1\n2\n3\n");
    assert_eq!(count("2").out, "0\n1\n2\n3\n4\n5\n");
    let refused = count("60");
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("--preserve-fds 60: descriptor"), "{refused:?}");
}
