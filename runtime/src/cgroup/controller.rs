//! The cgroup controllers and what each is called in either version.
//!
//! One closed list, so that limits, statistics and the layout of the host speak of the same things.
//! Kernel: Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst.

use std::fmt;

/// Which interface a hierarchy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One mount for each controller (or a few), `tasks` and `cgroup.procs`.
    V1,
    /// The unified tree.
    V2,
}

/// A resource controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Controller {
    /// CPU time: shares, quota.
    Cpu,
    /// CPU time accounting; part of [`Controller::Cpu`] in v2.
    Cpuacct,
    /// Which CPUs and memory nodes.
    Cpuset,
    /// Memory and swap.
    Memory,
    /// Number of tasks.
    Pids,
    /// Block I/O (`blkio` in v1).
    Io,
    /// Huge pages.
    Hugetlb,
    /// RDMA handles and objects.
    Rdma,
    /// Access to device nodes: files in v1, an eBPF program in v2.
    Devices,
    /// Stopping every task; a core feature of every v2 cgroup.
    Freezer,
    /// Class of network packets (v1 only).
    NetCls,
    /// Priority of network packets (v1 only).
    NetPrio,
    /// Which tasks perf sees.
    PerfEvent,
    /// Scalar resources such as SEV address-space ids (v2 only in practice).
    Misc,
}

/// Every controller with its names: v1, v2 (empty where the version has none that is listed).
const NAMES: &[(Controller, &str, &str)] = &[
    (Controller::Cpu, "cpu", "cpu"),
    (Controller::Cpuacct, "cpuacct", ""),
    (Controller::Cpuset, "cpuset", "cpuset"),
    (Controller::Memory, "memory", "memory"),
    (Controller::Pids, "pids", "pids"),
    (Controller::Io, "blkio", "io"),
    (Controller::Hugetlb, "hugetlb", "hugetlb"),
    (Controller::Rdma, "rdma", "rdma"),
    (Controller::Devices, "devices", ""),
    (Controller::Freezer, "freezer", ""),
    (Controller::NetCls, "net_cls", ""),
    (Controller::NetPrio, "net_prio", ""),
    (Controller::PerfEvent, "perf_event", ""),
    (Controller::Misc, "misc", "misc"),
];

impl Controller {
    /// The controller that this version of cgroups calls `name`, if it is one that we know.
    pub fn named(name: &str, version: Version) -> Option<Self> {
        NAMES
            .iter()
            .find(|(_, v1, v2)| match version {
                Version::V1 => *v1 == name,
                Version::V2 => !v2.is_empty() && *v2 == name,
            })
            .map(|(controller, _, _)| *controller)
    }

    /// What v1 calls it (`blkio`, `memory`, …); also the name used in messages.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(controller, _, _)| *controller == self).map_or("", |(_, v1, _)| v1)
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_io_has_two_names() {
        assert_eq!(Controller::named("blkio", Version::V1), Some(Controller::Io));
        assert_eq!(Controller::named("io", Version::V2), Some(Controller::Io));
        assert_eq!(Controller::named("io", Version::V1), None);
        assert_eq!(Controller::named("blkio", Version::V2), None);
    }

    #[test]
    fn an_unlisted_v2_name_never_matches_the_empty_one() {
        assert_eq!(Controller::named("", Version::V2), None);
        assert_eq!(Controller::named("dmem", Version::V2), None);
    }
}
