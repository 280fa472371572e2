//! Filters, scores, the queue and whole verdicts, as tables.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::around::Around;
use super::snapshot::{Demand, NodeInfo, Resident};
use super::*;

/// A ready node of 4 CPUs, 8 GiB and 10 pods, changed by a merge patch.
fn node(name: &str, change: Value) -> Node {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"disk": "ssd", "size": "4"}}, "spec": {},
        "status": {
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10", "ephemeral-storage": "10Gi"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    json_patch::merge(&mut node, &change);
    serde_json::from_value(node).expect("node")
}

fn pod(name: &str, spec: Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "d", "uid": name},
        "spec": {"containers": [{"name": "c", "image": "busybox"}]},
    });
    json_patch::merge(&mut pod["spec"], &spec);
    Arc::new(serde_json::from_value(pod).expect("pod"))
}

fn asks(requests: Value) -> Value {
    json!({"containers": [{"name": "c", "image": "busybox", "resources": {"requests": requests}}]})
}

fn refusal(spec: Value, change: Value) -> String {
    let mut info = NodeInfo::default();
    info.update(&node("n1", change));
    filters::refuse(&Candidate::new(pod("p", spec)), &info, &Around::default()).join("; ")
}

#[test]
fn filters_refuse_with_upstreams_words() {
    let tainted = |effect: &str| json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}});
    let rule = |key: &str, operator: &str, values: Value| {
        let term = json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}})
    };
    const AFFINITY: &str = "node(s) didn't match Pod's node affinity/selector";
    const TAINT: &str = "node(s) had untolerated taint {k: v}";
    let all = json!([{"operator": "Exists"}]);
    let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    let table = [
        (json!({}), json!({}), ""),
        (json!({}), json!({"spec": {"unschedulable": true}}), "node(s) were unschedulable"),
        (json!({"tolerations": all}), json!({"spec": {"unschedulable": true}}), ""),
        (json!({"nodeName": "n2"}), json!({}), "node(s) didn't match the requested node name"),
        (json!({}), tainted("NoSchedule"), TAINT),
        (json!({}), tainted("NoExecute"), TAINT),
        (json!({}), tainted("PreferNoSchedule"), ""),
        (json!({"tolerations": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}), tainted("NoSchedule"), ""),
        (json!({"tolerations": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}), tainted("NoExecute"), TAINT),
        (json!({}), not_ready.clone(), "node(s) had untolerated taint {node.kubernetes.io/not-ready: }"),
        (json!({"tolerations": all}), not_ready, ""),
        (json!({"nodeSelector": {"disk": "ssd"}}), json!({}), ""),
        (json!({"nodeSelector": {"disk": "hdd"}}), json!({}), AFFINITY),
        (rule("disk", "In", json!(["hdd", "ssd"])), json!({}), ""),
        (rule("disk", "NotIn", json!(["ssd"])), json!({}), AFFINITY),
        (rule("gpu", "NotIn", json!(["x"])), json!({}), ""),
        (rule("gpu", "Exists", json!([])), json!({}), AFFINITY),
        (rule("gpu", "DoesNotExist", json!([])), json!({}), ""),
        (rule("size", "Gt", json!(["3"])), json!({}), ""),
        (rule("size", "Lt", json!(["4"])), json!({}), AFFINITY),
        (rule("disk", "Like", json!(["s"])), json!({}), AFFINITY),
        (asks(json!({"cpu": "4", "memory": "8Gi"})), json!({}), ""),
        (asks(json!({"cpu": "4001m"})), json!({}), "Insufficient cpu"),
        (
            asks(json!({"cpu": "5", "memory": "9Gi", "nvidia.com/gpu": "1"})),
            json!({}),
            "Insufficient cpu; Insufficient memory; Insufficient nvidia.com/gpu",
        ),
        (asks(json!({"ephemeral-storage": "11Gi"})), json!({}), "Insufficient ephemeral-storage"),
        (json!({}), json!({"status": {"allocatable": {"pods": "0"}}}), "Too many pods"),
    ];
    for (spec, change, expect) in table {
        assert_eq!(refusal(spec.clone(), change.clone()), expect, "{spec} on {change}");
    }
}

