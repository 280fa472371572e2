//! When each stage of each pod's start happened, for whoever wants to know where the time went:
//! GET /debug/pod-timings. The first start and the last end of a stage count, until the pod is ready.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::pod;

const KEPT: usize = 512;

/// A stage with a start and an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Volumes,
    Sandbox,
    Image,
    Create,
    Start,
}

impl Stage {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Volumes => ("volumesStart", "volumesEnd"),
            Self::Sandbox => ("sandboxStart", "sandboxEnd"),
            Self::Image => ("imageStart", "imageEnd"),
            Self::Create => ("createStart", "createEnd"),
            Self::Start => ("startStart", "startEnd"),
        }
    }
}

#[derive(Debug)]
struct Entry {
    uid: String,
    namespace: String,
    name: String,
    marks: BTreeMap<&'static str, u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Timings(Mutex<VecDeque<Entry>>);

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Timings {
    fn with(&self, of: &Pod, change: impl FnOnce(&mut BTreeMap<&'static str, u64>)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.iter().any(|e| e.uid == pod::uid(of)) {
            if all.len() == KEPT {
                all.pop_front();
            }
            all.push_back(Entry {
                uid: pod::uid(of).into(),
                namespace: pod::namespace(of).into(),
                name: pod::name(of).into(),
                marks: BTreeMap::new(),
            });
        }
        if let Some(entry) = all.iter_mut().rev().find(|e| e.uid == pod::uid(of))
            && !entry.marks.contains_key("ready")
        {
            change(&mut entry.marks);
        }
    }

    /// The pod was first seen.
    pub(crate) fn seen(&self, of: &Pod) {
        self.with(of, |marks| {
            marks.entry("seen").or_insert_with(now);
        });
    }

    /// Carries out `work` and notes its start and end.
    pub(crate) async fn stage<T>(&self, of: &Pod, stage: Stage, work: impl Future<Output = T>) -> T {
        let (start, end) = stage.names();
        self.with(of, |marks| {
            marks.entry(start).or_insert_with(now);
        });
        let done = work.await;
        self.with(of, |marks| {
            marks.insert(end, now());
        });
        done
    }

    /// All its containers are ready: nothing more is noted for this pod.
    pub(crate) fn ready(&self, of: &Pod) {
        self.with(of, |marks| {
            let at = now();
            marks.insert("ready", at);
            let since = marks.get("seen").copied().unwrap_or(at);
            let offsets: Vec<_> =
                marks.iter().map(|(k, v)| format!("{k}={:.1}ms", v.saturating_sub(since) as f64 / 1e6)).collect();
            tracing::debug!(pod = pod::full_name(of), stages = offsets.join(" "), "ready");
        });
    }

    /// `{"namespace/name": {"uid": …, "seen": ns, "sandboxStart": ns, …}}`; ns since the epoch. Of pods that had
    /// the same name the last counts.
    pub(crate) fn to_json(&self) -> Value {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = serde_json::Map::new();
        for e in all.iter() {
            let mut moments = json!(e.marks);
            moments["uid"] = e.uid.as_str().into();
            out.insert(format!("{}/{}", e.namespace, e.name), moments);
        }
        Value::Object(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stages_stop_with_readiness() {
        let timings = Timings::default();
        let of: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}})).expect("pod");
        timings.seen(&of);
        timings.stage(&of, Stage::Image, async {}).await;
        timings.ready(&of);
        timings.stage(&of, Stage::Start, async {}).await;
        let all = timings.to_json();
        let keys: Vec<_> = all["default/p"].as_object().expect("moments").keys().map(String::as_str).collect();
        assert_eq!(keys, ["imageEnd", "imageStart", "ready", "seen", "uid"]);
    }
}
