//! DECIDE: `linux.resources` -> properties of a unit. systemd.resource-control(5), org.freedesktop.systemd1(5).
//!
//! systemd writes its idea of the limits whenever it reloads, so it is told all that it can express; the rest, and the
//! same once more, is written to the files of the cgroup by [`super::super::Cgroup::apply`]. The set is runc's.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::wire::Value;
use crate::cgroup::{Version, cpu_weight, swap_alone};
use crate::error::{Error, Kind, Result};

/// `USEC_INFINITY`, `CGROUP_LIMIT_MAX`.
pub(super) const INFINITY: u64 = u64::MAX;

/// The period of a quota that came without one, in microseconds; the kernel's default in both versions.
const DEFAULT_PERIOD: u64 = 100_000;

/// systemd keeps a quota as percents of a CPU: so many microseconds a second.
const PERCENT: u64 = 10_000;

/// The first versions of systemd that know a property.
mod since {
    pub(super) const CPU_QUOTA_PERIOD: u32 = 242;
    pub(super) const CPUSET: u32 = 244;
    pub(super) const CPU_IDLE: u32 = 252;
    pub(super) const OOM_POLICY: u32 = 253;
}

/// A property: its name and value.
pub(super) type Property = (String, Value);

pub(super) fn property(name: impl Into<String>, value: Value) -> Property {
    (name.into(), value)
}

/// The host's systemd, as far as it matters for properties.
#[derive(Clone, Copy, Debug)]
pub(super) struct About {
    /// Its major version.
    pub(super) systemd: u32,
    /// Which properties it applies: those of v1 wherever it runs any controller there.
    pub(super) version: Version,
}

/// Every limit that systemd can express, in runc's order.
///
/// # Errors
/// `Invalid` with the JSON path of a wrong value.
pub(super) fn limits(resources: &LinuxResources, about: About) -> Result<Vec<Property>> {
    let mut out = Vec::new();
    if let Some(memory) = resources.memory() {
        limit_memory(memory, about, &mut out)?;
    }
    if let Some(cpu) = resources.cpu() {
        limit_cpu(cpu, about, &mut out)?;
    }
    if about.version == Version::V1 {
        let weight = resources.block_io().as_ref().and_then(|io| io.weight()).filter(|weight| *weight != 0);
        out.extend(weight.map(|weight| property("BlockIOWeight", Value::U64(weight.into()))));
    }
    if let Some(pids) = resources.pids() {
        // It does not take 0; 1 admits no second task either.
        let limit = if pids.limit() < 0 { INFINITY } else { pids.limit().max(1).unsigned_abs() };
        out.push(property("TasksMax", Value::U64(limit)));
    }
    if about.version == Version::V2 {
        let ours = unified_limits(resources, about)?;
        // Its files are written last, so it wins over the fields that say the same.
        out.retain(|(known, _)| !ours.iter().any(|(name, _)| name == known));
        out.extend(ours);
    }
    Ok(out)
}

/// What of `unified` systemd knows. Where two files come to one property, the first counts: idle over weight.
fn unified_limits(resources: &LinuxResources, about: About) -> Result<Vec<Property>> {
    let mut out: Vec<Property> = Vec::new();
    let files: BTreeMap<_, _> = resources.unified().iter().flatten().collect();
    for (file, value) in files {
        let wrong = |why| Error::new(Kind::Invalid, format!("linux.resources.unified: {file} = {value:?}: {why}"));
        for (name, value) in unified(file, value.trim(), about).map_err(wrong)? {
            if !out.iter().any(|(known, _)| *known == name) {
                out.push((name, value));
            }
        }
    }
    Ok(out)
}

fn limit_memory(memory: &LinuxMemory, about: About, out: &mut Vec<Property>) -> Result<()> {
    let given = |value: Option<i64>| value.filter(|value| *value != 0);
    // -1 becomes infinity: the same bits.
    let number = |value: i64| Value::U64(if value < 0 { INFINITY } else { value.unsigned_abs() });
    if about.version == Version::V1 {
        out.extend(given(memory.limit()).map(|limit| property("MemoryLimit", number(limit))));
        return Ok(());
    }
    out.extend(given(memory.limit()).map(|limit| property("MemoryMax", number(limit))));
    out.extend(given(memory.reservation()).map(|low| property("MemoryLow", number(low))));
    let swap = swap_alone(memory.swap().unwrap_or(0), memory.limit().unwrap_or(0))?;
    out.extend(swap.map(|swap| property("MemorySwapMax", number(swap))));
    Ok(())
}

