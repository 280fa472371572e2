//! A profile out of bytes, compiled; then calls through an evaluator of classic BPF and through a naive reading of the
//! profile, which has its own table of numbers: the same verdict, and a program that the kernel's checker would take.

#![no_main]

use gantry_runtime::seccomp::compile;
use libc::sock_filter;
use libfuzzer_sys::fuzz_target;
use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

/// Names with their numbers on x86_64, x86 and x32 (the last without its bit).
const CALLS: &[(&str, [u32; 3])] = &[
    ("read", [0, 3, 0]),
    ("close", [3, 6, 3]),
    ("getpid", [39, 20, 39]),
    ("clone", [56, 120, 56]),
    ("execve", [59, 11, 520]),
    ("kill", [62, 37, 62]),
    ("mkdir", [83, 39, 83]),
    ("ptrace", [101, 26, 521]),
    ("personality", [135, 136, 135]),
    ("prctl", [157, 172, 157]),
    ("openat", [257, 295, 257]),
    ("bpf", [321, 357, 321]),
    ("io_uring_setup", [425, 425, 425]),
    ("mseal", [462, 462, 462]),
];
const ARCHES: [(&str, u32); 3] =
    [("SCMP_ARCH_X86_64", 0xc000_003e), ("SCMP_ARCH_X86", 0x4000_0003), ("SCMP_ARCH_X32", 0xc000_003e)];
const X32_BIT: u32 = 0x4000_0000;
const ACTIONS: [(&str, u32); 8] = [
    ("SCMP_ACT_KILL", 0),
    ("SCMP_ACT_KILL_PROCESS", 0x8000_0000),
    ("SCMP_ACT_TRAP", 0x0003_0000),
    ("SCMP_ACT_ERRNO", 0x0005_0000),
    ("SCMP_ACT_TRACE", 0x7ff0_0000),
    ("SCMP_ACT_LOG", 0x7ffc_0000),
    ("SCMP_ACT_ALLOW", 0x7fff_0000),
    ("SCMP_ACT_NOTIFY", 0x7fc0_0000),
];
const OPERATORS: [&str; 7] =
    ["SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"];
const VALUES: [u64; 10] =
    [0, 1, 2, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, u64::MAX];
const ENOSYS: u32 = 0x0005_0026;

/// Bytes, one choice after the other; zeros when they have run out.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn of(&mut self, count: usize) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first) % count
    }

    fn value(&mut self) -> u64 {
        VALUES[self.of(VALUES.len())]
    }
}

/// One argument test of the profile.
struct Test {
    index: usize,
    operator: usize,
    value: u64,
    two: u64,
}

impl Test {
    fn passes(&self, args: &[u64; 6], wide: bool) -> bool {
        let cut = |number: u64| if wide { number } else { number & 0xffff_ffff };
        let (arg, value, two) = (cut(args[self.index]), cut(self.value), cut(self.two));
        match self.operator {
            0 => arg != value,
            1 => arg < value,
            2 => arg <= value,
            3 => arg == value,
            4 => arg >= value,
            5 => arg > value,
            _ => arg & value == two,
        }
    }
}

/// One entry of `syscalls`.
struct Entry {
    names: Vec<usize>,
    action: u32,
    tests: Vec<Test>,
}

impl Entry {
    /// Every test; or any of them, where two are on one argument (what runc makes of such an entry).
    fn matches(&self, args: &[u64; 6], wide: bool) -> bool {
        let twice = (0..6).any(|index| self.tests.iter().filter(|test| test.index == index).count() > 1);
        let mut tests = self.tests.iter();
        if twice { tests.any(|test| test.passes(args, wide)) } else { tests.all(|test| test.passes(args, wide)) }
    }
}

struct Profile {
    default: u32,
    refuses: bool,
    arches: Vec<usize>,
    entries: Vec<Entry>,
}

impl Profile {
    fn draw(choices: &mut Choices<'_>) -> (Profile, Value) {
        // Without NOTIFY, which may not be the default.
        let default = choices.of(ACTIONS.len() - 1);
        let errno = choices.of(200) as u32;
        let arches: Vec<usize> = (0..3).filter(|_| choices.of(2) == 1).collect();
        let mut json = json!({
            "defaultAction": ACTIONS[default].0, "defaultErrnoRet": errno,
            "architectures": arches.iter().map(|arch| ARCHES[*arch].0).collect::<Vec<_>>(), "syscalls": [],
        });
        let mut entries = Vec::new();
        for _ in 0..choices.of(24) {
            let (entry, text) = Self::entry(choices);
            entries.push(entry);
            json["syscalls"].as_array_mut().expect("a list").push(text);
        }
        let refuses = !matches!(ACTIONS[default].0, "SCMP_ACT_ALLOW" | "SCMP_ACT_LOG" | "SCMP_ACT_TRACE");
        (Profile { default: action(default, errno), refuses, arches, entries }, json)
    }

