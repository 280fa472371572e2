//! Quality of service: a pod's class, its cgroup's limits, a container's CRI resources and OOM score.
//! All pure. Formulas: kubernetes/design-proposals resource-qos.md and node-allocatable.md; constants as
//! in upstream's pkg/kubelet/cm and pkg/kubelet/qos.

use gantry_cri_api::LinuxContainerResources;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::pod::{self, Role};
use crate::quantity::{self, Resources};

/// CFS period in microseconds.
pub(crate) const PERIOD: i64 = 100_000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const MIN_QUOTA: i64 = 1000;

/// The three classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Every container has cpu and memory limits, equal to its requests.
    Guaranteed,
    /// Some request or limit.
    Burstable,
    /// None at all.
    BestEffort,
}

impl Class {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

fn requests(c: &Container) -> Option<&Resources> {
    c.resources.as_ref()?.requests.as_ref()
}

fn limits(c: &Container) -> Option<&Resources> {
    c.resources.as_ref()?.limits.as_ref()
}

/// A container's request; a limit without a request counts as one, as the API server's defaults say.
pub(crate) fn request(c: &Container, name: &str) -> Option<i64> {
    quantity::amount(requests(c), name).or_else(|| quantity::amount(limits(c), name))
}

/// A container's limit; 0 is none.
pub(crate) fn limit(c: &Container, name: &str) -> Option<i64> {
    quantity::amount(limits(c), name).filter(|n| *n > 0)
}

/// The class that the API server's status field shows too.
pub(crate) fn class(pod: &Pod) -> Class {
    let mut any = false;
    let mut all_guaranteed = true;
    for (_, c) in pod::ordered(pod) {
        for name in ["cpu", "memory"] {
            let (asked, capped) = (request(c, name).filter(|n| *n > 0), limit(c, name));
            any |= asked.is_some() || capped.is_some();
            all_guaranteed &= capped.is_some() && asked == capped;
        }
    }
    match (any, all_guaranteed) {
        (false, _) => Class::BestEffort,
        (true, true) => Class::Guaranteed,
        (true, false) => Class::Burstable,
    }
}

/// The pod's effective request of `name` (thousandths of cpu, units else): the greater of what all long-lived
/// containers ask together and what any init container asks beside the sidecars before it; plus overhead.
pub(crate) fn pod_request(pod: &Pod, name: &str) -> i64 {
    effective(pod, |c| Some(request(c, name).unwrap_or(0)), name).unwrap_or(0)
}

fn pod_limit(pod: &Pod, name: &str) -> Option<i64> {
    effective(pod, |c| limit(c, name), name)
}

/// `None` as soon as one container has no amount: a pod is limited only where all its containers are.
fn effective(pod: &Pod, of: impl Fn(&Container) -> Option<i64>, name: &str) -> Option<i64> {
    let (mut sidecars, mut peak) = (0i64, 0i64);
    for (role, c) in pod::inits(pod) {
        let amount = of(c)?;
        peak = peak.max(sidecars.saturating_add(amount));
        if role == Role::Sidecar {
            sidecars = sidecars.saturating_add(amount);
        }
    }
    let mut lasting = sidecars;
    for c in &pod::spec(pod).containers {
        lasting = lasting.saturating_add(of(c)?);
    }
    let overhead = quantity::amount(pod::spec(pod).overhead.as_ref(), name).unwrap_or(0);
    Some(lasting.max(peak).saturating_add(overhead))
}

/// cgroup v1 cpu.shares of `milli` thousandths of a CPU.
pub(crate) fn shares(milli: i64) -> i64 {
    (milli.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// CFS quota in microseconds of a limit of `milli` thousandths; 0 is none.
pub(crate) fn quota(milli: i64) -> i64 {
    if milli <= 0 { 0 } else { (milli.saturating_mul(PERIOD) / 1000).max(MIN_QUOTA) }
}

/// What a pod's cgroup is limited to; `None`: not limited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    pub shares: i64,
    pub quota: Option<i64>,
    pub memory: Option<i64>,
    pub pids: Option<i64>,
}

/// The limits of the pod's own cgroup.
pub(crate) fn pod_limits(pod: &Pod, pids: i64) -> Limits {
    let pids = (pids > 0).then_some(pids);
    match class(pod) {
        Class::BestEffort => Limits { shares: MIN_SHARES, quota: None, memory: None, pids },
        Class::Guaranteed | Class::Burstable => Limits {
            shares: shares(pod_request(pod, "cpu")),
            quota: pod_limit(pod, "cpu").map(quota).filter(|q| *q > 0),
            memory: pod_limit(pod, "memory").filter(|m| *m > 0),
            pids,
        },
    }
}

/// OOM score adjustment: -997 Guaranteed (and node-critical), 1000 BestEffort, between by memory request.
pub(crate) fn oom_score(pod: &Pod, role: Role, c: &Container, node_memory: i64) -> i64 {
    if pod::spec(pod).priority_class_name.as_deref() == Some("system-node-critical") {
        return -997;
    }
    match class(pod) {
        Class::Guaranteed => -997,
        Class::BestEffort => 1000,
        Class::Burstable => {
            let own = |c: &Container| 1000 - 1000 * request(c, "memory").unwrap_or(0) / node_memory.max(1);
            let mut score = own(c);
            if role == Role::Sidecar {
                // A sidecar must not die before the containers that it serves.
                score = pod::spec(pod).containers.iter().map(own).fold(score, i64::min);
            }
            if score < 1000 + -997 { 1000 + -997 } else { score.min(999) }
        }
    }
}

/// The CRI resources of one container.
pub(crate) fn container(pod: &Pod, role: Role, c: &Container, node_memory: i64) -> LinuxContainerResources {
    let mut hugepages = Vec::new();
    for (name, quantity) in limits(c).into_iter().flatten() {
        if let Some(page_size) = name.strip_prefix("hugepages-").and_then(cri_page_size) {
            let limit = u64::try_from(quantity::units(quantity)).unwrap_or(0);
            hugepages.push(gantry_cri_api::HugepageLimit { page_size, limit });
        }
    }
    LinuxContainerResources {
        cpu_period: PERIOD,
        cpu_quota: limit(c, "cpu").map_or(0, quota),
        cpu_shares: shares(request(c, "cpu").unwrap_or(0)),
        memory_limit_in_bytes: limit(c, "memory").unwrap_or(0),
        oom_score_adj: oom_score(pod, role, c, node_memory),
        hugepage_limits: hugepages,
        ..Default::default()
    }
}

/// "2Mi" as the kernel's "2MB".
fn cri_page_size(name: &str) -> Option<String> {
    let number = name.trim_end_matches("i").trim_end_matches(['K', 'M', 'G']);
    let unit = name.strip_prefix(number)?.strip_suffix('i')?;
    number.parse::<u32>().ok().map(|n| format!("{n}{unit}B"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(containers: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "p"}, "spec": containers})).expect("a pod")
    }

