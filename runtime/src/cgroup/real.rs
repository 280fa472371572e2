//! Tests of every limit on the real trees, as root: what is asked for is what the kernel says afterwards.
//!
//! A field whose file this kernel or this layout lacks is refused with a sentence; that is tested in its place.

use std::fs;
use std::path::PathBuf;

use super::controller::{Controller, Version};
use super::host::{Real, resources};
use crate::error::Kind;

/// A field, and what its file says then: on v1, on v2.
struct Row {
    json: String,
    v1: (Controller, &'static str, String),
    v2: (Controller, &'static str, String),
}

fn row(json: impl Into<String>, controller: Controller, v1: (&'static str, &str), v2: (&'static str, &str)) -> Row {
    let side = |(file, value): (&'static str, &str)| (controller, file, value.to_owned());
    Row { json: json.into(), v1: side(v1), v2: side(v2) }
}

/// A whole disk of this machine: partitions have no limits.
fn disk() -> Option<String> {
    let text = fs::read_to_string("/proc/partitions").ok()?;
    let disks = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [major, minor, _, name] = words.as_slice() else { return None };
        let whole = PathBuf::from("/sys/block").join(name).is_dir() && !name.starts_with("ram");
        (whole && major.parse::<u32>().is_ok()).then(|| format!("{major}:{minor}"))
    });
    disks.into_iter().next()
}

fn rows() -> Vec<Row> {
    use Controller::{Cpu, Cpuset, Hugetlb, Memory, Pids};
    let mut rows = vec![
        row(
            r#"{"memory":{"limit":33554432}}"#,
            Memory,
            ("memory.limit_in_bytes", "33554432"),
            ("memory.max", "33554432"),
        ),
        row(
            r#"{"memory":{"reservation":16777216}}"#,
            Memory,
            ("memory.soft_limit_in_bytes", "16777216"),
            ("memory.low", "16777216"),
        ),
        row(
            r#"{"memory":{"limit":33554432,"swap":50331648}}"#,
            Memory,
            ("memory.memsw.limit_in_bytes", "50331648"),
            ("memory.swap.max", "16777216"),
        ),
        row(
            r#"{"memory":{"limit":-1}}"#,
            Memory,
            ("memory.limit_in_bytes", "9223372036854771712"),
            ("memory.max", "max"),
        ),
        row(r#"{"cpu":{"shares":512}}"#, Cpu, ("cpu.shares", "512"), ("cpu.weight", "59")),
        row(
            r#"{"cpu":{"quota":20000,"period":50000}}"#,
            Cpu,
            ("cpu.cfs_quota_us", "20000"),
            ("cpu.max", "20000 50000"),
        ),
        row(r#"{"cpu":{"burst":10000}}"#, Cpu, ("cpu.cfs_burst_us", "10000"), ("cpu.max.burst", "10000")),
        row(r#"{"cpu":{"period":80000}}"#, Cpu, ("cpu.cfs_period_us", "80000"), ("cpu.max", "max 80000")),
        row(r#"{"cpu":{"quota":-1}}"#, Cpu, ("cpu.cfs_quota_us", "-1"), ("cpu.max", "max 100000")),
        row(r#"{"cpu":{"idle":1,"shares":7}}"#, Cpu, ("cpu.idle", "1"), ("cpu.idle", "1")),
        row(r#"{"cpu":{"idle":0,"shares":700}}"#, Cpu, ("cpu.shares", "700"), ("cpu.weight", "75")),
        row(r#"{"cpu":{"cpus":"0","mems":"0"}}"#, Cpuset, ("cpuset.cpus", "0"), ("cpuset.cpus", "0")),
        row(r#"{"pids":{"limit":7}}"#, Pids, ("pids.max", "7"), ("pids.max", "7")),
        row(r#"{"pids":{"limit":0}}"#, Pids, ("pids.max", "1"), ("pids.max", "1")),
        row(r#"{"pids":{"limit":-1}}"#, Pids, ("pids.max", "max"), ("pids.max", "max")),
        row(
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#,
            Hugetlb,
            ("hugetlb.2MB.rsvd.limit_in_bytes", "4194304"),
            ("hugetlb.2MB.rsvd.max", "4194304"),
        ),
    ];
    rows.extend(disk().map(|disk| throttles(&disk)).into_iter().flatten());
    rows
}

/// Each limits one thing more: v2 has all four in a line.
fn throttles(disk: &str) -> [Row; 4] {
    let (major, minor) = disk.split_once(':').unwrap_or_default();
    let throttle =
        |field: &str| format!(r#"{{"blockIO":{{"{field}":[{{"major":{major},"minor":{minor},"rate":600000}}]}}}}"#);
    let fields = [
        ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps=600000 wbps=max riops=max wiops=max"),
        ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "rbps=600000 wbps=600000 riops=max wiops=max"),
        ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "rbps=600000 wbps=600000 riops=600000 wiops=max"),
        (
            "throttleWriteIOPSDevice",
            "blkio.throttle.write_iops_device",
            "rbps=600000 wbps=600000 riops=600000 wiops=600000",
        ),
    ];
    fields.map(|(field, v1, v2)| {
        let (v1_line, v2_line) = (format!("{disk} 600000"), format!("{disk} {v2}"));
        row(throttle(field), Controller::Io, (v1, &v1_line), ("io.max", &v2_line))
    })
}

#[test]
fn every_limit_is_what_the_kernel_says_afterwards() {
    let Some(real) = Real::new("every") else { return };
    let mut tried = 0;
    for Row { json, v1, v2 } in rows() {
        let version = real.0.layout().version_of(v1.0);
        let (controller, file, expected) = if version == Some(Version::V2) { v2 } else { v1 };
        let applied = real.0.change(&resources(&json));
        let path = real.0.dir(controller).map(|dir| dir.join(file)).filter(|path| path.exists());
        let Some(path) = path else {
            let text = applied.map(|_| ()).unwrap_err();
            assert_eq!(text.kind(), Kind::Unsupported, "{json}: {text}");
            assert!(text.to_string().contains(file.split('.').next().unwrap()), "{json}: {text}");
            eprintln!("{json} cannot be had here: {text}");
            continue;
        };
        applied.unwrap_or_else(|why| panic!("{json}: {why}"));
        assert_eq!(fs::read_to_string(&path).unwrap().trim(), expected, "{json}: {}", path.display());
        tried += 1;
    }
    assert!(tried >= 10, "only {tried} limits could be tried");
}

#[test]
fn what_one_version_lacks_is_refused_by_its_name() {
    let Some(real) = Real::new("lacks") else { return };
    let layout = real.0.layout();
    let refused = |json: &str| real.0.apply(&resources(json)).unwrap_err();
    if layout.version_of(Controller::Cpu) == Some(Version::V2) {
        let said = refused(r#"{"cpu":{"realtimeRuntime":1000}}"#).to_string();
        assert_eq!(said, "linux.resources.cpu: cgroup v2 has no realtime runtime or period");
    }
    if layout.version_of(Controller::NetCls).is_none() {
        let why = refused(r#"{"network":{"classID":1048577}}"#);
        assert_eq!(why.kind(), Kind::Unsupported);
        assert!(why.to_string().contains("net_cls"), "{why}");
    }
    let why = refused(r#"{"unified":{"gantry.nothing":"1"}}"#);
    assert!(why.to_string().starts_with(r#"linux.resources.unified["gantry.nothing"]: "#), "{why}");
    let why = refused(r#"{"hugepageLimits":[{"pageSize":"3MB","limit":1}]}"#);
    assert_eq!(why.kind(), Kind::Unsupported, "{why}");
}

#[test]
fn unified_reaches_the_files_of_v2() {
    let Some(real) = Real::new("unified") else { return };
    let Some(dir) = real.0.unified_dir() else { return };
    // Of the controllers that are on v2 here; a hybrid has but few of them there.
    let tries = [("memory.high", "33554432"), ("pids.max", "9"), ("hugetlb.2MB.max", "4194304"), ("cpu.weight", "50")];
    let there: Vec<_> = tries.into_iter().filter(|(file, _)| dir.join(file).exists()).collect();
    for (file, value) in &there {
        real.0.change(&resources(&format!(r#"{{"unified":{{"{file}":"{value}"}}}}"#))).unwrap();
        assert_eq!(fs::read_to_string(dir.join(file)).unwrap().trim(), *value, "{file}");
    }
    if there.is_empty() {
        eprintln!("SKIPPED unified_reaches_the_files_of_v2: no controller is on v2 here");
    }
}
