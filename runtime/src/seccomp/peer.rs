//! Tests: the compiled default profile against the program that libseccomp makes of the same rules.
//!
//! Both are run by the evaluator of `tests` for every call number and many arguments; the verdicts have to be the same.
//! Two differences are meant, and each is counted: a call newer than every one that the profile names is ENOSYS here
//! (runc puts that in front of libseccomp's program), and Debian's libseccomp does not know the latest names.

use std::collections::{BTreeMap, HashSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use libc::sock_filter;
use oci_spec::runtime::{Capability, LinuxSeccomp};

use super::rules::{Abi, number};
use super::tests::{Call, run};
use super::{compile, default_profile};

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

/// The interpreter for which Debian packages the bindings.
const PYTHON: &str = "/usr/bin/python3";

/// Adds the rules as runc does: names that are not known are passed over (and told), what does the default is left out,
/// several tests of one argument are several rules. The program goes to standard output.
const SCRIPT: &str = r#"
import json, sys, seccomp
profile = json.load(sys.stdin)
actions = {"SCMP_ACT_ALLOW": lambda _: seccomp.ALLOW, "SCMP_ACT_ERRNO": seccomp.ERRNO}
action = lambda name, errno: actions[name](1 if errno is None else errno)
default = action(profile["defaultAction"], profile.get("defaultErrnoRet"))
native = seccomp.Arch()
made = seccomp.SyscallFilter(default)
for name in profile["architectures"]:
    arch = seccomp.Arch(getattr(seccomp.Arch, name.removeprefix("SCMP_ARCH_")))
    if not made.exist_arch(arch):
        made.add_arch(arch)
for entry in profile["syscalls"]:
    does = action(entry["action"], entry.get("errnoRet"))
    if does == default:
        continue
    tests = [seccomp.Arg(arg["index"], getattr(seccomp, arg["op"].removeprefix("SCMP_CMP_")), arg["value"],
                         arg.get("valueTwo", 0)) for arg in entry.get("args") or []]
    several = len({arg["index"] for arg in entry.get("args") or []}) < len(tests)
    for name in entry["names"]:
        if seccomp.resolve_syscall(native, name) == -1:
            print(name, file=sys.stderr)
            continue
        for rule in [[test] for test in tests] if several else [tests]:
            made.add_rule(does, name, *rule)
made.export_bpf(sys.stdout)
"#;

/// What libseccomp makes of a profile, and the names that it does not know.
fn theirs(profile: &LinuxSeccomp) -> (Vec<sock_filter>, Vec<String>) {
    let mut python = Command::new(PYTHON);
    python.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut python = python.spawn().unwrap();
    let json = serde_json::to_vec(profile).unwrap();
    python.stdin.take().unwrap().write_all(&json).unwrap();
    let said = python.wait_with_output().unwrap();
    let told = String::from_utf8(said.stderr).unwrap();
    assert!(said.status.success() && said.stdout.len().is_multiple_of(8), "{told}");
    let instruction = |bytes: &[u8]| sock_filter {
        code: u16::from_ne_bytes([bytes[0], bytes[1]]),
        jt: bytes[2],
        jf: bytes[3],
        k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    };
    (said.stdout.chunks(8).map(instruction).collect(), told.lines().map(str::to_owned).collect())
}

fn has_libseccomp() -> bool {
    let asked = Command::new(PYTHON).args(["-c", "import seccomp"]).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

/// First arguments: what the rules compare with and its neighbours, each bit, and bits that some calls do not look at.
fn arguments() -> Vec<u64> {
    let edges = [0, 8, 16, 17, 36, 37, 38, 39, 40, 41, 42, 0x2_0000, 0x2_0008, 0x4_0000, 0x7e02_0000, 0x7e02_0011];
    let bits = (0..64).map(|bit| 1 << bit);
    let wide = [0xffff_fffe, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0026, 0x1_0000_0027, u64::MAX];
    edges.into_iter().chain(bits).chain(wide).collect()
}

#[test]
fn libseccomp_says_the_same_of_the_default_profile() {
    if !cfg!(target_arch = "x86_64") || !has_libseccomp() {
        eprintln!("SKIPPED: needs x86_64 and libseccomp's Python bindings (apt-get install python3-seccomp)");
        return;
    }
    let every: Vec<Capability> = [
        Capability::SysAdmin,
        Capability::SysPtrace,
        Capability::SysNice,
        Capability::SysTime,
        Capability::SysModule,
        Capability::DacReadSearch,
        Capability::Bpf,
        Capability::Syslog,
    ]
    .into();
    for capabilities in [&[][..], &every[..1], &every[1..], &every[..]] {
        compare(&default_profile(&capabilities.iter().copied().collect()));
    }
}

fn compare(profile: &LinuxSeccomp) {
    let ours = compile(profile).unwrap().program;
    let (theirs, unknown) = theirs(profile);
    let entries = profile.syscalls().as_deref().unwrap();
    let mut same = 0;
    let mut meant: BTreeMap<&str, usize> = BTreeMap::new();
    for abi in [Abi::X86_64, Abi::X86, Abi::X32] {
        let named = entries.iter().flat_map(|entry| entry.names());
        let newest = named.filter_map(|name| number(name, abi)).max().unwrap();
        let too_new: HashSet<u32> = unknown.iter().filter_map(|name| number(name, abi)).collect();
        for call in 0..=600 {
            for first in arguments() {
                let args = [first, first ^ 0x55, 0, u64::MAX, 1, first];
                let args = if abi == Abi::X86 { args.map(|arg| arg & 0xffff_ffff) } else { args };
                let on = |program: &[sock_filter]| run(program, Call::numbered(abi, call, args)).0;
                match (on(&ours), on(&theirs)) {
                    (ENOSYS, EPERM) if call > newest => *meant.entry("newer than the profile").or_default() += 1,
                    (ALLOW, EPERM) if too_new.contains(&call) => {
                        *meant.entry("newer than libseccomp").or_default() += 1
                    }
                    (own, other) => {
                        assert_eq!(own, other, "call {call} of {abi:?}, arguments {args:x?}, {own:#x} {other:#x}");
                        same += 1;
                    }
                }
            }
        }
    }
    println!("{same} verdicts are the same; meant to differ: {meant:?}; not known to libseccomp: {unknown:?}");
    // Were they all explained away, nothing would have been compared.
    assert!(same > 100_000 && unknown.len() < 40, "{same} {unknown:?}");
}
