//! The rare corners of `process` and `linux`: network devices, memory policy, CPUs, personality, scheduling, keyrings,
//! labels, classes of cache.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::house::{House, Said, house, said};

/// Runs the house's container from a network namespace of the test, in which `prepare` has been done.
fn run_beside_devices(house: &House, prepare: &str) -> Said {
    house.write_config();
    let line = format!(
        "set -e; {prepare}; exec {} --root {} run c",
        env!("CARGO_BIN_EXE_gantry-runtime"),
        house.dir.join("state").display()
    );
    let mut command = Command::new("unshare");
    said(command.args(["--net", "sh", "-c", &line]).current_dir(house.dir.join("bundle")).output().unwrap())
}

#[test]
fn network_devices_move_in_with_their_names_and_addresses() {
    if ["/sbin/ip", "/usr/sbin/ip", "/bin/ip"].iter().all(|path| !Path::new(path).exists()) {
        eprintln!(
            "SKIPPED network_devices_move_in_with_their_names_and_addresses: needs ip (apt-get install iproute2)"
        );
        return;
    }
    let mut house = house!("net-devices");
    let pair = "ip link add gw0 type veth peer name gw1; ip addr add 10.9.8.7/24 dev gw0; \
                ip addr add 169.254.3.3/16 scope link dev gw0; ip addr add fd00:9::7/64 nodad dev gw0; \
                ip link set gw0 up; ip link set gw1 up";
    house.script("busybox ip -o addr | busybox awk '{print $2, $3, $4}' | grep -v fe80; busybox ip link");
    house.set("/linux/netDevices", json!({ "gw0": { "name": "eth0" }, "gw1": {} }));
    let ran = run_beside_devices(&house, pair);
    assert_eq!(ran.code, 0, "{ran:?}");
    for line in ["eth0 inet 10.9.8.7/24\n", "eth0 inet6 fd00:9::7/64\n", "lo inet 127.0.0.1/8\n"] {
        assert!(ran.out.contains(line), "{line}: {ran:?}");
    }
    assert!(!ran.out.contains("169.254.3.3"), "an address of the link alone stays behind: {ran:?}");
    assert!(ran.out.contains("gw1") && !ran.out.contains("gw0"), "{ran:?}");
    let eth0 = ran.out.lines().find(|line| line.contains(": eth0")).unwrap();
    assert!(eth0.contains("UP"), "{eth0}");

    house.set("/linux/netDevices", json!({ "absent0": {} }));
    let refused = run_beside_devices(&house, "true");
    let what = "linux.netDevices[\"absent0\"]: the runtime's network namespace has no such device";
    assert!(refused.code != 0 && refused.err.contains(what), "{refused:?}");
    house.set("/linux/netDevices", json!({ "gw0": { "name": "lo" } }));
    let refused = run_beside_devices(&house, pair);
    let what = "linux.netDevices[\"gw0\"]: move it into the container as lo: File exists (EEXIST)";
    assert!(refused.code != 0 && refused.err.contains(what), "{refused:?}");
}

#[test]
fn the_loopback_device_of_a_new_namespace_is_up() {
    let mut house = house!("loopback");
    house.script("busybox ip link show lo");
    assert!(house.prints().contains("LOOPBACK,UP,LOWER_UP"));
}

