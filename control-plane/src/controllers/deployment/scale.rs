//! DECIDE: what a change of `spec.replicas` (kubectl scale) means in the middle of a rollout or while paused.
//!
//! Every ReplicaSet carries in an annotation the number it was sized for; where it differs from the spec, the
//! Deployment was scaled since. Replicas are then shared out in proportion to what each set has, so that a rollout
//! that stands still keeps its ratio of old and new pods.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::decide::{Bounds, Decision, Sets, is_recreate};
use super::sets::{DESIRED, annotation_number, available, max_replicas, replicas, set_replicas};

/// Whether the Deployment was scaled since its live ReplicaSets were sized.
pub(super) fn is_scaling(deployment: &Deployment, sets: &Sets) -> bool {
    let wanted = Bounds::of(deployment).replicas;
    let live: Vec<_> = sets.all().filter(|set| replicas(set) > 0).collect();
    // Recreate never runs two templates on purpose: its own road resolves that, not scaling.
    let can = live.len() == 1 || !is_recreate(deployment);
    can && live.into_iter().any(|set| annotation_number(set, DESIRED).is_some_and(|desired| desired != wanted))
}

/// Sizes the ReplicaSets for the spec as it is now.
pub(super) fn scale(deployment: &Deployment, sets: &Sets, decision: &mut Decision) {
    let bounds = Bounds::of(deployment);
    if let Some(only) = only_one(sets) {
        if replicas(only) != bounds.replicas || annotation_number(only, DESIRED) != Some(bounds.replicas) {
            set_replicas(deployment, only, bounds.replicas, decision);
        }
        return;
    }
    if sets.new.as_ref().is_some_and(|new| is_saturated(new, &bounds)) {
        let live = sets.old.iter().filter(|set| replicas(set) > 0);
        return live.for_each(|set| set_replicas(deployment, set, 0, decision));
    }
    if is_recreate(deployment) {
        return;
    }
    for (set, next) in share_out(&bounds, sets) {
        set_replicas(deployment, set, next, decision);
    }
}

/// The only live set, or, if none is live, the newest.
fn only_one(sets: &Sets) -> Option<&Arc<ReplicaSet>> {
    let live: Vec<_> = sets.all().filter(|set| replicas(set) > 0).collect();
    match live.as_slice() {
        [] => sets.new.as_ref().or(sets.old.last()),
        [one] => Some(one),
        _ => None,
    }
}

fn is_saturated(new: &ReplicaSet, bounds: &Bounds) -> bool {
    let sized = annotation_number(new, DESIRED) == Some(bounds.replicas);
    sized && replicas(new) == bounds.replicas && available(new) == bounds.replicas
}

/// The live sets with their next sizes: each changes in proportion to its size, the largest takes the rounding.
fn share_out<'a>(bounds: &Bounds, sets: &'a Sets) -> Vec<(&'a Arc<ReplicaSet>, i32)> {
    let mut live: Vec<_> = sets.all().filter(|set| replicas(set) > 0).collect();
    let total: i32 = live.iter().map(|set| replicas(set)).sum();
    let allowed = if bounds.replicas > 0 { bounds.replicas + bounds.surge } else { 0 };
    let mut left = allowed - total;
    // Growing, the newest of equals is first; shrinking, the oldest is.
    live.sort_by_key(|set| replicas(set));
    if left > 0 {
        live.reverse();
    }
    let mut sized: Vec<(&Arc<ReplicaSet>, i32)> = Vec::new();
    for set in live {
        let before = annotation_number(set, max_replicas()).filter(|n| *n > 0).unwrap_or(total).max(1);
        let exact = f64::from(replicas(set)) * f64::from(allowed) / f64::from(before);
        let fair = exact.round() as i32 - replicas(set);
        let share = if left > 0 { fair.clamp(0, left) } else { fair.clamp(left, 0) };
        left -= share;
        sized.push((set, replicas(set) + share));
    }
    if let Some((_, first)) = sized.first_mut() {
        *first = (*first + left).max(0);
    }
    sized
}