#[test]
fn host_ports_clash_by_protocol_and_address() {
    let with = |port: Value| json!({"containers": [{"name": "c", "image": "b", "ports": [port]}]});
    let mut info = NodeInfo::default();
    info.update(&node("n1", json!({})));
    let first = pod("first", with(json!({"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.1"})));
    info.place("first", &Arc::new(Resident::of(&first)));
    let clash =
        |port: Value| !filters::refuse(&Candidate::new(pod("p", with(port))), &info, &Around::default()).is_empty();
    assert!(clash(json!({"containerPort": 1, "hostPort": 80})));
    assert!(clash(json!({"containerPort": 1, "hostPort": 80, "hostIP": "10.0.0.1"})));
    assert!(!clash(json!({"containerPort": 1, "hostPort": 80, "hostIP": "10.0.0.2"})));
    assert!(!clash(json!({"containerPort": 1, "hostPort": 80, "protocol": "UDP"})));
    assert!(!clash(json!({"containerPort": 80})));
    info.remove("first");
    assert!(info.ports.is_empty());
}

#[test]
fn a_pod_needs_what_it_needs_at_its_worst_moment() {
    let container = |cpu: &str, always: bool| {
        let policy = if always { json!("Always") } else { Value::Null };
        json!({"name": "c", "image": "b", "restartPolicy": policy, "resources": {"requests": {"cpu": cpu}}})
    };
    let cpu = |init: Value, containers: Value, extra: Value| {
        let mut spec = json!({"initContainers": init, "containers": containers});
        json_patch::merge(&mut spec, &extra);
        Demand::of(&pod("p", spec)).request.get("cpu")
    };
    let two = json!([container("100m", false), container("200m", false)]);
    assert_eq!(cpu(json!([]), two.clone(), json!({})), 300);
    assert_eq!(cpu(json!([container("1", false), container("500m", false)]), two.clone(), json!({})), 1000);
    assert_eq!(cpu(json!([container("50m", true), container("1", false)]), two.clone(), json!({})), 1050);
    assert_eq!(cpu(json!([container("1", false), container("50m", true)]), two.clone(), json!({})), 1000);
    assert_eq!(cpu(json!([]), two.clone(), json!({"overhead": {"cpu": "10m"}})), 310);
    assert_eq!(cpu(json!([]), two, json!({"resources": {"requests": {"cpu": "2"}}})), 2000);
}

/// A scheduler with nodes; time stands still unless told otherwise.
struct Bench {
    state: State,
    now: Instant,
}

impl Bench {
    fn new(nodes: &[Node]) -> Bench {
        let mut bench = Bench { state: State::new("default-scheduler"), now: Instant::now() };
        nodes.iter().for_each(|node| bench.state.node_put(node, bench.now));
        bench
    }

    fn pod(&mut self, pod: Arc<Pod>) {
        self.state.pod_put(pod, self.now);
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// All verdicts that are due, as text.
    fn verdicts(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(verdict) = self.state.next(self.now) {
            told.push(match verdict {
                Verdict::Bind(pod, node) => format!("{} -> {node}", pod.key.name),
                Verdict::Unfit(pod, why) => format!("{}: {why}", pod.key.name),
            });
        }
        told
    }
}

/// A pod with labels `app=...` in a namespace.
fn labelled(name: &str, app: &str, namespace: &str, spec: Value) -> Arc<Pod> {
    let mut pod = Pod::clone(&pod(name, spec));
    pod.metadata.labels = Some([("app".to_owned(), app.to_owned())].into());
    pod.metadata.namespace = Some(namespace.to_owned());
    Arc::new(pod)
}

fn zones() -> [Node; 4] {
    let at = |name: &str, zone: &str| node(name, json!({"metadata": {"labels": {"zone": zone, "host": name}}}));
    [at("a1", "a"), at("a2", "a"), at("b1", "b"), node("none", json!({"status": {"allocatable": {"pods": "0"}}}))]
}

fn term(key: &str, app: &str) -> Value {
    json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}})
}

fn required(kind: &str, term: Value) -> Value {
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
}

