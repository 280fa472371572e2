//! What a cgroup uses: the numbers of CRI's container statistics.
//!
//! Reading is done here, parsing is pure. A file that is missing (a controller that the host lacks) leaves its number out.
//! Kernel: cgroup-v1/{memory,cpuacct,blkio-controller,pids}.rst, cgroup-v2.rst.

use std::fs;
use std::path::Path;

use super::controller::{Controller, Version};
use super::tree::Cgroup;
use crate::error::Result;

/// Numbers of one moment; they are read one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since creation, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// CPU periods in which the quota ran out.
    pub throttled_periods: Option<u64>,
    /// Time spent waiting for a new period, in nanoseconds.
    pub throttled_ns: Option<u64>,
    /// Memory, in bytes.
    pub memory: Option<MemoryUsage>,
    /// Number of tasks (threads).
    pub pids: Option<u64>,
    /// Limit on the number of tasks; `None` is no limit.
    pub pids_limit: Option<u64>,
    /// Block I/O since creation.
    pub io: Option<IoUsage>,
}

/// Memory in bytes, events as counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// All that is charged, page cache too.
    pub usage: u64,
    /// `usage` without the page cache that was not used lately: what kubelet's eviction looks at.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Page cache.
    pub cache: u64,
    /// Swap in use.
    pub swap: u64,
    /// The limit; `None` is no limit.
    pub limit: Option<u64>,
    /// Page faults since creation.
    pub page_faults: u64,
    /// Page faults that needed a disk.
    pub major_page_faults: u64,
}

/// Block I/O since creation, over all devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoUsage {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Read requests.
    pub read_ops: u64,
    /// Write requests.
    pub write_ops: u64,
}

/// v1 writes "no limit" as the largest number of whole pages; anything above this is it.
const V1_NO_LIMIT: u64 = 1 << 62;

impl Usage {
    /// The limit of tasks and memory aside, nothing is used: also what a cgroup without controllers reports.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Cgroup {
    /// What the cgroup uses now. A cgroup that has gone uses nothing.
    ///
    /// # Errors
    /// None today; a file that cannot be read leaves its number out.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        self.cpu_usage(&mut usage);
        usage.memory = self.memory_usage();
        if let Some(dir) = self.dir(Controller::Pids) {
            usage.pids = number(&dir.join("pids.current"));
            usage.pids_limit = number(&dir.join("pids.max"));
        }
        usage.io = self.dir(Controller::Io).and_then(|dir| match self.version_of(Controller::Io) {
            Some(Version::V2) => Some(io_v2(&text(&dir.join("io.stat"))?)),
            _ => Some(io_v1(
                &text(&dir.join("blkio.throttle.io_service_bytes_recursive"))?,
                &text(&dir.join("blkio.throttle.io_serviced_recursive"))?,
            )),
        });
        Ok(usage)
    }

    fn cpu_usage(&self, usage: &mut Usage) {
        // v2 counts CPU time in every cgroup, whether the controller is enabled or not.
        if let Some(dir) = self.dir(Controller::Cpuacct) {
            usage.cpu_ns = number(&dir.join("cpuacct.usage"));
        } else if let Some(stat) = self.unified_dir().and_then(|dir| text(&dir.join("cpu.stat"))) {
            usage.cpu_ns = value(&stat, "usage_usec").map(|micros| micros * 1000);
        }
        if let Some(stat) = self.dir(Controller::Cpu).and_then(|dir| text(&dir.join("cpu.stat"))) {
            usage.throttled_periods = value(&stat, "nr_throttled");
            let nanos = value(&stat, "throttled_time");
            usage.throttled_ns = nanos.or_else(|| value(&stat, "throttled_usec").map(|micros| micros * 1000));
        }
    }

    fn memory_usage(&self) -> Option<MemoryUsage> {
        let dir = self.dir(Controller::Memory)?;
        match self.version_of(Controller::Memory)? {
            Version::V1 => {
                let mut memory =
                    memory_v1(&text(&dir.join("memory.stat"))?, number(&dir.join("memory.usage_in_bytes"))?);
                memory.limit = number(&dir.join("memory.limit_in_bytes")).filter(|limit| *limit < V1_NO_LIMIT);
                let both = number(&dir.join("memory.memsw.usage_in_bytes"));
                memory.swap = both.map_or(0, |both| both.saturating_sub(memory.usage));
                Some(memory)
            }
            Version::V2 => {
                let mut memory = memory_v2(&text(&dir.join("memory.stat"))?, number(&dir.join("memory.current"))?);
                memory.limit = number(&dir.join("memory.max"));
                memory.swap = number(&dir.join("memory.swap.current")).unwrap_or(0);
                Some(memory)
            }
        }
    }
}

