//! DECIDE: the ReplicaSets of a Deployment: claiming, sorting, making, resizing and forgetting them.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::{Value, json};

use super::decide::{Bounds, DEPLOYMENTS, Decision, REPLICASETS, Sets, template_hash};
use super::hash;
use super::status::Progress;
use crate::controllers::meta::{controller_of, is_terminating, name, namespace, owned_by, selects, uid};
use crate::controllers::write::Write;

/// Annotation: the number of the template in the Deployment's history, on both kinds.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotation: the Deployment's replicas when the set was sized.
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a Deployment that are about itself alone.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    "deployment.kubernetes.io/revision-history",
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// Annotation: replicas + surge when the set was sized.
pub(super) fn max_replicas() -> &'static str {
    MAX
}

/// What a set is asked to run.
pub(super) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// How many of its pods are available.
pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

pub(super) fn annotation_number(set: &ReplicaSet, annotation: &str) -> Option<i32> {
    set.metadata.annotations.as_ref()?.get(annotation)?.parse().ok()
}

/// The sets that are the Deployment's, and the writes that adopt or release some.
pub(super) fn claim(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> (Vec<Arc<ReplicaSet>>, Vec<Write>) {
    let (mut owned, mut writes) = (Vec::new(), Vec::new());
    let Some(spec) = &deployment.spec else { return (owned, writes) };
    let going = is_terminating(&deployment.metadata);
    for set in sets {
        let selected = selects(&spec.selector, set.metadata.labels.as_ref());
        match controller_of(&set.metadata) {
            Some(owner) if owner.uid != uid(&deployment.metadata) => {}
            Some(_) if selected || going => owned.push(set.clone()),
            Some(_) => {
                let others = set.metadata.owner_references.iter().flatten();
                let kept = others.filter(|owner| owner.uid != uid(&deployment.metadata)).map(|owner| json!(owner));
                writes.push(patch_owners(set, kept.collect()));
            }
            None if selected && !going && !is_terminating(&set.metadata) => {
                let others = set.metadata.owner_references.iter().flatten().map(|owner| json!(owner));
                writes.push(patch_owners(set, others.chain([owned_by(deployment)]).collect()));
                owned.push(set.clone());
            }
            None => {}
        }
    }
    (owned, writes)
}

fn patch_owners(set: &ReplicaSet, owners: Vec<Value>) -> Write {
    let owners = if owners.is_empty() { Value::Null } else { owners.into() };
    patch(set, json!({"metadata": {"ownerReferences": owners}}))
}

/// A merge patch that holds only for this set at this revision.
fn patch(set: &ReplicaSet, mut body: Value) -> Write {
    body["metadata"]["uid"] = json!(set.metadata.uid);
    body["metadata"]["resourceVersion"] = json!(set.metadata.resource_version);
    let (namespace, name) = (namespace(&set.metadata).to_owned(), name(&set.metadata).to_owned());
    Write::Patch { resource: REPLICASETS, namespace, name, body }
}

/// Sorts a Deployment's sets: the oldest with today's template is the new one.
pub(super) fn sort(deployment: &Deployment, mut owned: Vec<Arc<ReplicaSet>>) -> Sets {
    owned.sort_by(|a, b| {
        let key = |set: &Arc<ReplicaSet>| set.metadata.creation_timestamp.clone();
        key(a).cmp(&key(b)).then_with(|| name(&a.metadata).cmp(name(&b.metadata)))
    });
    let wanted = deployment.spec.as_ref().map(|spec| &spec.template);
    let fits = |set: &Arc<ReplicaSet>| {
        let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        template.zip(wanted).is_some_and(|(a, b)| hash::same(a, b))
    };
    let new = owned.iter().position(fits).map(|at| owned.remove(at));
    Sets { new, old: owned }
}

/// The new ReplicaSet's number in the history: one above all.
fn next_revision(sets: &Sets) -> i64 {
    sets.old.iter().filter_map(|set| revision(set)).max().unwrap_or(0) + 1
}

fn revision(set: &ReplicaSet) -> Option<i64> {
    set.metadata.annotations.as_ref()?.get(REVISION)?.parse().ok()
}

fn sizes(bounds: &Bounds) -> [(&'static str, String); 2] {
    [(DESIRED, bounds.replicas.to_string()), (MAX, (bounds.replicas + bounds.surge).to_string())]
}

/// Annotations of the new set: the Deployment's, its revision, its sizes.
fn annotations(deployment: &Deployment, revision: i64) -> BTreeMap<String, String> {
    let own = deployment.metadata.annotations.iter().flatten();
    let own = own.filter(|(key, _)| !NOT_COPIED.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone()));
    let sizes = sizes(&Bounds::of(deployment)).map(|(k, v)| (k.to_owned(), v));
    own.chain(sizes).chain([(REVISION.to_owned(), revision.to_string())]).collect()
}

/// Makes the set for today's template.
pub(super) fn create_new(deployment: &Deployment, sets: &Sets, replicas: i32, decision: &mut Decision) -> Progress {
    let Some(spec) = &deployment.spec else { return Progress::Unknown };
    let hash = template_hash(deployment);
    let set_name = format!("{}-{hash}", name(&deployment.metadata));
    let revision = next_revision(sets);
    let mut template = spec.template.clone();
    let meta = template.metadata.get_or_insert_default();
    meta.labels.get_or_insert_default().insert(hash::LABEL.to_owned(), hash.clone());
    let labels = json!(meta.labels);
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(hash::LABEL.to_owned(), hash);
    let object = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": set_name, "namespace": namespace(&deployment.metadata), "labels": labels,
            "annotations": annotations(deployment, revision), "ownerReferences": [owned_by(deployment)],
        },
        "spec": {
            "replicas": replicas, "minReadySeconds": spec.min_ready_seconds.unwrap_or(0),
            "selector": selector, "template": template,
        },
    });
    decision.writes.push(Write::Create { resource: REPLICASETS, object });
    decision.writes.extend(set_revision(deployment, revision));
    if replicas > 0 {
        let told = format!("Scaled up replica set {set_name} from 0 to {replicas}");
        decision.events.push(("ScalingReplicaSet", told));
    }
    Progress::Made("NewReplicaSetCreated", format!("Created new replica set {set_name:?}"))
}