#[test]
fn anti_affinity_keeps_pods_apart_both_ways() {
    let mut bench = Bench::new(&zones());
    let apart = required("podAntiAffinity", term("host", "db"));
    for n in 0..4 {
        bench.pod(labelled(&format!("db{n}"), "db", "d", apart.clone()));
    }
    let told = bench.verdicts();
    assert_eq!(told[..3], ["db0 -> a1", "db1 -> a2", "db2 -> b1"]);
    let why = "0/4 nodes are available: 1 Too many pods, 3 node(s) didn't match pod anti-affinity rules.";
    assert_eq!(told[3], format!("db3: {why}"));
    // One that has no rule itself is kept out by those who have.
    bench.pod(labelled("plain", "db", "d", json!({})));
    assert!(bench.verdicts()[0].contains("3 node(s) didn't satisfy existing pods anti-affinity rules"));
    bench.pod(labelled("elsewhere", "db", "other", json!({})));
    assert_eq!(bench.verdicts(), ["elsewhere -> a1"], "rules are about the pod's own namespace");
    bench.later(2);
    bench.state.pod_gone("db1", bench.now);
    assert_eq!(bench.verdicts()[0], "db3 -> a2");
}

#[test]
fn affinity_brings_pods_together() {
    let mut bench = Bench::new(&zones());
    bench.pod(labelled("lone", "x", "d", required("podAffinity", term("zone", "web"))));
    let why = "0/4 nodes are available: 1 Too many pods, 3 node(s) didn't match pod affinity rules.";
    assert_eq!(bench.verdicts(), [format!("lone: {why}")]);
    bench.later(1);
    let web = labelled("web", "web", "d", json!({"nodeName": "b1"}));
    bench.pod(web);
    assert_eq!(bench.verdicts(), ["lone -> b1"], "the zone of the pod it wants, as soon as that is there");
    bench.pod(labelled("first", "self", "d", required("podAffinity", term("zone", "self"))));
    assert_eq!(bench.verdicts(), ["first -> a1"], "the first of its kind may start anywhere with the key");
    bench.pod(labelled("second", "self", "d", required("podAffinity", term("zone", "self"))));
    assert_eq!(bench.verdicts(), ["second -> a2"]);
}

#[test]
fn namespaces_of_a_term_are_named_or_selected() {
    let mut bench = Bench::new(&zones());
    let namespace = json!({"metadata": {"name": "prod", "labels": {"env": "prod"}}});
    bench.state.namespace_put(&serde_json::from_value(namespace).expect("namespace"), bench.now);
    bench.pod(labelled("web", "web", "prod", json!({"nodeName": "b1"})));
    for (n, (extra, expect)) in [
        (json!({"namespaces": ["prod"]}), true),
        (json!({"namespaces": ["test"]}), false),
        (json!({"namespaceSelector": {}}), true),
        (json!({"namespaceSelector": {"matchLabels": {"env": "prod"}}}), true),
        (json!({"namespaceSelector": {"matchLabels": {"env": "test"}}}), false),
        (json!({}), false),
    ]
    .into_iter()
    .enumerate()
    {
        let mut wanted = term("zone", "web");
        json_patch::merge(&mut wanted, &extra);
        bench.pod(labelled(&format!("p{n}"), "x", "d", required("podAffinity", wanted)));
        assert_eq!(bench.verdicts()[0].ends_with("-> b1"), expect, "{extra}");
    }
}

#[test]
fn spread_constraints_bound_the_skew() {
    let spread = |when: &str| {
        let constraint = json!({
            "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"app": "web"}},
        });
        json!({"topologySpreadConstraints": [constraint]})
    };
    let mut bench = Bench::new(&zones());
    for n in 0..6 {
        bench.pod(labelled(&format!("w{n}"), "web", "d", spread("DoNotSchedule")));
    }
    let told = bench.verdicts();
    let in_b = told.iter().filter(|line| line.ends_with("b1")).count();
    assert_eq!(in_b, 3, "three in each zone, though zone a has two nodes: {told:?}");
    let big = json!({"metadata": {"labels": {"zone": "b", "host": "b1"}}, "status": {"allocatable": {"pods": "3"}}});
    bench.state.node_put(&node("b1", big), bench.now);
    bench.pod(labelled("w6", "web", "d", spread("DoNotSchedule")));
    assert!(bench.verdicts()[0].contains("-> a"), "a skew of one is allowed");
    bench.pod(labelled("w7", "web", "d", spread("DoNotSchedule")));
    let why = "0/4 nodes are available: 2 Too many pods, 2 node(s) didn't match pod topology spread constraints.";
    assert_eq!(bench.verdicts(), [format!("w7: {why}")]);
    bench.pod(labelled("w8", "web", "d", spread("ScheduleAnyway")));
    assert!(bench.verdicts()[0].contains("-> a"), "a wish is no law");
}

