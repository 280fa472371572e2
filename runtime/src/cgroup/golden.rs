//! Golden tests: resources in, lines out, for v1, v2 and a mixture.

use oci_spec::runtime::LinuxResources;

use super::controller::{Controller, Version};
use super::resources::{Write, asks, decide, ignored, unified};
use crate::error::Kind;

const FULL: &str = r#"{
  "memory": {"limit": 1048576, "reservation": 524288, "swap": 2097152, "swappiness": 10, "disableOOMKiller": true},
  "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "burst": 1000, "idle": 0, "cpus": "0-1", "mems": "0"},
  "pids": {"limit": 64},
  "blockIO": {"weight": 500, "weightDevice": [{"major": 8, "minor": 0, "weight": 100}],
    "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}],
    "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 300}]},
  "hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}],
  "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}, "mlx4_0": {"hcaObjects": 1000}}
}"#;

fn check(json: &str, version: impl Fn(Controller) -> Option<Version>, expected: &str) {
    let resources: LinuxResources = serde_json::from_str(json).unwrap();
    let lines: Vec<String> = decide(&resources, version).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(lines.join("\n"), expected.trim());
}

fn refused(json: &str, version: Version) -> (Kind, String) {
    let resources: LinuxResources = serde_json::from_str(json).unwrap();
    let error = decide(&resources, |_| Some(version)).unwrap_err();
    (error.kind(), error.to_string())
}

#[test]
fn everything_on_v1() {
    check(
        FULL,
        |_| Some(Version::V1),
        "
memory memory.limit_in_bytes = 1048576
memory memory.memsw.limit_in_bytes = 2097152
memory memory.soft_limit_in_bytes = 524288
memory memory.oom_control = 1
memory memory.swappiness = 10
cpu cpu.idle = 0
cpu cpu.shares = 1024
cpu cpu.cfs_period_us = 100000
cpu cpu.cfs_burst_us = 1000 (if there)
cpu cpu.cfs_quota_us = 50000
cpuset cpuset.cpus = 0-1
cpuset cpuset.mems = 0
pids pids.max = 64
blkio blkio.weight = 500 | blkio blkio.bfq.weight = 500
blkio blkio.weight_device = 8:0 100 | blkio blkio.bfq.weight_device = 8:0 100
blkio blkio.throttle.read_bps_device = 8:0 600
blkio blkio.throttle.write_iops_device = 8:16 300
hugetlb hugetlb.2MB.limit_in_bytes = 4194304
hugetlb hugetlb.2MB.rsvd.limit_in_bytes = 4194304 (if there)
rdma rdma.max = mlx4_0 hca_object=1000
rdma rdma.max = mlx5_1 hca_handle=3 hca_object=10000",
    );
}

#[test]
fn everything_on_v2() {
    check(
        FULL,
        |_| Some(Version::V2),
        "
memory memory.swap.max = 1048576
memory memory.max = 1048576
memory memory.low = 524288
cpu cpu.idle = 0
cpu cpu.weight = 100
cpu cpu.max = 50000 100000
cpu cpu.max.burst = 1000
cpuset cpuset.cpus = 0-1
cpuset cpuset.mems = 0
pids pids.max = 64
blkio io.bfq.weight = 500 | blkio io.weight = 4950
blkio io.bfq.weight = 8:0 100 | blkio io.weight = 8:0 910
blkio io.max = 8:0 rbps=600
blkio io.max = 8:16 wiops=300
hugetlb hugetlb.2MB.max = 4194304
hugetlb hugetlb.2MB.rsvd.max = 4194304 (if there)
rdma rdma.max = mlx4_0 hca_object=1000
rdma rdma.max = mlx5_1 hca_handle=3 hca_object=10000",
    );
}

