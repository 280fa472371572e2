//! What the runtime has of one pod, in the kubelet's words: its sandboxes and containers, newest first.
//! Looking is two lists and one status call for each container that matters, all at once.

use std::collections::BTreeMap;

use futures_util::future::{join_all, try_join};
use gantry_cri_api::{ContainerState, ContainerStatus, NamespaceMode, PodSandboxState};

use super::labels;
use crate::cri::Cri;
use crate::error::{Kind, Result};

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub created_at: i64,
    /// The pod's addresses, the primary first; empty on the host's network.
    pub ips: Vec<String>,
    pub host_network: bool,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Made, never started.
    Created,
    /// Running.
    Running,
    /// Over.
    Exited,
    /// The runtime lost it.
    Unknown,
}

/// A container, with what its status says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub id: String,
    pub name: String,
    pub sandbox: String,
    pub state: State,
    pub restarts: u32,
    pub created_at: i64,
    pub started_at: i64,
    pub finished_at: i64,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    pub image: String,
    pub image_ref: String,
    pub image_id: String,
    pub hash: String,
    pub log_path: String,
    /// The termination message, once read.
    pub said: String,
    pub user: Option<(i64, i64, Vec<i64>)>,
}

/// Everything of one pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Newest first.
    pub sandboxes: Vec<Sandbox>,
    /// Newest first.
    pub containers: Vec<Seen>,
}

impl View {
    /// The newest sandbox if it is ready.
    pub(crate) fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|s| s.ready)
    }

    /// All containers called `name`, newest first.
    pub(crate) fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Seen> {
        self.containers.iter().filter(move |c| c.name == name)
    }

    pub(crate) fn newest(&self, name: &str) -> Option<&Seen> {
        self.containers.iter().find(|c| c.name == name)
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Seen> {
        self.containers.iter().filter(|c| c.state == State::Running)
    }
}

/// Asks the runtime about the pod. `known` saves asking again about containers that are over.
pub(crate) async fn look(cri: &Cri, uid: &str, known: &View) -> Result<View> {
    let by_uid = [(labels::POD_UID, uid)];
    let (mut sandboxes, mut containers) = try_join(cri.sandboxes(&by_uid), cri.containers(&by_uid)).await?;
    sandboxes.sort_by_key(|s| std::cmp::Reverse((s.created_at, s.metadata.as_ref().map(|m| m.attempt))));
    containers.sort_by_key(|c| std::cmp::Reverse((c.created_at, c.metadata.as_ref().map(|m| m.attempt))));
    let mut wanted: BTreeMap<String, u32> = BTreeMap::new();
    containers.retain(|c| {
        // The newest tells the state, the one before it lastState; what runs is never left out.
        let name = c.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or_default();
        let count = wanted.entry(name).or_default();
        *count += 1;
        *count <= 2 || c.state() == ContainerState::ContainerRunning
    });
    let statuses = join_all(containers.iter().map(|c| async {
        let old = known.containers.iter().find(|k| k.id == c.id && k.state == State::Exited);
        match old {
            Some(old) => Ok(Some(old.clone())),
            None => match cri.container_status(&c.id).await {
                Ok(status) => Ok(Some(container(&c.pod_sandbox_id, status))),
                Err(e) if e.kind() == Kind::NotFound => Ok(None),
                Err(e) => Err(e),
            },
        }
    }));
    let boxes = join_all(sandboxes.iter().enumerate().map(|(at, s)| {
        let old = known.sandboxes.iter().find(|k| k.id == s.id && k.ready == is_ready(s.state()));
        async move {
            match old {
                Some(old) => Ok(Some(old.clone())),
                // Only the newest one's addresses count.
                None if at == 0 => sandbox_status(cri, &s.id).await,
                None => Ok(Some(bare(s))),
            }
        }
    }));
    let (statuses, boxes) = futures_util::join!(statuses, boxes);
    let sandboxes = boxes.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    let containers = statuses.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    Ok(View { sandboxes, containers })
}

fn is_ready(state: PodSandboxState) -> bool {
    state == PodSandboxState::SandboxReady
}

fn bare(s: &gantry_cri_api::PodSandbox) -> Sandbox {
    Sandbox {
        id: s.id.clone(),
        attempt: s.metadata.as_ref().map_or(0, |m| m.attempt),
        ready: is_ready(s.state()),
        created_at: s.created_at,
        ips: Vec::new(),
        host_network: false,
    }
}

async fn sandbox_status(cri: &Cri, id: &str) -> Result<Option<Sandbox>> {
    let status = match cri.sandbox_status(id).await {
        Ok(status) => status,
        Err(e) if e.kind() == Kind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let ready = is_ready(status.state());
    let options = status.linux.and_then(|l| l.namespaces).and_then(|n| n.options);
    let network = status.network.unwrap_or_default();
    let mut ips: Vec<String> = Vec::new();
    if !network.ip.is_empty() {
        ips.push(network.ip);
        ips.extend(network.additional_ips.into_iter().map(|ip| ip.ip));
    }
    Ok(Some(Sandbox {
        id: status.id,
        attempt: status.metadata.map_or(0, |m| m.attempt),
        ready,
        created_at: status.created_at,
        ips,
        host_network: options.is_some_and(|o| o.network() == NamespaceMode::Node),
    }))
}

fn container(sandbox: &str, s: ContainerStatus) -> Seen {
    let state = match s.state() {
        ContainerState::ContainerCreated => State::Created,
        ContainerState::ContainerRunning => State::Running,
        ContainerState::ContainerExited => State::Exited,
        ContainerState::ContainerUnknown => State::Unknown,
    };
    let attempt = s.metadata.as_ref().map_or(0, |m| m.attempt);
    let name = s.labels.get(labels::CONTAINER_NAME).cloned();
    Seen {
        name: name.or_else(|| s.metadata.as_ref().map(|m| m.name.clone())).unwrap_or_default(),
        sandbox: sandbox.to_string(),
        state,
        restarts: s.annotations.get(labels::RESTART_COUNT).and_then(|n| n.parse().ok()).unwrap_or(attempt),
        created_at: s.created_at,
        started_at: s.started_at,
        finished_at: s.finished_at,
        exit_code: s.exit_code,
        // Containers are made by image id; the name is what the user gave.
        image: s.image.map(|i| i.user_specified_image).unwrap_or_default(),
        image_ref: s.image_ref,
        image_id: s.image_id,
        hash: s.annotations.get(labels::HASH).cloned().unwrap_or_default(),
        log_path: s.log_path,
        reason: s.reason,
        message: s.message,
        said: String::new(),
        user: s.user.and_then(|u| u.linux).map(|u| (u.uid, u.gid, u.supplemental_groups)),
        id: s.id,
    }
}
