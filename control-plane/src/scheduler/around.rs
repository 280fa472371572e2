//! What the pods that are there already mean for a pod: inter-pod (anti-)affinity and topology spread (pure).
//!
//! Computed once a pod over all nodes, then asked for each node. As upstream's plug-ins InterPodAffinity and
//! PodTopologySpread: required terms and `DoNotSchedule` refuse nodes, preferred terms and `ScheduleAnyway` score them.
//! A "place" is a value of a node label: all nodes with `zone=a` are one place.

use std::collections::{BTreeMap, HashMap, HashSet};

use k8s_openapi::api::core::v1::{Affinity, PodAffinityTerm, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::filters;
use super::snapshot::{Candidate, NodeInfo, Resident};
use crate::controllers::meta::fits;

/// Labels by namespace.
pub(crate) type Namespaces = HashMap<String, BTreeMap<String, String>>;

/// A label key and its value on a node.
type Place = (String, String);

/// What the pods that are there mean for one pod.
#[derive(Default)]
pub(crate) struct Around {
    /// Where a pod is that does not want this one near.
    unwanted: HashSet<Place>,
    /// Where a pod is that this one does not want near.
    avoided: HashSet<Place>,
    /// For each required term: its key, and the values where pods are that fit all terms.
    wanted: Vec<(String, HashSet<String>)>,
    /// No pod fits the terms but this one does: it may be the first of its kind.
    first: bool,
    spread: Vec<Spread>,
    /// Preferences: places and what they are worth.
    worth: HashMap<Place, i64>,
    /// `ScheduleAnyway` constraints.
    soft_spread: Vec<Spread>,
}

/// How evenly pods lie over the places of a key.
struct Spread {
    key: String,
    skew: i64,
    counts: HashMap<String, i64>,
    least: i64,
    /// Whether the pod counts itself.
    own: i64,
}

impl Around {
    pub(crate) fn of(pod: &Candidate, nodes: &[&NodeInfo], namespaces: &Namespaces) -> Around {
        let mut around = Around::default();
        let affinity = pod.spec().and_then(|spec| spec.affinity.clone()).unwrap_or_default();
        around.take_anti_affinity(pod, &affinity, nodes, namespaces);
        around.take_affinity(pod, &affinity, nodes, namespaces);
        around.take_preferences(pod, &affinity, nodes, namespaces);
        for constraint in pod.spec().and_then(|spec| spec.topology_spread_constraints.as_ref()).into_iter().flatten() {
            let spread = Spread::of(pod, constraint, nodes);
            match constraint.when_unsatisfiable.as_str() {
                "ScheduleAnyway" => around.soft_spread.push(spread),
                _ => around.spread.push(spread),
            }
        }
        around
    }

    fn take_anti_affinity(
        &mut self,
        pod: &Candidate,
        affinity: &Affinity,
        nodes: &[&NodeInfo],
        namespaces: &Namespaces,
    ) {
        let own = affinity.pod_anti_affinity.as_ref();
        let own =
            own.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default();
        for (node, resident) in residents(nodes) {
            for term in own {
                if selects(term, &pod.key.namespace, resident_of(resident), namespaces) {
                    self.avoided.extend(place(node, &term.topology_key));
                }
            }
            for term in &resident.anti_affinity {
                if selects(term, &resident.namespace, (&pod.key.namespace, &pod.labels()), namespaces) {
                    self.unwanted.extend(place(node, &term.topology_key));
                }
            }
        }
    }

    fn take_affinity(&mut self, pod: &Candidate, affinity: &Affinity, nodes: &[&NodeInfo], namespaces: &Namespaces) {
        let terms = affinity.pod_affinity.as_ref();
        let terms =
            terms.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default();
        if terms.is_empty() {
            return;
        }
        let all = |who: (&str, &BTreeMap<String, String>)| {
            terms.iter().all(|t| selects(t, &pod.key.namespace, who, namespaces))
        };
        self.wanted = terms.iter().map(|term| (term.topology_key.clone(), HashSet::new())).collect();
        for (node, _) in residents(nodes).filter(|(_, resident)| all(resident_of(resident))) {
            for (key, values) in &mut self.wanted {
                values.extend(node.labels.get(key).cloned());
            }
        }
        self.first =
            self.wanted.iter().all(|(_, values)| values.is_empty()) && all((&pod.key.namespace, &pod.labels()));
    }

    fn take_preferences(&mut self, pod: &Candidate, affinity: &Affinity, nodes: &[&NodeInfo], namespaces: &Namespaces) {
        let near = affinity.pod_affinity.as_ref();
        let near = near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
        let far = affinity.pod_anti_affinity.as_ref();
        let far = far.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
        let near = near.unwrap_or_default().iter().map(|term| (&term.pod_affinity_term, i64::from(term.weight)));
        let far = far.unwrap_or_default().iter().map(|term| (&term.pod_affinity_term, -i64::from(term.weight)));
        for (term, weight) in near.chain(far) {
            for (node, resident) in residents(nodes) {
                if selects(term, &pod.key.namespace, resident_of(resident), namespaces) {
                    place(node, &term.topology_key)
                        .into_iter()
                        .for_each(|p| *self.worth.entry(p).or_default() += weight);
                }
            }
        }
    }

    /// Why the pods that are there forbid the node; `None` if they do not.
    pub(crate) fn refuse(&self, node: &NodeInfo) -> Option<String> {
        const SPREAD: &str = "node(s) didn't match pod topology spread constraints";
        for spread in &self.spread {
            let Some(value) = node.labels.get(&spread.key) else {
                return Some(format!("{SPREAD} (missing required label)"));
            };
            let here = spread.counts.get(value).copied().unwrap_or(0);
            if here + spread.own - spread.least > spread.skew {
                return Some(SPREAD.to_owned());
            }
        }
        let near = |(key, values): &(String, HashSet<String>)| {
            node.labels.get(key).is_some_and(|value| self.first || values.contains(value))
        };
        if !self.wanted.iter().all(near) {
            return Some("node(s) didn't match pod affinity rules".to_owned());
        }
        let at = |places: &HashSet<Place>| places.iter().any(|(key, value)| node.labels.get(key) == Some(value));
        if at(&self.avoided) {
            return Some("node(s) didn't match pod anti-affinity rules".to_owned());
        }
        at(&self.unwanted).then(|| "node(s) didn't satisfy existing pods anti-affinity rules".to_owned())
    }

    /// What the neighbourhood of the node is worth; only differences between nodes count.
    pub(crate) fn worth(&self, node: &NodeInfo) -> i64 {
        let at = |(key, value): &Place| node.labels.get(key) == Some(value);
        self.worth.iter().filter(|(place, _)| at(place)).map(|(_, weight)| weight).sum()
    }

    /// How crowded the node's places are by `ScheduleAnyway` constraints; a node outside of them counts as the fullest.
    pub(crate) fn crowd(&self, node: &NodeInfo) -> i64 {
        let one = |spread: &Spread| match node.labels.get(&spread.key) {
            Some(value) => spread.counts.get(value).copied().unwrap_or(0),
            None => spread.counts.values().copied().max().unwrap_or(0) + 1,
        };
        self.soft_spread.iter().map(one).sum()
    }
}

impl Spread {
    fn of(pod: &Candidate, constraint: &TopologySpreadConstraint, nodes: &[&NodeInfo]) -> Spread {
        let labels = pod.labels();
        let selector = with_keys(constraint.label_selector.as_ref(), constraint.match_label_keys.as_deref(), &labels);
        let chosen = |labels: &BTreeMap<String, String>| selector.as_ref().is_some_and(|s| fits(s, Some(labels)));
        let ignores = |policy: &Option<String>, default: &str| policy.as_deref().unwrap_or(default) == "Ignore";
        let affinity = !ignores(&constraint.node_affinity_policy, "Honor");
        let taints = !ignores(&constraint.node_taints_policy, "Ignore");
        let mut counts: HashMap<String, i64> = HashMap::new();
        for node in nodes {
            let Some(value) = node.labels.get(&constraint.topology_key) else { continue };
            if affinity && filters::affinity(pod, node).is_some() || taints && filters::taints(pod, node).is_some() {
                continue;
            }
            let same =
                |r: &&std::sync::Arc<Resident>| r.namespace == pod.key.namespace && !r.terminating && chosen(&r.labels);
            *counts.entry(value.clone()).or_default() += node.pods.values().filter(same).count() as i64;
        }
        let domains = counts.len() as i64;
        let enough = domains >= i64::from(constraint.min_domains.unwrap_or(1));
        let least = if enough { counts.values().copied().min().unwrap_or(0) } else { 0 };
        let own = i64::from(chosen(&labels));
        Spread { key: constraint.topology_key.clone(), skew: i64::from(constraint.max_skew), counts, least, own }
    }
}

/// A selector that also asks for the pod's own values of some labels.
fn with_keys(
    selector: Option<&LabelSelector>,
    keys: Option<&[String]>,
    labels: &BTreeMap<String, String>,
) -> Option<LabelSelector> {
    let mut selector = selector?.clone();
    for key in keys.unwrap_or_default() {
        if let Some(value) = labels.get(key) {
            selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                key: key.clone(),
                operator: "In".to_owned(),
                values: Some(vec![value.clone()]),
            });
        }
    }
    Some(selector)
}

fn residents<'a>(nodes: &'a [&'a NodeInfo]) -> impl Iterator<Item = (&'a NodeInfo, &'a Resident)> {
    nodes.iter().flat_map(|node| node.pods.values().map(move |resident| (*node, &**resident)))
}

fn resident_of(resident: &Resident) -> (&str, &BTreeMap<String, String>) {
    (&resident.namespace, &resident.labels)
}

fn place(node: &NodeInfo, key: &str) -> Option<Place> {
    node.labels.get(key).map(|value| (key.to_owned(), value.clone()))
}

/// Whether a term of a pod in the namespace `home` selects a pod (its namespace, its labels).
fn selects(
    term: &PodAffinityTerm,
    home: &str,
    who: (&str, &BTreeMap<String, String>),
    namespaces: &Namespaces,
) -> bool {
    let named = term.namespaces.as_deref().unwrap_or_default();
    let by_label = term.namespace_selector.as_ref().is_some_and(|selector| fits(selector, namespaces.get(who.0)));
    let default = named.is_empty() && term.namespace_selector.is_none() && who.0 == home;
    let there = default || by_label || named.iter().any(|name| name == who.0);
    there && term.label_selector.as_ref().is_some_and(|selector| fits(selector, Some(who.1)))
}
