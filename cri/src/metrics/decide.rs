//! Readings become metrics; pure. What the kernel did not tell is left out rather than told as 0.

use gantry_cri_api as api;
use gantry_runtime::stats::{BlkioEntry, Pressure, Stats};

use super::table::KINDS;

/// What was read of one container.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub stats: Stats,
    pub working_set: Option<u64>,
    pub oom_kills: u64,
    pub processes: u64,
    pub descriptors: u64,
    pub sockets: u64,
    /// `/proc/PID/limits` of the main process.
    pub limits: String,
    /// Nanoseconds since 1970.
    pub started_at: i64,
    pub resources: api::LinuxContainerResources,
    pub disk: Option<Disk>,
    /// Names of block devices by number.
    pub names: Vec<((u64, u64), String)>,
}

/// The file system of the writable layer, and what the container has of it.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub device: String,
    pub bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
    pub used: u64,
}

/// Metrics of one pod or container, as they are gathered.
pub(super) struct Sheet {
    base: [String; 5],
    at: i64,
    pub list: Vec<api::Metric>,
}

impl Sheet {
    pub(super) fn new(base: [String; 5], at: i64) -> Self {
        Self { base, at, list: Vec::new() }
    }

    /// One figure; a name without a row in the table is left out, and a test sees to it that there is none.
    fn put(&mut self, name: &str, more: &[&str], value: u64) {
        let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else { return };
        debug_assert_eq!(kind.keys.len(), more.len(), "labels of {name}");
        let labels = self.base.iter().cloned().chain(more.iter().map(|label| (*label).to_owned()));
        self.list.push(api::Metric {
            name: name.to_owned(),
            timestamp: self.at,
            metric_type: kind.grows as i32,
            label_values: labels.collect(),
            value: Some(api::UInt64Value { value }),
        });
    }

    /// The figures of one container.
    pub(super) fn container(&mut self, facts: &Facts) {
        self.cpu(&facts.stats);
        self.memory(facts);
        self.pressure(&facts.stats);
        self.blocks(facts);
        if let Some(disk) = &facts.disk {
            let device = [disk.device.as_str()];
            self.put("container_fs_inodes_free", &device, disk.inodes_free);
            self.put("container_fs_inodes_total", &device, disk.inodes);
            self.put("container_fs_limit_bytes", &device, disk.bytes);
            self.put("container_fs_usage_bytes", &device, disk.used);
        }
        self.processes(facts);
        self.specified(&facts.resources);
        self.put("container_last_seen", &[], seconds(self.at));
        self.put("container_start_time_seconds", &[], seconds(facts.started_at));
    }

    fn cpu(&mut self, stats: &Stats) {
        const SECOND: u64 = 1_000_000_000;
        let (usage, throttling) = (&stats.cpu.usage, &stats.cpu.throttling);
        self.put("container_cpu_usage_seconds_total", &[], usage.total / SECOND);
        self.put("container_cpu_user_seconds_total", &[], usage.user / SECOND);
        self.put("container_cpu_system_seconds_total", &[], usage.kernel / SECOND);
        self.put("container_cpu_cfs_periods_total", &[], throttling.periods);
        self.put("container_cpu_cfs_throttled_periods_total", &[], throttling.throttled_periods);
        self.put("container_cpu_cfs_throttled_seconds_total", &[], throttling.throttled_time / SECOND);
    }

    fn memory(&mut self, facts: &Facts) {
        let memory = &facts.stats.memory;
        // v1 counts cgroups below in words of their own; v2 counts them in always.
        let raw = |v1: &str, v2: &str| memory.raw.get(v1).or_else(|| memory.raw.get(v2)).copied().unwrap_or(0);
        let swap = memory.raw.get("total_swap").copied();
        let swap = swap.unwrap_or_else(|| memory.swap.usage.saturating_sub(memory.usage.usage));
        let kernel = if memory.kernel.usage > 0 { memory.kernel.usage } else { raw("", "kernel") };
        for (name, value) in [
            ("container_memory_cache", raw("total_cache", "file")),
            ("container_memory_rss", raw("total_rss", "anon")),
            ("container_memory_kernel_usage", kernel),
            ("container_memory_mapped_file", raw("total_mapped_file", "file_mapped")),
            ("container_memory_swap", swap),
            ("container_memory_failcnt", memory.usage.failcnt),
            ("container_memory_usage_bytes", memory.usage.usage),
            ("container_memory_max_usage_bytes", memory.usage.max),
            ("container_memory_working_set_bytes", facts.working_set.unwrap_or(memory.usage.usage)),
            ("container_memory_total_active_file_bytes", raw("total_active_file", "active_file")),
            ("container_memory_total_inactive_file_bytes", raw("total_inactive_file", "inactive_file")),
            ("container_oom_events_total", facts.oom_kills),
        ] {
            self.put(name, &[], value);
        }
        for (kind, v1) in [("pgfault", "total_pgfault"), ("pgmajfault", "total_pgmajfault")] {
            self.put("container_memory_failures_total", &[kind, "container"], raw(v1, kind));
        }
        for (size, pages) in &facts.stats.hugetlb {
            self.put("container_hugetlb_usage_bytes", &[size], pages.usage);
            self.put("container_hugetlb_max_usage_bytes", &[size], pages.max);
        }
    }

