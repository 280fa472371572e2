//! The controllers: each compares what is wanted with what is there and writes the difference.
//!
//! | controller | file | keeps |
//! |---|---|---|
//! | ReplicaSet | `replicaset/` | as many pods as wanted |
//! | Deployment | `deployment/` | ReplicaSets of the newest template, rolled out |
//! | nodes | `nodes/` | silent nodes tainted, their pods evicted |
//! | namespaces | `namespaces.rs` | terminating namespaces empty, then gone |
//! | service accounts | `accounts.rs` | `default` and the cluster's CA in every namespace |
//! | endpoints | `endpoints/` | the list of pods behind each Service |
//! | garbage | `garbage/` | dependents gone with their owners |
//! | pod garbage | `pod_garbage.rs` | pods of deleted nodes, and too many finished ones, gone |
//!
//! All have one shape: an informer cache (`informer`) wakes keys in a queue (`queue`); a worker takes a key, builds a
//! snapshot, asks a pure `decide`, and carries out its writes (`write`). Nothing polls; what depends on time is
//! put back into the queue for the moment it falls due. Events' time to live is the store's business.

mod accounts;
mod deployment;
mod endpoints;
pub(crate) mod events;
mod garbage;
pub(crate) mod informer;
pub(crate) mod meta;
mod namespaces;
pub(crate) mod nodes;
mod pod_garbage;
mod queue;
mod replicaset;
mod write;

#[cfg(test)]
mod cluster_tests;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, Object};
use events::Recorder;
use informer::Cache;

/// What an operator may set.
#[derive(Clone, Debug)]
pub struct Config {
    /// A node that has said nothing for so long is taken for unreachable. Default 40 s.
    pub node_grace: Duration,
    /// Pods of a node that was deleted go after so long. Default 40 s.
    pub orphan_grace: Duration,
    /// Finished pods that are kept; the oldest go beyond. Default 12,500.
    pub finished_pods: usize,
    /// The cluster's CA (PEM), published as ConfigMap `kube-root-ca.crt` in every namespace; `None` publishes none.
    pub ca_pem: Option<String>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            node_grace: Duration::from_secs(40),
            orphan_grace: Duration::from_secs(40),
            finished_pods: 12_500,
            ca_pem: None,
        }
    }
}

/// The caches that controllers share.
struct Caches {
    pods: Arc<Cache<Pod>>,
    sets: Arc<Cache<ReplicaSet>>,
    deployments: Arc<Cache<Deployment>>,
    nodes: Arc<Cache<Node>>,
    leases: Arc<Cache<Lease>>,
    namespaces: Arc<Cache<Namespace>>,
    accounts: Arc<Cache<ServiceAccount>>,
    config_maps: Arc<Cache<ConfigMap>>,
    services: Arc<Cache<Service>>,
    slices: Arc<Cache<EndpointSlice>>,
    endpoints: Arc<Cache<Endpoints>>,
}

impl Caches {
    fn new() -> Caches {
        Caches {
            pods: Cache::new(),
            sets: Cache::new(),
            deployments: Cache::new(),
            nodes: Cache::new(),
            leases: Cache::new(),
            namespaces: Cache::new(),
            // Only one of each is looked at in a namespace, and ConfigMaps can be large.
            accounts: Cache::selecting(accounts::ACCOUNT),
            config_maps: Cache::selecting(accounts::CA),
            services: Cache::new(),
            slices: Cache::new(),
            endpoints: Cache::new(),
        }
    }

    /// Starts all informers.
    fn start(&self, tasks: &mut JoinSet<()>, client: &Client, shutdown: &CancellationToken) {
        fn one<T: Object + Send + Sync + 'static>(
            cache: &Arc<Cache<T>>,
            tasks: &mut JoinSet<()>,
            client: &Client,
            shutdown: &CancellationToken,
        ) {
            tasks.spawn(cache.clone().run(client.clone(), shutdown.clone()));
        }
        one(&self.pods, tasks, client, shutdown);
        one(&self.sets, tasks, client, shutdown);
        one(&self.deployments, tasks, client, shutdown);
        one(&self.nodes, tasks, client, shutdown);
        one(&self.leases, tasks, client, shutdown);
        one(&self.namespaces, tasks, client, shutdown);
        one(&self.accounts, tasks, client, shutdown);
        one(&self.config_maps, tasks, client, shutdown);
        one(&self.services, tasks, client, shutdown);
        one(&self.slices, tasks, client, shutdown);
        one(&self.endpoints, tasks, client, shutdown);
    }

    async fn synced(&self) {
        self.pods.synced().await;
        self.sets.synced().await;
        self.deployments.synced().await;
        self.nodes.synced().await;
        self.leases.synced().await;
        self.namespaces.synced().await;
        self.accounts.synced().await;
        self.config_maps.synced().await;
        self.services.synced().await;
        self.slices.synced().await;
        self.endpoints.synced().await;
    }
}

/// Runs all controllers until `shutdown`.
pub async fn run(client: Client, config: Config, shutdown: CancellationToken) {
    let mut tasks = JoinSet::new();
    let caches = Caches::new();
    let (events, writer) = Recorder::new("controllermanager");
    let sets = replicaset::ReplicaSets::new(
        client.clone(),
        caches.sets.clone(),
        caches.pods.clone(),
        events.named("replicaset-controller"),
    );
    let deployments = deployment::Deployments {
        client: client.clone(),
        deployments: caches.deployments.clone(),
        sets: caches.sets.clone(),
        pods: caches.pods.clone(),
        events: events.named("deployment-controller"),
    };
    let nodes = nodes::Nodes::new(client.clone(), &caches, config.node_grace, events.named("node-controller"));
    let namespaces = namespaces::Namespaces { client: client.clone(), namespaces: caches.namespaces.clone() };
    let accounts = accounts::Accounts::new(client.clone(), &caches, config.ca_pem.clone());
    let endpoints = endpoints::EndpointLists::new(client.clone(), &caches);
    let pod_garbage = pod_garbage::PodGarbage::new(client.clone(), &caches, &config);
    // Listeners first, so that no first list is missed; workers when every cache is complete.
    let queues = (
        sets.listen(),
        deployments.listen(),
        nodes.listen(),
        namespaces.listen(),
        accounts.listen(),
        pod_garbage.listen(),
        endpoints.listen(),
    );
    tasks.spawn(writer.run(client.clone(), shutdown.clone()));
    caches.start(&mut tasks, &client, &shutdown);
    tokio::select! { () = caches.synced() => {}, () = shutdown.cancelled() => {} }
    tasks.spawn(sets.run(queues.0, shutdown.clone()));
    tasks.spawn(deployments.run(queues.1, shutdown.clone()));
    tasks.spawn(nodes.run(queues.2, shutdown.clone()));
    tasks.spawn(namespaces.run(queues.3, shutdown.clone()));
    tasks.spawn(accounts.run(queues.4, shutdown.clone()));
    tasks.spawn(pod_garbage.run(queues.5, shutdown.clone()));
    tasks.spawn(endpoints.run(queues.6, shutdown.clone()));
    tasks.spawn(garbage::run(client, shutdown));
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller ended");
        }
    }
}
