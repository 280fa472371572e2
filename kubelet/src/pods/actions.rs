//! DECIDE: from a pod as wanted, the runtime's view of it, what the worker remembers and the time, to the
//! steps that bring the pod nearer to what is wanted, and the time at which to look again. Pure, and tested
//! as text. The order of containers follows upstream's computePodActions: init containers one by one,
//! sidecars kept, then the main ones; everything that waits has its reason.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;

use super::labels;
use super::memory::{Memory, wait_until};
use super::seen::{Seen, State, View};
use crate::clock::{from_nanos, plus};
use crate::pod::{self, Restart, Role};

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Volumes and cgroup, then RunPodSandbox.
    Sandbox { attempt: u32 },
    /// A sandbox that is over, or no longer fits.
    StopSandbox { id: String },
    /// Image, CreateContainer, StartContainer, postStart.
    Start { name: String, restarts: u32 },
    /// A container that was made but never started.
    Resume { name: String, id: String },
    /// preStop, TERM, KILL.
    Kill { name: String, id: String, why: String, grace: Option<i64> },
}

/// Why a container is not running, and since when it may be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub reason: &'static str,
    pub message: String,
}

/// What to do now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub actions: Vec<Action>,
    /// By container name.
    pub waiting: BTreeMap<String, Waiting>,
    /// The next time at which the answer may be another one without anything having happened.
    pub look_at: Option<Timestamp>,
    /// All containers did what they were to do; nothing will start again.
    pub done: bool,
}

impl Plan {
    fn look(&mut self, at: Timestamp) {
        self.look_at = Some(self.look_at.map_or(at, |before| before.min(at)));
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for action in &self.actions {
            match action {
                Action::Sandbox { attempt } => writeln!(f, "sandbox {attempt}")?,
                Action::StopSandbox { id } => writeln!(f, "stop-sandbox {id}")?,
                Action::Start { name, restarts } => writeln!(f, "start {name} {restarts}")?,
                Action::Resume { name, id } => writeln!(f, "resume {name} {id}")?,
                Action::Kill { name, id, why, .. } if why.is_empty() => writeln!(f, "kill {name} {id}")?,
                Action::Kill { name, id, why, .. } => writeln!(f, "kill {name} {id}: {why}")?,
            }
        }
        for (name, waiting) in &self.waiting {
            writeln!(f, "wait {name} {}", waiting.reason)?;
        }
        if let Some(at) = self.look_at {
            writeln!(f, "look {}", at.as_second())?;
        }
        if self.done { writeln!(f, "done") } else { Ok(()) }
    }
}

/// Everything that a decision looks at.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub pod: &'a Pod,
    pub view: &'a View,
    pub memory: &'a Memory,
    pub now: Timestamp,
}

/// See the module.
pub(crate) fn decide(facts: Facts<'_>) -> Plan {
    let mut plan = Plan::default();
    let deadline = deadline(facts.pod);
    let expired = deadline.is_some_and(|at| at <= facts.now);
    if pod::is_finished(facts.pod) || facts.memory.ended.is_some() || expired {
        finish(facts, &mut plan);
        return plan;
    }
    if let Some(at) = deadline {
        plan.look(at);
    }
    let Some(sandbox) = usable_sandbox(facts, &mut plan) else { return plan };
    kill_strangers(facts, &mut plan);
    if !start_inits(facts, &sandbox, &mut plan) {
        return plan;
    }
    start_mains(facts, &mut plan);
    if !plan.done {
        for c in pod::ephemerals(facts.pod) {
            if facts.view.newest(&c.name).is_none() {
                start(facts, Role::Ephemeral, &c, &mut plan);
            }
        }
    } else {
        finish(facts, &mut plan);
    }
    plan
}

/// The time at which activeDeadlineSeconds ends the pod.
pub(crate) fn deadline(of: &Pod) -> Option<Timestamp> {
    let started = of.status.as_ref()?.start_time.as_ref()?.0;
    pod::spec(of).active_deadline_seconds.map(|s| plus(started, s))
}

