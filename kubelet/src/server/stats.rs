//! /stats/summary (what `kubectl top` and autoscalers read) and /metrics, from CRI's figures.

use std::collections::BTreeMap;
use std::fmt::Write;

use gantry_cri_api as cri;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::clock;
use crate::error::Result;
use crate::node::facts;
use crate::pod;
use crate::pods::labels;
use crate::pods::pool::Pods;
use crate::shared::Shared;

fn time(nanos: i64) -> String {
    let at = clock::from_nanos(nanos).unwrap_or_else(clock::wall);
    rfc3339(at)
}

fn rfc3339(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn figure(value: &Option<cri::UInt64Value>) -> Value {
    value.as_ref().map_or(Value::Null, |v| v.value.into())
}

fn cpu(of: Option<&cri::CpuUsage>) -> Value {
    of.map_or(Value::Null, |c| {
        json!({"time": time(c.timestamp), "usageNanoCores": figure(&c.usage_nano_cores),
            "usageCoreNanoSeconds": figure(&c.usage_core_nano_seconds)})
    })
}

fn memory(of: Option<&cri::MemoryUsage>) -> Value {
    of.map_or(Value::Null, |m| {
        json!({"time": time(m.timestamp), "workingSetBytes": figure(&m.working_set_bytes), "usageBytes": figure(&m.usage_bytes),
            "rssBytes": figure(&m.rss_bytes), "availableBytes": figure(&m.available_bytes),
            "pageFaults": figure(&m.page_faults), "majorPageFaults": figure(&m.major_page_faults)})
    })
}

fn label<'a>(of: &'a cri::ContainerStats, key: &str) -> &'a str {
    of.attributes.as_ref().and_then(|a| a.labels.get(key)).map_or("", String::as_str)
}

fn sum(list: &[&cri::ContainerStats], of: impl Fn(&cri::ContainerStats) -> Option<u64>) -> u64 {
    list.iter().filter_map(|s| of(s)).sum()
}

fn core_nanos(s: &cri::ContainerStats) -> Option<u64> {
    Some(s.cpu.as_ref()?.usage_core_nano_seconds?.value)
}

fn working_set(s: &cri::ContainerStats) -> Option<u64> {
    Some(s.memory.as_ref()?.working_set_bytes?.value)
}

/// The stats API's Summary of this node and its pods.
pub(crate) async fn summary(shared: &Shared, pods: &Pods) -> Result<Value> {
    let stats = shared.cri.stats().await?;
    let image_fs = shared.cri.image_fs().await.ok();
    let now = clock::wall();
    let mut by_pod: BTreeMap<&str, Vec<&cri::ContainerStats>> = BTreeMap::new();
    for s in &stats {
        by_pod.entry(label(s, labels::POD_UID)).or_default().push(s);
    }
    let mut out = Vec::new();
    for of in pods.all() {
        let Some(list) = by_pod.get(pod::uid(&of)) else { continue };
        let start = of.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(now, |t| t.0);
        let containers: Vec<Value> = list
            .iter()
            .map(|s| json!({"name": label(s, labels::CONTAINER_NAME), "startTime": rfc3339(start), "cpu": cpu(s.cpu.as_ref()), "memory": memory(s.memory.as_ref())}))
            .collect();
        out.push(json!({
            "podRef": {"name": pod::name(&of), "namespace": pod::namespace(&of), "uid": pod::uid(&of)},
            "startTime": rfc3339(start), "containers": containers,
            "cpu": {"time": rfc3339(now), "usageCoreNanoSeconds": sum(list, core_nanos)},
            "memory": {"time": rfc3339(now), "workingSetBytes": sum(list, working_set)},
        }));
    }
    let disk = facts::disk(&shared.config.root_dir).unwrap_or_default();
    let filesystem = json!({"time": rfc3339(now), "availableBytes": disk.available, "capacityBytes": disk.total,
        "usedBytes": disk.total - disk.available, "inodes": disk.inodes, "inodesFree": disk.inodes_free});
    let used = image_fs.and_then(|f| f.image_filesystems.first().and_then(|f| f.used_bytes)).map(|v| v.value);
    Ok(json!({
        "node": {
            "nodeName": shared.config.node_name, "fs": filesystem,
            "cpu": {"time": rfc3339(now), "usageCoreNanoSeconds": node_cpu_nanos()},
            "memory": {"time": rfc3339(now), "availableBytes": facts::memory_available(),
                "workingSetBytes": facts::memory_available().map(|free| shared.node.memory - free)},
            "runtime": {"imageFs": {"time": rfc3339(now), "usedBytes": used, "availableBytes": disk.available, "capacityBytes": disk.total}},
        },
        "pods": out,
    }))
}

/// CPU time of the whole machine, of /proc/stat; a tick is a hundredth of a second on Linux.
fn node_cpu_nanos() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    busy_ticks(&text) * 10_000_000
}

fn busy_ticks(text: &str) -> u64 {
    let Some(line) = text.lines().next() else { return 0 };
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal: all but idle and iowait.
    ticks.iter().take(8).enumerate().filter(|(at, _)| !matches!(at, 3 | 4)).map(|(_, n)| n).sum()
}

/// Prometheus' text format: a few figures of the kubelet itself and of the containers.
pub(crate) async fn metrics(shared: &Shared, pods: &Pods) -> String {
    let mut out = String::new();
    let all = pods.all();
    let _ = writeln!(out, "# TYPE kubelet_running_pods gauge\nkubelet_running_pods {}", all.len());
    let _ =
        writeln!(out, "# TYPE kubelet_node_name gauge\nkubelet_node_name{{node=\"{}\"}} 1", shared.config.node_name);
    let stats = shared.cri.stats().await.unwrap_or_default();
    let _ = writeln!(out, "# TYPE container_cpu_usage_seconds_total counter");
    for s in &stats {
        if let Some(nanos) = core_nanos(s) {
            let _ = writeln!(out, "container_cpu_usage_seconds_total{} {}", names(s), nanos as f64 / 1e9);
        }
    }
    let _ = writeln!(out, "# TYPE container_memory_working_set_bytes gauge");
    for s in &stats {
        if let Some(bytes) = working_set(s) {
            let _ = writeln!(out, "container_memory_working_set_bytes{} {bytes}", names(s));
        }
    }
    out
}

/// Names of Kubernetes objects need no escaping.
fn names(s: &cri::ContainerStats) -> String {
    format!(
        "{{namespace=\"{}\",pod=\"{}\",container=\"{}\"}}",
        label(s, labels::POD_NAMESPACE),
        label(s, labels::POD_NAME),
        label(s, labels::CONTAINER_NAME)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_not_busy() {
        assert_eq!(busy_ticks("cpu  1 2 3 400 500 6 7 8 9 9\ncpu0 1\n"), 27);
    }
}
