//! DECIDE: an OCI profile -> for each architecture, ranges of call numbers and what becomes of them.

use std::collections::BTreeMap;

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};

use super::table::TABLE;
use crate::error::{Error, Kind, Result};

/// What the whole filter has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// One for each architecture that the profile lists and this machine can run.
    pub(super) architectures: Vec<Architecture>,
    /// Whether some call is handed to a listener.
    pub(super) notify: bool,
}

/// The calls of one architecture: ranges that begin at `start` and end before the next, the first at 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Architecture {
    pub(super) abi: Abi,
    pub(super) ranges: Vec<Range>,
}

/// Call numbers from `start` on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u32,
    pub(super) decision: Decision,
}

/// What becomes of a call: the first alternative whose tests all pass, else the action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) alternatives: Vec<(Vec<Test>, u32)>,
    pub(super) otherwise: u32,
}

/// A comparison of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Test {
    pub(super) index: u32,
    pub(super) operator: LinuxSeccompOperator,
    /// What it is compared with; for a masked comparison the mask.
    pub(super) value: u64,
    /// For a masked comparison: what has to be left.
    pub(super) masked: u64,
    /// Whether all 64 bits count; an architecture of 32 bits has arguments of 32, and x32 is one of those (libseccomp).
    pub(super) wide: bool,
}

/// An application binary interface: how a process of some architecture calls the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
}

/// The one of this machine.
#[cfg(target_arch = "x86_64")]
pub(super) const NATIVE: Abi = Abi::X86_64;
/// The one of this machine.
#[cfg(target_arch = "aarch64")]
pub(super) const NATIVE: Abi = Abi::Aarch64;

/// The bit that marks a number as x32's, which shares its `AUDIT_ARCH` with x86_64.
pub(super) const X32_BIT: u32 = 0x4000_0000;

impl Abi {
    /// The kernel's `AUDIT_ARCH_*`.
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    fn column(self) -> usize {
        match self {
            Self::X86_64 => 0,
            Self::X86 => 1,
            Self::X32 => 2,
            Self::Aarch64 => 3,
        }
    }

    fn of(arch: Arch, native: Self) -> Option<Self> {
        let abi = match arch {
            Arch::ScmpArchNative => native,
            Arch::ScmpArchX86_64 => Self::X86_64,
            Arch::ScmpArchX86 => Self::X86,
            Arch::ScmpArchX32 => Self::X32,
            Arch::ScmpArchAarch64 => Self::Aarch64,
            // No process of these can run here, so nothing can be said of its calls.
            _ => return None,
        };
        ((abi == Self::Aarch64) == (native == Self::Aarch64)).then_some(abi)
    }
}

const ERRNO: u32 = 0x0005_0000;
const ENOSYS: u32 = ERRNO | libc::ENOSYS as u32;

/// The ranges of every architecture that `profile` lists.
pub(super) fn plan(profile: &LinuxSeccomp, native: Abi) -> Result<Plan> {
    let default = action("defaultErrnoRet", profile.default_action(), profile.default_errno_ret())?;
    if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
        return Err(Error::new(Kind::Invalid, "defaultAction: SCMP_ACT_NOTIFY would hang the runtime itself"));
    }
    let mut abis = vec![native];
    for abi in profile.architectures().iter().flatten().filter_map(|arch| Abi::of(*arch, native)) {
        if !abis.contains(&abi) {
            abis.push(abi);
        }
    }
    let mut calls: Vec<Calls> =
        abis.iter().map(|abi| Calls { abi: *abi, decided: BTreeMap::new(), newest: 0 }).collect();
    let mut notify = false;
    for (at, entry) in profile.syscalls().iter().flatten().enumerate() {
        let rule = Rule::new(entry).map_err(|why| why.below(&format!("syscalls[{at}]")))?;
        notify |= entry.action() == LinuxSeccompAction::ScmpActNotify && rule.action != default;
        for name in entry.names() {
            calls.iter_mut().for_each(|calls| calls.add(name, &rule, default));
        }
    }
    // Calls that the author of the profile could not know are not there, rather than forbidden.
    let refuses = !matches!(
        profile.default_action(),
        LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog | LinuxSeccompAction::ScmpActTrace
    );
    let beyond = if refuses { ENOSYS } else { default };
    let architectures = calls.into_iter().map(|calls| calls.ranges(default, beyond)).collect();
    Ok(Plan { architectures, notify })
}

