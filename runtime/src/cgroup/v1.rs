//! DECIDE: limits as the files of cgroup v1. Kernel: Documentation/admin-guide/cgroup-v1/.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNetwork};

use super::controller::Controller::{Cpu, Io, Memory, NetCls, NetPrio};
use super::resources::Write;
use crate::error::{Error, Kind, Result};

/// `memory.*`; 0 means "not given", -1 no limit. `kernel` and `kernelTCP` are gone from the kernel and passed over,
/// as every peer does.
pub(super) fn memory(memory: &LinuxMemory, writes: &mut Vec<Write>) -> Result<()> {
    let given = |value: Option<i64>| value.filter(|value| *value != 0);
    let (limit, swap) = (given(memory.limit()), given(memory.swap()));
    match (limit, swap) {
        (Some(limit), Some(swap)) if limit > 0 && swap > 0 && swap < limit => {
            let what = format!(
                "linux.resources.memory.swap: {swap} is the sum of memory and swap and cannot be below limit {limit}"
            );
            return Err(Error::new(Kind::Invalid, what));
        }
        _ => {}
    }
    // memory <= memory+swap holds at every moment: a first write that breaks it is refused and tried again after the
    // second, which is right both for raising and for lowering (see Cgroup::apply).
    if let Some(limit) = limit {
        writes.push(Write::must(Memory, "memory.limit_in_bytes", limit));
    }
    match (limit, swap) {
        (_, Some(-1)) | (Some(-1), None) => writes.push(Write::may(Memory, "memory.memsw.limit_in_bytes", -1)),
        (_, Some(swap)) => writes.push(Write::must(Memory, "memory.memsw.limit_in_bytes", swap)),
        (_, None) => {}
    }
    if let Some(reservation) = given(memory.reservation()) {
        writes.push(Write::must(Memory, "memory.soft_limit_in_bytes", reservation));
    }
    if memory.disable_oom_killer() == Some(true) {
        writes.push(Write::must(Memory, "memory.oom_control", 1));
    }
    match memory.swappiness() {
        Some(value @ 0..=100) => writes.push(Write::must(Memory, "memory.swappiness", value)),
        // -1 as an unsigned number: "not given" of some callers.
        None | Some(u64::MAX) => {}
        Some(value) => {
            return Err(Error::new(
                Kind::Invalid,
                format!("linux.resources.memory.swappiness: {value} is not in 0..=100"),
            ));
        }
    }
    Ok(())
}

/// The least and the most that `cpu.shares` takes; the kernel clamps what is outside, which runc refuses.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

/// `cpu.*`. Period, quota and burst depend on each other; a refused write is tried again after the others.
///
/// An idle cgroup has a share of its own that cannot be written, so `idle` goes first and shares only beside 0.
pub(super) fn cpu(cpu: &LinuxCpu, writes: &mut Vec<Write>) -> Result<()> {
    if let Some(idle) = cpu.idle() {
        writes.push(Write::must(Cpu, "cpu.idle", idle));
    }
    match cpu.shares() {
        None | Some(0) => {}
        Some(_) if cpu.idle() == Some(1) => {}
        Some(shares) if SHARES.contains(&shares) => writes.push(Write::must(Cpu, "cpu.shares", shares)),
        Some(shares) => {
            let what = format!("linux.resources.cpu.shares: {shares} is not in 2..=262144");
            return Err(Error::new(Kind::Invalid, what));
        }
    }
    if let Some(period) = cpu.period().filter(|period| *period != 0) {
        writes.push(Write::must(Cpu, "cpu.cfs_period_us", period));
    }
    if let Some(burst) = cpu.burst() {
        writes.push(Write::may(Cpu, "cpu.cfs_burst_us", burst));
    }
    if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
        writes.push(Write::must(Cpu, "cpu.cfs_quota_us", quota));
    }
    if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
        writes.push(Write::must(Cpu, "cpu.rt_period_us", period));
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        writes.push(Write::must(Cpu, "cpu.rt_runtime_us", runtime));
    }
    Ok(())
}

/// `blkio.*`. The weight is CFQ's file up to kernel 4.20 and BFQ's since.
pub(super) fn io(io: &LinuxBlockIo, writes: &mut Vec<Write>) {
    let weight = |file: &'static str, bfq: &'static str, value: String| {
        Write::must(Io, file, &value).or_else(Write::must(Io, bfq, &value))
    };
    if let Some(value) = io.weight().filter(|value| *value != 0) {
        writes.push(weight("blkio.weight", "blkio.bfq.weight", value.to_string()));
    }
    if let Some(value) = io.leaf_weight().filter(|value| *value != 0) {
        writes.push(Write::must(Io, "blkio.leaf_weight", value));
    }
    for device in io.weight_device().iter().flatten() {
        let at = format!("{}:{}", device.major(), device.minor());
        if let Some(value) = device.weight().filter(|value| *value != 0) {
            writes.push(weight("blkio.weight_device", "blkio.bfq.weight_device", format!("{at} {value}")));
        }
        if let Some(value) = device.leaf_weight().filter(|value| *value != 0) {
            writes.push(Write::must(Io, "blkio.leaf_weight_device", format!("{at} {value}")));
        }
    }
    let throttles = [
        ("blkio.throttle.read_bps_device", io.throttle_read_bps_device()),
        ("blkio.throttle.write_bps_device", io.throttle_write_bps_device()),
        ("blkio.throttle.read_iops_device", io.throttle_read_iops_device()),
        ("blkio.throttle.write_iops_device", io.throttle_write_iops_device()),
    ];
    for (file, devices) in throttles {
        for device in devices.iter().flatten() {
            writes.push(Write::must(Io, file, format!("{}:{} {}", device.major(), device.minor(), device.rate())));
        }
    }
}

/// `net_cls.*` and `net_prio.*`, which only v1 has.
pub(super) fn network(network: &LinuxNetwork, writes: &mut Vec<Write>) {
    if let Some(class) = network.class_id().filter(|class| *class != 0) {
        writes.push(Write::must(NetCls, "net_cls.classid", class));
    }
    for priority in network.priorities().iter().flatten() {
        writes.push(Write::must(NetPrio, "net_prio.ifpriomap", format!("{} {}", priority.name(), priority.priority())));
    }
}
