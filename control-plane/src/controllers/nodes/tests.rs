//! A silent node as text, with the clock as an argument.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::decide::{decide, tolerates};
use super::*;

const NOW: &str = "2027-01-01T01:00:00Z";

fn node(ready: &str, taints: Value) -> Node {
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "x"});
    let conditions = if ready.is_empty() {
        json!([])
    } else {
        let calm = if ready == "Unknown" { "Unknown" } else { "False" };
        let others = ["MemoryPressure", "DiskPressure", "PIDPressure"].map(|kind| condition(kind, calm));
        Value::from([vec![condition("Ready", ready)], others.to_vec()].concat())
    };
    let metadata = json!({"name": "n1", "uid": "N", "resourceVersion": "5"});
    let node = json!({"metadata": metadata, "spec": {"taints": taints}, "status": {"conditions": conditions}});
    serde_json::from_value(node).expect("node")
}

fn pod(name: &str, ready: bool, tolerations: Value) -> Arc<Pod> {
    let pod = json!({
        "metadata": {"name": name, "namespace": "d", "uid": name},
        "spec": {"nodeName": "n1", "containers": [], "tolerations": tolerations},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    });
    Arc::new(serde_json::from_value(pod).expect("pod"))
}

/// The writes as text, and when to look again.
fn check(node: &Node, silent: u64, pods: &[Arc<Pod>], now: &str) -> (Vec<String>, Option<u64>) {
    let now: Timestamp = now.parse().expect("time");
    let (silent_for, grace) = (Duration::from_secs(silent), Duration::from_secs(40));
    let decision = decide(&Seen { node, silent_for, grace, pods, now });
    let writes = decision.writes.iter().map(ToString::to_string).collect();
    (writes, decision.look_again.map(|wait| wait.as_secs()))
}

fn taint(key: &str, effect: &str, time: &str) -> Value {
    json!({"key": format!("node.kubernetes.io/{key}"), "effect": effect, "timeAdded": time})
}

#[test]
fn a_node_that_speaks_is_left_alone() {
    let pods = [pod("a", true, json!([]))];
    assert_eq!(check(&node("True", json!([])), 15, &pods, NOW), (vec![], Some(25)));
}

#[test]
fn a_silent_node_becomes_unknown_and_tainted() {
    let (writes, wait) = check(&node("True", json!([])), 40, &[pod("a", true, json!([]))], NOW);
    assert_eq!(writes.len(), 3, "{writes:#?}");
    let unknown = r#"{"type":"Ready","status":"Unknown","reason":"NodeStatusUnknown","message":"Kubelet stopped posting node status.","lastTransitionTime":"2027-01-01T01:00:00Z"}"#;
    assert!(writes[0].starts_with(&format!(r#"patch-status nodes n1 {{"conditions":[{unknown},"#)), "{}", writes[0]);
    assert!(
        writes[1].contains(
            r#""effect":"NoSchedule","key":"node.kubernetes.io/unreachable","timeAdded":"2027-01-01T01:00:00Z""#
        ),
        "{}",
        writes[1]
    );
    assert!(writes[1].contains(r#""effect":"NoExecute","key":"node.kubernetes.io/unreachable""#), "{}", writes[1]);
    assert!(writes[2].starts_with("patch-status pods d/a") && writes[2].contains("NodeNotReady"), "{}", writes[2]);
    assert_eq!(wait, Some(300), "and its pods go in five minutes");
}

#[test]
fn pods_go_when_their_toleration_runs_out() {
    let added = "2027-01-01T00:55:00Z"; // 300 s ago
    let silent =
        node("Unknown", json!([taint("unreachable", "NoSchedule", added), taint("unreachable", "NoExecute", added)]));
    let for_ever = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}]);
    let for_ten_minutes = json!([{"operator": "Exists", "tolerationSeconds": 600}]);
    let pods = [pod("plain", false, json!([])), pod("stays", false, for_ever), pod("later", false, for_ten_minutes)];
    assert_eq!(check(&silent, 400, &pods, NOW), (vec!["delete pods d/plain".to_owned()], Some(300)));
    let other = json!([{"key": "gpu", "effect": "NoExecute", "timeAdded": added}]);
    let (writes, _) = check(&node("True", other), 0, &[pod("plain", true, json!([]))], NOW);
    assert_eq!(writes, ["delete pods d/plain"], "any other NoExecute taint evicts at once");
}

#[test]
fn a_node_that_comes_back_loses_our_taints_only() {
    let taints = json!([taint("unreachable", "NoSchedule", NOW), {"key": "mine", "effect": "NoSchedule"}, taint("unreachable", "NoExecute", NOW)]);
    let (writes, _) = check(&node("True", taints), 1, &[pod("a", true, json!([]))], NOW);
    assert_eq!(writes.len(), 1);
    assert!(writes[0].ends_with(r#""spec":{"taints":[{"effect":"NoSchedule","key":"mine"}]}}"#), "{}", writes[0]);
    let (writes, _) = check(&node("True", json!([taint("not-ready", "NoSchedule", NOW)])), 1, &[], NOW);
    assert!(writes[0].ends_with(r#""spec":{"taints":null}}"#), "{}", writes[0]);
}

#[test]
fn ready_false_is_not_ready_and_cordoned_is_unschedulable() {
    let (writes, _) = check(&node("False", json!([])), 0, &[], NOW);
    assert!(writes[0].contains("node.kubernetes.io/not-ready") && !writes[0].contains("unreachable"), "{}", writes[0]);
    let mut cordoned = node("True", json!([]));
    cordoned.spec.as_mut().expect("spec").unschedulable = Some(true);
    let (writes, _) = check(&cordoned, 0, &[], NOW);
    assert!(writes[0].contains(r#""effect":"NoSchedule","key":"node.kubernetes.io/unschedulable""#), "{}", writes[0]);
}

#[test]
fn a_node_that_never_spoke_says_so() {
    let (writes, _) = check(&node("", json!([])), 41, &[], NOW);
    assert!(writes[0].contains("NodeStatusNeverUpdated"), "{}", writes[0]);
    let settled =
        node("Unknown", json!([taint("unreachable", "NoSchedule", NOW), taint("unreachable", "NoExecute", NOW)]));
    assert_eq!(check(&settled, 999, &[], NOW).0, Vec::<String>::new(), "said once");
}

#[test]
fn tolerations_fit_taints() {
    let case = |toleration: Value, wanted: bool| {
        let toleration = serde_json::from_value(toleration).expect("toleration");
        let taint = serde_json::from_value(json!({"key": "k", "value": "v", "effect": "NoSchedule"})).expect("taint");
        assert_eq!(tolerates(&toleration, &taint), wanted, "{toleration:?}");
    };
    case(json!({"operator": "Exists"}), true);
    case(json!({"key": "k", "operator": "Exists"}), true);
    case(json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false);
    case(json!({"key": "k", "value": "v"}), true);
    case(json!({"key": "k", "operator": "Equal", "value": "w"}), false);
    case(json!({"key": "x", "operator": "Exists"}), false);
    case(json!({"value": "v"}), false);
}
