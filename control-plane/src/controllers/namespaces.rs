//! The namespace controller: empties a terminating namespace, then lets it go.
//!
//! A namespace carries the finalizer `kubernetes` in its *spec*. Once its deletion is asked for, everything in it is
//! deleted, kind by kind; when nothing is left, that finalizer is removed and the API removes the namespace.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::informer::{Cache, Key};
use super::meta::is_terminating;
use super::queue::{self, Queue};
use crate::client::{Client, DeleteOptions, ListOptions, PatchType};
use crate::error::Result;
use crate::kinds::Kinds;

/// How soon to look again at a namespace whose objects take their time (pods end gracefully).
const RECHECK: Duration = Duration::from_millis(250);

/// The controller.
pub(super) struct Namespaces {
    pub(super) client: Client,
    pub(super) namespaces: Arc<Cache<Namespace>>,
}

impl Namespaces {
    pub(super) fn listen(&self) -> Arc<Queue> {
        let queue = Queue::new();
        let wake = queue.clone();
        self.namespaces.listen(move |change| {
            if is_terminating(&change.object().metadata) {
                wake.add(Key::of(&**change.object()));
            }
        });
        queue
    }

    pub(super) async fn run(self, queue: Arc<Queue>, shutdown: CancellationToken) {
        let (this, again) = (Arc::new(self), queue.clone());
        let kinds = Arc::new(Kinds::builtin());
        let sync = move |key| {
            let (this, queue, kinds) = (this.clone(), again.clone(), kinds.clone());
            async move { this.sync(key, &kinds, &queue).await }
        };
        queue::work("namespace", queue, 2, shutdown, sync).await;
    }

    async fn sync(&self, key: Key, kinds: &Kinds, queue: &Arc<Queue>) -> Result<()> {
        let Some(namespace) = self.namespaces.get(&key).filter(|n| is_terminating(&n.metadata)) else { return Ok(()) };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        if !finalizers.iter().any(|finalizer| finalizer == "kubernetes") {
            return Ok(());
        }
        if self.empty(&key.name, kinds).await? > 0 {
            queue.add_after(key, RECHECK);
            return Ok(());
        }
        let left: Vec<_> = finalizers.into_iter().filter(|finalizer| finalizer != "kubernetes").collect();
        let body = json!({"metadata": {"uid": namespace.metadata.uid}, "spec": {"finalizers": left}});
        match self.client.patch(("namespaces", "", &key.name), PatchType::Merge, &body).await {
            Err(error) if error.is_not_found() => Ok(()),
            result => result.map(drop),
        }
    }

    /// Asks for the deletion of everything in the namespace; returns how many objects there still are.
    async fn empty(&self, namespace: &str, kinds: &Kinds) -> Result<usize> {
        let mut left = 0;
        for kind in
            kinds.all().iter().filter(|kind| kind.namespaced && kind.allows("", "delete") && kind.allows("", "list"))
        {
            let resource = kind.resource();
            let list = self.client.list(&resource, namespace, &ListOptions::default()).await?;
            for object in &list.items {
                left += 1;
                let meta = &object["metadata"];
                if !meta["deletionTimestamp"].is_null() {
                    continue;
                }
                let name = meta["name"].as_str().unwrap_or_default();
                let uid = meta["uid"].as_str().map(str::to_owned);
                let options = DeleteOptions { uid, ..DeleteOptions::default() };
                match self.client.delete(&resource, namespace, name, &options).await {
                    Err(error) if error.is_not_found() || error.is_conflict() => {}
                    result => result?,
                }
            }
        }
        Ok(left)
    }
}
