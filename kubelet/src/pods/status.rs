//! What the API is told of a pod: container states, phase, addresses. Pure. Rules as upstream's
//! generateAPIPodStatus and getPhase: a container that waits for its back-off shows its last end as
//! lastState; what the runtime no longer knows is taken from the status before.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, HostIP, LinuxContainerUser, Pod, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::actions::{Facts, Plan, is_started};
use super::conditions;
use super::seen::{Seen, State};
use crate::clock::from_nanos;
use crate::pod::{self, Restart, Role};
use crate::qos;

/// What the status needs beside the facts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Around {
    /// The scheme of container ids: the runtime's name.
    pub runtime: String,
    /// The node's addresses, the primary first.
    pub node_ips: Vec<String>,
    /// The pod is being ended for good: what does not run will not start.
    pub ending: bool,
}

/// What is said of a pod that ran for longer than activeDeadlineSeconds; upstream's words.
pub(super) const OVERDUE: &str = "Pod was active on the node longer than the specified deadline";

/// The whole status, as it should be in the API.
pub(crate) fn compute(facts: Facts<'_>, plan: &Plan, around: &Around) -> PodStatus {
    let old = facts.pod.status.clone().unwrap_or_default();
    let spec = pod::spec(facts.pod);
    let tell = |role: Role, c: &Container| container(facts, plan, around, role, c, previous(&old, role, &c.name));
    let inits: Vec<_> = pod::inits(facts.pod).map(|(role, c)| tell(role, c)).collect();
    let mains: Vec<_> = spec.containers.iter().map(|c| tell(Role::Main, c)).collect();
    let ephemerals: Vec<_> = pod::ephemerals(facts.pod).iter().map(|c| tell(Role::Ephemeral, c)).collect();
    let (mut reason, mut message) = (None, None);
    let mut phase = match old.phase.as_deref() {
        Some(end @ ("Succeeded" | "Failed")) => {
            reason = old.reason.clone();
            message = old.message.clone();
            end
        }
        _ => phase(facts.pod, &inits, &mains),
    };
    if let Some((why, text)) = &facts.memory.ended {
        (phase, reason, message) = ("Failed", Some(why.clone()), Some(text.clone()));
    } else if matches!(phase, "Running" | "Pending")
        && super::actions::deadline(facts.pod).is_some_and(|at| at <= facts.now)
    {
        phase = "Failed";
        reason = Some("DeadlineExceeded".into());
        message = Some(OVERDUE.into());
    }
    // Succeeded and Failed are final: not said while anything still runs.
    if matches!(phase, "Succeeded" | "Failed")
        && !matches!(old.phase.as_deref(), Some("Succeeded" | "Failed"))
        && facts.view.running().next().is_some()
    {
        phase = old.phase.as_deref().unwrap_or("Running");
    }
    let mut status = PodStatus {
        phase: Some(phase.to_string()),
        reason,
        message,
        container_statuses: Some(mains),
        init_container_statuses: Some(inits).filter(|l| !l.is_empty()),
        ephemeral_container_statuses: Some(ephemerals).filter(|l| !l.is_empty()),
        qos_class: old.qos_class.clone().or_else(|| Some(qos::class(facts.pod).as_str().into())),
        start_time: old.start_time.clone().or(Some(Time(facts.now))),
        observed_generation: facts.pod.metadata.generation,
        ..PodStatus::default()
    };
    if facts.memory.ended.is_some() && facts.view.containers.is_empty() && old.container_statuses.is_none() {
        // Never let in: nothing of it is waiting for anything.
        (status.container_statuses, status.init_container_statuses) = (None, None);
    }
    addresses(facts, around, &old, &mut status);
    status.conditions = Some(conditions::compute(facts, &old, &status));
    status
}

/// The status that the API has of the container.
pub(crate) fn previous<'a>(old: &'a PodStatus, role: Role, name: &str) -> Option<&'a ContainerStatus> {
    let list = match role {
        Role::Init | Role::Sidecar => &old.init_container_statuses,
        Role::Main => &old.container_statuses,
        Role::Ephemeral => &old.ephemeral_container_statuses,
    };
    list.iter().flatten().find(|s| s.name == name)
}

