//! DECIDE: a node's conditions, taints and the pods that must leave it, out of how long it has been silent.
//!
//! As upstream's node lifecycle and taint eviction controllers: a silent node's conditions become Unknown; Ready False or
//! Unknown puts the taints `not-ready` or `unreachable` (NoSchedule and NoExecute); a NoExecute taint evicts each pod
//! when its toleration runs out. A pod without a toleration for these two taints gets the 300 s that upstream's
//! admission plug-in DefaultTolerationSeconds would have written into it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::controllers::meta::{elapsed, is_finished, is_ready, is_terminating, name, namespace, seconds_text};
use crate::controllers::write::Write;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// What the default toleration grants.
const DEFAULT_SECONDS: u64 = 300;

/// What the controller knows of a node beside its object.
pub(super) struct Seen<'a> {
    pub(super) node: &'a Node,
    /// How long ago the node's Lease or status last changed, by our own clock: clocks of nodes are not compared.
    pub(super) silent_for: Duration,
    pub(super) grace: Duration,
    /// The pods on the node.
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) now: Timestamp,
}

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Decision {
    pub(super) writes: Vec<Write>,
    /// When time alone will change the decision.
    pub(super) look_again: Option<Duration>,
    /// The node has just become unreachable.
    pub(super) lost: bool,
    /// Pods that are evicted now, by (namespace, name).
    pub(super) evicted: Vec<(String, String)>,
}

pub(super) fn decide(seen: &Seen<'_>) -> Decision {
    let mut decision = Decision::default();
    if is_terminating(&seen.node.metadata) {
        return decision;
    }
    let silent = seen.silent_for >= seen.grace;
    if silent {
        decision.writes.extend(unknown_conditions(seen));
        decision.lost = !decision.writes.is_empty();
    } else {
        decision.look_again = Some(seen.grace - seen.silent_for);
    }
    let ready = if silent { "Unknown" } else { ready(seen.node) };
    let (taints, changed) = taints(seen, ready);
    if changed {
        decision.writes.push(patch_taints(seen.node, &taints));
    }
    if ready != "True" {
        decision.writes.extend(seen.pods.iter().filter(|pod| is_ready(pod)).map(|pod| not_ready(pod, seen.now)));
    }
    evict(seen, &taints, &mut decision);
    decision
}

fn ready(node: &Node) -> &str {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    ready.map_or("Unknown", |condition| condition.status.as_str())
}

