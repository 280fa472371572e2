//! The pods that the API has bound to this node, and the cluster's services, kept by watches.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::api::Api;
use crate::api::reflect::{Change, Target, follow};
use crate::pod;

/// What happened to the set of pods that this node should run.
#[derive(Debug, Clone)]
pub(crate) enum Update {
    /// All pods of a source; what it had before and is not here is gone.
    All(Vec<Arc<Pod>>),
    /// New or changed.
    Set(Arc<Pod>),
    /// Gone from the API.
    Gone(Arc<Pod>),
}

fn read<T: DeserializeOwned>(object: Value) -> Option<T> {
    serde_json::from_value(object).inspect_err(|why| tracing::warn!(%why, "cannot read an object of the API")).ok()
}

/// Follows the pods of `node` into `updates`.
pub(crate) async fn watch_pods(api: Api, node: &str, updates: mpsc::Sender<Update>) {
    let (send, mut changes) = mpsc::channel(256);
    let target = Target { path: "/api/v1/pods".into(), query: format!("fieldSelector=spec.nodeName%3D{node}") };
    let listening = async {
        while let Some(change) = changes.recv().await {
            let update = match change {
                Change::Reset(items) => {
                    Some(Update::All(items.into_iter().filter_map(read::<Pod>).map(Arc::new).collect()))
                }
                Change::Apply(object) => read::<Pod>(object).map(|p| Update::Set(Arc::new(p))),
                Change::Delete(object) => read::<Pod>(object).map(|p| Update::Gone(Arc::new(p))),
            };
            let Some(update) = update else { continue };
            if updates.send(update).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = follow(api, target, send) => {}
        () = listening => {}
    }
}

/// Follows the cluster's services into `say`; `None` until the first list came.
pub(crate) async fn watch_services(api: Api, say: watch::Sender<Option<Arc<Vec<Service>>>>) {
    let (send, mut changes) = mpsc::channel(64);
    let target = Target { path: "/api/v1/services".into(), query: String::new() };
    let listening = async {
        let mut all: HashMap<String, Service> = HashMap::new();
        let key = |s: &Service| {
            format!(
                "{}/{}",
                s.metadata.namespace.as_deref().unwrap_or_default(),
                s.metadata.name.as_deref().unwrap_or_default()
            )
        };
        while let Some(change) = changes.recv().await {
            match change {
                Change::Reset(items) => {
                    all = items.into_iter().filter_map(read::<Service>).map(|s| (key(&s), s)).collect();
                }
                Change::Apply(object) => all.extend(read::<Service>(object).map(|s| (key(&s), s))),
                Change::Delete(object) => {
                    read::<Service>(object).and_then(|s| all.remove(&key(&s)));
                }
            }
            let mut list: Vec<_> = all.values().cloned().collect();
            list.sort_by_key(key);
            say.send_replace(Some(Arc::new(list)));
        }
    };
    tokio::select! {
        () = follow(api, target, send) => {}
        () = listening => {}
    }
}

/// The key by which a pod is known to this node: its uid.
pub(crate) fn key(of: &Pod) -> String {
    pod::uid(of).to_string()
}
