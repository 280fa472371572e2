//! What is left over: dead containers beyond the newest of each name, sandboxes and directories of pods
//! that are gone, and logs that have grown. What goes is decided purely; nothing is removed before every
//! source has told of its pods.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_cri_api::{Container, ContainerState, PodSandbox, PodSandboxState};
use k8s_openapi::api::core::v1::Pod;

use crate::error::Result;
use crate::image_garbage;
use crate::pod;
use crate::pods::labels;
use crate::pods::pool::{Pods, Source};
use crate::pods::seen::View;
use crate::shared::Shared;
use crate::{server, volumes};

/// The pod's log directory.
pub(crate) fn log_dir(shared: &Shared, of: &Pod) -> PathBuf {
    shared.config.pod_logs_dir.join(labels::log_dir(pod::namespace(of), pod::name(of), pod::uid(of)))
}

/// Stops and removes every sandbox of `view`, with its containers.
///
/// # Errors
/// The first step that failed, after all were tried.
pub(crate) async fn remove_sandboxes(shared: &Shared, view: &View) -> Result<()> {
    let mut outcome = Ok(());
    for container in &view.containers {
        outcome = outcome.and(shared.cri.remove_container(&container.id).await);
    }
    for sandbox in &view.sandboxes {
        outcome = outcome.and(shared.cri.stop_sandbox(&sandbox.id).await);
        outcome = outcome.and(shared.cri.remove_sandbox(&sandbox.id).await);
    }
    outcome
}

/// What a round removes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sweep {
    /// Dead containers of pods that live.
    pub containers: Vec<String>,
    /// Ended sandboxes of pods that live, replaced by newer ones.
    pub sandboxes: Vec<String>,
    /// Running sandboxes and containers of pods that are gone: stopped, then removed. (sandbox, containers with grace)
    pub strangers: Vec<(String, Vec<(String, i64)>)>,
}

/// Dead containers kept of one name: the newest tells lastState, the one before it is `--previous` while
/// the newest runs or waits to be replaced.
const KEPT: usize = 2;

/// Decides a round. `known`: the uids of pods that have a worker.
pub(crate) fn sweep(sandboxes: &[PodSandbox], containers: &[Container], known: &HashSet<String>) -> Sweep {
    let uid = |l: &std::collections::HashMap<String, String>| l.get(labels::POD_UID).cloned().unwrap_or_default();
    let mut out = Sweep::default();
    let mut by_name: BTreeMap<(String, String), Vec<&Container>> = BTreeMap::new();
    for c in containers {
        let name = c.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or_default();
        by_name.entry((uid(&c.labels), name)).or_default().push(c);
    }
    let mut kept_boxes: HashSet<&str> = HashSet::new();
    for ((uid, _), mut list) in by_name {
        if !known.contains(&uid) {
            continue;
        }
        list.sort_by_key(|c| std::cmp::Reverse(c.created_at));
        for (at, c) in list.iter().enumerate() {
            let dead = matches!(c.state(), ContainerState::ContainerExited | ContainerState::ContainerUnknown);
            let superseded = c.state() == ContainerState::ContainerCreated && at > 0;
            if (dead && at >= KEPT) || superseded {
                out.containers.push(c.id.clone());
            } else {
                kept_boxes.insert(&c.pod_sandbox_id);
            }
        }
    }
    let mut newest: BTreeMap<String, i64> = BTreeMap::new();
    for s in sandboxes {
        let latest = newest.entry(uid(&s.labels)).or_default();
        *latest = (*latest).max(s.created_at);
    }
    for s in sandboxes {
        let owner = uid(&s.labels);
        // Not made by a kubelet: somebody works with crictl.
        if owner.is_empty() {
            continue;
        }
        if !known.contains(&owner) {
            let own = containers.iter().filter(|c| c.pod_sandbox_id == s.id);
            let grace = |c: &Container| c.annotations.get(labels::GRACE).and_then(|g| g.parse().ok()).unwrap_or(30);
            out.strangers.push((s.id.clone(), own.map(|c| (c.id.clone(), grace(c))).collect()));
        } else if s.state() == PodSandboxState::SandboxNotready
            && newest.get(&owner).is_some_and(|n| *n > s.created_at)
            && !kept_boxes.contains(s.id.as_str())
        {
            out.sandboxes.push(s.id.clone());
        }
    }
    out
}

/// Collects garbage every interval, the first time as soon as all of `sources` have told of their pods.
pub(crate) async fn run(shared: Arc<Shared>, pods: Pods, sources: Vec<Source>) {
    let interval = Duration::from_secs(shared.config.garbage_interval_seconds.max(1));
    while !pods.are_synced(&sources) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (mut images, mut looked) = (image_garbage::Memory::default(), None::<Instant>);
    loop {
        if let Err(why) = round(&shared, &pods).await {
            tracing::warn!(%why, "garbage collection did not finish");
        }
        if looked.is_none_or(|at| at.elapsed() >= Duration::from_secs(shared.config.image_gc_interval_seconds)) {
            looked = Some(Instant::now());
            if let Err(why) = image_garbage::round(&shared, &pods, &mut images).await {
                tracing::warn!(%why, "garbage collection of images did not finish");
            }
        }
        server::rotate::run(&shared).await;
        tokio::time::sleep(interval).await;
    }
}

