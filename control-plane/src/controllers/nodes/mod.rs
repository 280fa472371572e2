//! The node controller: notices nodes that no longer speak, and takes their pods away from them.
//!
//! A kubelet renews its Lease in `kube-node-lease` every 10 s. What counts is when *we* saw the Lease or the node's
//! status change, so no two clocks are compared. Each node is looked at when it changes and when its time is up.

pub(crate) mod decide;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::Caches;
use super::events::Recorder;
use super::informer::{Cache, Change, Key};
use super::meta::now;
use super::queue::{self, Queue};
use crate::client::Client;
use crate::error::{Kind, Result};
use decide::Seen;

const LEASES: &str = "kube-node-lease";

/// The controller.
pub(super) struct Nodes {
    client: Client,
    nodes: Arc<Cache<Node>>,
    leases: Arc<Cache<Lease>>,
    pods: Arc<Cache<Pod>>,
    events: Recorder,
    grace: Duration,
    heard: Mutex<HashMap<String, Heard>>,
}

/// The last sign of life of a node.
struct Heard {
    sign: Sign,
    at: Instant,
}

/// What changes whenever a kubelet speaks.
#[derive(PartialEq)]
struct Sign {
    renewed: Option<Timestamp>,
    heartbeat: Option<Timestamp>,
}

impl Nodes {
    pub(super) fn new(client: Client, caches: &Caches, grace: Duration, events: Recorder) -> Nodes {
        Nodes {
            client,
            nodes: caches.nodes.clone(),
            leases: caches.leases.clone(),
            pods: caches.pods.clone(),
            events,
            grace,
            heard: Mutex::default(),
        }
    }

    pub(super) fn listen(&self) -> Arc<Queue> {
        let queue = Queue::new();
        let wake = queue.clone();
        self.nodes.listen(move |change| wake.add(Key::of(&**change.object())));
        let wake = queue.clone();
        self.leases.listen(move |change| {
            let key = Key::of(&**change.object());
            if key.namespace == LEASES {
                wake.add(Key::new("", &key.name));
            }
        });
        let wake = queue.clone();
        self.pods.listen(move |change| {
            // A pod that comes to a tainted node has to be looked at; one that leaves has not.
            let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            let came = match &change {
                Change::Added(pod) => node(pod),
                Change::Modified(was, pod) if node(was) != node(pod) => node(pod),
                _ => None,
            };
            came.into_iter().for_each(|node| wake.add(Key::new("", &node)));
        });
        queue
    }

    pub(super) async fn run(self, queue: Arc<Queue>, shutdown: CancellationToken) {
        let (this, again) = (Arc::new(self), queue.clone());
        let sync = move |key| {
            let (this, queue) = (this.clone(), again.clone());
            async move { this.sync(key, &queue).await }
        };
        queue::work("node", queue, 2, shutdown, sync).await;
    }

    async fn sync(&self, key: Key, queue: &Arc<Queue>) -> Result<()> {
        let Some(node) = self.nodes.get(&key) else {
            self.heard().remove(&key.name);
            return Ok(());
        };
        let silent_for = self.silence(&node, &key.name);
        let mut pods = self.pods.all();
        pods.retain(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(&key.name));
        let seen = Seen { node: &node, silent_for, grace: self.grace, pods: &pods, now: now() };
        let decision = decide::decide(&seen);
        if decision.lost {
            tracing::warn!(node = %key, "the node has gone silent");
            self.events.normal(&*node, "NodeNotReady", format!("Node {key} status is now: NodeNotReady"));
        }
        for (namespace, name) in &decision.evicted {
            if let Some(pod) = self.pods.get(&Key::new(namespace, name)) {
                let told = format!("Marking for deletion Pod {namespace}/{name}");
                self.events.normal(&*pod, "TaintManagerEviction", told);
            }
        }
        for write in &decision.writes {
            match write.run(&self.client).await {
                Err(error) if error.kind() == Kind::NotFound => {}
                result => drop(result?),
            }
        }
        if let Some(wait) = decision.look_again {
            queue.add_after(key, wait);
        }
        Ok(())
    }

    /// How long ago the node last spoke, by our own clock.
    fn silence(&self, node: &Node, name: &str) -> Duration {
        let lease = self.leases.get(&Key::new(LEASES, name));
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0));
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        let beats = conditions.into_iter().flatten().filter_map(|c| c.last_heartbeat_time.as_ref());
        let sign = Sign { renewed, heartbeat: beats.map(|time| time.0).max() };
        let mut heard = self.heard();
        match heard.get(name) {
            Some(last) if last.sign == sign => last.at.elapsed(),
            _ => {
                heard.insert(name.to_owned(), Heard { sign, at: Instant::now() });
                Duration::ZERO
            }
        }
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, HashMap<String, Heard>> {
        self.heard.lock().unwrap_or_else(|e| e.into_inner())
    }
}
