//! The daemon: puts the parts together and runs them until it is told to stop.

use std::net::TcpListener;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::api::events::{self, Recorder};
use crate::api::{Api, kubeconfig};
use crate::cgroups::Cgroups;
use crate::clock::Clock;
use crate::config::Config;
use crate::cri::Cri;
use crate::error::{Error, Result};
use crate::node::{facts, lease, sync};
use crate::pods::pool::{self, Pods, Source};
use crate::quantity;
use crate::server::{self, Endpoint};
use crate::shared::{NodeFacts, Shared};
use crate::source::objects::Objects;
use crate::source::pods::{Update, watch_pods, watch_services};
use crate::{certs, files, garbage};

/// Runs a kubelet until `shutdown` is cancelled. Containers keep running when it returns.
///
/// # Errors
/// `Kind::Config` where the configuration cannot be used; `Kind::Io` where the listener or the root
/// directory cannot be had. What the API server or the runtime do later is retried, never returned.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<()> {
    start(config, Clock::System, shutdown).await
}

/// `run` with a clock that a test may hold.
pub(crate) async fn start(config: Config, clock: Clock, shutdown: CancellationToken) -> Result<()> {
    let mut config = config.check()?;
    files::make_private_dir(&config.root_dir)?;
    let listener = listen(&mut config)?;
    let port = listener.local_addr().map_err(|e| Error::io("read the listener's address", e))?.port();
    let api = config.kubeconfig.as_deref().map(kubeconfig::read).transpose()?.map(|a| Api::new(&a)).transpose()?;
    let ip = config.node_ip.unwrap_or_else(facts::own_address);
    let tls = serving(&config, ip)?;
    let (recorder, events) = Recorder::new();
    let (say_services, services) = watch::channel(None);
    let shared = Arc::new(share(config, clock, api.clone(), ip, recorder, services)?);
    shared.cgroups.make_root()?;
    name_runtime(&shared).await;

    let pods = Pods::default();
    let (say_labels, labels) = watch::channel(None);
    let (send, updates) = mpsc::channel(256);
    let mut tasks = JoinSet::new();
    tasks.spawn(events::post(api.clone(), shared.config.node_name.as_str().into(), events));
    let mut sources = Vec::new();
    if let Some(api) = api {
        sources.push(Source::Api);
        tasks.spawn(lease::run(shared.clone(), api.clone()));
        tasks.spawn(sync::run(shared.clone(), api.clone(), port));
        tasks.spawn(sync::watch_labels(shared.clone(), api.clone(), say_labels));
        tasks.spawn(watch_services(api.clone(), say_services));
        let (shared, send, labels) = (shared.clone(), send.clone(), labels.clone());
        tasks.spawn(async move { from_api(&shared, api, labels, send).await });
    }
    if let Some(dir) = shared.config.static_pod_dir.clone() {
        sources.push(Source::Files);
        let (node, send) = (shared.config.node_name.clone(), send.clone());
        tasks.spawn(async move { from_files(dir, node, send).await });
    }
    tasks.spawn(pool::run(shared.clone(), pods.clone(), labels, updates));
    tasks.spawn(pool::watch_runtime(shared.clone(), pods.clone()));
    tasks.spawn(garbage::run(shared.clone(), pods.clone(), sources));
    let endpoint = Arc::new(Endpoint { shared: shared.clone(), pods, reviews: Default::default() });
    let listener = tokio::net::TcpListener::from_std(listener).map_err(|e| Error::io("use the listener", e))?;
    tasks.spawn(server::run(endpoint, listener, tls));
    tracing::info!(node = shared.config.node_name, %ip, port, "kubelet is up");
    shutdown.cancelled().await;
    tasks.shutdown().await;
    tracing::info!(node = shared.config.node_name, "kubelet stopped; its containers run on");
    Ok(())
}

/// Unmounts and removes the volumes of all pods below the kubelet's root directory, `Config::root_dir`: what a node
/// that goes for good has to do after its pods were removed from the runtime. No kubelet may run meanwhile.
///
/// # Errors
/// `Kind::Pod` where something stays mounted, `Kind::Io` where a file cannot be removed.
pub fn dismantle(root_dir: &std::path::Path) -> Result<()> {
    crate::volumes::tear_down_all(root_dir)
}

