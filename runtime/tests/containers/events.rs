//! `events`: statistics in runc's shape, and a stream that ends with the container.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::house::{House, house, wait_until};

fn stats(house: &House) -> Value {
    let text = house.ok(&["events", "--stats", "c"]);
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn statistics_count_what_was_used() {
    let mut house = house!("stats");
    house.set("/linux/resources/memory", json!({ "limit": 64 << 20 }));
    house.set("/linux/resources/pids", json!({ "limit": 40 }));
    house.sleeping();
    let before = stats(&house);
    assert_eq!((&before["type"], &before["id"]), (&json!("stats"), &json!("c")));
    assert_eq!(before["data"]["memory"]["usage"]["limit"], json!(64 << 20));
    assert_eq!(before["data"]["pids"], json!({ "current": 1, "limit": 40 }));
    house.call(&["exec", "c", "busybox", "timeout", "1", "sh", "-c", "while :; do :; done"]);
    let after = stats(&house);
    let used = |stats: &Value| stats["data"]["cpu"]["usage"]["total"].as_u64().unwrap();
    assert!(used(&after) > used(&before) + 100_000_000, "{before} {after}");
    assert!(after["data"]["memory"]["raw"].as_object().unwrap().len() > 10);
    house.ok(&["pause", "c"]);
    stats(&house);
    house.ok(&["resume", "c"]);
    house.ok(&["kill", "c", "KILL"]);
    wait_until("it has stopped", || house.status() == "stopped");
    let said = house.call(&["events", "--stats", "c"]);
    assert!(said.code == 1 && said.err.contains("a stopped container"), "{said:?}");
    house.ok(&["delete", "c"]);
}

/// Every key with its way from the top; the names of counters and of page sizes are the kernel's.
fn keys(value: &Value, at: &str, all: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) if !at.ends_with("/raw") && !at.ends_with("/hugetlb") => {
            map.iter().for_each(|(key, value)| keys(value, &format!("{at}/{key}"), all));
        }
        _ => drop(all.insert(at.to_owned())),
    }
}

#[test]
fn the_keys_are_those_of_runc() {
    let mut house = house!("stats-keys");
    if Command::new("runc").arg("--version").output().is_err() {
        eprintln!("SKIPPED the_keys_are_those_of_runc: runc is not installed");
        return;
    }
    house.set("/linux/resources/cpu", json!({ "quota": 4_000, "period": 100_000 }));
    house.sleeping();
    house.call(&["exec", "c", "busybox", "timeout", "1", "sh", "-c", "while :; do :; done"]);
    let ours = stats(&house);
    house.ok(&["delete", "--force", "c"]);
    let root = house.dir.join("runc");
    let id = format!("gantry-keys-{}", std::process::id());
    let runc = |args: &[&str]| {
        let mut command = Command::new("runc");
        command.arg("--root").arg(&root).args(args).current_dir(house.dir.join("bundle"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    };
    let made = runc(&["run", "-d", &id]).stdout(Stdio::null()).status().unwrap();
    assert!(made.success());
    let _ = runc(&["exec", &id, "busybox", "timeout", "1", "sh", "-c", "while :; do :; done"]).status();
    let theirs = runc(&["events", "--stats", &id]).output().unwrap();
    assert!(runc(&["delete", "--force", &id]).status().unwrap().success());
    let theirs: Value = serde_json::from_slice(&theirs.stdout).unwrap();
    let (mut our_keys, mut their_keys) = (BTreeSet::new(), BTreeSet::new());
    keys(&ours, "", &mut our_keys);
    keys(&theirs, "", &mut their_keys);
    // Newer than the runc that is packaged; and a container that has read from a disk has entries where another has none.
    let elsewhere = |key: &str| key == "/data/memory/cache" || key.starts_with("/data/blkio/");
    let differs = |key: &&String| !key.contains("/psi/") && !elsewhere(key);
    let missing: Vec<_> = their_keys.difference(&our_keys).filter(differs).collect();
    let more: Vec<_> = our_keys.difference(&their_keys).filter(differs).collect();
    // runc up to 1.3 writes what is all zero, the newest leaves it out.
    let zero = |key: &&String| {
        let pointer = theirs.pointer(key).cloned().unwrap_or_default();
        !(pointer == json!(0) || pointer == json!({}) || pointer.is_null())
    };
    let missing: Vec<_> = missing.into_iter().filter(zero).collect();
    assert!(missing.is_empty() && more.is_empty(), "missing {missing:?}, more {more:?}\n{ours}\n{theirs}");
}

#[test]
fn a_stream_tells_of_memory_that_ran_out_and_ends_with_the_container() {
    let mut house = house!("oom-events");
    house.set("/linux/resources/memory", json!({ "limit": 16 << 20, "swap": 16 << 20 }));
    house.push("/mounts", json!({ "destination": "/run", "type": "tmpfs", "source": "run", "options": ["size=64m"] }));
    house.sleeping();
    let mut stream = house.command(&["events", "--interval", "50ms", "c"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(stream.stdout.take().unwrap()).lines();
    let mut next = || -> Option<Value> { lines.next().map(|line| serde_json::from_str(&line.unwrap()).unwrap()) };
    assert_eq!(next().unwrap()["type"], json!("stats"));
    let said = house.call(&["exec", "c", "dd", "if=/dev/zero", "of=/run/big", "bs=1M", "count=32"]);
    assert_ne!(said.code, 0, "{said:?}");
    let told = (0..200).map_while(|_| next()).find(|event| event["type"] == "oom");
    assert_eq!(told, Some(json!({ "type": "oom", "id": "c" })));
    house.ok(&["kill", "c", "KILL"]);
    while next().is_some() {}
    assert!(stream.wait().unwrap().success());
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn a_stream_ends_with_its_reader() {
    let mut house = house!("events-reader");
    house.sleeping();
    let mut stream = house.command(&["events", "--interval", "10ms", "c"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(stream.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with(r#"{"type":"stats","id":"c","data":{"cpu":{"#), "{line}");
    assert!(stream.wait().unwrap().success());
    assert_eq!(house.status(), "running");
    house.ok(&["delete", "--force", "c"]);
}
