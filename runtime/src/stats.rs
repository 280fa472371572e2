//! Statistics and events of a container, in the words of `runc events`.
//!
//! The shape is that of runc's `types.Stats`, key by key: what is zero and left out there is left out here. Numbers come
//! from [`crate::cgroup`]; this is what they are called. [`watch`] tells of them from time to time, and of every time that
//! the container ran out of memory.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use serde::Serialize;

use crate::cgroup::{Cgroup, OomWatch};
use crate::error::{Context, Error, Kind, Result};
use crate::lifecycle;
use crate::state::{Facts, Home, started};
use crate::status::{self, Op};
use crate::sys::{Errno, clone};

/// What is told of a container.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event<'a> {
    /// `stats` or `oom`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The container.
    pub id: &'a str,
    /// With `stats`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<Stats>>,
}

/// Use of everything that cgroups count, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Time on CPUs.
    pub cpu: Cpu,
    /// Which CPUs and memory nodes; filled on cgroup v1.
    pub cpuset: Cpuset,
    /// Memory.
    pub memory: Memory,
    /// Tasks.
    pub pids: Pids,
    /// Block I/O.
    pub blkio: Blkio,
    /// Huge pages by size (`2MB`).
    pub hugetlb: BTreeMap<String, Hugetlb>,
    /// Intel RDT: empty, where the container has no group of its own.
    pub intel_rdt: IntelRdt,
    /// Always null: runc counts interfaces only that its own library made.
    pub network_interfaces: Option<Vec<()>>,
}

/// Time on CPUs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// Time used.
    #[serde(skip_serializing_if = "zero")]
    pub usage: CpuUsage,
    /// Time not given because of the quota.
    #[serde(skip_serializing_if = "zero")]
    pub throttling: Throttling,
    /// Pressure (v2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Nanoseconds since the cgroup was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CpuUsage {
    /// All.
    #[serde(skip_serializing_if = "zero")]
    pub total: u64,
    /// All, by CPU (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    /// In the kernel, by CPU (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    /// In programs, by CPU (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    /// In the kernel.
    pub kernel: u64,
    /// In programs.
    pub user: u64,
}

/// What the quota did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    /// Periods in which there was something to run.
    #[serde(skip_serializing_if = "zero")]
    pub periods: u64,
    /// Those in which the quota ran out.
    #[serde(skip_serializing_if = "zero")]
    pub throttled_periods: u64,
    /// Nanoseconds spent waiting.
    #[serde(skip_serializing_if = "zero")]
    pub throttled_time: u64,
}

/// `cpuset.*` of v1.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cpuset {
    /// CPUs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    /// Flag of the same name.
    pub cpu_exclusive: u64,
    /// Memory nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    /// Flag of the same name.
    pub mem_hardwall: u64,
    /// Flag of the same name.
    pub mem_exclusive: u64,
    /// Flag of the same name.
    pub memory_migrate: u64,
    /// Flag of the same name.
    pub memory_spread_page: u64,
    /// Flag of the same name.
    pub memory_spread_slab: u64,
    /// Value of the same name.
    pub memory_pressure: u64,
    /// Flag of the same name.
    pub sched_load_balance: u64,
    /// Value of the same name.
    pub sched_relax_domain_level: i64,
}

/// Memory in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Page cache.
    #[serde(skip_serializing_if = "zero")]
    pub cache: u64,
    /// All that is charged.
    #[serde(skip_serializing_if = "zero")]
    pub usage: MemoryEntry,
    /// The same and swap.
    #[serde(skip_serializing_if = "zero")]
    pub swap: MemoryEntry,
    /// Of the kernel (v1).
    #[serde(skip_serializing_if = "zero")]
    pub kernel: MemoryEntry,
    /// TCP buffers (v1).
    #[serde(rename = "kernelTCP", skip_serializing_if = "zero")]
    pub kernel_tcp: MemoryEntry,
    /// `memory.stat`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    /// Pressure (v2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// One kind of memory; without a limit the largest number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct MemoryEntry {
    /// The limit.
    pub limit: u64,
    /// In use.
    #[serde(skip_serializing_if = "zero")]
    pub usage: u64,
    /// The most that was in use.
    #[serde(skip_serializing_if = "zero")]
    pub max: u64,
    /// How often the limit was hit (v1).
    pub failcnt: u64,
}

/// Tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pids {
    /// How many there are.
    #[serde(skip_serializing_if = "zero")]
    pub current: u64,
    /// How many there may be; 0 is no limit.
    #[serde(skip_serializing_if = "zero")]
    pub limit: u64,
}

