//! Tests of limits that change while processes live with them: on directories, and, as root, in the real trees.

use std::fs;
use std::path::Path;

use super::controller::{Controller, Version};
use super::host::{Real, Scratch, put, resources};
use super::layout::Layout;
use super::tree::Cgroup;
use crate::error::Kind;

#[test]
fn a_refused_file_brings_the_others_back() {
    let scratch = Scratch::new("all-or-nothing");
    let layout = Layout::of(vec![
        scratch.tree("memory", Version::V1, &[Controller::Memory]),
        scratch.tree("pids", Version::V1, &[Controller::Pids]),
    ]);
    put(&scratch.0.join("memory/web/memory.limit_in_bytes"), "100\n");
    put(&scratch.0.join("memory/web/memory.soft_limit_in_bytes"), "50\n");
    fs::create_dir_all(scratch.0.join("pids/web")).unwrap();
    let web = Cgroup::at(&layout, Path::new("web")).unwrap();
    let error = web.change(&resources(r#"{"memory":{"limit":200,"reservation":80},"pids":{"limit":3}}"#)).unwrap_err();
    assert!(error.to_string().contains("cannot set pids.max to 3: this kernel has no such file in "), "{error}");
    let read = |file: &str| fs::read_to_string(scratch.0.join("memory/web").join(file)).unwrap();
    // An ordinary file keeps what stood behind the shorter text; a cgroup's does not.
    assert!(read("memory.limit_in_bytes").starts_with("100"));
    assert!(read("memory.soft_limit_in_bytes").starts_with("50"));
}

#[test]
fn a_controller_that_stops_above_is_told_from_a_kernel_without_the_file() {
    let scratch = Scratch::new("stops-above");
    let layout = Layout::of(vec![scratch.tree("v2", Version::V2, &[Controller::Memory, Controller::Pids])]);
    put(&scratch.0.join("v2/web/cgroup.controllers"), "cpu memory\n");
    let web = Cgroup::at(&layout, Path::new("web")).unwrap();
    let said = |json: &str| web.apply(&resources(json)).unwrap_err().to_string();
    let pids = said(r#"{"pids":{"limit":3}}"#);
    assert!(pids.starts_with("cannot set pids.max to 3: the pids controller does not reach "), "{pids}");
    let memory = said(r#"{"memory":{"limit":3}}"#);
    assert!(memory.starts_with("cannot set memory.max to 3: this kernel has no such file in "), "{memory}");
}

#[test]
fn nothing_is_written_where_something_is_wrong_from_the_start() {
    let scratch = Scratch::new("from-the-start");
    let layout = Layout::of(vec![scratch.tree("memory", Version::V1, &[Controller::Memory])]);
    put(&scratch.0.join("memory/web/memory.limit_in_bytes"), "100");
    let web = Cgroup::at(&layout, Path::new("web")).unwrap();
    let error = web.change(&resources(r#"{"memory":{"limit":200},"cpu":{"shares":2}}"#)).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert_eq!(fs::read_to_string(scratch.0.join("memory/web/memory.limit_in_bytes")).unwrap(), "100");
}

#[test]
fn a_unified_value_is_written_line_by_line() {
    let scratch = Scratch::new("lines");
    let layout = Layout::of(vec![scratch.tree("v2", Version::V2, &[])]);
    put(&scratch.0.join("v2/web/io.max"), "");
    let web = Cgroup::at(&layout, Path::new("web")).unwrap();
    web.apply(&resources(r#"{"unified":{"io.max":"8:0 rbps=1\n8:16 rbps=2\n"}}"#)).unwrap();
    // Each line is a write from the beginning of the file.
    assert_eq!(fs::read_to_string(scratch.0.join("v2/web/io.max")).unwrap(), "8:16 rbps=2");
    let error = web.apply(&resources(r#"{"unified":{"memory.high":"1"}}"#)).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().starts_with("linux.resources.unified[\"memory.high\"]: "), "{error}");
}

#[test]
fn usage_is_looked_at_first_where_that_is_asked_for() {
    let scratch = Scratch::new("before-update");
    let layout = Layout::of(vec![scratch.tree("v2", Version::V2, &[Controller::Memory])]);
    for (file, text) in [("memory.stat", "anon 1\n"), ("memory.current", "5000\n"), ("memory.max", "max\n")] {
        put(&scratch.0.join("v2/web").join(file), text);
    }
    let web = Cgroup::at(&layout, Path::new("web")).unwrap();
    let limit = |limit: u32, check: bool| {
        web.change(&resources(&format!(r#"{{"memory":{{"limit":{limit},"checkBeforeUpdate":{check}}}}}"#)))
    };
    let error = limit(5000, true).unwrap_err();
    assert_eq!(error.to_string(), "linux.resources.memory.limit: 5000 is not above the 5000 bytes in use");
    limit(5001, true).unwrap();
    limit(5000, false).unwrap();
}

#[test]
fn real_limits_come_back_after_a_refusal() {
    let Some(real) = Real::new("come-back") else { return };
    real.0.apply(&resources(r#"{"memory":{"limit":16777216},"cpu":{"shares":512}}"#)).unwrap();
    let memory = || real.0.usage().unwrap().memory.unwrap().limit;
    // No host has this CPU; the kernel says so after the memory limit was taken.
    let error = real.0.change(&resources(r#"{"memory":{"limit":33554432},"cpu":{"cpus":"4000"}}"#)).unwrap_err();
    assert!(error.to_string().contains("cpuset.cpus"), "{error}");
    assert_eq!(memory(), Some(16_777_216));
    real.0.change(&resources(r#"{"memory":{"limit":33554432}}"#)).unwrap();
    assert_eq!(memory(), Some(33_554_432));
}

#[test]
fn a_limit_below_what_is_in_use_is_refused_or_kept_from_killing() {
    let Some(real) = Real::new("in-use") else { return };
    let mut child = real.shell("x=$(head -c 9000000 /dev/zero | tr '\\0' a); echo full; read end");
    let mut full = [0; 5];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut full).unwrap();
    let used = real.0.usage().unwrap().memory.unwrap().usage;
    assert!(used > 8_000_000, "{used}");
    // With all of it in one cgroup that cannot swap, neither version can take this.
    let given = r#"{"memory":{"limit":2097152,"swap":2097152,"checkBeforeUpdate":true}}"#;
    let error = real.0.change(&resources(given)).unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
    assert_eq!(real.0.usage().unwrap().memory.unwrap().limit, None, "nothing has changed");
    assert!(child.try_wait().unwrap().is_none(), "and nobody was killed");
    drop(child.stdin.take());
    assert!(child.wait().is_ok());
}

#[test]
fn a_device_out_of_an_open_range_is_closed_where_that_can_be_done() {
    let Some(real) = Real::new("hole") else { return };
    let given = resources(
        r#"{"devices":[{"allow":true,"type":"c","major":1,"access":"rw"},
                       {"allow":false,"type":"c","major":1,"minor":11,"access":"r"}]}"#,
    );
    match real.0.apply_devices(Some(&given)) {
        Err(why) if real.0.unified_dir().is_none() => {
            assert_eq!(why.kind(), Kind::Unsupported);
            return;
        }
        applied => applied.unwrap(),
    }
    let reads = |device: &str| real.shell(&format!("head -c 0 {device} 2>/dev/null")).wait().unwrap().success();
    assert!(!reads("/dev/kmsg"), "it was denied");
    assert!(reads("/dev/mem") || !Path::new("/dev/mem").exists(), "the rest of the range is open");
    assert!(reads("/dev/null"));
    let open = resources(r#"{"devices":[{"allow":true,"type":"c","major":1,"access":"rw"}]}"#);
    real.0.change_devices(Some(&open)).unwrap();
    assert!(reads("/dev/kmsg"), "an update opens it");
    real.0.change_devices(Some(&given)).unwrap();
    assert!(!reads("/dev/kmsg"), "and another closes it");
}

/// A process that opens null over and over, while the rules around it change: it must not be refused once.
#[test]
fn devices_that_stay_allowed_are_never_refused_during_a_change() {
    let Some(real) = Real::new("seamless") else { return };
    let one = resources(r#"{"devices":[{"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#);
    let other = resources(r#"{"devices":[{"allow":true,"type":"b","major":7,"access":"rw"}]}"#);
    real.0.apply_devices(Some(&one)).unwrap();
    let script = "i=0; while [ $i -lt 20000 ]; do : > /dev/null || { echo refused; exit 1; }; i=$((i+1)); done";
    let mut child = real.shell(script);
    let mut changes = 0;
    let ended = loop {
        real.0.change_devices(Some(&other)).unwrap();
        real.0.change_devices(Some(&one)).unwrap();
        changes += 2;
        match child.try_wait().unwrap() {
            Some(ended) => break ended,
            None if changes > 1_000_000 => panic!("it does not end"),
            None => {}
        }
    };
    assert!(ended.success(), "after {changes} changes");
    assert!(changes > 10, "{changes}");
}
