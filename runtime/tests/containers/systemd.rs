//! The systemd driver, with a real systemd: in the machine of `make vm-test`, or on a host that runs it.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::json;

use crate::house::{House, house, systemd_house, wait_until};

/// `systemctl`; what it printed.
fn systemctl(args: &[&str]) -> String {
    let output = Command::new("systemctl").args(args).output().unwrap();
    assert!(output.status.success(), "systemctl {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A property of this house's unit.
fn property(house: &House, name: &str) -> String {
    let unit = house.cgroup.rsplit('/').next().unwrap();
    systemctl(&["show", "--value", "--property", name, unit]).trim_end().to_owned()
}

fn pure_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// The first of these files that the cgroup has, in whichever tree.
fn file(house: &House, names: &[&str]) -> String {
    let mut paths = house.cgroups().into_iter().flat_map(|dir| names.iter().map(move |name| dir.join(name)));
    let path: PathBuf = paths.find(|path| path.exists()).unwrap();
    fs::read_to_string(path).unwrap().trim_end().to_owned()
}

#[test]
fn a_container_is_a_scope_in_its_slice() {
    let mut house = systemd_house!("scope");
    house.sleeping();
    assert_eq!(property(&house, "ActiveState"), "active");
    assert_eq!(property(&house, "ControlGroup"), house.cgroup);
    assert_eq!(property(&house, "Slice"), "gantry-test.slice");
    assert_eq!(property(&house, "Delegate"), "yes");
    assert_eq!(property(&house, "MemoryAccounting"), "yes");
    let own = fs::read_to_string(format!("/proc/{}/cgroup", house.pid())).unwrap();
    for line in own.lines() {
        // v1 trees that nobody but the kernel knows have no directory of ours.
        assert!(line.ends_with(&house.cgroup), "{own}");
    }
    // Later verbs need no flag: the driver is on record.
    house.systemd = false;
    house.ok(&["exec", "c", "true"]);
    assert_eq!(house.ok(&["ps", "--format", "json", "c"]).trim(), format!("[{}]", house.pid()));
    house.ok(&["pause", "c"]);
    assert_eq!(house.status(), "paused");
    house.ok(&["resume", "c"]);
    house.ok(&["delete", "--force", "c"]);
    assert_eq!(property(&house, "ActiveState"), "inactive");
    assert_eq!(property(&house, "LoadState"), "not-found");
}

#[test]
fn an_exec_joins_the_scope() {
    let mut house = systemd_house!("exec");
    house.sleeping();
    let said = house.ok(&["exec", "c", "cat", "/proc/self/cgroup"]);
    assert!(said.lines().all(|line| line.ends_with(":/")), "it sees itself at the root of its namespace: {said}");
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn without_a_bus_systemd_is_asked_itself() {
    let mut house = systemd_house!("private");
    house.script("exit 7");
    house.write_config();
    let run = house.command(&["run", "c"]);
    let hidden = Command::new("busybox")
        .args(["unshare", "-m", "sh", "-c", "mount -t tmpfs none /run/dbus && exec \"$@\"", "sh"])
        .arg(run.get_program())
        .args(run.get_args())
        .current_dir(house.dir.join("bundle"))
        .output()
        .unwrap();
    assert_eq!(hidden.status.code(), Some(7), "{hidden:?}");
    assert_eq!(property(&house, "LoadState"), "not-found");
}

#[test]
fn without_a_path_it_is_a_scope_of_the_system() {
    let mut house = systemd_house!("default");
    house.cgroup = format!("/system.slice/runc-d{}.scope", std::process::id());
    house.set("/linux/cgroupsPath", json!(""));
    house.set("/process/args", json!(["/bin/sleep", "60"]));
    house.write_config();
    let id = format!("d{}", std::process::id());
    let null = || fs::File::options().write(true).open("/dev/null").unwrap();
    let made = house.command(&["run", "--detach", &id]).stdout(null()).stderr(null()).status();
    assert!(made.unwrap().success());
    assert_eq!(property(&house, "ControlGroup"), house.cgroup);
    house.ok(&["delete", "--force", &id]);
}

#[test]
fn limits_are_systemds_and_survive_its_reload() {
    let mut house = systemd_house!("limits");
    house.set(
        "/linux/resources",
        json!({
            "memory": { "limit": 64 << 20, "reservation": 32 << 20 },
            "cpu": { "shares": 512, "quota": 12_345, "period": 100_000, "cpus": "0", "mems": "0" },
            "pids": { "limit": 77 }
        }),
    );
    house.sleeping();
    let files = || {
        [
            file(&house, &["memory.max", "memory.limit_in_bytes"]),
            file(&house, &["cpu.weight", "cpu.shares"]),
            file(&house, &["cpu.max", "cpu.cfs_quota_us"]),
            file(&house, &["pids.max"]),
            file(&house, &["cpuset.cpus"]),
        ]
    };
    let before = files();
    let (weight, max) = if pure_v2() { ("59", "13000 100000") } else { ("512", "13000") };
    assert_eq!(before, ["67108864", weight, max, "77", "0"], "a quota is whole percents");
    assert_eq!(property(&house, if pure_v2() { "MemoryMax" } else { "MemoryLimit" }), "67108864");
    assert_eq!(property(&house, "TasksMax"), "77");
    assert_eq!(property(&house, "CPUQuotaPerSecUSec"), "130ms");
    assert_eq!(property(&house, "AllowedCPUs"), "0");
    systemctl(&["daemon-reload"]);
    assert_eq!(files(), before);
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn an_update_is_known_to_systemd() {
    let mut house = systemd_house!("update");
    house.set("/linux/resources/memory", json!({ "limit": 64 << 20 }));
    house.sleeping();
    let limit = if pure_v2() { "MemoryMax" } else { "MemoryLimit" };
    house.ok(&["update", "--memory", "48m", "--pids-limit", "20", "--cpu-quota", "12345", "c"]);
    assert_eq!(property(&house, limit), (48 << 20).to_string());
    assert_eq!(property(&house, "TasksMax"), "20");
    let seen = || {
        let memory = file(&house, &["memory.max", "memory.limit_in_bytes"]);
        (memory, file(&house, &["pids.max"]), file(&house, &["cpu.max", "cpu.cfs_quota_us"]))
    };
    let before = seen();
    assert_eq!((&*before.0, &*before.1), ("50331648", "20"));
    assert!(before.2.starts_with("13000"), "{before:?}");
    systemctl(&["daemon-reload"]);
    assert_eq!(seen(), before);
    let said = house.call(&["update", "--cpuset-cpus", "99", "c"]);
    assert_ne!(said.code, 0, "{said:?}");
    assert_eq!(seen(), before);
    house.ok(&["exec", "c", "true"]);
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn unified_files_are_properties() {
    let mut house = systemd_house!("unified");
    if !pure_v2() {
        eprintln!("SKIPPED unified_files_are_properties: needs cgroup v2 alone");
        return;
    }
    house.set("/linux/resources", json!({ "unified": { "memory.high": "50000000", "pids.max": "33" } }));
    house.sleeping();
    assert_eq!(property(&house, "MemoryHigh"), "50000000");
    assert_eq!(property(&house, "TasksMax"), "33");
    assert_eq!(file(&house, &["memory.high"]), "49999872", "whole pages");
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn devices_are_denied_and_allowed_before_and_after_a_reload() {
    let mut house = systemd_house!("devices");
    // Serial ports that hardly any machine has: what is denied is EPERM, what is allowed is anything else.
    let rule = json!({ "allow": true, "type": "c", "major": 4, "minor": 66, "access": "rw" });
    house.push("/linux/resources/devices", rule);
    for minor in [66, 67] {
        let node = house.rootfs().join(format!("tmp/{minor}"));
        mknod(&node, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(4, minor)).unwrap();
    }
    house.sleeping();
    let denied = |node: &str| {
        let said = house.call(&["exec", "c", "dd", &format!("if={node}"), "of=/dev/null", "count=0"]);
        said.err.contains("Operation not permitted")
    };
    let look = || ["/dev/null", "/dev/urandom", "/tmp/66", "/tmp/67"].map(denied);
    let expected = [false, false, false, true];
    assert_eq!(look(), expected);
    systemctl(&["daemon-reload"]);
    assert_eq!(look(), expected);
    assert!(property(&house, "DeviceAllow").contains("/dev/char/4:66 rw"), "{}", property(&house, "DeviceAllow"));
    assert_eq!(property(&house, "DevicePolicy"), "strict");
    // Other rules: systemd has to know them before it reloads.
    let path = house.dir.join("rules.json");
    let rule = json!({ "allow": true, "type": "c", "major": 4, "minor": 67, "access": "rw" });
    fs::write(&path, json!({ "devices": [rule] }).to_string()).unwrap();
    house.ok(&["update", "--resources", path.to_str().unwrap(), "c"]);
    let expected = [false, false, true, false];
    assert_eq!(look(), expected);
    systemctl(&["daemon-reload"]);
    assert_eq!(look(), expected);
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn annotations_are_properties() {
    let mut house = systemd_house!("annotations");
    house.set(
        "/annotations",
        json!({ "org.systemd.property.TimeoutStopUSec": "uint64 7000000", "org.systemd.property.CollectMode": "'inactive-or-failed'" }),
    );
    house.sleeping();
    assert_eq!(property(&house, "TimeoutStopUSec"), "7s");
    assert_eq!(property(&house, "CollectMode"), "inactive-or-failed");
    house.ok(&["delete", "--force", "c"]);
    house.set("/annotations", json!({ "org.systemd.property.NoSuchThing": "true" }));
    let said = house.call(&["run", "c"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("systemd refused: "), "{said:?}");
    assert!(said.err.contains("NoSuchThing"), "{said:?}");
    house.set("/annotations", json!({ "org.systemd.property.Broken": "[" }));
    let said = house.call(&["run", "c"]);
    assert!(said.err.contains("annotations[org.systemd.property.Broken]: "), "{said:?}");
}

#[test]
fn a_scope_that_systemd_stops_is_a_stopped_container() {
    let mut house = systemd_house!("stopped");
    house.sleeping();
    systemctl(&["kill", "--signal=KILL", house.cgroup.rsplit('/').next().unwrap()]);
    wait_until("the container has stopped", || house.status() == "stopped");
    house.ok(&["delete", "c"]);
    assert_eq!(property(&house, "LoadState"), "not-found");
}

#[test]
fn one_that_ends_takes_its_scope_along() {
    let mut house = systemd_house!("ends");
    house.script("exit 3");
    for _ in 0..3 {
        assert_eq!(house.run().code, 3);
        assert_eq!(property(&house, "LoadState"), "not-found");
    }
    // Killed for want of memory: the unit fails, and its name is free again nevertheless.
    house.set("/linux/resources/memory", json!({ "limit": 16 << 20, "swap": 16 << 20 }));
    house.push("/mounts", json!({ "destination": "/run", "type": "tmpfs", "source": "run", "options": ["size=64m"] }));
    house.script("dd if=/dev/zero of=/run/big bs=1M count=32 2>/dev/null");
    for _ in 0..2 {
        assert_ne!(house.run().code, 0);
        assert_eq!(property(&house, "LoadState"), "not-found");
    }
}

#[test]
fn a_name_that_another_slice_has_is_refused_and_left_alone() {
    let mut house = systemd_house!("taken");
    house.sleeping();
    let name = house.config["linux"]["cgroupsPath"].as_str().unwrap().replace("gantry-test", "gantry-other");
    house.set("/linux/cgroupsPath", json!(name));
    let said = house.call(&["create", "d"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("start the unit rt-"), "{said:?}");
    assert!(said.err.contains("systemd refused: "), "{said:?}");
    assert_eq!(property(&house, "ActiveState"), "active", "the refused one did no harm");
    assert_eq!(house.status(), "running");
    house.ok(&["delete", "--force", "c"]);
}

/// A systemd of the user 1000, in a unit of its own, without a login.
struct UserSystemd {
    unit: String,
    dir: PathBuf,
}

impl UserSystemd {
    const UID: u32 = 1000;

    fn start() -> UserSystemd {
        let unit = format!("gantry-test-user-{}.service", std::process::id());
        let dir = PathBuf::from(format!("/run/gantry-test-user-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        std::os::unix::fs::chown(&dir, Some(Self::UID), Some(Self::UID)).unwrap();
        let started = Command::new("systemd-run")
            .args(["--quiet", "--uid=1000", "--gid=1000", "--property=Delegate=yes", "--unit", &unit])
            .arg(format!("--setenv=XDG_RUNTIME_DIR={}", dir.display()))
            .args(["/lib/systemd/systemd", "--user"])
            .status();
        assert!(started.unwrap().success());
        let user = UserSystemd { unit, dir };
        wait_until("the user's systemd listens", || user.dir.join("systemd/private").exists());
        user
    }
}

impl Drop for UserSystemd {
    fn drop(&mut self) {
        let _ = Command::new("systemctl").args(["stop", &self.unit]).status();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn a_user_without_privileges_has_scopes_of_their_own() {
    let mut house = systemd_house!("user");
    if !pure_v2() || !Path::new("/lib/systemd/systemd").exists() {
        eprintln!("SKIPPED a_user_without_privileges_has_scopes_of_their_own: needs cgroup v2 alone, and systemd");
        return;
    }
    let user = UserSystemd::start();
    fs::create_dir(house.dir.join("state")).unwrap();
    let owned = Command::new("chown").args(["-R", "1000:1000"]).arg(&house.dir).status().unwrap();
    assert!(owned.success());
    let manager = systemctl(&["show", "--value", "--property", "ControlGroup", &user.unit]);
    house.cgroup = format!("{}/gantry.slice/rt-user.scope", manager.trim_end());
    let map = json!([{ "containerID": 0, "hostID": UserSystemd::UID, "size": 1 }]);
    house.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    house.set(
        "/linux/namespaces",
        json!([{ "type": "user" }, { "type": "mount" }, { "type": "pid" }, { "type": "ipc" }, { "type": "uts" },
               { "type": "network" }, { "type": "cgroup" }]),
    );
    house.set("/linux/cgroupsPath", json!("gantry.slice:rt:user"));
    house.set("/linux/resources", json!({ "pids": { "limit": 44 }, "memory": { "limit": 64 << 20 } }));
    for mount in house.config["mounts"].as_array_mut().unwrap() {
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| option != "gid=5");
        }
    }
    house.set("/process/args", json!(["/bin/sleep", "60"]));
    house.write_config();
    let call = |args: &[&str]| {
        let mut command = house.command(args);
        command.uid(UserSystemd::UID).gid(UserSystemd::UID).env("XDG_RUNTIME_DIR", &user.dir);
        command.stdout(fs::File::create(house.dir.join("out")).unwrap());
        command.stderr(fs::File::create(house.dir.join("err")).unwrap());
        let code = command.status().unwrap().code();
        let read = |name: &str| fs::read_to_string(house.dir.join(name)).unwrap();
        assert_eq!(code, Some(0), "{args:?}: {}", read("err"));
        read("out")
    };
    call(&["run", "--detach", "c"]);
    assert_eq!(file(&house, &["pids.max"]), "44");
    assert_eq!(file(&house, &["memory.max"]), (64 << 20).to_string());
    assert_eq!(file(&house, &["cgroup.procs"]).lines().count(), 1);
    call(&["exec", "--detach", "c", "sleep", "50"]);
    assert_eq!(file(&house, &["cgroup.procs"]).lines().count(), 2, "exec is in the scope, too");
    assert_eq!(call(&["exec", "c", "cat", "/proc/self/cgroup"]), "0::/\n");
    call(&["delete", "--force", "c"]);
    assert!(house.cgroups().is_empty());
}

#[test]
fn the_path_has_to_name_a_unit() {
    let mut house = systemd_house!("names");
    for (path, sentence) in [
        ("/a/b", "expected slice:prefix:name for systemd, not \"/a/b\""),
        ("no-such:p:n", "\"no-such\" is not the name of a slice"),
        ("a.slice:p:n/x", "systemd can have no unit"),
    ] {
        house.set("/linux/cgroupsPath", json!(path));
        let said = house.call(&["run", "c"]);
        assert_eq!(said.code, 1);
        assert!(said.err.contains("linux.cgroupsPath: ") && said.err.contains(sentence), "{said:?}");
    }
}

#[test]
fn without_a_systemd_it_says_so_and_leaves_nothing() {
    if Path::new("/run/systemd/system").exists() {
        eprintln!("SKIPPED without_a_systemd_it_says_so_and_leaves_nothing: systemd runs here");
        return;
    }
    let mut house = house!("no-systemd");
    house.systemd = true;
    house.set("/linux/cgroupsPath", json!("system.slice:p:gantry-no-systemd"));
    let said = house.call(&["run", "c"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("cannot reach systemd (is it this host's init?)"), "{said:?}");
}
