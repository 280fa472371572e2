//! What a write may set: the server's own fields, `spec` against `status`, generations, when a deleted object is gone.

use serde_json::{Value, json};

use super::{Kind, form, qos};

/// Kinds whose `metadata.generation` counts changes of the wanted state.
const COUNTED: &[&str] = &["Deployment", "ReplicaSet", "EndpointSlice", "PriorityClass"];

/// Metadata that only the server writes.
const SYSTEM: &[&str] = &[
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
    "namespace",
    "generateName",
    "managedFields",
];

/// Prepares an object that is created: no status of the client's, the first generation.
pub fn before_create(kind: &Kind, object: &mut Value) {
    match kind.kind.as_str() {
        "Pod" => object["status"] = json!({"phase": "Pending", "qosClass": qos::class(object)}),
        // Nodes come with their status: kubelets register so.
        "Node" => {}
        "Namespace" => {
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
        }
        "ReplicaSet" => object["status"] = json!({"replicas": 0}),
        "Service" => object["status"] = json!({"loadBalancer": {}}),
        _ if kind.has_status() => object["status"] = json!({}),
        _ => {}
    }
    if COUNTED.contains(&kind.kind.as_str()) {
        object["metadata"]["generation"] = 1.into();
    }
}

/// Prepares an object that is replaced: what this call may not write is as it was.
pub fn before_update(kind: &Kind, subresource: &str, new: &mut Value, old: &Value) {
    match subresource {
        "status" => status_only(kind, new, old),
        // The server's own doing: it gives a pod its node and the condition that says so.
        "binding" => {}
        "ephemeralcontainers" => {
            let given = std::mem::replace(new, old.clone());
            copy(&mut new["spec"], &given["spec"], "ephemeralContainers");
            return;
        }
        "finalize" => {
            let finalizers = new["spec"]["finalizers"].take();
            *new = old.clone();
            new["spec"] = if finalizers.is_null() { json!({}) } else { json!({"finalizers": finalizers}) };
            return;
        }
        _ => {
            if kind.has_status() {
                copy(new, old, "status");
            }
            // The namespace controller empties a namespace and then takes the finalizer off; before that nobody may.
            if kind.kind == "Namespace" && form::text(old, &["metadata", "deletionTimestamp"]).is_empty() {
                copy(new, old, "spec");
            }
        }
    }
    let (Some(metadata), Some(before)) = (new["metadata"].as_object_mut(), old["metadata"].as_object()) else { return };
    for key in SYSTEM {
        match before.get(*key) {
            Some(value) => drop(metadata.insert((*key).into(), value.clone())),
            None => drop(metadata.shift_remove(*key)),
        }
    }
}

fn copy(new: &mut Value, old: &Value, key: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(key) {
        Some(value) => drop(map.insert(key.into(), value.clone())),
        None => drop(map.shift_remove(key)),
    }
}

/// Only the status, and for pods and nodes labels and annotations, are the caller's.
fn status_only(kind: &Kind, new: &mut Value, old: &Value) {
    let given = std::mem::replace(new, old.clone());
    copy(new, &given, "status");
    if !matches!(kind.kind.as_str(), "Pod" | "Node") {
        return;
    }
    let mut metadata = new["metadata"].take();
    for key in ["labels", "annotations"] {
        copy(&mut metadata, &given["metadata"], key);
    }
    new["metadata"] = metadata;
}

/// Counts the generation up when the wanted state changed.
pub fn generation(kind: &Kind, new: &mut Value, old: &Value) {
    if !COUNTED.contains(&kind.kind.as_str()) {
        return;
    }
    let rest = |object: &Value| {
        let mut rest = object.clone();
        if let Some(map) = rest.as_object_mut() {
            map.shift_remove("metadata");
            map.shift_remove("status");
        }
        rest
    };
    let annotations = |object: &Value| object["metadata"]["annotations"].clone();
    let annotated = kind.kind == "Deployment" && annotations(new) != annotations(old);
    if annotated || rest(new) != rest(old) {
        new["metadata"]["generation"] = (old["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
    }
}

/// Whether the object is deleted and nothing holds it any more.
pub fn is_finished(kind: &Kind, object: &Value) -> bool {
    let metadata = &object["metadata"];
    let held = kind.kind == "Namespace" && !form::list(object, &["spec", "finalizers"]).is_empty();
    !form::text(metadata, &["deletionTimestamp"]).is_empty()
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && form::list(metadata, &["finalizers"]).is_empty()
        && !held
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kinds;

    fn kind(name: &str) -> std::sync::Arc<Kind> {
        Kinds::builtin().named(name).expect("kind")
    }

    #[test]
    fn spec_and_status_are_written_apart() {
        let old =
            json!({"metadata": {"name": "a", "uid": "u", "labels": {"l": "1"}}, "spec": {"s": 1}, "status": {"t": 1}});
        let given =
            json!({"metadata": {"name": "a", "uid": "x", "labels": {"l": "2"}}, "spec": {"s": 2}, "status": {"t": 2}});
        let mut new = given.clone();
        before_update(&kind("deployments.apps"), "", &mut new, &old);
        assert_eq!(
            new,
            json!({"metadata": {"name": "a", "uid": "u", "labels": {"l": "2"}}, "spec": {"s": 2}, "status": {"t": 1}})
        );
        let mut new = given.clone();
        before_update(&kind("deployments.apps"), "status", &mut new, &old);
        assert_eq!(
            new,
            json!({"metadata": {"name": "a", "uid": "u", "labels": {"l": "1"}}, "spec": {"s": 1}, "status": {"t": 2}})
        );
        let mut new = given;
        before_update(&kind("pods"), "status", &mut new, &old);
        assert_eq!(new["metadata"]["labels"]["l"], "2");
    }

    #[test]
    fn generations_count_wanted_state() {
        let old = json!({"metadata": {"generation": 3}, "spec": {"replicas": 1}, "status": {}});
        let mut same = old.clone();
        same["status"]["x"] = 1.into();
        generation(&kind("deployments.apps"), &mut same, &old);
        assert_eq!(same["metadata"]["generation"], 3);
        let mut changed = old.clone();
        changed["spec"]["replicas"] = 2.into();
        generation(&kind("deployments.apps"), &mut changed, &old);
        assert_eq!(changed["metadata"]["generation"], 4);
    }

    #[test]
    fn a_namespace_is_finished_without_its_finalizer() {
        let mut object = json!({"metadata": {"deletionTimestamp": "t", "deletionGracePeriodSeconds": 0},
            "spec": {"finalizers": ["kubernetes"]}});
        assert!(!is_finished(&kind("namespaces"), &object));
        object["spec"] = json!({});
        assert!(is_finished(&kind("namespaces"), &object));
        let pod = json!({"metadata": {"deletionTimestamp": "t", "deletionGracePeriodSeconds": 30}});
        assert!(!is_finished(&kind("pods"), &pod));
    }
}
