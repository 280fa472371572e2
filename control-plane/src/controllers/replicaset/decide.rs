//! DECIDE: a ReplicaSet and the pods of its namespace -> what to adopt, release, create, delete, and the status.
//!
//! As upstream's `pkg/controller/replicaset`: finished and terminating pods do not count; which pods go first is
//! upstream's order, so that a scale-down takes what serves least.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::controllers::meta::selects;
use crate::controllers::meta::{
    available_in, controller_of, is_active, is_ready, is_terminating, name, namespace, owned_by, phase, ready_since,
    uid,
};
use crate::controllers::write::Write;

/// Pods created or deleted in one look at a ReplicaSet, at most (upstream's `BurstReplicas`).
const BURST: usize = 500;

/// What to do.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    /// Pods that get or lose our owner reference.
    pub(crate) claims: Vec<Write>,
    /// Pods to create.
    pub(crate) creates: Vec<Write>,
    /// Pods to delete, the least useful first.
    pub(crate) deletes: Vec<Write>,
    /// Pods that count now, for the status.
    pub(crate) active: Vec<Arc<Pod>>,
    /// When a ready pod will have been ready for long enough.
    pub(crate) look_again: Option<Duration>,
}

/// Decides over `pods`, all pods of the namespace.
pub(crate) fn decide(rs: &ReplicaSet, pods: &[Arc<Pod>], now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    let Some(spec) = &rs.spec else { return decision };
    let going = is_terminating(&rs.metadata);
    for pod in pods.iter().filter(|pod| is_active(pod)) {
        match claim(rs, pod, going) {
            Claim::Ours => decision.active.push(pod.clone()),
            Claim::Adopt(write) => {
                decision.claims.push(write);
                decision.active.push(pod.clone());
            }
            Claim::Release(write) => decision.claims.push(write),
            Claim::Foreign => {}
        }
    }
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let waits = decision.active.iter().filter_map(|pod| available_in(pod, min_ready, now));
    decision.look_again = waits.filter(|wait| !wait.is_zero()).min();
    if going {
        return decision;
    }
    let wanted = spec.replicas.unwrap_or(1).max(0) as usize;
    let have = decision.active.len();
    if have < wanted {
        decision.creates = vec![new_pod(rs); (wanted - have).min(BURST)];
    } else if have > wanted {
        let surplus = (have - wanted).min(BURST);
        decision.deletes = rank(&decision.active, now).into_iter().take(surplus).map(|pod| delete(&pod)).collect();
    }
    decision
}

enum Claim {
    Ours,
    Adopt(Write),
    Release(Write),
    Foreign,
}

fn claim(rs: &ReplicaSet, pod: &Pod, going: bool) -> Claim {
    let selector = rs.spec.as_ref().map(|spec| &spec.selector);
    let selected = selector.is_some_and(|selector| selects(selector, pod.metadata.labels.as_ref()));
    match controller_of(&pod.metadata) {
        Some(owner) if owner.uid != uid(&rs.metadata) => Claim::Foreign,
        Some(_) if selected => Claim::Ours,
        Some(_) if going => Claim::Foreign,
        Some(_) => {
            let kept = pod.metadata.owner_references.iter().flatten().filter(|owner| owner.uid != uid(&rs.metadata));
            Claim::Release(patch_owners(pod, kept.map(|owner| json!(owner)).collect()))
        }
        None if selected && !going => {
            let others = pod.metadata.owner_references.iter().flatten().map(|owner| json!(owner));
            Claim::Adopt(patch_owners(pod, others.chain([owned_by(rs)]).collect()))
        }
        None => Claim::Foreign,
    }
}

/// A merge patch that holds only for this very pod at this very revision.
fn patch_owners(pod: &Pod, owners: Vec<Value>) -> Write {
    let owners = if owners.is_empty() { Value::Null } else { owners.into() };
    Write::Patch {
        resource: "pods",
        namespace: namespace(&pod.metadata).to_owned(),
        name: name(&pod.metadata).to_owned(),
        body: json!({"metadata": {
            "uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version, "ownerReferences": owners,
        }}),
    }
}

fn new_pod(rs: &ReplicaSet) -> Write {
    let template = rs.spec.as_ref().and_then(|spec| spec.template.as_ref());
    let meta = template.and_then(|template| template.metadata.as_ref());
    let mut metadata = json!({
        "generateName": format!("{}-", name(&rs.metadata)),
        "namespace": namespace(&rs.metadata),
        "ownerReferences": [owned_by(rs)],
    });
    let copied = [
        ("labels", json!(meta.and_then(|m| m.labels.as_ref()))),
        ("annotations", json!(meta.and_then(|m| m.annotations.as_ref()))),
        ("finalizers", json!(meta.and_then(|m| m.finalizers.as_ref()))),
    ];
    for (field, value) in copied.into_iter().filter(|(_, value)| !value.is_null()) {
        metadata[field] = value;
    }
    let spec = template.and_then(|template| template.spec.as_ref());
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
    Write::Create { resource: "pods", object }
}

