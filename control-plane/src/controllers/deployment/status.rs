//! DECIDE: a Deployment's status, so that `kubectl rollout status` and `kubectl wait` can follow it.
//!
//! Conditions as upstream: `Available` (MinimumReplicasAvailable / MinimumReplicasUnavailable) and `Progressing`
//! (NewReplicaSetCreated, FoundNewReplicaSet, ReplicaSetUpdated, NewReplicaSetAvailable, ProgressDeadlineExceeded,
//! DeploymentPaused, DeploymentResumed).

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::decide::{Bounds, Sets};
use super::sets::replicas;
use crate::controllers::meta::{elapsed, name};

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";

/// What this look did for the rollout.
pub(super) enum Progress {
    /// The numbers tell.
    Unknown,
    /// A step, with the condition's reason and message.
    Made(&'static str, String),
}

/// A rollout that starts with a ReplicaSet that was there (adopted, or made before the Deployment had a status).
pub(super) fn found(deployment: &Deployment, new: &ReplicaSet) -> Progress {
    let conditions = deployment.status.as_ref().and_then(|status| status.conditions.as_ref());
    if conditions.into_iter().flatten().any(|c| c.type_ == PROGRESSING) {
        return Progress::Unknown;
    }
    Progress::Made("FoundNewReplicaSet", format!("Found new replica set {:?}", name(&new.metadata)))
}

/// The counts, without conditions.
pub(super) fn count(deployment: &Deployment, sets: &Sets) -> DeploymentStatus {
    let sum = |field: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| -> i32 {
        sets.all().filter_map(|set| set.status.as_ref()).map(field).sum()
    };
    let wanted: i32 = sets.all().map(|set| replicas(set)).sum();
    let available = sum(|status| status.available_replicas.unwrap_or(0));
    let updated = sets.new.as_ref().and_then(|set| set.status.as_ref()).map_or(0, |status| status.replicas);
    let some = |n: i32| (n > 0).then_some(n);
    DeploymentStatus {
        replicas: some(sum(|status| status.replicas)),
        updated_replicas: some(updated),
        ready_replicas: some(sum(|status| status.ready_replicas.unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some((wanted - available).max(0)),
        observed_generation: deployment.metadata.generation,
        collision_count: deployment.status.as_ref().and_then(|status| status.collision_count),
        ..DeploymentStatus::default()
    }
}

/// Whether all pods are of today's template and available, and no old one is left.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = Bounds::of(deployment).replicas;
    let at = |n: Option<i32>| n.unwrap_or(0) == wanted;
    at(status.updated_replicas) && at(status.replicas) && at(status.available_replicas)
}

/// The whole status, and how long until the progress deadline is worth a look.
pub(super) fn status(
    deployment: &Deployment,
    sets: &Sets,
    progress: Progress,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let mut status = count(deployment, sets);
    let old = deployment.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = old.cloned().unwrap_or_default();
    let bounds = Bounds::of(deployment);
    let enough = status.available_replicas.unwrap_or(0) >= bounds.replicas - bounds.unavailable;
    let (truth, reason, message) = match enough {
        true => ("True", "MinimumReplicasAvailable", "Deployment has minimum availability."),
        false => ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
    };
    set(&mut conditions, AVAILABLE, truth, reason, message, now);
    let look_again = follow_progress(deployment, sets, progress, &status, &mut conditions, now);
    status.conditions = Some(conditions);
    (status, look_again)
}

fn follow_progress(
    deployment: &Deployment,
    sets: &Sets,
    progress: Progress,
    status: &DeploymentStatus,
    conditions: &mut Vec<DeploymentCondition>,
    now: Timestamp,
) -> Option<Duration> {
    let spec = deployment.spec.as_ref()?;
    // "No deadline" is spelled as the largest number.
    let deadline = spec.progress_deadline_seconds.filter(|n| *n != i32::MAX)?;
    let before = conditions.iter().find(|c| c.type_ == PROGRESSING).cloned();
    let reason = before.as_ref().and_then(|c| c.reason.as_deref()).unwrap_or_default();
    let paused = spec.paused == Some(true);
    match (paused, reason) {
        (true, "ProgressDeadlineExceeded") | (true, "DeploymentPaused") => return None,
        (true, _) => {
            set(conditions, PROGRESSING, "Unknown", "DeploymentPaused", "Deployment is paused", now);
            return None;
        }
        (false, "DeploymentPaused") => {
            set(conditions, PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed", now);
            return Some(Duration::from_secs(deadline.max(0) as u64 + 1));
        }
        _ => {}
    }
    if let Progress::Made(reason, message) = progress {
        set(conditions, PROGRESSING, "True", reason, &message, now);
        touch(conditions, now);
        return Some(Duration::from_secs(deadline.max(0) as u64 + 1));
    }
    let subject = match &sets.new {
        Some(new) => format!("ReplicaSet {:?}", name(&new.metadata)),
        None => format!("Deployment {:?}", name(&deployment.metadata)),
    };
    if is_complete(deployment, status) {
        let message = format!("{subject} has successfully progressed.");
        set(conditions, PROGRESSING, "True", "NewReplicaSetAvailable", &message, now);
        return None;
    }
    if is_progressing(deployment, status) {
        set(conditions, PROGRESSING, "True", "ReplicaSetUpdated", &format!("{subject} is progressing."), now);
        touch(conditions, now);
        return Some(Duration::from_secs(deadline.max(0) as u64 + 1));
    }
    // A complete rollout that lost a pod later has no deadline any more.
    if reason == "NewReplicaSetAvailable" || reason == "ProgressDeadlineExceeded" {
        return None;
    }
    let since = before.as_ref().and_then(|c| c.last_update_time.as_ref()).map_or(now, |time| time.0);
    let left = Duration::from_secs(deadline.max(0) as u64).saturating_sub(elapsed(since, now));
    if left.is_zero() && before.is_some() {
        let message = format!("{subject} has timed out progressing.");
        set(conditions, PROGRESSING, "False", "ProgressDeadlineExceeded", &message, now);
        return None;
    }
    Some(left + Duration::from_secs(1))
}

/// Whether the numbers moved in the right direction since the status was last written.
fn is_progressing(deployment: &Deployment, new: &DeploymentStatus) -> bool {
    let old = deployment.status.clone().unwrap_or_default();
    let n = |n: Option<i32>| n.unwrap_or(0);
    let old_ones = |status: &DeploymentStatus| n(status.replicas) - n(status.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || old_ones(new) < old_ones(&old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

/// Sets a condition; its times move only when something about it changes.
fn set(
    conditions: &mut Vec<DeploymentCondition>,
    kind: &str,
    truth: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let before = conditions.iter_mut().find(|c| c.type_ == kind);
    if before.as_ref().is_some_and(|c| c.status == truth && c.reason.as_deref() == Some(reason)) {
        return;
    }
    let turned = before.as_ref().filter(|c| c.status == truth).and_then(|c| c.last_transition_time.clone());
    let condition = DeploymentCondition {
        type_: kind.to_owned(),
        status: truth.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(turned.unwrap_or(Time(now))),
    };
    match before {
        Some(slot) => *slot = condition,
        None => conditions.push(condition),
    }
}

/// The deadline counts from the last sign of progress.
fn touch(conditions: &mut [DeploymentCondition], now: Timestamp) {
    for condition in conditions.iter_mut().filter(|c| c.type_ == PROGRESSING) {
        condition.last_update_time = Some(Time(now));
    }
}
