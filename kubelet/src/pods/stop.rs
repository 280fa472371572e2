//! Stopping containers: preStop, then TERM, then KILL, all within the grace period; main containers
//! together, the sidecars that serve them afterwards in reverse order.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;

use super::hooks;
use super::seen::{Seen, State, View};
use crate::api::events::Severity;
use crate::error::Result;
use crate::pod::{self, Role};
use crate::shared::Shared;

/// The least that a container gets after its preStop hook used the grace period up; upstream's.
const LEAST: i64 = 2;

/// One container to stop and why.
#[derive(Debug, Clone)]
pub(crate) struct Victim {
    pub seen: Seen,
    pub why: String,
    pub grace: i64,
}

/// Every container of `view` that may be running.
pub(crate) fn everything(view: &View, grace: i64) -> Vec<Victim> {
    let alive = view.containers.iter().filter(|c| matches!(c.state, State::Running | State::Unknown));
    alive.map(|seen| Victim { seen: seen.clone(), why: String::new(), grace }).collect()
}

/// Stops all of them; the first error after all were tried.
///
/// # Errors
/// The first StopContainer that failed.
pub(crate) async fn containers(shared: &Shared, of: &Pod, view: &View, victims: Vec<Victim>) -> Result<()> {
    let began = Instant::now();
    let ip = view.sandboxes.first().and_then(|s| s.ips.first()).cloned();
    let order: Vec<String> = pod::inits(of).filter(|(r, _)| *r == Role::Sidecar).map(|(_, c)| c.name.clone()).collect();
    let (mut sidecars, rest): (Vec<_>, Vec<_>) = victims.into_iter().partition(|v| order.contains(&v.seen.name));
    let mut outcome = Ok(());
    for result in join_all(rest.iter().map(|v| one(shared, of, ip.as_deref(), v, v.grace))).await {
        outcome = outcome.and(result);
    }
    sidecars.sort_by_key(|v| std::cmp::Reverse(order.iter().position(|n| *n == v.seen.name)));
    for victim in &sidecars {
        let spent = i64::try_from(began.elapsed().as_secs()).unwrap_or(0);
        let left = (victim.grace - spent).max(LEAST.min(victim.grace));
        outcome = outcome.and(one(shared, of, ip.as_deref(), victim, left).await);
    }
    outcome
}

async fn one(shared: &Shared, of: &Pod, ip: Option<&str>, victim: &Victim, grace: i64) -> Result<()> {
    let Victim { seen, why, .. } = victim;
    let message = match why.as_str() {
        "" => format!("Stopping container {}", seen.name),
        why => format!("Container {} {why}", seen.name),
    };
    shared.events.pod(of, Some(&seen.name), Severity::Normal, "Killing", message);
    let began = Instant::now();
    let mut left = grace;
    let container = pod::container(of, &seen.name).map(|(_, c)| c);
    let hook = container.as_ref().and_then(|c| c.lifecycle.as_ref()?.pre_stop.clone());
    if let (Some(c), Some(hook), true) = (&container, hook, grace > 0 && seen.state == State::Running) {
        let limit = Duration::from_secs(u64::try_from(grace).unwrap_or(1));
        let run = hooks::run(shared, c, &seen.id, ip, &hook, limit);
        let done = tokio::time::timeout(limit, run).await;
        if let Ok(Err(why)) = done {
            shared.events.pod(
                of,
                Some(&seen.name),
                Severity::Warning,
                "FailedPreStopHook",
                format!("PreStopHook failed: {why}"),
            );
        }
        left = (grace - i64::try_from(began.elapsed().as_secs()).unwrap_or(grace)).max(LEAST);
    }
    shared.cri.stop_container(&seen.id, left).await
}
