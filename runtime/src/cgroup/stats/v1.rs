//! What v1's files count. Kernel: cgroup-v1/{cpuacct,cpusets,memory,blkio-controller}.rst.

use super::Files;
use crate::stats::{Blkio, BlkioEntry, Cpu, Cpuset, Memory, MemoryEntry};

/// Nanoseconds of a clock tick (`USER_HZ` is 100 on every architecture).
const TICK: u64 = 10_000_000;

pub(super) fn cpu_time(files: &Files<'_>, cpu: &mut Cpu) {
    let usage = &mut cpu.usage;
    usage.total = files.number("cpuacct.usage").unwrap_or(0);
    for (key, ticks) in files.pairs("cpuacct.stat") {
        match &*key {
            "user" => usage.user = ticks * TICK,
            "system" => usage.kernel = ticks * TICK,
            _ => {}
        }
    }
    let numbers = |text: String| text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    usage.percpu = files.text("cpuacct.usage_percpu").map(numbers).unwrap_or_default();
    // `cpu user system`, a line for each.
    for line in files.text("cpuacct.usage_all").unwrap_or_default().lines().skip(1) {
        let mut words = line.split(' ').skip(1).map(str::parse::<u64>);
        if let (Some(Ok(user)), Some(Ok(kernel))) = (words.next(), words.next()) {
            usage.percpu_user.push(user);
            usage.percpu_kernel.push(kernel);
        }
    }
}

pub(super) fn throttling(files: &Files<'_>, cpu: &mut Cpu) {
    for (key, count) in files.pairs("cpu.stat") {
        match &*key {
            "nr_periods" => cpu.throttling.periods = count,
            "nr_throttled" => cpu.throttling.throttled_periods = count,
            "throttled_time" => cpu.throttling.throttled_time = count,
            _ => {}
        }
    }
}

pub(super) fn cpuset(files: &Files<'_>) -> Cpuset {
    let flag = |name: &str| files.number(&format!("cpuset.{name}")).unwrap_or(0);
    let list = |name: &str| files.text(name).map(|text| numbers(&text)).unwrap_or_default();
    let level = files.text("cpuset.sched_relax_domain_level");
    Cpuset {
        cpus: list("cpuset.cpus"),
        cpu_exclusive: flag("cpu_exclusive"),
        mems: list("cpuset.mems"),
        mem_hardwall: flag("mem_hardwall"),
        mem_exclusive: flag("mem_exclusive"),
        memory_migrate: flag("memory_migrate"),
        memory_spread_page: flag("memory_spread_page"),
        memory_spread_slab: flag("memory_spread_slab"),
        memory_pressure: flag("memory_pressure"),
        sched_load_balance: flag("sched_load_balance"),
        sched_relax_domain_level: level.and_then(|level| level.trim().parse().ok()).unwrap_or(0),
    }
}

/// `0-2,7` as numbers.
fn numbers(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.parse::<u16>().ok()?..=to.parse::<u16>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

pub(super) fn memory(files: &Files<'_>) -> Memory {
    let entry = |kind: &str| {
        let number = |last: &str| files.number(&format!("memory{kind}.{last}"));
        let Some(usage) = number("usage_in_bytes") else { return MemoryEntry::default() };
        MemoryEntry {
            limit: number("limit_in_bytes").unwrap_or(0),
            usage,
            max: number("max_usage_in_bytes").unwrap_or(0),
            failcnt: number("failcnt").unwrap_or(0),
        }
    };
    let raw: std::collections::BTreeMap<String, u64> = files.pairs("memory.stat").into_iter().collect();
    Memory {
        cache: raw.get("cache").copied().unwrap_or(0),
        usage: entry(""),
        swap: entry(".memsw"),
        kernel: entry(".kmem"),
        kernel_tcp: entry(".kmem.tcp"),
        raw,
        psi: None,
    }
}

/// The files of a field, one for each scheduler that kernels have had: the first set that is there counts (BFQ with
/// statistics, BFQ, CFQ, throttling, throttling of old kernels).
const BLKIO: &[(&str, &str)] = &[
    ("blkio.bfq.", "_recursive"),
    ("blkio.", "_recursive"),
    ("blkio.throttle.", "_recursive"),
    ("blkio.throttle.", ""),
];

pub(super) fn blkio(files: &Files<'_>) -> Blkio {
    let there = |set: &&(&str, &str)| {
        let (head, tail) = **set;
        !entries(files, &format!("{head}io_serviced{tail}")).is_empty()
    };
    let Some((head, tail)) = BLKIO.iter().find(there) else { return Blkio::default() };
    let of = |name: &str| entries(files, &format!("{head}{name}{tail}"));
    Blkio {
        io_service_bytes_recursive: of("io_service_bytes"),
        io_serviced_recursive: of("io_serviced"),
        io_queued_recursive: of("io_queued"),
        io_service_time_recursive: of("io_service_time"),
        io_wait_time_recursive: of("io_wait_time"),
        io_merged_recursive: of("io_merged"),
        io_time_recursive: of("time"),
        sectors_recursive: of("sectors"),
        psi: None,
    }
}

/// Lines of `8:0 Read 4096` or `8:0 4096`; the sum over all devices has no number before it.
fn entries(files: &Files<'_>, file: &str) -> Vec<BlkioEntry> {
    let text = files.text(file).unwrap_or_default();
    let entry = |line: &str| {
        let words: Vec<&str> = line.split([' ', ':']).filter(|word| !word.is_empty()).collect();
        let (op, value) = match words.as_slice() {
            [_, _, value] => ("", value),
            [_, _, op, value] => (*op, value),
            _ => return None,
        };
        let number = |word: &str| word.parse().ok();
        Some(BlkioEntry {
            major: number(words[0])?,
            minor: number(words[1])?,
            op: op.to_owned(),
            value: number(value)?,
        })
    };
    text.lines().filter_map(entry).collect()
}
