//! Making a sandbox and a container: gathers what the pure configs need, then calls the runtime.

use std::path::{Path, PathBuf};

use gantry_cri_api as cri;
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use super::container::{self, Bind, Parts};
use super::env::{self, Inputs};
use super::fields::Addresses;
use super::images::Ready;
use super::security::Rules;
use super::seen::{State, View};
use super::{apply, sandbox};
use crate::error::{Error, Result};
use crate::files;
use crate::pod::{self, Role};
use crate::shared::Shared;
use crate::volumes::{self, Volumes, subpath};

/// Where a pod's containers are made.
#[derive(Debug)]
pub(crate) struct Place {
    pub sandbox: String,
    pub ips: Vec<String>,
    pub volumes: Volumes,
    /// Host file for /etc/hosts.
    pub hosts: Option<String>,
}

/// One container to make.
pub(crate) struct Request<'a> {
    pub role: Role,
    pub container: &'a Container,
    pub restarts: u32,
    pub image: &'a Ready,
    pub place: &'a Place,
    pub view: &'a View,
}

/// The sandbox config of the pod.
///
/// # Errors
/// `Kind::Pod` where the pod's security context cannot be honoured.
pub(crate) async fn sandbox_config(shared: &Shared, of: &Pod, attempt: u32) -> Result<cri::PodSandboxConfig> {
    let path = &shared.config.resolv_conf;
    let resolv_conf = if path.as_os_str().is_empty() {
        String::new()
    } else {
        tokio::fs::read_to_string(path).await.unwrap_or_default()
    };
    let around = sandbox::Surroundings {
        config: &shared.config,
        cgroup: shared.cgroups.pod_path(of),
        resolv_conf: &resolv_conf,
    };
    sandbox::config(of, attempt, &around)
}

/// Makes the pod's cgroup, its log directory and its sandbox; returns the sandbox's id and addresses.
///
/// # Errors
/// The step that failed.
pub(crate) async fn sandbox(shared: &Shared, of: &Pod, config: cri::PodSandboxConfig) -> Result<(String, Vec<String>)> {
    shared.cgroups.make_pod(of, shared.config.pod_pids_limit)?;
    files::make_dir(Path::new(&config.log_directory), 0o755)?;
    files::make_private_dir(&volumes::pod_dir(&shared.config.root_dir, pod::uid(of)))?;
    let handler = pod::spec(of).runtime_class_name.as_deref().unwrap_or_default();
    if !handler.is_empty() {
        return Err(Error::pod(format!("RuntimeClass {handler:?} is not supported by this node")));
    }
    let id = shared.cri.run_sandbox(config, "").await?;
    let status = shared.cri.sandbox_status(&id).await?;
    let network = status.network.unwrap_or_default();
    let first = Some(network.ip).filter(|ip| !ip.is_empty());
    let more = network.additional_ips.into_iter().map(|ip| ip.ip);
    let ips: Vec<String> = first.into_iter().chain(more).collect();
    match pod::is_host_network(of) {
        true => Ok((id, shared.node.ips())),
        false if ips.is_empty() => Err(Error::pod(format!("sandbox {id} has no address"))),
        false => Ok((id, ips)),
    }
}

