//! Probes of running containers: one task a probe, which counts to its thresholds and tells the pod's
//! worker when the verdict changes. The first readiness probe runs right after start (initialDelaySeconds
//! permitting); liveness and readiness begin when the startup probe has passed.

pub(crate) mod check;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::api::events::Severity;
use crate::clock::{self, plus};
use crate::pod;
use crate::pods::memory::{Health, Memory};
use crate::pods::seen::{State, View};
use crate::shared::Shared;
use check::Spot;

/// What is probed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum What {
    Startup,
    Liveness,
    Readiness,
}

impl What {
    fn of(self, c: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => c.startup_probe.as_ref(),
            Self::Liveness => c.liveness_probe.as_ref(),
            Self::Readiness => c.readiness_probe.as_ref(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// A verdict that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub id: String,
    pub what: What,
    pub good: bool,
    /// For a container that must be killed: its probe's own grace period.
    pub grace: Option<i64>,
}

impl Verdict {
    /// Notes the verdict in what the worker knows of the container.
    pub(crate) fn apply(&self, health: &mut Health) {
        match (self.what, self.good) {
            (What::Startup, true) => health.started = Some(true),
            (What::Readiness, good) => health.ready = Some(good),
            (What::Liveness, true) => health.unhealthy = None,
            (What::Startup | What::Liveness, false) => {
                let probe = self.what.name().to_lowercase();
                health.unhealthy = Some(format!("failed {probe} probe, will be restarted"));
                health.grace = self.grace;
            }
        }
    }
}

/// Counts results to the thresholds. Pure.
#[derive(Debug, Clone)]
pub(crate) struct Count {
    success_needed: i32,
    failure_needed: i32,
    run: i32,
    last: Option<bool>,
    verdict: Option<bool>,
}

impl Count {
    fn new(probe: &Probe) -> Self {
        Self {
            success_needed: probe.success_threshold.unwrap_or(1).max(1),
            failure_needed: probe.failure_threshold.unwrap_or(3).max(1),
            run: 0,
            last: None,
            verdict: None,
        }
    }

    /// Takes one result; returns the verdict where it is new.
    pub(crate) fn take(&mut self, good: bool) -> Option<bool> {
        self.run = if self.last == Some(good) { self.run + 1 } else { 1 };
        self.last = Some(good);
        let needed = if good { self.success_needed } else { self.failure_needed };
        if self.run < needed || self.verdict == Some(good) {
            return None;
        }
        self.verdict = Some(good);
        self.verdict
    }
}

/// The probes of one pod. Dropping it ends them all.
pub(crate) struct Probes {
    shared: Arc<Shared>,
    verdicts: mpsc::UnboundedSender<Verdict>,
    running: HashMap<(String, What), JoinHandle<()>>,
}

impl Drop for Probes {
    fn drop(&mut self) {
        for task in self.running.values() {
            task.abort();
        }
    }
}

impl Probes {
    pub(crate) fn new(shared: Arc<Shared>, verdicts: mpsc::UnboundedSender<Verdict>) -> Self {
        Self { shared, verdicts, running: HashMap::new() }
    }

    /// Starts the probes that should run and ends those that should not.
    pub(crate) fn sync(&mut self, of: &Arc<Pod>, view: &View, memory: &Memory, ending: bool) {
        let mut wanted: Vec<((String, What), Container, i64)> = Vec::new();
        for (role, c) in pod::ordered(of) {
            let Some(seen) = view.newest(&c.name).filter(|s| s.state == State::Running) else { continue };
            if role == pod::Role::Init || memory.hooked.contains(&seen.id) {
                continue;
            }
            let started =
                c.startup_probe.is_none() || memory.health.get(&seen.id).and_then(|h| h.started) == Some(true);
            for what in [What::Startup, What::Liveness, What::Readiness] {
                let now = if what == What::Startup { !started } else { started };
                // A pod that ends is still probed for readiness, as upstream does, but not killed for its health.
                if what.of(c).is_some() && now && (!ending || what == What::Readiness) {
                    wanted.push(((seen.id.clone(), what), c.clone(), seen.started_at));
                }
            }
        }
        self.running.retain(|key, task| {
            let keep = wanted.iter().any(|(k, _, _)| k == key);
            if !keep {
                task.abort();
            }
            keep
        });
        let ip = if pod::is_host_network(of) {
            self.shared.node.ip.to_string()
        } else {
            view.sandboxes.first().and_then(|s| s.ips.first()).cloned().unwrap_or_default()
        };
        for (key, container, started_at) in wanted {
            if self.running.contains_key(&key) {
                continue;
            }
            let run = Run {
                shared: self.shared.clone(),
                pod: of.clone(),
                container,
                what: key.1,
                spot: Spot { id: key.0.clone(), ip: ip.clone() },
                started: clock::from_nanos(started_at),
                verdicts: self.verdicts.clone(),
            };
            self.running.insert(key, tokio::spawn(run.go()));
        }
    }
}

/// The first wait after a container was not ready; it doubles up to the period.
const EARLY: Duration = Duration::from_millis(25);

struct Run {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    container: Container,
    what: What,
    spot: Spot,
    started: Option<Timestamp>,
    verdicts: mpsc::UnboundedSender<Verdict>,
}

impl Run {
    async fn go(self) {
        let Some(probe) = self.what.of(&self.container).cloned() else { return };
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default))
        };
        let (period, limit) = (seconds(probe.period_seconds, 10), seconds(probe.timeout_seconds, 1));
        if let (Some(started), Some(delay)) = (self.started, probe.initial_delay_seconds.filter(|d| *d > 0)) {
            let now = clock::wall();
            tokio::time::sleep(clock::until(now, plus(started, i64::from(delay)))).await;
        }
        let mut count = Count::new(&probe);
        let mut early = EARLY;
        loop {
            let result = check::once(&self.shared.cri, &probe, &self.container, &self.spot, limit).await;
            // A container that is not ready yet is asked again soon, so that it becomes ready sooner; the API's
            // documentation of periodSeconds allows for that. These looks count and say nothing.
            if self.what == What::Readiness && count.verdict != Some(true) && result.is_err() && early < period {
                tokio::time::sleep(early).await;
                early *= 2;
                continue;
            }
            if let Err(why) = &result {
                let message = format!("{} probe failed: {why}", self.what.name());
                self.shared.events.pod(&self.pod, Some(&self.container.name), Severity::Warning, "Unhealthy", message);
            }
            if let Some(good) = count.take(result.is_ok()) {
                let grace = probe.termination_grace_period_seconds;
                let verdict = Verdict { id: self.spot.id.clone(), what: self.what, good, grace };
                if self.verdicts.send(verdict).is_err() {
                    return;
                }
            }
            tokio::time::sleep(period).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(probe: serde_json::Value, results: &str) -> String {
        let mut count = Count::new(&serde_json::from_value(probe).expect("a probe"));
        let tell = |c| match count.take(c == '+') {
            None => '.',
            Some(true) => 'Y',
            Some(false) => 'N',
        };
        results.chars().map(tell).collect()
    }

    #[test]
    fn thresholds() {
        assert_eq!(told(json!({}), "+--+---+"), "Y.....NY");
        assert_eq!(told(json!({"successThreshold": 2, "failureThreshold": 1}), "-++-+-++"), "N.YN...Y");
        assert_eq!(told(json!({"failureThreshold": 2}), "--+"), ".NY");
    }

    #[test]
    fn verdicts_change_what_is_known() {
        let mut health = Health::default();
        let verdict = |what, good| Verdict { id: "x".into(), what, good, grace: Some(3) };
        verdict(What::Startup, true).apply(&mut health);
        verdict(What::Readiness, false).apply(&mut health);
        verdict(What::Liveness, false).apply(&mut health);
        assert_eq!((health.started, health.ready, health.grace), (Some(true), Some(false), Some(3)));
        assert_eq!(health.unhealthy.as_deref(), Some("failed liveness probe, will be restarted"));
    }
}
