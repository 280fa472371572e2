//! DECIDE: how many replicas the new and the old ReplicaSets of a rolling update should have next (pure numbers).
//!
//! Invariants, tested by playing whole rollouts: the sum of wanted replicas never exceeds replicas + surge, and the
//! old sets give up available pods only while at least replicas - unavailable stay available.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::decide::{Bounds, Sets};
use super::sets::{available, replicas};

/// Replicas of the new set: as many more as surge leaves room for; fewer at once if the Deployment shrank.
pub(super) fn new_replicas(bounds: &Bounds, sets: &Sets) -> i32 {
    let now = sets.new.as_ref().map_or(0, |set| replicas(set));
    if now >= bounds.replicas {
        return bounds.replicas;
    }
    let total: i32 = sets.all().map(|set| replicas(set)).sum();
    let room = (bounds.replicas.saturating_add(bounds.surge) - total).max(0);
    now + room.min(bounds.replicas - now)
}

/// Old sets that should shrink, each with its next number of replicas.
pub(super) fn old_replicas<'a>(bounds: &Bounds, new: &ReplicaSet, sets: &'a Sets) -> Vec<(&'a Arc<ReplicaSet>, i32)> {
    let mut wanted: Vec<i32> = sets.old.iter().map(|set| replicas(set)).collect();
    if wanted.iter().all(|n| *n == 0) {
        return Vec::new();
    }
    let total: i32 = sets.all().map(|set| replicas(set)).sum();
    let at_least = bounds.replicas - bounds.unavailable;
    let new_unavailable = (replicas(new) - available(new)).max(0);
    let budget = total - at_least - new_unavailable;
    if budget > 0 {
        drop_unhealthy(&mut wanted, sets, budget);
        drop_available(&mut wanted, sets, at_least, new);
    }
    let pairs = sets.old.iter().zip(wanted);
    pairs.filter(|(set, next)| replicas(set) != *next).collect()
}

/// Pods that do not serve cost nothing: they go first, whatever is available.
fn drop_unhealthy(wanted: &mut [i32], sets: &Sets, mut budget: i32) {
    for (wanted, set) in wanted.iter_mut().zip(&sets.old) {
        let unhealthy = (*wanted - available(set)).clamp(0, budget.max(0));
        *wanted -= unhealthy;
        budget -= unhealthy;
    }
}

/// Then serving ones, as long as enough stay available.
fn drop_available(wanted: &mut [i32], sets: &Sets, at_least: i32, new: &ReplicaSet) {
    let old: i32 = sets.old.iter().zip(&*wanted).map(|(set, wanted)| available(set).min(*wanted)).sum();
    let mut spare = (old + available(new).min(replicas(new)) - at_least).max(0);
    for wanted in wanted.iter_mut() {
        let going = (*wanted).min(spare);
        *wanted -= going;
        spare -= going;
    }
}
