//! `update`: limits that change under a running container, and stay known.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::house::{House, house, said};

/// The text of the first of these files in any tree of the container's cgroup.
fn file(house: &House, names: &[&str]) -> String {
    let dirs = house.cgroups();
    let found = dirs.iter().flat_map(|dir| names.iter().map(|name| dir.join(name))).find(|path| path.exists());
    fs::read_to_string(found.unwrap_or_else(|| panic!("none of {names:?} in {dirs:?}"))).unwrap().trim().to_owned()
}

fn memory(house: &House) -> String {
    file(house, &["memory.limit_in_bytes", "memory.max"])
}

fn pids(house: &House) -> String {
    file(house, &["pids.max"])
}

/// Quota and period in microseconds.
fn cpu(house: &House) -> String {
    let has = |name: &str| house.cgroups().iter().any(|dir| dir.join(name).exists());
    match has("cpu.max") {
        true => file(house, &["cpu.max"]),
        false => format!("{} {}", file(house, &["cpu.cfs_quota_us"]), file(house, &["cpu.cfs_period_us"])),
    }
}

#[test]
fn every_flag_reaches_the_kernel_and_the_record() {
    let mut house = house!("update-flags");
    house.set("/linux/resources/memory", json!({ "limit": 64 << 20 }));
    house.set("/linux/resources/cpu", json!({ "quota": 20_000, "period": 50_000, "shares": 512 }));
    house.sleeping();
    house.ok(&["update", "--memory", "48m", "--memory-reservation", "16m", "--pids-limit", "20", "c"]);
    assert_eq!((memory(&house), pids(&house)), ((48 << 20).to_string(), "20".into()));
    assert_eq!(file(&house, &["memory.soft_limit_in_bytes", "memory.low"]), (16 << 20).to_string());
    house.ok(&["update", "--cpu-quota", "30000", "c"]);
    assert_eq!(cpu(&house), "30000 50000", "the period from before");
    house.ok(&[
        "update",
        "c",
        "--cpu-period",
        "100000",
        "--cpu-share",
        "2048",
        "--cpuset-cpus",
        "0",
        "--cpuset-mems",
        "0",
    ]);
    assert_eq!(cpu(&house), "30000 100000");
    assert!(["2048", "174"].contains(&&*file(&house, &["cpu.shares", "cpu.weight"])));
    assert_eq!((file(&house, &["cpuset.cpus"]), file(&house, &["cpuset.mems"])), ("0".into(), "0".into()));
    house.ok(&["update", "--pids-limit", "-1", "--cpu-quota", "-1", "c"]);
    assert_eq!(pids(&house), "max");
    assert!(["-1 100000", "max 100000"].contains(&&*cpu(&house)), "{}", cpu(&house));
    let text = fs::read_to_string(house.dir.join("state/c/state.json")).unwrap();
    let kept: Value = serde_json::from_str(&text).unwrap();
    let cpu = json!({ "quota": -1, "period": 100_000, "shares": 2048, "cpus": "0", "mems": "0" });
    assert_eq!(kept["resources"]["cpu"], cpu);
    assert_eq!(kept["resources"]["memory"]["limit"], json!(48 << 20));
    assert_eq!(house.status(), "running");
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn limits_are_read_from_a_file_and_from_standard_input() {
    let mut house = house!("update-file");
    house.sleeping();
    // What nobody asked for: none, or systemd's own.
    let most = pids(&house);
    let path = house.dir.join("limits.json");
    fs::write(&path, r#"{"memory":{"limit":33554432},"pids":{},"cpu":{}}"#).unwrap();
    house.ok(&["update", "-r", path.to_str().unwrap(), "--pids-limit", "3", "c"]);
    assert_eq!((memory(&house), pids(&house)), ((32 << 20).to_string(), most), "flags beside it are ignored");
    let mut child = house
        .command(&["update", "--resources", "-", "c"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(br#"{"pids":{"limit":30}}"#).unwrap();
    assert_eq!(said(child.wait_with_output().unwrap()).code, 0);
    assert_eq!((memory(&house), pids(&house)), ((32 << 20).to_string(), "30".into()));
    fs::write(&path, r#"{"pids":{"limit":"many"}}"#).unwrap();
    let wrong = house.call(&["update", "-r", path.to_str().unwrap(), "c"]);
    assert!(wrong.code == 1 && wrong.err.contains("pids.limit: invalid type: string \"many\""), "{wrong:?}");
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn a_refused_update_changes_nothing() {
    let mut house = house!("update-refused");
    house.set("/linux/resources/memory", json!({ "limit": 64 << 20 }));
    house.sleeping();
    let before = fs::read(house.dir.join("state/c/state.json")).unwrap();
    let most = pids(&house);
    for (flags, says) in [
        (["--memory", "32m", "--cpuset-cpus", "4000"], "cpuset.cpus"),
        (["--memory", "32m", "--memory-swap", "16m"], "cannot be below limit"),
        (["--pids-limit", "5", "--cpuset-mems", "no"], "cpuset.mems"),
        (["--memory", "32m", "--cpu-share", "-5"], "--cpu-share: -5 is below 0"),
        (["--memory", "32m", "--l3-cache-schema", "L3:0=f"], "--l3-cache-schema"),
    ] {
        let said = house.call(&["update", flags[0], flags[1], flags[2], flags[3], "c"]);
        assert!(said.code == 1 && said.err.contains(says), "{flags:?}: {said:?}");
        assert_eq!((memory(&house), pids(&house)), ((64 << 20).to_string(), most.clone()), "{flags:?}");
    }
    assert_eq!(fs::read(house.dir.join("state/c/state.json")).unwrap(), before);
    house.ok(&["delete", "--force", "c"]);
    let gone = house.call(&["update", "--pids-limit", "5", "c"]);
    assert!(gone.code == 1 && gone.err.contains("does not exist"), "{gone:?}");
}

#[test]
fn who_is_stopped_is_not_updated_and_who_waits_or_is_paused_is() {
    let mut house = house!("update-status");
    house.set("/process/args", json!(["/bin/sleep", "60"]));
    assert_eq!(house.create().code, 0);
    house.ok(&["update", "--pids-limit", "9", "c"]);
    house.ok(&["start", "c"]);
    house.ok(&["pause", "c"]);
    house.ok(&["update", "--memory", "32m", "c"]);
    assert_eq!((memory(&house), pids(&house), house.status()), ((32 << 20).to_string(), "9".into(), "paused".into()));
    house.ok(&["resume", "c"]);
    house.ok(&["kill", "c", "KILL"]);
    crate::house::wait_until("it has stopped", || house.status() == "stopped");
    let said = house.call(&["update", "--pids-limit", "5", "c"]);
    assert!(said.code == 1 && said.err.contains("cannot update a stopped container"), "{said:?}");
    house.ok(&["delete", "c"]);
}

#[test]
fn device_rules_are_replaced_while_it_runs() {
    let mut house = house!("update-devices");
    house.set(
        "/linux/devices",
        json!([{ "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666 }]),
    );
    house.sleeping();
    // Whatever the driver says, if there is one: only the rules answer EPERM.
    let refused = |house: &House| {
        house
            .call(&["exec", "c", "dd", "if=/dev/fuse", "of=/dev/null", "count=0"])
            .err
            .contains("Operation not permitted")
    };
    assert!(refused(&house));
    let path = house.dir.join("rules.json");
    let open = json!({ "devices": [{ "allow": true, "type": "c", "major": 10, "minor": 229, "access": "r" }] });
    fs::write(&path, open.to_string()).unwrap();
    house.ok(&["update", "-r", path.to_str().unwrap(), "c"]);
    assert!(!refused(&house));
    house.ok(&["update", "--pids-limit", "50", "c"]);
    assert!(!refused(&house), "another update leaves devices alone");
    fs::write(&path, r#"{"devices":[{"allow":false,"access":"rwm"}]}"#).unwrap();
    house.ok(&["update", "-r", path.to_str().unwrap(), "c"]);
    assert!(refused(&house));
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn kernel_memory_is_passed_over_with_a_warning() {
    let mut house = house!("update-kernel");
    house.sleeping();
    let said = house.call(&["update", "--kernel-memory", "50m", "--memory", "40m", "c"]);
    assert!(said.code == 0 && said.err.contains("kernel and kernelTCP are ignored"), "{said:?}");
    assert_eq!(memory(&house), (40 << 20).to_string());
    assert!(Path::new(&house.dir.join("state/c/state.json")).exists());
    house.ok(&["delete", "--force", "c"]);
}