#[test]
fn preferred_neighbours_weigh() {
    let mut bench = Bench::new(&zones());
    bench.pod(labelled("web", "web", "d", json!({"nodeName": "b1"})));
    let wish = |kind: &str| {
        let term = json!({"weight": 100, "podAffinityTerm": term("zone", "web")});
        json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}})
    };
    bench.pod(labelled("near", "x", "d", wish("podAffinity")));
    assert_eq!(bench.verdicts(), ["near -> b1"]);
    bench.pod(labelled("far", "x", "d", wish("podAntiAffinity")));
    assert_eq!(bench.verdicts(), ["far -> a1"]);
}

fn bound(name: &str, node: &str, spec: Value) -> Arc<Pod> {
    let mut spec = spec;
    spec["nodeName"] = node.into();
    pod(name, spec)
}

#[test]
fn many_pods_at_once_spread_over_equal_nodes() {
    let mut bench = Bench::new(&[node("a", json!({})), node("b", json!({})), node("c", json!({}))]);
    (0..9).for_each(|n| bench.pod(pod(&format!("p{n}"), asks(json!({"cpu": "100m"})))));
    let told = bench.verdicts();
    for name in ["a", "b", "c"] {
        assert_eq!(told.iter().filter(|line| line.ends_with(&format!("-> {name}"))).count(), 3, "{told:?}");
    }
    assert_eq!(told[0], "p0 -> a", "equals are told apart by name, always the same way");
}

#[test]
fn assumed_pods_count_before_they_are_confirmed() {
    let mut bench = Bench::new(&[node("a", json!({}))]);
    (0..3).for_each(|n| bench.pod(pod(&format!("p{n}"), asks(json!({"cpu": "2"})))));
    assert_eq!(bench.verdicts(), ["p0 -> a", "p1 -> a", "p2: 0/1 nodes are available: 1 Insufficient cpu."]);
    bench.pod(bound("p0", "a", asks(json!({"cpu": "2"}))));
    bench.later(20);
    assert_eq!(bench.verdicts(), Vec::<String>::new(), "nothing has changed for it");
    bench.state.bind_failed("p1", bench.now);
    bench.later(1);
    assert_eq!(bench.verdicts(), ["p1 -> a"], "a binding that failed is tried again");
    bench.state.pod_gone("p0", bench.now);
    assert_eq!(bench.verdicts(), ["p2 -> a"], "a pod that goes makes room");
}

#[test]
fn reasons_are_counted_over_nodes() {
    let full = json!({"status": {"allocatable": {"cpu": "1", "pods": "0"}}});
    let cordoned = json!({"spec": {"unschedulable": true}});
    let mut bench = Bench::new(&[node("a", full), node("b", cordoned.clone()), node("c", cordoned)]);
    bench.pod(pod("p", asks(json!({"cpu": "2"}))));
    let why = "p: 0/3 nodes are available: 1 Insufficient cpu, 1 Too many pods, 2 node(s) were unschedulable.";
    assert_eq!(bench.verdicts(), [why]);
    assert_eq!(Bench::new(&[]).verdicts(), Vec::<String>::new());
    let mut empty = Bench::new(&[]);
    empty.pod(pod("p", json!({})));
    assert_eq!(empty.verdicts(), ["p: no nodes available to schedule pods"]);
    empty.later(1);
    empty.state.node_put(&node("a", json!({})), empty.now);
    assert_eq!(empty.verdicts(), ["p -> a"], "a new node brings it back");
}

#[test]
fn priority_goes_first_then_arrival() {
    let mut bench = Bench::new(&[node("a", json!({}))]);
    bench.pod(pod("first", json!({})));
    bench.pod(pod("second", json!({})));
    bench.pod(pod("urgent", json!({"priority": 1000})));
    bench.pod(pod("idle", json!({"priority": -1})));
    assert_eq!(bench.verdicts(), ["urgent -> a", "first -> a", "second -> a", "idle -> a"]);
}

