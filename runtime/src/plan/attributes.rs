//! DECIDE: what of `linux` concerns every process of a container, and on which CPUs a process runs.
//!
//! runtime-spec: config-linux.md, "Personality" and "Memory policy"; config.md, `process.execCPUAffinity`. What lasts is
//! kept with the container's facts, so that a later exec is given the same.

use oci_spec::runtime::{
    Linux, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain, MemoryPolicyFlagType, MemoryPolicyModeType,
    Process,
};
use serde::{Deserialize, Serialize};

use super::Plan;
use super::step::Step;
use crate::error::{Error, Kind, Result};
use crate::listener::Agent;
use crate::rdt::Group;

/// More CPUs than any kernel is built for: the kernel takes those that there are and that the cgroup allows.
pub const EVERY_CPU: [u64; 128] = [u64::MAX; 128];

/// The highest CPU or node that is understood.
const MOST: u32 = EVERY_CPU.len() as u32 * 64 - 1;

/// What concerns the container's first process and all that are executed in it later.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lasting {
    /// Execution domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub personality: Option<LinuxPersonality>,
    /// Where memory comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_policy: Option<LinuxMemoryPolicy>,
    /// Who gets the listener of each process' filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,
    /// Where the processes' shares of cache and memory bandwidth are set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdt: Option<Group>,
}

impl Lasting {
    /// What a specification says; `None` where that is nothing, as nearly always.
    pub fn of(linux: &Linux) -> Option<Box<Lasting>> {
        let seccomp = linux.seccomp().as_ref();
        let agent = seccomp.and_then(|seccomp| seccomp.listener_path().as_ref()).map(|path| Agent {
            path: path.clone(),
            metadata: seccomp.and_then(|seccomp| seccomp.listener_metadata().clone()).unwrap_or_default(),
        });
        let lasting = Lasting {
            agent,
            rdt: None,
            personality: linux.personality().clone(),
            memory_policy: linux.memory_policy().clone(),
        };
        (lasting != Lasting::default()).then(|| Box::new(lasting))
    }
}

/// Steps for what lasts.
pub(super) fn decide(lasting: &Lasting, plan: &mut Plan) -> Result<()> {
    if let Some(persona) = &lasting.personality {
        plan.steps.push(Step::Personality(match persona.domain() {
            LinuxPersonalityDomain::PerLinux => 0,
            LinuxPersonalityDomain::PerLinux32 => 0x0008,
        }));
        // The specification: "Currently no flag values are supported."
        if let Some(flags) = persona.flags().as_ref().filter(|flags| !flags.is_empty()) {
            plan.warnings.push(format!("linux.personality.flags: {} not known; left out", flags.join(" ")));
        }
    }
    if let Some(policy) = &lasting.memory_policy {
        plan.steps.push(memory_policy(policy).map_err(|why| why.below("linux.memoryPolicy"))?);
    }
    Ok(())
}

/// Numbers of linux/mempolicy.h.
fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<Step> {
    let nodes = bits(policy.nodes().as_deref().unwrap_or_default()).map_err(|why| why.within("nodes"))?;
    let (mode, takes) = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => (0, Some(false)),
        MemoryPolicyModeType::MpolPreferred => (1, None),
        MemoryPolicyModeType::MpolBind => (2, Some(true)),
        MemoryPolicyModeType::MpolInterleave => (3, Some(true)),
        MemoryPolicyModeType::MpolLocal => (4, Some(false)),
        MemoryPolicyModeType::MpolPreferredMany => (5, Some(true)),
        MemoryPolicyModeType::MpolWeightedInterleave => (6, Some(true)),
    };
    match takes {
        Some(true) if nodes.is_empty() => {
            return Err(Error::new(Kind::Invalid, format!("nodes: {} needs at least one", policy.mode())));
        }
        Some(false) if !nodes.is_empty() => {
            return Err(Error::new(Kind::Invalid, format!("nodes: {} takes none", policy.mode())));
        }
        _ => {}
    }
    let flag = |flag: &MemoryPolicyFlagType| match flag {
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
    };
    let flags = policy.flags().iter().flatten().map(flag).fold(0, |all, flag: u32| all | flag);
    Ok(Step::MemoryPolicy(mode | flags, nodes))
}

/// The CPUs of an exec before and after it enters the cgroup; without any wish those of this runtime are not inherited.
pub(super) fn affinity(process: &Process) -> Result<(Option<Step>, Option<Step>)> {
    let list = |list: Option<&str>, name: &str| match list.filter(|list| !list.is_empty()) {
        Some(list) => bits(list).map(|cpus| Some(Step::Affinity(cpus))).map_err(|why| why.within(name)),
        None => Ok(None),
    };
    let Some(wanted) = process.exec_cpu_affinity() else {
        return Ok((None, Some(Step::Affinity(EVERY_CPU.to_vec()))));
    };
    let at = "process.execCPUAffinity";
    let initial = list(wanted.initial().as_deref(), "initial").map_err(|why| why.within(at))?;
    let last = list(wanted.cpu_affinity_final().as_deref(), "final").map_err(|why| why.within(at))?;
    Ok(match (initial, last) {
        (None, None) => (None, Some(Step::Affinity(EVERY_CPU.to_vec()))),
        both => both,
    })
}

