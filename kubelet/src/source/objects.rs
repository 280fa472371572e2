//! ConfigMaps and Secrets by name: one watch for each that some pod on this node uses, shared among its
//! pods and ended with the last of them. A read that finds nothing asks the API once more, because a
//! watch may be a moment behind.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::api::Api;
use crate::api::reflect::{Change, Target, follow};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::pods::env::{Kind, data_of_config_map, data_of_secret};

/// An object's keys and values.
pub(crate) type Data = Arc<BTreeMap<String, Vec<u8>>>;

#[derive(Debug, Clone, PartialEq)]
enum State {
    Unknown,
    Missing,
    Present(Data),
}

/// One followed object. Dropping the last handle ends its watch.
#[derive(Debug)]
pub(crate) struct Followed {
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Followed {
    /// Returns after the next change.
    pub(crate) async fn changed(&self) {
        let mut state = self.state.clone();
        state.mark_unchanged();
        if state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

type Key = (Kind, String, String);

/// See the module.
#[derive(Debug)]
pub(crate) struct Objects {
    api: Option<Api>,
    followed: Mutex<HashMap<Key, Weak<Followed>>>,
}

/// How long a read waits for the first answer of a new watch.
const PATIENCE: Duration = Duration::from_secs(5);

impl Objects {
    pub(crate) fn new(api: Option<Api>) -> Self {
        Self { api, followed: Mutex::default() }
    }

    /// Follows the object; keep the handle for as long as its changes matter.
    ///
    /// # Errors
    /// `Kind::Pod` where there is no API server to ask.
    pub(crate) fn follow(&self, kind: Kind, namespace: &str, name: &str) -> Result<Arc<Followed>> {
        let api = self.api.clone().ok_or_else(|| Error::pod("there is no API server to read objects from"))?;
        let key = (kind, namespace.to_string(), name.to_string());
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = followed.get(&key).and_then(Weak::upgrade) {
            return Ok(known);
        }
        followed.retain(|_, weak| weak.strong_count() > 0);
        let (say, state) = watch::channel(State::Unknown);
        let target = Target {
            path: format!("/api/v1/namespaces/{namespace}/{}", kind.plural()),
            query: format!("fieldSelector=metadata.name%3D{name}"),
        };
        let task = tokio::spawn(keep(api, target, kind, say));
        let new = Arc::new(Followed { state, task });
        followed.insert(key, Arc::downgrade(&new));
        Ok(new)
    }

    /// The object's data; `None` where it does not exist.
    ///
    /// # Errors
    /// What the API said.
    pub(crate) async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Option<Data>> {
        let followed = self.follow(kind, namespace, name)?;
        let mut state = followed.state.clone();
        // The wait's result borrows the channel: it ends here, before anything else is awaited.
        let known = tokio::time::timeout(PATIENCE, state.wait_for(|s| *s != State::Unknown)).await.map(|s| s.is_ok());
        tracing::trace!(name, ?known, "looked an object up");
        let current = state.borrow().clone();
        if let State::Present(data) = current {
            return Ok(Some(data));
        }
        self.fetch(kind, namespace, name).await
    }

    async fn fetch(&self, kind: Kind, namespace: &str, name: &str) -> Result<Option<Data>> {
        let Some(api) = &self.api else { return Ok(None) };
        match api.get::<Value>(&format!("/api/v1/namespaces/{namespace}/{}/{name}", kind.plural())).await {
            Ok(object) => Ok(data(kind, object)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn data(kind: Kind, object: Value) -> Option<Data> {
    let read = match kind {
        Kind::ConfigMap => serde_json::from_value::<ConfigMap>(object).map(data_of_config_map),
        Kind::Secret => serde_json::from_value::<Secret>(object).map(data_of_secret),
    };
    read.map(Arc::new).inspect_err(|why| tracing::warn!(%why, "cannot read an object of the API")).ok()
}

async fn keep(api: Api, target: Target, kind: Kind, say: watch::Sender<State>) {
    let (send, mut changes) = mpsc::channel(8);
    // Ends with this task: it is polled here and nowhere else.
    let following = follow(api, target, send);
    let listening = async {
        while let Some(change) = changes.recv().await {
            let state = match change {
                Change::Reset(items) => items.into_iter().next().and_then(|o| data(kind, o)),
                Change::Apply(object) => data(kind, object),
                Change::Delete(_) => None,
            };
            let state = state.map_or(State::Missing, State::Present);
            say.send_if_modified(|old| {
                let is_new = *old != state;
                *old = state;
                is_new
            });
        }
    };
    tokio::join!(following, listening);
}
