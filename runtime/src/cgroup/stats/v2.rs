//! What v2's files count, in v1's words. Kernel: cgroup-v2.rst, accounting/psi.rst.

use super::Files;
use crate::stats::{Blkio, BlkioEntry, Cpu, Memory, MemoryEntry, Pressure, PressureLine};

pub(super) fn cpu_time(files: &Files<'_>, cpu: &mut Cpu) {
    for (key, micros) in files.pairs("cpu.stat") {
        match &*key {
            "usage_usec" => cpu.usage.total = micros * 1000,
            "user_usec" => cpu.usage.user = micros * 1000,
            "system_usec" => cpu.usage.kernel = micros * 1000,
            _ => {}
        }
    }
}

pub(super) fn throttling(files: &Files<'_>, cpu: &mut Cpu) {
    for (key, count) in files.pairs("cpu.stat") {
        match &*key {
            "nr_periods" => cpu.throttling.periods = count,
            "nr_throttled" => cpu.throttling.throttled_periods = count,
            "throttled_usec" => cpu.throttling.throttled_time = count * 1000,
            _ => {}
        }
    }
}

pub(super) fn memory(files: &Files<'_>) -> Memory {
    let entry = |kind: &str| {
        let number = |last: &str| files.number(&format!("memory{kind}.{last}"));
        let Some(usage) = number("current") else { return MemoryEntry::default() };
        let (limit, max) = (number("max").unwrap_or(0), number("peak").unwrap_or(0));
        MemoryEntry { limit, usage, max, failcnt: 0 }
    };
    let usage = entry("");
    // v1 counts memory and swap together; their peaks cannot be added up.
    let mut swap = MemoryEntry { max: 0, ..entry(".swap") };
    swap.usage += usage.usage;
    if swap.limit != u64::MAX {
        swap.limit = swap.limit.saturating_add(usage.limit);
    }
    let raw: std::collections::BTreeMap<String, u64> = files.pairs("memory.stat").into_iter().collect();
    Memory { cache: raw.get("file").copied().unwrap_or(0), usage, swap, raw, ..Memory::default() }
}

/// Lines of `8:0 rbytes=4096 wbytes=0 rios=1 wios=0`.
pub(super) fn blkio(files: &Files<'_>) -> Blkio {
    let mut blkio = Blkio::default();
    for line in files.text("io.stat").unwrap_or_default().lines() {
        let mut words = line.split_whitespace();
        let numbers = words.next().and_then(|device| device.split_once(':'));
        let Some((Ok(major), Ok(minor))) = numbers.map(|(major, minor)| (major.parse(), minor.parse())) else {
            continue;
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, op) = match key {
                "rbytes" => (&mut blkio.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut blkio.io_service_bytes_recursive, "Write"),
                "rios" => (&mut blkio.io_serviced_recursive, "Read"),
                "wios" => (&mut blkio.io_serviced_recursive, "Write"),
                _ => continue,
            };
            if let Ok(value) = value.parse() {
                list.push(BlkioEntry { major, minor, op: op.to_owned(), value });
            }
        }
    }
    blkio
}

/// Lines of `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`; `None` where the kernel does not count pressure.
pub(super) fn pressure(files: &Files<'_>, file: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    for line in files.text(file)?.lines() {
        let mut words = line.split_whitespace();
        let part = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        *part = words.filter_map(|word| word.split_once('=')).fold(PressureLine::default(), |mut all, (key, value)| {
            let percent = value.parse().unwrap_or(0.0);
            match key {
                "avg10" => all.avg10 = percent,
                "avg60" => all.avg60 = percent,
                "avg300" => all.avg300 = percent,
                "total" => all.total = value.parse().unwrap_or(0),
                _ => {}
            }
            all
        });
    }
    Some(pressure)
}