/// Block I/O since the cgroup was made, in v1's words.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blkio {
    /// Bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    /// Requests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    /// Requests that wait.
    #[serde(rename = "ioQueueRecursive", skip_serializing_if = "Vec::is_empty")]
    pub io_queued_recursive: Vec<BlkioEntry>,
    /// Nanoseconds of service.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_time_recursive: Vec<BlkioEntry>,
    /// Nanoseconds of waiting.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    /// Requests that were merged.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_merged_recursive: Vec<BlkioEntry>,
    /// Milliseconds of the device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_time_recursive: Vec<BlkioEntry>,
    /// Sectors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sectors_recursive: Vec<BlkioEntry>,
    /// Pressure (v2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// One count of one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BlkioEntry {
    /// Major number.
    #[serde(skip_serializing_if = "zero")]
    pub major: u64,
    /// Minor number.
    #[serde(skip_serializing_if = "zero")]
    pub minor: u64,
    /// `Read`, `Write`, ...
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    /// The count.
    #[serde(skip_serializing_if = "zero")]
    pub value: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Hugetlb {
    /// In use or reserved.
    #[serde(skip_serializing_if = "zero")]
    pub usage: u64,
    /// The most that was (v1).
    #[serde(skip_serializing_if = "zero")]
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
}

/// Pressure stall information.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// Some task had to wait.
    #[serde(skip_serializing_if = "zero")]
    pub some: PressureLine,
    /// All had to.
    #[serde(skip_serializing_if = "zero")]
    pub full: PressureLine,
}

/// Percent of the time, and microseconds in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PressureLine {
    /// Of the last ten seconds.
    pub avg10: f64,
    /// Of the last minute.
    pub avg60: f64,
    /// Of the last five minutes.
    pub avg300: f64,
    /// In all.
    pub total: u64,
}

/// What Intel RDT says of the container's group.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct IntelRdt {
    /// Schema of the L3 cache.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema: String,
    /// Schema of memory bandwidth.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema: String,
    /// All lines of the group's `schemata`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schemata: Vec<String>,
}

fn zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A container whose numbers can be read.
struct Seen {
    facts: Facts,
    cgroup: Cgroup,
    pid: i32,
    start: u64,
}

fn look(root: &Path, id: &str) -> Result<Seen> {
    let home = Home::open(root, id)?;
    let facts = home.facts()?.ok_or_else(|| Error::new(Kind::WrongState, "it was never finished"))?;
    let (seen, init) = home.look(|| false)?;
    status::allow(Op::Stats, status::derive(seen))?;
    let init = init.ok_or_else(|| Error::new(Kind::WrongState, "it has no process"))?;
    let cgroup = lifecycle::cgroup(&facts)?;
    Ok(Seen { facts, cgroup, pid: init.pid, start: init.start })
}

/// What a created, running or paused container uses now.
///
/// # Errors
/// `NotFound`, or `WrongState` once it has stopped.
pub fn stats(root: &Path, id: &str) -> Result<Stats> {
    look(root, id).map(|seen| seen.cgroup.stats()).context(|| format!("statistics of {id}"))
}

/// Tells `each` of the statistics every `interval`, and of every time that the container ran out of memory, until it
/// stops or `each` has heard enough (`false`).
///
/// # Errors
/// `NotFound`, `WrongState`, or what `each` answers. Without a memory controller there are statistics only.
pub fn watch(root: &Path, id: &str, interval: Duration, mut each: impl FnMut(Event<'_>) -> Result<bool>) -> Result<()> {
    let mut go = || -> Result<()> {
        let seen = look(root, id)?;
        let oom = match seen.cgroup.oom_watch() {
            Err(why) if why.kind() == Kind::Unsupported => None,
            opened => Some(opened?),
        };
        let pidfd = clone::pidfd_open(seen.pid).context(|| format!("open process {}", seen.pid))?;
        if started(seen.pid) != Some(seen.start) {
            return status::allow(Op::Stats, status::Status::Stopped);
        }
        follow(&seen, oom.as_ref(), pidfd.as_fd(), interval, &mut each)
    };
    go().context(|| format!("events of {id}"))
}

fn follow(
    seen: &Seen,
    oom: Option<&OomWatch>,
    pidfd: BorrowedFd<'_>,
    interval: Duration,
    each: &mut impl FnMut(Event<'_>) -> Result<bool>,
) -> Result<()> {
    let id = &*seen.facts.id;
    let mut kills = seen.cgroup.oom_kills();
    let mut next = Instant::now() + interval;
    loop {
        let mut fds = vec![PollFd::new(pidfd, PollFlags::POLLIN)];
        fds.extend(oom.map(|oom| PollFd::new(oom.as_fd(), PollFlags::from_bits_truncate(oom.events()))));
        let left = next.saturating_duration_since(Instant::now());
        // Up to the millisecond after: one before would turn in circles.
        let wait = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match nix::poll::poll(&mut fds, wait) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(Error::system("wait for events", Errno::from(errno))),
        }
        let ended = fds[0].any().unwrap_or(false);
        if let Some(oom) = oom.filter(|_| fds[1].any().unwrap_or(false)) {
            let there = oom.seen() && seen.cgroup.exists();
            let now = seen.cgroup.oom_kills();
            // v1 tells of nothing else, also where nobody is killed; v2's file has other counts in it, too.
            let ran_out = now > kills || matches!(oom, OomWatch::V1(_));
            kills = now;
            if there && ran_out && !each(Event { kind: "oom", id, data: None })? {
                return Ok(());
            }
        }
        if ended {
            return Ok(());
        }
        if Instant::now() >= next {
            next = Instant::now() + interval;
            let data = Some(Box::new(seen.cgroup.stats()));
            if !each(Event { kind: "stats", id, data })? {
                return Ok(());
            }
        }
    }
}
