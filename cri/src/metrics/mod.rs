//! What a monitoring system asks of a node's containers, under cAdvisor's names (KEP-2371): `ListMetricDescriptors` and
//! `ListPodSandboxMetrics`.
//!
//! | file | what it holds |
//! |---|---|
//! | `table` | every metric |
//! | `decide` | readings become metrics (pure) |

mod decide;
mod table;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_cri_api as api;
use gantry_runtime::cgroup::Cgroup;
use nix::sys::statvfs::statvfs;

use crate::error::{Error, Result};
use crate::node::{Container, Node, Pod, blocking, now};
use crate::stats;
use crate::store::{ContainerRecord, PodRecord};
use decide::{Disk, Facts, Sheet};

/// Every metric that [`pod`] may tell.
pub fn descriptors() -> Vec<api::MetricDescriptor> {
    let keys = |kind: &table::Kind| table::BASE.iter().chain(kind.keys).map(|key| (*key).to_owned()).collect();
    let describe = |kind: &table::Kind| api::MetricDescriptor {
        name: kind.name.to_owned(),
        help: kind.help.to_owned(),
        label_keys: keys(kind),
    };
    table::KINDS.iter().map(describe).collect()
}

/// The metrics of one pod and of each container that runs in it.
///
/// # Errors
/// When the pod's network namespace cannot be entered. A container that ends meanwhile is left out.
pub async fn pod(node: &Arc<Node>, pod: &Arc<Pod>) -> Result<api::PodSandboxMetrics> {
    let record = pod.record.get();
    let mut sheet = Sheet::new(labels(&record, None, &pod.id), now());
    if !record.host_network() {
        sheet.network(&stats::interfaces(&pod.netns.join("net")).await?);
    }
    let mut container_metrics = Vec::new();
    for member in node.containers_of(&pod.id) {
        let of = member.record.get();
        if of.made && of.exit.is_none() {
            container_metrics.extend(container(node, &member, &record).await.ok());
        }
    }
    Ok(api::PodSandboxMetrics { pod_sandbox_id: pod.id.clone(), metrics: sheet.list, container_metrics })
}

fn labels(pod: &PodRecord, container: Option<&ContainerRecord>, id: &str) -> [String; 5] {
    let of_pod = pod.config.metadata.clone().unwrap_or_default();
    let name = container.and_then(|c| c.config.metadata.as_ref()).map(|meta| meta.name.clone());
    let image = container.and_then(|c| c.config.image.as_ref()).map(|spec| match spec.user_specified_image.as_str() {
        "" => spec.image.clone(),
        said => said.to_owned(),
    });
    [of_pod.name, of_pod.namespace, name.unwrap_or_default(), id.to_owned(), image.unwrap_or_default()]
}

async fn container(node: &Arc<Node>, container: &Arc<Container>, pod: &PodRecord) -> Result<api::ContainerMetrics> {
    let record = container.record.get();
    let used = stats::space(node, &container.id).await.map_or(0, |space| space.bytes);
    let (layout, path) = (node.cgroups.clone(), PathBuf::from(&record.cgroup));
    let (root, of) = (node.config.images_root.clone(), Arc::clone(&record));
    let facts = blocking(move || read(&Cgroup::at(&layout, &path)?, &root, used, &of)).await?;
    let mut sheet = Sheet::new(labels(pod, Some(&record), &container.id), now());
    sheet.container(&facts);
    Ok(api::ContainerMetrics { container_id: container.id.clone(), metrics: sheet.list })
}

fn read(cgroup: &Cgroup, root: &Path, used: u64, record: &ContainerRecord) -> Result<Facts> {
    let stats = cgroup.stats();
    let pids = cgroup.pids().map_err(Error::from)?;
    let (mut descriptors, mut sockets) = (0, 0);
    for pid in &pids {
        let (all, of_them) = open_files(*pid);
        descriptors += all;
        sockets += of_them;
    }
    let numbers: HashSet<(u64, u64)> =
        stats.blkio.io_service_bytes_recursive.iter().map(|entry| (entry.major, entry.minor)).collect();
    let first = pids.first().copied().unwrap_or(0);
    Ok(Facts {
        working_set: cgroup.usage()?.memory.map(|memory| memory.working_set),
        oom_kills: cgroup.oom_kills(),
        processes: pids.len() as u64,
        descriptors,
        sockets,
        limits: fs::read_to_string(format!("/proc/{first}/limits")).unwrap_or_default(),
        started_at: record.started_at,
        resources: record.resources.clone().unwrap_or_default(),
        disk: disk(root, used),
        names: numbers.into_iter().map(|(major, minor)| ((major, minor), block_device(major, minor))).collect(),
        stats,
    })
}

/// Open descriptors of a process, and how many of them are sockets. One that has ended has none.
fn open_files(pid: i32) -> (u64, u64) {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.fold((0, 0), |(all, sockets), file| {
        let socket = fs::read_link(file.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
        (all + 1, sockets + u64::from(socket))
    })
}

fn disk(root: &Path, used: u64) -> Option<Disk> {
    use std::os::unix::fs::MetadataExt;
    let (space, number) = (statvfs(root).ok()?, fs::metadata(root).ok()?.dev());
    Some(Disk {
        device: block_device(nix::sys::stat::major(number), nix::sys::stat::minor(number)),
        bytes: space.blocks() * space.fragment_size(),
        inodes: space.files(),
        inodes_free: space.files_free(),
        used,
    })
}

/// `/dev/NAME` of a block device; empty for a file system without one.
fn block_device(major: u64, minor: u64) -> String {
    let link = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok();
    let name = link.as_ref().and_then(|link| link.file_name());
    name.map(|name| format!("/dev/{}", name.to_string_lossy())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_have_everything_that_a_client_needs() {
        let all = descriptors();
        let names: HashSet<&str> = all.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names.len(), all.len(), "a name stands twice");
        for one in &all {
            assert!(one.help.ends_with('.') && one.name.starts_with("container_"), "{one:?}");
            assert_eq!(one.label_keys[..5], table::BASE);
        }
    }

    #[test]
    fn own_descriptors_are_counted() {
        let (server, client) = std::os::unix::net::UnixStream::pair().unwrap();
        let (all, sockets) = open_files(std::process::id() as i32);
        assert!(sockets >= 2 && all > sockets, "{all} {sockets}");
        drop((server, client));
        assert_eq!(open_files(-1), (0, 0));
    }

    #[test]
    fn labels_name_what_the_user_named() {
        let config = api::PodSandboxConfig {
            metadata: Some(api::PodSandboxMetadata { name: "web".into(), namespace: "n".into(), ..Default::default() }),
            ..Default::default()
        };
        let pod = PodRecord::new("p", config, "", 1);
        assert_eq!(labels(&pod, None, "p"), ["web", "n", "", "p", ""]);
        let spec =
            api::ImageSpec { image: "sha256:1".into(), user_specified_image: "nginx".into(), ..Default::default() };
        let config = api::ContainerConfig {
            metadata: Some(api::ContainerMetadata { name: "main".into(), attempt: 0 }),
            image: Some(spec),
            ..Default::default()
        };
        let container = ContainerRecord::new("c", "p", config, 1);
        assert_eq!(labels(&pod, Some(&container), "c"), ["web", "n", "main", "c", "nginx"]);
    }
}
