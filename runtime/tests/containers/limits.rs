//! Limits that are really in force.

use std::fs;

use serde_json::json;

use crate::house::house;

#[test]
fn memory_is_limited() {
    let mut house = house!("memory");
    house.set("/linux/resources/memory", json!({ "limit": 16 << 20, "swap": 16 << 20 }));
    house.push("/mounts", json!({ "destination": "/run", "type": "tmpfs", "source": "run", "options": ["size=64m"] }));
    house.script("dd if=/dev/zero of=/run/big bs=1M count=32 2>/dev/null && echo survived");
    let said = house.run();
    assert!(said.code != 0 && said.out.is_empty(), "{said:?}");
    house.script("dd if=/dev/zero of=/run/big bs=1M count=4 2>/dev/null && echo survived");
    assert_eq!(house.prints(), "survived\n");
}

#[test]
fn processes_are_limited() {
    let mut house = house!("pids");
    house.set("/linux/resources/pids", json!({ "limit": 5 }));
    house.script("for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait");
    let said = house.run();
    assert!(said.err.contains("can't fork") || said.err.contains("Resource temporarily unavailable"), "{said:?}");
}

#[test]
fn cpu_time_is_limited() {
    let mut house = house!("cpu");
    house.set("/linux/resources/cpu", json!({ "quota": 2_000, "period": 100_000 }));
    house.sleeping();
    let stat = house.cgroups().into_iter().find_map(|dir| {
        let name = if dir.join("cpu.cfs_quota_us").exists() { "cpu.cfs_quota_us" } else { "cpu.max" };
        fs::read_to_string(dir.join(name)).ok()
    });
    assert!(stat.as_deref().is_some_and(|text| text.starts_with("2000")), "{stat:?}");
    let before = throttled(&house);
    let said = house.call(&["exec", "c", "busybox", "timeout", "1", "sh", "-c", "while :; do :; done"]);
    assert!(throttled(&house) > before, "a busy loop is held back: {said:?}");
    house.ok(&["delete", "--force", "c"]);
}

fn throttled(house: &crate::house::House) -> u64 {
    let text = house
        .cgroups()
        .into_iter()
        .find_map(|dir| fs::read_to_string(dir.join("cpu.stat")).ok().filter(|text| text.contains("nr_throttled")));
    let text = text.unwrap();
    let line = text.lines().find(|line| line.starts_with("nr_throttled")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_cgroup_that_is_in_use_is_refused() {
    let mut house = house!("used");
    house.sleeping();
    let said = house.call(&["create", "d"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("has processes in it already"), "{said:?}");
    assert_eq!(house.status(), "running", "the refused one did no harm");
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn a_relative_path_is_below_the_runtimes_own_cgroup() {
    let mut house = house!("relative");
    if house.systemd {
        eprintln!("SKIPPED a_relative_path_is_below_the_runtimes_own_cgroup: systemd's driver takes no paths");
        return;
    }
    let name = house.cgroup.trim_start_matches('/').to_owned();
    house.set("/linux/cgroupsPath", json!(name));
    house.sleeping();
    let lines = |pid: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let mut lines: Vec<(String, String)> = text
            .lines()
            .map(|line| line.rsplit_once(':').map(|(tree, path)| (tree.to_owned(), path.to_owned())).unwrap())
            .collect();
        lines.sort();
        lines
    };
    let (own, its) = (lines("self"), lines(&house.pid().to_string()));
    let pure = own.len() == 1;
    for ((tree, own), (same, its)) in own.iter().zip(&its) {
        assert_eq!(tree, same);
        let above = if pure { std::path::Path::new(own).parent().unwrap_or("/".as_ref()) } else { own.as_ref() };
        assert_eq!(std::path::Path::new(its), above.join(&name), "{tree}");
    }
    house.ok(&["exec", "c", "true"]);
    house.ok(&["delete", "--force", "c"]);
    for (tree, its) in its {
        let controllers = tree.split_once(':').unwrap().1.trim_start_matches("name=").to_owned();
        let tree = if pure {
            String::new()
        } else if controllers.is_empty() {
            "unified".to_owned()
        } else {
            controllers
        };
        let dir = std::path::Path::new("/sys/fs/cgroup").join(tree).join(its.trim_start_matches('/'));
        assert!(!dir.exists(), "{}", dir.display());
    }
}

#[test]
fn who_forks_all_the_time_is_paused_resumed_and_killed() {
    let mut house = house!("forks");
    house.set("/linux/resources/pids", json!({ "limit": 50 }));
    house.set("/process/args", json!(["/bin/sh", "-c", "while :; do sleep 0.001 & sleep 0.001 & wait; done"]));
    assert_eq!(house.create().code, 0);
    house.ok(&["start", "c"]);
    for _ in 0..3 {
        house.ok(&["pause", "c"]);
        assert_eq!(house.status(), "paused");
        let before = house.ok(&["ps", "--format", "json", "c"]);
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(house.ok(&["ps", "--format", "json", "c"]), before);
        house.ok(&["resume", "c"]);
        assert_eq!(house.status(), "running");
    }
    house.ok(&["kill", "--all", "c", "KILL"]);
    crate::house::wait_until("all are gone", || house.status() == "stopped");
    house.ok(&["delete", "c"]);
}

#[test]
fn a_paused_container_can_be_killed() {
    let mut house = house!("paused-kill");
    house.sleeping();
    house.ok(&["pause", "c"]);
    house.ok(&["kill", "c", "KILL"]);
    crate::house::wait_until("it has stopped", || house.status() == "stopped");
    house.ok(&["delete", "c"]);
}

#[test]
fn what_the_container_nests_goes_with_it() {
    let mut house = house!("nested");
    let mount = json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime"] });
    let mounts = house.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
    mounts.push(mount);
    house.script(
        "cd /sys/fs/cgroup; [ -d pids ] && cd pids; busybox mkdir -p a/b && sleep 60 & \
         cd /sys/fs/cgroup; [ -d pids ] && cd pids; while [ ! -d a/b ]; do :; done; echo $! > a/b/cgroup.procs && wait",
    );
    assert_eq!(house.create().code, 0);
    house.ok(&["start", "c"]);
    let inner = || house.cgroups().into_iter().map(|dir| dir.join("a/b/cgroup.procs"));
    let inside = || inner().any(|file| fs::read_to_string(file).is_ok_and(|text| !text.is_empty()));
    crate::house::wait_until("it has a process in a cgroup of its own", inside);
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn root_of_a_user_namespace_manages_cgroups_of_its_own_on_v2() {
    if !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        eprintln!("SKIPPED root_of_a_user_namespace_manages_cgroups_of_its_own_on_v2: needs pure cgroup v2");
        return;
    }
    let mut house = house!("owner");
    let maps = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    house.push("/linux/namespaces", json!({ "type": "user" }));
    house.set("/linux/uidMappings", maps.clone()).set("/linux/gidMappings", maps);
    let mounts = house.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
    mounts.push(json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"] }));
    house.script(
        "cd /sys/fs/cgroup; busybox mkdir own && echo 0 > own/cgroup.procs && echo moved; \
         (echo max > pids.max) 2>/dev/null || echo kept",
    );
    assert_eq!(house.prints(), "moved\nkept\n");
}