#[test]
fn a_hybrid_takes_each_controller_where_it_is() {
    check(
        r#"{"memory":{"limit":4096},"hugepageLimits":[{"pageSize":"1GB","limit":-1}]}"#,
        |controller| match controller {
            Controller::Hugetlb => Some(Version::V2),
            _ => Some(Version::V1),
        },
        "memory memory.limit_in_bytes = 4096\nhugetlb hugetlb.1GB.max = max\nhugetlb hugetlb.1GB.rsvd.max = max (if there)",
    );
}

/// This project's own build host: everything on v1 but huge pages, and no rdma. What is asked of it is an error.
#[test]
fn everything_on_a_hybrid() {
    let hybrid = |controller| match controller {
        Controller::Hugetlb => Some(Version::V2),
        Controller::Rdma => None,
        _ => Some(Version::V1),
    };
    let mut all: LinuxResources = serde_json::from_str(FULL).unwrap();
    let why = decide(&all, hybrid).unwrap_err();
    assert_eq!(why.kind(), Kind::Unsupported);
    assert!(why.to_string().contains("there is no rdma cgroup controller here"), "{why}");
    all.set_rdma(None);
    let of = |version| decide(&all, |_| Some(version)).unwrap();
    let found = decide(&all, hybrid).unwrap();
    let huge = |write: &Write| write.controller == Controller::Hugetlb;
    let expected: Vec<Write> = of(Version::V1)
        .into_iter()
        .filter(|write| !huge(write))
        .chain(of(Version::V2).into_iter().filter(huge))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn unlimited_is_minus_one_or_max() {
    let json = r#"{"memory":{"limit":-1},"cpu":{"quota":-1},"pids":{"limit":-1}}"#;
    check(
        json,
        |_| Some(Version::V1),
        "memory memory.limit_in_bytes = -1\nmemory memory.memsw.limit_in_bytes = -1 (if there)\n\
         cpu cpu.cfs_quota_us = -1\npids pids.max = max",
    );
    check(
        json,
        |_| Some(Version::V2),
        "memory memory.swap.max = max (if there)\nmemory memory.max = max\ncpu cpu.max = max 100000\npids pids.max = max",
    );
}

#[test]
fn zero_is_not_given_except_for_pids() {
    let json = r#"{"memory":{"limit":0,"swap":0,"reservation":0},"cpu":{"shares":0,"quota":0,"period":0,"cpus":""},
                   "pids":{"limit":0},"blockIO":{"weight":0},"network":{"classID":0}}"#;
    check(json, |_| Some(Version::V1), "pids pids.max = 1");
    check(json, |_| Some(Version::V2), "pids pids.max = 1");
}

#[test]
fn realtime_leaf_weights_and_every_throttle_on_v1() {
    check(
        r#"{"cpu":{"realtimePeriod":1000000,"realtimeRuntime":950000},
            "blockIO":{"leafWeight":300,"weightDevice":[{"major":8,"minor":0,"leafWeight":20}],
              "throttleReadIOPSDevice":[{"major":8,"minor":0,"rate":1}],
              "throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":0}]}}"#,
        |_| Some(Version::V1),
        "cpu cpu.rt_period_us = 1000000\ncpu cpu.rt_runtime_us = 950000\nblkio blkio.leaf_weight = 300\n\
         blkio blkio.leaf_weight_device = 8:0 20\nblkio blkio.throttle.write_bps_device = 8:0 0\n\
         blkio blkio.throttle.read_iops_device = 8:0 1",
    );
}

#[test]
fn every_throttle_on_v2() {
    check(
        r#"{"blockIO":{"throttleReadIOPSDevice":[{"major":8,"minor":0,"rate":1}],
            "throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":0}]}}"#,
        |_| Some(Version::V2),
        "blkio io.max = 8:0 wbps=max\nblkio io.max = 8:0 riops=1",
    );
}

#[test]
fn an_idle_cgroup_has_no_shares_of_its_own() {
    let json = r#"{"cpu":{"shares":512,"idle":1}}"#;
    check(json, |_| Some(Version::V1), "cpu cpu.idle = 1");
    check(json, |_| Some(Version::V2), "cpu cpu.idle = 1");
}

