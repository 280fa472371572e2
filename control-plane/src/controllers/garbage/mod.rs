//! The garbage collector: follows every kind, keeps the graph of owners, and does what `graph` decides.
//!
//! The graph keeps a few words an object, not the object. An owner that is not in the graph is asked for at the API
//! before anything is deleted for its absence; an owner of a kind nobody knows counts as there.

mod graph;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::informer::Key;
use super::queue::{self, Queue};
use crate::client::{Client, DeleteOptions, ListOptions, PatchType, Watch, WatchEvent};
use crate::error::{Kind as ErrorKind, Result};
use crate::kinds::{Kind, Kinds};
use graph::{Action, Graph, Object};

struct Garbage {
    client: Client,
    kinds: Kinds,
    graph: Mutex<Graph>,
    queue: Arc<Queue>,
}

/// Runs the collector until `shutdown`.
pub(super) async fn run(client: Client, shutdown: CancellationToken) {
    let queue = Queue::new();
    let this = Arc::new(Garbage { client, kinds: Kinds::builtin(), graph: Mutex::default(), queue: queue.clone() });
    let mut tasks = JoinSet::new();
    for resource in this.resources() {
        tasks.spawn(this.clone().follow(resource, shutdown.clone()));
    }
    let worker = this.clone();
    let sync = move |key: Key| {
        let this = worker.clone();
        async move { this.sync(&key.name).await }
    };
    queue::work("garbage", queue, 4, shutdown, sync).await;
    while tasks.join_next().await.is_some() {}
}

impl Garbage {
    /// Every kind once, whatever its versions; not events, which own nothing and are owned by nobody.
    fn resources(&self) -> Vec<String> {
        let watched = |kind: &&Arc<Kind>| kind.allows("", "watch") && kind.allows("", "list") && kind.kind != "Event";
        let places: BTreeMap<&str, String> = self
            .kinds
            .all()
            .iter()
            .rev()
            .filter(watched)
            .map(|kind| (kind.storage.as_str(), kind.resource()))
            .collect();
        places.into_values().collect()
    }

    async fn follow(self: Arc<Self>, resource: String, shutdown: CancellationToken) {
        let options = ListOptions::default();
        loop {
            let watch = self.client.watch(&resource, "", &options);
            match tokio::select! { () = shutdown.cancelled() => return, watch = watch => watch } {
                Ok(watch) => self.take_all(watch, &resource, &shutdown).await,
                Err(error) => tracing::warn!(%resource, error = %error.chain(), "cannot watch; trying again"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
        }
    }

    async fn take_all(&self, mut watch: Watch, resource: &str, shutdown: &CancellationToken) {
        let mut gone = self.graph().of_resource(resource);
        for item in std::mem::take(&mut watch.items) {
            let object = Object::of(resource, &item);
            gone.remove(&object.uid);
            self.wake(self.graph().put(object));
        }
        for uid in gone {
            self.wake(self.graph().remove(&uid));
        }
        loop {
            match tokio::select! { () = shutdown.cancelled() => return, event = watch.next() => event } {
                Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                    self.wake(self.graph().put(Object::of(resource, &object)));
                }
                Some(Ok(WatchEvent::Deleted(object))) => {
                    self.wake(self.graph().remove(&Object::of(resource, &object).uid));
                }
                Some(Ok(WatchEvent::Bookmark(_))) => {}
                Some(Err(_)) | None => return, // follow lists again
            }
        }
    }

    fn wake(&self, uids: Vec<String>) {
        uids.iter().for_each(|uid| self.queue.add(Key::new("", uid)));
    }

    async fn sync(&self, uid: &str) -> Result<()> {
        let Some(object) = self.graph().get(uid).cloned() else { return Ok(()) };
        let unknown = self.graph().unknown_owners(uid);
        let mut absent = HashSet::new();
        for owner in &unknown {
            if !self.exists(owner, &object.key.namespace).await? {
                absent.insert(owner["uid"].as_str().unwrap_or_default().to_owned());
            }
        }
        let actions = self.graph().decide(uid, &absent);
        for action in actions {
            match self.act(&action).await {
                Err(error) if error.is_not_found() => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Asks the API whether this very owner exists. What cannot be asked for counts as there.
    async fn exists(&self, owner: &Value, namespace: &str) -> Result<bool> {
        let text = |field: &str| owner[field].as_str().unwrap_or_default();
        let Some(kind) = self.kinds.of(text("apiVersion"), text("kind")) else {
            tracing::warn!(
                kind = text("kind"),
                name = text("name"),
                "an owner is of an unknown kind and counts as there"
            );
            return Ok(true);
        };
        let namespace = if kind.namespaced { namespace } else { "" };
        match self.client.get(&kind.resource(), namespace, text("name")).await {
            Ok(found) => Ok(found["metadata"]["uid"] == owner["uid"]),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn act(&self, action: &Action) -> Result<()> {
        match action {
            Action::Delete { object, foreground } => {
                let propagation = if *foreground { "Foreground" } else { "Background" };
                let options = DeleteOptions {
                    uid: Some(object.uid.clone()),
                    propagation: Some(propagation.to_owned()),
                    ..DeleteOptions::default()
                };
                let Key { namespace, name } = &object.key;
                match self.client.delete(&object.resource, namespace, name, &options).await {
                    // Another object of that name: ours is gone.
                    Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
                    result => result,
                }
            }
            Action::Disown { object, owners } => {
                let kept = object.owners.iter().filter(|o| o["uid"].as_str().is_none_or(|uid| !owners.contains(uid)));
                self.patch(object, "ownerReferences", kept.cloned().collect()).await
            }
            Action::Release { object, finalizer } => {
                let kept = object.finalizers.iter().filter(|f| f != finalizer);
                self.patch(object, "finalizers", kept.map(|f| json!(f)).collect()).await
            }
        }
    }

    /// Replaces a list of the metadata, if nobody has written meanwhile.
    async fn patch(&self, object: &Object, field: &str, list: Vec<Value>) -> Result<()> {
        let list = if list.is_empty() { Value::Null } else { list.into() };
        let body = json!({"metadata": {"uid": object.uid, "resourceVersion": object.revision, field: list}});
        let Key { namespace, name } = &object.key;
        self.client.patch((&object.resource, namespace, name), PatchType::Merge, &body).await.map(drop)
    }

    fn graph(&self) -> std::sync::MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(|e| e.into_inner())
    }
}
