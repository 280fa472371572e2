//! The Deployment controller: moves a Deployment's pods from one template to the next through ReplicaSets.
//!
//! `decide` and its parts are pure; here is the queue and the doing. A name that is taken by a ReplicaSet that is not
//! ours (a hash collision) raises `status.collisionCount`, which changes the hash.

mod decide;
mod hash;
mod rolling;
mod scale;
mod sets;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::events::Recorder;
use super::informer::{Cache, Change, Key};
use super::meta::{controller_of, is_finished, namespace, now, selects, uid};
use super::queue::{self, Queue};
use super::write::Write;
use crate::client::Client;
use crate::error::Result;
use decide::Snapshot;

/// The controller.
pub(super) struct Deployments {
    pub(super) client: Client,
    pub(super) deployments: Arc<Cache<Deployment>>,
    pub(super) sets: Arc<Cache<ReplicaSet>>,
    pub(super) pods: Arc<Cache<Pod>>,
    pub(super) events: Recorder,
}

impl Deployments {
    /// Connects the queue to the caches.
    pub(super) fn listen(&self) -> Arc<Queue> {
        let queue = Queue::new();
        let on_change = queue.clone();
        self.deployments.listen(move |change| on_change.add(Key::of(&**change.object())));
        let (on_set, deployments) = (queue.clone(), self.deployments.clone());
        self.sets.listen(move |change| set_changed(&on_set, &deployments, &change));
        let (on_pod, sets) = (queue.clone(), self.sets.clone());
        self.pods.listen(move |change| pod_changed(&on_pod, &sets, &change));
        queue
    }

    pub(super) async fn run(self, queue: Arc<Queue>, shutdown: CancellationToken) {
        let (this, again) = (Arc::new(self), queue.clone());
        let sync = move |key| {
            let (this, queue) = (this.clone(), again.clone());
            async move { this.sync(key, &queue).await }
        };
        queue::work("deployment", queue, 2, shutdown, sync).await;
    }

    async fn sync(&self, key: Key, queue: &Arc<Queue>) -> Result<()> {
        let Some(deployment) = self.deployments.get(&key) else { return Ok(()) };
        let sets = self.sets.in_namespace(&key.namespace);
        let pods = match decide::is_recreate(&deployment) {
            true => self.pods.in_namespace(&key.namespace),
            false => Vec::new(),
        };
        let seen = Snapshot { deployment: &deployment, sets: &sets, pods: &pods, now: now() };
        let decision = decide::decide(&seen);
        for write in &decision.writes {
            match write.run(&self.client).await {
                Err(error) if error.is_already_exists() => self.resolve_collision(&deployment, write).await?,
                Err(error) if matches!(write, Write::Create { .. }) => {
                    let told = format!("Failed to create new replica set: {}", error.chain());
                    self.events.warning(&*deployment, "ReplicaSetCreateError", told);
                    return Err(error);
                }
                result => drop(result?),
            }
        }
        for (reason, message) in decision.events {
            self.events.normal(&*deployment, reason, message);
        }
        if let Some(wait) = decision.look_again {
            queue.add_after(key, wait);
        }
        Ok(())
    }

    /// The new ReplicaSet's name is taken: by ours, which the cache has not seen yet, or by another template.
    async fn resolve_collision(&self, deployment: &Deployment, write: &Write) -> Result<()> {
        let Write::Create { object, .. } = write else { return Ok(()) };
        let meta = &object["metadata"];
        let text = |field: &str| meta[field].as_str().unwrap_or_default();
        let there: ReplicaSet = self.client.get_as(text("namespace"), text("name")).await?;
        let ours = controller_of(&there.metadata).is_some_and(|owner| owner.uid == uid(&deployment.metadata));
        let template = there.spec.as_ref().and_then(|spec| spec.template.as_ref());
        let wanted = deployment.spec.as_ref().map(|spec| &spec.template);
        if ours && template.zip(wanted).is_some_and(|(a, b)| hash::same(a, b)) {
            return Ok(());
        }
        let count = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0) + 1;
        let patch = Write::PatchStatus {
            resource: decide::DEPLOYMENTS,
            namespace: text("namespace").to_owned(),
            name: super::meta::name(&deployment.metadata).to_owned(),
            body: json!({"status": {"collisionCount": count}}),
        };
        patch.run(&self.client).await.map(drop)
    }
}

/// Wakes the owner of a changed ReplicaSet, or those Deployments that could adopt it.
fn set_changed(queue: &Queue, deployments: &Cache<Deployment>, change: &Change<'_, ReplicaSet>) {
    let set = change.object();
    let home = namespace(&set.metadata);
    let owner = |set: &ReplicaSet| {
        let owner = controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment");
        owner.map(|owner| Key::new(home, &owner.name))
    };
    if let Change::Modified(was, _) = change {
        owner(was).into_iter().for_each(|key| queue.add(key));
    }
    if let Some(key) = owner(set) {
        queue.add(key);
    } else if controller_of(&set.metadata).is_none() && !matches!(change, Change::Deleted(_)) {
        let fits = |d: &&Arc<Deployment>| {
            d.spec.as_ref().is_some_and(|spec| selects(&spec.selector, set.metadata.labels.as_ref()))
        };
        deployments.in_namespace(home).iter().filter(fits).for_each(|d| queue.add(Key::of(&**d)));
    }
}

/// A strategy Recreate waits for the last old pod to end.
fn pod_changed(queue: &Queue, sets: &Cache<ReplicaSet>, change: &Change<'_, Pod>) {
    let pod = change.object();
    if !matches!(change, Change::Deleted(_)) && !is_finished(pod) {
        return;
    }
    let Some(owner) = controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet") else { return };
    let home = namespace(&pod.metadata);
    let set = sets.get(&Key::new(home, &owner.name));
    let deployment =
        set.as_ref().and_then(|set| controller_of(&set.metadata)).filter(|owner| owner.kind == "Deployment");
    deployment.into_iter().for_each(|owner| queue.add(Key::new(home, &owner.name)));
}