fn addresses(facts: Facts<'_>, around: &Around, old: &PodStatus, status: &mut PodStatus) {
    status.host_ip = around.node_ips.first().cloned();
    status.host_ips =
        Some(around.node_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()).filter(|l: &Vec<_>| !l.is_empty());
    let ips: Vec<String> = match facts.view.sandboxes.first() {
        _ if pod::is_host_network(facts.pod) => around.node_ips.clone(),
        Some(sandbox) if !sandbox.ips.is_empty() => sandbox.ips.clone(),
        // The address of an ended pod stays on record.
        _ => old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect(),
    };
    status.pod_ip = ips.first().cloned();
    status.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect()).filter(|l: &Vec<_>| !l.is_empty());
}

fn time(nanos: i64) -> Option<Time> {
    from_nanos(nanos).map(Time)
}

fn running(s: &Seen) -> ContainerState {
    let running = ContainerStateRunning { started_at: time(s.started_at) };
    ContainerState { running: Some(running), ..ContainerState::default() }
}

fn terminated(s: &Seen, runtime: &str) -> ContainerState {
    let reason = match s.reason.as_str() {
        "" if s.exit_code == 0 => "Completed",
        "" => "Error",
        given => given,
    };
    let message = if s.said.is_empty() { s.message.clone() } else { s.said.clone() };
    let end = ContainerStateTerminated {
        exit_code: s.exit_code,
        reason: Some(reason.to_string()),
        message: Some(message).filter(|m| !m.is_empty()),
        started_at: time(s.started_at),
        finished_at: time(s.finished_at),
        container_id: Some(id(s, runtime)),
        signal: None,
    };
    ContainerState { terminated: Some(end), ..ContainerState::default() }
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let message = Some(message.to_string()).filter(|m| !m.is_empty());
    let waiting = ContainerStateWaiting { reason: Some(reason.to_string()), message };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn id(s: &Seen, runtime: &str) -> String {
    format!("{runtime}://{}", s.id)
}

/// A container that ran, says the API, and that the runtime knows nothing of.
fn lost(old: &ContainerStatus) -> Option<ContainerState> {
    let state = old.state.as_ref()?;
    if state.terminated.is_some() {
        return Some(state.clone());
    }
    state.running.as_ref()?;
    let end = ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".into()),
        message: Some("The container could not be located when the pod was terminated".into()),
        ..ContainerStateTerminated::default()
    };
    Some(ContainerState { terminated: Some(end), ..ContainerState::default() })
}

fn container(
    facts: Facts<'_>,
    plan: &Plan,
    around: &Around,
    role: Role,
    c: &Container,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let mut all = facts.view.named(&c.name);
    let (newest, before) = (all.next(), all.next());
    let last = |s: Option<&Seen>| s.filter(|s| s.state == State::Exited).map(|s| terminated(s, &around.runtime));
    let old_last = || old.and_then(|o| o.last_state.clone());
    let held = plan.waiting.get(&c.name);
    let starting = || {
        let reason = if unfinished_inits(facts, role) { "PodInitializing" } else { "ContainerCreating" };
        waiting(reason, "")
    };
    let (state, last_state) = match newest {
        Some(s) if facts.memory.hooked.contains(&s.id) && s.state != State::Exited => {
            (starting(), last(before).or_else(old_last))
        }
        Some(s) if s.state == State::Running => (running(s), last(before).or_else(old_last)),
        Some(s) if s.state == State::Exited => match held.filter(|_| !around.ending) {
            Some(w) => (waiting(w.reason, &w.message), last(newest)),
            None => (terminated(s, &around.runtime), last(before).or_else(old_last)),
        },
        Some(_) | None if held.is_some() && !around.ending => {
            let reason = held.map_or("", |w| w.reason);
            let message = held.map_or("", |w| w.message.as_str());
            (waiting(reason, message), last(before).or_else(|| old.and_then(lost)).or_else(old_last))
        }
        Some(_) => (starting(), last(before).or_else(old_last)),
        None => match old.and_then(lost) {
            Some(end) if around.ending || plan.done || pod::restart(facts.pod) == Restart::Never => (end, old_last()),
            Some(end) => (starting(), Some(end)),
            None => (starting(), old_last()),
        },
    };
    let (ready, started) = health(facts, role, c, newest, old);
    let resources = c.resources.clone();
    ContainerStatus {
        name: c.name.clone(),
        ready,
        started: Some(started).filter(|_| role != Role::Ephemeral),
        restart_count: newest
            .map(|s| i32::try_from(s.restarts).unwrap_or(i32::MAX))
            .or(old.map(|o| o.restart_count))
            .unwrap_or(0),
        image: newest
            .map(|s| s.image.clone())
            .filter(|i| !i.is_empty())
            .or_else(|| c.image.clone())
            .unwrap_or_default(),
        image_id: newest.map(|s| s.image_ref.clone()).or_else(|| old.map(|o| o.image_id.clone())).unwrap_or_default(),
        container_id: newest.map(|s| id(s, &around.runtime)).or_else(|| old.and_then(|o| o.container_id.clone())),
        allocated_resources: resources.as_ref().and_then(|r| r.requests.clone()).filter(|r| !r.is_empty()),
        resources: resources.filter(|r| *r != Default::default()),
        state: Some(state),
        last_state: Some(last_state.unwrap_or_default()),
        user: newest.and_then(|s| s.user.clone()).map(|(uid, gid, groups)| ContainerUser {
            linux: Some(LinuxContainerUser { uid, gid, supplemental_groups: Some(groups).filter(|g| !g.is_empty()) }),
        }),
        ..ContainerStatus::default()
    }
}