    fn one(resources: serde_json::Value) -> Pod {
        pod(serde_json::json!({"containers": [{"name": "a", "resources": resources}]}))
    }

    fn line(pod: &Pod) -> String {
        let l = pod_limits(pod, -1);
        let c = container(pod, Role::Main, &pod::spec(pod).containers[0], 1 << 30);
        format!(
            "{} pod shares={} quota={:?} memory={:?} | shares={} quota={} memory={} oom={}",
            class(pod).as_str(),
            l.shares,
            l.quota,
            l.memory,
            c.cpu_shares,
            c.cpu_quota,
            c.memory_limit_in_bytes,
            c.oom_score_adj
        )
    }

    #[test]
    fn classes_and_their_numbers() {
        let table = [
            (
                serde_json::json!({}),
                "BestEffort pod shares=2 quota=None memory=None | shares=2 quota=0 memory=0 oom=1000",
            ),
            (
                serde_json::json!({"limits": {"cpu": "500m", "memory": "64Mi"}}),
                "Guaranteed pod shares=512 quota=Some(50000) memory=Some(67108864) | shares=512 quota=50000 memory=67108864 oom=-997",
            ),
            (
                serde_json::json!({"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1"}}),
                "Burstable pod shares=102 quota=Some(100000) memory=None | shares=102 quota=100000 memory=0 oom=750",
            ),
            (
                serde_json::json!({"limits": {"cpu": "1m"}}),
                "Burstable pod shares=2 quota=Some(1000) memory=None | shares=2 quota=1000 memory=0 oom=999",
            ),
            (
                serde_json::json!({"requests": {"memory": "1Gi"}}),
                "Burstable pod shares=2 quota=None memory=None | shares=2 quota=0 memory=0 oom=3",
            ),
        ];
        for (resources, want) in table {
            assert_eq!(line(&one(resources.clone())), want, "{resources}");
        }
    }

    #[test]
    fn a_pod_asks_for_the_greater_of_init_and_lasting() {
        let cpu = |n: &str| serde_json::json!({"requests": {"cpu": n}});
        let p = pod(serde_json::json!({
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": cpu("100m")},
                {"name": "setup", "resources": cpu("900m")}],
            "containers": [{"name": "a", "resources": cpu("200m")}, {"name": "b", "resources": cpu("300m")}],
            "overhead": {"cpu": "10m"}}));
        assert_eq!(pod_request(&p, "cpu"), 1010);
        assert_eq!(pod_limits(&p, 100).quota, None);
        assert_eq!(pod_limits(&p, 100).pids, Some(100));
    }

    #[test]
    fn huge_pages_are_renamed_for_the_kernel() {
        assert_eq!(cri_page_size("2Mi").as_deref(), Some("2MB"));
        assert_eq!(cri_page_size("1Gi").as_deref(), Some("1GB"));
        assert_eq!(cri_page_size("x"), None);
    }
}
