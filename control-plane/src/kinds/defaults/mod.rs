//! Defaults: what kube-apiserver fills in, so that every reader sees a whole object.

mod pod;

use serde_json::{Map, Value, json};

use super::Kind;

/// Fills in the defaults of a kind. Doing it twice changes nothing more.
pub fn apply(kind: &Kind, object: &mut Value) {
    match kind.kind.as_str() {
        "Pod" => {
            pod::spec(&mut object["spec"]);
            pod::requests_from_limits(&mut object["spec"]);
            set(&mut object["spec"], "enableServiceLinks", || json!(true));
        }
        "Deployment" => deployment(&mut object["spec"]),
        "ReplicaSet" => {
            set(&mut object["spec"], "replicas", || json!(1));
            template(&mut object["spec"]);
        }
        "Secret" => secret(object),
        "Service" => service(&mut object["spec"]),
        "Namespace" => {
            let name = object["metadata"]["name"].clone();
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
        }
        "PriorityClass" => set(object, "preemptionPolicy", || json!("PreemptLowerPriority")),
        "EndpointSlice" => {
            for port in items(object, "ports") {
                set(port, "name", || json!(""));
                set(port, "protocol", || json!("TCP"));
            }
        }
        "Endpoints" => {
            for subset in items(object, "subsets") {
                items(subset, "ports").iter_mut().for_each(|port| set(port, "protocol", || json!("TCP")));
            }
        }
        "CSIDriver" => csi_driver(&mut object["spec"]),
        _ => {}
    }
}

/// Sets a field that is not there.
fn set(object: &mut Value, key: &str, value: impl FnOnce() -> Value) {
    if object.is_null() {
        *object = Value::Object(Map::new());
    }
    if let Some(map) = object.as_object_mut()
        && map.get(key).is_none_or(Value::is_null)
    {
        map.insert(key.to_owned(), value());
    }
}

/// As [`set`], for a text that may also be there and empty.
fn set_text(object: &mut Value, key: &str, value: &str) {
    if object[key].as_str().is_none_or(str::is_empty) && (object.is_object() || object.is_null()) {
        object[key] = value.into();
    }
}

/// The entries of a list field.
fn items<'a>(object: &'a mut Value, key: &str) -> &'a mut [Value] {
    match object.get_mut(key) {
        Some(Value::Array(list)) => list,
        _ => &mut [],
    }
}

fn template(spec: &mut Value) {
    if spec["template"].is_object() {
        pod::spec(&mut spec["template"]["spec"]);
    }
}

fn deployment(spec: &mut Value) {
    set(spec, "replicas", || json!(1));
    set(spec, "revisionHistoryLimit", || json!(10));
    set(spec, "progressDeadlineSeconds", || json!(600));
    set(spec, "strategy", || json!({}));
    set_text(&mut spec["strategy"], "type", "RollingUpdate");
    if spec["strategy"]["type"] == "RollingUpdate" {
        set(&mut spec["strategy"], "rollingUpdate", || json!({}));
        set(&mut spec["strategy"]["rollingUpdate"], "maxUnavailable", || json!("25%"));
        set(&mut spec["strategy"]["rollingUpdate"], "maxSurge", || json!("25%"));
    }
    template(spec);
}

/// `stringData` is written only: it goes into `data`.
fn secret(secret: &mut Value) {
    use base64::Engine;
    set_text(secret, "type", "Opaque");
    let Some(Value::Object(plain)) = secret.as_object_mut().and_then(|s| s.shift_remove("stringData")) else { return };
    for (key, value) in plain {
        let bytes = value.as_str().unwrap_or_default().as_bytes();
        secret["data"][key] = base64::engine::general_purpose::STANDARD.encode(bytes).into();
    }
}

fn service(spec: &mut Value) {
    set_text(spec, "type", "ClusterIP");
    set_text(spec, "sessionAffinity", "None");
    for port in items(spec, "ports") {
        set_text(port, "protocol", "TCP");
        let number = port["port"].clone();
        set(port, "targetPort", || number);
    }
    if spec["type"] != "ExternalName" {
        set(spec, "internalTrafficPolicy", || json!("Cluster"));
        set(spec, "ipFamilyPolicy", || json!("SingleStack"));
        set(spec, "ipFamilies", || json!(["IPv4"]));
    }
}

fn csi_driver(spec: &mut Value) {
    for (key, value) in [
        ("attachRequired", json!(true)),
        ("podInfoOnMount", json!(false)),
        ("storageCapacity", json!(false)),
        ("fsGroupPolicy", json!("ReadWriteOnceWithFSType")),
        ("volumeLifecycleModes", json!(["Persistent"])),
        ("requiresRepublish", json!(false)),
        ("seLinuxMount", json!(false)),
    ] {
        set(spec, key, || value);
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
