//! The node's status from what was measured. Pure. A condition's heartbeat moves with every report, its
//! transition time only when its status does.

use gantry_cri_api as cri;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::facts::Disk;
use crate::quantity::Resources;

/// Images listed in the status, the largest first; upstream's nodeStatusMaxImages.
const MOST_IMAGES: usize = 50;

/// What was measured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    /// Why the runtime or its network is not ready; empty: it is.
    pub not_ready: Vec<String>,
    pub memory_available: Option<i64>,
    pub node_disk: Option<Disk>,
    /// (tasks, limit).
    pub tasks: Option<(i64, i64)>,
    pub images: Vec<cri::Image>,
}

/// What stays as it is.
#[derive(Debug, Clone)]
pub(crate) struct Fixed {
    pub name: String,
    pub ip: String,
    pub port: u16,
    pub capacity: Resources,
    pub allocatable: Resources,
    pub info: NodeSystemInfo,
}

/// Why the runtime is not ready, from what CRI Status says.
pub(crate) fn not_ready(status: &cri::StatusResponse) -> Vec<String> {
    let conditions = status.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    let mut why = Vec::new();
    for (kind, words) in
        [("RuntimeReady", "container runtime not ready"), ("NetworkReady", "container runtime network not ready")]
    {
        match conditions.iter().find(|c| c.r#type == kind) {
            Some(c) if c.status => {}
            Some(c) => why.push(format!("{words}: {kind}=false reason:{} message:{}", c.reason, c.message)),
            None => why.push(format!("{words}: {kind} is not reported")),
        }
    }
    why
}

struct Pressure {
    kind: &'static str,
    holds: bool,
    bad: (&'static str, &'static str),
    good: (&'static str, &'static str),
}

/// Upstream's default hard eviction thresholds: memory 100 MiB, disk 10 %, inodes 5 %; processes 5 %.
fn pressures(m: &Measured) -> [Pressure; 3] {
    let memory = m.memory_available.is_some_and(|free| free < 100 << 20);
    let disk =
        m.node_disk.is_some_and(|d| d.available < d.total / 10 || (d.inodes > 0 && d.inodes_free < d.inodes / 20));
    let tasks = m.tasks.is_some_and(|(now, most)| most - now < most / 20);
    [
        Pressure {
            kind: "MemoryPressure",
            holds: memory,
            bad: ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            good: ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        },
        Pressure {
            kind: "DiskPressure",
            holds: disk,
            bad: ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            good: ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        },
        Pressure {
            kind: "PIDPressure",
            holds: tasks,
            bad: ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            good: ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        },
    ]
}

/// The whole status; `old` is what the API has.
pub(crate) fn compute(fixed: &Fixed, measured: &Measured, old: &NodeStatus, now: Timestamp) -> NodeStatus {
    let condition = |kind: &str, holds: bool, reason: &str, message: String| {
        let status = if holds { "True" } else { "False" };
        let same = old.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == status);
        NodeCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: same.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
        }
    };
    let mut conditions: Vec<_> = pressures(measured)
        .into_iter()
        .map(|p| {
            let (reason, message) = if p.holds { p.bad } else { p.good };
            condition(p.kind, p.holds, reason, message.into())
        })
        .collect();
    conditions.push(match measured.not_ready.as_slice() {
        [] => condition("Ready", true, "KubeletReady", "kubelet is posting ready status".into()),
        why => condition("Ready", false, "KubeletNotReady", format!("[{}]", why.join(", "))),
    });
    let address = |kind: &str, value: &str| NodeAddress { type_: kind.into(), address: value.into() };
    NodeStatus {
        addresses: Some(vec![address("InternalIP", &fixed.ip), address("Hostname", &fixed.name)]),
        allocatable: Some(fixed.allocatable.clone()),
        capacity: Some(fixed.capacity.clone()),
        conditions: Some(conditions),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: fixed.port.into() }),
        }),
        images: Some(images(&measured.images)),
        node_info: Some(fixed.info.clone()),
        ..NodeStatus::default()
    }
}