fn listen(config: &mut Config) -> Result<TcpListener> {
    let listener = match config.listener.take() {
        Some(given) => given,
        None => TcpListener::bind(config.listen).map_err(|e| Error::io(format!("listen on {}", config.listen), e))?,
    };
    listener.set_nonblocking(true).map_err(|e| Error::io("use the listener", e))?;
    Ok(listener)
}

fn serving(config: &Config, ip: std::net::IpAddr) -> Result<TlsAcceptor> {
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|e| Error::config(format!("read {}", path.display())).because(e))
    };
    let (certificate, key) = match (&config.serving_cert, &config.serving_key) {
        (Some(certificate), Some(key)) => (read(certificate)?, read(key)?),
        _ => certs::self_signed(&config.root_dir.join("pki"), &config.node_name, ip)?,
    };
    let ca = config.client_ca.as_deref().map(read).transpose()?;
    let tls = certs::server_config(&certificate, &key, ca.as_deref())?;
    Ok(TlsAcceptor::from(Arc::new(tls)))
}

fn share(
    config: Config,
    clock: Clock,
    api: Option<Api>,
    ip: std::net::IpAddr,
    events: Recorder,
    services: watch::Receiver<Option<Arc<Vec<k8s_openapi::api::core::v1::Service>>>>,
) -> Result<Shared> {
    let capacity = facts::capacity(&config);
    let node = NodeFacts {
        ip,
        memory: quantity::amount(Some(&capacity), "memory").unwrap_or(0),
        allocatable: facts::allocatable(&capacity, &config.reserved)?,
        capacity,
        runtime: Default::default(),
    };
    Ok(Shared {
        cri: Cri::new(&config.cri_socket),
        objects: Objects::new(api.clone()),
        tokens: Default::default(),
        cgroups: Cgroups::new(&config.cgroup_mount, &config.cgroup_root, config.create_cgroups),
        timings: Default::default(),
        pulls: Semaphore::new(config.max_parallel_pulls),
        config,
        clock,
        api,
        events,
        services,
        node,
    })
}

/// Container ids carry the runtime's name: no pod is started before it is known.
async fn name_runtime(shared: &Shared) {
    for attempt in 0..20u32 {
        match shared.cri.version().await {
            Ok(v) => {
                *shared.node.runtime.write().unwrap_or_else(std::sync::PoisonError::into_inner) =
                    (v.runtime_name, v.runtime_version);
                return;
            }
            Err(why) if attempt == 0 => tracing::warn!(%why, "waiting for the runtime"),
            Err(_) => {}
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

async fn from_api(
    shared: &Shared,
    api: Api,
    mut labels: watch::Receiver<Option<pool::Labels>>,
    send: mpsc::Sender<(Source, Update)>,
) {
    // Pods need the variables of services, and are admitted by the node's labels.
    let mut services = shared.services.clone();
    let patience = std::time::Duration::from_secs(5);
    let known = async {
        tokio::join!(async { services.wait_for(Option::is_some).await.is_ok() }, async {
            labels.wait_for(Option::is_some).await.is_ok()
        })
    };
    if tokio::time::timeout(patience, known).await.is_err() {
        tracing::warn!("the API server told of neither services nor this node; pods start without");
    }
    let (each, mut updates) = mpsc::channel(64);
    let pass_on = async {
        while let Some(update) = updates.recv().await {
            if send.send((Source::Api, update)).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(watch_pods(api, &shared.config.node_name, each), pass_on);
}

async fn from_files(dir: std::path::PathBuf, node: String, send: mpsc::Sender<(Source, Update)>) {
    let (each, mut updates) = mpsc::channel(16);
    let pass_on = async {
        while let Some(update) = updates.recv().await {
            if send.send((Source::Files, update)).await.is_err() {
                return;
            }
        }
    };
    let watching = async {
        if let Err(why) = crate::source::files::watch_dir(dir, node, each).await {
            tracing::error!(%why, "static pods are not followed");
        }
    };
    tokio::join!(watching, pass_on);
}
