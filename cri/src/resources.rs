//! Limits that change while something is there: the runtime first, which knows what it has set, then the record.

use std::sync::Arc;

use gantry_cri_api::{ContainerState, LinuxContainerResources};
use gantry_runtime::UpdateRequest;
use oci_spec::runtime::LinuxResources;

use crate::convert;
use crate::error::{Context, Error, Kind, Result};
use crate::node::{Node, blocking};
use crate::store::PodRecord;

/// Puts new limits into force. A field that is 0 or empty stays as it was.
///
/// # Errors
/// [`Kind::NotFound`], [`Kind::WrongState`] once it has exited, [`Kind::Invalid`] for limits that contradict each other;
/// what the kernel refuses (a limit below what is in use), and then the old limits are in force.
pub async fn update(node: &Arc<Node>, id: &str, wanted: LinuxContainerResources) -> Result<()> {
    let container = node.container(id)?;
    let record = container.record.get();
    if !matches!(record.state(), ContainerState::ContainerCreated | ContainerState::ContainerRunning) {
        let what = format!("update container {id}: it is in {}", record.state().as_str_name());
        return Err(Error::new(Kind::WrongState, what));
    }
    let limits: LinuxResources =
        serde_json::from_value(convert::update(&wanted)?).context(|| "read the resources as OCI's")?;
    let (root, name) = (container.pod.monitor.runtime_root(), container.id.clone());
    let ignored =
        blocking(move || Ok(gantry_runtime::update(&UpdateRequest { root: &root, id: &name, resources: &limits })?));
    for what in ignored.await.context(|| format!("update container {id}"))? {
        tracing::warn!(container = container.id, what, "a limit was passed over");
    }
    container
        .amend(&node.store, move |record| {
            let old = record.resources.take().unwrap_or_default();
            record.resources = Some(merge(old, wanted));
            true
        })
        .await
        .map(drop)
}

/// Writes down what kubelet has set on the pod's own cgroup, which is kubelet's: nothing else is to be done.
///
/// # Errors
/// [`Kind::NotFound`].
pub async fn update_pod(
    node: &Arc<Node>,
    id: &str,
    overhead: Option<LinuxContainerResources>,
    resources: Option<LinuxContainerResources>,
) -> Result<()> {
    let change = move |record: &mut PodRecord| {
        let linux = record.config.linux.get_or_insert_default();
        // What is not told stays.
        linux.overhead = overhead.or(linux.overhead.take());
        linux.resources = resources.or(linux.resources.take());
        true
    };
    node.pod(id)?.amend(&node.store, change).await.map(drop)
}

/// The limits in force after an update: a field that says nothing leaves the old one.
fn merge(old: LinuxContainerResources, new: LinuxContainerResources) -> LinuxContainerResources {
    let number = |old: i64, new: i64| if new == 0 { old } else { new };
    let text = |old: String, new: String| if new.is_empty() { old } else { new };
    let mut unified = old.unified;
    unified.extend(new.unified);
    LinuxContainerResources {
        cpu_period: number(old.cpu_period, new.cpu_period),
        cpu_quota: number(old.cpu_quota, new.cpu_quota),
        cpu_shares: number(old.cpu_shares, new.cpu_shares),
        memory_limit_in_bytes: number(old.memory_limit_in_bytes, new.memory_limit_in_bytes),
        oom_score_adj: number(old.oom_score_adj, new.oom_score_adj),
        cpuset_cpus: text(old.cpuset_cpus, new.cpuset_cpus),
        cpuset_mems: text(old.cpuset_mems, new.cpuset_mems),
        hugepage_limits: if new.hugepage_limits.is_empty() { old.hugepage_limits } else { new.hugepage_limits },
        unified,
        memory_swap_limit_in_bytes: number(old.memory_swap_limit_in_bytes, new.memory_swap_limit_in_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_nothing_leaves_the_old() {
        let old = LinuxContainerResources {
            cpu_shares: 2,
            memory_limit_in_bytes: 5,
            cpuset_cpus: "0".into(),
            ..Default::default()
        };
        let new = LinuxContainerResources { memory_limit_in_bytes: 9, cpuset_mems: "0".into(), ..Default::default() };
        let merged = merge(old, new);
        assert_eq!((merged.cpu_shares, merged.memory_limit_in_bytes), (2, 9));
        assert_eq!((merged.cpuset_cpus.as_str(), merged.cpuset_mems.as_str()), ("0", "0"));
    }
}
