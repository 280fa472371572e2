//! A runtime without privileges: an ordinary user's, and root of a user namespace that somebody else made.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::house::{House, Said, house, said, wait_until};

/// Nobody's id, so that nothing on the machine belongs to it.
const USER: u32 = 42_421;

/// A house whose bundle belongs to an ordinary user, with the config that `spec --rootless` writes.
struct Rootless {
    house: House,
    binary: PathBuf,
}

impl Rootless {
    fn new(name: &str) -> Option<Rootless> {
        let house = House::new(name)?;
        let binary = house.dir.join("runtime");
        // By a process of its own: a descriptor that writes to it must not be inherited by what another test starts.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_gantry-runtime")).arg(&binary).status().unwrap();
        assert!(copied.success());
        fs::create_dir(house.dir.join("run")).unwrap();
        give(&house.dir);
        let mut rootless = Rootless { house, binary };
        let said = rootless.call(&["spec", "--rootless"]);
        assert_eq!(said.code, 0, "{said:?}");
        let text = fs::read_to_string(rootless.house.dir.join("bundle/config.json")).unwrap();
        rootless.house.config = serde_json::from_str(&text).unwrap();
        rootless.house.set("/process/terminal", json!(false));
        Some(rootless)
    }

    /// A program as the user, in the bundle.
    fn user(&self, program: &Path, args: &[&str]) -> Command {
        use std::os::unix::process::CommandExt as _;

        let mut command = Command::new(program);
        command.args(args).uid(USER).gid(USER);
        command.current_dir(self.house.dir.join("bundle")).stdin(Stdio::null());
        command.env("XDG_RUNTIME_DIR", self.house.dir.join("run")).env_remove("LISTEN_FDS");
        command
    }

    fn call(&self, args: &[&str]) -> Said {
        said(self.user(&self.binary, args).output().unwrap())
    }

    fn run(&self) -> Said {
        self.house.write_config();
        self.call(&["run", "c"])
    }

    fn ok(&self, args: &[&str]) -> String {
        let said = self.call(args);
        assert_eq!(said.code, 0, "{args:?}: {said:?}");
        said.out
    }

    /// A container that sleeps.
    fn sleeping(&mut self) {
        self.house.set("/process/args", json!(["/bin/sleep", "60"]));
        self.house.write_config();
        let errors = self.house.dir.join("errors");
        let mut create = self.user(&self.binary, &["create", "c"]);
        let status = create.stdout(Stdio::null()).stderr(fs::File::create(&errors).unwrap()).status().unwrap();
        assert!(status.success(), "{}", fs::read_to_string(&errors).unwrap());
        self.ok(&["start", "c"]);
    }
}

impl Drop for Rootless {
    fn drop(&mut self) {
        let left = self.call(&["list", "-q"]).out;
        let _ = self.call(&["delete", "--force", "c"]);
        assert!(std::thread::panicking() || left.is_empty(), "left behind: {left}");
    }
}

fn give(path: &Path) {
    chown(path, Some(USER), Some(USER)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::read_dir(path).unwrap().for_each(|entry| {
            let path = entry.unwrap().path();
            if !path.is_symlink() {
                give(&path);
            }
        });
    }
}

macro_rules! rootless {
    ($name:expr) => {
        match Rootless::new($name) {
            Some(rootless) => rootless,
            None => return,
        }
    };
}

#[test]
fn an_ordinary_user_has_every_verb() {
    let mut rootless = rootless!("rootless");
    rootless.house.script("id; cat /proc/self/uid_map; echo $$; echo x > /dev/null; echo x > /file; hostname");
    let said = rootless.run();
    let words: Vec<&str> = said.out.split_whitespace().collect();
    assert_eq!(words, ["uid=0", "gid=0", "0", &USER.to_string(), "1", "1", "gantry"], "{said:?}");
    assert!(said.err.contains("can't create /file: Read-only file system"), "{said:?}");
    rootless.sleeping();
    let state = rootless.house.dir.join("run/gantry/runtime/c/state.json");
    assert!(state.exists(), "the default root is in the user's runtime directory");
    let listed: Value = serde_json::from_str(&rootless.ok(&["list", "--format", "json"])).unwrap();
    assert_eq!(listed[0]["status"], "running");
    let pid = listed[0]["pid"].as_i64().unwrap();
    let inside = "readlink /proc/self/ns/user; readlink /proc/self/ns/pid; id -u; cat /proc/1/cmdline | tr '\\0' ' '";
    let out = rootless.ok(&["exec", "c", "sh", "-c", inside]);
    let link = |kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string();
    assert_eq!(out, format!("{}\n{}\n0\n/bin/sleep 60 ", link("user"), link("pid")));
    let said = rootless.call(&["exec", "c", "sh", "-c", "exit 7"]);
    assert_eq!(said.code, 7, "{said:?}");
    let said = rootless.call(&["exec", "c", "no-such-program"]);
    assert!(said.code >= 127 && said.err.contains("executable file not found in $PATH"), "{said:?}");
    assert!(rootless.ok(&["ps", "c"]).contains(&format!(" {pid} ")));
    rootless.ok(&["kill", "--all", "c", "KILL"]);
    wait_until("stopped", || rootless.ok(&["state", "c"]).contains("\"stopped\""));
    rootless.ok(&["delete", "c"]);
    assert_eq!(rootless.ok(&["list", "-q"]), "");
}

