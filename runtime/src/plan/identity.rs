//! DECIDE: who a process is: ids, capabilities, limits, scheduling.

use oci_spec::runtime::{
    Capabilities, Capability, IOPriorityClass, LinuxSchedulerFlag, LinuxSchedulerPolicy, PosixRlimitType, Process,
    Scheduler,
};

use super::Host;
use super::step::{Step, User};
use crate::error::{Error, Kind, Result};
use crate::sys::process::{CapabilitySets, SchedAttr};

/// The capability sets of a process, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sets {
    pub(super) bounding: u64,
    pub(super) three: CapabilitySets,
    pub(super) ambient: u64,
}

/// The number that the kernel gives a capability (linux/capability.h).
fn number(capability: Capability) -> u32 {
    // oci-spec has the variants in alphabetical order; its text is what both know.
    let name = format!("CAP_{}", capability.to_string().trim_start_matches("CAP_"));
    name.parse::<caps::Capability>().map_or(63, |known| u32::from(known.index()))
}

fn bits(set: &Option<Capabilities>) -> u64 {
    set.iter().flatten().fold(0, |bits, capability| bits | 1 << number(*capability))
}

/// The sets asked for, without what this process does not have itself (as runc: with a warning).
pub(super) fn capabilities(process: &Process, host: &Host, warnings: &mut Vec<String>) -> Sets {
    let Some(asked) = process.capabilities() else {
        return Sets::default();
    };
    let mut lacking = 0;
    let mut cut = |set: &Option<Capabilities>| {
        let wanted = bits(set);
        lacking |= wanted & !host.permitted;
        wanted & host.permitted
    };
    let mut sets = Sets {
        bounding: cut(asked.bounding()),
        three: CapabilitySets {
            effective: cut(asked.effective()),
            permitted: cut(asked.permitted()),
            inheritable: cut(asked.inheritable()),
        },
        ambient: cut(asked.ambient()),
    };
    sets.three.effective &= sets.three.permitted;
    sets.ambient &= sets.three.permitted & sets.three.inheritable;
    if lacking != 0 {
        let names: Vec<String> = caps::all()
            .into_iter()
            .filter(|capability| lacking & capability.bitmask() != 0)
            .map(|capability| capability.to_string())
            .collect();
        // The sentence is runc's, which clients look for.
        warnings.push(format!("ignoring unknown or unavailable capabilities: [{}]", names.join(" ")));
    }
    sets
}

/// `process.user`.
pub(super) fn user(process: &Process, keep_groups: bool) -> User {
    let user = process.user();
    let groups = user.additional_gids().clone().unwrap_or_default();
    User { uid: user.uid(), gid: user.gid(), keep_groups: keep_groups && groups.is_empty(), groups }
}

/// `process.rlimits`.
pub(super) fn limits(process: &Process) -> impl Iterator<Item = Step> + '_ {
    process.rlimits().iter().flatten().map(|limit| {
        let (number, name) = resource(limit.typ());
        Step::Limit(number, name.to_owned(), limit.soft(), limit.hard())
    })
}

/// Numbers of asm-generic/resource.h.
fn resource(kind: PosixRlimitType) -> (u32, &'static str) {
    match kind {
        PosixRlimitType::RlimitCpu => (0, "RLIMIT_CPU"),
        PosixRlimitType::RlimitFsize => (1, "RLIMIT_FSIZE"),
        PosixRlimitType::RlimitData => (2, "RLIMIT_DATA"),
        PosixRlimitType::RlimitStack => (3, "RLIMIT_STACK"),
        PosixRlimitType::RlimitCore => (4, "RLIMIT_CORE"),
        PosixRlimitType::RlimitRss => (5, "RLIMIT_RSS"),
        PosixRlimitType::RlimitNproc => (6, "RLIMIT_NPROC"),
        PosixRlimitType::RlimitNofile => (7, "RLIMIT_NOFILE"),
        PosixRlimitType::RlimitMemlock => (8, "RLIMIT_MEMLOCK"),
        PosixRlimitType::RlimitAs => (9, "RLIMIT_AS"),
        PosixRlimitType::RlimitLocks => (10, "RLIMIT_LOCKS"),
        PosixRlimitType::RlimitSigpending => (11, "RLIMIT_SIGPENDING"),
        PosixRlimitType::RlimitMsgqueue => (12, "RLIMIT_MSGQUEUE"),
        PosixRlimitType::RlimitNice => (13, "RLIMIT_NICE"),
        PosixRlimitType::RlimitRtprio => (14, "RLIMIT_RTPRIO"),
        PosixRlimitType::RlimitRttime => (15, "RLIMIT_RTTIME"),
    }
}

/// `process.ioPriority`: class and priority packed as ioprio_set(2) wants them.
pub(super) fn io_priority(process: &Process) -> Result<Option<Step>> {
    let Some(wanted) = process.io_priority() else { return Ok(None) };
    let class = match wanted.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match i32::try_from(wanted.priority()) {
        Ok(priority @ 0..=7) => Ok(Some(Step::IoPriority(class << 13 | priority))),
        _ => {
            let what = format!("process.ioPriority.priority: {} is not between 0 and 7", wanted.priority());
            Err(Error::new(Kind::Invalid, what))
        }
    }
}

/// `process.scheduler` as `struct sched_attr`.
pub(super) fn scheduler(wanted: &Scheduler) -> Step {
    let policy = match wanted.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    Step::Scheduler(SchedAttr {
        size: 48,
        policy,
        flags: wanted.flags().iter().flatten().map(flag).sum(),
        nice: wanted.nice().unwrap_or(0),
        priority: wanted.priority().unwrap_or(0).unsigned_abs(),
        runtime: wanted.runtime().unwrap_or(0),
        deadline: wanted.deadline().unwrap_or(0),
        period: wanted.period().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_has_the_kernels_number() {
        let table = [
            (Capability::Chown, 0),
            (Capability::Kill, 5),
            (Capability::NetBindService, 10),
            (Capability::SysAdmin, 21),
            (Capability::AuditWrite, 29),
            (Capability::MacOverride, 32),
            (Capability::Bpf, 39),
            (Capability::CheckpointRestore, 40),
        ];
        for (capability, expected) in table {
            assert_eq!(number(capability), expected, "{capability}");
        }
    }
}
