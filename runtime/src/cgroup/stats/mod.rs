//! What a cgroup has used, file by file, for [`crate::stats`]. A file that is not there leaves its numbers out.
//!
//! Each controller is read in the version in which it is mounted. Numbers on v2 are given v1's meaning, as runc does.

mod v1;
mod v2;

use std::fs;
use std::path::{Path, PathBuf};

use super::controller::{Controller, Version};
use super::tree::Cgroup;
use crate::stats::{Hugetlb, Stats};

/// A directory whose files are read.
struct Files<'a>(&'a Path);

impl Files<'_> {
    fn text(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.0.join(file)).ok()
    }

    /// The number in a file; `max` is the largest there is, a negative one is 0.
    fn number(&self, file: &str) -> Option<u64> {
        let text = self.text(file)?;
        let text = text.trim();
        if text == "max" {
            return Some(u64::MAX);
        }
        text.parse().ok().or_else(|| text.parse::<i64>().ok().map(|_| 0))
    }

    /// Pairs of a word and a number, a line each.
    fn pairs(&self, file: &str) -> Vec<(String, u64)> {
        let text = self.text(file).unwrap_or_default();
        let pair = |line: &str| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        };
        text.lines().filter_map(pair).collect()
    }
}

impl Cgroup {
    /// What it has used so far.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        let at = |controller| Some((self.version_of(controller)?, self.dir(controller)?));
        // v2 counts CPU time and pressure in every cgroup; v1's cpuacct is asked first where it is mounted.
        match (at(Controller::Cpuacct), self.unified_dir()) {
            (Some((_, dir)), _) => v1::cpu_time(&Files(&dir), &mut stats.cpu),
            (None, Some(dir)) => v2::cpu_time(&Files(&dir), &mut stats.cpu),
            (None, None) => {}
        }
        match at(Controller::Cpu) {
            Some((Version::V1, dir)) => v1::throttling(&Files(&dir), &mut stats.cpu),
            Some((Version::V2, dir)) => v2::throttling(&Files(&dir), &mut stats.cpu),
            None => {}
        }
        if let Some((Version::V1, dir)) = at(Controller::Cpuset) {
            stats.cpuset = v1::cpuset(&Files(&dir));
        }
        match at(Controller::Memory) {
            Some((Version::V1, dir)) => stats.memory = v1::memory(&Files(&dir)),
            Some((Version::V2, dir)) => stats.memory = v2::memory(&Files(&dir)),
            None => {}
        }
        match at(Controller::Io) {
            Some((Version::V1, dir)) => stats.blkio = v1::blkio(&Files(&dir)),
            Some((Version::V2, dir)) => stats.blkio = v2::blkio(&Files(&dir)),
            None => {}
        }
        if let Some((_, dir)) = at(Controller::Pids) {
            let files = Files(&dir);
            stats.pids.current = files.number("pids.current").unwrap_or(0);
            stats.pids.limit = files.number("pids.max").filter(|limit| *limit != u64::MAX).unwrap_or(0);
        }
        if let Some((version, dir)) = at(Controller::Hugetlb) {
            for size in page_sizes(Path::new("/sys/kernel/mm/hugepages")) {
                stats.hugetlb.extend(hugetlb(&Files(&dir), version, &size).map(|count| (size, count)));
            }
        }
        if self.layout().is_pure_v2() {
            let files = self.unified_dir().unwrap_or_default();
            stats.cpu.psi = v2::pressure(&Files(&files), "cpu.pressure");
            stats.memory.psi = v2::pressure(&Files(&files), "memory.pressure");
            stats.blkio.psi = v2::pressure(&Files(&files), "io.pressure");
        }
        stats
    }
}

/// Reservations, or faults where the kernel does not count these.
fn hugetlb(files: &Files<'_>, version: Version, size: &str) -> Option<Hugetlb> {
    let of = |rsvd: &str| {
        let name = |last: &str| format!("hugetlb.{size}{rsvd}.{last}");
        match version {
            Version::V1 => Some(Hugetlb {
                usage: files.number(&name("usage_in_bytes"))?,
                max: files.number(&name("max_usage_in_bytes"))?,
                failcnt: files.number(&name("failcnt"))?,
            }),
            Version::V2 => {
                let events = files.pairs(&format!("hugetlb.{size}.events"));
                let hits = events.iter().find(|(key, _)| key == "max").map_or(0, |(_, count)| *count);
                Some(Hugetlb { usage: files.number(&name("current"))?, max: 0, failcnt: hits })
            }
        }
    };
    of(".rsvd").or_else(|| of(""))
}

