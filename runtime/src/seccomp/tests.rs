//! The compiler against a naive model: random profiles and calls through a small evaluator of classic BPF, and the
//! kernel itself as the judge in a child process.

use std::collections::HashSet;
use std::time::Instant;

use libc::{sock_filter, sock_filter as Instruction};
use oci_spec::runtime::{
    Capability, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Operator,
};

use super::rules::{Abi, NATIVE, X32_BIT, number};
use super::table::TABLE;
use super::{compile, default_profile};
use crate::error::Kind;
use crate::sys::process::NEW_LISTENER;

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const KILL_PROCESS: u32 = 0x8000_0000;

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

/// A system call as the filter sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    arch: u32,
    number: u32,
    args: [u64; 6],
}

impl Call {
    pub(super) fn new(abi: Abi, name: &str, args: [u64; 6]) -> Self {
        let bit = if abi == Abi::X32 { X32_BIT } else { 0 };
        Self { arch: abi.audit(), number: number(name, abi).unwrap() | bit, args }
    }

    /// A number that need not have a name, without the bit of x32.
    pub(super) fn numbered(abi: Abi, number: u32, args: [u64; 6]) -> Self {
        let bit = if abi == Abi::X32 { X32_BIT } else { 0 };
        Self { arch: abi.audit(), number: number | bit, args }
    }

    fn word(self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            offset => {
                let arg = self.args[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
            }
        }
    }
}

/// Runs a program as the kernel would: the action, and how many instructions it took.
pub(super) fn run(program: &[Instruction], call: Call) -> (u32, usize) {
    let (mut at, mut a, mut steps) = (0, 0u32, 0);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        steps += 1;
        let mut jump = |yes: bool| at += usize::from(if yes { jt } else { jf });
        match code {
            0x20 => a = call.word(k),
            0x54 => a &= k,
            0x05 => at += k as usize,
            0x15 => jump(a == k),
            0x25 => jump(a > k),
            0x35 => jump(a >= k),
            0x06 => return (k, steps),
            code => panic!("instruction {code:#x} is not one of ours"),
        }
    }
}

fn decide(json: &str, call: Call) -> u32 {
    run(&compile(&profile(json)).unwrap().program, call).0
}

#[test]
fn every_action_has_its_number() {
    let cases = [
        ("SCMP_ACT_KILL", "", 0),
        ("SCMP_ACT_KILL_THREAD", "", 0),
        ("SCMP_ACT_KILL_PROCESS", "", KILL_PROCESS),
        ("SCMP_ACT_TRAP", "", 0x0003_0000),
        ("SCMP_ACT_ERRNO", "", EPERM),
        ("SCMP_ACT_ERRNO", r#","errnoRet":38"#, ENOSYS),
        ("SCMP_ACT_TRACE", r#","errnoRet":7"#, 0x7ff0_0007),
        ("SCMP_ACT_LOG", "", 0x7ffc_0000),
        ("SCMP_ACT_NOTIFY", "", 0x7fc0_0000),
    ];
    for (action, errno, expected) in cases {
        let json = format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/agent",
                "syscalls":[{{"names":["mkdir"],"action":"{action}"{errno}}}]}}"#
        );
        assert_eq!(decide(&json, Call::new(NATIVE, "mkdirat", [0; 6])), ALLOW);
        assert_eq!(decide(&json, Call::new(NATIVE, "mkdir", [0; 6])), expected, "{action}{errno}");
        assert_eq!(compile(&profile(&json)).unwrap().notify, action == "SCMP_ACT_NOTIFY");
    }
}

#[test]
fn calls_of_other_architectures_kill() {
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"]}"#;
    assert_eq!(decide(json, Call::new(Abi::X86_64, "read", [0; 6])), ALLOW);
    assert_eq!(decide(json, Call::new(Abi::X86, "read", [0; 6])), KILL_PROCESS);
    assert_eq!(decide(json, Call::new(Abi::X32, "read", [0; 6])), KILL_PROCESS);
    assert_eq!(decide(json, Call { arch: 0x4000_0028, number: 3, args: [0; 6] }), KILL_PROCESS);
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86","SCMP_ARCH_ARM"]}"#;
    assert_eq!(decide(json, Call::new(Abi::X86, "read", [0; 6])), ALLOW);
    assert_eq!(decide(json, Call::new(Abi::X86_64, "read", [0; 6])), ALLOW, "the native one is always there");
}

