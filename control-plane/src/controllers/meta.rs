//! Questions to objects that several controllers ask: who owns this, does the selector match, is the pod ready.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::client::Object;

/// The owner reference that says `controller: true`.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// An owner reference of a controller to `owner`.
pub(crate) fn owned_by<T: Object>(owner: &T) -> Value {
    json!({
        "apiVersion": T::API_VERSION, "kind": T::KIND, "name": owner.metadata().name, "uid": owner.metadata().uid,
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// The uid, or an empty text.
pub(crate) fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

/// The name, or an empty text.
pub(crate) fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

/// The namespace, or an empty text.
pub(crate) fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or_default()
}

/// Whether the object is on its way out.
pub(crate) fn is_terminating(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

/// Whether `selector` selects an object with these labels. An empty selector selects nothing here: every
/// workload kind forbids it, and adopting everything by mistake is worse than nothing.
pub(crate) fn selects(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let is_empty = |n: Option<usize>| n.is_none_or(|n| n == 0);
    let labelled = !is_empty(selector.match_labels.as_ref().map(BTreeMap::len));
    (labelled || !is_empty(selector.match_expressions.as_ref().map(Vec::len))) && fits(selector, labels)
}

/// Whether labels fit a selector; every label fits an empty one (API: `LabelSelector`).
pub(crate) fn fits(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let mut exact = selector.match_labels.iter().flatten();
    let mut rules = selector.match_expressions.iter().flatten();
    let label = |key: &str| labels.and_then(|labels| labels.get(key));
    exact.all(|(key, value)| label(key) == Some(value))
        && rules.all(|rule| {
            let value = label(&rule.key);
            let listed = || rule.values.iter().flatten().any(|v| Some(v) == value);
            match rule.operator.as_str() {
                "In" => value.is_some() && listed(),
                "NotIn" => value.is_none() || !listed(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// The pod's condition of this type.
pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// Whether the pod's `Ready` condition is true.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Since when the pod is ready, if it is.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// How long until the pod counts as available: `Some(0)` now, `None` while it is not ready.
pub(crate) fn available_in(pod: &Pod, min_ready: i32, now: Timestamp) -> Option<Duration> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready <= 0 {
        return Some(Duration::ZERO);
    }
    let since = ready_since(pod)?;
    Some(Duration::from_secs(min_ready as u64).saturating_sub(elapsed(since, now)))
}

/// The time from `since` to `now`; zero if the clock went back.
pub(crate) fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

/// The pod's phase, `Pending` if it has none yet.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Whether the pod has run to its end.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the pod counts as a replica: neither finished nor on its way out.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(&pod.metadata)
}

/// The time now, from the system's clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::new(since.as_secs() as i64, since.subsec_nanos() as i32).unwrap_or_default()
}

/// `2026-11-23T15:00:00Z`: how the API writes a time.
pub(crate) fn seconds_text(time: Timestamp) -> String {
    let whole = Timestamp::from_second(time.as_second()).unwrap_or(time);
    whole.to_string()
}
