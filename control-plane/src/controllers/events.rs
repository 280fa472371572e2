//! Events, as `kubectl describe` shows them: written in the background, repeated ones counted in one object.
//!
//! Events are told, not promised: if the API is behind, they are dropped rather than waited for.

use std::collections::{HashMap, VecDeque};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::meta::{name, namespace, now, seconds_text, uid};
use crate::client::{Client, Object, PatchType};

/// Events waiting to be written, at most.
const BACKLOG: usize = 4096;
/// Events remembered for counting repetitions, at most.
const REMEMBERED: usize = 1024;

/// Where a component tells its events. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Recorder {
    component: &'static str,
    queue: mpsc::Sender<Told>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Told {
    component: &'static str,
    api_version: &'static str,
    kind: &'static str,
    namespace: String,
    name: String,
    uid: String,
    warning: bool,
    reason: &'static str,
    message: String,
}

impl Recorder {
    /// A recorder for `component`, and the task that writes.
    pub(crate) fn new(component: &'static str) -> (Recorder, Writer) {
        let (queue, told) = mpsc::channel(BACKLOG);
        (Recorder { component, queue }, Writer { told, known: HashMap::new(), order: VecDeque::new() })
    }

    /// The same queue under another name.
    pub(crate) fn named(&self, component: &'static str) -> Recorder {
        Recorder { component, queue: self.queue.clone() }
    }

    pub(crate) fn normal<T: Object>(&self, about: &T, reason: &'static str, message: String) {
        self.tell(about, false, reason, message);
    }

    pub(crate) fn warning<T: Object>(&self, about: &T, reason: &'static str, message: String) {
        self.tell(about, true, reason, message);
    }

    fn tell<T: Object>(&self, about: &T, warning: bool, reason: &'static str, message: String) {
        let meta = about.metadata();
        let told = Told {
            component: self.component,
            api_version: T::API_VERSION,
            kind: T::KIND,
            namespace: namespace(meta).to_owned(),
            name: name(meta).to_owned(),
            uid: uid(meta).to_owned(),
            warning,
            reason,
            message,
        };
        if let Err(error) = self.queue.try_send(told) {
            tracing::debug!(%error, "an event was dropped");
        }
    }
}

/// Writes what recorders tell.
pub(crate) struct Writer {
    told: mpsc::Receiver<Told>,
    /// Of each event written: its name and how often it was told.
    known: HashMap<Told, (String, u64)>,
    order: VecDeque<Told>,
}

impl Writer {
    pub(crate) async fn run(mut self, client: Client, shutdown: CancellationToken) {
        loop {
            let told = tokio::select! { () = shutdown.cancelled() => return, told = self.told.recv() => told };
            let Some(told) = told else { return };
            self.write(&client, told).await;
        }
    }

    async fn write(&mut self, client: &Client, told: Told) {
        let home = if told.namespace.is_empty() { "default" } else { &told.namespace };
        let now = now();
        if let Some((name, count)) = self.known.get_mut(&told) {
            *count += 1;
            let body = json!({"count": *count, "lastTimestamp": seconds_text(now)});
            if client.patch(("events", home, name), PatchType::Merge, &body).await.is_ok() {
                return;
            }
            // Gone (events live an hour): told anew below.
        }
        let event = object(&told, home, now);
        let name = event["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match client.create("events", home, event).await {
            Ok(_) => self.remember(told, name),
            // A namespace on its way out takes no events; nobody misses them.
            Err(error) => tracing::debug!(error = %error.chain(), reason = told.reason, "an event was not written"),
        }
    }

    fn remember(&mut self, told: Told, name: String) {
        if self.known.insert(told.clone(), (name, 1)).is_none() {
            self.order.push_back(told);
        }
        if self.order.len() > REMEMBERED {
            self.order.pop_front().map(|oldest| self.known.remove(&oldest));
        }
    }
}

fn object(told: &Told, home: &str, now: Timestamp) -> Value {
    let time = seconds_text(now);
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": format!("{}.{:x}", told.name, now.as_nanosecond()), "namespace": home},
        "involvedObject": {
            "apiVersion": told.api_version, "kind": told.kind, "namespace": told.namespace,
            "name": told.name, "uid": told.uid,
        },
        "type": if told.warning { "Warning" } else { "Normal" },
        "reason": told.reason, "message": told.message,
        "source": {"component": told.component}, "reportingComponent": told.component, "reportingInstance": "",
        "count": 1, "firstTimestamp": time, "lastTimestamp": time,
    })
}