#[test]
fn a_parked_pod_waits_for_a_change_that_matters() {
    let small = |change: Value| {
        let mut all = json!({"status": {"allocatable": {"cpu": "1"}}});
        json_patch::merge(&mut all, &change);
        node("a", all)
    };
    let mut bench = Bench::new(&[small(json!({}))]);
    bench.pod(pod("p", asks(json!({"cpu": "2"}))));
    assert_eq!(bench.verdicts().len(), 1);
    bench.later(2);
    bench.state.node_put(&small(json!({"status": {"images": []}})), bench.now);
    assert!(bench.verdicts().is_empty(), "a heartbeat is no reason to try again");
    bench.state.node_put(&small(json!({"metadata": {"labels": {"x": "y"}}})), bench.now);
    assert_eq!(bench.verdicts().len(), 1);
    bench.state.node_put(&node("a", json!({})), bench.now);
    assert!(bench.verdicts().is_empty(), "its back-off is two seconds now");
    bench.later(2);
    assert_eq!(bench.verdicts(), ["p -> a"]);
}

#[test]
fn pods_that_are_not_ours_are_not_touched() {
    let mut bench = Bench::new(&[node("a", json!({}))]);
    bench.pod(pod("other", json!({"schedulerName": "mine"})));
    bench.pod(pod("gated", json!({"schedulingGates": [{"name": "wait"}]})));
    bench.pod(bound("bound", "a", json!({})));
    assert!(bench.verdicts().is_empty());
    bench.pod(pod("gated", json!({"schedulingGates": []})));
    assert_eq!(bench.verdicts(), ["gated -> a"]);
}

#[test]
fn scores_prefer_room_affinity_soft_taints_and_images() {
    let choose = |spec: Value, a: Value, b: Value| {
        let mut bench = Bench::new(&[node("a", a), node("b", b)]);
        bench.pod(pod("p", spec));
        bench.verdicts().pop().expect("a verdict")
    };
    let big = json!({"status": {"allocatable": {"cpu": "64", "memory": "128Gi"}}});
    assert_eq!(choose(asks(json!({"cpu": "1", "memory": "2Gi"})), json!({}), big), "p -> b");
    let soft = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    assert_eq!(choose(json!({}), soft, json!({})), "p -> b");
    let term =
        json!({"weight": 10, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["x"]}]}});
    let wish = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}});
    assert_eq!(choose(wish, json!({}), json!({"metadata": {"labels": {"zone": "x"}}})), "p -> b");
    let image = json!({"names": ["docker.io/library/busybox:latest"], "sizeBytes": 900 << 20});
    assert_eq!(choose(json!({}), json!({}), json!({"status": {"images": [image]}})), "p -> b");
}

#[test]
fn a_node_that_goes_and_comes_back_keeps_count_of_its_pods() {
    let mut bench = Bench::new(&[node("a", json!({}))]);
    bench.pod(bound("old", "a", asks(json!({"cpu": "3"}))));
    bench.state.node_gone("a");
    bench.pod(pod("p", asks(json!({"cpu": "2"}))));
    assert_eq!(bench.verdicts(), ["p: no nodes available to schedule pods"]);
    bench.later(1);
    bench.state.node_put(&node("a", json!({})), bench.now);
    assert_eq!(bench.verdicts(), ["p: 0/1 nodes are available: 1 Insufficient cpu."]);
    bench.later(2);
    bench.state.pod_gone("old", bench.now);
    assert_eq!(bench.verdicts(), ["p -> a"]);
}

#[test]
fn what_cannot_be_placed_says_why_once() {
    let told = unfit_condition(&pod("p", json!({})), "why").expect("a patch");
    assert_eq!(told["status"]["conditions"][0]["reason"], "Unschedulable");
    let mut pod = Pod::clone(&pod("p", json!({})));
    pod.status =
        serde_json::from_value(json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "why"}]}))
            .ok();
    assert_eq!(unfit_condition(&pod, "why"), None);
    assert!(unfit_condition(&pod, "another why").is_some());
}

#[test]
fn the_sentence_is_upstreams() {
    let reasons = BTreeMap::from([("Insufficient memory".to_owned(), 1), ("Insufficient cpu".to_owned(), 2)]);
    assert_eq!(filters::explain(3, &reasons), "0/3 nodes are available: 1 Insufficient memory, 2 Insufficient cpu.");
}
