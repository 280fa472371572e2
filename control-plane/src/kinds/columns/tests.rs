//! Rows as text: what a person sees.

use super::*;
use crate::kinds::Kinds;

fn row_of(resource: &str, object: Value) -> String {
    let kind = Kinds::builtin().named(resource).expect("kind");
    let now = "2026-11-23T15:00:00Z".parse().expect("time");
    let cells = cells(&kind, &object, now);
    assert_eq!(cells.len(), columns(&kind).len(), "{resource}");
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    cells.iter().map(text).collect::<Vec<_>>().join(" | ")
}

fn pod(status: Value, more: Value) -> String {
    let mut object = json!({
        "metadata": {"name": "p", "creationTimestamp": "2026-11-23T14:58:30Z"},
        "spec": {"nodeName": "n1", "containers": [{"name": "a"}, {"name": "b"}]}, "status": status,
    });
    for (path, value) in more.as_object().into_iter().flatten() {
        let (parent, key) = path.split_once('.').expect("two parts");
        object[parent][key] = value.clone();
    }
    row_of("pods", object).split(" | ").take(4).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_status_of_a_pod_is_one_word() {
    let none = || json!({});
    let running = |name: &str| json!({"name": name, "ready": true, "restartCount": 0, "state": {"running": {}}});
    assert_eq!(pod(json!({"phase": "Pending"}), none()), "p 0/2 Pending 0");
    let two = json!({"phase": "Running", "containerStatuses": [running("a"), running("b")]});
    assert_eq!(pod(two.clone(), none()), "p 2/2 Running 0");
    assert_eq!(pod(two, json!({"metadata.deletionTimestamp": "2026-11-23T15:00:00Z"})), "p 2/2 Terminating 0");
    let crash = json!({"phase": "Running", "containerStatuses": [running("a"), {
        "name": "b", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"finishedAt": "2026-11-23T14:59:00Z"}}}]});
    assert_eq!(pod(crash, none()), "p 1/2 CrashLoopBackOff 3 (60s ago)");
    let done = json!({"phase": "Succeeded", "containerStatuses": [
        {"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]});
    assert_eq!(pod(done, none()), "p 0/2 Completed 0");
    let one_done = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [
        {"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}, running("b")]});
    assert_eq!(pod(one_done, none()), "p 1/2 Running 0");
    let code =
        json!({"phase": "Failed", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 3}}}]});
    assert_eq!(pod(code, none()), "p 0/2 ExitCode:3 0");
    assert_eq!(pod(json!({"phase": "Failed", "reason": "Evicted"}), none()), "p 0/2 Evicted 0");
}

#[test]
fn init_containers_count_up() {
    let spec = json!({"spec.initContainers": [{"name": "i"}, {"name": "j"}]});
    let waiting = json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}]});
    assert_eq!(pod(waiting, spec.clone()), "p 0/2 Init:1/2 0");
    let failed = json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "i", "restartCount": 2, "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]});
    assert_eq!(pod(failed, spec.clone()), "p 0/2 Init:Error 2");
    let back_off = json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "i", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]});
    assert_eq!(pod(back_off, spec), "p 0/2 Init:CrashLoopBackOff 0");
    let sidecar = json!({"spec.initContainers": [{"name": "i", "restartPolicy": "Always"}]});
    let beside = json!({"phase": "Running", "initContainerStatuses": [
        {"name": "i", "started": true, "ready": true, "state": {"running": {}}}],
        "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}]});
    assert_eq!(pod(beside, sidecar), "p 2/3 Running 0");
}

#[test]
fn other_kinds_have_their_rows() {
    let meta = json!({"name": "x", "creationTimestamp": "2026-11-23T12:00:00Z"});
    let node = json!({"metadata": {"name": "n", "creationTimestamp": "2026-11-23T12:00:00Z",
            "labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": ""}},
        "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.33.0"},
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
    assert_eq!(
        row_of("nodes", node),
        "n | Ready,SchedulingDisabled | control-plane,worker | 3h | v1.33.0 | 10.0.0.1 | <none> | <unknown> | <unknown> | <unknown>"
    );
    let deployment = json!({"metadata": meta, "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "w"}},
            "template": {"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]}}},
        "status": {"readyReplicas": 1, "updatedReplicas": 3, "availableReplicas": 1}});
    assert_eq!(row_of("deployments.apps", deployment), "x | 1/3 | 3 | 1 | 3h | a,b | i,j | app=w");
    let event = json!({"metadata": meta, "involvedObject": {"kind": "Pod", "name": "p"}, "type": "Normal",
        "reason": "Pulled", "message": "ok ", "count": 2, "source": {"component": "kubelet", "host": "n"},
        "lastTimestamp": "2026-11-23T14:59:50Z", "firstTimestamp": "2026-11-23T14:59:00Z"});
    assert_eq!(row_of("events", event), "10s | Normal | Pulled | pod/p |  | kubelet, n | ok | 60s | 2 | x");
    let service = json!({"metadata": meta, "spec": {"type": "NodePort", "clusterIP": "10.96.0.2",
        "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}]}});
    assert_eq!(row_of("services", service), "x | NodePort | 10.96.0.2 | <none> | 80:30000/TCP | 3h | <none>");
    assert_eq!(
        row_of("secrets", json!({"metadata": meta, "type": "Opaque", "data": {"a": ""}})),
        "x | Opaque | 1 | 3h"
    );
    assert_eq!(row_of("csidrivers.storage.k8s.io", json!({"metadata": meta})), "x | 2026-11-23T12:00:00Z");
}

#[test]
fn every_kind_fills_its_columns() {
    for kind in Kinds::builtin().all() {
        let cells = cells(kind, &json!({"metadata": {"name": "x"}}), Timestamp::UNIX_EPOCH);
        assert_eq!(cells.len(), columns(kind).len(), "{}", kind.resource());
    }
}
