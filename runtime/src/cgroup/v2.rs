//! DECIDE: limits as the files of cgroup v2, and the conversions from v1's units in which the OCI spec speaks.
//! Kernel: Documentation/admin-guide/cgroup-v2.rst.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory};

use super::controller::Controller::{Cpu, Io, Memory};
use super::resources::Write;
use crate::error::{Error, Kind, Result};

/// The period of `cpu.max` where only a quota is given, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// `memory.*`; 0 means "not given", -1 no limit. Swappiness and the OOM killer switch do not exist in v2 and are passed
/// over, as every peer does.
pub(super) fn memory(memory: &LinuxMemory, writes: &mut Vec<Write>) -> Result<()> {
    let limit = memory.limit().unwrap_or(0);
    match swap(memory.swap().unwrap_or(0), limit)? {
        None => {}
        // No swap, or all of it, is what a kernel without swap accounting gives.
        Some(value @ (-1 | 0)) => writes.push(Write::may(Memory, "memory.swap.max", max(value))),
        Some(value) => writes.push(Write::must(Memory, "memory.swap.max", value)),
    }
    if limit != 0 {
        writes.push(Write::must(Memory, "memory.max", max(limit)));
    }
    if let Some(reservation) = memory.reservation().filter(|value| *value != 0) {
        writes.push(Write::must(Memory, "memory.low", max(reservation)));
    }
    Ok(())
}

/// v1 and the OCI spec limit the sum of memory and swap, v2 swap alone.
///
/// # Errors
/// `Invalid` where the sum is below the memory limit, or no memory limit is known to subtract.
pub(super) fn swap(sum: i64, limit: i64) -> Result<Option<i64>> {
    let invalid = |what: String| Err(Error::new(Kind::Invalid, format!("linux.resources.memory.{what}")));
    match (sum, limit) {
        // Unlimited memory, nothing said of swap: v1 gave unlimited swap with it.
        (0, -1) => Ok(Some(-1)),
        (0, _) => Ok(None),
        (-1, _) => Ok(Some(-1)),
        (sum, -1) => Ok(Some(sum)),
        (sum, 0) => invalid(format!("swap: {sum} is the sum of memory and swap and needs limit beside it")),
        (_, limit) if limit < 0 => invalid(format!("limit: {limit} is negative")),
        (sum, limit) if sum < limit => {
            invalid(format!("swap: {sum} is the sum of memory and swap and cannot be below limit {limit}"))
        }
        (sum, limit) => Ok(Some(sum - limit)),
    }
}

/// `cpu.*`. The quota goes with its period in one file; burst depends on it and follows.
pub(super) fn cpu(cpu: &LinuxCpu, writes: &mut Vec<Write>) -> Result<()> {
    let realtime = (cpu.realtime_runtime().unwrap_or(0), cpu.realtime_period().unwrap_or(0));
    if realtime != (0, 0) {
        return Err(Error::new(Kind::Unsupported, "linux.resources.cpu: cgroup v2 has no realtime runtime or period"));
    }
    if let Some(idle) = cpu.idle() {
        writes.push(Write::must(Cpu, "cpu.idle", idle));
    }
    // An idle cgroup has a weight of its own, and refuses another.
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0 && cpu.idle() != Some(1)) {
        writes.push(Write::must(Cpu, "cpu.weight", weight(shares)));
    }
    let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
    if quota != 0 || period != 0 {
        let quota = if quota > 0 { quota.to_string() } else { "max".to_owned() };
        let period = if period == 0 { DEFAULT_PERIOD } else { period };
        writes.push(Write::must(Cpu, "cpu.max", format!("{quota} {period}")));
    }
    if let Some(burst) = cpu.burst() {
        writes.push(Write::must(Cpu, "cpu.max.burst", burst));
    }
    Ok(())
}

/// CPU shares (2..=262144, default 1024) as weight (1..=10000, default 100).
///
/// The quadratic in log2 that runc and crun use since 2025: it meets minimum, default and maximum. The linear formula
/// before it gave the default 1024 shares a weight of 39, so that containers lost to everything else on the node.
pub fn weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    10f64.powf(exponent).ceil() as u64
}

/// `io.*`: weight (BFQ's file where that scheduler is there) and limits a device.
pub(super) fn io(io: &LinuxBlockIo, writes: &mut Vec<Write>) -> Result<()> {
    if io.leaf_weight().is_some_and(|weight| weight != 0) {
        return Err(Error::new(Kind::Unsupported, "linux.resources.blockIO: cgroup v2 has no leafWeight"));
    }
    if let Some(value) = io.weight().filter(|value| *value != 0) {
        writes.push(Write::must(Io, "io.bfq.weight", value).or_else(Write::must(Io, "io.weight", io_weight(value))));
    }
    for device in io.weight_device().iter().flatten() {
        let Some(value) = device.weight().filter(|value| *value != 0) else { continue };
        let at = format!("{}:{}", device.major(), device.minor());
        let plain = Write::must(Io, "io.weight", format!("{at} {}", io_weight(value)));
        writes.push(Write::must(Io, "io.bfq.weight", format!("{at} {value}")).or_else(plain));
    }
    let throttles = [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ];
    for (key, devices) in throttles {
        for device in devices.iter().flatten() {
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            writes.push(Write::must(Io, "io.max", format!("{}:{} {key}={rate}", device.major(), device.minor())));
        }
    }
    Ok(())
}

/// Block I/O weight 10..=1000 as 1..=10000, linearly.
fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight).saturating_sub(10) * 9999 / 990
}

fn max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_meet_minimum_default_and_maximum() {
        let pairs = [(2, 1), (100, 17), (1024, 100), (2048, 174), (4096, 303), (262_144, 10_000), (u64::MAX, 10_000)];
        for (shares, expected) in pairs {
            assert_eq!(weight(shares), expected, "{shares} shares");
        }
    }

    #[test]
    fn weight_grows_with_shares() {
        let all: Vec<u64> = (2..=262_144).step_by(97).map(weight).collect();
        assert!(all.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!(all.iter().all(|weight| (1..=10_000).contains(weight)));
    }

    #[test]
    fn swap_is_what_exceeds_memory() {
        assert_eq!(swap(300, 100).unwrap(), Some(200));
        assert_eq!(swap(100, 100).unwrap(), Some(0));
        assert_eq!(swap(-1, 100).unwrap(), Some(-1));
        assert_eq!(swap(0, 100).unwrap(), None);
        assert_eq!(swap(0, -1).unwrap(), Some(-1));
        assert_eq!(swap(100, -1).unwrap(), Some(100));
        for wrong in [(100, 0), (50, 100), (50, -2)] {
            assert_eq!(swap(wrong.0, wrong.1).unwrap_err().kind(), Kind::Invalid, "{wrong:?}");
        }
    }
}
