//! The row of a pod: ready containers, the one word that tells how it is, restarts.

use jiff::Timestamp;
use serde_json::Value;

use super::{age, human, name, or_none};
use crate::kinds::form;

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let seen = look(pod);
    let total = form::list(pod, &["spec", "containers"]).len() + sidecars(pod).count();
    let restarts = match seen.last_restart {
        Some(then) if seen.restarts > 0 => {
            format!("{} ({} ago)", seen.restarts, human(now.duration_since(then).as_secs()))
        }
        _ => seen.restarts.to_string(),
    };
    vec![
        name(pod),
        format!("{}/{total}", seen.ready).into(),
        seen.status.into(),
        restarts.into(),
        age(pod, now),
        or_none(form::text(pod, &["status", "podIP"])),
        or_none(form::text(pod, &["spec", "nodeName"])),
        or_none(form::text(pod, &["status", "nominatedNodeName"])),
        gates(pod),
    ]
}

/// What the statuses of the containers come to.
struct Seen {
    status: String,
    ready: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Seen {
    fn count(&mut self, status: &Value) {
        self.restarts += status["restartCount"].as_i64().unwrap_or(0);
        let ended = form::text(status, &["lastState", "terminated", "finishedAt"]).parse::<Timestamp>().ok();
        self.last_restart = self.last_restart.max(ended);
    }
}

fn sidecars(pod: &Value) -> impl Iterator<Item = &Value> {
    form::list(pod, &["spec", "initContainers"]).iter().filter(|c| c["restartPolicy"] == "Always")
}

fn condition(pod: &Value, name: &str) -> bool {
    form::list(pod, &["status", "conditions"]).iter().any(|c| c["type"] == name && c["status"] == "True")
}

fn look(pod: &Value) -> Seen {
    let phase = form::text(pod, &["status", "phase"]);
    let reason = form::text(pod, &["status", "reason"]);
    let status = if reason.is_empty() { phase } else { reason };
    let mut seen = Seen { status: status.to_owned(), ready: 0, restarts: 0, last_restart: None };
    let conditions = form::list(pod, &["status", "conditions"]);
    if conditions.iter().any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated") {
        seen.status = "SchedulingGated".into();
    }
    let mut sidecars_only = Seen { status: String::new(), ready: 0, restarts: 0, last_restart: None };
    let initializing = init(pod, &mut seen, &mut sidecars_only);
    if !initializing || condition(pod, "Initialized") {
        seen.restarts = sidecars_only.restarts;
        seen.last_restart = sidecars_only.last_restart;
        main(pod, &mut seen);
    }
    if !form::text(pod, &["metadata", "deletionTimestamp"]).is_empty() {
        if reason == "NodeLost" {
            seen.status = "Unknown".into();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            seen.status = "Terminating".into();
        }
    }
    seen
}

/// Init containers; returns whether the pod is still at them.
fn init(pod: &Value, seen: &mut Seen, sidecars_only: &mut Seen) -> bool {
    let total = form::list(pod, &["spec", "initContainers"]).len();
    for (at, each) in form::list(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
        seen.count(each);
        let sidecar = sidecars(pod).any(|c| c["name"] == each["name"]);
        if sidecar {
            sidecars_only.count(each);
        }
        let terminated = &each["state"]["terminated"];
        let waiting = form::text(each, &["state", "waiting", "reason"]);
        if terminated.is_object() && terminated["exitCode"].as_i64().unwrap_or(0) == 0 {
            continue;
        }
        if sidecar && each["started"] == true {
            seen.ready += usize::from(each["ready"] == true);
            continue;
        }
        seen.status = if terminated.is_object() {
            format!("Init:{}", ended(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{at}/{total}")
        };
        return true;
    }
    false
}

/// Why a container ended.
fn ended(terminated: &Value) -> String {
    let reason = form::text(terminated, &["reason"]);
    match terminated["signal"].as_i64().unwrap_or(0) {
        _ if !reason.is_empty() => reason.to_owned(),
        0 => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
        signal => format!("Signal:{signal}"),
    }
}

fn main(pod: &Value, seen: &mut Seen) {
    let mut running = false;
    for each in form::list(pod, &["status", "containerStatuses"]).iter().rev() {
        seen.count(each);
        let (waiting, terminated) = (form::text(each, &["state", "waiting", "reason"]), &each["state"]["terminated"]);
        if !waiting.is_empty() {
            seen.status = waiting.to_owned();
        } else if terminated.is_object() {
            seen.status = ended(terminated);
        } else if each["ready"] == true && each["state"]["running"].is_object() {
            running = true;
            seen.ready += 1;
        }
    }
    if seen.status == "Completed" && running {
        seen.status = if condition(pod, "Ready") { "Running".into() } else { "NotReady".into() };
    }
}

fn gates(pod: &Value) -> Value {
    let gates = form::list(pod, &["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".into();
    }
    let passed = gates.iter().filter(|g| condition(pod, form::text(g, &["conditionType"]))).count();
    format!("{passed}/{}", gates.len()).into()
}