#[test]
fn what_the_author_could_not_know_is_not_there() {
    let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read","openat2","no_such_call"],"action":"SCMP_ACT_ALLOW"}]}"#;
    let with = |number| Call { number, ..Call::new(Abi::X86_64, "read", [0; 6]) };
    assert_eq!(decide(json, with(0)), ALLOW);
    assert_eq!(decide(json, with(436)), EPERM, "older than openat2 and not listed");
    assert_eq!(decide(json, with(437)), ALLOW);
    assert_eq!(decide(json, with(438)), ENOSYS, "newer");
    assert_eq!(decide(json, with(X32_BIT - 1)), ENOSYS);
    let json = r#"{"defaultAction":"SCMP_ACT_LOG","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}"#;
    assert_eq!(decide(json, with(5000)), 0x7ffc_0000, "a default that refuses nothing hides nothing");
}

#[test]
fn a_rule_without_arguments_decides_over_those_with() {
    let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
        {"names":["kill"],"action":"SCMP_ACT_TRAP","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},
        {"names":["kill"],"action":"SCMP_ACT_ALLOW"},
        {"names":["kill"],"action":"SCMP_ACT_LOG"}]}"#;
    assert_eq!(decide(json, Call::new(NATIVE, "kill", [1, 0, 0, 0, 0, 0])), ALLOW);
}

#[test]
fn two_tests_of_one_argument_are_two_rules() {
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["socket"],"action":"SCMP_ACT_ERRNO","args":[
            {"index":0,"value":38,"op":"SCMP_CMP_EQ"},{"index":0,"value":40,"op":"SCMP_CMP_EQ"}]}]}"#;
    for (family, verdict) in [(38, EPERM), (39, ALLOW), (40, EPERM)] {
        assert_eq!(decide(json, Call::new(NATIVE, "socket", [family, 0, 0, 0, 0, 0])), verdict, "{family}");
    }
}

#[test]
fn a_rule_that_does_the_default_does_nothing() {
    let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
        {"names":["kill"],"action":"SCMP_ACT_ERRNO","errnoRet":1},
        {"names":["kill"],"action":"SCMP_ACT_ALLOW"}]}"#;
    assert_eq!(decide(json, Call::new(NATIVE, "kill", [0; 6])), ALLOW);
}

#[test]
fn on_x86_a_call_is_also_found_in_its_bundle() {
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],
        "syscalls":[{"names":["socket","shmat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    assert_eq!(decide(json, Call::new(Abi::X86, "socket", [0; 6])), EPERM);
    assert_eq!(decide(json, Call::new(Abi::X86, "socketcall", [1, 0, 0, 0, 0, 0])), EPERM);
    assert_eq!(decide(json, Call::new(Abi::X86, "socketcall", [2, 0, 0, 0, 0, 0])), ALLOW);
    assert_eq!(decide(json, Call::new(Abi::X86, "ipc", [21, 0, 0, 0, 0, 0])), EPERM);
}

#[test]
fn wrong_profiles_are_refused_with_the_place() {
    for (json, says) in [
        (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "defaultAction: SCMP_ACT_NOTIFY"),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["write"],"action":"SCMP_ACT_NOTIFY"}]}"#,
            "syscalls[0]",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["kill"],"action":"SCMP_ACT_NOTIFY"}]}"#,
            "listenerPath: is needed",
        ),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerMetadata":"x"}"#, "listenerMetadata: needs listenerPath"),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":4096}]}"#,
            "errnoRet: 4096 is above 4095",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_TRAP",
                "args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
            "no argument 6",
        ),
    ] {
        let error = compile(&profile(json)).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().starts_with("linux.seccomp.") && error.to_string().contains(says), "{error}");
    }
}

