//! The ReplicaSet controller: keeps as many pods as a ReplicaSet asks for.
//!
//! `decide` says what to do; here it is done, in slow-start batches (1, 2, 4, ... creations at once, ended by the
//! first failure, so that a quota or a broken template does not cause thousands of refused requests).
//!
//! The cache of pods lags behind our own writes. So that no pod is created or deleted twice, a ReplicaSet is left
//! alone until the cache has seen the newest revision that we wrote for it, and every pod that we asked to be deleted
//! as terminating or gone (`Expectation`).

mod decide;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::events::Recorder;
use super::informer::{Cache, Change, Key, revision_of};
use super::meta::{controller_of, is_active, is_terminating, namespace, now, selects, uid};
use super::queue::{self, Queue};
use super::write::{Write, run_all};
use crate::client::Client;
use crate::error::{Error, Result};
use decide::{Decision, Failure};

const RESOURCE: &str = "replicasets.apps";
/// After so long an expectation is given up: the truth is then looked at again.
const PATIENCE: Duration = Duration::from_secs(300);

/// The controller.
pub(super) struct ReplicaSets {
    pub(super) client: Client,
    pub(super) sets: Arc<Cache<ReplicaSet>>,
    pub(super) pods: Arc<Cache<Pod>>,
    pub(super) events: Recorder,
    expected: Mutex<HashMap<Key, Expectation>>,
}

/// What the cache must show before a ReplicaSet is looked at again.
struct Expectation {
    revision: u64,
    deleting: HashSet<(Key, String)>,
    since: Instant,
}

impl Expectation {
    /// Whether `pods` has caught up.
    fn is_met(&self, pods: &Cache<Pod>) -> bool {
        let gone = |(key, uid): &(Key, String)| match pods.get(key) {
            Some(pod) => pod.metadata.uid.as_deref() != Some(uid) || is_terminating(&pod.metadata),
            None => true,
        };
        (pods.seen() >= self.revision && self.deleting.iter().all(gone)) || self.since.elapsed() > PATIENCE
    }
}

impl ReplicaSets {
    pub(super) fn new(
        client: Client,
        sets: Arc<Cache<ReplicaSet>>,
        pods: Arc<Cache<Pod>>,
        events: Recorder,
    ) -> ReplicaSets {
        ReplicaSets { client, sets, pods, events, expected: Mutex::default() }
    }

    /// Connects the queue to the caches.
    pub(super) fn listen(&self) -> Arc<Queue> {
        let queue = Queue::new();
        let on_set = queue.clone();
        self.sets.listen(move |change| on_set.add(Key::of(&**change.object())));
        let (on_pod, sets) = (queue.clone(), self.sets.clone());
        self.pods.listen(move |change| pod_changed(&on_pod, &sets, &change));
        queue
    }

    pub(super) async fn run(self, queue: Arc<Queue>, shutdown: CancellationToken) {
        let this = Arc::new(self);
        let again = queue.clone();
        let sync = move |key| {
            let (this, queue) = (this.clone(), again.clone());
            async move { this.sync(key, &queue).await }
        };
        queue::work("replicaset", queue, 4, shutdown, sync).await;
    }

    async fn sync(&self, key: Key, queue: &Arc<Queue>) -> Result<()> {
        let Some(rs) = self.sets.get(&key) else {
            self.expectations().remove(&key);
            return Ok(());
        };
        if self.expectations().get(&key).is_some_and(|expected| !expected.is_met(&self.pods)) {
            return Ok(()); // the pod event that meets the expectation brings the key back
        }
        self.expectations().remove(&key);
        let now = now();
        let decision = decide::decide(&rs, &self.pods.in_namespace(&key.namespace), now);
        run_all(&self.client, &decision.claims).await?;
        let failed = self.act(&key, &rs, &decision).await;
        let failure = failed.as_ref().err().map(|(reason, error)| Failure { reason, message: error.chain() });
        self.write_status(&rs, &decision, failure, now).await?;
        if self.expectations().contains_key(&key) {
            queue.add_after(key.clone(), PATIENCE);
        }
        if let Some(wait) = decision.look_again {
            queue.add_after(key, wait);
        }
        failed.map_err(|(_, error)| error)
    }