/// One entry of `syscalls`, understood.
struct Rule {
    action: u32,
    /// Any of these, each of which is met if all of its tests are; none at all: every call.
    cases: Vec<Vec<Test>>,
}

impl Rule {
    fn new(entry: &LinuxSyscall) -> Result<Self> {
        let action = action("errnoRet", entry.action(), entry.errno_ret())?;
        if entry.action() == LinuxSeccompAction::ScmpActNotify && entry.names().iter().any(|name| name == "write") {
            return Err(Error::new(Kind::Invalid, "action: SCMP_ACT_NOTIFY on write would hang the runtime itself"));
        }
        let tests: Vec<Test> = entry.args().iter().flatten().enumerate().map(test).collect::<Result<_>>()?;
        let mut arguments: Vec<u32> = tests.iter().map(|test| test.index).collect();
        arguments.sort_unstable();
        // libseccomp takes one test an argument; where a profile has more, runc makes each test of the entry a rule of
        // its own, and profiles that forbid several values of one argument rely on it.
        let cases = match arguments.windows(2).any(|pair| pair[0] == pair[1]) {
            true => tests.into_iter().map(|test| vec![test]).collect(),
            false => vec![tests],
        };
        Ok(Self { action, cases })
    }
}

fn test((at, arg): (usize, &LinuxSeccompArg)) -> Result<Test> {
    if arg.index() > 5 {
        return Err(Error::new(
            Kind::Invalid,
            format!("args[{at}].index: a system call has no argument {}", arg.index()),
        ));
    }
    let masked = arg.value_two().unwrap_or(0);
    Ok(Test { index: arg.index() as u32, operator: arg.op(), value: arg.value(), masked, wide: true })
}

/// `SECCOMP_RET_*` and its data.
fn action(field: &str, action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32> {
    // What the kernel takes: MAX_ERRNO, and 16 bits for a tracer.
    let most = if action == LinuxSeccompAction::ScmpActTrace { 0xffff } else { 4095 };
    let errno = errno.unwrap_or(libc::EPERM as u32);
    if errno > most {
        return Err(Error::new(Kind::Invalid, format!("{field}: {errno} is above {most}")));
    }
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => 0,
        LinuxSeccompAction::ScmpActKillProcess => 0x8000_0000,
        LinuxSeccompAction::ScmpActTrap => 0x0003_0000,
        LinuxSeccompAction::ScmpActErrno => ERRNO | errno,
        LinuxSeccompAction::ScmpActNotify => 0x7fc0_0000,
        LinuxSeccompAction::ScmpActTrace => 0x7ff0_0000 | errno,
        LinuxSeccompAction::ScmpActLog => 0x7ffc_0000,
        LinuxSeccompAction::ScmpActAllow => 0x7fff_0000,
    })
}

/// What has been decided on the calls of one architecture so far.
struct Calls {
    abi: Abi,
    decided: BTreeMap<u32, Decision>,
    newest: u32,
}

impl Calls {
    fn add(&mut self, name: &str, rule: &Rule, default: u32) {
        if let Some(number) = number(name, self.abi) {
            self.newest = self.newest.max(number);
            if rule.action != default {
                rule.cases.iter().for_each(|tests| self.decide(number, tests.clone(), rule.action, default));
            }
        }
        // x86 has these calls twice: on their own, and as the first argument of a call that bundles them. The other
        // arguments are in memory then, where no filter can look.
        if self.abi == Abi::X86
            && rule.cases.iter().all(Vec::is_empty)
            && rule.action != default
            && let Some((bundle, which)) = bundled(name)
            && let Some(number) = number(bundle, self.abi)
        {
            let first =
                Test { index: 0, operator: LinuxSeccompOperator::ScmpCmpEq, value: which, masked: 0, wide: false };
            self.decide(number, vec![first], rule.action, default);
        }
    }

