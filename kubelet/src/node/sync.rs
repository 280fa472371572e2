//! Keeps the Node object: made if it is not there, labels and taints set at registration, its status sent
//! when it changed and else every five minutes.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, NodeStatus};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::facts;
use super::status::{self, Fixed, Measured};
use crate::api::events::Severity;
use crate::api::reflect::{Change, Target, follow};
use crate::api::{Api, PatchKind};
use crate::clock;
use crate::error::{Kind, Result};
use crate::shared::Shared;

/// Labels that every node of this kind has.
pub(crate) fn labels(shared: &Shared) -> BTreeMap<String, String> {
    let mut all = shared.config.node_labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", shared.config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", facts::architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", facts::architecture()),
    ] {
        all.insert(key.into(), value.into());
    }
    all
}

/// Registers the node and keeps its status, for ever. `port`: of the HTTPS endpoint.
pub(crate) async fn run(shared: Arc<Shared>, api: Api, port: u16) {
    let mut wait = Duration::from_millis(100);
    let mut fixed = fixed(&shared, port);
    let mut base = loop {
        let measured = measure(&shared, &mut fixed).await;
        match register(&shared, &api, &fixed, &measured).await {
            Ok(node) => break node,
            Err(why) => {
                tracing::warn!(%why, "cannot register the node, will try again");
                tokio::time::sleep(crate::api::reflect::jitter(wait)).await;
                wait = (wait * 2).min(Duration::from_secs(7));
            }
        }
    };
    shared.events.node(&shared.config.node_name, Severity::Normal, "Starting", "Starting kubelet.".into());
    let mut sent = Instant::now();
    let mut first = true;
    loop {
        let measured = measure(&shared, &mut fixed).await;
        let old = base.status.clone().unwrap_or_default();
        let new = status::compute(&fixed, &measured, &old, clock::wall());
        let due = sent.elapsed() >= Duration::from_secs(shared.config.status_report_seconds);
        if first || due || status::changed(&old, &new) {
            match send(&shared, &api, &new).await {
                Ok(node) => {
                    (base, sent, first) = (node, Instant::now(), false);
                }
                Err(why) if why.kind() == Kind::NotFound => {
                    tracing::warn!("the node's object is gone, registering again");
                    if let Ok(node) = register(&shared, &api, &fixed, &measured).await {
                        base = node;
                    }
                }
                Err(why) => tracing::warn!(%why, "cannot send the node's status"),
            }
        }
        wait_for_next(&shared, &measured).await;
    }
}

/// Follows the node's labels into `say`: whoever labels a node expects pods to be admitted by it at once.
pub(crate) async fn watch_labels(shared: Arc<Shared>, api: Api, say: watch::Sender<Option<BTreeMap<String, String>>>) {
    let (send, mut changes) = mpsc::channel(8);
    let query = format!("fieldSelector=metadata.name%3D{}", shared.config.node_name);
    let listening = async {
        while let Some(change) = changes.recv().await {
            let node = match change {
                Change::Reset(items) => items.into_iter().next(),
                Change::Apply(node) => Some(node),
                Change::Delete(_) => None,
            };
            let labels = node.and_then(|mut n| serde_json::from_value(n["metadata"]["labels"].take()).ok());
            if let Some(labels) = labels {
                say.send_replace(Some(labels));
            }
        }
    };
    tokio::join!(follow(api, Target { path: "/api/v1/nodes".into(), query }, send), listening);
}

/// A node that is not ready looks again soon: pods wait for it.
async fn wait_for_next(shared: &Shared, measured: &Measured) {
    let interval = Duration::from_secs(shared.config.status_interval_seconds);
    let wait = if measured.not_ready.is_empty() { interval } else { interval.min(Duration::from_millis(250)) };
    tokio::time::sleep(wait).await;
}

fn fixed(shared: &Shared, port: u16) -> Fixed {
    Fixed {
        name: shared.config.node_name.clone(),
        ip: shared.node.ip.to_string(),
        port,
        capacity: shared.node.capacity.clone(),
        allocatable: shared.node.allocatable.clone(),
        info: facts::system_info(String::new()),
    }
}

async fn measure(shared: &Shared, fixed: &mut Fixed) -> Measured {
    let (version, ready, images) = tokio::join!(shared.cri.version(), shared.cri.status(), shared.cri.images());
    if let Ok(v) = version {
        fixed.info.container_runtime_version = format!("{}://{}", v.runtime_name, v.runtime_version);
        *shared.node.runtime.write().unwrap_or_else(PoisonError::into_inner) = (v.runtime_name, v.runtime_version);
    }
    Measured {
        not_ready: match ready {
            Ok(status) => status::not_ready(&status),
            Err(why) => vec![format!("container runtime is down: {why}")],
        },
        memory_available: facts::memory_available(),
        node_disk: facts::disk(&shared.config.root_dir),
        tasks: facts::tasks(),
        images: images.unwrap_or_default(),
    }
}

async fn register(shared: &Shared, api: &Api, fixed: &Fixed, measured: &Measured) -> Result<Node> {
    let name = &shared.config.node_name;
    let taints: Vec<Value> =
        shared.config.node_taints.iter().map(|t| json!({"key": t.key, "value": t.value, "effect": t.effect})).collect();
    let mut spec = json!({});
    if !taints.is_empty() {
        spec["taints"] = taints.into();
    }
    if !shared.config.provider_id.is_empty() {
        spec["providerID"] = shared.config.provider_id.as_str().into();
    }
    let status = status::compute(fixed, measured, &NodeStatus::default(), clock::wall());
    let annotations = json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
    let body = json!({
        "kind": "Node", "apiVersion": "v1", "spec": spec, "status": status,
        "metadata": {"name": name, "labels": labels(shared), "annotations": annotations},
    });
    match api.post::<Node>("/api/v1/nodes", &body).await {
        Ok(node) => Ok(node),
        // It was registered before: its labels are brought up to date, its taints are others' by now.
        Err(why) if why.kind() == Kind::Conflict => {
            let patch = json!({"metadata": {"labels": labels(shared)}});
            api.patch(&format!("/api/v1/nodes/{name}"), PatchKind::Strategic, &patch).await
        }
        Err(why) => Err(why),
    }
}

async fn send(shared: &Shared, api: &Api, new: &NodeStatus) -> Result<Node> {
    let mut status = serde_json::to_value(new).unwrap_or_default();
    if let Some(addresses) = status.get_mut("addresses").and_then(Value::as_array_mut) {
        // Addresses merge by type; an address that is no longer ours must not stay.
        addresses.push(json!({"$patch": "replace"}));
    }
    let path = format!("/api/v1/nodes/{}/status", shared.config.node_name);
    api.patch(&path, PatchKind::Strategic, &json!({"status": status})).await
}