#[test]
fn memory_policy_and_personality_are_the_containers_and_each_execs() {
    let mut house = house!("lasting");
    house.set("/linux/personality", json!({ "domain": "LINUX32" }));
    let numa = Path::new("/proc/self/numa_maps").exists();
    if numa {
        house
            .set("/linux/memoryPolicy", json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"] }));
    } else {
        eprintln!("SKIPPED in part memory_policy_and_personality: the kernel has no NUMA");
    }
    house.sleeping();
    let pid = house.pid();
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/personality")).unwrap().trim(), "00000008");
    if numa {
        let maps = fs::read_to_string(format!("/proc/{pid}/numa_maps")).unwrap();
        assert!(maps.lines().any(|line| line.contains("bind=static:0") || line.contains("bind:0")), "{maps}");
        let maps = house.ok(&["exec", "c", "cat", "/proc/self/numa_maps"]);
        assert!(maps.contains("bind"), "{maps}");
    }
    assert_eq!(house.ok(&["exec", "c", "cat", "/proc/self/personality"]).trim(), "00000008");
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn an_exec_runs_on_the_cpus_that_it_is_told_and_nothing_inherits_ours() {
    let mut house = house!("cpus");
    let line = |text: &str| text.lines().find(|line| line.starts_with("Cpus_allowed_list:")).unwrap().to_owned();
    let all = line(&fs::read_to_string("/proc/1/status").unwrap());
    if !all.contains("0-") {
        eprintln!("SKIPPED an_exec_runs_on_the_cpus_that_it_is_told: needs two CPUs, the first of them");
        return;
    }
    house.set("/process/execCPUAffinity", json!({ "initial": "", "final": "0" }));
    house.set("/process/args", json!(["/bin/sleep", "60"]));
    house.write_config();
    let mut pinned = Command::new("taskset");
    pinned.args(["1", env!("CARGO_BIN_EXE_gantry-runtime"), "--root"]).arg(house.dir.join("state"));
    pinned.args(["run", "--detach", "c"]).current_dir(house.dir.join("bundle"));
    let done = pinned.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).status().unwrap();
    assert!(done.success());
    assert_eq!(line(&fs::read_to_string(format!("/proc/{}/status", house.pid())).unwrap()), all);
    assert_eq!(line(&house.ok(&["exec", "c", "cat", "/proc/self/status"])), "Cpus_allowed_list:\t0");
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn scheduling_as_the_specification_spells_it() {
    let mut house = house!("scheduler");
    house.set(
        "/process/scheduler",
        json!({ "policy": "SCHED_BATCH", "nice": 5, "flags": ["SCHED_FLAG_RESET_ON_FORK"] }),
    );
    house.set("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 0 }));
    house.sleeping();
    let stat = fs::read_to_string(format!("/proc/{}/stat", house.pid())).unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    // proc_pid_stat(5): nice is field 19, policy field 41; the first of these is field 3.
    assert_eq!((fields[16], fields[38]), ("5", "3"), "{stat}");
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn capabilities_that_nobody_knows_are_left_out_with_a_warning() {
    let mut house = house!("cap-unknown");
    house.push("/process/capabilities/bounding", json!("CAP_TIME_TRAVEL"));
    house.push("/process/capabilities/effective", json!("CAP_TIME_TRAVEL"));
    house.script("grep CapEff /proc/self/status");
    let said = house.run();
    assert_eq!(said.out, "CapEff:\t0000000020000420\n", "{said:?}");
    let sentence = "ignoring unknown or unavailable capabilities: [CAP_TIME_TRAVEL]";
    assert_eq!(said.err.matches(sentence).count(), 1, "{said:?}");
}

#[test]
fn an_exec_joins_the_session_keyring_of_its_container() {
    let mut house = house!("keyring");
    if !Path::new("/proc/keys").exists() {
        eprintln!("SKIPPED an_exec_joins_the_session_keyring: the kernel has no keyrings");
        return;
    }
    house.set("/linux/maskedPaths", json!([]));
    house.sleeping();
    let keys = house.ok(&["exec", "c", "cat", "/proc/keys"]);
    let session: Vec<&str> = keys.lines().filter(|line| line.contains("_ses.c")).collect();
    assert_eq!(session.len(), 1, "one, of the container and its exec: {keys}");
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn labels_that_the_kernel_cannot_give_are_refused_with_their_path() {
    let mut house = house!("labels");
    if Path::new("/sys/module/apparmor").exists() || Path::new("/sys/fs/selinux").exists() {
        eprintln!("SKIPPED labels_that_the_kernel_cannot_give: this kernel has security modules");
        return;
    }
    house.script("echo fine");
    for (pointer, value, says) in [
        ("/process/apparmorProfile", "web", "process.apparmorProfile: \"web\" cannot be had"),
        ("/process/selinuxLabel", "a:b:c", "process.selinuxLabel: \"a:b:c\" cannot be had"),
        ("/linux/mountLabel", "a:b:c", "linux.mountLabel: \"a:b:c\" cannot be had"),
    ] {
        house.set(pointer, json!(value));
        let refused = house.run();
        assert!(refused.code != 0 && refused.err.contains(says), "{refused:?}");
        house.set(pointer, json!(""));
        assert_eq!(house.prints(), "fine\n");
    }
    house.set("/process/apparmorProfile", json!("unconfined"));
    assert_eq!(house.prints(), "fine\n");
}

#[test]
fn classes_of_cache_need_resctrl() {
    let mut house = house!("rdt");
    if Path::new("/sys/fs/resctrl/schemata").exists() {
        eprintln!("SKIPPED classes_of_cache_need_resctrl: this machine has it");
        return;
    }
    house.set("/linux/intelRdt", json!({ "closID": "gold" }));
    let refused = house.run();
    assert!(refused.code != 0 && refused.err.contains("linux.intelRdt: resctrl is not mounted"), "{refused:?}");
}