    fn decide(&mut self, number: u32, mut tests: Vec<Test>, action: u32, default: u32) {
        tests.iter_mut().for_each(|test| test.wide = matches!(self.abi, Abi::X86_64 | Abi::Aarch64));
        let decision = self.decided.entry(number).or_insert(Decision { alternatives: Vec::new(), otherwise: default });
        if decision.otherwise != default {
            // A rule without arguments has decided already.
        } else if tests.is_empty() {
            *decision = Decision { alternatives: Vec::new(), otherwise: action };
        } else {
            decision.alternatives.push((tests, action));
        }
    }

    /// Every number from 0 on, neighbours with the same decision as one range.
    fn ranges(self, default: u32, beyond: u32) -> Architecture {
        let plain = |action| Decision { alternatives: Vec::new(), otherwise: action };
        let mut ranges = vec![Range { start: 0, decision: plain(default) }];
        let mut push = |start: u32, decision: Decision| match ranges.last_mut() {
            Some(last) if last.decision == decision => {}
            Some(last) if last.start == start => last.decision = decision,
            _ => ranges.push(Range { start, decision }),
        };
        let mut next = 0;
        for (number, decision) in self.decided {
            if number > next {
                push(next, plain(default));
            }
            push(number, decision);
            next = number + 1;
        }
        if next <= self.newest {
            push(next, plain(default));
        }
        // A profile that names nothing has nothing to be newer than.
        let beyond = if self.newest == 0 { default } else { beyond };
        push(self.newest + 1, plain(beyond));
        Architecture { abi: self.abi, ranges }
    }
}

/// The number of a call, x32's without its bit.
pub(super) fn number(name: &str, abi: Abi) -> Option<u32> {
    let at = TABLE.binary_search_by(|call| call.name.cmp(name)).ok()?;
    TABLE[at].numbers[abi.column()].map(u32::from)
}

/// The calls of x86 that go through socketcall(2) and ipc(2), with their numbers there (linux/net.h, linux/ipc.h).
const BUNDLED: &[(&str, &str, u64)] = &[
    ("socket", "socketcall", 1),
    ("bind", "socketcall", 2),
    ("connect", "socketcall", 3),
    ("listen", "socketcall", 4),
    ("accept", "socketcall", 5),
    ("getsockname", "socketcall", 6),
    ("getpeername", "socketcall", 7),
    ("socketpair", "socketcall", 8),
    ("send", "socketcall", 9),
    ("recv", "socketcall", 10),
    ("sendto", "socketcall", 11),
    ("recvfrom", "socketcall", 12),
    ("shutdown", "socketcall", 13),
    ("setsockopt", "socketcall", 14),
    ("getsockopt", "socketcall", 15),
    ("sendmsg", "socketcall", 16),
    ("recvmsg", "socketcall", 17),
    ("accept4", "socketcall", 18),
    ("recvmmsg", "socketcall", 19),
    ("sendmmsg", "socketcall", 20),
    ("semop", "ipc", 1),
    ("semget", "ipc", 2),
    ("semctl", "ipc", 3),
    ("semtimedop", "ipc", 4),
    ("msgsnd", "ipc", 11),
    ("msgrcv", "ipc", 12),
    ("msgget", "ipc", 13),
    ("msgctl", "ipc", 14),
    ("shmat", "ipc", 21),
    ("shmdt", "ipc", 22),
    ("shmget", "ipc", 23),
    ("shmctl", "ipc", 24),
];

fn bundled(name: &str) -> Option<(&'static str, u64)> {
    BUNDLED.iter().find(|(call, _, _)| *call == name).map(|(_, bundle, which)| (*bundle, *which))
}
