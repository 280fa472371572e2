//! Events: what happened to a pod or the node, for people. One task posts them; the same event again
//! within ten minutes becomes a higher count on the first (PATCH). Never blocks its callers: when the
//! queue is full, events are dropped and counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Api, PatchKind};
use crate::error::Kind;
use crate::pod;

const QUEUE: usize = 1024;
const REMEMBERED: usize = 4096;
const SAME_WITHIN: Duration = Duration::from_secs(600);

/// How grave an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Severity {
    /// In the course of things.
    Normal,
    /// Someone may want to look.
    Warning,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    /// ObjectReference in JSON, with fieldPath for a container.
    pub about: Value,
    pub severity: Severity,
    pub reason: &'static str,
    pub message: String,
}

/// Where events are handed in. Clones share the queue.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Event>,
}

impl Recorder {
    /// A recorder and the end to give to `post`.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Event>) {
        let (queue, events) = mpsc::channel(QUEUE);
        (Self { queue }, events)
    }

    /// About a pod, or about one of its containers.
    pub(crate) fn pod(
        &self,
        about: &Pod,
        container: Option<&str>,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) {
        let mut reference = json!({
            "kind": "Pod", "apiVersion": "v1", "namespace": pod::namespace(about), "name": pod::name(about),
            "uid": pod::uid(about),
        });
        if let Some(version) = &about.metadata.resource_version {
            reference["resourceVersion"] = version.as_str().into();
        }
        if let Some(path) = container.and_then(|name| field_path(about, name)) {
            reference["fieldPath"] = path.into();
        }
        self.record(Event { about: reference, severity, reason, message });
    }

    /// About the node.
    pub(crate) fn node(&self, name: &str, severity: Severity, reason: &'static str, message: String) {
        let about = json!({"kind": "Node", "name": name, "uid": name});
        self.record(Event { about, severity, reason, message });
    }

    fn record(&self, event: Event) {
        tracing::debug!(reason = event.reason, message = event.message, "event");
        if let Err(lost) = self.queue.try_send(event) {
            tracing::debug!(why = %lost, "event dropped");
        }
    }
}

fn field_path(about: &Pod, name: &str) -> Option<String> {
    let list = match pod::container(about, name)?.0 {
        pod::Role::Init | pod::Role::Sidecar => "initContainers",
        pod::Role::Main => "containers",
        pod::Role::Ephemeral => "ephemeralContainers",
    };
    Some(format!("spec.{list}{{{name}}}"))
}

#[derive(Debug, PartialEq, Eq, Hash, Clone)]
struct Key {
    about: String,
    severity: Severity,
    reason: &'static str,
    message: String,
}

struct Posted {
    namespace: String,
    name: String,
    count: u32,
    last: std::time::Instant,
}

/// Posts what `events` brings until every recorder is gone.
pub(crate) async fn post(api: Option<Api>, node: Arc<str>, mut events: mpsc::Receiver<Event>) {
    let mut known: HashMap<Key, Posted> = HashMap::new();
    while let Some(event) = events.recv().await {
        let Some(api) = &api else { continue };
        if known.len() >= REMEMBERED {
            known.retain(|_, p| p.last.elapsed() < SAME_WITHIN);
            if known.len() >= REMEMBERED {
                known.clear();
            }
        }
        if let Err(why) = post_one(api, &node, &mut known, event).await {
            tracing::debug!(%why, "event not posted");
        }
    }
}

async fn post_one(api: &Api, node: &str, known: &mut HashMap<Key, Posted>, event: Event) -> crate::Result<()> {
    let now = crate::clock::wall();
    let key = Key {
        about: format!("{}{}", event.about["uid"], event.about["fieldPath"]),
        severity: event.severity,
        reason: event.reason,
        message: event.message.clone(),
    };
    if let Some(posted) = known.get_mut(&key).filter(|p| p.last.elapsed() < SAME_WITHIN) {
        posted.count += 1;
        posted.last = std::time::Instant::now();
        let path = format!("/api/v1/namespaces/{}/events/{}", posted.namespace, posted.name);
        let patch = json!({"count": posted.count, "lastTimestamp": rfc3339(now)});
        match api.patch::<Value>(&path, PatchKind::Merge, &patch).await {
            Err(why) if why.kind() == Kind::NotFound => known.remove(&key),
            other => return other.map(drop),
        };
    }
    let body = body(node, &event, now);
    let namespace = body["metadata"]["namespace"].as_str().unwrap_or("default").to_string();
    let name = body["metadata"]["name"].as_str().unwrap_or_default().to_string();
    api.post::<Value>(&format!("/api/v1/namespaces/{namespace}/events"), &body).await?;
    known.insert(key, Posted { namespace, name, count: 1, last: std::time::Instant::now() });
    Ok(())
}

fn rfc3339(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn body(node: &str, event: &Event, now: Timestamp) -> Value {
    let namespace = event.about["namespace"].as_str().unwrap_or("default");
    let name = event.about["name"].as_str().unwrap_or_default();
    json!({
        "kind": "Event", "apiVersion": "v1",
        "metadata": {"namespace": namespace, "name": format!("{name}.{:x}", now.as_nanosecond())},
        "involvedObject": event.about,
        "reason": event.reason,
        "message": event.message.chars().take(1024).collect::<String>(),
        "type": match event.severity { Severity::Normal => "Normal", Severity::Warning => "Warning" },
        "source": {"component": "kubelet", "host": node},
        "reportingComponent": "kubelet", "reportingInstance": node,
        "firstTimestamp": rfc3339(now), "lastTimestamp": rfc3339(now), "count": 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_says_which_container() {
        let (recorder, mut events) = Recorder::new();
        let about: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]}}))
        .expect("pod");
        recorder.pod(&about, Some("i"), Severity::Warning, "BackOff", "x".repeat(3000));
        let event = events.try_recv().expect("an event");
        assert_eq!(event.about["fieldPath"], "spec.initContainers{i}");
        let said = body("n1", &event, Timestamp::UNIX_EPOCH);
        assert_eq!(said["message"].as_str().map(str::len), Some(1024));
        assert_eq!(said["metadata"], json!({"namespace": "n", "name": "p.0"}));
        assert_eq!(said["firstTimestamp"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_full_queue_drops_and_never_blocks() {
        let (recorder, mut events) = Recorder::new();
        for _ in 0..QUEUE + 5 {
            recorder.node("n", Severity::Normal, "Starting", "up".into());
        }
        let mut got = 0;
        while events.try_recv().is_ok() {
            got += 1;
        }
        assert_eq!(got, QUEUE);
    }
}