fn limit_cpu(cpu: &LinuxCpu, about: About, out: &mut Vec<Property>) -> Result<()> {
    let shares = cpu.shares().filter(|shares| *shares != 0);
    match about.version {
        Version::V1 => out.extend(shares.map(|shares| property("CPUShares", Value::U64(shares)))),
        // A weight of 0 is how it is told to make the cgroup idle; both at once cannot be.
        Version::V2 if cpu.idle() == Some(1) && about.systemd >= since::CPU_IDLE => {
            out.push(property("CPUWeight", Value::U64(0)));
        }
        Version::V2 => out.extend(shares.map(|shares| property("CPUWeight", Value::U64(cpu_weight(shares))))),
    }
    quota(cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0), about, out);
    for (name, field, list) in [("AllowedCPUs", "cpus", cpu.cpus()), ("AllowedMemoryNodes", "mems", cpu.mems())] {
        let Some(list) = list.as_deref().filter(|list| !list.is_empty()) else { continue };
        let bits = mask(list).ok_or_else(|| {
            let what = format!("linux.resources.cpu.{field}: {list:?} is not a list such as 0-3,7");
            Error::new(Kind::Invalid, what)
        })?;
        if about.systemd >= since::CPUSET {
            out.push(property(name, Value::bytes(&bits)));
        }
    }
    Ok(())
}

fn quota(quota: i64, period: u64, about: About, out: &mut Vec<Property>) {
    if period != 0 && about.systemd >= since::CPU_QUOTA_PERIOD {
        out.push(property("CPUQuotaPeriodUSec", Value::U64(period)));
    }
    if quota != 0 || period != 0 {
        out.push(property("CPUQuotaPerSecUSec", Value::U64(a_second(quota, period))));
    }
}

/// Microseconds of CPU time a second, rounded up to whole percents as systemd does.
fn a_second(quota: i64, period: u64) -> u64 {
    if quota <= 0 {
        return INFINITY;
    }
    let period = if period == 0 { DEFAULT_PERIOD } else { period };
    let exact = u128::from(quota.unsigned_abs()) * 1_000_000 / u128::from(period);
    u64::try_from(exact).unwrap_or(INFINITY).checked_next_multiple_of(PERCENT).unwrap_or(INFINITY)
}

/// The quota that systemd makes of `quota`, so that the file says what it would write at its next reload.
pub(super) fn rounded(quota: i64, period: u64) -> i64 {
    if quota <= 0 {
        return quota;
    }
    let period = if period == 0 { DEFAULT_PERIOD } else { period };
    let exact = u128::from(quota.unsigned_abs()) * 1_000_000 / u128::from(period);
    let second = a_second(quota, period);
    if exact == u128::from(second) || second == INFINITY {
        return quota;
    }
    i64::try_from(u128::from(second) * u128::from(period) / 1_000_000).unwrap_or(quota)
}

/// A list of CPUs or memory nodes as a bit mask, lowest byte first; `None` for nonsense or nothing.
fn mask(list: &str) -> Option<Vec<u8>> {
    // More than any kernel is built for.
    const MOST: usize = 65_536;
    let mut bits = Vec::new();
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        bits.resize(bits.len().max(last / 8 + 1), 0);
        (first..=last).for_each(|bit| bits[bit / 8] |= 1 << (bit % 8));
    }
    Some(bits).filter(|bits| !bits.is_empty())
}