/// The id of the sandbox to work in; else plans what gets one, or finds that none is needed any more.
fn usable_sandbox(facts: Facts<'_>, plan: &mut Plan) -> Option<String> {
    let host_network = pod::is_host_network(facts.pod);
    let fits = |s: &&super::seen::Sandbox| host_network || !s.ips.is_empty();
    let ready: Vec<_> = facts.view.sandboxes.iter().filter(|s| s.ready).collect();
    if let Some(newest) = facts.view.sandbox().filter(fits) {
        for extra in ready.iter().filter(|s| s.id != newest.id) {
            plan.actions.push(Action::StopSandbox { id: extra.id.clone() });
        }
        return Some(newest.id.clone());
    }
    if !anything_left(facts) {
        plan.done = true;
        finish(facts, plan);
        return None;
    }
    if let Some(failure) = facts.memory.failures.get("").filter(|f| f.retry_at > facts.now) {
        plan.look(failure.retry_at);
        return None;
    }
    // Containers of the sandbox before cannot go on without it.
    for c in facts.view.running() {
        plan.actions.push(kill(c, "the sandbox changed".into(), None));
    }
    for s in ready {
        plan.actions.push(Action::StopSandbox { id: s.id.clone() });
    }
    let attempt = facts.view.sandboxes.first().map_or(0, |s| s.attempt + 1);
    plan.actions.push(Action::Sandbox { attempt });
    // What can start first in a new sandbox is planned with it: its image is fetched meanwhile.
    let first: Vec<(Role, &Container)> = match pod::inits(facts.pod).next() {
        Some(first) => vec![first],
        None => pod::ordered(facts.pod).collect(),
    };
    for (role, c) in first {
        if role != Role::Main || wants_start(facts, facts.view.newest(&c.name)) {
            start(facts, role, c, plan);
        }
    }
    None
}

/// Whether any main container has still to run.
fn anything_left(facts: Facts<'_>) -> bool {
    if failed_init(facts) {
        return false;
    }
    let mains = &pod::spec(facts.pod).containers;
    mains.iter().any(|c| wants_start(facts, facts.view.newest(&c.name)))
}

fn failed_init(facts: Facts<'_>) -> bool {
    pod::restart(facts.pod) == Restart::Never
        && pod::inits(facts.pod).any(|(role, c)| {
            let newest = facts.view.newest(&c.name);
            role == Role::Init && newest.is_some_and(|s| s.state == State::Exited && s.exit_code != 0)
        })
}

/// Whether a container whose newest run is `newest` is to run (again).
fn wants_start(facts: Facts<'_>, newest: Option<&Seen>) -> bool {
    match newest {
        None => true,
        Some(s) if s.state == State::Exited => match pod::restart(facts.pod) {
            Restart::Always => true,
            Restart::OnFailure => s.exit_code != 0,
            Restart::Never => false,
        },
        Some(s) => s.state != State::Running,
    }
}

/// Containers that run though the pod has no such container, or another image.
fn kill_strangers(facts: Facts<'_>, plan: &mut Plan) {
    for s in facts.view.running() {
        match pod::container(facts.pod, &s.name) {
            None => plan.actions.push(kill(s, "not part of the pod".into(), None)),
            Some((Role::Ephemeral, _)) => {}
            Some((_, c)) if !s.hash.is_empty() && s.hash != labels::hash(&c) => {
                plan.actions.push(kill(s, "its definition changed".into(), None));
            }
            Some(_) => {
                let health = facts.memory.health.get(&s.id);
                if let Some(why) = health.and_then(|h| h.unhealthy.clone()) {
                    plan.actions.push(kill(s, why, health.and_then(|h| h.grace)));
                }
            }
        }
    }
}

fn kill(s: &Seen, why: String, grace: Option<i64>) -> Action {
    Action::Kill { name: s.name.clone(), id: s.id.clone(), why, grace }
}

/// Plans the next init container; true when the main ones may run.
fn start_inits(facts: Facts<'_>, sandbox: &str, plan: &mut Plan) -> bool {
    let mains = &pod::spec(facts.pod).containers;
    let initialized = mains.iter().any(|c| facts.view.named(&c.name).any(|s| s.sandbox == sandbox));
    for (role, c) in pod::inits(facts.pod) {
        let newest = facts.view.newest(&c.name).filter(|s| s.sandbox == sandbox);
        let is_up = match (role, newest) {
            (Role::Init, _) if initialized => continue,
            (Role::Init, Some(s)) if s.state == State::Exited && s.exit_code == 0 => continue,
            (Role::Init, Some(s)) if s.state == State::Exited && pod::restart(facts.pod) == Restart::Never => {
                finish(facts, plan);
                plan.done = true;
                return false;
            }
            (_, Some(s)) if s.state == State::Running => role == Role::Sidecar && is_started(facts, c, s),
            _ => {
                start(facts, role, c, plan);
                false
            }
        };
        if !is_up && !initialized {
            return false;
        }
    }
    true
}

