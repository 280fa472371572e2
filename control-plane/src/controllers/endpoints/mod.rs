//! The endpoints controller: lists the pods behind each Service, in EndpointSlices and in the older Endpoints object.

mod decide;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio_util::sync::CancellationToken;

use super::Caches;
use super::informer::{Cache, Change, Key};
use super::meta::{is_terminating, namespace};
use super::queue::{self, Queue};
use super::write::Write;
use crate::client::Client;
use crate::error::Result;

/// The controller.
pub(super) struct EndpointLists {
    client: Client,
    services: Arc<Cache<Service>>,
    pods: Arc<Cache<Pod>>,
    slices: Arc<Cache<EndpointSlice>>,
    endpoints: Arc<Cache<Endpoints>>,
}

impl EndpointLists {
    pub(super) fn new(client: Client, caches: &Caches) -> EndpointLists {
        EndpointLists {
            client,
            services: caches.services.clone(),
            pods: caches.pods.clone(),
            slices: caches.slices.clone(),
            endpoints: caches.endpoints.clone(),
        }
    }

    pub(super) fn listen(&self) -> Arc<Queue> {
        let queue = Queue::new();
        let wake = queue.clone();
        self.services.listen(move |change| wake.add(Key::of(&**change.object())));
        let wake = queue.clone();
        self.endpoints.listen(move |change| wake.add(Key::of(&**change.object())));
        let wake = queue.clone();
        self.slices.listen(move |change| {
            let meta = &change.object().metadata;
            if let Some(service) = meta.labels.as_ref().and_then(|labels| labels.get(decide::SERVICE_NAME)) {
                wake.add(Key::new(namespace(meta), service));
            }
        });
        let (wake, services) = (queue.clone(), self.services.clone());
        self.pods.listen(move |change| {
            for service in services.in_namespace(namespace(&change.object().metadata)) {
                let was = matches!(&change, Change::Modified(was, _) if decide::selects(&service, was));
                if was || decide::selects(&service, change.object()) {
                    wake.add(Key::of(&*service));
                }
            }
        });
        queue
    }

    pub(super) async fn run(self, queue: Arc<Queue>, shutdown: CancellationToken) {
        let this = Arc::new(self);
        let sync = move |key| {
            let this = this.clone();
            async move { this.sync(&key).await }
        };
        queue::work("endpoints", queue, 2, shutdown, sync).await;
    }

    async fn sync(&self, key: &Key) -> Result<()> {
        let endpoints = self.endpoints.get(key);
        let Some(service) = self.services.get(key) else {
            // Slices go with their owner; Endpoints have none.
            let Some(endpoints) = endpoints.filter(|endpoints| is_made_by_us(endpoints)) else { return Ok(()) };
            let (namespace, name) = (key.namespace.clone(), key.name.clone());
            let uid = endpoints.metadata.uid.clone();
            let write = Write::Delete { resource: "endpoints", namespace, name, uid, grace: None };
            return forgive(write.run(&self.client).await.map(drop));
        };
        if is_terminating(&service.metadata) {
            return Ok(());
        }
        let pods = self.pods.in_namespace(&key.namespace);
        let slices = self.slices.in_namespace(&key.namespace);
        for write in decide::decide(&service, &pods, &slices, endpoints.as_deref()) {
            forgive(write.run(&self.client).await.map(drop))?;
        }
        Ok(())
    }
}

/// What a user wrote for a service without selector may not be deleted: it points at no pod.
fn is_made_by_us(endpoints: &Endpoints) -> bool {
    let subsets = endpoints.subsets.iter().flatten();
    let mut addresses =
        subsets.flat_map(|s| s.addresses.iter().flatten().chain(s.not_ready_addresses.iter().flatten()));
    addresses.all(|address| address.target_ref.as_ref().is_some_and(|target| target.kind.as_deref() == Some("Pod")))
}

/// Made by an earlier look that the cache does not show yet, or gone already: the next event settles it.
fn forgive(result: Result<()>) -> Result<()> {
    result.or_else(|error| if error.is_already_exists() || error.is_not_found() { Ok(()) } else { Err(error) })
}