/// Writes the pod's hosts file, if it has one.
///
/// # Errors
/// `Kind::Io` where it cannot be written.
pub(crate) fn hosts_file(shared: &Shared, of: &Pod, ips: &[String]) -> Result<Option<String>> {
    let Some(text) = apply::hosts_text(of, ips, &shared.config.cluster_domain) else { return Ok(None) };
    let path = volumes::pod_dir(&shared.config.root_dir, pod::uid(of)).join("etc-hosts");
    // Left alone where it is right: running containers have this very file mounted.
    if std::fs::read_to_string(&path).is_ok_and(|have| have == text) {
        return Ok(Some(path.to_string_lossy().into_owned()));
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    files::make_private_dir(parent)?;
    files::replace(&path, text.as_bytes(), 0o644)?;
    Ok(Some(path.to_string_lossy().into_owned()))
}

/// The host file of a container's termination message.
pub(crate) fn termination_log(root: &Path, uid: &str, name: &str, restarts: u32) -> PathBuf {
    volumes::pod_dir(root, uid).join("containers").join(name).join(format!("{restarts}.termination"))
}

/// Makes the container and returns its id.
///
/// # Errors
/// `CreateContainerConfigError` or `CreateContainerError`, and why.
pub(crate) async fn container(
    shared: &Shared,
    of: &Pod,
    request: Request<'_>,
    sandbox: &cri::PodSandboxConfig,
) -> Result<String, (&'static str, Error)> {
    // A container that the runtime lost must not run beside its successor.
    for lost in request.view.named(&request.container.name).filter(|s| s.state == State::Unknown) {
        shared.cri.stop_container(&lost.id, 0).await.map_err(|e| ("CreateContainerError", e))?;
    }
    let config = prepare(shared, of, &request).await.map_err(|e| ("CreateContainerConfigError", e))?;
    shared
        .cri
        .create_container(&request.place.sandbox, config, sandbox.clone())
        .await
        .map_err(|e| ("CreateContainerError", e))
}

async fn prepare(shared: &Shared, of: &Pod, request: &Request<'_>) -> Result<cri::ContainerConfig> {
    let c = request.container;
    let sources = volumes::sources(shared, pod::namespace(of), env::references(c)).await?;
    let services = shared.services.borrow().clone().unwrap_or_default();
    let addresses = Addresses { pod: request.place.ips.clone(), host: shared.node.ips() };
    let allocatable = &shared.node.allocatable;
    let inputs = Inputs { pod: of, sources: &sources, services: &services, addresses: &addresses, allocatable };
    let env = env::build(&inputs, c)?;
    let binds = binds(shared, of, request, &env)?;
    let log = termination_log(&shared.config.root_dir, pod::uid(of), &c.name, request.restarts);
    let log = files::make_private_dir(log.parent().unwrap_or(Path::new("/")))
        .and_then(|()| files::replace(&log, b"", 0o666))
        .map(|()| log.to_string_lossy().into_owned())?;
    let dir = shared.config.pod_logs_dir.join(super::labels::log_dir(pod::namespace(of), pod::name(of), pod::uid(of)));
    files::make_dir(&dir.join(&c.name), 0o755)?;
    let root = shared.config.root_dir.to_string_lossy();
    container::config(&Parts {
        pod: of,
        role: request.role,
        container: c,
        restarts: request.restarts,
        env,
        binds,
        termination_log: Some(log),
        etc_hosts: request.place.hosts.clone(),
        image_id: request.image.id.clone(),
        image_user: request.image.user.clone(),
        rules: Rules { root: &root, seccomp_default: shared.config.seccomp_default },
        node_memory: shared.node.memory,
        target: target(of, c, request.view),
    })
}

/// The container whose process namespace an ephemeral container joins.
fn target(of: &Pod, c: &Container, view: &View) -> Option<String> {
    let all = pod::spec(of).ephemeral_containers.as_deref().unwrap_or_default();
    let name = all.iter().find(|e| e.name == c.name)?.target_container_name.as_deref().filter(|n| !n.is_empty())?;
    view.newest(name).filter(|s| s.state == State::Running).map(|s| s.id.clone())
}

/// A host path for each volumeMount; sub-paths are bound first.
fn binds(shared: &Shared, of: &Pod, request: &Request<'_>, env: &[(String, String)]) -> Result<Vec<Bind>> {
    let volumes = &request.place.volumes;
    let mut out = Vec::new();
    for (at, mount) in request.container.volume_mounts.iter().flatten().enumerate() {
        let path = volumes
            .paths
            .get(&mount.name)
            .ok_or_else(|| Error::pod(format!("volumeMount {:?} names no volume of the pod", mount.name)))?;
        let host = match sub_path(mount, env)? {
            None => path.clone(),
            Some(sub) => {
                let target = volumes::pod_dir(&shared.config.root_dir, pod::uid(of))
                    .join("volume-subpaths")
                    .join(&mount.name)
                    .join(&request.container.name)
                    .join(at.to_string());
                subpath::bind(path, &sub, &target)?
            }
        };
        let read_only = volumes.read_only.contains(&mount.name);
        out.push(Bind { host: host.to_string_lossy().into_owned(), read_only });
    }
    Ok(out)
}

fn sub_path(mount: &VolumeMount, env: &[(String, String)]) -> Result<Option<String>> {
    if let Some(expression) = mount.sub_path_expr.as_ref().filter(|e| !e.is_empty()) {
        let words = env::expand_all(Some(&vec![expression.clone()]), env);
        let path = words.into_iter().next().unwrap_or_default();
        if path.is_empty() || path.contains("$(") {
            return Err(Error::pod(format!("subPathExpr {expression:?} does not expand")));
        }
        return Ok(Some(path));
    }
    Ok(mount.sub_path.clone().filter(|s| !s.is_empty()))
}