    async fn act(&self, key: &Key, rs: &ReplicaSet, decision: &Decision) -> Result<(), (&'static str, Error)> {
        let created = self.create(rs, &decision.creates).await;
        let deleted = self.delete(rs, &decision.deletes).await;
        let expected = Expectation { revision: created.0, deleting: deleted.0, since: Instant::now() };
        if !expected.is_met(&self.pods) {
            self.expectations().insert(key.clone(), expected);
        }
        created.1.map_err(|error| ("FailedCreate", error))?;
        deleted.1.map_err(|error| ("FailedDelete", error))
    }

    /// Creates in batches of 1, 2, 4, ...; returns the newest revision written, and the first failure.
    async fn create(&self, rs: &ReplicaSet, writes: &[Write]) -> (u64, Result<()>) {
        let (mut newest, mut rest, mut batch) = (0, writes, 1);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(batch.min(rest.len()));
            let results = join_all(now.iter().map(|write| write.run(&self.client))).await;
            let mut failure = None;
            for result in results {
                match result {
                    Ok(pod) => {
                        newest = newest.max(revision_of(&pod));
                        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                        self.events.normal(rs, "SuccessfulCreate", format!("Created pod: {name}"));
                    }
                    Err(error) => failure = Some(error),
                }
            }
            if let Some(error) = failure {
                self.events.warning(rs, "FailedCreate", format!("Error creating: {}", error.chain()));
                return (newest, Err(error));
            }
            (rest, batch) = (later, batch * 2);
        }
        (newest, Ok(()))
    }

    /// Deletes all at once; returns what was asked to go, and the first failure.
    async fn delete(&self, rs: &ReplicaSet, writes: &[Write]) -> (HashSet<(Key, String)>, Result<()>) {
        let results = join_all(writes.iter().map(|write| write.run(&self.client))).await;
        let (mut going, mut failure) = (HashSet::new(), Ok(()));
        for (write, result) in writes.iter().zip(results) {
            let Write::Delete { namespace, name, uid, .. } = write else { continue };
            match result {
                Ok(_) => {
                    going.insert((Key::new(namespace, name), uid.clone().unwrap_or_default()));
                    self.events.normal(rs, "SuccessfulDelete", format!("Deleted pod: {name}"));
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    self.events.warning(rs, "FailedDelete", format!("Error deleting: {}", error.chain()));
                    failure = Err(error);
                }
            }
        }
        (going, failure)
    }

    async fn write_status(
        &self,
        rs: &ReplicaSet,
        decision: &Decision,
        failure: Option<Failure>,
        now: Timestamp,
    ) -> Result<()> {
        let status = decide::status(rs, &decision.active, failure, now);
        if rs.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut object = crate::client::untyped(rs)?;
        object["status"] = json!(status);
        named(&mut object);
        Write::Status { resource: RESOURCE, object }.run(&self.client).await.map(drop)
    }

    fn expectations(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Expectation>> {
        self.expected.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn named(object: &mut Value) {
    object["apiVersion"] = "apps/v1".into();
    object["kind"] = "ReplicaSet".into();
}

/// Wakes the ReplicaSets that a change of a pod concerns: its owner, its owner before, or, if it has none,
/// those that could adopt it.
fn pod_changed(queue: &Queue, sets: &Cache<ReplicaSet>, change: &Change<'_, Pod>) {
    let owner = |pod: &Pod| {
        let owner = controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet")?;
        let key = Key::new(namespace(&pod.metadata), &owner.name);
        sets.get(&key).filter(|rs| uid(&rs.metadata) == owner.uid).map(|_| key)
    };
    if let Change::Modified(was, _) = change {
        owner(was).into_iter().for_each(|key| queue.add(key));
    }
    let pod = change.object();
    if let Some(key) = owner(pod) {
        queue.add(key);
    } else if controller_of(&pod.metadata).is_none() && is_active(pod) && !matches!(change, Change::Deleted(_)) {
        for rs in sets.in_namespace(namespace(&pod.metadata)) {
            if rs.spec.as_ref().is_some_and(|spec| selects(&spec.selector, pod.metadata.labels.as_ref())) {
                queue.add(Key::of(&*rs));
            }
        }
    }
}
