//! Pod garbage: pods whose node is gone, and finished pods beyond the number kept.
//!
//! A deleted node's kubelet will never confirm the end of its pods, so after a while they are removed with no grace.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use tokio_util::sync::CancellationToken;

use super::informer::{Cache, Change, Key};
use super::meta::{is_finished, is_terminating, name, namespace};
use super::queue::{self, Queue};
use super::write::Write;
use super::{Caches, Config};
use crate::client::Client;
use crate::error::{Kind, Result};

/// The controller. Its only keys: one that means "look at the orphans", one that means "look at the finished".
pub(super) struct PodGarbage {
    client: Client,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    orphan_grace: Duration,
    finished: usize,
}

const ORPHANS: &str = "orphans";
const FINISHED: &str = "finished";

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

/// Pods on nodes that do not exist.
fn orphans(pods: &[Arc<Pod>], nodes: &HashSet<String>) -> Vec<Write> {
    let lost = pods.iter().filter(|pod| node_of(pod).is_some_and(|node| !nodes.contains(node)));
    lost.map(|pod| remove(pod)).collect()
}

/// The oldest finished pods beyond `keep`.
fn surplus(pods: &[Arc<Pod>], keep: usize) -> Vec<Write> {
    let mut finished: Vec<_> = pods.iter().filter(|pod| is_finished(pod) && !is_terminating(&pod.metadata)).collect();
    let surplus = finished.len().saturating_sub(keep);
    finished.sort_by(|a, b| {
        let key = |pod: &Pod| (pod.metadata.creation_timestamp.clone(), Key::of(pod));
        key(a).cmp(&key(b))
    });
    finished.into_iter().take(surplus).map(|pod| remove(pod)).collect()
}

fn remove(pod: &Pod) -> Write {
    Write::Delete {
        resource: "pods",
        namespace: namespace(&pod.metadata).to_owned(),
        name: name(&pod.metadata).to_owned(),
        uid: pod.metadata.uid.clone(),
        grace: Some(0),
    }
}

impl PodGarbage {
    pub(super) fn new(client: Client, caches: &Caches, config: &Config) -> PodGarbage {
        PodGarbage {
            client,
            pods: caches.pods.clone(),
            nodes: caches.nodes.clone(),
            orphan_grace: config.orphan_grace,
            finished: config.finished_pods,
        }
    }

    pub(super) fn listen(&self) -> Arc<Queue> {
        let queue = Queue::new();
        let (wake, grace) = (queue.clone(), self.orphan_grace);
        self.nodes.listen(move |change| {
            if matches!(change, Change::Deleted(_)) {
                wake.add_after(Key::new("", ORPHANS), grace);
            }
        });
        let (wake, nodes) = (queue.clone(), self.nodes.clone());
        self.pods.listen(move |change| {
            let pod = change.object();
            if matches!(change, Change::Added(_)) && node_of(pod).is_some_and(|n| nodes.get(&Key::new("", n)).is_none())
            {
                wake.add_after(Key::new("", ORPHANS), grace);
            }
            if is_finished(pod) {
                wake.add(Key::new("", FINISHED));
            }
        });
        queue
    }

    pub(super) async fn run(self, queue: Arc<Queue>, shutdown: CancellationToken) {
        let this = Arc::new(self);
        let sync = move |key: Key| {
            let this = this.clone();
            async move { this.sync(&key.name).await }
        };
        queue::work("pod-garbage", queue, 1, shutdown, sync).await;
    }

    async fn sync(&self, what: &str) -> Result<()> {
        let pods = self.pods.all();
        let writes = match what {
            ORPHANS => orphans(&pods, &self.nodes.all().iter().map(|node| name(&node.metadata).to_owned()).collect()),
            _ => surplus(&pods, self.finished),
        };
        for write in writes {
            match write.run(&self.client).await {
                Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Conflict) => {}
                result => drop(result?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: &str, phase: &str, minute: u32) -> Arc<Pod> {
        let pod = json!({
            "metadata": {"name": name, "namespace": "d", "uid": name, "creationTimestamp": format!("2026-01-01T00:{minute:02}:00Z")},
            "spec": {"containers": [], "nodeName": node}, "status": {"phase": phase},
        });
        Arc::new(serde_json::from_value(pod).expect("pod"))
    }

    fn text(writes: &[Write]) -> String {
        writes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn pods_of_deleted_nodes_go() {
        let pods = [pod("a", "n1", "Running", 0), pod("b", "n2", "Running", 0), pod("c", "", "Pending", 0)];
        assert_eq!(text(&orphans(&pods, &["n1".to_owned()].into())), "delete pods d/b grace 0");
    }

    #[test]
    fn the_oldest_finished_pods_go_beyond_the_limit() {
        let pods = [
            pod("new", "n", "Failed", 9),
            pod("old", "n", "Succeeded", 1),
            pod("oldest", "n", "Succeeded", 0),
            pod("live", "n", "Running", 0),
        ];
        assert_eq!(text(&surplus(&pods, 1)), "delete pods d/oldest grace 0\ndelete pods d/old grace 0");
        assert_eq!(text(&surplus(&pods, 3)), "");
    }
}
