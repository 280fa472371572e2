//! Whether this node takes a pod that was bound to it. Pure. What does not fit becomes Failed with a
//! reason; a pod that already ran here is not judged again.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod};

use crate::config::Config;
use crate::pod;
use crate::pods::security;
use crate::qos;
use crate::quantity::{self, Resources};

/// `None`: admitted. Else the reason and message for the status.
pub(crate) fn judge(
    of: &Pod,
    others: &[Arc<Pod>],
    labels: &BTreeMap<String, String>,
    allocatable: &Resources,
    config: &Config,
) -> Option<(String, String)> {
    let began =
        of.status.as_ref().is_some_and(|s| s.container_statuses.iter().flatten().any(|c| c.container_id.is_some()));
    if began || of.metadata.deletion_timestamp.is_some() || pod::is_finished(of) {
        return None;
    }
    let active: Vec<_> = others.iter().filter(|p| !pod::is_finished(p) && pod::uid(p) != pod::uid(of)).collect();
    let refuse = |reason: &str, message: String| Some((reason.to_string(), message));
    if let Some(os) = pod::spec(of).os.as_ref().filter(|os| os.name != "linux") {
        return refuse(
            "PodOSNotSupported",
            format!("Failed to admit pod as the OS field doesn't match node OS: {}", os.name),
        );
    }
    if active.len() >= config.max_pods as usize {
        let message = format!(
            "Node didn't have enough resource: pods, requested: 1, used: {}, capacity: {}",
            active.len(),
            config.max_pods
        );
        return refuse("OutOfpods", message);
    }
    for name in ["cpu", "memory"] {
        let wanted = qos::pod_request(of, name);
        let used: i64 = active.iter().map(|p| qos::pod_request(p, name)).sum();
        let capacity = quantity::amount(Some(allocatable), name).unwrap_or(0);
        if wanted > 0 && used.saturating_add(wanted) > capacity {
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}"
            );
            return refuse(&format!("OutOf{name}"), message);
        }
    }
    if !selected(of, labels) {
        return refuse(
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".into(),
        );
    }
    if let Some(taken) = host_port_taken(of, &active) {
        return refuse("NodePorts", format!("Predicate NodePorts failed: host port {taken} is taken"));
    }
    if needs_apparmor(of) {
        return refuse("AppArmor", "Cannot enforce AppArmor: it is not supported by this node".into());
    }
    security::sysctls(of, &config.allowed_unsafe_sysctls).err().map(|why| ("SysctlForbidden".into(), why.to_string()))
}

/// Whether the pod or a container wants a profile that confines it.
fn needs_apparmor(of: &Pod) -> bool {
    let own = pod::spec(of).security_context.as_ref().and_then(|c| c.app_armor_profile.clone());
    let each = pod::ordered(of).filter_map(|(_, c)| c.security_context.as_ref()?.app_armor_profile.clone());
    own.into_iter().chain(each).any(|profile| profile.type_ != "Unconfined")
}

fn selected(of: &Pod, labels: &BTreeMap<String, String>) -> bool {
    let spec = pod::spec(of);
    let simple = spec.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    simple && required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term(t, labels, spec.node_name.as_deref())))
}

fn term(of: &NodeSelectorTerm, labels: &BTreeMap<String, String>, node: Option<&str>) -> bool {
    let expressions = of.match_expressions.as_deref().unwrap_or_default();
    let fields = of.match_fields.as_deref().unwrap_or_default();
    let by_name = |r: &NodeSelectorRequirement| r.key == "metadata.name" && matches(r, node);
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|r| matches(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(by_name)
}

fn matches(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = r.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|w| w == v));
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match r.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(have, than)| have > than),
        "Lt" => numbers().is_some_and(|(have, than)| have < than),
        _ => false,
    }
}

fn host_ports(of: &Pod) -> Vec<(i32, String)> {
    let ports = pod::ordered(of).filter(|(r, _)| *r != pod::Role::Init).flat_map(|(_, c)| c.ports.iter().flatten());
    let host = pod::is_host_network(of);
    ports
        .filter_map(|p| {
            let number = p.host_port.filter(|n| *n > 0).or(host.then_some(p.container_port))?;
            Some((number, p.protocol.clone().unwrap_or_else(|| "TCP".into())))
        })
        .collect()
}

fn host_port_taken(of: &Pod, active: &[&Arc<Pod>]) -> Option<i32> {
    let taken: Vec<_> = active.iter().flat_map(|p| host_ports(p)).collect();
    host_ports(of).into_iter().find(|p| taken.contains(p)).map(|(number, _)| number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(uid: &str, spec: Value, status: Value) -> Arc<Pod> {
        let text = json!({"metadata": {"name": uid, "uid": uid}, "spec": spec, "status": status});
        Arc::new(serde_json::from_value(text).expect("a pod"))
    }

    fn judged(spec: Value, others: &[Arc<Pod>]) -> String {
        let labels = BTreeMap::from([("disk".to_string(), "ssd".to_string()), ("n".to_string(), "5".to_string())]);
        let allocatable = serde_json::from_value(json!({"cpu": "1", "memory": "1Gi"})).expect("resources");
        let config = Config { max_pods: 2, ..Config::default() };
        judge(&pod("new", spec, json!({})), others, &labels, &allocatable, &config)
            .map_or("fits".into(), |(reason, _)| reason)
    }

    fn asks(cpu: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let half = pod("a", asks("500m"), json!({}));
        let over = pod("b", asks("500m"), json!({"phase": "Succeeded"}));
        assert_eq!(judged(asks("500m"), std::slice::from_ref(&half)), "fits");
        assert_eq!(judged(asks("501m"), std::slice::from_ref(&half)), "OutOfcpu");
        assert_eq!(judged(asks("500m"), &[half.clone(), over]), "fits");
        assert_eq!(judged(asks("1m"), &[half.clone(), pod("c", asks("1m"), json!({}))]), "OutOfpods");
    }

    #[test]
    fn selectors_and_ports() {
        let with = |key: &str, value: Value| {
            let mut spec = json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}]});
            spec[key] = value;
            spec
        };
        assert_eq!(judged(with("nodeSelector", json!({"disk": "ssd"})), &[]), "fits");
        assert_eq!(judged(with("nodeSelector", json!({"disk": "hdd"})), &[]), "NodeAffinity");
        let affinity = |operator: &str, values: Value| {
            with(
                "affinity",
                json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "n", "operator": operator, "values": values}]}]}}}),
            )
        };
        assert_eq!(judged(affinity("Gt", json!(["4"])), &[]), "fits");
        assert_eq!(judged(affinity("Gt", json!(["5"])), &[]), "NodeAffinity");
        assert_eq!(judged(affinity("NotIn", json!(["5"])), &[]), "NodeAffinity");
        let other = pod("a", with("hostname", json!("x")), json!({}));
        assert_eq!(judged(with("hostname", json!("y")), &[other]), "NodePorts");
        assert_eq!(judged(with("os", json!({"name": "windows"})), &[]), "PodOSNotSupported");
        let profile = |kind: &str| with("securityContext", json!({"appArmorProfile": {"type": kind}}));
        assert_eq!(judged(profile("RuntimeDefault"), &[]), "AppArmor");
        assert_eq!(judged(profile("Unconfined"), &[]), "fits");
    }
}
