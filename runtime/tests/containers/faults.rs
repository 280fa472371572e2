//! The runtime killed at every point between two of its effects, one after the other (`runtime/src/fault.rs`).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::json;

use crate::house::{House, house, said, wait_until};

/// More than any verb passes.
const MOST: u32 = 60;

impl House {
    /// Runs a verb that is killed at the point of this number. The point's name, or `None` where it passed fewer.
    fn killed_at(&self, number: u32, verb: &[&str]) -> Option<String> {
        let path = self.dir.join("fault.err");
        let mut command = self.command(verb);
        command.env("GANTRY_FAULT", number.to_string()).stdout(Stdio::null()).stderr(fs::File::create(&path).unwrap());
        let status = command.status().unwrap();
        let text = fs::read_to_string(path).unwrap();
        match status.signal() {
            Some(libc::SIGKILL) => {
                let (_, name) = text.trim().rsplit_once("killed: ").unwrap();
                Some(name.replace(&*self.dir.to_string_lossy(), ""))
            }
            _ => {
                assert!(status.success(), "{verb:?}: {status} {text}");
                None
            }
        }
    }

    /// Every process that is of this house: each has its directory in its command line.
    fn residents(&self) -> Vec<String> {
        let ours = self.dir.to_string_lossy().into_owned();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let lines = processes.filter_map(|entry| {
            let line = String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).ok()?).replace('\0', " ");
            Some(format!("{} {line}", entry.file_name().to_str()?.parse::<i32>().ok()?))
        });
        lines.filter(|line| line.contains(&ours)).collect()
    }

    /// What a kill left is listed, `delete --force` removes it, and nothing stays: process, mount, cgroup or file.
    fn is_tidied(&self, what: &str) {
        let there = self.dir.join("state/c").exists();
        let listed = said(self.command(&["list", "--quiet"]).output().unwrap());
        assert_eq!((listed.code, listed.out.as_str()), (0, if there { "c\n" } else { "" }), "{what}: {listed:?}");
        let deleted = said(self.command(&["delete", "--force", "c"]).output().unwrap());
        assert_eq!(deleted.code, 0, "{what}: {deleted:?}");
        assert!(!self.dir.join("state/c").exists(), "{what}");
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new(), "{what}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&*self.dir.to_string_lossy()), "{what}");
        // One that was never written down leaves by itself, as soon as it finds its parent gone.
        wait_until(&format!("{what}: its processes are gone: {:?}", self.residents()), || self.residents().is_empty());
    }

    /// Kills the verb at every point that it passes; returns their names.
    fn killed_everywhere(&mut self, verb: &[&str], mut before: impl FnMut(&mut House)) -> BTreeSet<String> {
        let mut points = BTreeSet::new();
        for number in 1..MOST {
            before(self);
            let killed = self.killed_at(number, verb);
            self.is_tidied(&format!("{} killed at {number}, {killed:?}", verb[0]));
            let Some(name) = killed else {
                println!("{}: {} points", verb[0], number - 1);
                return points;
            };
            points.insert(name);
        }
        panic!("{verb:?} passes more than {MOST} points");
    }
}

fn faulty(name: &str) -> Option<House> {
    if !cfg!(debug_assertions) {
        eprintln!("SKIPPED {name}: the runtime is a release, and cannot be killed at a point");
        return None;
    }
    let mut house = House::new(name)?;
    let dir = house.dir.to_string_lossy().into_owned();
    // Its directory is in its command line, by which it is found.
    house.set("/process/args", json!(["/bin/sh", "-c", "while :; do sleep 1; done", dir]));
    house.set("/linux/resources", json!({ "pids": { "limit": 50 } }));
    house.set(
        "/linux/seccomp",
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        { "names": ["mount"], "action": "SCMP_ACT_ERRNO" }] }),
    );
    let hook = json!([{ "path": "/bin/true" }]);
    house.set("/hooks", json!({ "createRuntime": hook, "poststart": hook, "poststop": hook }));
    house.write_config();
    fs::create_dir(house.dir.join("state")).unwrap();
    Some(house)
}

fn includes(points: &BTreeSet<String>, wanted: &[&str]) {
    for name in wanted {
        assert!(points.contains(*name), "{name} is not among {points:#?}");
    }
}

#[test]
fn create_and_run_may_be_killed_at_every_point() {
    let Some(mut house) = faulty("fault-create") else { return };
    let records = |points: &BTreeSet<String>| {
        includes(points, &["directory made", "written beside /state/c/state.json", "in place /state/c/state.json"]);
        includes(points, &["cgroups begun", "cgroups made", "cloned", "heard Some(Hooks)", "said Hooked"]);
        includes(points, &["written beside /state/c/init", "in place /state/c/init", "said Recorded"]);
        includes(points, &["in place /state/c/seccomp.bpf"]);
    };
    let points = house.killed_everywhere(&["create", "--pid-file", "pid", "c"], |_| {});
    records(&points);
    includes(&points, &["fifo made", "heard Some(Ready)", "in place pid", "fifo renamed"]);
    let points = house.killed_everywhere(&["run", "--detach", "c"], |_| {});
    records(&points);
    includes(&points, &["heard None"]);
}

#[test]
fn create_with_a_user_namespace_may_be_killed_at_every_point() {
    let Some(mut house) = faulty("fault-user") else { return };
    house.push("/linux/namespaces", json!({ "type": "user" }));
    for maps in ["/linux/uidMappings", "/linux/gidMappings"] {
        house.set(maps, json!([{ "containerID": 0, "hostID": 0, "size": 1000 }]));
    }
    house.write_config();
    let points = house.killed_everywhere(&["create", "c"], |_| {});
    includes(&points, &["cloned", "said Mapped", "said Recorded", "fifo renamed"]);
}

#[test]
fn every_other_verb_may_be_killed_at_every_point() {
    let Some(mut house) = faulty("fault-verbs") else { return };
    let created = |house: &mut House| assert_eq!(house.create().code, 0);
    let running = |house: &mut House| {
        assert_eq!(house.create().code, 0);
        house.ok(&["start", "c"]);
    };
    let points = house.killed_everywhere(&["start", "c"], created);
    includes(&points, &["fifo opened", "fifo written", "fifo removed"]);
    let dir = house.dir.to_string_lossy().into_owned();
    let exec = ["exec", "--detach", "c", "/bin/sh", "-c", "while :; do sleep 1; done", &dir];
    includes(&house.killed_everywhere(&exec, running), &["cloned", "said Recorded", "heard None"]);
    includes(&house.killed_everywhere(&["pause", "c"], running), &["frozen or thawed"]);
    let points = house.killed_everywhere(&["update", "--pids-limit", "40", "c"], running);
    includes(&points, &["written beside /state/c/state.json"]);
    let points = house.killed_everywhere(&["delete", "--force", "c"], running);
    includes(
        &points,
        &["first process ended", "everything killed", "cgroups removed", "poststop hooks run", "deleted"],
    );
}

/// The points of a container's end come again when `delete` is called again: it goes on where the one before stopped.
#[test]
fn a_delete_that_was_killed_may_be_killed_again() {
    let mut house = house!("fault-again");
    let Some(_) = cfg!(debug_assertions).then_some(()) else {
        eprintln!("SKIPPED fault-again: the runtime is a release, and cannot be killed at a point");
        return;
    };
    house.sleeping();
    let mut ends = BTreeSet::new();
    for number in [1, 2, 3, 1, 2, 3, 4] {
        ends.insert(house.killed_at(number, &["delete", "--force", "c"]));
    }
    assert!(ends.len() >= 4, "{ends:?}");
    house.is_tidied("deleted again and again");
}