/// A file of cgroup v2 as a property, where there is one; what has none is left to the file.
fn unified(name: &str, value: &str, about: About) -> Result<Vec<Property>, &'static str> {
    let number = || match value {
        "max" => Ok(INFINITY),
        _ => value.parse::<u64>().map_err(|_| "expected a number or max"),
    };
    let names = [
        ("memory.high", "MemoryHigh"),
        ("memory.low", "MemoryLow"),
        ("memory.min", "MemoryMin"),
        ("memory.max", "MemoryMax"),
        ("memory.swap.max", "MemorySwapMax"),
        ("cpu.weight", "CPUWeight"),
    ];
    if let Some((_, property_name)) = names.iter().find(|(file, _)| *file == name) {
        return Ok(vec![property(*property_name, Value::U64(number()?))]);
    }
    let mut out = Vec::new();
    match name {
        "pids.max" => out.push(property("TasksMax", Value::U64(number()?.max(1)))),
        "cpu.idle" if value == "1" && about.systemd >= since::CPU_IDLE => {
            out.push(property("CPUWeight", Value::U64(0)));
        }
        "cpu.max" => {
            let mut words = value.split_whitespace();
            let first = words.next().ok_or("expected QUOTA PERIOD")?;
            let wanted = if first == "max" { 0 } else { first.parse().map_err(|_| "the quota is not a number")? };
            let period = words.next().map_or(Ok(DEFAULT_PERIOD), |word| word.parse());
            quota(wanted, period.map_err(|_| "the period is not a number")?, about, &mut out);
        }
        "cpuset.cpus" | "cpuset.mems" if about.systemd >= since::CPUSET => {
            let bits = mask(value).ok_or("expected a list such as 0-3,7")?;
            let name = if name == "cpuset.cpus" { "AllowedCPUs" } else { "AllowedMemoryNodes" };
            out.push(property(name, Value::bytes(&bits)));
        }
        _ => {}
    }
    Ok(out)
}

/// `memory.oom.group`, which systemd takes when a unit is made and never after.
pub(super) fn oom_policy(resources: &LinuxResources, about: About) -> Option<Property> {
    let value = resources.unified().as_ref()?.get("memory.oom.group")?;
    let policy = match value.trim() {
        "0" => "continue",
        "1" => "kill",
        _ => return None,
    };
    (about.systemd >= since::OOM_POLICY).then(|| property("OOMPolicy", Value::text(policy)))
}

