//! Rules of a container: name, image, ports, environment, mounts, resources, probes.

use std::collections::HashSet;

use serde_json::Value;

use super::{Check, LABEL};
use crate::kinds::form;
use crate::kinds::quantity::Quantity;

/// Rules of one container, at the path where we are. `volumes` are the names of the pod's volumes.
pub(super) fn check(container: &Value, volumes: &HashSet<&str>, check: &mut Check) {
    if form::text(container, &["image"]).is_empty() {
        check.required("image", "");
    } else if form::text(container, &["image"]).trim() != form::text(container, &["image"]) {
        let image = form::text(container, &["image"]);
        check.invalid_text("image", image, "must not have leading or trailing whitespace");
    }
    check.one_of("imagePullPolicy", &container["imagePullPolicy"], &["Always", "IfNotPresent", "Never"]);
    check.one_of(
        "terminationMessagePolicy",
        &container["terminationMessagePolicy"],
        &["FallbackToLogsOnError", "File"],
    );
    ports(form::list(container, &["ports"]), check);
    env(form::list(container, &["env"]), check);
    mounts(form::list(container, &["volumeMounts"]), volumes, check);
    check.inside("resources", |check| resources(&container["resources"], check));
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container[name].is_object() {
            check.inside(name, |check| probe(name, &container[name], check));
        }
    }
}

/// Name of a container: present, a label, not used before.
pub(super) fn name<'v>(container: &'v Value, used: &mut HashSet<&'v str>, check: &mut Check) {
    let name = form::text(container, &["name"]);
    if name.is_empty() {
        check.required("name", "");
    } else if !form::is_dns_label(name) {
        check.invalid_text("name", name, LABEL);
    } else if !used.insert(name) {
        check.duplicate("name", name);
    }
}

fn ports(ports: &[Value], check: &mut Check) {
    let mut names = HashSet::new();
    check.each("ports", ports, |check, port| {
        if port["containerPort"].as_i64().is_none() {
            check.required("containerPort", "");
        }
        check.port("containerPort", &port["containerPort"]);
        if port["hostPort"].as_i64().is_some_and(|p| p != 0) {
            check.port("hostPort", &port["hostPort"]);
        }
        check.one_of("protocol", &port["protocol"], &["SCTP", "TCP", "UDP"]);
        let name = form::text(port, &["name"]);
        if name.is_empty() {
            return;
        }
        if !is_port_name(name) {
            let why =
                "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-), at most 15, with a letter";
            check.invalid_text("name", name, why);
        } else if !names.insert(name) {
            check.duplicate("name", name);
        }
    });
}

/// IANA service name.
pub(super) fn is_port_name(name: &str) -> bool {
    name.len() <= 15
        && form::is_dns_label(name)
        && name.contains(|c: char| c.is_ascii_alphabetic())
        && !name.contains("--")
}

fn env(env: &[Value], check: &mut Check) {
    check.each("env", env, |check, var| {
        let name = form::text(var, &["name"]);
        if name.is_empty() {
            check.required("name", "");
        } else if name.contains('=') || !name.bytes().all(|c| (0x20..0x7f).contains(&c)) {
            check.invalid_text(
                "name",
                name,
                "a valid environment variable name must consist only of printable ASCII characters other than '='",
            );
        }
        if let Some(from) = var["valueFrom"].as_object() {
            if !form::text(var, &["value"]).is_empty() {
                check.invalid_text("valueFrom", "", "may not be specified when `value` is not empty");
            }
            match from.values().filter(|v| !v.is_null()).count() {
                1 => {}
                0 => check.invalid_text(
                    "valueFrom",
                    "",
                    "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
                ),
                _ => check.invalid_text("valueFrom", "", "may not have more than one field specified at a time"),
            }
        }
    });
}

fn mounts(mounts: &[Value], volumes: &HashSet<&str>, check: &mut Check) {
    let mut paths = HashSet::new();
    check.each("volumeMounts", mounts, |check, mount| {
        let name = form::text(mount, &["name"]);
        if name.is_empty() {
            check.required("name", "");
        } else if !volumes.contains(name) {
            check.not_found("name", name);
        }
        let path = form::text(mount, &["mountPath"]);
        if path.is_empty() {
            check.required("mountPath", "");
        } else if !paths.insert(path) {
            check.invalid_text("mountPath", path, "must be unique");
        }
        let sub = form::text(mount, &["subPath"]);
        if sub.starts_with('/') {
            check.invalid_text("subPath", sub, "must be a relative path");
        }
        if sub.split('/').any(|part| part == "..") {
            check.invalid_text("subPath", sub, "must not contain '..'");
        }
    });
}

fn resources(resources: &Value, check: &mut Check) {
    let amount = |which: &str, name: &str| Quantity::parse(form::text(resources, &[which, name]));
    for which in ["limits", "requests"] {
        for (name, value) in resources[which].as_object().into_iter().flatten() {
            let field = format!("{which}[{name}]");
            if !form::is_qualified_name(name) {
                check.invalid_text(&field, name, super::QUALIFIED);
            }
            if amount(which, name).is_some_and(|q| q.is_negative()) {
                let text = value.as_str().unwrap_or_default();
                check.invalid_text(&field, text, "must be greater than or equal to 0");
            }
        }
    }
    for name in resources["requests"].as_object().into_iter().flatten().map(|(name, _)| name) {
        if let (Some(request), Some(limit)) = (amount("requests", name), amount("limits", name))
            && request.millis() > limit.millis()
        {
            let text = request.to_string();
            let why = format!("must be less than or equal to {name} limit of {limit}");
            check.invalid_text("requests", &text, &why);
        }
    }
}

fn probe(name: &str, probe: &Value, check: &mut Check) {
    let handlers = ["exec", "httpGet", "tcpSocket", "grpc"].iter().filter(|h| probe[**h].is_object()).count();
    match handlers {
        0 => check.required("", "must specify a handler type"),
        1 => {}
        _ => check.forbidden("", "may not specify more than 1 handler type"),
    }
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        check.not_negative(field, &probe[field]);
    }
    if name != "readinessProbe" && probe["successThreshold"].as_i64().is_some_and(|n| n != 1) {
        check.invalid("successThreshold", &probe["successThreshold"], "must be 1");
    }
    if probe["exec"].is_object() && form::list(probe, &["exec", "command"]).is_empty() {
        check.required("exec.command", "");
    }
    for handler in ["httpGet", "tcpSocket", "grpc"] {
        if probe[handler].is_object() {
            let port = &probe[handler]["port"];
            if port.is_null() {
                check.required(&format!("{handler}.port"), "");
            }
            check.port(&format!("{handler}.port"), port);
        }
    }
}