/// The kernel's sizes of huge pages in the words of its cgroup files: `hugepages-2048kB` is `2MB`.
fn page_sizes(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |name: PathBuf| {
        let name = name.file_name()?.to_str()?.to_owned();
        let kilobytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        Some(match kilobytes {
            size if size >= 1 << 20 => format!("{}GB", size >> 20),
            size if size >= 1 << 10 => format!("{}MB", size >> 10),
            size => format!("{size}KB"),
        })
    };
    let mut sizes: Vec<String> = entries.filter_map(|entry| size(entry.path())).collect();
    sizes.sort();
    sizes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::host::{Scratch, put};
    use super::super::layout::Layout;
    use super::*;

    #[test]
    fn everything_on_v1() {
        use Controller::{Cpu, Cpuacct, Cpuset, Io, Memory, Pids};
        let scratch = Scratch::new("stats-v1");
        let layout = Layout::of(vec![scratch.tree("v1", Version::V1, &[Cpu, Cpuacct, Cpuset, Io, Memory, Pids])]);
        let files = [
            ("cpuacct.usage", "5000\n"),
            ("cpuacct.stat", "user 3\nsystem 2\n"),
            ("cpuacct.usage_percpu", "2000 3000 \n"),
            ("cpuacct.usage_all", "cpu user system\n0 1500 500\n1 1000 2000\n"),
            ("cpu.stat", "nr_periods 4\nnr_throttled 2\nthrottled_time 77\nnr_bursts 9\n"),
            ("cpuset.cpus", "0-1,3\n"),
            ("cpuset.mems", "0\n"),
            ("cpuset.sched_load_balance", "1\n"),
            ("cpuset.sched_relax_domain_level", "-1\n"),
            ("memory.stat", "cache 40\nrss 2\n"),
            ("memory.usage_in_bytes", "100\n"),
            ("memory.max_usage_in_bytes", "120\n"),
            ("memory.failcnt", "1\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.kmem.usage_in_bytes", "7\n"),
            ("memory.kmem.max_usage_in_bytes", "8\n"),
            ("memory.kmem.failcnt", "0\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            ("blkio.throttle.io_serviced_recursive", "8:0 Read 4\n8:0 Total 4\nTotal 4\n"),
            ("blkio.throttle.io_service_bytes_recursive", "8:0 Read 4096\n8:16 Write 0\nTotal 4096\n"),
        ];
        for (file, text) in files {
            put(&scratch.0.join("v1/web").join(file), text);
        }
        let mut found = serde_json::to_value(Cgroup::at(&layout, Path::new("web")).unwrap().stats()).unwrap();
        found["cpuset"].as_object_mut().unwrap().retain(|_, value| *value != json!(0));
        assert_eq!(
            found,
            json!({
                "cpu": {
                    "usage": {"total": 5000, "percpu": [2000, 3000], "percpu_kernel": [500, 2000],
                              "percpu_user": [1500, 1000], "kernel": 20_000_000, "user": 30_000_000},
                    "throttling": {"periods": 4, "throttledPeriods": 2, "throttledTime": 77}
                },
                "cpuset": {"cpus": [0, 1, 3], "mems": [0], "sched_load_balance": 1, "sched_relax_domain_level": -1},
                "memory": {
                    "cache": 40,
                    "usage": {"limit": 9_223_372_036_854_771_712u64, "usage": 100, "max": 120, "failcnt": 1},
                    "kernel": {"limit": 0, "usage": 7, "max": 8, "failcnt": 0},
                    "raw": {"cache": 40, "rss": 2}
                },
                "pids": {"current": 3},
                "blkio": {
                    "ioServiceBytesRecursive": [{"major": 8, "op": "Read", "value": 4096},
                                                {"major": 8, "minor": 16, "op": "Write"}],
                    "ioServicedRecursive": [{"major": 8, "op": "Read", "value": 4}, {"major": 8, "op": "Total", "value": 4}]
                },
                "hugetlb": {}, "intel_rdt": {}, "network_interfaces": null
            })
        );
    }

    #[test]
    fn everything_on_v2_in_v1s_words() {
        use Controller::{Cpu, Io, Memory, Pids};
        let scratch = Scratch::new("stats-v2");
        let layout = Layout::of(vec![scratch.tree("v2", Version::V2, &[Cpu, Io, Memory, Pids])]);
        let files = [
            ("cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 4\nnr_throttled 2\nthrottled_usec 77\n"),
            (
                "cpu.pressure",
                "some avg10=1.50 avg60=0.20 avg300=0.00 total=99\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
            ),
            ("memory.stat", "anon 2\nfile 40\n"),
            ("memory.current", "100\n"),
            ("memory.max", "200\n"),
            ("memory.peak", "120\n"),
            ("memory.swap.current", "10\n"),
            ("memory.swap.max", "max\n"),
            ("pids.current", "3\n"),
            ("pids.max", "9\n"),
            ("io.stat", "8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n"),
        ];
        for (file, text) in files {
            put(&scratch.0.join("v2/web").join(file), text);
        }
        let mut found = serde_json::to_value(Cgroup::at(&layout, Path::new("web")).unwrap().stats()).unwrap();
        assert_eq!(found["cpuset"]["sched_relax_domain_level"], json!(0));
        found.as_object_mut().unwrap().remove("cpuset");
        assert_eq!(
            found,
            json!({
                "cpu": {
                    "usage": {"total": 5000, "kernel": 2000, "user": 3000},
                    "throttling": {"periods": 4, "throttledPeriods": 2, "throttledTime": 77_000},
                    "psi": {"some": {"avg10": 1.5, "avg60": 0.2, "avg300": 0.0, "total": 99}}
                },
                "memory": {
                    "cache": 40,
                    "usage": {"limit": 200, "usage": 100, "max": 120, "failcnt": 0},
                    "swap": {"limit": u64::MAX, "usage": 110, "failcnt": 0},
                    "raw": {"anon": 2, "file": 40}
                },
                "pids": {"current": 3, "limit": 9},
                "blkio": {
                    "ioServiceBytesRecursive": [{"major": 8, "op": "Read", "value": 4096}, {"major": 8, "op": "Write"}],
                    "ioServicedRecursive": [{"major": 8, "op": "Read", "value": 1}, {"major": 8, "op": "Write"}]
                },
                "hugetlb": {}, "intel_rdt": {}, "network_interfaces": null
            })
        );
    }

    #[test]
    fn huge_pages_count_reservations_where_the_kernel_does() {
        let scratch = Scratch::new("stats-huge");
        for dir in ["hugepages-2048kB", "hugepages-1048576kB", "hugepages-64kB", "other"] {
            fs::create_dir_all(scratch.0.join("sizes").join(dir)).unwrap();
        }
        assert_eq!(page_sizes(&scratch.0.join("sizes")), ["1GB", "2MB", "64KB"]);
        for (file, text) in [
            ("hugetlb.2MB.rsvd.current", "4"),
            ("hugetlb.2MB.current", "5"),
            ("hugetlb.2MB.events", "max 6\n"),
            ("hugetlb.1GB.usage_in_bytes", "1"),
            ("hugetlb.1GB.max_usage_in_bytes", "2"),
            ("hugetlb.1GB.failcnt", "3"),
        ] {
            put(&scratch.0.join("huge").join(file), text);
        }
        let dir = scratch.0.join("huge");
        let files = Files(&dir);
        assert_eq!(hugetlb(&files, Version::V2, "2MB"), Some(Hugetlb { usage: 4, max: 0, failcnt: 6 }));
        assert_eq!(hugetlb(&files, Version::V1, "1GB"), Some(Hugetlb { usage: 1, max: 2, failcnt: 3 }));
        assert_eq!(hugetlb(&files, Version::V1, "64KB"), None);
    }
}