/// Whether an init container has still to end (or a sidecar to start) before the main ones.
fn unfinished_inits(facts: Facts<'_>, role: Role) -> bool {
    role != Role::Ephemeral
        && pod::inits(facts.pod).any(|(role, c)| match facts.view.newest(&c.name) {
            Some(s) if role == Role::Init => s.state != State::Exited || s.exit_code != 0,
            Some(s) => s.state != State::Running || !is_started(facts, c, s),
            None => true,
        })
}

/// (ready, started) of a container.
fn health(
    facts: Facts<'_>,
    role: Role,
    c: &Container,
    newest: Option<&Seen>,
    old: Option<&ContainerStatus>,
) -> (bool, bool) {
    let Some(s) = newest else {
        let finished = old.and_then(|o| o.state.as_ref()?.terminated.as_ref()).is_some_and(|t| t.exit_code == 0);
        return (role == Role::Init && finished, false);
    };
    if role == Role::Init {
        return (s.state == State::Exited && s.exit_code == 0, false);
    }
    if s.state != State::Running || role == Role::Ephemeral {
        return (false, false);
    }
    let started = is_started(facts, c, s);
    let probed = facts.memory.health.get(&s.id).and_then(|h| h.ready);
    let ready = started && (c.readiness_probe.is_none() || probed == Some(true));
    (ready, started)
}

fn phase(of: &Pod, inits: &[ContainerStatus], mains: &[ContainerStatus]) -> &'static str {
    let end = |s: &ContainerStatus| s.state.as_ref().and_then(|s| s.terminated.clone());
    let runs = |s: &ContainerStatus| s.state.as_ref().is_some_and(|s| s.running.is_some());
    let crashed = |s: &ContainerStatus| s.last_state.as_ref().is_some_and(|l| l.terminated.is_some());
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for s in mains {
        match end(s) {
            Some(t) => {
                stopped += 1;
                succeeded += usize::from(t.exit_code == 0);
            }
            None if runs(s) => running += 1,
            None if crashed(s) => stopped += 1,
            None => waiting += 1,
        }
    }
    let (mut init_pending, mut init_failed) = (false, false);
    for ((role, c), s) in pod::inits(of).zip(inits) {
        match (role, end(s)) {
            (Role::Init, Some(t)) if t.exit_code == 0 => {}
            (Role::Init, Some(_)) => {
                init_failed |= pod::restart(of) == Restart::Never;
                init_pending |= pod::restart(of) != Restart::Never;
            }
            (Role::Sidecar, _) => {
                init_pending |= s.started != Some(true) && running + stopped == 0 && !c.name.is_empty()
            }
            _ => init_pending = true,
        }
    }
    match () {
        () if init_failed => "Failed",
        () if init_pending && running + stopped == 0 => "Pending",
        () if waiting > 0 => "Pending",
        () if running > 0 => "Running",
        () if stopped == 0 => "Pending",
        () if pod::restart(of) == Restart::Always => "Running",
        () if stopped == succeeded => "Succeeded",
        () if pod::restart(of) == Restart::Never => "Failed",
        () => "Running",
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