#[test]
fn what_has_no_file_any_more_is_passed_over_and_said() {
    let json = r#"{"memory":{"kernel":1,"kernelTCP":2,"useHierarchy":true,"checkBeforeUpdate":true}}"#;
    check(json, |_| Some(Version::V1), "");
    check(json, |_| Some(Version::V2), "");
    let resources: LinuxResources = serde_json::from_str(json).unwrap();
    assert_eq!(ignored(&resources).len(), 1);
    assert!(!asks(&resources), "nothing of it is a limit");
    assert!(asks(&serde_json::from_str(r#"{"pids":{"limit":-1}}"#).unwrap()));
    assert!(asks(&serde_json::from_str(r#"{"unified":{"memory.high":"1"}}"#).unwrap()));
    assert!(!asks(&serde_json::from_str(r#"{"devices":[{"allow":false,"access":"rwm"}],"memory":{}}"#).unwrap()));
}

#[test]
fn the_network_controllers_are_v1_only() {
    let json = r#"{"network":{"classID":1048577,"priorities":[{"name":"eth0","priority":5}]}}"#;
    check(json, |_| Some(Version::V1), "net_cls net_cls.classid = 1048577\nnet_prio net_prio.ifpriomap = eth0 5");
    let resources: LinuxResources = serde_json::from_str(json).unwrap();
    let pure_v2 = |controller| (controller != Controller::NetCls).then_some(Version::V2);
    let error = decide(&resources, pure_v2).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert_eq!(
        error.to_string(),
        "cannot set net_cls.classid to 1048577: there is no net_cls cgroup controller here, or none that may be used"
    );
}

#[test]
fn contradictions_are_refused_before_anything_is_written() {
    for version in [Version::V1, Version::V2] {
        let (kind, text) = refused(r#"{"memory":{"limit":200,"swap":100}}"#, version);
        assert_eq!(kind, Kind::Invalid, "{version:?}");
        assert!(text.contains("cannot be below limit 200"), "{text}");
    }
    assert_eq!(refused(r#"{"memory":{"swappiness":101}}"#, Version::V1).0, Kind::Invalid);
    for shares in [1, 262_145] {
        let (kind, text) = refused(&format!(r#"{{"cpu":{{"shares":{shares}}}}}"#), Version::V1);
        assert_eq!(
            (kind, text.as_str()),
            (Kind::Invalid, &*format!("linux.resources.cpu.shares: {shares} is not in 2..=262144"))
        );
    }
    let (kind, text) = refused(r#"{"rdma":{"mlx5_1":{}}}"#, Version::V2);
    assert_eq!(
        (kind, text.as_str()),
        (Kind::Invalid, "linux.resources.rdma[\"mlx5_1\"]: needs hcaHandles or hcaObjects")
    );
    assert_eq!(refused(r#"{"cpu":{"realtimeRuntime":1000}}"#, Version::V2).0, Kind::Unsupported);
    assert_eq!(refused(r#"{"blockIO":{"leafWeight":10}}"#, Version::V2).0, Kind::Unsupported);
    let (kind, text) = refused(r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":1}]}"#, Version::V1);
    assert_eq!(kind, Kind::Invalid, "{text}");
}

#[test]
fn unified_files_are_sorted_and_stay_in_the_directory() {
    let resources: LinuxResources =
        serde_json::from_str(r#"{"unified":{"memory.high":"1","io.max":"8:0 rbps=1"}}"#).unwrap();
    let files = unified(&resources).unwrap();
    assert_eq!(files, [("io.max".to_owned(), "8:0 rbps=1".to_owned()), ("memory.high".to_owned(), "1".to_owned())]);
    for wrong in ["../memory.high", "a/b.c", "memory", ".", "x."] {
        let json = format!(r#"{{"unified":{{"{wrong}":"1"}}}}"#);
        let resources: LinuxResources = serde_json::from_str(&json).unwrap();
        assert_eq!(unified(&resources).unwrap_err().kind(), Kind::Invalid, "{wrong}");
    }
}