    fn pressure(&mut self, stats: &Stats) {
        let mut put = |what: &str, pressure: &Option<Pressure>| {
            let Some(pressure) = pressure else { return };
            // Microseconds (psi.rst).
            self.put(&format!("container_pressure_{what}_waiting_seconds_total"), &[], pressure.some.total / 1_000_000);
            self.put(&format!("container_pressure_{what}_stalled_seconds_total"), &[], pressure.full.total / 1_000_000);
        };
        put("cpu", &stats.cpu.psi);
        put("memory", &stats.memory.psi);
        put("io", &stats.blkio.psi);
    }

    fn blocks(&mut self, facts: &Facts) {
        let blkio = &facts.stats.blkio;
        let name = |entry: &BlkioEntry| {
            let known = facts.names.iter().find(|(number, _)| *number == (entry.major, entry.minor));
            known.map_or_else(String::new, |(_, name)| name.clone())
        };
        for entry in &blkio.io_service_bytes_recursive {
            let (device, major, minor) = (name(entry), entry.major.to_string(), entry.minor.to_string());
            self.put("container_blkio_device_usage_total", &[&device, &major, &minor, &entry.op], entry.value);
            match entry.op.as_str() {
                "Read" => self.put("container_fs_reads_bytes_total", &[&device], entry.value),
                "Write" => self.put("container_fs_writes_bytes_total", &[&device], entry.value),
                _ => {}
            }
        }
        for entry in &blkio.io_serviced_recursive {
            match entry.op.as_str() {
                "Read" => self.put("container_fs_reads_total", &[&name(entry)], entry.value),
                "Write" => self.put("container_fs_writes_total", &[&name(entry)], entry.value),
                _ => {}
            }
        }
    }

    fn processes(&mut self, facts: &Facts) {
        self.put("container_processes", &[], facts.processes);
        self.put("container_file_descriptors", &[], facts.descriptors);
        self.put("container_sockets", &[], facts.sockets);
        self.put("container_threads", &[], facts.stats.pids.current);
        self.put("container_threads_max", &[], facts.stats.pids.limit);
        if let Some(files) = soft_limit(&facts.limits, "Max open files") {
            self.put("container_ulimits_soft", &["max_open_files"], files);
        }
    }

    fn specified(&mut self, wanted: &api::LinuxContainerResources) {
        let reserved = wanted.unified.get("memory.low").and_then(|bytes| bytes.trim().parse().ok());
        let positive = |value: i64| u64::try_from(value).unwrap_or(0);
        for (name, value) in [
            ("container_spec_cpu_period", positive(wanted.cpu_period)),
            ("container_spec_cpu_quota", positive(wanted.cpu_quota)),
            ("container_spec_cpu_shares", positive(wanted.cpu_shares)),
            ("container_spec_memory_limit_bytes", positive(wanted.memory_limit_in_bytes)),
            ("container_spec_memory_reservation_limit_bytes", reserved.unwrap_or(0)),
            ("container_spec_memory_swap_limit_bytes", positive(wanted.memory_swap_limit_in_bytes)),
        ] {
            self.put(name, &[], value);
        }
    }

    /// The figures of a pod's interfaces, from `/proc/net/dev` (proc_net(5)): two lines of heads, then a line each, of
    /// eight figures of what was received and eight of what was sent.
    pub(super) fn network(&mut self, text: &str) {
        for line in text.lines().skip(2) {
            let Some((name, figures)) = line.split_once(':') else { continue };
            let figures: Vec<u64> = figures.split_whitespace().map_while(|figure| figure.parse().ok()).collect();
            let name = name.trim();
            if name == "lo" || figures.len() < 12 {
                continue;
            }
            for (way, from) in [("receive", 0), ("transmit", 8)] {
                for (at, what) in ["bytes", "packets", "errors", "packets_dropped"].iter().enumerate() {
                    self.put(&format!("container_network_{way}_{what}_total"), &[name], figures[from + at]);
                }
            }
        }
    }
}

fn seconds(nanoseconds: i64) -> u64 {
    u64::try_from(nanoseconds / 1_000_000_000).unwrap_or(0)
}