fn images(all: &[cri::Image]) -> Vec<ContainerImage> {
    let mut sorted: Vec<_> = all.iter().collect();
    sorted.sort_by_key(|i| (std::cmp::Reverse(i.size), i.id.clone()));
    let names = |i: &cri::Image| i.repo_digests.iter().chain(&i.repo_tags).cloned().collect::<Vec<_>>();
    sorted
        .into_iter()
        .take(MOST_IMAGES)
        .map(|i| ContainerImage { names: Some(names(i)), size_bytes: i64::try_from(i.size).ok() })
        .collect()
}

/// Whether `new` says anything beyond moved heartbeats.
pub(crate) fn changed(old: &NodeStatus, new: &NodeStatus) -> bool {
    let quiet = |s: &NodeStatus| {
        let mut s = s.clone();
        s.conditions.get_or_insert_default().retain(|c| OWN.contains(&c.type_.as_str()));
        s.conditions.get_or_insert_default().sort_by(|a, b| a.type_.cmp(&b.type_));
        for c in s.conditions.iter_mut().flatten() {
            c.last_heartbeat_time = None;
            c.last_transition_time = None;
        }
        (
            s.addresses,
            s.allocatable,
            s.capacity,
            s.conditions,
            s.daemon_endpoints,
            s.images.filter(|i| !i.is_empty()),
            s.node_info,
        )
    };
    quiet(old) != quiet(new)
}

const OWN: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed() -> Fixed {
        Fixed {
            name: "n1".into(),
            ip: "192.0.2.1".into(),
            port: 10250,
            capacity: Resources::new(),
            allocatable: Resources::new(),
            info: NodeSystemInfo::default(),
        }
    }

    fn text(m: &Measured) -> String {
        let status = compute(&fixed(), m, &NodeStatus::default(), Timestamp::UNIX_EPOCH);
        let list = status.conditions.unwrap_or_default();
        list.iter().map(|c| format!("{}={}", c.type_, c.status)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn conditions_follow_what_is_measured() {
        assert_eq!(text(&Measured::default()), "MemoryPressure=False DiskPressure=False PIDPressure=False Ready=True");
        let bad = Measured {
            not_ready: vec!["no network".into()],
            memory_available: Some(1 << 20),
            node_disk: Some(Disk { total: 100, available: 5, inodes: 0, inodes_free: 0 }),
            tasks: Some((990, 1000)),
            images: Vec::new(),
        };
        assert_eq!(text(&bad), "MemoryPressure=True DiskPressure=True PIDPressure=True Ready=False");
    }

    #[test]
    fn heartbeats_alone_are_no_change() {
        let first = compute(&fixed(), &Measured::default(), &NodeStatus::default(), Timestamp::UNIX_EPOCH);
        let later = compute(&fixed(), &Measured::default(), &first, Timestamp::from_second(60).expect("t"));
        assert!(!changed(&first, &later));
        let ready =
            |s: &NodeStatus| s.conditions.iter().flatten().find(|c| c.type_ == "Ready").cloned().expect("Ready");
        assert_eq!(ready(&first).last_transition_time, ready(&later).last_transition_time);
        assert_ne!(ready(&first).last_heartbeat_time, ready(&later).last_heartbeat_time);
        let worse = Measured { not_ready: vec!["x".into()], ..Measured::default() };
        assert!(changed(&first, &compute(&fixed(), &worse, &first, Timestamp::UNIX_EPOCH)));
    }

    #[test]
    fn the_runtime_s_conditions_are_read() {
        let condition = |kind: &str, status| cri::RuntimeCondition {
            r#type: kind.into(),
            status,
            reason: "r".into(),
            message: "m".into(),
        };
        let status =
            |list| cri::StatusResponse { status: Some(cri::RuntimeStatus { conditions: list }), ..Default::default() };
        assert!(not_ready(&status(vec![condition("RuntimeReady", true), condition("NetworkReady", true)])).is_empty());
        assert_eq!(not_ready(&status(vec![condition("RuntimeReady", false)])).len(), 2);
    }
}
