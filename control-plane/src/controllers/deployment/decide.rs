//! DECIDE: a Deployment and its ReplicaSets -> the next writes of its rollout.
//!
//! The order of upstream's `pkg/controller/deployment/sync.go`: claim ReplicaSets, scale only if paused or if the
//! Deployment was scaled, else find or make the new ReplicaSet, move replicas by the strategy, clean up old
//! ReplicaSets, write the status. Each look makes one step; the events of its writes bring the next look.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{hash, rolling, scale, sets, status};
use crate::controllers::meta::{controller_of, is_finished, is_terminating, name, namespace, uid};
use crate::controllers::write::Write;

pub(super) const DEPLOYMENTS: &str = "deployments.apps";
pub(super) const REPLICASETS: &str = "replicasets.apps";

/// All that a decision rests upon.
pub(crate) struct Snapshot<'a> {
    pub(crate) deployment: &'a Deployment,
    /// All ReplicaSets of the namespace.
    pub(crate) sets: &'a [Arc<ReplicaSet>],
    /// All pods of the namespace (asked only by the strategy Recreate).
    pub(crate) pods: &'a [Arc<Pod>],
    pub(crate) now: Timestamp,
}

/// What to do, in this order.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    pub(crate) writes: Vec<Write>,
    /// (reason, message) of events about the Deployment; all of type Normal.
    pub(crate) events: Vec<(&'static str, String)>,
    /// When the progress deadline will be over.
    pub(crate) look_again: Option<Duration>,
}

/// The Deployment's own ReplicaSets, sorted into new and old (oldest first).
pub(super) struct Sets {
    pub(super) new: Option<Arc<ReplicaSet>>,
    pub(super) old: Vec<Arc<ReplicaSet>>,
}

impl Sets {
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }
}

/// The numbers of the spec, with percentages resolved.
pub(super) struct Bounds {
    /// Pods wanted.
    pub(super) replicas: i32,
    /// Pods above that during a rollout.
    pub(super) surge: i32,
    /// Pods that may be unavailable during a rollout.
    pub(super) unavailable: i32,
}

impl Bounds {
    pub(super) fn of(deployment: &Deployment) -> Bounds {
        let spec = deployment.spec.as_ref();
        let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1).max(0);
        if is_recreate(deployment) {
            return Bounds { replicas, surge: 0, unavailable: replicas };
        }
        let rolling = spec.and_then(|s| s.strategy.as_ref()).and_then(|s| s.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".to_owned());
        let surge = share(rolling.and_then(|r| r.max_surge.as_ref()).unwrap_or(&quarter), replicas, true);
        let unavailable = share(rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&quarter), replicas, false);
        // Both zero would never move (both may round to zero): then one pod may go.
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        Bounds { replicas, surge, unavailable: unavailable.min(replicas) }
    }
}

/// A number, or a percentage of `whole` rounded up or down; nonsense counts 0.
fn share(value: &IntOrString, whole: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(n) => (*n).max(0),
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let exact = i64::from(whole) * percent.max(0);
            let rounded = if up { (exact + 99) / 100 } else { exact / 100 };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

fn is_paused(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true)
}

/// Decides the next step.
pub(crate) fn decide(seen: &Snapshot<'_>) -> Decision {
    let mut decision = Decision::default();
    let deployment = seen.deployment;
    if deployment.spec.is_none() {
        return decision;
    }
    let (owned, claims) = sets::claim(deployment, seen.sets);
    decision.writes = claims;
    let sets = sets::sort(deployment, owned);
    if is_terminating(&deployment.metadata) {
        write_status(seen, &sets, &mut decision, status::Progress::Unknown);
        return decision;
    }
    if is_paused(deployment) || scale::is_scaling(deployment, &sets) {
        scale::scale(deployment, &sets, &mut decision);
        if is_paused(deployment) {
            sets::clean_up(deployment, &sets, &mut decision);
        }
        write_status(seen, &sets, &mut decision, status::Progress::Unknown);
        return decision;
    }
    let progress = match is_recreate(deployment) {
        true => recreate(seen, &sets, &mut decision),
        false => roll(deployment, &sets, &mut decision),
    };
    if status::is_complete(deployment, &status::count(deployment, &sets)) {
        sets::clean_up(deployment, &sets, &mut decision);
    }
    write_status(seen, &sets, &mut decision, progress);
    decision
}

fn roll(deployment: &Deployment, sets: &Sets, decision: &mut Decision) -> status::Progress {
    let bounds = Bounds::of(deployment);
    let Some(new) = &sets.new else {
        let replicas = rolling::new_replicas(&bounds, sets);
        return sets::create_new(deployment, sets, replicas, decision);
    };
    if sets::refresh_new(deployment, new, sets, decision) {
        return status::found(deployment, new);
    }
    let replicas = rolling::new_replicas(&bounds, sets);
    if replicas != sets::replicas(new) {
        sets::set_replicas(deployment, new, replicas, decision);
        return status::Progress::Unknown; // the status tells
    }
    for (set, replicas) in rolling::old_replicas(&bounds, new, sets) {
        sets::set_replicas(deployment, set, replicas, decision);
    }
    status::Progress::Unknown
}

fn recreate(seen: &Snapshot<'_>, sets: &Sets, decision: &mut Decision) -> status::Progress {
    let deployment = seen.deployment;
    let live: Vec<_> = sets.old.iter().filter(|set| sets::replicas(set) > 0).collect();
    if !live.is_empty() {
        live.into_iter().for_each(|set| sets::set_replicas(deployment, set, 0, decision));
        return status::Progress::Unknown;
    }
    if seen.pods.iter().any(|pod| !is_finished(pod) && belongs(pod, &sets.old)) {
        return status::Progress::Unknown; // the old ones have not stopped yet
    }
    let replicas = Bounds::of(deployment).replicas;
    let Some(new) = &sets.new else { return sets::create_new(deployment, sets, replicas, decision) };
    if !sets::refresh_new(deployment, new, sets, decision) && sets::replicas(new) != replicas {
        sets::set_replicas(deployment, new, replicas, decision);
    }
    status::Progress::Unknown
}

fn belongs(pod: &Pod, sets: &[Arc<ReplicaSet>]) -> bool {
    let owner = controller_of(&pod.metadata);
    owner.is_some_and(|owner| sets.iter().any(|set| uid(&set.metadata) == owner.uid))
}

fn write_status(seen: &Snapshot<'_>, sets: &Sets, decision: &mut Decision, progress: status::Progress) {
    let deployment = seen.deployment;
    let old = deployment.status.clone().unwrap_or_default();
    let (new, look_again) = status::status(deployment, sets, progress, seen.now);
    decision.look_again = look_again;
    if new != old {
        decision.writes.push(status_write(deployment, &new));
    }
}

fn status_write(deployment: &Deployment, status: &DeploymentStatus) -> Write {
    // Fields that are none now must go: a merge with null removes them.
    let fields = [
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "collisionCount",
        "observedGeneration",
        "conditions",
    ];
    let mut body: Value = json!(status);
    for field in fields {
        if body.get(field).is_none() {
            body[field] = Value::Null;
        }
    }
    Write::PatchStatus {
        resource: DEPLOYMENTS,
        namespace: namespace(&deployment.metadata).to_owned(),
        name: name(&deployment.metadata).to_owned(),
        body: json!({"status": body}),
    }
}

/// The template's hash for this Deployment.
pub(super) fn template_hash(deployment: &Deployment) -> String {
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    deployment.spec.as_ref().map(|spec| hash::hash(&spec.template, collisions)).unwrap_or_default()
}