/// A line of `/proc/PID/limits` (proc_pid_limits(5)): a name in 26 columns, then the soft limit. `None` is no limit.
fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use gantry_runtime::stats::PressureLine;

    use super::*;

    const NET: &str =
        "head\nhead\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n";

    /// `name{labels after the base ones} value`, a line each.
    fn text(sheet: &Sheet) -> String {
        let line = |m: &api::Metric| {
            format!("{}{{{}}} {}\n", m.name, m.label_values[5..].join(","), m.value.as_ref().unwrap().value)
        };
        sheet.list.iter().map(line).collect()
    }

    fn sheet() -> Sheet {
        Sheet::new(["web", "default", "main", "abc", "busybox"].map(str::to_owned), 7_000_000_000)
    }

    fn full() -> Facts {
        let mut facts = Facts { oom_kills: 1, processes: 2, descriptors: 9, sockets: 3, ..Facts::default() };
        facts.stats.cpu.usage.total = 3_500_000_000;
        facts.stats.memory.raw = [("total_rss", 5), ("total_cache", 6), ("total_swap", 4), ("total_pgfault", 8)]
            .map(|(name, value)| (name.to_owned(), value))
            .into();
        facts.stats.memory.usage.usage = 99;
        facts.working_set = Some(90);
        facts.stats.hugetlb.insert("2MB".into(), Default::default());
        let some = PressureLine { total: 2_000_000, ..PressureLine::default() };
        let pressure = Some(Pressure { some, ..Pressure::default() });
        (facts.stats.cpu.psi, facts.stats.memory.psi, facts.stats.blkio.psi) = (pressure, pressure, pressure);
        for op in ["Read", "Write"] {
            let entry = BlkioEntry { major: 254, minor: 0, op: op.into(), value: 4096 };
            facts.stats.blkio.io_service_bytes_recursive.push(entry.clone());
            facts.stats.blkio.io_serviced_recursive.push(entry);
        }
        facts.names = vec![((254, 0), "/dev/vda".into())];
        facts.limits = "Limit  Soft Limit\nMax open files            1024                 4096     files\n".into();
        facts.disk = Some(Disk { device: "/dev/vda".into(), bytes: 100, inodes: 10, inodes_free: 9, used: 5 });
        facts.resources.cpu_quota = 20_000;
        facts
    }

    #[test]
    fn every_metric_of_the_table_can_be_told_and_none_else() {
        let mut sheet = sheet();
        sheet.container(&full());
        sheet.network(NET);
        let told: BTreeSet<&str> = sheet.list.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(told, KINDS.iter().map(|kind| kind.name).collect());
        for metric in &sheet.list {
            let kind = KINDS.iter().find(|kind| kind.name == metric.name).unwrap();
            assert_eq!(metric.label_values.len(), 5 + kind.keys.len(), "{}", metric.name);
            assert_eq!((metric.timestamp, metric.metric_type), (7_000_000_000, kind.grows as i32));
            assert_eq!(metric.label_values[..5], ["web", "default", "main", "abc", "busybox"]);
        }
    }

    #[test]
    fn figures_are_told_as_they_were_read() {
        let mut sheet = sheet();
        sheet.container(&full());
        let said = text(&sheet);
        for line in [
            "container_cpu_usage_seconds_total{} 3\n",
            "container_memory_rss{} 5\n",
            "container_memory_swap{} 4\n",
            "container_memory_working_set_bytes{} 90\n",
            "container_memory_failures_total{pgfault,container} 8\n",
            "container_pressure_io_waiting_seconds_total{} 2\n",
            "container_blkio_device_usage_total{/dev/vda,254,0,Write} 4096\n",
            "container_fs_reads_total{/dev/vda} 4096\n",
            "container_fs_usage_bytes{/dev/vda} 5\n",
            "container_ulimits_soft{max_open_files} 1024\n",
            "container_spec_cpu_quota{} 20000\n",
            "container_last_seen{} 7\n",
        ] {
            assert!(said.contains(line), "{line} is not in:\n{said}");
        }
    }

    #[test]
    fn the_second_version_of_cgroups_has_other_words() {
        let mut facts = Facts::default();
        let words = [("anon", 5), ("file", 6), ("file_mapped", 7), ("kernel", 8), ("pgfault", 9)];
        facts.stats.memory.raw = words.map(|(name, value)| (name.to_owned(), value)).into();
        (facts.stats.memory.usage.usage, facts.stats.memory.swap.usage) = (100, 130);
        let mut sheet = sheet();
        sheet.container(&facts);
        let said = text(&sheet);
        for line in ["rss{} 5\n", "cache{} 6\n", "mapped_file{} 7\n", "kernel_usage{} 8\n", "swap{} 30\n"] {
            assert!(said.contains(&format!("container_memory_{line}")), "{line} is not in:\n{said}");
        }
        assert!(!said.contains("pressure") && !said.contains("hugetlb") && !said.contains("container_fs_"));
    }

    #[test]
    fn interfaces_but_the_loopback() {
        let mut sheet = sheet();
        sheet.network(NET);
        let said = text(&sheet);
        assert_eq!(sheet.list.len(), 8);
        assert!(said.contains("container_network_receive_packets_dropped_total{eth0} 4\n"), "{said}");
        assert!(said.contains("container_network_transmit_errors_total{eth0} 7\n"), "{said}");
    }
}