fn delete(pod: &Pod) -> Write {
    Write::Delete {
        resource: "pods",
        namespace: namespace(&pod.metadata).to_owned(),
        name: name(&pod.metadata).to_owned(),
        uid: pod.metadata.uid.clone(),
        grace: None,
    }
}

/// Active pods, the first to be deleted first (upstream: `ActivePodsWithRanks`).
fn rank(pods: &[Arc<Pod>], now: Timestamp) -> Vec<Arc<Pod>> {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in pods {
        *on_node.entry(node(pod)).or_default() += 1;
    }
    let mut ranked = pods.to_vec();
    ranked.sort_by(|a, b| {
        let key = |pod: &Arc<Pod>| {
            let crowd = if node(pod).is_empty() { 0 } else { on_node[node(pod)] };
            (!node(pod).is_empty(), phase_rank(pod), is_ready(pod), deletion_cost(pod), Reverse(crowd))
        };
        let age = |time: Option<Timestamp>| time.map_or(0, |time| bucket(time, now));
        key(a)
            .cmp(&key(b))
            .then_with(|| age(ready_since(a)).cmp(&age(ready_since(b))))
            .then_with(|| restarts(b).cmp(&restarts(a)))
            .then_with(|| newer_first(a, b))
            .then_with(|| name(&a.metadata).cmp(name(&b.metadata)))
    });
    ranked
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn phase_rank(pod: &Pod) -> u8 {
    match phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    }
}

/// Annotation `controller.kubernetes.io/pod-deletion-cost`; what is not a number counts 0.
fn deletion_cost(pod: &Pod) -> i32 {
    let cost = pod.metadata.annotations.as_ref().and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost"));
    cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// The logarithm of an age: pods of about the same age are alike, the younger go first.
fn bucket(since: Timestamp, now: Timestamp) -> u32 {
    let seconds = now.as_second().saturating_sub(since.as_second()).max(0) as u64;
    u64::BITS - seconds.leading_zeros()
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|container| container.restart_count).max().unwrap_or(0)
}

fn newer_first(a: &Pod, b: &Pod) -> Ordering {
    b.metadata.creation_timestamp.cmp(&a.metadata.creation_timestamp)
}

/// The status over the pods that count; `failure` is why the last pods could not be created or deleted.
pub(crate) fn status(
    rs: &ReplicaSet,
    active: &[Arc<Pod>],
    failure: Option<Failure>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let spec = rs.spec.as_ref();
    let template = spec.and_then(|spec| spec.template.as_ref()).and_then(|t| t.metadata.as_ref());
    let wanted = template.and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let labelled = |pod: &&Arc<Pod>| {
        wanted.iter().all(|(key, value)| pod.metadata.labels.as_ref().and_then(|labels| labels.get(key)) == Some(value))
    };
    let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let available = |pod: &&Arc<Pod>| available_in(pod, min_ready, now) == Some(Duration::ZERO);
    let count = |n: usize| (n > 0).then_some(n as i32);
    ReplicaSetStatus {
        replicas: active.len() as i32,
        fully_labeled_replicas: count(active.iter().filter(labelled).count()),
        ready_replicas: count(active.iter().filter(|pod| is_ready(pod)).count()),
        available_replicas: count(active.iter().filter(available).count()),
        observed_generation: rs.metadata.generation,
        conditions: conditions(rs, failure, now),
        ..ReplicaSetStatus::default()
    }
}

/// Why pods could not be created or deleted.
pub(crate) struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

fn conditions(rs: &ReplicaSet, failure: Option<Failure>, now: Timestamp) -> Option<Vec<ReplicaSetCondition>> {
    const FAILURE: &str = "ReplicaFailure";
    let old = rs.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut conditions: Vec<_> = old.iter().filter(|c| c.type_ != FAILURE).cloned().collect();
    if let Some(Failure { reason, message }) = failure {
        let before = old.iter().find(|c| c.type_ == FAILURE && c.reason.as_deref() == Some(reason)).cloned();
        conditions.push(before.unwrap_or_else(|| ReplicaSetCondition {
            type_: FAILURE.to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        }));
    }
    (!conditions.is_empty()).then_some(conditions)
}