#[test]
fn without_cgroups_goes_only_who_may() {
    let mut rootless = rootless!("rootless-flag");
    rootless.house.script("echo runs");
    rootless.house.write_config();
    assert_eq!(rootless.ok(&["--rootless=true", "run", "c"]), "runs\n");
    let said = rootless.call(&["--rootless=false", "run", "c"]);
    assert!(said.code == 1 && said.err.contains("cgroup") && said.out.is_empty(), "{said:?}");
    // A place that was asked for is not left out.
    rootless.house.set("/linux/cgroupsPath", json!("/gantry-not-yours"));
    rootless.house.write_config();
    let said = rootless.call(&["--rootless=true", "run", "c"]);
    assert!(said.code == 1 && said.err.contains("gantry-not-yours"), "{said:?}");
}

#[test]
fn case_07_cgroups_are_read_only_without_a_cgroup_namespace() {
    let mut rootless = rootless!("case-07");
    let spaces = rootless.house.config["linux"]["namespaces"].as_array().unwrap().clone();
    let spaces: Vec<Value> = spaces.into_iter().filter(|space| space["type"] != "cgroup").collect();
    rootless.house.set("/linux/namespaces", json!(spaces));
    for own_mount in [true, false] {
        let mounts = rootless.house.config["mounts"].as_array_mut().unwrap();
        for mount in mounts.iter_mut().filter(|mount| mount["type"] == "cgroup") {
            mount["options"] = json!([]);
        }
        if !own_mount {
            mounts.retain(|mount| mount["type"] != "cgroup");
        }
        rootless.house.script(
            "for d in /sys/fs/cgroup $(grep -o ' /sys/fs/cgroup/[^ ]* ' /proc/mounts | sort -u); do \
             echo > $d/x && echo written; busybox mkdir $d/y && echo made; done 2>&1; true",
        );
        let said = rootless.run();
        assert!(said.out.contains("Read-only file system"), "{said:?}");
        let changed: Vec<&str> = said.out.lines().filter(|line| matches!(*line, "written" | "made")).collect();
        assert!(changed.is_empty(), "own mount {own_mount}: {said:?}");
    }
}

#[test]
fn what_an_ordinary_user_cannot_have_is_a_sentence() {
    let mut rootless = rootless!("rootless-refused");
    let config = rootless.house.config.clone();
    let devpts = config["mounts"].as_array().unwrap().iter().position(|mount| mount["type"] == "devpts").unwrap();
    let map = json!([{ "containerID": 0, "hostID": 0, "size": 1 }]);
    for (pointer, value, sentence) in [
        (
            format!("/mounts/{devpts}/options"),
            json!(["gid=5"]),
            format!("mounts[{devpts}].options: gid=5 is not mapped into the user namespace"),
        ),
        (
            format!("/mounts/{devpts}"),
            json!({ "destination": "/x", "source": "/tmp", "options": ["bind"], "uidMappings": map, "gidMappings": map }),
            "id-mapped mounts need CAP_SYS_ADMIN outside of the container".to_owned(),
        ),
        ("/process/user".into(), json!({ "uid": 5, "gid": 0 }), "an id is not mapped into the user namespace".into()),
        ("/process/user".into(), json!({ "uid": 0, "gid": 0, "additionalGids": [5] }), "additionalGids".into()),
        ("/linux/resources".into(), json!({ "pids": { "limit": 10 } }), "limits need a cgroup".into()),
    ] {
        rootless.house.config = config.clone();
        match rootless.house.config.pointer_mut(&pointer) {
            Some(there) => *there = value,
            None => drop(rootless.house.set(&pointer, value)),
        }
        let said = rootless.run();
        assert!(said.code == 1 && said.err.contains(&sentence), "{sentence}: {said:?}");
    }
}