/// All conditions of a silent node become Unknown.
fn unknown_conditions(seen: &Seen<'_>) -> Option<Write> {
    let status = seen.node.status.as_ref();
    let known = status.and_then(|status| status.conditions.as_ref());
    let mut kinds = vec!["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
    kinds.retain(|kind| known.into_iter().flatten().all(|c| c.type_ != *kind || c.status != "Unknown"));
    if kinds.is_empty() {
        return None;
    }
    let now = seconds_text(seen.now);
    let condition = |kind: &&str| {
        let before = known.into_iter().flatten().find(|c| c.type_ == **kind);
        let (reason, message) = match before {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        json!({"type": kind, "status": "Unknown", "reason": reason, "message": message, "lastTransitionTime": now})
    };
    let conditions: Vec<Value> = kinds.iter().map(condition).collect();
    Some(Write::PatchStatus {
        resource: "nodes",
        namespace: String::new(),
        name: name(&seen.node.metadata).to_owned(),
        body: json!({"status": {"conditions": conditions}}),
    })
}

/// The taints the node should have, and whether they differ from those it has.
fn taints(seen: &Seen<'_>, ready: &str) -> (Vec<Taint>, bool) {
    let spec = seen.node.spec.as_ref();
    let has = spec.and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let wanted: Vec<(&str, &str)> = match ready {
        "True" => vec![],
        "False" => vec![(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")],
        _ => vec![(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")],
    };
    let cordoned = spec.and_then(|spec| spec.unschedulable) == Some(true);
    let wanted: Vec<_> = wanted.into_iter().chain(cordoned.then_some((UNSCHEDULABLE, "NoSchedule"))).collect();
    let is_ours = |taint: &Taint| match taint.key.as_str() {
        NOT_READY | UNREACHABLE => true,
        UNSCHEDULABLE => taint.effect == "NoSchedule",
        _ => false,
    };
    let asked = |taint: &Taint| wanted.iter().any(|(key, effect)| taint.key == *key && taint.effect == *effect);
    let mut taints: Vec<Taint> = has.iter().filter(|taint| !is_ours(taint) || asked(taint)).cloned().collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            let time_added = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(seen.now));
            taints.push(Taint { key: key.to_owned(), effect: effect.to_owned(), value: None, time_added });
        }
    }
    let changed = taints != has;
    (taints, changed)
}

fn patch_taints(node: &Node, taints: &[Taint]) -> Write {
    let taints: Vec<Value> = taints
        .iter()
        .map(|taint| {
            let mut value = json!(taint);
            if let Some(time) = &taint.time_added {
                value["timeAdded"] = seconds_text(time.0).into();
            }
            value
        })
        .collect();
    let taints = if taints.is_empty() { Value::Null } else { taints.into() };
    Write::Patch {
        resource: "nodes",
        namespace: String::new(),
        name: name(&node.metadata).to_owned(),
        body: json!({
            "metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
            "spec": {"taints": taints},
        }),
    }
}

/// Nobody can tell whether a pod on such a node still serves.
fn not_ready(pod: &Pod, now: Timestamp) -> Write {
    Write::PatchStatus {
        resource: "pods",
        namespace: namespace(&pod.metadata).to_owned(),
        name: name(&pod.metadata).to_owned(),
        body: json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [
            {"type": "Ready", "status": "False", "reason": "NodeNotReady", "lastTransitionTime": seconds_text(now)},
        ]}}),
    }
}

/// Evicts what does not tolerate the NoExecute taints any longer.
fn evict(seen: &Seen<'_>, taints: &[Taint], decision: &mut Decision) {
    let executing: Vec<_> = taints.iter().filter(|taint| taint.effect == "NoExecute").collect();
    for pod in seen.pods.iter().filter(|pod| !is_finished(pod) && !is_terminating(&pod.metadata)) {
        let waits = executing.iter().filter_map(|taint| leaves_in(pod, taint, seen.now));
        match waits.min() {
            None => {}
            Some(wait) if wait.is_zero() => {
                let (namespace, name) = (namespace(&pod.metadata).to_owned(), name(&pod.metadata).to_owned());
                decision.evicted.push((namespace.clone(), name.clone()));
                let uid = pod.metadata.uid.clone();
                decision.writes.push(Write::Delete { resource: "pods", namespace, name, uid, grace: None });
            }
            Some(wait) => decision.look_again = Some(decision.look_again.map_or(wait, |other| other.min(wait))),
        }
    }
}

/// How long until the pod must leave because of the taint; `None` if it may stay.
fn leaves_in(pod: &Pod, taint: &Taint, now: Timestamp) -> Option<Duration> {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_ref());
    let mut fitting = tolerations.into_iter().flatten().filter(|toleration| tolerates(toleration, taint)).peekable();
    let allowed = if fitting.peek().is_none() {
        match taint.key.as_str() {
            NOT_READY | UNREACHABLE => DEFAULT_SECONDS,
            _ => 0,
        }
    } else {
        // The shortest of those that name a time; for ever if none does.
        fitting.filter_map(|toleration| toleration.toleration_seconds).map(|n| n.max(0) as u64).min()?
    };
    let since = taint.time_added.as_ref().map_or(now, |time| time.0);
    Some(Duration::from_secs(allowed).saturating_sub(elapsed(since, now)))
}

/// Whether a toleration fits a taint (API: `Toleration`).
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    if !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => !key.is_empty() && text(&toleration.value) == text(&taint.value),
        Some(_) => false,
    }
}
