//! When the API read, stored and bound each of the last pods, in nanoseconds since 1970: `GET /debug/pod-timings`.
//!
//! Object times have whole seconds; whoever wants to know where the milliseconds of a pod's start went needs these. The
//! kubelet keeps the later stages under the same path.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

/// Pods remembered; older ones are forgotten.
const KEPT: usize = 512;

#[derive(Debug)]
struct Entry {
    pod: String,
    received: u64,
    created: u64,
    bound: Option<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Timings(Mutex<VecDeque<Entry>>);

/// The moment, in nanoseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Timings {
    /// A pod was stored whose request was read at `received`.
    pub(crate) fn created(&self, namespace: &str, name: &str, received: u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pod = format!("{namespace}/{name}");
        all.retain(|entry| entry.pod != pod);
        if all.len() == KEPT {
            all.pop_front();
        }
        all.push_back(Entry { pod, received, created: now(), bound: None });
    }

    /// A pod was given its node.
    pub(crate) fn bound(&self, namespace: &str, name: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pod = format!("{namespace}/{name}");
        if let Some(entry) = all.iter_mut().rev().find(|entry| entry.pod == pod) {
            entry.bound = Some(now());
        }
    }

    /// `{"NAMESPACE/NAME": {"received": ns, "created": ns, "bound": ns}}`; `bound` is absent before the binding.
    pub(crate) fn to_json(&self) -> Value {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = Map::new();
        for entry in all.iter() {
            let mut moments = json!({"received": entry.received, "created": entry.created});
            if let Some(bound) = entry.bound {
                moments["bound"] = bound.into();
            }
            out.insert(entry.pod.clone(), moments);
        }
        Value::Object(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_of_the_same_name_begins_anew() {
        let timings = Timings::default();
        timings.created("default", "web", 5);
        timings.bound("default", "web");
        assert!(timings.to_json()["default/web"]["bound"].is_u64());
        timings.created("default", "web", 7);
        let all = timings.to_json();
        assert_eq!(all["default/web"]["received"], 7);
        assert!(all["default/web"].get("bound").is_none());
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let timings = Timings::default();
        (0..=KEPT).for_each(|at| timings.created("default", &format!("p{at}"), 1));
        let all = timings.to_json();
        assert_eq!(all.as_object().map(Map::len), Some(KEPT));
        assert!(all.get("default/p0").is_none());
    }
}