async fn round(shared: &Arc<Shared>, pods: &Pods) -> Result<()> {
    let (sandboxes, containers) = tokio::try_join!(shared.cri.sandboxes(&[]), shared.cri.containers(&[]))?;
    // Asked after the lists: a pod that is new in between is known.
    let known: HashSet<String> = pods.all().iter().map(|p| pod::uid(p).to_string()).collect();
    let sweep = sweep(&sandboxes, &containers, &known);
    for id in &sweep.containers {
        shared.cri.remove_container(id).await?;
    }
    for id in &sweep.sandboxes {
        shared.cri.remove_sandbox(id).await?;
    }
    let mut stopping = tokio::task::JoinSet::new();
    for (id, list) in sweep.strangers {
        let shared = shared.clone();
        tracing::info!(sandbox = id, "stopping a pod that is gone");
        stopping.spawn(async move {
            let stops = list.iter().map(|(id, grace)| shared.cri.stop_container(id, *grace));
            let mut outcome = futures_util::future::join_all(stops).await.into_iter().collect::<Result<()>>();
            outcome = outcome.and(shared.cri.stop_sandbox(&id).await);
            for (container, _) in &list {
                outcome = outcome.and(shared.cri.remove_container(container).await);
            }
            outcome.and(shared.cri.remove_sandbox(&id).await)
        });
    }
    while let Some(done) = stopping.join_next().await {
        if let Ok(Err(why)) = done {
            tracing::warn!(%why, "cannot remove a pod that is gone");
        }
    }
    let alive: HashSet<String> =
        shared.cri.sandboxes(&[]).await?.iter().filter_map(|s| s.labels.get(labels::POD_UID).cloned()).collect();
    let (shared, pods) = (shared.clone(), pods.clone());
    let swept = tokio::task::spawn_blocking(move || directories(&shared, &pods, &alive));
    swept.await.map_err(|e| crate::Error::io("sweep directories", e))
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

/// Removes directories, logs and cgroups of pods that nobody knows any more.
fn directories(shared: &Shared, pods: &Pods, alive: &HashSet<String>) {
    let gone = |uid: &str| !pods.knows(uid) && !alive.contains(uid);
    for uid in names(&shared.config.root_dir.join("pods")).iter().filter(|u| gone(u)) {
        match volumes::tear_down(&shared.config.root_dir, uid) {
            Ok(()) => {
                remove_logs(&shared.config.pod_logs_dir, uid);
                tracing::info!(uid, "removed what a pod left");
            }
            Err(why) => tracing::warn!(uid, %why, "cannot remove what a pod left"),
        }
    }
    for uid in shared.cgroups.pods().iter().filter(|u| gone(u)) {
        shared.cgroups.remove_pod(uid);
    }
}

/// Removes the log directory of one pod of ours. Others may share the directory above, so nothing else goes.
fn remove_logs(dir: &Path, uid: &str) {
    for name in names(dir).iter().filter(|n| n.rsplit('_').next() == Some(uid)) {
        if let Err(why) = std::fs::remove_dir_all(dir.join(name)) {
            tracing::warn!(name, %why, "cannot remove old logs");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn sandbox(id: &str, uid: &str, created_at: i64, ready: bool) -> PodSandbox {
        let state = if ready { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready };
        let labels = HashMap::from([(labels::POD_UID.to_string(), uid.to_string())]);
        PodSandbox { id: id.into(), created_at, state: state as i32, labels, ..Default::default() }
    }

    fn container(id: &str, uid: &str, sandbox: &str, created_at: i64, state: ContainerState) -> Container {
        let labels = HashMap::from([
            (labels::POD_UID.to_string(), uid.to_string()),
            (labels::CONTAINER_NAME.to_string(), "c".to_string()),
        ]);
        let annotations = HashMap::from([(labels::GRACE.to_string(), "7".to_string())]);
        let (id, pod_sandbox_id) = (id.into(), sandbox.into());
        Container { id, pod_sandbox_id, created_at, state: state as i32, labels, annotations, ..Default::default() }
    }

    #[test]
    fn the_newest_dead_stay_and_strangers_go() {
        use ContainerState::{ContainerExited as Exited, ContainerRunning as Running};
        let sandboxes = [
            sandbox("s0", "u", 1, false),
            sandbox("s1", "u", 2, true),
            sandbox("x", "gone", 1, true),
            sandbox("mine", "", 1, true),
        ];
        let containers = [
            container("c0", "u", "s0", 1, Exited),
            container("c1", "u", "s1", 2, Exited),
            container("c2", "u", "s1", 3, Running),
            container("g", "gone", "x", 1, Running),
        ];
        let known = HashSet::from(["u".to_string()]);
        assert_eq!(
            sweep(&sandboxes, &containers, &known),
            Sweep {
                containers: vec!["c0".into()],
                sandboxes: vec!["s0".into()],
                strangers: vec![("x".into(), vec![("g".into(), 7)])],
            }
        );
    }
}