/// More than its own id, as newuidmap(1) allows it by `/etc/subuid`: files of the test, mounted over the host's for
/// one call.
#[test]
fn further_ids_are_mapped_by_the_programs_for_that() {
    let mut rootless = rootless!("rootless-subids");
    if Command::new("newuidmap").output().is_err() {
        eprintln!("SKIPPED further_ids_are_mapped: needs newuidmap (apt-get install uidmap)");
        return;
    }
    let dir = rootless.house.dir.clone();
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    fs::write(dir.join("passwd"), format!("{passwd}gantryt:x:{USER}:{USER}::/:/bin/sh\n")).unwrap();
    fs::write(dir.join("subid"), "gantryt:500000:65536\n").unwrap();
    let map = json!([
        { "containerID": 0, "hostID": USER, "size": 1 }, { "containerID": 1, "hostID": 500_000, "size": 65_535 }
    ]);
    rootless.house.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    rootless.house.set("/process/user", json!({ "uid": 7, "gid": 8, "additionalGids": [9] }));
    rootless
        .house
        .push("/mounts", json!({ "destination": "/t", "type": "tmpfs", "source": "t", "options": ["gid=5"] }));
    rootless.house.script("id; cat /proc/self/uid_map; stat -c %g /t");
    rootless.house.write_config();
    let words = format!("--reuid={USER} --regid={USER} --clear-groups {} run c", rootless.binary.display());
    let line = format!(
        "mount --make-rprivate / && mount --bind {0}/passwd /etc/passwd && mount --bind {0}/subid /etc/subuid && \
         mount --bind {0}/subid /etc/subgid && exec setpriv {words}",
        dir.display()
    );
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "sh", "-c", &line]).current_dir(dir.join("bundle")).env("XDG_RUNTIME_DIR", dir.join("run"));
    let said = said(unshare.output().unwrap());
    let words: Vec<&str> = said.out.split_whitespace().collect();
    let user = USER.to_string();
    assert_eq!(words, ["uid=7", "gid=8", "groups=9", "0", &user, "1", "1", "500000", "65535", "5"], "{said:?}");
    // Without an entry it is newuidmap that says no.
    let refused = rootless.run();
    assert!(refused.code == 1 && refused.err.contains("linux.gidMappings: newgidmap"), "{refused:?}");
}

/// As podman and buildah start a runtime: root of a user namespace that they made.
#[test]
fn root_of_somebodys_user_namespace_runs_containers() {
    let mut rootless = rootless!("inside-userns");
    if !rootless.user(Path::new("unshare"), &["-U", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED root_of_somebodys_user_namespace: users may not make user namespaces here");
        return;
    }
    let spaces = json!([{ "type": "mount" }, { "type": "pid" }, { "type": "uts" }, { "type": "ipc" }]);
    rootless.house.set("/linux/namespaces", spaces).set("/linux/uidMappings", json!([]));
    rootless.house.set("/linux/gidMappings", json!([])).set("/process/oomScoreAdj", json!(-500));
    let source = rootless.house.dir.join("source");
    fs::create_dir(&source).unwrap();
    give(&source);
    let words = json!(["rbind", "ro", "nosuid"]);
    rootless.house.push("/mounts", json!({ "destination": "/mnt", "source": source, "options": words }));
    rootless.house.script(
        "id -u; cat /proc/self/uid_map; grep -c ' /mnt .*ro,nosuid' /proc/mounts; echo x > /dev/null; \
         echo > /sys/fs/cgroup/x; sleep 60 & echo $$",
    );
    rootless.house.write_config();
    let binary = rootless.binary.display().to_string();
    for mounts in [&["-U", "--map-root-user", "-m"][..], &["-U", "--map-root-user", "-m", "-n"]] {
        let mut args = mounts.to_vec();
        args.extend([binary.as_str(), "run", "c"]);
        let said = said(rootless.user(Path::new("unshare"), &args).output().unwrap());
        let words: Vec<&str> = said.out.split_whitespace().collect();
        assert_eq!(words, ["0", "0", &USER.to_string(), "1", "1", "1"], "{said:?}");
        assert!(said.err.contains("set oom_score_adj -500: Permission denied"), "{said:?}");
        assert!(said.err.contains("can't create /sys/fs/cgroup/x: Read-only file system"), "{said:?}");
    }
}

#[test]
fn sysfs_of_the_host_stands_in_where_the_network_is_the_hosts() {
    let mut house = house!("sysfs");
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    house.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    let spaces = ["user", "mount", "pid", "uts", "ipc"].map(|kind| json!({ "type": kind }));
    house.set("/linux/namespaces", json!(spaces));
    for dir in [house.dir.clone(), house.dir.join("bundle"), house.rootfs()] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    house.script("ls /sys/class/net; grep ' /sys ' /proc/mounts; echo > /sys/kernel/uevent_helper");
    let said = house.run();
    assert!(said.out.contains("lo\n") && said.out.contains(" /sys sysfs ro,nosuid,nodev,noexec"), "{said:?}");
}
