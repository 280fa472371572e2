//! The scheduler: gives every pod without a node the best node that it fits on.
//!
//! ```text
//! watch pods, nodes ──> State (what is there, what waits) ──next()──> Bind ──> API, in the background
//!                            ^                                  └───> Unfit ──> condition, event
//!                            └────────── a binding failed ─────────────────┘
//! ```
//!
//! One task owns the state; it is driven by watches, never by polling. A pod's binding is on its way within the same
//! wake-up in which its creation was seen.

mod around;
mod filters;
mod queue;
mod scores;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, ListOptions, PatchType, Watch, WatchEvent};
use crate::controllers::events::Recorder;
use crate::controllers::informer::Key;
use crate::controllers::meta::{condition, now as time, seconds_text};
use snapshot::Candidate;
use state::{State, Verdict};

/// What an operator may set.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods with this `spec.schedulerName` (or none) are ours. Default `default-scheduler`.
    pub name: String,
}

impl Default for Config {
    fn default() -> Config {
        Config { name: "default-scheduler".to_owned() }
    }
}

/// Runs the scheduler until `shutdown`.
pub async fn run(client: Client, config: Config, shutdown: CancellationToken) {
    let (events, writer) = Recorder::new("default-scheduler");
    let writer = tokio::spawn(writer.run(client.clone(), shutdown.clone()));
    let (failed, failures) = mpsc::unbounded_channel();
    let hands = Hands { client, events, failed, tasks: JoinSet::new() };
    Loop { state: State::new(&config.name), hands, failures }.run(&shutdown).await;
    if let Err(error) = writer.await {
        tracing::error!(%error, "the scheduler's events ended");
    }
}

/// The part that speaks to the API.
struct Hands {
    client: Client,
    events: Recorder,
    failed: mpsc::UnboundedSender<String>,
    tasks: JoinSet<()>,
}

struct Loop {
    state: State,
    hands: Hands,
    failures: mpsc::UnboundedReceiver<String>,
}

impl Loop {
    async fn run(mut self, shutdown: &CancellationToken) {
        while !shutdown.is_cancelled() {
            let watches = tokio::select! {
                () = shutdown.cancelled() => return,
                watches = self.watch_all() => watches,
            };
            self.follow(watches, shutdown).await;
        }
    }

    /// Starts all watches and takes in what is there, pods last.
    async fn watch_all(&mut self) -> [Watch; 3] {
        loop {
            let options = ListOptions::default();
            let client = &self.hands.client;
            let all = tokio::try_join!(
                client.watch("namespaces", "", &options),
                client.watch("nodes", "", &options),
                client.watch("pods", "", &options),
            );
            match all {
                Ok((mut namespaces, mut nodes, mut pods)) => {
                    let items = std::mem::take(&mut namespaces.items);
                    items.into_iter().for_each(|item| self.namespace(WatchEvent::Added(item)));
                    self.reset_nodes(&std::mem::take(&mut nodes.items));
                    self.reset_pods(&std::mem::take(&mut pods.items));
                    return [namespaces, nodes, pods];
                }
                Err(error) => tracing::warn!(error = %error.chain(), "the scheduler cannot watch; trying again"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Until a watch ends.
    async fn follow(&mut self, watches: [Watch; 3], shutdown: &CancellationToken) {
        let [mut namespaces, mut nodes, mut pods] = watches;
        loop {
            let now = Instant::now();
            while let Some(verdict) = self.state.next(now) {
                self.hands.carry_out(verdict);
            }
            let due = self.state.next_due(now).unwrap_or(now + Duration::from_secs(3600));
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep_until(due.into()) => {}
                Some(uid) = self.failures.recv() => self.state.bind_failed(&uid, Instant::now()),
                Some(_) = self.hands.tasks.join_next() => {}
                event = pods.next() => match event {
                    Some(Ok(event)) => self.pod(event),
                    _ => return,
                },
                event = namespaces.next() => match event {
                    Some(Ok(event)) => self.namespace(event),
                    _ => return,
                },
                event = nodes.next() => match event {
                    Some(Ok(event)) => self.node(event),
                    _ => return,
                },
            }
        }
    }

    fn reset_nodes(&mut self, items: &[Arc<Value>]) {
        let there: HashSet<&str> = items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect();
        for name in self.state.node_names() {
            if !there.contains(name.as_str()) {
                self.state.node_gone(&name);
            }
        }
        items.iter().for_each(|item| self.node(WatchEvent::Added(item.clone())));
    }

    fn reset_pods(&mut self, items: &[Arc<Value>]) {
        let there: HashSet<&str> = items.iter().filter_map(|item| item["metadata"]["uid"].as_str()).collect();
        for uid in self.state.pod_uids() {
            if !there.contains(uid.as_str()) {
                self.state.pod_gone(&uid, Instant::now());
            }
        }
        items.iter().for_each(|item| self.pod(WatchEvent::Added(item.clone())));
    }

    fn pod(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                if let Some(pod) = view::<Pod>(&pod) {
                    self.state.pod_put(Arc::new(pod), Instant::now());
                }
            }
            WatchEvent::Deleted(pod) => {
                self.state.pod_gone(pod["metadata"]["uid"].as_str().unwrap_or_default(), Instant::now());
            }
            WatchEvent::Bookmark(_) => {}
        }
    }

    fn namespace(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Added(namespace) | WatchEvent::Modified(namespace) => {
                if let Some(namespace) = view::<Namespace>(&namespace) {
                    self.state.namespace_put(&namespace, Instant::now());
                }
            }
            WatchEvent::Deleted(namespace) => {
                self.state.namespace_gone(namespace["metadata"]["name"].as_str().unwrap_or_default());
            }
            WatchEvent::Bookmark(_) => {}
        }
    }

