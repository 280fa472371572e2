//! A pod's conditions: PodScheduled, PodReadyToStartContainers, Initialized, ContainersReady, Ready with its
//! gates. A transition time moves only when the status does; conditions of others are not touched.

use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::actions::Facts;
use crate::pod::{self, Role};

/// The conditions that a kubelet owns.
pub(crate) const OWN: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

struct Verdict {
    kind: &'static str,
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

fn holds(kind: &'static str) -> Verdict {
    Verdict { kind, holds: true, reason: None, message: None }
}

/// The conditions for `new`, which has all else of the status already.
pub(crate) fn compute(facts: Facts<'_>, old: &PodStatus, new: &PodStatus) -> Vec<PodCondition> {
    let containers = containers_ready(facts, new);
    let ready = ready(facts, old, &containers);
    let sandbox = facts.view.sandbox().is_some_and(|s| pod::is_host_network(facts.pod) || !s.ips.is_empty());
    let verdicts = [
        Verdict { holds: sandbox, ..holds("PodReadyToStartContainers") },
        initialized(facts, new),
        ready,
        containers,
        holds("PodScheduled"),
    ];
    verdicts.into_iter().map(|v| finish(facts, old, v)).collect()
}

fn finish(facts: Facts<'_>, old: &PodStatus, v: Verdict) -> PodCondition {
    let status = if v.holds { "True" } else { "False" };
    let before = old.conditions.iter().flatten().find(|c| c.type_ == v.kind && c.status == status);
    PodCondition {
        type_: v.kind.into(),
        status: status.into(),
        reason: v.reason.map(str::to_string),
        message: v.message,
        last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or(Some(Time(facts.now))),
        observed_generation: facts.pod.metadata.generation,
        last_probe_time: None,
    }
}

fn not(kind: &'static str, reason: &'static str, message: Option<String>) -> Verdict {
    Verdict { kind, holds: false, reason: Some(reason), message }
}

fn unready<'a>(list: impl Iterator<Item = &'a ContainerStatus>) -> Option<String> {
    let names: Vec<_> = list.filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    (!names.is_empty()).then(|| format!("[{}]", names.join(" ")))
}

fn initialized(facts: Facts<'_>, new: &PodStatus) -> Verdict {
    const KIND: &str = "Initialized";
    if new.phase.as_deref() == Some("Succeeded") {
        return Verdict { reason: Some("PodCompleted"), ..holds(KIND) };
    }
    let mains = new.container_statuses.iter().flatten();
    let begun = mains.clone().any(|s| s.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some()));
    let undone: Vec<_> = pod::inits(facts.pod)
        .zip(new.init_container_statuses.iter().flatten())
        .filter(|((role, _), s)| match role {
            Role::Init => !s.ready,
            _ => s.started != Some(true),
        })
        .map(|((_, c), _)| c.name.as_str())
        .collect();
    if undone.is_empty() || begun {
        return holds(KIND);
    }
    let message = format!("containers with incomplete status: [{}]", undone.join(" "));
    not(KIND, "ContainersNotInitialized", Some(message))
}

fn containers_ready(facts: Facts<'_>, new: &PodStatus) -> Verdict {
    const KIND: &str = "ContainersReady";
    match new.phase.as_deref() {
        Some("Succeeded") => return not(KIND, "PodCompleted", None),
        Some("Failed") => return not(KIND, "PodFailed", None),
        _ => {}
    }
    let sidecars = pod::inits(facts.pod)
        .zip(new.init_container_statuses.iter().flatten())
        .filter(|((role, _), _)| *role == Role::Sidecar)
        .map(|(_, s)| s);
    match unready(sidecars.chain(new.container_statuses.iter().flatten())) {
        None => holds(KIND),
        Some(names) => not(KIND, "ContainersNotReady", Some(format!("containers with unready status: {names}"))),
    }
}

fn ready(facts: Facts<'_>, old: &PodStatus, containers: &Verdict) -> Verdict {
    const KIND: &str = "Ready";
    if !containers.holds {
        return not(KIND, containers.reason.unwrap_or("ContainersNotReady"), containers.message.clone());
    }
    let gates = pod::spec(facts.pod).readiness_gates.iter().flatten();
    let closed: Vec<String> = gates
        .filter_map(|gate| {
            let found = old.conditions.iter().flatten().find(|c| c.type_ == gate.condition_type);
            match found {
                None => Some(format!(
                    "corresponding condition of pod readiness gate {:?} does not exist.",
                    gate.condition_type
                )),
                Some(c) if c.status != "True" => Some(format!(
                    "the status of pod readiness gate {:?} is not \"True\", but {}",
                    gate.condition_type, c.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if closed.is_empty() { holds(KIND) } else { not(KIND, "ReadinessGatesNotReady", Some(closed.join(", "))) }
}