/// `252.39-1~deb12u2`, `v245.4` -> 252, 245; 0 for what has no number, which has none of the newer properties.
pub(super) fn version(text: &str) -> u32 {
    let text = text.trim_start_matches('v');
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"{
      "memory": {"limit": 1048576, "reservation": 524288, "swap": 2097152},
      "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-1,9", "mems": "0"},
      "pids": {"limit": 64},
      "blockIO": {"weight": 500}
    }"#;

    fn lines(json: &str, systemd: u32, version: Version) -> String {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let limits = limits(&resources, About { systemd, version }).unwrap();
        limits.iter().map(|(name, value)| format!("{name}={value} ({})\n", value.signature())).collect()
    }

    fn refused(json: &str) -> String {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let why = limits(&resources, About { systemd: 252, version: Version::V2 }).unwrap_err();
        assert_eq!(why.kind(), Kind::Invalid);
        why.to_string()
    }

    #[test]
    fn everything_on_v2() {
        let expected = "MemoryMax=1048576 (t)\nMemoryLow=524288 (t)\nMemorySwapMax=1048576 (t)\nCPUWeight=100 (t)\n\
                        CPUQuotaPeriodUSec=100000 (t)\nCPUQuotaPerSecUSec=500000 (t)\nAllowedCPUs=[3, 2] (ay)\n\
                        AllowedMemoryNodes=[1] (ay)\nTasksMax=64 (t)\n";
        assert_eq!(lines(FULL, 252, Version::V2), expected);
    }

    #[test]
    fn everything_on_v1() {
        let expected = "MemoryLimit=1048576 (t)\nCPUShares=1024 (t)\nCPUQuotaPeriodUSec=100000 (t)\n\
                        CPUQuotaPerSecUSec=500000 (t)\nAllowedCPUs=[3, 2] (ay)\nAllowedMemoryNodes=[1] (ay)\n\
                        BlockIOWeight=500 (t)\nTasksMax=64 (t)\n";
        assert_eq!(lines(FULL, 252, Version::V1), expected);
    }

    #[test]
    fn an_old_systemd_is_not_told_what_it_does_not_know() {
        let expected = "MemoryLimit=1048576 (t)\nCPUShares=1024 (t)\nCPUQuotaPerSecUSec=500000 (t)\n\
                        BlockIOWeight=500 (t)\nTasksMax=64 (t)\n";
        assert_eq!(lines(FULL, 241, Version::V1), expected);
        assert_eq!(lines(r#"{"cpu":{"idle":1,"shares":2}}"#, 252, Version::V2), "CPUWeight=0 (t)\n");
        assert_eq!(lines(r#"{"cpu":{"idle":1,"shares":2}}"#, 251, Version::V2), "CPUWeight=1 (t)\n");
    }

    #[test]
    fn unlimited_is_infinity_and_zero_is_not_given() {
        let json = r#"{"memory":{"limit":-1},"cpu":{"quota":-1},"pids":{"limit":-1}}"#;
        let expected = "MemoryMax=infinity (t)\nMemorySwapMax=infinity (t)\nCPUQuotaPerSecUSec=infinity (t)\n\
                        TasksMax=infinity (t)\n";
        assert_eq!(lines(json, 252, Version::V2), expected);
        let json = r#"{"memory":{"limit":0},"cpu":{"quota":0,"shares":0,"cpus":""},"pids":{"limit":0}}"#;
        assert_eq!(lines(json, 252, Version::V2), "TasksMax=1 (t)\n");
    }

    #[test]
    fn unified_files_become_properties_and_win() {
        let json = r#"{"memory":{"limit":5},"unified":{
          "memory.max":"max","memory.high":" 7 ","memory.min":"1","memory.swap.max":"2","pids.max":"0","cpu.idle":"1",
          "cpu.weight":"50","cpu.max":"20000 100000","cpuset.cpus":"8","hugetlb.2MB.max":"1"}}"#;
        let expected = "CPUWeight=0 (t)\nCPUQuotaPeriodUSec=100000 (t)\nCPUQuotaPerSecUSec=200000 (t)\n\
                        AllowedCPUs=[0, 1] (ay)\nMemoryHigh=7 (t)\nMemoryMax=infinity (t)\nMemoryMin=1 (t)\n\
                        MemorySwapMax=2 (t)\nTasksMax=1 (t)\n";
        assert_eq!(lines(json, 252, Version::V2), expected);
        assert_eq!(
            lines(r#"{"unified":{"cpu.max":"max"}}"#, 252, Version::V2),
            "CPUQuotaPeriodUSec=100000 (t)\nCPUQuotaPerSecUSec=infinity (t)\n"
        );
        assert_eq!(lines(json, 252, Version::V1), "MemoryLimit=5 (t)\n");
    }

    #[test]
    fn wrong_values_name_their_place() {
        assert!(refused(r#"{"cpu":{"cpus":"3-1"}}"#).starts_with("linux.resources.cpu.cpus: \"3-1\""));
        assert!(refused(r#"{"cpu":{"mems":"0-99999999"}}"#).starts_with("linux.resources.cpu.mems: "));
        assert!(refused(r#"{"cpu":{"mems":"x"}}"#).starts_with("linux.resources.cpu.mems: "));
        assert!(refused(r#"{"unified":{"memory.max":"many"}}"#).starts_with("linux.resources.unified: memory.max"));
        assert!(refused(r#"{"unified":{"cpu.max":""}}"#).starts_with("linux.resources.unified: cpu.max"));
        assert!(refused(r#"{"memory":{"limit":200,"swap":100}}"#).contains("cannot be below limit"));
    }

    #[test]
    fn quotas_are_whole_percents() {
        assert_eq!((a_second(50_000, 100_000), rounded(50_000, 100_000)), (500_000, 50_000));
        assert_eq!((a_second(2_500, 0), rounded(2_500, 0)), (30_000, 3_000));
        assert_eq!((a_second(1, 1_000_000), rounded(1, 1_000_000)), (10_000, 10_000));
        assert_eq!((a_second(-1, 100_000), rounded(-1, 100_000)), (INFINITY, -1));
        assert_eq!(a_second(i64::MAX, 1), INFINITY, "no overflow");
        assert_eq!(rounded(i64::MAX, 1), i64::MAX);
    }

    #[test]
    fn the_policy_on_oom_is_for_those_that_know_it() {
        let of = |json: &str, systemd| {
            let resources: LinuxResources = serde_json::from_str(json).unwrap();
            oom_policy(&resources, About { systemd, version: Version::V2 })
                .map(|(name, value)| format!("{name}={value}"))
        };
        let json = r#"{"unified":{"memory.oom.group":"1"}}"#;
        assert_eq!(of(json, 253).unwrap(), "OOMPolicy=\"kill\"");
        assert_eq!(of(json, 252), None);
        assert_eq!(of(r#"{}"#, 260), None);
    }

    #[test]
    fn versions_are_read() {
        for (text, number) in [("252.39-1~deb12u2", 252), ("v245.4-1.fc32", 245), ("243", 243), ("", 0), ("x", 0)] {
            assert_eq!(version(text), number, "{text}");
        }
    }
}
