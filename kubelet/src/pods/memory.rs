//! What a pod's worker remembers between looks, and what the runtime cannot tell: back-off delays, why a
//! start failed, probe results. Lost with the process, as upstream's is; a restarted kubelet starts at the
//! shortest delays.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;

use crate::clock::plus;

/// Seconds of the first delay.
const FIRST: i64 = 10;
/// Seconds of the longest.
const LONGEST: i64 = 300;
/// Seconds after which a container that kept running has its delay forgotten.
const FORGET: i64 = 2 * LONGEST;

/// A delay that doubles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BackOff {
    pub seconds: i64,
    /// When it was last doubled.
    pub updated: Timestamp,
}

/// The next delay after a failure at `now`.
pub(crate) fn next(before: Option<BackOff>, now: Timestamp) -> BackOff {
    let seconds = match before {
        Some(b) if plus(b.updated, FORGET) >= now => (b.seconds * 2).min(LONGEST),
        _ => FIRST,
    };
    BackOff { seconds, updated: now }
}

/// Until when a container that finished at `finished` must wait; `None`: it may start.
pub(crate) fn wait_until(entry: Option<BackOff>, finished: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let entry = entry?;
    if plus(entry.updated, FORGET) < now {
        return None;
    }
    Some(plus(finished, entry.seconds)).filter(|at| *at > now)
}

/// Why a container (or the sandbox) did not come up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// `ErrImagePull`, `CreateContainerConfigError`, …
    pub reason: &'static str,
    pub message: String,
    pub at: Timestamp,
    /// The next try.
    pub retry_at: Timestamp,
    pub delay: BackOff,
}

/// What the probes of one running container found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Health {
    /// The startup probe's verdict; `None` before the first.
    pub started: Option<bool>,
    pub ready: Option<bool>,
    /// Why it must be killed: the liveness or startup probe failed.
    pub unhealthy: Option<String>,
    /// The grace period that the probe asks for.
    pub grace: Option<i64>,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Crash loops, by container name.
    pub crashes: BTreeMap<String, BackOff>,
    /// Failed starts, by container name; "" is the sandbox.
    pub failures: BTreeMap<String, Failure>,
    /// By container id.
    pub health: BTreeMap<String, Health>,
    /// Ids of containers whose postStart hook has not ended: to the API these are still being created.
    pub hooked: BTreeSet<String>,
    /// Why the kubelet ends this pod: reason and message.
    pub ended: Option<(String, String)>,
}

impl Memory {
    /// Notes that `name` failed at `now`, and when to try again.
    pub(crate) fn failed(&mut self, name: &str, reason: &'static str, message: String, now: Timestamp) {
        let delay = match reason {
            // What a user fixes by creating an object is tried again at a steady pace.
            "CreateContainerConfigError" | "InvalidImageName" => BackOff { seconds: FIRST, updated: now },
            _ => next(self.failures.get(name).map(|f| f.delay), now),
        };
        // A sandbox that fails, often for a network that is just coming up, and a volume that cannot be had
        // are tried again sooner.
        let sooner = name.is_empty() || reason == "ContainerCreating";
        let wait = if sooner { (delay.seconds / 10).max(1) } else { delay.seconds };
        let failure = Failure { reason, message, at: now, retry_at: plus(now, wait), delay };
        self.failures.insert(name.to_string(), failure);
    }

    /// Notes that `name` is about to start again after having run.
    pub(crate) fn restarting(&mut self, name: &str, now: Timestamp) {
        let entry = next(self.crashes.get(name).copied(), now);
        self.crashes.insert(name.to_string(), entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    #[test]
    fn delays_double_to_five_minutes_and_are_forgotten_after_ten() {
        let mut entry = None;
        let mut now = 1000;
        let mut delays = Vec::new();
        for _ in 0..7 {
            let b = next(entry, at(now));
            delays.push(b.seconds);
            now += b.seconds;
            entry = Some(b);
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(wait_until(entry, at(now), at(now)), Some(at(now + 300)));
        assert_eq!(next(entry, at(now + 601)).seconds, 10);
        assert_eq!(wait_until(entry, at(now + 400), at(now + 601)), None, "a long run is forgiven");
    }

    #[test]
    fn the_first_crash_restarts_at_once() {
        assert_eq!(wait_until(None, at(5), at(5)), None);
    }
}
