//! What a delete decides, as a table: object, options -> removed, marked (grace, finalizers), or nothing.

use super::*;
use crate::kinds::Kinds;

fn said(resource: &str, old: Value, options: DeleteOptions) -> String {
    let kind = Kinds::builtin().named(resource).expect("kind");
    let call = Call::internal(kind, "ns", "x");
    let now = "2026-11-23T15:00:00Z".parse().expect("time");
    match decide(&call, &old, &options, now).expect("decides") {
        Step::Remove => "remove".into(),
        Step::Nothing => "nothing".into(),
        Step::Mark(new) => {
            let m = &new["metadata"];
            let f = m["finalizers"].as_array().map_or(String::new(), |f| format!(" {f:?}"));
            format!("until {} grace {}{f}", m["deletionTimestamp"], m["deletionGracePeriodSeconds"]).replace('"', "")
        }
    }
}

fn grace(seconds: i64) -> DeleteOptions {
    DeleteOptions { grace_seconds: Some(seconds), ..Default::default() }
}

fn policy(name: &str) -> DeleteOptions {
    DeleteOptions { propagation: Some(name.into()), ..Default::default() }
}

#[test]
fn pods_get_grace_and_others_go() {
    let running = json!({"metadata": {}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}});
    assert_eq!(said("configmaps", json!({"metadata": {}}), grace(30)), "remove");
    assert_eq!(said("pods", running.clone(), DeleteOptions::default()), "until 2026-11-23T15:00:30Z grace 30");
    assert_eq!(said("pods", running.clone(), grace(5)), "until 2026-11-23T15:00:05Z grace 5");
    assert_eq!(said("pods", running.clone(), grace(0)), "remove");
    assert_eq!(said("pods", running.clone(), grace(-3)), "until 2026-11-23T15:00:01Z grace 1");
    assert_eq!(said("pods", json!({"metadata": {}, "spec": {}}), DeleteOptions::default()), "remove");
    let mut failed = running;
    failed["status"] = json!({"phase": "Failed"});
    assert_eq!(said("pods", failed, DeleteOptions::default()), "remove");
}

#[test]
fn grace_only_shrinks() {
    let marked = json!({
        "metadata": {"deletionTimestamp": "2026-11-23T15:00:10Z", "deletionGracePeriodSeconds": 10},
        "spec": {"nodeName": "n"},
    });
    assert_eq!(said("pods", marked.clone(), DeleteOptions::default()), "nothing");
    assert_eq!(said("pods", marked.clone(), grace(20)), "nothing");
    assert_eq!(said("pods", marked.clone(), grace(2)), "until 2026-11-23T15:00:02Z grace 2");
    assert_eq!(said("pods", marked, grace(0)), "remove");
}

#[test]
fn finalizers_and_policies_keep_it() {
    let held = json!({"metadata": {"finalizers": ["a/b"]}});
    assert_eq!(said("configmaps", held, DeleteOptions::default()), "until 2026-11-23T15:00:00Z grace 0 [String(a/b)]");
    let plain = json!({"metadata": {}});
    assert!(said("deployments.apps", plain.clone(), policy("Foreground")).ends_with("[String(foregroundDeletion)]"));
    assert!(said("deployments.apps", plain.clone(), policy("Orphan")).ends_with("[String(orphan)]"));
    assert_eq!(said("deployments.apps", plain, policy("Background")), "remove");
    let waiting = json!({"metadata": {
        "finalizers": ["a/b"], "deletionTimestamp": "2026-11-23T15:00:00Z", "deletionGracePeriodSeconds": 0,
    }});
    assert_eq!(said("configmaps", waiting, DeleteOptions::default()), "nothing");
}

#[test]
fn a_namespace_waits_for_its_content() {
    let namespace = json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}});
    assert_eq!(said("namespaces", namespace, DeleteOptions::default()), "until 2026-11-23T15:00:00Z grace 0");
}
