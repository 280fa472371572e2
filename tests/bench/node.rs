//! The whole node: apply to Ready, what it costs idle, and what a pod more costs.

use crate::compare::{millis, percentile};
use gantry_tests::house::House;
use gantry_tests::node::{self, Node};
use std::fs;
use std::time::{Duration, Instant};

/// Pods that are started one after another for the latency.
const PODS: usize = 20;
/// How long the idle node is watched.
const WATCH: Duration = Duration::from_secs(60);

/// Measures and prints the rows of the node.
///
/// # Errors
/// The machine lacks what a node needs.
pub(crate) fn measure() -> Result<(), String> {
    node::possible()?;
    let house = House::new("bench-node");
    let node = Node::start(&house);
    println!("| node | |\n|---|---|");
    let (pss, rss) = (memory(node.pid(), "Pss:"), memory(node.pid(), "Rss:"));
    println!("| whole node idle, no pods | RSS {rss} KiB, PSS {pss} KiB |");
    let before = cpu_ticks(node.pid());
    std::thread::sleep(WATCH);
    let used = cpu_ticks(node.pid()) - before;
    println!(
        "| CPU of the idle node over {} s | {} ms ({:.2} % of a core) |",
        WATCH.as_secs(),
        used * 10,
        used as f64 / WATCH.as_secs_f64()
    );
    latency(&node);
    let after: u64 = gantry_tests::house::pids(house.name()).into_iter().map(|pid| memory(pid, "Pss:")).sum();
    let grown = memory(node.pid(), "Pss:").saturating_sub(pss);
    println!(
        "| with {PODS} pods: PSS of the monitors and their pods, each | {} KiB |",
        after.saturating_sub(pss + grown) / PODS as u64
    );
    println!("| with {PODS} pods: growth of the node's own PSS, a pod | {} KiB |", grown / PODS as u64);
    drop(node);
    Ok(())
}

fn latency(node: &Node) {
    let mut times = Vec::new();
    for at in 0..PODS {
        let name = format!("bench-{at}");
        // kubectl's own start (some 50 ms) is not the node's: create asks the API directly, and the node says when.
        node.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  - name: main\n    image: {}\n    command: [/bin/sleep, \"3600\"]\n",
            gantry_tests::image::NAME
        ));
        node.until_ready(&name);
        times.push(apply_to_ready(node, &name));
    }
    let (p50, p90) = (percentile(&mut times, 50), percentile(&mut times, 90));
    println!(
        "| request at the API server to Ready, one-container pod, local image | p50 {}, p90 {} |",
        millis(p50),
        millis(p90)
    );
    let start = Instant::now();
    node.kubectl(&["delete", "pod", "bench-0"]);
    println!("| kubectl delete of one pod, to gone | {} |", millis(start.elapsed()));
}

/// From the API server's and the kubelet's own stamps of one pod.
fn apply_to_ready(node: &Node, pod: &str) -> Duration {
    let stages = node.gantry(&["timings", "--output", "json", &format!("default/{pod}")]);
    let stages: serde_json::Value = serde_json::from_str(&stages).expect("timings prints JSON");
    Duration::from_nanos(stages["totalNanoseconds"].as_u64().expect("the pod became Ready"))
}

/// A line of `smaps_rollup`, in KiB.
fn memory(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(key));
    line.and_then(|line| line.split_whitespace().nth(1)).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// User and system time of a process and its threads, in ticks of 10 ms.
fn cpu_ticks(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum()
}