    fn entry(choices: &mut Choices<'_>) -> (Entry, Value) {
        let names: Vec<usize> = (0..1 + choices.of(3)).map(|_| choices.of(CALLS.len())).collect();
        let (kind, errno) = (choices.of(ACTIONS.len()), choices.of(200) as u32);
        let mut draw = |_| Test {
            index: choices.of(6),
            operator: choices.of(OPERATORS.len()),
            value: choices.value(),
            two: choices.value(),
        };
        let count = [0, 0, 1, 1, 2, 3][names[0] % 6];
        let tests: Vec<Test> = (0..count).map(&mut draw).collect();
        let args: Vec<Value> = tests
            .iter()
            .map(|test| {
                let operator = OPERATORS[test.operator];
                json!({ "index": test.index, "op": operator, "value": test.value, "valueTwo": test.two })
            })
            .collect();
        let called: Vec<&str> = names.iter().map(|name| CALLS[*name].0).collect();
        let mut text = json!({ "names": called, "action": ACTIONS[kind].0, "errnoRet": errno });
        if !args.is_empty() {
            text["args"] = json!(args);
        }
        (Entry { names, action: action(kind, errno), tests }, text)
    }

    /// What becomes of a call by what the profile says, read from top to bottom.
    fn verdict(&self, arch: usize, number: u32, args: &[u64; 6]) -> u32 {
        // x86_64 is this machine's own: always there.
        if arch != 0 && !self.arches.contains(&arch) {
            return 0x8000_0000;
        }
        let named = |entry: &&Entry| entry.names.iter().any(|name| CALLS[*name].1[arch] == number);
        let others: Vec<&Entry> =
            self.entries.iter().filter(named).filter(|entry| entry.action != self.default).collect();
        if let Some(flat) = others.iter().find(|entry| entry.tests.is_empty()) {
            return flat.action;
        }
        if let Some(first) = others.iter().find(|entry| entry.matches(args, arch == 0)) {
            return first.action;
        }
        let newest = self.entries.iter().flat_map(|entry| &entry.names).map(|name| CALLS[*name].1[arch]).max();
        let beyond = newest.is_some_and(|newest| newest > 0 && number > newest);
        if beyond && self.refuses { ENOSYS } else { self.default }
    }
}

/// The kernel's number of an action; only two of them carry data.
fn action(kind: usize, errno: u32) -> u32 {
    let (name, number) = ACTIONS[kind];
    if matches!(name, "SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE") { number | errno } else { number }
}

/// Runs a program as the kernel would; whatever its checker refuses is a panic.
fn run(program: &[sock_filter], arch: u32, number: u32, args: &[u64; 6]) -> u32 {
    let word = |offset: u32| match offset {
        0 => number,
        4 => arch,
        offset => {
            let arg = args[(offset as usize - 16) / 8];
            if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
        }
    };
    let (mut at, mut a) = (0, 0u32);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        let mut jump = |yes: bool| at += usize::from(if yes { jt } else { jf });
        match code {
            0x20 => a = word(k),
            0x54 => a &= k,
            0x05 => at += k as usize,
            0x15 => jump(a == k),
            0x25 => jump(a > k),
            0x35 => jump(a >= k),
            0x06 => return k,
            code => panic!("instruction {code:#x} is not one of ours"),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    let (profile, json) = Profile::draw(&mut choices);
    let parsed: LinuxSeccomp = serde_json::from_value(json.clone()).expect("a profile as the specification has it");
    let Ok(compiled) = compile(&parsed) else { return };
    assert!(compiled.program.len() <= 4096);
    for _ in 0..32 {
        let arch = choices.of(3);
        // Numbers of the table and their neighbours.
        let number = CALLS[choices.of(CALLS.len())].1[arch] + choices.of(2) as u32;
        let args = std::array::from_fn(|_| choices.value());
        let bit = if arch == 2 { X32_BIT } else { 0 };
        let got = run(&compiled.program, ARCHES[arch].1, number | bit, &args);
        let expected = profile.verdict(arch, number, &args);
        assert_eq!(got, expected, "{} {number} {args:x?} of {json}", ARCHES[arch].0);
    }
});