    fn node(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Added(node) | WatchEvent::Modified(node) => {
                if let Some(node) = view::<Node>(&node) {
                    self.state.node_put(&node, Instant::now());
                }
            }
            WatchEvent::Deleted(node) => self.state.node_gone(node["metadata"]["name"].as_str().unwrap_or_default()),
            WatchEvent::Bookmark(_) => {}
        }
    }
}

impl Hands {
    fn carry_out(&mut self, verdict: Verdict) {
        let (client, events) = (self.client.clone(), self.events.clone());
        match verdict {
            Verdict::Bind(candidate, node) => {
                let failed = self.failed.clone();
                self.tasks.spawn(async move {
                    if !bind(&client, &events, &candidate, &node).await {
                        // The receiver lives as long as the loop; after it nobody needs to know.
                        let _ = failed.send(candidate.uid);
                    }
                });
            }
            Verdict::Unfit(candidate, why) => {
                events.warning(&*candidate.pod, "FailedScheduling", why.clone());
                if let Some(body) = unfit_condition(&candidate.pod, &why) {
                    self.tasks.spawn(async move { tell_unfit(&client, &candidate.key, &body).await });
                }
            }
        }
    }
}

async fn bind(client: &Client, events: &Recorder, candidate: &Candidate, node: &str) -> bool {
    let Key { namespace, name } = &candidate.key;
    match client.bind(namespace, name, node).await {
        Ok(()) => {
            tracing::debug!(pod = %candidate.key, node, "bound");
            events.normal(&*candidate.pod, "Scheduled", format!("Successfully assigned {namespace}/{name} to {node}"));
            true
        }
        Err(error) => {
            if !error.is_not_found() {
                tracing::warn!(pod = %candidate.key, node, error = %error.chain(), "cannot bind; trying again");
            }
            false
        }
    }
}

/// The patch that says why the pod has no node; `None` if the pod says so already.
fn unfit_condition(pod: &Pod, why: &str) -> Option<Value> {
    let before = condition(pod, "PodScheduled").filter(|c| c.status == "False");
    if before.is_some_and(|c| c.message.as_deref() == Some(why)) {
        return None;
    }
    let since = before.and_then(|c| c.last_transition_time.as_ref()).map_or_else(time, |time| time.0);
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why,
        "lastProbeTime": null, "lastTransitionTime": seconds_text(since),
    });
    Some(json!({"status": {"conditions": [condition]}}))
}

async fn tell_unfit(client: &Client, key: &Key, body: &Value) {
    let at = ("pods", key.namespace.as_str(), key.name.as_str());
    if let Err(error) = client.patch_status(at, PatchType::Strategic, body).await {
        tracing::debug!(pod = %key, error = %error.chain(), "cannot say why the pod has no node");
    }
}

fn view<'a, T: Deserialize<'a>>(value: &'a Value) -> Option<T> {
    match T::deserialize(value) {
        Ok(object) => Some(object),
        Err(error) => {
            let name = value["metadata"]["name"].as_str().unwrap_or_default();
            tracing::warn!(name, %error, "an object does not fit its type and is left alone");
            None
        }
    }
}
