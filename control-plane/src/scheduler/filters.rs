//! Which nodes a pod can run on, and why not on the others (pure).
//!
//! Filters and reasons as upstream's plug-ins NodeUnschedulable, NodeName, TaintToleration, NodeAffinity, NodePorts and
//! NodeResourcesFit, PodTopologySpread and InterPodAffinity (`around`), in this order; the first that refuses a node
//! tells. Not there yet: volumes, preemption.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};

use super::around::Around;
use super::snapshot::{Candidate, HostPort, NodeInfo};
use crate::controllers::nodes::decide::tolerates;

/// Reasons that a node is refused; empty: the pod fits.
pub(crate) fn refuse(pod: &Candidate, node: &NodeInfo, around: &Around) -> Vec<String> {
    let filters: [fn(&Candidate, &NodeInfo) -> Option<String>; 5] =
        [unschedulable, node_name, taints, affinity, host_ports];
    match filters.iter().find_map(|filter| filter(pod, node)) {
        Some(reason) => vec![reason],
        None => Some(resources(pod, node))
            .filter(|reasons| !reasons.is_empty())
            .unwrap_or_else(|| around.refuse(node).into_iter().collect()),
    }
}

fn tolerations(pod: &Candidate) -> &[Toleration] {
    pod.spec().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}

fn is_tolerated(pod: &Candidate, taint: &Taint) -> bool {
    tolerations(pod).iter().any(|toleration| tolerates(toleration, taint))
}

fn implied(key: &str) -> Taint {
    Taint { key: key.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() }
}

fn unschedulable(pod: &Candidate, node: &NodeInfo) -> Option<String> {
    let refused = node.unschedulable && !is_tolerated(pod, &implied("node.kubernetes.io/unschedulable"));
    refused.then(|| "node(s) were unschedulable".to_owned())
}

fn node_name(pod: &Candidate, node: &NodeInfo) -> Option<String> {
    let wanted = pod.spec()?.node_name.as_deref().filter(|name| !name.is_empty())?;
    (wanted != node.name).then(|| "node(s) didn't match the requested node name".to_owned())
}

pub(super) fn taints(pod: &Candidate, node: &NodeInfo) -> Option<String> {
    // A node that is not ready counts as tainted at once, before the node controller has written the taint.
    let not_ready = (!node.ready).then(|| implied("node.kubernetes.io/not-ready"));
    let hard = node.taints.iter().filter(|taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute");
    let refused = hard.chain(&not_ready).find(|taint| !is_tolerated(pod, taint))?;
    Some(format!("node(s) had untolerated taint {{{}: {}}}", refused.key, refused.value.as_deref().unwrap_or_default()))
}

pub(super) fn affinity(pod: &Candidate, node: &NodeInfo) -> Option<String> {
    let spec = pod.spec()?;
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| node.labels.get(key) == Some(value));
    let required = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = required.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let wanted = required.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| matches(term, node)));
    (!selected || !wanted).then(|| "node(s) didn't match Pod's node affinity/selector".to_owned())
}

/// Whether a node selector term selects the node; an empty term selects nothing.
pub(crate) fn matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = BTreeMap::from([("metadata.name".to_owned(), node.name.clone())]);
    !(labels.is_empty() && fields.is_empty())
        && labels.iter().all(|rule| holds(rule, &node.labels))
        && fields.iter().all(|rule| holds(rule, &name))
}

fn holds(rule: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&rule.key);
    let listed = || rule.values.iter().flatten().any(|wanted| Some(wanted) == value);
    let compare = |than: fn(i64, i64) -> bool| {
        let [bound] = rule.values.as_deref().unwrap_or_default() else { return false };
        value.and_then(|v| v.parse().ok()).zip(bound.parse().ok()).is_some_and(|(v, bound)| than(v, bound))
    };
    match rule.operator.as_str() {
        "In" => value.is_some() && listed(),
        "NotIn" => value.is_none() || !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|v, bound| v > bound),
        "Lt" => compare(|v, bound| v < bound),
        _ => false,
    }
}

fn host_ports(pod: &Candidate, node: &NodeInfo) -> Option<String> {
    let clash = |(protocol, ip, port): &HostPort| {
        let any = |ip: &str| ip == "0.0.0.0" || ip == "::";
        let taken = |(p, i, n): &HostPort| p == protocol && n == port && (i == ip || any(i) || any(ip));
        node.ports.iter().any(taken)
    };
    let refused = pod.demand.ports.iter().any(clash);
    refused.then(|| "node(s) didn't have free ports for the requested pod ports".to_owned())
}

fn resources(pod: &Candidate, node: &NodeInfo) -> Vec<String> {
    let mut reasons = Vec::new();
    if node.pods.len() as i64 + 1 > node.allocatable.get("pods") {
        reasons.push("Too many pods".to_owned());
    }
    for (name, wanted) in pod.demand.request.0.iter().filter(|(name, wanted)| **wanted > 0 && name.as_str() != "pods") {
        if *wanted > node.allocatable.get(name) - node.taken.get(name) {
            reasons.push(format!("Insufficient {name}"));
        }
    }
    reasons
}

/// Upstream's sentence about a pod that fits nowhere: `0/2 nodes are available: 1 Insufficient cpu, 1 Too many pods.`
pub(crate) fn explain(nodes: usize, reasons: &BTreeMap<String, usize>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut list: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    list.sort();
    format!("0/{nodes} nodes are available: {}.", list.join(", "))
}
