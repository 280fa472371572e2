//! `kill -9` of the whole node, in the middle of anything: acknowledged writes are there, containers still run,
//! nothing leaks (the house's drop looks for processes, mounts, cgroups and descriptors).
#![allow(clippy::unwrap_used)]

use gantry_tests::house::House;
use gantry_tests::node::{Node, pod, try_start};
use std::collections::BTreeSet;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

fn container_id(node: &Node, pod: &str) -> String {
    node.object("pod", pod)["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_running_container_does_not_notice() {
    let Some((_house, mut node)) = try_start("survive") else { return };
    node.apply(&pod("steady", "Always", "i=0; while true; do echo line $i; i=$((i+1)); sleep 0.05; done"));
    node.until_ready("steady");
    let (before, address) = (container_id(&node, "steady"), node.object("pod", "steady")["status"]["podIP"].clone());
    for _ in 0..3 {
        node.kill9();
        sleep(Duration::from_millis(300));
        node.up();
    }
    node.until_ready("steady");
    assert_eq!(container_id(&node, "steady"), before, "the container was not restarted");
    let status = node.object("pod", "steady")["status"].clone();
    assert_eq!(status["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(status["podIP"], address);
    let lines = node.kubectl(&["logs", "steady"]);
    let lines: Vec<&str> = lines.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("line {at}"), "no line is lost or doubled across the kills");
    }
    assert!(lines.len() > 20, "lines were written while no daemon ran: {}", lines.len());
    assert_eq!(node.kubectl(&["exec", "steady", "--", "echo", "alive"]), "alive\n");
}

#[test]
fn an_exit_code_of_meanwhile_is_kept() {
    let Some((house, mut node)) = try_start("code") else { return };
    let go = house.path("go");
    fs::create_dir_all(&go).unwrap();
    let manifest = pod("leaver", "Never", "while ! test -e /go/now; do sleep 0.05; done; echo gone; exit 7")
        .replace("spec:\n", &format!("spec:\n  volumes: [{{name: go, hostPath: {{path: {}}}}}]\n", go.display()))
        + "    volumeMounts: [{name: go, mountPath: /go}]\n";
    node.apply(&manifest);
    node.until_ready("leaver");
    node.kill9();
    fs::write(go.join("now"), "").unwrap();
    sleep(Duration::from_millis(500));
    node.up();
    node.until("the pod to have failed", |n| n.object("pod", "leaver")["status"]["phase"] == "Failed");
    let state = node.object("pod", "leaver")["status"]["containerStatuses"][0]["state"]["terminated"].clone();
    assert_eq!(state["exitCode"], 7, "{state}");
    assert_eq!(node.kubectl(&["logs", "leaver"]), "gone\n");
}

#[test]
fn a_kill_at_any_moment_of_a_pods_start_leaves_one_good_pod() {
    let Some((house, mut node)) = try_start("start") else { return };
    for (at, delay) in [0, 5, 15, 30, 50, 80, 120, 200].into_iter().enumerate() {
        let name = format!("pod-{at}");
        node.apply(&pod(&name, "Always", "sleep 3600"));
        sleep(Duration::from_millis(delay));
        node.kill9();
        node.up();
        node.until_ready(&name);
    }
    let addresses: BTreeSet<String> = (0..8)
        .map(|at| node.object("pod", &format!("pod-{at}"))["status"]["podIP"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(addresses.len(), 8, "every pod has an address of its own");
    assert_eq!(sandboxes(&house), 8, "no half-made sandbox is left");
}

#[test]
fn a_kill_at_any_moment_of_a_pods_end_leaves_nothing() {
    let Some((house, mut node)) = try_start("end") else { return };
    for delay in [0, 10, 40, 100, 300] {
        node.apply(&pod("mortal", "Always", "sleep 3600"));
        node.until_ready("mortal");
        node.kubectl(&["delete", "pod", "mortal", "--wait=false"]);
        sleep(Duration::from_millis(delay));
        node.kill9();
        node.up();
        node.until("the pod to be gone", |n| n.try_kubectl(&["get", "pod", "mortal"]).is_none());
        node.until("its sandbox to be gone", |_| sandboxes(&house) == 0);
    }
}

#[test]
fn an_acknowledged_write_is_there_after_the_kill() {
    let Some((_house, mut node)) = try_start("writes") else { return };
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let names = (0..200).map(|at| format!("note-{round}-{at}"));
                names
                    .take_while(|name| node.try_kubectl(&["create", "configmap", name, "--from-literal=a=b"]).is_some())
                    .collect::<Vec<_>>()
            });
            sleep(Duration::from_millis(700 + 211 * round));
            // By pid: the fixture itself is lent to the writer.
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(node.pid().cast_signed()),
                nix::sys::signal::Signal::SIGKILL,
            )
            .unwrap();
            acknowledged.extend(writer.join().unwrap());
        });
        node.kill9();
        node.up();
    }
    assert!(acknowledged.len() > 5, "some writes were acknowledged: {}", acknowledged.len());
    let there = node.kubectl(&["get", "configmaps", "-o", "name"]);
    for name in acknowledged {
        assert!(there.contains(&format!("configmap/{name}\n")), "{name} was acknowledged and is gone");
    }
}

/// Pods that the CRI server has on disk.
fn sandboxes(house: &House) -> usize {
    fs::read_dir(house.path("run/pods")).map_or(0, |dir| dir.flatten().count())
}