/// A list as cpuset(7) writes it (`0-3,7`), one bit a number; nothing for an empty one.
fn bits(list: &str) -> Result<Vec<u64>> {
    let mut bits = Vec::new();
    let wrong = |part: &str| Error::new(Kind::Invalid, format!("{part:?} is not a number or range up to {MOST}"));
    for part in list.trim().split(',').filter(|_| !list.trim().is_empty()) {
        let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        let number = |text: &str| text.trim().parse::<u32>().ok().filter(|number| *number <= MOST);
        let (Some(first), Some(last)) = (number(first), number(last)) else { return Err(wrong(part)) };
        if first > last {
            return Err(wrong(part));
        }
        let words = last as usize / 64 + 1;
        bits.resize(words.max(bits.len()), 0u64);
        (first..=last).for_each(|number| bits[number as usize / 64] |= 1 << (number % 64));
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse;

    fn said(linux: &str) -> String {
        let linux: Linux = parse(linux).unwrap();
        let mut plan = Plan::default();
        let done = Lasting::of(&linux).map_or(Ok(()), |lasting| decide(&lasting, &mut plan));
        let steps: String = plan.steps.iter().map(|step| format!("{step}\n")).collect();
        done.map_or_else(|why| why.to_string(), |()| format!("{steps}{}", plan.warnings.join("\n")))
    }

    #[test]
    fn lists_are_those_of_cpusets() {
        assert_eq!(bits("0-3,7").unwrap(), [0x8f]);
        assert_eq!(bits("64").unwrap(), [0, 1]);
        assert_eq!(bits("0-127").unwrap(), [u64::MAX, u64::MAX]);
        assert_eq!(bits("").unwrap(), [0u64; 0]);
        for wrong in ["3-1", "x", "1,,2", "-1", "8192", "1-", "0-4294967296"] {
            assert!(bits(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn personality_with_flags_that_nobody_knows() {
        assert_eq!(said(r#"{"personality":{"domain":"LINUX32"}}"#), "set personality 0x8\n");
        assert_eq!(
            said(r#"{"personality":{"domain":"LINUX","flags":["X"]}}"#),
            "set personality 0x0\nlinux.personality.flags: X not known; left out"
        );
    }

    #[test]
    fn memory_policies_are_the_kernels() {
        let cases = [
            (r#"{"mode":"MPOL_DEFAULT"}"#, "set memory policy 0x0 nodes []\n"),
            (r#"{"mode":"MPOL_BIND","nodes":"0-1,3"}"#, "set memory policy 0x2 nodes [b]\n"),
            (
                r#"{"mode":"MPOL_BIND","nodes":"0","flags":["MPOL_F_NUMA_BALANCING","MPOL_F_STATIC_NODES"]}"#,
                "set memory policy 0xa002 nodes [1]\n",
            ),
            (
                r#"{"mode":"MPOL_INTERLEAVE","nodes":"0","flags":["MPOL_F_RELATIVE_NODES"]}"#,
                "set memory policy 0x4003 nodes [1]\n",
            ),
            (r#"{"mode":"MPOL_PREFERRED"}"#, "set memory policy 0x1 nodes []\n"),
            (r#"{"mode":"MPOL_LOCAL"}"#, "set memory policy 0x4 nodes []\n"),
            (r#"{"mode":"MPOL_PREFERRED_MANY","nodes":"1"}"#, "set memory policy 0x5 nodes [2]\n"),
            (r#"{"mode":"MPOL_WEIGHTED_INTERLEAVE","nodes":"1"}"#, "set memory policy 0x6 nodes [2]\n"),
            (r#"{"mode":"MPOL_BIND"}"#, "linux.memoryPolicy.nodes: MPOL_BIND needs at least one"),
            (r#"{"mode":"MPOL_LOCAL","nodes":"0"}"#, "linux.memoryPolicy.nodes: MPOL_LOCAL takes none"),
            (
                r#"{"mode":"MPOL_BIND","nodes":"a"}"#,
                "linux.memoryPolicy.nodes: \"a\" is not a number or range up to 8191",
            ),
        ];
        for (policy, expected) in cases {
            assert_eq!(said(&format!(r#"{{"memoryPolicy":{policy}}}"#)), expected);
        }
    }

    #[test]
    fn an_exec_runs_where_it_is_told_to() {
        let steps = |affinity: &str| {
            let process: Process = parse(&format!(r#"{{"user":{{"uid":0,"gid":0}},"cwd":"/"{affinity}}}"#)).unwrap();
            let (initial, last) = affinity_of(&process);
            format!("{initial} | {last}")
        };
        fn affinity_of(process: &Process) -> (String, String) {
            let (initial, last) = affinity(process).unwrap();
            let text = |step: Option<Step>| step.map_or("-".to_owned(), |step| step.to_string());
            (text(initial), text(last))
        }
        assert_eq!(steps(""), "- | run on every cpu");
        assert_eq!(steps(r#","execCPUAffinity":{"initial":"0"}"#), "run on cpus [1] | -");
        assert_eq!(steps(r#","execCPUAffinity":{"initial":"0","final":"1-2"}"#), "run on cpus [1] | run on cpus [6]");
        assert_eq!(steps(r#","execCPUAffinity":{"final":"1"}"#), "- | run on cpus [2]");
    }
}
