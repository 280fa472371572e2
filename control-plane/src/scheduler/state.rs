//! DECIDE: the scheduler's state and its one question: which pod goes where next?
//!
//! A pod that was given a node counts as placed there at once ("assumed"), before the API has confirmed it, so many
//! pods that arrive together do not pile up on one node. A failed binding takes that back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};

use super::around::{Around, Namespaces};
use super::queue::Waiting;
use super::snapshot::{Candidate, NodeInfo, Resident};
use super::{filters, scores};
use crate::controllers::meta::{is_finished, is_terminating};

/// The outcome of an attempt.
pub(super) enum Verdict {
    /// Bind the pod to the node.
    Bind(Candidate, String),
    /// It fits nowhere; the sentence says why.
    Unfit(Candidate, String),
}

/// All that the scheduler knows.
#[derive(Default)]
pub(super) struct State {
    nodes: BTreeMap<String, NodeInfo>,
    placed: HashMap<String, (String, Arc<Resident>)>,
    namespaces: Namespaces,
    waiting: Waiting,
    name: String,
}

impl State {
    /// `name` is what pods say in `spec.schedulerName`.
    pub(super) fn new(name: &str) -> State {
        State { name: name.to_owned(), ..State::default() }
    }

    pub(super) fn node_put(&mut self, node: &Node, now: Instant) {
        let name = node.metadata.name.clone().unwrap_or_default();
        if self.nodes.entry(name).or_default().update(node) {
            self.waiting.wake_all(now);
        }
    }

    pub(super) fn node_gone(&mut self, name: &str) {
        // Pods that are still said to be there keep their place, in case the node comes back under its name.
        if let Some(node) = self.nodes.get_mut(name) {
            *node = NodeInfo {
                name: name.to_owned(),
                taken: std::mem::take(&mut node.taken),
                weight: std::mem::take(&mut node.weight),
                pods: std::mem::take(&mut node.pods),
                ports: std::mem::take(&mut node.ports),
                gone: true,
                ..NodeInfo::default()
            };
            if node.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
    }

    pub(super) fn namespace_put(&mut self, namespace: &Namespace, now: Instant) {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let labels = namespace.metadata.labels.clone().unwrap_or_default();
        if self.namespaces.insert(name, labels.clone()).is_none_or(|was| was != labels) && self.waiting.looks_around() {
            self.waiting.wake_all(now);
        }
    }

    pub(super) fn namespace_gone(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    pub(super) fn node_names(&self) -> Vec<String> {
        self.nodes.values().filter(|node| !node.gone).map(|node| node.name.clone()).collect()
    }

    pub(super) fn pod_put(&mut self, pod: Arc<Pod>, now: Instant) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let spec = pod.spec.as_ref();
        if is_finished(&pod) {
            return self.pod_gone(&uid, now);
        }
        match spec.and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty()) {
            Some(node) => {
                self.waiting.remove(&uid);
                let resident = Arc::new(Resident::of(&pod));
                if self.placed.get(&uid).is_some_and(|(at, was)| *at == node && *was == resident) {
                    return;
                }
                self.take_back(&uid);
                self.place(&uid, &node, resident);
                if self.waiting.looks_around() {
                    self.waiting.wake_all(now);
                }
            }
            None if is_terminating(&pod.metadata) || !self.is_ours(&pod) => self.pod_gone(&uid, now),
            None => self.waiting.put(Candidate::new(pod)),
        }
    }

    pub(super) fn pod_gone(&mut self, uid: &str, now: Instant) {
        self.waiting.remove(uid);
        if self.take_back(uid) {
            self.waiting.wake_all(now);
        }
    }

    pub(super) fn pod_uids(&self) -> Vec<String> {
        self.placed.keys().cloned().chain(self.waiting.uids()).collect()
    }

    /// Decides about the next pod; `None` when none is to be tried now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Verdict> {
        self.waiting.due(now);
        let pod = self.waiting.next()?;
        let nodes: Vec<&NodeInfo> = self.nodes.values().filter(|node| !node.gone).collect();
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        let around = Around::of(&pod, &nodes, &self.namespaces);
        let mut fitting = Vec::new();
        for node in &nodes {
            let refused = filters::refuse(&pod, node, &around);
            if refused.is_empty() {
                fitting.push(*node);
            }
            refused.into_iter().for_each(|reason| *reasons.entry(reason).or_default() += 1);
        }
        match scores::best(&pod, &fitting, &around).map(|node| node.name.clone()) {
            Some(node) => {
                self.place(&pod.uid, &node, Arc::new(Resident::of(&pod.pod)));
                Some(Verdict::Bind(pod, node))
            }
            None => {
                let why = filters::explain(nodes.len(), &reasons);
                self.waiting.park(&pod.uid, now);
                Some(Verdict::Unfit(pod, why))
            }
        }
    }

    /// The binding failed: the pod is taken back and tried again, unless it has gone or was bound by another.
    pub(super) fn bind_failed(&mut self, uid: &str, now: Instant) {
        if self.waiting.contains(uid) {
            self.take_back(uid);
            self.waiting.retry(uid, now);
        }
    }

    /// When a pod that waits will be due.
    pub(super) fn next_due(&mut self, now: Instant) -> Option<Instant> {
        self.waiting.due(now)
    }

    fn is_ours(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else { return false };
        let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        !gated && spec.scheduler_name.as_deref().is_none_or(|name| name == self.name || name.is_empty())
    }

    fn place(&mut self, uid: &str, node: &str, resident: Arc<Resident>) {
        let info = self.nodes.entry(node.to_owned()).or_insert_with(|| NodeInfo {
            name: node.to_owned(),
            gone: true,
            ..NodeInfo::default()
        });
        info.place(uid, &resident);
        self.placed.insert(uid.to_owned(), (node.to_owned(), resident));
    }

    fn take_back(&mut self, uid: &str) -> bool {
        let Some((node, _)) = self.placed.remove(uid) else { return false };
        if let Some(info) = self.nodes.get_mut(&node) {
            info.remove(uid);
            if info.gone && info.pods.is_empty() {
                self.nodes.remove(&node);
            }
        }
        true
    }
}
