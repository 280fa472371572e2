//! Seccomp notifications: the agent gets the container's state and the listener, in create, run and exec.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::thread;

use gantry_runtime::sys::{clone, rights};
use serde_json::{Value, json};

use crate::house::{House, house};

/// What one connection to the agent brought.
struct Got {
    message: Value,
    listener: OwnedFd,
}

/// Waits for one connection, and for all that comes over it.
fn accept(agent: &UnixListener) -> Got {
    let (socket, _) = agent.accept().unwrap();
    let (mut text, mut fds) = (Vec::new(), Vec::new());
    let mut bytes = [0; 4096];
    loop {
        match rights::receive(socket.as_fd(), &mut bytes, &mut fds).unwrap() {
            0 => break,
            length => text.extend_from_slice(&bytes[..length]),
        }
    }
    assert_eq!(fds.len(), 1, "one descriptor comes along");
    Got { message: serde_json::from_slice(&text).unwrap(), listener: fds.remove(0) }
}

/// Waits until the filter has handed a call over. An agent that goes then leaves it with `ENOSYS`.
fn let_fail(got: Got) -> Value {
    assert!(clone::wait_readable(got.listener.as_fd(), 10_000).unwrap(), "a call is handed over");
    got.message
}

/// A profile that hands `calls` to an agent in the house's directory.
fn ask_about(house: &mut House, calls: &[&str]) -> UnixListener {
    let path = house.dir.join("agent");
    let agent = UnixListener::bind(&path).unwrap();
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": path,
        "listenerMetadata": "from the test",
        "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "syscalls": [{ "names": calls, "action": "SCMP_ACT_NOTIFY" }]
    });
    house.set("/linux/seccomp", profile);
    house.set("/root/readonly", json!(false));
    house.set("/annotations", json!({ "a": "b" }));
    agent
}

#[test]
fn the_agent_decides_on_calls_of_run_with_and_without_new_privileges() {
    let mut house = house!("notify-run");
    let agent = ask_about(&mut house, &["mkdir", "mkdirat"]);
    let agent = thread::spawn(move || [let_fail(accept(&agent)), let_fail(accept(&agent))]);
    house.script("busybox mkdir /tmp/x; echo later");
    for safe in [true, false] {
        house.set("/process/noNewPrivileges", json!(safe));
        let said = house.run();
        assert_eq!(said.out, "later\n", "{said:?}");
        assert!(said.err.contains("can't create directory '/tmp/x': Function not implemented"), "{said:?}");
    }
    for message in agent.join().unwrap() {
        assert_eq!(message["fds"], json!(["seccompFd"]));
        assert_eq!(message["metadata"], "from the test");
        assert_eq!(message["ociVersion"], house.config["ociVersion"]);
        assert_eq!(message["state"]["status"], "creating");
        assert_eq!(message["state"]["id"], "c");
        assert_eq!(message["state"]["annotations"], json!({ "a": "b" }));
        assert_eq!(message["pid"], message["state"]["pid"]);
        assert!(message["pid"].as_i64().unwrap() > 1);
    }
}

#[test]
fn create_hands_the_listener_over_and_so_does_each_exec() {
    let mut house = house!("notify-create");
    let agent = ask_about(&mut house, &["mkdir", "mkdirat"]);
    house.set("/process/args", json!(["/bin/sleep", "60"]));
    let creating = thread::spawn(move || {
        let got = accept(&agent);
        (agent, got)
    });
    assert_eq!(house.create().code, 0);
    let (agent, first) = creating.join().unwrap();
    assert_eq!(first.message["state"]["pid"], house.pid());
    house.ok(&["start", "c"]);
    let executing = thread::spawn(move || let_fail(accept(&agent)));
    let said = house.call(&["exec", "c", "busybox", "mkdir", "/tmp/x"]);
    assert!(said.err.contains("Function not implemented"), "{said:?}");
    let message = executing.join().unwrap();
    assert_eq!(message["state"]["status"], "running");
    assert_eq!(message["state"]["pid"], house.pid());
    assert_ne!(message["pid"], message["state"]["pid"]);
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn the_runtime_waits_for_an_agent_that_decides_on_its_own_calls() {
    let mut house = house!("notify-all");
    let calls = ["chdir", "prctl", "setgroups", "setuid", "setresuid", "capset", "execve"];
    let agent = ask_about(&mut house, &calls);
    house.set("/process/noNewPrivileges", json!(false));
    house.script("echo never");
    let asked = thread::spawn(move || let_fail(accept(&agent)));
    // The agent leaves at the first call that it is asked about, which then fails, and with it the container.
    let said = house.run();
    assert!(said.code != 0 && !said.out.contains("never"), "{said:?}");
    asked.join().unwrap();
}

#[test]
fn what_cannot_work_is_refused_with_its_path() {
    let mut house = house!("notify-wrong");
    let agent = ask_about(&mut house, &["mkdir"]);
    drop(agent);
    let refused = house.run();
    assert!(refused.err.contains("linux.seccomp.listenerPath: hand the listener to "), "{refused:?}");
    assert!(refused.err.contains("(ECONNREFUSED)"), "{refused:?}");
    house.set("/linux/seccomp/listenerPath", json!(""));
    house.set("/linux/seccomp/listenerMetadata", json!(""));
    let refused = house.run();
    assert!(refused.err.contains("linux.seccomp.listenerPath: is needed for SCMP_ACT_NOTIFY"), "{refused:?}");
    fs::remove_file(house.dir.join("agent")).unwrap();
}