/// Whether the postStart hook, if any, has ended and the startup probe, if any, passed.
pub(crate) fn is_started(facts: Facts<'_>, c: &Container, s: &Seen) -> bool {
    let probed = || facts.memory.health.get(&s.id).and_then(|h| h.started) == Some(true);
    !facts.memory.hooked.contains(&s.id) && (c.startup_probe.is_none() || probed())
}

fn start_mains(facts: Facts<'_>, plan: &mut Plan) {
    let mut left = false;
    for c in &pod::spec(facts.pod).containers {
        let newest = facts.view.newest(&c.name);
        let runs = newest.is_some_and(|s| s.state == State::Running);
        left |= runs;
        if !runs && wants_start(facts, newest) {
            left = true;
            start(facts, Role::Main, c, plan);
        }
    }
    plan.done = !left && !pod::spec(facts.pod).containers.is_empty();
}

/// Plans a start, unless a back-off or a failed try says to wait.
fn start(facts: Facts<'_>, role: Role, c: &Container, plan: &mut Plan) {
    let newest = facts.view.newest(&c.name);
    if let Some(failure) = facts.memory.failures.get(&c.name).filter(|f| f.retry_at > facts.now) {
        let reason = shown(failure.reason, failure.at, facts.now);
        if reason == failure.reason && reason == "ErrImagePull" {
            plan.look(plus(failure.at, SHOW_ERROR));
        }
        plan.look(failure.retry_at);
        plan.waiting.insert(c.name.clone(), Waiting { reason, message: failure.message.clone() });
        return;
    }
    let crashed = newest.filter(|s| s.state == State::Exited && role != Role::Ephemeral);
    if let Some(s) = crashed {
        let entry = facts.memory.crashes.get(&c.name).copied();
        let finished = from_nanos(s.finished_at).unwrap_or(facts.now);
        if let Some(at) = wait_until(entry, finished, facts.now) {
            let delay = entry.map_or(0, |e| e.seconds);
            let of = facts.pod;
            let message = format!(
                "back-off {} restarting failed container={} pod={}_{}({})",
                go_duration(delay),
                c.name,
                pod::name(of),
                pod::namespace(of),
                pod::uid(of)
            );
            plan.look(at);
            plan.waiting.insert(c.name.clone(), Waiting { reason: "CrashLoopBackOff", message });
            return;
        }
    }
    if let Some(s) = newest.filter(|s| s.state == State::Created && !facts.memory.failures.contains_key(&c.name)) {
        plan.actions.push(Action::Resume { name: c.name.clone(), id: s.id.clone() });
        return;
    }
    let before = reported_restarts(facts.pod, &c.name);
    let restarts = newest.map(|s| s.restarts + 1).or(before.map(|n| n + 1)).unwrap_or(0);
    plan.actions.push(Action::Start { name: c.name.clone(), restarts });
}

/// Seconds for which a failed pull is shown as such before it becomes a back-off.
const SHOW_ERROR: i64 = 2;

fn shown(reason: &'static str, at: Timestamp, now: Timestamp) -> &'static str {
    if reason == "ErrImagePull" && plus(at, SHOW_ERROR) <= now { "ImagePullBackOff" } else { reason }
}

/// The restart count the API has of a container that ran, for when the runtime lost it.
fn reported_restarts(of: &Pod, name: &str) -> Option<u32> {
    let status = of.status.as_ref()?;
    let lists = [&status.container_statuses, &status.init_container_statuses];
    let found = lists.into_iter().flatten().flatten().find(|s| s.name == name)?;
    let ran = found.container_id.as_deref().is_some_and(|id| !id.is_empty());
    ran.then(|| u32::try_from(found.restart_count).unwrap_or(0))
}

/// "10s", "2m40s", as Go prints durations.
fn go_duration(seconds: i64) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

/// Everything that runs is stopped, main containers before the sidecars that serve them, then the sandbox.
fn finish(facts: Facts<'_>, plan: &mut Plan) {
    plan.done = true;
    plan.look_at = None;
    plan.actions.clear();
    for s in facts.view.running() {
        plan.actions.push(kill(s, String::new(), None));
    }
    for s in facts.view.sandboxes.iter().filter(|s| s.ready) {
        plan.actions.push(Action::StopSandbox { id: s.id.clone() });
    }
}

#[cfg(test)]
#[path = "actions_tests.rs"]
mod tests;