/// Brings the new set's annotations and minReadySeconds up to date; true when that took a write of the set.
pub(super) fn refresh_new(deployment: &Deployment, new: &ReplicaSet, sets: &Sets, decision: &mut Decision) -> bool {
    // A set that was new before (a roll-back) moves to the end of the history.
    let number = next_revision(sets).max(revision(new).unwrap_or(0));
    let mut wanted = annotations(deployment, number);
    // The sizes are written when the set is resized.
    wanted.retain(|key, _| key != DESIRED && key != MAX);
    let has = new.metadata.annotations.as_ref();
    wanted.retain(|key, value| has.and_then(|has| has.get(key)) != Some(value));
    let ready = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let same_ready = new.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0) == ready;
    decision.writes.extend(set_revision(deployment, number));
    if wanted.is_empty() && same_ready {
        return false;
    }
    decision.writes.push(patch(new, json!({"metadata": {"annotations": wanted}, "spec": {"minReadySeconds": ready}})));
    true
}

/// Writes the Deployment's own revision annotation if it is another.
fn set_revision(deployment: &Deployment, revision: i64) -> Option<Write> {
    let now = deployment.metadata.annotations.as_ref().and_then(|a| a.get(REVISION));
    (now.and_then(|text| text.parse::<i64>().ok()) != Some(revision)).then(|| Write::Patch {
        resource: DEPLOYMENTS,
        namespace: namespace(&deployment.metadata).to_owned(),
        name: name(&deployment.metadata).to_owned(),
        body: json!({"metadata": {"annotations": {REVISION: revision.to_string()}}}),
    })
}

/// Resizes a set.
pub(super) fn set_replicas(deployment: &Deployment, set: &ReplicaSet, to: i32, decision: &mut Decision) {
    let from = replicas(set);
    let sizes: BTreeMap<_, _> = sizes(&Bounds::of(deployment)).into();
    decision.writes.push(patch(set, json!({"metadata": {"annotations": sizes}, "spec": {"replicas": to}})));
    if from != to {
        let way = if from < to { "up" } else { "down" };
        let told = format!("Scaled {way} replica set {} from {from} to {to}", name(&set.metadata));
        decision.events.push(("ScalingReplicaSet", told));
    }
}

/// Deletes old sets that run nothing, beyond the history that is to be kept.
pub(super) fn clean_up(deployment: &Deployment, sets: &Sets, decision: &mut Decision) {
    let keep = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10).max(0) as usize;
    let idle = |set: &&Arc<ReplicaSet>| {
        let status = set.status.as_ref();
        replicas(set) == 0
            && status.is_none_or(|status| status.replicas == 0)
            && status.and_then(|status| status.observed_generation) >= set.metadata.generation
            && !is_terminating(&set.metadata)
    };
    let mut idle: Vec<_> = sets.old.iter().filter(idle).collect();
    idle.sort_by_key(|set| revision(set).unwrap_or(0));
    let surplus = idle.len().saturating_sub(keep);
    decision.writes.extend(idle.into_iter().take(surplus).map(|set| Write::Delete {
        resource: REPLICASETS,
        namespace: namespace(&set.metadata).to_owned(),
        name: name(&set.metadata).to_owned(),
        uid: set.metadata.uid.clone(),
        grace: None,
    }));
}
