//! The ReplicaSet controller as text: claims, counts, ranking, status, expectations.

use k8s_openapi::jiff::Timestamp;

use super::decide::{decide, status};
use super::*;
use crate::client::WatchEvent;

fn now() -> Timestamp {
    "2027-01-01T01:00:00Z".parse().expect("time")
}

fn set(replicas: i32) -> ReplicaSet {
    let set = json!({
        "metadata": {"name": "web", "namespace": "d", "uid": "S", "generation": 3},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}, "annotations": {"a": "b"}}, "spec": {"containers": []}},
        },
    });
    serde_json::from_value(set).expect("set")
}

/// A pod from a few words: `name [foreign|orphan] [node=n] [phase] [ready] [minute=N] [cost=N] [restarts=N] [other] [going]`.
fn pod(words: &str) -> Arc<Pod> {
    let mut words = words.split(' ');
    let name = words.next().expect("name");
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "S", "controller": true});
    let mut pod = json!({
        "metadata": {
            "name": name, "namespace": "d", "uid": name, "labels": {"app": "web"}, "resourceVersion": "7",
            "creationTimestamp": "2027-01-01T00:00:00Z", "ownerReferences": [owner],
        },
        "spec": {"containers": []}, "status": {"phase": "Running", "conditions": []},
    });
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("orphan", _) => pod["metadata"]["ownerReferences"] = Value::Null,
            ("foreign", _) => pod["metadata"]["ownerReferences"][0]["uid"] = "X".into(),
            ("other", _) => pod["metadata"]["labels"] = json!({"app": "db"}),
            ("going", _) => pod["metadata"]["deletionTimestamp"] = "2027-01-01T00:30:00Z".into(),
            ("node", node) => pod["spec"]["nodeName"] = node.into(),
            ("minute", minute) => pod["metadata"]["creationTimestamp"] = format!("2027-01-01T00:{minute}:00Z").into(),
            ("cost", cost) => {
                pod["metadata"]["annotations"] = json!({"controller.kubernetes.io/pod-deletion-cost": cost})
            }
            ("restarts", n) => {
                let n: i32 = n.parse().expect("number");
                let status = json!({"name": "c", "restartCount": n, "image": "", "imageID": "", "ready": true});
                pod["status"]["containerStatuses"] = json!([status]);
            }
            ("ready", minute) => {
                let minute = if minute.is_empty() { "00" } else { minute };
                let since = format!("2027-01-01T00:{minute}:00Z");
                pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
            }
            (phase, _) => pod["status"]["phase"] = phase.into(),
        }
    }
    Arc::new(serde_json::from_value(pod).expect("pod"))
}

fn check(rs: &ReplicaSet, pods: &[&str], expect: &[&str]) {
    let pods: Vec<_> = pods.iter().map(|words| pod(words)).collect();
    let decision = decide(rs, &pods, now());
    let writes = decision.claims.iter().chain(&decision.creates).chain(&decision.deletes);
    assert_eq!(writes.map(ToString::to_string).collect::<Vec<_>>(), expect);
}

#[test]
fn missing_pods_are_made_and_surplus_ones_go() {
    check(&set(2), &[], &["create pods d/web-*", "create pods d/web-*"]);
    check(&set(2), &["a", "b"], &[]);
    check(&set(1), &["a node=n ready", "b"], &["delete pods d/b"]);
    check(&set(0), &["a"], &["delete pods d/a"]);
    assert_eq!(decide(&set(2000), &[], now()).creates.len(), 500, "a burst at a time");
}

#[test]
fn finished_terminating_and_foreign_pods_do_not_count() {
    check(&set(1), &["a Succeeded", "b going", "c foreign"], &["create pods d/web-*"]);
    check(&set(1), &["a Failed", "b"], &[]);
}

#[test]
fn orphans_are_adopted_and_strays_released() {
    let adopt = r#"patch pods d/a {"metadata":{"uid":"a","resourceVersion":"7","ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web","uid":"S","controller":true,"blockOwnerDeletion":true}]}}"#;
    check(&set(1), &["a orphan"], &[adopt]);
    let release = r#"patch pods d/a {"metadata":{"uid":"a","resourceVersion":"7","ownerReferences":null}}"#;
    check(&set(1), &["a other"], &[release, "create pods d/web-*"]);
    check(&set(1), &["a orphan other"], &["create pods d/web-*"]);
    let mut going = set(3);
    going.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
    check(&going, &["a orphan", "b"], &[]);
}

