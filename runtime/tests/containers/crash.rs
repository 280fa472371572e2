//! What is left when a runtime dies, or when what it wrote is no longer readable: visible, and deletable.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::house::{House, house, said, wait_until};

/// `list` shows it, `delete --force` removes it, and nothing stays.
fn visible_and_deletable(house: &House, what: &str) {
    let there = house.dir.join("state/c").exists();
    let listed = said(house.command(&["list", "--quiet"]).output().unwrap());
    assert_eq!((listed.code, listed.out.as_str()), (0, if there { "c\n" } else { "" }), "{what}: {listed:?}");
    let deleted = said(house.command(&["delete", "--force", "c"]).output().unwrap());
    assert_eq!(deleted.code, 0, "{what}: {deleted:?}");
    assert!(!house.dir.join("state/c").exists(), "{what}");
    assert_eq!(house.cgroups(), Vec::<PathBuf>::new(), "{what}");
    assert!(!mounted(&house.dir), "{what}");
}

fn mounted(below: &Path) -> bool {
    let below = below.to_string_lossy().into_owned();
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().any(|line| line.contains(&below))
}

fn quiet(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn damaged_records_are_named_visible_and_deletable() {
    let mut house = house!("damaged");
    let damages: [(&str, &[u8], &str); 6] = [
        ("state.json", b"", "EOF while parsing"),
        ("state.json", b"{\"format\": 1, \"id\": \"c\"", "state.json"),
        ("state.json", b"\xff\xfe\x00garbage", "state.json"),
        ("state.json", NEWER, "written by a newer version"),
        ("init", b"12", ""),
        ("init", b"1 0\n", ""),
    ];
    for (file, bytes, why) in damages {
        house.sleeping();
        fs::write(house.dir.join("state/c").join(file), bytes).unwrap();
        if !why.is_empty() {
            for verb in ["state", "pause", "delete"] {
                let said = house.call(&[verb, "c"]);
                assert!(said.code == 1 && said.err.contains(why), "{verb} after {file}: {said:?}");
                assert!(said.err.contains("delete --force removes the container"), "{verb}: {said:?}");
            }
        }
        visible_and_deletable(&house, file);
    }
    house.sleeping();
    fs::remove_file(house.dir.join("state/c/init")).unwrap();
    visible_and_deletable(&house, "no init");
    house.sleeping();
    fs::remove_file(house.dir.join("state/c/state.json")).unwrap();
    visible_and_deletable(&house, "no state.json");
}

const NEWER: &[u8] = br#"{"format": 99, "ociVersion": "1.2.0", "id": "c", "bundle": "/", "rootfs": "/", "created": "",
    "cgroup": "x", "namespaces": 0, "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}}}"#;

#[test]
fn the_number_of_another_process_is_not_the_container() {
    let mut house = house!("reuse");
    house.sleeping();
    let other = std::process::id();
    let start: u64 = fs::read_to_string(format!("/proc/{other}/stat"))
        .unwrap()
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .nth(19)
        .unwrap()
        .parse()
        .unwrap();
    let pid = house.pid();
    fs::write(house.dir.join("state/c/init"), format!("{other} {}\n", start + 1)).unwrap();
    assert_eq!(house.status(), "stopped");
    assert!(house.call(&["kill", "c", "KILL"]).err.contains("cannot kill a stopped container"));
    visible_and_deletable(&house, "reused pid");
    wait_until("its own process is gone", || gantry_runtime::state::started(pid).is_none());
}

#[test]
fn an_operation_that_holds_the_lock_is_named_and_never_waited_for_by_state_and_kill() {
    let mut house = house!("held");
    house.sleeping();
    let dir = fs::File::open(house.dir.join("state/c")).unwrap();
    dir.lock().unwrap();
    assert_eq!(house.status(), "running");
    house.ok(&["list"]);
    house.ok(&["kill", "c", "CONT"]);
    house.ok(&["exec", "c", "true"]);
    let why = house.call(&["pause", "c"]).err;
    assert!(why.contains(&format!("process {} (", std::process::id())) && why.contains("state/c"), "{why}");
    drop(dir);
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn a_lock_ends_with_its_holder() {
    let mut house = house!("holder");
    let reached = house.dir.join("reached");
    let script = format!("touch {}; exec sleep 5", reached.display());
    house.set("/hooks", json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", script] }] }));
    house.write_config();
    let mut create = quiet(&mut house.command(&["create", "c"]));
    wait_until("in the hook", || reached.exists());
    assert_eq!(house.status(), "creating");
    house.ok(&["kill", "c", "KILL"]);
    create.kill().unwrap();
    create.wait().unwrap();
    visible_and_deletable(&house, "half-made");
}

/// Kills each verb at many moments of its run: the first at once, the later ones further on, the last ones not at all.
#[test]
fn every_verb_may_be_killed_at_any_moment() {
    let mut house = house!("any-moment");
    house.set("/process/args", json!(["/bin/sleep", "60"]));
    house.set("/linux/resources", json!({ "pids": { "limit": 50 } }));
    house.write_config();
    fs::create_dir(house.dir.join("state")).unwrap();
    let verbs: [&[&str]; 7] = [
        &["create", "c"],
        &["run", "--detach", "c"],
        &["exec", "--detach", "c", "sleep", "50"],
        &["start", "c"],
        &["pause", "c"],
        &["update", "--pids-limit", "40", "c"],
        &["delete", "--force", "c"],
    ];
    for verb in verbs {
        for step in 0..8 {
            match verb[0] {
                "create" | "run" => {}
                "start" => assert_eq!(house.create().code, 0),
                _ => house.sleeping(),
            }
            let mut child = quiet(&mut house.command(verb));
            let pidfd = gantry_runtime::sys::clone::pidfd_open(child.id() as i32).unwrap();
            gantry_runtime::sys::clone::wait_readable(pidfd.as_fd(), step * step / 2).unwrap();
            let _ = child.kill();
            child.wait().unwrap();
            visible_and_deletable(&house, &format!("{} killed, {step}", verb[0]));
        }
    }
}

#[test]
fn a_program_that_embeds_the_library() {
    let mut house = house!("embed");
    let embed = Path::new(env!("CARGO_BIN_EXE_gantry-runtime")).parent().unwrap().join("examples/embed");
    if !embed.exists() {
        eprintln!("SKIPPED embed: {} is not built (cargo test builds it)", embed.display());
        return;
    }
    house.script("sleep 1; exit 5");
    house.write_config();
    let state = house.dir.join("state");
    let output = Command::new(&embed).arg(&state).arg(house.dir.join("bundle")).arg("c").output().unwrap();
    let said = said(output);
    assert_eq!(said.code, 5, "{said:?}");
    let lines: Vec<&str> = said.out.lines().collect();
    assert!(lines[0].starts_with("c is created, pid "), "{lines:?}");
    assert_eq!(lines[1..], ["exec says hello", "exec ended with 0", "c is stopped"]);
    let output = Command::new(&embed).arg(&state).arg(house.dir.join("nowhere")).arg("c").output().unwrap();
    assert!(crate::house::said(output).err.contains("nowhere/config.json: No such file or directory"));
}
