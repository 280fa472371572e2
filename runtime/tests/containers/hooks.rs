//! Hooks of all six kinds: when, where, with what state, and what their failure does.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::house::{House, house};

const KINDS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A shell script that appends to `log` what it is called, the namespaces it runs in, and the state on its standard
/// input, as one line of JSON.
fn hook(shell: &str, log: &str, kind: &str, more: &str) -> Value {
    let script = format!(
        "state=$(cat); echo \"{{\\\"kind\\\":\\\"{kind}\\\",\\\"mnt\\\":\\\"$(readlink /proc/self/ns/mnt)\\\",\
         \\\"pid_ns\\\":\\\"$(readlink /proc/self/ns/pid)\\\",\\\"root\\\":\\\"$(readlink /proc/self/root)\\\",\
         \\\"env\\\":\\\"$MARK\\\",\\\"state\\\":$state}}\" >> {log}; {more}"
    );
    json!([{ "path": shell, "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin", format!("MARK={kind}")], "timeout": 20 }])
}

/// A house whose six hooks write to one file, which the container has as `/log`.
fn with_hooks(house: &mut House) -> PathBuf {
    let log = house.dir.join("log");
    fs::write(&log, "").unwrap();
    fs::write(house.rootfs().join("log"), "").unwrap();
    house.push("/mounts", json!({ "destination": "/log", "source": &log, "type": "bind", "options": ["bind"] }));
    house.set("/hooks", json!({}));
    for kind in KINDS {
        let inside = kind == "startContainer";
        let path = if inside { "/log".to_owned() } else { log.display().to_string() };
        house.set(&format!("/hooks/{kind}"), hook("/bin/sh", &path, kind, "true"));
    }
    log
}

