//! Tests: A table of more than a hundred configurations that make no sense, and the sentence that each gets. Every sentence begins with the
//! place of what is wrong.

use std::path::Path;

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use crate::cgroup::{Version, devices, resources};
use crate::error::Result;
use crate::plan::{self, Host, Wishes};
use crate::spec::{TEMPLATE, check, parse};

/// Everything that is decided about a configuration before anything is done.
pub(super) fn judge(text: &str) -> Result<()> {
    let spec: Spec = parse(text)?;
    check(&spec)?;
    let filter = crate::create::compile(&spec)?;
    let host = Host { permitted: u64::MAX, ..Host::default() };
    plan::create(&spec, Path::new("/bundle"), &host, filter, Wishes::default())?;
    let asked = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    devices::rules(asked)?;
    if let Some(asked) = asked {
        resources::decide(asked, |_| Some(Version::V1))?;
        resources::decide(asked, |_| Some(Version::V2))?;
        resources::unified(asked)?;
    }
    Ok(())
}

/// The template with the value at a pointer replaced, or a key added to what is above it.
fn changed(pointer: &str, value: &Value) -> String {
    let mut json: Value = serde_json::from_str(TEMPLATE).unwrap();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    match json.pointer_mut(parent).unwrap() {
        Value::Array(list) => list.push(value.clone()),
        Value::Object(fields) => drop(fields.insert(field.to_owned(), value.clone())),
        other => panic!("{pointer}: {other}"),
    }
    json.to_string()
}

