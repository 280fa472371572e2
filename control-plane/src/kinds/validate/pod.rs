//! Rules of a pod's spec, and what an update of a pod may change.

use std::collections::HashSet;

use serde_json::Value;

use super::{Check, LABEL, SUBDOMAIN, container};
use crate::kinds::form;

/// Rules of a spec, at the path where we are; also of a template's.
pub(super) fn spec(spec: &Value, check: &mut Check) {
    let volumes = volumes(form::list(spec, &["volumes"]), check);
    let containers = form::list(spec, &["containers"]);
    if containers.is_empty() {
        check.required("containers", "");
    }
    let mut names = HashSet::new();
    for field in ["initContainers", "containers"] {
        check.each(field, form::list(spec, &[field]), |check, each| {
            container::name(each, &mut names, check);
            container::check(each, &volumes, check);
        });
    }
    if !form::list(spec, &["ephemeralContainers"]).is_empty() {
        check.forbidden("ephemeralContainers", "cannot be set on create");
    }
    check.each("initContainers", form::list(spec, &["initContainers"]), |check, each| {
        check.one_of("restartPolicy", &each["restartPolicy"], &["Always"]);
    });
    check.one_of("restartPolicy", &spec["restartPolicy"], &["Always", "OnFailure", "Never"]);
    check.one_of("dnsPolicy", &spec["dnsPolicy"], &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    check.not_negative("terminationGracePeriodSeconds", &spec["terminationGracePeriodSeconds"]);
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64().filter(|n| *n < 1) {
        check.invalid("activeDeadlineSeconds", seconds, "must be between 1 and 2147483647, inclusive");
    }
    if spec["dnsPolicy"] == "None" && form::list(spec, &["dnsConfig", "nameservers"]).is_empty() {
        check.required("dnsConfig.nameservers", "must provide at least one DNS nameserver when `dnsPolicy` is None");
    }
    names_of(spec, check);
    tolerations(form::list(spec, &["tolerations"]), check);
    host_ports(spec, check);
}

fn names_of(spec: &Value, check: &mut Check) {
    for field in ["nodeName", "serviceAccountName", "priorityClassName", "runtimeClassName"] {
        let name = form::text(spec, &[field]);
        if !name.is_empty() && !form::is_dns_subdomain(name) {
            check.invalid_text(field, name, SUBDOMAIN);
        }
    }
    for field in ["hostname", "subdomain"] {
        let name = form::text(spec, &[field]);
        if !name.is_empty() && !form::is_dns_label(name) {
            check.invalid_text(field, name, LABEL);
        }
    }
    check.inside("nodeSelector", |check| super::meta::labels(&spec["nodeSelector"], check));
}

fn volumes<'v>(volumes: &'v [Value], check: &mut Check) -> HashSet<&'v str> {
    let mut names = HashSet::new();
    check.each("volumes", volumes, |check, volume| {
        let name = form::text(volume, &["name"]);
        if name.is_empty() {
            check.required("name", "");
        } else if !form::is_dns_label(name) {
            check.invalid_text("name", name, LABEL);
        } else if !names.insert(name) {
            check.duplicate("name", name);
        }
        let sources: Vec<&String> = volume
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(k, v)| *k != "name" && !v.is_null())
            .map(|(k, _)| k)
            .collect();
        if let [_, extra, ..] = sources.as_slice() {
            check.forbidden(extra, "may not specify more than 1 volume type");
        }
        if volume["gitRepo"].is_object() {
            check.forbidden("gitRepo", "is not supported: it runs hooks of the repository on the host");
        }
        source(volume, check);
    });
    names
}

fn source(volume: &Value, check: &mut Check) {
    let path = form::text(volume, &["hostPath", "path"]);
    if volume["hostPath"].is_object() {
        if path.is_empty() {
            check.required("hostPath.path", "");
        } else if path.split('/').any(|part| part == "..") {
            check.invalid_text("hostPath.path", path, "must not contain '..'");
        }
        let types =
            ["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];
        check.one_of("hostPath.type", &volume["hostPath"]["type"], &types);
    }
    for (kind, field) in [("configMap", "name"), ("secret", "secretName")] {
        if volume[kind].is_object() && form::text(volume, &[kind, field]).is_empty() {
            check.required(&format!("{kind}.{field}"), "");
        }
        if let Some(mode) = volume[kind]["defaultMode"].as_i64().filter(|m| !(0..=0o777).contains(m)) {
            check.invalid(
                &format!("{kind}.defaultMode"),
                mode,
                "must be a number between 0 and 0777 (octal), both inclusive",
            );
        }
    }
}

fn tolerations(list: &[Value], check: &mut Check) {
    check.each("tolerations", list, |check, toleration| {
        check.one_of("operator", &toleration["operator"], &["Equal", "Exists"]);
        check.one_of("effect", &toleration["effect"], &["", "NoSchedule", "PreferNoSchedule", "NoExecute"]);
        let (key, operator) = (form::text(toleration, &["key"]), form::text(toleration, &["operator"]));
        if !key.is_empty() && !form::is_qualified_name(key) {
            check.invalid_text("key", key, super::QUALIFIED);
        }
        if key.is_empty() && operator != "Exists" {
            check.invalid_text(
                "operator",
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if operator == "Exists" && !form::text(toleration, &["value"]).is_empty() {
            check.invalid_text("operator", operator, "value must be empty when `operator` is 'Exists'");
        }
    });
}

fn host_ports(spec: &Value, check: &mut Check) {
    if spec["hostNetwork"] != true {
        return;
    }
    check.each("containers", form::list(spec, &["containers"]), |check, each| {
        check.each("ports", form::list(each, &["ports"]), |check, port| {
            if port["hostPort"] != port["containerPort"] {
                check.invalid("hostPort", &port["hostPort"], "must match `containerPort` when `hostNetwork` is true");
            }
        });
    });
}

const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// What an update may change.
pub(super) fn update(new: &Value, old: &Value, check: &mut Check) {
    let before = form::list(old, &["tolerations"]);
    let kept = before.iter().all(|t| form::list(new, &["tolerations"]).contains(t));
    let frozen = |spec: &Value| {
        let mut spec = spec.clone();
        let Some(map) = spec.as_object_mut() else { return spec };
        map.shift_remove("tolerations");
        map.shift_remove("activeDeadlineSeconds");
        for list in ["containers", "initContainers"] {
            let Some(Value::Array(items)) = map.get_mut(list) else { continue };
            items.iter_mut().for_each(|c| c["image"] = Value::Null);
        }
        if map.get("schedulingGates").is_some_and(|g| g.as_array().is_some_and(Vec::is_empty)) {
            map.shift_remove("schedulingGates");
        }
        spec
    };
    if !kept || frozen(new) != frozen(old) {
        check.forbidden("spec", MAY_CHANGE);
    }
    check.inside("spec", |check| spec_images(new, check));
}

fn spec_images(spec: &Value, check: &mut Check) {
    for field in ["initContainers", "containers"] {
        check.each(field, form::list(spec, &[field]), |check, each| {
            if form::text(each, &["image"]).is_empty() {
                check.required("image", "");
            }
        });
    }
}