#[test]
fn flags_are_the_kernels() {
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW","SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#;
    assert_eq!(compile(&profile(json)).unwrap().flags, 1 | 2 | 4);
    assert_eq!(compile(&profile(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#)).unwrap().flags, 0);
    let json =
        json.replace('}', r#","listenerPath":"/agent","syscalls":[{"names":["kill"],"action":"SCMP_ACT_NOTIFY"}]}"#);
    let listens = compile(&profile(&json)).unwrap().flags;
    assert_eq!(listens, 2 | 4 | 32 | NEW_LISTENER, "TSYNC does not go with a listener");
}

#[test]
fn the_table_is_sorted_and_right() {
    assert!(TABLE.windows(2).all(|pair| pair[0].name < pair[1].name));
    for (name, expected) in [
        ("openat", [Some(257), Some(295), Some(257), Some(56)]),
        ("execve", [Some(59), Some(11), Some(520), Some(221)]),
        ("clone3", [Some(435); 4]),
        ("mseal", [Some(462); 4]),
        ("socketcall", [None, Some(102), None, None]),
    ] {
        let call = TABLE.iter().find(|call| call.name == name).unwrap();
        assert_eq!(call.numbers, expected, "{name}");
    }
    assert_eq!(number("setxattrat", NATIVE), Some(463));
    assert_eq!(number("getpid", NATIVE), Some(libc::SYS_getpid as u32));
}

/// A pseudo-random number below `below`.
struct Dice(u64);

impl Dice {
    fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

const NAMES: [&str; 12] =
    ["read", "write", "kill", "clone", "openat", "fcntl", "mmap", "ioctl", "prctl", "tkill", "mseal", "futex"];
const VALUES: [u64; 8] = [0, 1, 2, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, u64::MAX, 0x7e02_0000];
const OPERATORS: [Operator; 7] = [
    Operator::ScmpCmpNe,
    Operator::ScmpCmpLt,
    Operator::ScmpCmpLe,
    Operator::ScmpCmpEq,
    Operator::ScmpCmpGe,
    Operator::ScmpCmpGt,
    Operator::ScmpCmpMaskedEq,
];

fn random_profile(dice: &mut Dice) -> LinuxSeccomp {
    let entries: Vec<String> = (0..dice.below(20))
        .map(|_| {
            let args: Vec<String> = (0..dice.below(3))
                .map(|_| {
                    let operator = serde_json::to_string(&dice.pick(&OPERATORS)).unwrap();
                    let (index, value, two) = (dice.below(3), dice.pick(&VALUES), dice.pick(&VALUES));
                    format!(r#"{{"index":{index},"value":{value},"valueTwo":{two},"op":{operator}}}"#)
                })
                .collect();
            let names: Vec<String> = (0..=dice.below(3)).map(|_| format!("{:?}", dice.pick(&NAMES))).collect();
            let action = dice.pick(&["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_TRAP", "SCMP_ACT_LOG"]);
            format!(r#"{{"names":[{}],"action":"{action}","args":[{}]}}"#, names.join(","), args.join(","))
        })
        .collect();
    let default = dice.pick(&["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"]);
    let architectures = dice.pick(&["", r#""SCMP_ARCH_X86""#, r#""SCMP_ARCH_X32","SCMP_ARCH_X86""#]);
    profile(&format!(
        r#"{{"defaultAction":"{default}","architectures":[{architectures}],"syscalls":[{}]}}"#,
        entries.join(",")
    ))
}

/// What a profile means, read straight from it.
fn model(profile: &LinuxSeccomp, abi: Abi, name: &str, args: [u64; 6]) -> u32 {
    let mut listed = vec![NATIVE];
    for arch in profile.architectures().iter().flatten() {
        listed.push(match arch {
            oci_spec::runtime::Arch::ScmpArchX86 => Abi::X86,
            _ => Abi::X32,
        });
    }
    if !listed.contains(&abi) {
        return KILL_PROCESS;
    }
    let value = |action: Action| match action {
        Action::ScmpActAllow => ALLOW,
        Action::ScmpActErrno => EPERM,
        Action::ScmpActTrap => 0x0003_0000,
        _ => 0x7ffc_0000,
    };
    let entries =
        || profile.syscalls().iter().flatten().filter(|entry| entry.names().iter().any(|known| known == name));
    let effective = || entries().filter(|entry| entry.action() != profile.default_action());
    if let Some(entry) = effective().find(|entry| entry.args().as_ref().is_none_or(Vec::is_empty)) {
        return value(entry.action());
    }
    let narrow = |value: u64| if abi == Abi::X86_64 { value } else { value & 0xffff_ffff };
    let passes = |arg: &LinuxSeccompArg| {
        let (given, wanted) = (narrow(args[arg.index()]), narrow(arg.value()));
        match arg.op() {
            Operator::ScmpCmpNe => given != wanted,
            Operator::ScmpCmpLt => given < wanted,
            Operator::ScmpCmpLe => given <= wanted,
            Operator::ScmpCmpEq => given == wanted,
            Operator::ScmpCmpGe => given >= wanted,
            Operator::ScmpCmpGt => given > wanted,
            Operator::ScmpCmpMaskedEq => given & wanted == narrow(arg.value_two().unwrap_or(0)),
        }
    };
    let matching = effective().find(|entry| {
        let tests = entry.args().as_deref().unwrap_or_default();
        let indices: HashSet<usize> = tests.iter().map(LinuxSeccompArg::index).collect();
        if indices.len() < tests.len() { tests.iter().any(passes) } else { tests.iter().all(passes) }
    });
    if let Some(entry) = matching {
        return value(entry.action());
    }
    let all = profile.syscalls().iter().flatten().flat_map(|entry| entry.names());
    let newest = all.filter_map(|name| number(name, abi)).max();
    let refuses = profile.default_action() == Action::ScmpActErrno;
    match newest {
        Some(newest) if newest > 0 && number(name, abi) > Some(newest) && refuses => ENOSYS,
        _ => value(profile.default_action()),
    }
}

#[test]
fn programs_agree_with_the_meaning_of_random_profiles() {
    let mut dice = Dice(42);
    for round in 0..500 {
        let profile = random_profile(&mut dice);
        let program = compile(&profile).unwrap().program;
        for _ in 0..200 {
            let name = dice.pick(&NAMES);
            let abi = dice.pick(&[Abi::X86_64, Abi::X86, Abi::X32]);
            let mut args = [0; 6];
            args.fill_with(|| dice.pick(&VALUES).wrapping_add(dice.below(2) as u64));
            if abi == Abi::X86 {
                args = args.map(|arg| arg & 0xffff_ffff);
            }
            let (ran, meant) = (run(&program, Call::new(abi, name, args)).0, model(&profile, abi, name, args));
            assert_eq!(ran, meant, "round {round}: {abi:?} {name} {args:x?} under {profile:?}");
        }
    }
}

#[test]
fn long_programs_jump_far() {
    // Hundreds of rules with arguments on one call and on many: targets lie beyond a conditional jump's reach.
    let entries: Vec<String> = TABLE
        .iter()
        .take(300)
        .map(|call| {
            let name = call.name;
            format!(
                r#"{{"names":["{name}","ioctl"],"action":"SCMP_ACT_ALLOW","args":[{{"index":1,"value":{},"op":"SCMP_CMP_EQ"}}]}}"#,
                name.len() * 1000
            )
        })
        .collect();
    let profile = profile(&format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{}]}}"#, entries.join(",")));
    let program = compile(&profile).unwrap().program;
    assert!(program.len() > 1000);
    for call in TABLE.iter().take(300).filter(|call| call.numbers[0].is_some()) {
        for value in [call.name.len() as u64 * 1000, 1] {
            let args = [0, value, 0, 0, 0, 0];
            let ran = run(&program, Call::new(NATIVE, call.name, args)).0;
            assert_eq!(ran, model(&profile, NATIVE, call.name, args), "{} {value}", call.name);
        }
    }
    let args = [0, 17_000, 0, 0, 0, 0];
    assert_eq!(run(&program, Call::new(NATIVE, "ioctl", args)).0, model(&profile, NATIVE, "ioctl", args));
}

#[test]
fn a_profile_beyond_the_kernels_limit_is_refused() {
    let entries: Vec<String> = (0..1200)
        .map(|value| format!(r#"{{"names":["ioctl"],"action":"SCMP_ACT_ALLOW","args":[{{"index":1,"value":{value},"op":"SCMP_CMP_EQ"}}]}}"#))
        .collect();
    let profile = profile(&format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{}]}}"#, entries.join(",")));
    assert_eq!(compile(&profile).unwrap_err().kind(), Kind::Unsupported);
}

#[test]
fn the_default_profile_opens_and_closes_what_it_says() {
    let plain = compile(&default_profile(&HashSet::new())).unwrap().program;
    let admin = compile(&default_profile(&HashSet::from([Capability::SysAdmin]))).unwrap().program;
    let on = |program: &[Instruction], name: &str, first: u64| {
        run(program, Call::new(NATIVE, name, [first, 0, 0, 0, 0, 0])).0
    };
    for name in ["read", "execve", "socketpair", "ptrace", "futex", "mseal", "openat2", "arch_prctl"] {
        assert_eq!(on(&plain, name, 0), ALLOW, "{name}");
    }
    for name in [
        "io_uring_setup",
        "io_uring_enter",
        "keyctl",
        "add_key",
        "mount",
        "bpf",
        "userfaultfd",
        "kexec_load",
        "unshare",
        "setns",
        "open_by_handle_at",
        "reboot",
    ] {
        assert_eq!(on(&plain, name, 0), EPERM, "{name}");
    }
    for (family, expected) in [(1, ALLOW), (2, ALLOW), (16, ALLOW), (38, EPERM), (39, ALLOW), (40, EPERM), (41, ALLOW)]
    {
        assert_eq!(on(&plain, "socket", family), expected, "address family {family}");
    }
    assert_eq!(on(&plain, "clone", 0x11), ALLOW, "fork");
    for bit in [0x2_0000u64, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
        assert_eq!(on(&plain, "clone", bit | 0x11), EPERM, "namespace {bit:#x}");
        assert_eq!(on(&admin, "clone", bit | 0x11), ALLOW);
    }
    assert_eq!(on(&plain, "clone3", 0), ENOSYS);
    assert_eq!(on(&admin, "clone3", 0), ALLOW);
    assert_eq!(on(&admin, "mount", 0), ALLOW);
    assert_eq!(on(&plain, "personality", 0x20008), ALLOW);
    assert_eq!(on(&plain, "personality", 0x40000), EPERM, "ADDR_NO_RANDOMIZE");
}

#[test]
fn the_default_profile_is_small_quick_and_shallow() {
    let profile = default_profile(&HashSet::new());
    let json = serde_json::to_string(&profile).unwrap();
    let best_of = |work: &dyn Fn()| {
        let mut times = (0..20).map(|_| {
            let before = Instant::now();
            work();
            before.elapsed().as_micros()
        });
        times.by_ref().min().unwrap()
    };
    let best = best_of(&|| drop(compile(&profile).unwrap()));
    let reading = best_of(&|| drop(serde_json::from_str::<LinuxSeccomp>(&json).unwrap()));
    let program = compile(&profile).unwrap().program;
    let steps: Vec<usize> = TABLE
        .iter()
        .filter(|call| call.numbers[0].is_some())
        .map(|call| run(&program, Call::new(NATIVE, call.name, [0; 6])).1)
        .collect();
    let deepest = steps.iter().max().unwrap();
    println!(
        "default profile: {} instructions, {best} us to compile ({reading} us to read as JSON), at most {deepest} steps",
        program.len()
    );
    assert!(program.len() < 700, "{}", program.len());
    assert!(*deepest <= 32, "{deepest}");
    if std::env::var_os("GANTRY_EMULATED").is_some() {
        eprintln!("SKIPPED the time that compiling takes: the processor is emulated");
        return;
    }
    // Measured against something of the same machine and build; libseccomp takes 10,000 us.
    assert!(best < 20 * reading, "{best} us, and {reading} to read it as JSON");
}

/// A filter belongs to one thread, so one that ends right after is as good as a child process.
#[test]
fn the_kernel_takes_and_applies_the_default_profile() {
    use nix::errno::Errno;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

    let program = compile(&default_profile(&HashSet::new())).unwrap().program;
    let (alg, unix, namespace, file) = std::thread::spawn(move || {
        crate::sys::process::no_new_privileges().unwrap();
        crate::sys::process::install_filter(&program, 0).unwrap();
        let open = |family, kind| socket(family, kind, SockFlag::SOCK_CLOEXEC, None).map(drop);
        (
            open(AddressFamily::Alg, SockType::SeqPacket),
            open(AddressFamily::Unix, SockType::Stream),
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER),
            std::fs::read("/proc/self/status").map(|status| status.is_empty()),
        )
    })
    .join()
    .unwrap();
    assert_eq!(alg, Err(Errno::EPERM));
    assert_eq!(unix, Ok(()));
    assert_eq!(namespace, Err(Errno::EPERM));
    assert!(!file.unwrap());
}