fn memory_v1(stat: &str, usage: u64) -> MemoryUsage {
    let of = |key| value(stat, key).unwrap_or(0);
    MemoryUsage {
        usage,
        working_set: usage.saturating_sub(of("total_inactive_file")),
        rss: of("total_rss"),
        cache: of("total_cache"),
        page_faults: of("total_pgfault"),
        major_page_faults: of("total_pgmajfault"),
        ..MemoryUsage::default()
    }
}

fn memory_v2(stat: &str, usage: u64) -> MemoryUsage {
    let of = |key| value(stat, key).unwrap_or(0);
    MemoryUsage {
        usage,
        working_set: usage.saturating_sub(of("inactive_file")),
        rss: of("anon"),
        cache: of("file"),
        page_faults: of("pgfault"),
        major_page_faults: of("pgmajfault"),
        ..MemoryUsage::default()
    }
}

/// Lines of `8:0 Read 4096`, and one `Total 4096` at the end.
fn io_v1(bytes: &str, ops: &str) -> IoUsage {
    let sum = |text: &str, kind: &str| {
        let fields = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        fields
            .filter(|fields| fields.get(1) == Some(&kind))
            .filter_map(|fields| fields.get(2)?.parse::<u64>().ok())
            .sum()
    };
    IoUsage {
        read_bytes: sum(bytes, "Read"),
        write_bytes: sum(bytes, "Write"),
        read_ops: sum(ops, "Read"),
        write_ops: sum(ops, "Write"),
    }
}

/// Lines of `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn io_v2(stat: &str) -> IoUsage {
    let sum = |key: &str| {
        let pairs = stat.split_whitespace().filter_map(|pair| pair.split_once('='));
        pairs.filter(|(name, _)| *name == key).filter_map(|(_, count)| count.parse::<u64>().ok()).sum()
    };
    IoUsage { read_bytes: sum("rbytes"), write_bytes: sum("wbytes"), read_ops: sum("rios"), write_ops: sum("wios") }
}

/// The number after `key ` at the start of a line.
pub(super) fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The number in a file; `None` for `max` and for a file that is not there.
fn number(path: &Path) -> Option<u64> {
    text(path)?.trim().parse().ok()
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_io_is_summed_over_devices() {
        let bytes = "8:0 Read 4096\n8:0 Write 100\n8:0 Total 4196\n8:16 Read 4\n8:16 Write 1\nTotal 4201\n";
        let ops = "8:0 Read 1\n8:0 Write 2\n8:16 Read 3\nTotal 6\n";
        let expected = IoUsage { read_bytes: 4100, write_bytes: 101, read_ops: 4, write_ops: 2 };
        assert_eq!(io_v1(bytes, ops), expected);
        let stat = "8:0 rbytes=4096 wbytes=100 rios=1 wios=2 dbytes=9 dios=9\n8:16 rbytes=4 wbytes=1 rios=3 wios=0\n";
        assert_eq!(io_v2(stat), expected);
        assert_eq!(io_v2(""), IoUsage::default());
    }

    #[test]
    fn the_working_set_leaves_idle_cache_out() {
        let v1 = memory_v1("cache 9\ntotal_cache 50\ntotal_rss 30\ntotal_inactive_file 20\ntotal_pgfault 7\n", 100);
        assert_eq!((v1.working_set, v1.rss, v1.cache, v1.page_faults), (80, 30, 50, 7));
        let v2 = memory_v2("anon 30\nfile 50\ninactive_file 20\npgfault 7\npgmajfault 1\n", 100);
        assert_eq!((v2.working_set, v2.rss, v2.cache, v2.major_page_faults), (80, 30, 50, 1));
        assert_eq!(memory_v2("inactive_file 200\n", 100).working_set, 0, "never below zero");
    }

    #[test]
    fn a_key_is_a_whole_word() {
        assert_eq!(value("oom 1\noom_kill 2\n", "oom_kill"), Some(2));
        assert_eq!(value("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"), Some(3));
        assert_eq!(value("oom_kill_disable 0\n", "oom_kill"), None);
    }
}
