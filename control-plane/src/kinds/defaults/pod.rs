//! Defaults of a pod's spec (`pkg/apis/core/v1/defaults.go` of Kubernetes 1.33 in behaviour).

use serde_json::{Value, json};

use super::{items, set, set_text};

/// Defaults of a pod's spec, also in a template.
pub(super) fn spec(spec: &mut Value) {
    set_text(spec, "restartPolicy", "Always");
    set_text(spec, "dnsPolicy", "ClusterFirst");
    set_text(spec, "schedulerName", "default-scheduler");
    set(spec, "terminationGracePeriodSeconds", || json!(30));
    set(spec, "securityContext", || json!({}));
    if spec["serviceAccountName"].is_string() {
        let name = spec["serviceAccountName"].clone();
        set(spec, "serviceAccount", || name);
    } else if spec["serviceAccount"].is_string() {
        spec["serviceAccountName"] = spec["serviceAccount"].clone();
    }
    let host_network = spec["hostNetwork"] == true;
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for each in items(spec, list) {
            container(each, host_network);
        }
    }
    for each in items(spec, "volumes") {
        volume(each);
    }
}

fn container(container: &mut Value, host_network: bool) {
    set_text(container, "terminationMessagePath", "/dev/termination-log");
    set_text(container, "terminationMessagePolicy", "File");
    let policy = pull_policy(container["image"].as_str().unwrap_or_default());
    set_text(container, "imagePullPolicy", policy);
    set(container, "resources", || json!({}));
    for port in items(container, "ports") {
        set_text(port, "protocol", "TCP");
        if host_network && !port["hostPort"].is_number() {
            port["hostPort"] = port["containerPort"].clone();
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container[name].is_object() {
            probe(&mut container[name]);
        }
    }
    for hook in ["postStart", "preStop"] {
        if container["lifecycle"][hook]["httpGet"].is_object() {
            http_get(&mut container["lifecycle"][hook]["httpGet"]);
        }
    }
    for env in items(container, "env") {
        if env["valueFrom"]["fieldRef"].is_object() {
            set_text(&mut env["valueFrom"]["fieldRef"], "apiVersion", "v1");
        }
    }
}

/// `Always` for `:latest` and for no tag, else `IfNotPresent`; a digest counts as a tag.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, "latest")) if !digest => "Always",
        None if !digest => "Always",
        _ => "IfNotPresent",
    }
}

fn probe(probe: &mut Value) {
    for (key, value) in [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe[key].as_i64().unwrap_or(0) == 0 {
            probe[key] = value.into();
        }
    }
    if probe["httpGet"].is_object() {
        http_get(&mut probe["httpGet"]);
    }
    if probe["grpc"].is_object() {
        set(&mut probe["grpc"], "service", || json!(""));
    }
}

fn http_get(get: &mut Value) {
    set_text(get, "path", "/");
    set_text(get, "scheme", "HTTP");
}

fn volume(volume: &mut Value) {
    if volume.as_object().is_some_and(|map| map.keys().all(|key| key == "name")) {
        volume["emptyDir"] = json!({});
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if volume[source].is_object() {
            set(&mut volume[source], "defaultMode", || json!(420));
        }
    }
    if volume["hostPath"].is_object() {
        set(&mut volume["hostPath"], "type", || json!(""));
    }
    field_refs(&mut volume["downwardAPI"]);
    for source in items(&mut volume["projected"], "sources") {
        field_refs(&mut source["downwardAPI"]);
        if source["serviceAccountToken"].is_object() {
            set(&mut source["serviceAccountToken"], "expirationSeconds", || json!(3600));
        }
        prune(source);
    }
    prune(volume);
}

fn field_refs(source: &mut Value) {
    for item in items(source, "items") {
        if item["fieldRef"].is_object() {
            set_text(&mut item["fieldRef"], "apiVersion", "v1");
        }
    }
}

/// Indexing a missing key for writing leaves a null behind; it goes again.
fn prune(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
}

/// A limit without a request is also the request.
pub(super) fn requests_from_limits(spec: &mut Value) {
    for list in ["initContainers", "containers"] {
        for each in items(spec, list) {
            let Some(limits) = each["resources"]["limits"].as_object().cloned() else { continue };
            for (name, limit) in limits {
                set(&mut each["resources"], "requests", || json!({}));
                set(&mut each["resources"]["requests"], &name, || limit);
            }
        }
    }
}