#[test]
fn the_least_useful_pod_goes_first() {
    let order = |pods: &[&str]| {
        let pods: Vec<_> = pods.iter().map(|words| pod(words)).collect();
        let gone = decide(&set(0), &pods, now()).deletes;
        gone.iter().map(|w| w.to_string().replace("delete pods d/", "")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(order(&["bound node=n", "unbound"]), "unbound bound");
    assert_eq!(order(&["run node=n", "pend node=n Pending", "odd node=n Unknown"]), "pend odd run");
    assert_eq!(order(&["ready node=n ready", "unready node=n"]), "unready ready");
    assert_eq!(order(&["dear node=n cost=5", "free node=n", "cheap node=n cost=-1"]), "cheap free dear");
    assert_eq!(order(&["alone node=n1", "x node=n2", "y node=n2"]), "x y alone");
    assert_eq!(order(&["long node=n ready=01", "short node=n ready=59"]), "short long");
    assert_eq!(order(&["calm node=n", "wild node=n restarts=3"]), "wild calm");
    assert_eq!(order(&["old node=n minute=01", "new node=n minute=02"]), "new old");
}

#[test]
fn the_status_counts_ready_and_available() {
    let mut rs = set(3);
    rs.spec.as_mut().expect("spec").min_ready_seconds = Some(120);
    let pods = [pod("a ready=00"), pod("b ready=59"), pod("c")];
    let decision = decide(&rs, &pods, now());
    assert_eq!(decision.look_again, Some(Duration::from_secs(60)), "b is available in a minute");
    let seen = json!(status(&rs, &decision.active, None, now()));
    let wanted = json!({"availableReplicas": 1, "fullyLabeledReplicas": 3, "observedGeneration": 3, "readyReplicas": 2, "replicas": 3});
    assert_eq!(seen, wanted);
    let failure = Failure { reason: "FailedCreate", message: "quota".into() };
    let seen = json!(status(&rs, &[], Some(failure), now()));
    assert_eq!(seen["conditions"][0]["type"], "ReplicaFailure");
    assert_eq!(seen["conditions"][0]["message"], "quota");
}

#[test]
fn a_new_pod_is_the_template_with_an_owner() {
    let decision = decide(&set(1), &[], now());
    let Write::Create { object, .. } = &decision.creates[0] else { panic!("a creation") };
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "S", "controller": true, "blockOwnerDeletion": true});
    let wanted = json!({
        "generateName": "web-", "namespace": "d", "ownerReferences": [owner], "labels": {"app": "web"}, "annotations": {"a": "b"},
    });
    assert_eq!(object["metadata"], wanted);
}

#[test]
fn nothing_is_done_until_the_cache_has_seen_our_own_writes() {
    let pods = Cache::<Pod>::new();
    let expected =
        Expectation { revision: 12, deleting: [(Key::new("d", "a"), "a".into())].into(), since: Instant::now() };
    let event = |name: &str, revision: u64, going: bool| {
        let time = going.then_some("2027-01-01T00:00:00Z");
        Arc::new(json!({"metadata": {
            "name": name, "namespace": "d", "uid": name, "resourceVersion": revision.to_string(), "deletionTimestamp": time,
        }}))
    };
    pods.take(WatchEvent::Added(event("a", 10, false)));
    assert!(!expected.is_met(&pods), "our pod of revision 12 has not been seen");
    pods.take(WatchEvent::Added(event("b", 12, false)));
    assert!(!expected.is_met(&pods), "a is not going yet");
    pods.take(WatchEvent::Modified(event("a", 13, true)));
    assert!(expected.is_met(&pods));
    pods.take(WatchEvent::Deleted(event("a", 14, true)));
    assert!(expected.is_met(&pods));
    let other = Expectation {
        revision: 99,
        deleting: HashSet::new(),
        since: Instant::now() - PATIENCE - Duration::from_secs(1),
    };
    assert!(other.is_met(&pods), "patience ends");
}