fn lines(log: &Path) -> Vec<Value> {
    fs::read_to_string(log).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn kinds(log: &Path) -> Vec<String> {
    lines(log).iter().map(|line| line["kind"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_at_its_point_in_its_namespaces_with_its_state() {
    let mut house = house!("hooks");
    let log = with_hooks(&mut house);
    house.set("/annotations", json!({ "a": "b" }));
    house.set("/process/args", json!(["/bin/sleep", "60"]));
    assert_eq!(house.create().code, 0);
    assert_eq!(kinds(&log), KINDS[..3]);
    let pid = house.pid();
    house.ok(&["start", "c"]);
    assert_eq!(kinds(&log), KINDS[..5]);
    house.ok(&["delete", "--force", "c"]);
    let lines = lines(&log);
    assert_eq!(lines.len(), 6);

    let own = |of: &str| fs::read_link(format!("/proc/self/ns/{of}")).unwrap().display().to_string();
    // What the specification says of each: who sees the pid, the status, which namespaces.
    let expected = [
        ("prestart", json!(pid), "creating", false),
        ("createRuntime", json!(pid), "creating", false),
        ("createContainer", json!(1), "creating", true),
        ("startContainer", json!(1), "created", true),
        ("poststart", json!(pid), "running", false),
        ("poststop", Value::Null, "stopped", false),
    ];
    for (line, (kind, pid, status, inside)) in lines.iter().zip(expected) {
        let state = &line["state"];
        assert_eq!(line["kind"], kind);
        assert_eq!(line["env"], kind, "its own environment");
        assert_eq!(state["pid"], pid, "{kind}");
        assert_eq!(state["status"], status, "{kind}");
        assert_eq!(state["id"], "c");
        assert_eq!(state["annotations"], json!({ "a": "b" }));
        assert_eq!(state["bundle"], json!(house.dir.join("bundle")), "{kind}");
        assert_eq!(line["mnt"] != own("mnt").as_str(), inside, "{kind}: {line}");
        assert_eq!(line["pid_ns"] != own("pid").as_str(), inside, "{kind}: {line}");
    }
}

#[test]
fn a_hook_that_fails_before_the_program_undoes_everything() {
    for kind in &KINDS[..4] {
        let mut house = house!(&format!("hook-fails-{kind}"));
        let log = with_hooks(&mut house);
        house.script("echo started");
        let inside = *kind == "startContainer";
        let path = if inside { "/log".to_owned() } else { log.display().to_string() };
        house.set(&format!("/hooks/{kind}"), hook("/bin/sh", &path, kind, "echo broken pipes >&2; exit 3"));
        let said = house.run();
        assert_ne!(said.code, 0, "{kind}");
        assert!(!said.out.contains("started"), "{kind}: {said:?}");
        assert!(said.err.contains(kind) && said.err.contains("broken pipes"), "{kind}: {said:?}");
        assert_eq!(kinds(&log).last().unwrap(), "poststop", "{kind}: the container was taken apart");
        assert_ne!(house.call(&["state", "c"]).code, 0, "{kind}: nothing is left");
    }
}

#[test]
fn a_poststart_hook_that_fails_stops_the_container() {
    let mut house = house!("hook-poststart");
    let log = with_hooks(&mut house);
    house.set("/process/args", json!(["/bin/sleep", "60"]));
    house.set("/hooks/poststart", hook("/bin/sh", &log.display().to_string(), "poststart", "exit 4"));
    assert_eq!(house.create().code, 0);
    let said = house.call(&["start", "c"]);
    assert!(said.code != 0 && said.err.contains("hooks.poststart[0] /bin/sh: exit status: 4"), "{said:?}");
    crate::house::wait_until("the container has stopped", || house.status() == "stopped");
    house.ok(&["delete", "c"]);
}

#[test]
fn poststop_hooks_that_fail_are_told_and_the_rest_goes_on() {
    let mut house = house!("hook-poststop");
    let log = house.dir.join("log");
    let fails = hook("/bin/sh", &log.display().to_string(), "first", "echo oh dear; exit 1");
    let works = hook("/bin/sh", &log.display().to_string(), "second", "true");
    house.set("/hooks", json!({ "poststop": [fails[0], works[0]] }));
    house.sleeping();
    let said = house.call(&["delete", "--force", "c"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains("hooks.poststop[0] /bin/sh: exit status: 1: oh dear"), "{said:?}");
    assert_eq!(kinds(&log), ["first", "second"]);
}

#[test]
fn a_hook_that_takes_too_long_is_killed() {
    for kind in ["createRuntime", "createContainer"] {
        let mut house = house!(&format!("hook-slow-{kind}"));
        house.set("/hooks", json!({ kind: [{ "path": "/bin/sleep", "args": ["sleep", "600"], "timeout": 1 }] }));
        let said = house.run();
        assert_ne!(said.code, 0);
        assert!(said.err.contains("not done"), "{kind}: {said:?}");
    }
}

#[test]
fn a_hook_may_say_much_and_read_nothing() {
    let mut house = house!("hook-loud");
    let loud = json!([{ "path": "/bin/sh", "args": ["sh", "-c", "exec <&-; head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2"] }]);
    house.set("/annotations", json!({ "long": "x".repeat(200_000) }));
    house.set("/hooks", json!({ "createRuntime": loud, "createContainer": loud, "poststop": loud }));
    house.script("echo fine");
    assert_eq!(house.prints(), "fine\n", "nothing of it reaches the container's output");
}

#[test]
fn a_hook_of_the_runtime_without_an_environment_has_the_runtimes() {
    let mut house = house!("hook-env");
    let seen = house.dir.join("seen");
    let script = format!("echo \"$MARK\" >> {}", seen.display());
    let none = json!({ "path": "/bin/sh", "args": ["sh", "-c", script] });
    let mut empty = none.clone();
    empty["env"] = json!([]);
    house.set("/hooks", json!({ "createRuntime": [none, empty] }));
    house.write_config();
    let done = house.command(&["run", "c"]).env("MARK", "mine").output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(fs::read_to_string(seen).unwrap(), "mine\n\n");
}