#[test]
fn what_is_said_of_bad_configurations() {
    let mut bad = Vec::new();
    for (pointer, value, sentence) in cases() {
        let said = match judge(&changed(pointer, &value)) {
            Ok(()) => "(nothing)".to_owned(),
            Err(why) => why.to_string(),
        };
        // A sentence that ends with an ellipsis goes on with the words that would be right.
        let fits = sentence.strip_suffix("...").map_or(said == sentence, |start| said.starts_with(start));
        if !fits {
            bad.push(format!("{pointer} = {value}\n  said {said}\n  want {sentence}"));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// Whatever a text is, reading and judging it ends with an answer. A fixed seed: a failure can be repeated.
#[test]
fn no_text_makes_the_reader_panic() {
    let full = include_str!("full.json").as_bytes();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    let words = [
        &b"null"[..],
        b"[]",
        b"{}",
        b"-1",
        b"18446744073709551616",
        b"1e999",
        b"\"\"",
        b"\"\\u0000\"",
        b"[[[[[[",
        b"\xff",
        b",",
    ];
    let mut read = 0;
    for _ in 0..3000 {
        let mut text = full.to_vec();
        for _ in 0..=next(3) {
            let (at, length) = (next(text.len()), next(12));
            let end = (at + length).min(text.len());
            text.splice(at..end, words[next(words.len())].iter().copied());
        }
        let Ok(text) = String::from_utf8(text) else { continue };
        if judge(&text).is_err_and(|why| why.to_string().is_empty()) {
            panic!("nothing is said of {text}");
        }
        read += 1;
    }
    assert!(read > 1000, "{read}");
}

/// Where, what, and the sentence.
type Case = (&'static str, Value, &'static str);

fn cases() -> Vec<Case> {
    [of_processes(), of_places(), of_devices(), of_limits()].concat()
}

/// The root directory and the process.
#[rustfmt::skip]
fn of_processes() -> Vec<Case> {
    vec![
        ("/ociVersion", json!(""), "ociVersion: \"\" is not a 1.x version"),
        ("/ociVersion", json!("0.9"), "ociVersion: \"0.9\" is not a 1.x version"),
        ("/ociVersion", json!("2.0.0"), "ociVersion: \"2.0.0\" is not a 1.x version"),
        ("/ociVersion", json!("1.x"), "ociVersion: \"1.x\" is not a 1.x version"),
        ("/ociVersion", json!(1), "ociVersion: invalid type: integer `1`, expected a string"),
        ("/root", Value::Null, "root: is missing"),
        ("/root", json!({}), "root.path: must not be empty"),
        ("/root/path", json!(""), "root.path: must not be empty"),
        ("/root/path", json!("a\u{0}b"), "root.path: must not contain a zero byte"),
        ("/root/readonly", json!("yes"), "root.readonly: invalid type: string \"yes\", expected a boolean"),
        ("/process", Value::Null, "process: is missing"),
        ("/process/args", json!([]), "process.args: must not be empty"),
        ("/process/args", json!([""]), "process.args[0]: must not be empty"),
        ("/process/args", json!(["a", 1]), "process.args[1]: invalid type: integer `1`, expected a string"),
        ("/process/args", json!(["a", "b\u{0}"]), "process.args[1]: must not contain a zero byte"),
        ("/process/cwd", json!("tmp"), "process.cwd: must be an absolute path, not \"tmp\""),
        ("/process/cwd", json!("/a\u{0}"), "process.cwd: must not contain a zero byte"),
        ("/process/env", json!(["A=b", "NOVALUE"]), "process.env[1]: \"NOVALUE\" is not NAME=VALUE"),
        ("/process/env", json!(["=b"]), "process.env[0]: \"=b\" has no name"),
        ("/process/env", json!(["A=\u{0}"]), "process.env[0]: must not contain a zero byte"),
        ("/process/user/uid", json!(-1), "process.user.uid: invalid value: integer `-1`, expected u32"),
        ("/process/user/uid", json!(4294967295u32), "process.user.uid: 4294967295 is no id: the kernel takes it for \"no change\""),
        ("/process/user/gid", json!(4294967295u32), "process.user.gid: 4294967295 is no id: the kernel takes it for \"no change\""),
        ("/process/user/gid", json!(4294967296u64), "process.user.gid: invalid value: integer `4294967296`, expected u32"),
        ("/process/user/umask", json!(0o1777), "process.user.umask: 1023 (0o1777) is above 0o777"),
        ("/process/user/additionalGids", json!([1, 4294967295u32]), "process.user.additionalGids[1]: 4294967295 is no id"),
        ("/process/consoleSize", json!({ "height": 65536, "width": 80 }), "process.consoleSize.height: 65536 is above 65535"),
        ("/process/rlimits", json!([{ "type": "RLIMIT_FROB", "soft": 1, "hard": 1 }]), "process.rlimits[0].type: unknown variant `RLIMIT_FROB`, expected ..."),
        ("/process/rlimits", json!([{ "type": "RLIMIT_CORE", "soft": 2, "hard": 1 }]), "process.rlimits[0].soft: 2 is above hard 1"),
        ("/process/rlimits", json!([{ "type": "RLIMIT_CORE", "soft": 1, "hard": 1 }, { "type": "RLIMIT_CORE", "soft": 1, "hard": 1 }]), "process.rlimits[1].type: RLIMIT_CORE is there twice"),
        ("/process/rlimits", json!([{ "type": "RLIMIT_CORE", "soft": 1 }]), "process.rlimits[0].soft: 1 is above hard 0"),
        ("/process/oomScoreAdj", json!(1001), "process.oomScoreAdj: 1001 is not between -1000 and 1000"),
        ("/process/capabilities", json!({ "bounding": "CAP_KILL" }), "process.capabilities.bounding: invalid type: string \"CAP_KILL\", expected a sequence"),
        ("/process/scheduler", json!({}), "process.scheduler.policy: is missing"),
        ("/process/scheduler", json!({ "policy": "SCHED_FROB" }), "process.scheduler.policy: unknown variant `SCHED_FROB`, expected ..."),
        ("/process/scheduler", json!({ "policy": "SCHED_OTHER", "nice": 20 }), "process.scheduler.nice: 20 is not between -20 and 19"),
        ("/process/scheduler", json!({ "policy": "SCHED_OTHER", "priority": 5 }), "process.scheduler.priority: only for SCHED_FIFO and SCHED_RR"),
        ("/process/scheduler", json!({ "policy": "SCHED_FIFO", "runtime": 5 }), "process.scheduler.runtime: only for SCHED_DEADLINE"),
        ("/process/scheduler", json!({ "policy": "SCHED_FIFO", "priority": 100 }), "process.scheduler.priority: 100 is not between 1 and 99"),
        ("/process/scheduler", json!({ "policy": "SCHED_DEADLINE", "runtime": 5, "deadline": 4, "period": 3 }), "process.scheduler.deadline: 4 is not between runtime 5 and period 3"),
        ("/process/scheduler", json!({ "policy": "SCHED_BATCH", "nice": -21 }), "process.scheduler.nice: -21 is not between -20 and 19"),
        ("/process/scheduler", json!({ "policy": "SCHED_IDLE", "priority": 1 }), "process.scheduler.priority: only for SCHED_FIFO and SCHED_RR"),
        ("/process/scheduler", json!({ "policy": "SCHED_RR", "priority": -1 }), "process.scheduler.priority: -1 is not between 1 and 99"),
        ("/process/scheduler", json!({ "policy": "SCHED_OTHER", "deadline": 5 }), "process.scheduler.deadline: only for SCHED_DEADLINE"),
        ("/process/scheduler", json!({ "policy": "SCHED_RR", "priority": 1, "period": 5 }), "process.scheduler.period: only for SCHED_DEADLINE"),
        ("/process/scheduler", json!({ "policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 4, "period": 3 }), "process.scheduler.deadline: 4 is not between runtime 1 and period 3"),
        ("/process/scheduler", json!({ "policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_FROB"] }), "process.scheduler.flags[0]: unknown variant `SCHED_FLAG_FROB`, expected ..."),
        ("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_BE", "priority": 8 }), "process.ioPriority.priority: 8 is not between 0 and 7"),
        ("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_FROB", "priority": 1 }), "process.ioPriority.class: unknown variant `IOPRIO_CLASS_FROB`, expected ..."),
        ("/process/execCPUAffinity", json!({ "initial": "0-" }), "process.execCPUAffinity.initial: Invalid execCPUAffinity format: 0-"),
        ("/process/execCPUAffinity", json!({ "final": "5-2" }), "process.execCPUAffinity.final: \"5-2\" is neither a number nor a range"),
    ]
}

/// Mounts, hooks, namespaces.
#[rustfmt::skip]
fn of_places() -> Vec<Case> {
    let spaces = |more: &[Value]| Value::Array([&[json!({ "type": "mount" }), json!({ "type": "uts" })], more].concat());
    let map = |container: u32, host: u32, size: u32| json!([{ "containerID": container, "hostID": host, "size": size }]);
    vec![
        ("/mounts/-", json!({}), "mounts[7].destination: is missing"),
        ("/mounts/-", json!({ "destination": "" }), "mounts[7].destination: must not be empty"),
        ("/mounts/-", json!({ "destination": "/a\u{0}" }), "mounts[7].destination: must not contain a zero byte"),
        ("/mounts/-", json!({ "destination": "/a", "type": "tmpfs", "source": "a\u{0}" }), "mounts[7].source: must not contain a zero byte"),
        ("/mounts/-", json!({ "destination": "/a", "type": "bind" }), "mounts[7].source: is missing"),
        ("/mounts/-", json!({ "destination": "/a", "type": "tmpfs", "options": ["idmap"] }), "mounts[7].options: only a bind mount can be id-mapped"),
        ("/mounts/-", json!({ "destination": "/a", "type": "bind", "source": "/b", "options": ["bind"], "uidMappings": map(0, 0, 1) }), "mounts[7].gidMappings: needed beside uidMappings"),
        ("/mounts/-", json!({ "destination": "/a", "type": "bind", "source": "/b", "options": ["bind", "idmap"] }), "mounts[7].options: idmap needs uidMappings and gidMappings here: the container has no user namespace"),
        ("/mounts/-", json!({ "destination": "/a", "type": "bind", "source": "/b", "options": ["bind", "idmap=frob"] }), "mounts[7].options: idmap=frob: not like uids=0-1000-1;gids=0-1000-1, or not mapped in the container"),
        ("/hooks", json!({ "poststop": [{ "path": "x" }] }), "hooks.poststop[0].path: must be an absolute path, not \"x\""),
        ("/hooks", json!({ "prestart": [{ "path": "/x" }, { "path": "/x", "timeout": 0 }] }), "hooks.prestart[1].timeout: must be above zero"),
        ("/hooks", json!({ "poststart": [{ "args": ["x"] }] }), "hooks.poststart[0].path: is missing"),
        ("/hooks", json!({ "createContainer": [{ "path": "/x\u{0}" }] }), "hooks.createContainer[0].path: must not contain a zero byte"),
        ("/linux", Value::Null, "linux: is missing"),
        ("/linux/namespaces", json!([]), "linux.maskedPaths: needs a mount namespace in linux.namespaces"),
        ("/linux/namespaces", json!([{ "type": "frob" }]), "linux.namespaces[0].type: unknown variant `frob`, expected ..."),
        ("/linux/namespaces", json!([{ "type": "mount" }]), "hostname: needs a uts namespace in linux.namespaces"),
        ("/linux/namespaces", spaces(&[json!({ "type": "pid" }), json!({ "type": "pid" })]), "linux.namespaces[3].type: pid is there twice"),
        ("/linux/namespaces", spaces(&[json!({ "type": "network", "path": "x" })]), "linux.namespaces[2].path: must be absolute, not \"x\""),
        ("/linux/namespaces", spaces(&[json!({ "type": "network", "path": "/x\u{0}" })]), "linux.namespaces[2].path: must not contain a zero byte"),
        ("/linux/namespaces", spaces(&[json!({ "type": "user" })]), "linux.uidMappings: a new user namespace needs mappings"),
        ("/linux/uidMappings", map(0, 1000, 10), "linux.uidMappings: needs a user namespace in linux.namespaces"),
        ("/linux/gidMappings", map(0, 1000, 10), "linux.gidMappings: needs a user namespace in linux.namespaces"),
        ("/linux/timeOffsets", json!({ "boottime": { "secs": 5 } }), "linux.timeOffsets: needs a new time namespace in linux.namespaces"),
        ("/linux/timeOffsets", json!({ "frobtime": { "secs": 5 } }), "linux.timeOffsets: needs a new time namespace in linux.namespaces"),
        ("/hostname", json!("h".repeat(65)), "hostname: 65 bytes are more than the 64 that the kernel takes"),
        ("/domainname", json!("h".repeat(65)), "domainname: 65 bytes are more than the 64 that the kernel takes"),
        ("/linux/rootfsPropagation", json!("frob"), "linux.rootfsPropagation: \"frob\" is not a propagation"),
        ("/linux/cgroupsPath", json!("/a/../b"), "linux.cgroupsPath: \"/a/../b\" must not contain .."),
    ]
}

/// Devices, paths, sysctls and what else belongs to Linux.
#[rustfmt::skip]
fn of_devices() -> Vec<Case> {
    vec![
        ("/linux/devices", json!([{ "path": "x", "type": "c", "major": 1, "minor": 3 }]), "linux.devices[0].path: must be absolute, not \"x\""),
        ("/linux/devices", json!([{ "path": "/dev/x", "type": "q", "major": 1, "minor": 3 }]), "linux.devices[0].type: unknown variant `q`, expected ..."),
        ("/linux/devices", json!([{ "path": "/dev/x", "type": "a", "major": 1, "minor": 3 }]), "linux.devices[0].type: \"a\" is not a node"),
        ("/linux/devices", json!([{ "path": "/dev/x", "type": "c", "major": -1, "minor": 3 }]), "linux.devices[0].major: -1 is not a number of a device"),
        ("/linux/devices", json!([{ "path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 1048576 }]), "linux.devices[0].fileMode: 1048576 (0o4000000) is no mode of a file"),
        ("/linux/devices", json!([{ "path": "/dev/x", "type": "c", "major": 1, "minor": 3, "uid": 4294967295u32 }]), "linux.devices[0].uid: 4294967295 is no id"),
        ("/linux/readonlyPaths", json!(["a\u{0}"]), "linux.readonlyPaths[0]: must not contain a zero byte"),
        ("/linux/sysctl", json!({ "kernel.frob": "1" }), "linux.sysctl.kernel.frob: does not belong to a namespace of the container"),
        ("/linux/sysctl", json!({ "kernel.hostname": "x" }), "linux.sysctl.kernel.hostname: use hostname instead"),
        ("/linux/sysctl", json!({ "user.max_user_namespaces": "1" }), "linux.sysctl.user.max_user_namespaces: needs a user namespace"),
        ("/linux/sysctl", json!({ "net/../kernel/core_pattern": "x" }), "linux.sysctl.net/../kernel/core_pattern: is not a parameter's name"),
        ("/linux/personality", json!({ "domain": "FROB" }), "linux.personality.domain: unknown variant `FROB`, expected ..."),
        ("/linux/memoryPolicy", json!({ "mode": "MPOL_BIND", "nodes": "" }), "linux.memoryPolicy.nodes: MPOL_BIND needs at least one"),
        ("/linux/memoryPolicy", json!({ "mode": "MPOL_DEFAULT", "nodes": "0" }), "linux.memoryPolicy.nodes: MPOL_DEFAULT takes none"),
        ("/linux/memoryPolicy", json!({ "mode": "MPOL_BIND", "nodes": "x" }), "linux.memoryPolicy.nodes: \"x\" is not a number or range up to 8191"),
        ("/linux/memoryPolicy", json!({ "mode": "MPOL_FROB" }), "linux.memoryPolicy.mode: unknown variant `MPOL_FROB`, expected ..."),
        ("/linux/intelRdt", json!({ "closID": ".." }), "linux.intelRdt.closID: \"..\" is not the name of a class"),
        ("/linux/netDevices", json!({ "a/b": {} }), "linux.netDevices: \"a/b\" is not the name of a network device"),
        ("/linux/netDevices", json!({ "eth0": { "name": "a b" } }), "linux.netDevices.eth0.name: \"a b\" is not the name of a network device"),
    ]
}

/// Limits and filters.
#[rustfmt::skip]
fn of_limits() -> Vec<Case> {
    vec![
        ("/linux/resources", json!({ "memory": { "limit": "1g" } }), "linux.resources.memory.limit: invalid type: string \"1g\", expected i64"),
        ("/linux/resources", json!({ "memory": { "limit": -2 } }), "linux.resources.memory.limit: -2 is neither a size nor -1, which means no limit"),
        ("/linux/resources", json!({ "memory": { "limit": 2000000, "swap": 1000000 } }), "linux.resources.memory.swap: 1000000 is the sum of memory and swap and cannot be below limit 2000000"),
        ("/linux/resources", json!({ "memory": { "swap": 1000000 } }), "linux.resources.memory.swap: 1000000 is the sum of memory and swap and needs limit beside it"),
        ("/linux/resources", json!({ "memory": { "swappiness": 101 } }), "linux.resources.memory.swappiness: 101 is not in 0..=100"),
        ("/linux/resources", json!({ "cpu": { "cpus": "0-" } }), "linux.resources.cpu.cpus: \"0-\" is neither a number nor a range"),
        ("/linux/resources", json!({ "cpu": { "mems": "a" } }), "linux.resources.cpu.mems: \"a\" is neither a number nor a range"),
        ("/linux/resources", json!({ "cpu": { "idle": 2 } }), "linux.resources.cpu.idle: 2 is neither 0 nor 1"),
        ("/linux/resources", json!({ "blockIO": { "weight": 5 } }), "linux.resources.blockIO.weight: 5 is not between 10 and 1000"),
        ("/linux/resources", json!({ "blockIO": { "weightDevice": [{ "major": 8, "minor": 0, "weight": 5000 }] } }), "linux.resources.blockIO.weightDevice[0].weight: 5000 is not between 10 and 1000"),
        ("/linux/resources", json!({ "hugepageLimits": [{ "pageSize": "2 megs", "limit": 1 }] }), "linux.resources.hugepageLimits: \"2 megs\" is not a page size such as 2MB"),
        ("/linux/resources", json!({ "hugepageLimits": [{ "limit": 1 }] }), "linux.resources.hugepageLimits: \"\" is not a page size such as 2MB"),
        ("/linux/resources", json!({ "network": { "priorities": [{ "name": "a b", "priority": 1 }] } }), "linux.resources.network.priorities[0].name: \"a b\" is not the name of a network device"),
        ("/linux/resources", json!({ "unified": { "../x": "1" } }), "linux.resources.unified: \"../x\" is not the name of a cgroup file"),
        ("/linux/resources", json!({ "unified": { "memory": "1" } }), "linux.resources.unified: \"memory\" is not the name of a cgroup file"),
        ("/linux/resources", json!({ "unified": { "memory.high": 5 } }), "linux.resources.unified.memory.high: invalid type: integer `5`, expected a string"),
        ("/linux/resources", json!({ "rdma": { "a b": { "hcaHandles": 1 } } }), "linux.resources.rdma: \"a b\" is not the name of a device"),
        ("/linux/resources", json!({ "devices": [{ "allow": true, "access": "rwx" }] }), "linux.resources.devices[0].access: \"rwx\" has more than r, w and m"),
        ("/linux/resources", json!({ "devices": [{ "allow": true, "type": "p", "access": "r" }] }), "linux.resources.devices[0].type: p is a pipe and no device"),
        ("/linux/resources", json!({ "devices": [{ "allow": true, "type": "c", "major": -2, "access": "r" }] }), "linux.resources.devices[0].major: -2 is out of range"),
        ("/linux/seccomp", json!({}), "linux.seccomp.defaultAction: is missing"),
        ("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_FROB" }), "linux.seccomp.defaultAction: unknown variant `SCMP_ACT_FROB`, expected ..."),
        ("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_NOTIFY" }), "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY would hang the runtime itself"),
        ("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000 }), "linux.seccomp.defaultErrnoRet: 5000 is above 4095"),
        ("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_FROB"] }), "linux.seccomp.architectures[0]: unknown variant `SCMP_ARCH_FROB`, expected ..."),
        ("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": ["FROB"] }), "linux.seccomp.flags[0]: unknown variant `FROB`, expected ..."),
        ("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 6, "value": 1, "op": "SCMP_CMP_EQ" }] }] }), "linux.seccomp.syscalls[0].args[0].index: a system call has no argument 6"),
        ("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 1, "value": 1, "op": "EQ" }] }] }), "linux.seccomp.syscalls[0].args[0].op: unknown variant `EQ`, expected ..."),
        ("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["write"], "action": "SCMP_ACT_NOTIFY" }] }), "linux.seccomp.syscalls[0].action: SCMP_ACT_NOTIFY on write would hang the runtime itself"),
    ]
}
