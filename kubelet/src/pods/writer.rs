//! The pod's status in the API: one task a pod patches the newest wanted status, and skips those that were
//! overtaken meanwhile. A strategic merge patch with the uid, as upstream's PatchPodStatus: conditions of
//! others stay, fields that are no longer wanted become null.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::conditions;
use crate::api::reflect::jitter;
use crate::api::{Api, PatchKind};
use crate::error::Kind;
use crate::pod;

/// Where statuses are handed in. Dropping it ends the task.
pub(crate) struct Writer {
    wanted: watch::Sender<(u64, PodStatus)>,
    written: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Writer {
    /// A writer for `of`; without an API every status counts as written.
    pub(crate) fn new(api: Option<Api>, of: &Arc<Pod>) -> Self {
        let (wanted, receive) = watch::channel((0, of.status.clone().unwrap_or_default()));
        let (say, written) = watch::channel(0);
        let task = tokio::spawn(write(api, of.clone(), receive, say));
        Self { wanted, written, task }
    }

    /// Wants `status` written; returns whether it is another than the last.
    pub(crate) fn want(&self, status: PodStatus) -> bool {
        self.wanted.send_if_modified(|(version, old)| {
            let is_new = *old != status;
            if is_new {
                *version += 1;
                *old = status;
            }
            is_new
        })
    }

    /// Returns when the last wanted status was written, or the pod is gone from the API.
    pub(crate) async fn flush(&self) {
        let version = self.wanted.borrow().0;
        let mut written = self.written.clone();
        // The task ends only with this object.
        let _ = written.wait_for(|w| *w >= version).await;
    }
}

async fn write(api: Option<Api>, of: Arc<Pod>, mut wanted: watch::Receiver<(u64, PodStatus)>, say: watch::Sender<u64>) {
    let mut base = of.status.as_ref().and_then(|s| serde_json::to_value(s).ok()).unwrap_or_else(|| json!({}));
    let path = format!("/api/v1/namespaces/{}/pods/{}/status", pod::namespace(&of), pod::name(&of));
    while wanted.changed().await.is_ok() {
        let mut wait = Duration::from_millis(100);
        loop {
            let (version, status) = wanted.borrow_and_update().clone();
            let Some(api) = &api else {
                say.send_replace(version);
                break;
            };
            let new = serde_json::to_value(&status).unwrap_or_default();
            let body = json!({"metadata": {"uid": pod::uid(&of)}, "status": diff(&base, &new)});
            match api.patch::<Value>(&path, PatchKind::Strategic, &body).await {
                Ok(mut answer) => {
                    base = answer["status"].take();
                    say.send_replace(version);
                    break;
                }
                Err(why) if matches!(why.kind(), Kind::NotFound | Kind::Conflict) => {
                    // Gone, or another pod of that name: nobody is left to be told.
                    tracing::debug!(pod = pod::full_name(&of), %why, "status not written");
                    say.send_replace(version);
                    break;
                }
                Err(why) => {
                    tracing::warn!(pod = pod::full_name(&of), %why, "cannot write the status, will try again");
                    tokio::time::sleep(jitter(wait)).await;
                    wait = (wait * 2).min(Duration::from_secs(10));
                }
            }
        }
    }
}

/// What turns `old` into `new` by strategic merge: whole new values, null for what is gone.
fn diff(old: &Value, new: &Value) -> Value {
    let mut patch = Map::new();
    for (key, value) in new.as_object().into_iter().flatten() {
        if key == "conditions" {
            patch.insert(key.clone(), conditions_diff(&old["conditions"], value));
        } else if old.get(key) != Some(value) {
            patch.insert(key.clone(), value.clone());
        }
    }
    const OWN: [&str; 8] = [
        "reason",
        "message",
        "podIP",
        "podIPs",
        "hostIP",
        "hostIPs",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ];
    for key in OWN {
        let gone = old.get(key).is_some_and(|v| !v.is_null()) && new.get(key).is_none();
        if gone {
            patch.insert(key.into(), Value::Null);
        }
    }
    Value::Object(patch)
}

/// Conditions merge by type, field by field: a reason that is gone has to be said.
fn conditions_diff(old: &Value, new: &Value) -> Value {
    let mut all = Vec::new();
    for condition in new.as_array().into_iter().flatten() {
        let mut condition = condition.clone();
        let same = |c: &&Value| c["type"] == condition["type"];
        let before = old.as_array().into_iter().flatten().find(same).cloned().unwrap_or_default();
        for field in ["reason", "message"] {
            if before.get(field).is_some() && condition.get(field).is_none() {
                condition[field] = Value::Null;
            }
        }
        if condition["type"].as_str().is_some_and(|t| conditions::OWN.contains(&t)) && condition != before {
            all.push(condition);
        }
    }
    Value::Array(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_say_only_what_changed() {
        let old = json!({"phase": "Pending", "reason": "x", "podIP": "1", "qosClass": "Burstable",
            "conditions": [{"type": "Ready", "status": "False", "reason": "r", "message": "m"},
                {"type": "Initialized", "status": "True"}, {"type": "x/y", "status": "True"}]});
        let new = json!({"phase": "Running", "podIP": "1", "qosClass": "Burstable",
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}]});
        assert_eq!(
            diff(&old, &new),
            json!({"phase": "Running", "reason": null,
                "conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null}]})
        );
    }
}
