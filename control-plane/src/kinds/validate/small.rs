//! Rules of the smaller kinds.

use std::collections::HashSet;

use serde_json::Value;

use super::Check;
use super::container::is_port_name;
use crate::kinds::form;

/// Bytes that a ConfigMap or Secret may hold.
const DATA: usize = 1024 * 1024;

const KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

fn data(object: &Value, fields: &[&str], check: &mut Check) {
    let (mut size, mut keys) = (0, HashSet::new());
    for field in fields {
        for (key, value) in object[*field].as_object().into_iter().flatten() {
            if !form::is_config_key(key) {
                check.invalid_text(&format!("{field}[{key}]"), key, KEY);
            }
            if !keys.insert(key) {
                check.invalid_text(&format!("{field}[{key}]"), key, "duplicate of key present in data");
            }
            let length = value.as_str().map_or(0, str::len);
            size += if *field == "data" && object["kind"] == "ConfigMap" { length } else { length / 4 * 3 };
        }
    }
    if size > DATA {
        check.too_long("", DATA);
    }
}

pub(super) fn config_map(object: &Value, check: &mut Check) {
    data(object, &["data", "binaryData"], check);
}

pub(super) fn secret(object: &Value, check: &mut Check) {
    data(object, &["data"], check);
    let needs: &[&str] = match form::text(object, &["type"]) {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in needs {
        if object["data"][*key].is_null() {
            check.required(&format!("data[{key}]"), "");
        }
    }
}

/// `immutable: true` stays, and holds the data.
pub(super) fn immutable_data(new: &Value, old: &Value, check: &mut Check) {
    if object_is(new, "Secret") {
        check.immutable("type", &new["type"], &old["type"]);
    }
    if old["immutable"] != true {
        return;
    }
    if new["immutable"] != true {
        check.forbidden("immutable", "field is immutable when `immutable` is set");
    }
    for field in ["data", "binaryData"] {
        if new[field] != old[field] {
            check.forbidden(field, "field is immutable when `immutable` is set");
        }
    }
}

fn object_is(object: &Value, kind: &str) -> bool {
    object["kind"] == kind
}

pub(super) fn service(spec: &Value, check: &mut Check) {
    check.inside("spec", |check| {
        let kind = form::text(spec, &["type"]);
        check.one_of("type", &spec["type"], &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
        check.one_of("sessionAffinity", &spec["sessionAffinity"], &["ClientIP", "None"]);
        let ports = form::list(spec, &["ports"]);
        if ports.is_empty() && kind != "ExternalName" && spec["clusterIP"] != "None" {
            check.required("ports", "");
        }
        if kind == "ExternalName" && !form::is_dns_subdomain(form::text(spec, &["externalName"])) {
            check.required("externalName", "");
        }
        let mut names = HashSet::new();
        check.each("ports", ports, |check, port| {
            let name = form::text(port, &["name"]);
            if name.is_empty() && ports.len() > 1 {
                check.required("name", "");
            } else if !name.is_empty() && !form::is_dns_label(name) {
                check.invalid_text("name", name, super::LABEL);
            } else if !name.is_empty() && !names.insert(name) {
                check.duplicate("name", name);
            }
            if port["port"].is_null() {
                check.required("port", "");
            }
            check.port("port", &port["port"]);
            check.port("targetPort", &port["targetPort"]);
            if let Some(target) = port["targetPort"].as_str().filter(|t| !is_port_name(t)) {
                check.invalid_text("targetPort", target, "must be an IANA_SVC_NAME (at most 15 characters)");
            }
            check.one_of("protocol", &port["protocol"], &["SCTP", "TCP", "UDP"]);
        });
        check.inside("selector", |check| super::meta::labels(&spec["selector"], check));
    });
}

pub(super) fn event(object: &Value, check: &mut Check) {
    let about = form::text(object, &["involvedObject", "namespace"]);
    let own = form::text(object, &["metadata", "namespace"]);
    let fits = about == own || (about.is_empty() && matches!(own, "default" | "kube-system"));
    if !fits {
        check.invalid_text("involvedObject.namespace", about, "does not match event.namespace");
    }
}

pub(super) fn lease(spec: &Value, check: &mut Check) {
    check.inside("spec", |check| {
        if let Some(seconds) = spec["leaseDurationSeconds"].as_i64().filter(|n| *n <= 0) {
            check.invalid("leaseDurationSeconds", seconds, "must be greater than 0");
        }
        check.not_negative("leaseTransitions", &spec["leaseTransitions"]);
    });
}

pub(super) fn priority_class(object: &Value, check: &mut Check) {
    let (name, value) = (form::text(object, &["metadata", "name"]), object["value"].as_i64().unwrap_or(0));
    if value > 1_000_000_000 && !name.starts_with("system-") {
        check.forbidden("value", "maximum allowed value of a user defined priority is 1000000000");
    }
    check.one_of("preemptionPolicy", &object["preemptionPolicy"], &["Never", "PreemptLowerPriority"]);
}

pub(super) fn runtime_class(object: &Value, check: &mut Check) {
    let handler = form::text(object, &["handler"]);
    if !form::is_dns_label(handler) {
        check.invalid_text("handler", handler, super::LABEL);
    }
}

pub(super) fn node(object: &Value, check: &mut Check) {
    let mut seen = HashSet::new();
    check.each("spec.taints", form::list(object, &["spec", "taints"]), |check, taint| {
        let (key, effect) = (form::text(taint, &["key"]), form::text(taint, &["effect"]));
        if !form::is_qualified_name(key) {
            check.invalid_text("key", key, super::QUALIFIED);
        }
        if effect.is_empty() {
            check.required("effect", "");
        }
        check.one_of("effect", &taint["effect"], &["", "NoSchedule", "PreferNoSchedule", "NoExecute"]);
        if !seen.insert((key, effect)) {
            check.duplicate("", &format!("{key}:{effect}"));
        }
    });
}
