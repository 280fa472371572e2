//! DECIDE: CRI's pod and container configuration, with the image's, becomes an OCI runtime specification.
//!
//! Pure: whatever has to be looked up (the user in the image's `/etc/passwd`, devices of the host, a seccomp profile
//! on disk) arrives in [`Input`], so that the whole is tested as text. The result is `config.json` itself, a JSON
//! value: it may hold fields that are newer than any Rust type of the specification.
//!
//! Specification: OCI runtime-spec 1.2, `config.md`, `config-linux.md`; behaviour in doubt: as containerd does it.

#[cfg(test)]
mod confined;
#[cfg(test)]
mod golden;
mod mounts;
mod process;
mod resources;
mod security;
mod user;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gantry_cri_api::{ContainerConfig, LinuxContainerSecurityContext, NamespaceMode, PodSandboxConfig};
use gantry_images::ImageConfiguration;
use serde_json::{Value, json};

use crate::config::DefaultSeccomp;
use crate::error::{Error, Kind, Result};

pub use mounts::Propagation;
pub use process::{exec_process, stop_signal};
pub use resources::update;
pub(crate) use security::ALL_CAPABILITIES;
pub use user::{User, Wanted, resolve, wanted};

/// Everything that the specification of one container is made of.
#[derive(Debug)]
pub struct Input<'a> {
    /// The container's id.
    pub id: &'a str,
    /// Its pod's id.
    pub pod_id: &'a str,
    /// What the pod was asked to be.
    pub pod: &'a PodSandboxConfig,
    /// What the container is asked to be.
    pub config: &'a ContainerConfig,
    /// The image's own wishes.
    pub image: &'a ImageConfiguration,
    /// Who runs the process, already resolved.
    pub user: &'a User,
    /// The mounted root filesystem.
    pub rootfs: &'a Path,
    /// Files and namespaces of the pod.
    pub places: &'a Places,
    /// Where the container's cgroup is, from the root of each hierarchy.
    pub cgroup: &'a str,
    /// The seccomp profiles that may be needed.
    pub seccomp: &'a Seccomp,
    /// Devices that `devices` of the configuration leads to, in its order: host path resolved, directories expanded.
    pub devices: &'a [HostDevice],
    /// What the host has.
    pub host: &'a Host,
}

/// Files and namespaces of a pod that its containers share; `None` is the host's.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Network namespace.
    pub net: Option<PathBuf>,
    /// IPC namespace.
    pub ipc: Option<PathBuf>,
    /// UTS namespace.
    pub uts: Option<PathBuf>,
    /// The PID namespace to join: the pod's, or that of the target container.
    pub pid: Option<PathBuf>,
    /// The pod's `/etc/hostname`.
    pub hostname: PathBuf,
    /// The pod's `/etc/hosts`.
    pub hosts: PathBuf,
    /// The pod's `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// The pod's `/dev/shm`.
    pub shm: PathBuf,
}

/// What is needed to choose a seccomp profile: JSON of the OCI specification's `linux.seccomp`.
#[derive(Clone, Debug, Default)]
pub struct Seccomp {
    /// What `localhost_ref` names, read by the caller; needed only where it is asked for.
    pub localhost: Option<Value>,
    /// What no profile at all means.
    pub unset: DefaultSeccomp,
}

/// A device node of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice {
    /// Where it shall be in the container.
    pub path: PathBuf,
    /// `c` or `b`.
    pub kind: char,
    /// Device number.
    pub major: u64,
    /// Device number.
    pub minor: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// A subset of `rwm`.
    pub access: String,
}

/// What the host offers, read once at start.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Capabilities that this daemon can give away, as `CAP_…`; ALL means these.
    pub capabilities: BTreeSet<String>,
    /// The lowest `oom_score_adj` that this daemon may set; `None` where it may set any (CAP_SYS_RESOURCE).
    pub oom_score_floor: Option<i64>,
    /// The AppArmor module is there.
    pub apparmor: bool,
    /// The SELinux module is there.
    pub selinux: bool,
    /// Devices of the host, which a privileged container gets.
    pub devices: Vec<HostDevice>,
}

/// The OCI specification of one container.
///
/// # Errors
/// [`Kind::Invalid`] for a configuration that makes no sense, [`Kind::Unsupported`] for one that this host or this
/// version cannot honour. Nothing is silently left out that would make the container less isolated.
pub fn container(input: &Input<'_>) -> Result<Value> {
    let security = security_context(input.config);
    let privileged = security.privileged;
    check_privileged(input, privileged)?;
    let mounts = mounts::decide(input, &security)?;
    let mut linux = json!({
        "cgroupsPath": input.cgroup,
        "namespaces": namespaces(input, &security)?,
        "resources": resources::decide(input)?,
        "devices": resources::devices(input),
        "maskedPaths": security::masked(&security),
        "readonlyPaths": security::readonly(&security),
    });
    if let Some(profile) = security::seccomp(&security, input.seccomp, input.host)? {
        linux["seccomp"] = profile;
    }
    if let Some(propagation) = mounts.rootfs_propagation {
        linux["rootfsPropagation"] = json!(propagation.rootfs());
    }
    if let Some(label) = security::selinux(&security, input.host)? {
        linux["mountLabel"] = json!(label.mount);
    }
    Ok(json!({
        "ociVersion": "1.2.0",
        "process": process::decide(input, &security)?,
        "root": { "path": input.rootfs, "readonly": security.readonly_rootfs },
        "mounts": mounts.list,
        "linux": linux,
        "annotations": annotations(input),
    }))
}

/// The security context, or the one that says nothing.
pub fn security_context(config: &ContainerConfig) -> LinuxContainerSecurityContext {
    config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default()
}

/// Whether the pod's sandbox may hold privileged containers.
fn check_privileged(input: &Input<'_>, privileged: bool) -> Result<()> {
    let pod = input.pod.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    if privileged && !pod.is_some_and(|pod| pod.privileged) {
        return Err(Error::new(Kind::Invalid, "a privileged container needs a pod that is privileged"));
    }
    Ok(())
}

fn namespaces(input: &Input<'_>, security: &LinuxContainerSecurityContext) -> Result<Value> {
    let options = security.namespace_options.clone().unwrap_or_default();
    if options.userns_options.as_ref().is_some_and(|user| user.mode() != NamespaceMode::Node) {
        return Err(Error::new(Kind::Unsupported, "user namespaces of pods are not offered by this version"));
    }
    let mut list = vec![json!({"type": "mount"})];
    match (options.pid(), &input.places.pid) {
        (NamespaceMode::Node, _) => {}
        (NamespaceMode::Container, _) => list.push(json!({"type": "pid"})),
        (NamespaceMode::Pod | NamespaceMode::Target, Some(path)) => list.push(json!({"type": "pid", "path": path})),
        (NamespaceMode::Pod, None) => return Err(Error::internal("the pod has no PID namespace to share")),
        (NamespaceMode::Target, None) => {
            return Err(Error::new(Kind::Invalid, "the target container of the PID namespace does not run"));
        }
    }
    let shared = [("network", &input.places.net), ("ipc", &input.places.ipc), ("uts", &input.places.uts)];
    for (kind, path) in shared {
        list.extend(path.as_ref().map(|path| json!({"type": kind, "path": path})));
    }
    if !security.privileged {
        list.push(json!({"type": "cgroup"}));
    }
    Ok(Value::Array(list))
}

/// Ours alone: annotations of users never reach the runtime, which would act on some of them (CVE-2023-6476).
fn annotations(input: &Input<'_>) -> Value {
    let pod = input.pod.metadata.clone().unwrap_or_default();
    let container = input.config.metadata.clone().unwrap_or_default();
    json!({
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": container.name,
        "io.kubernetes.cri.sandbox-id": input.pod_id,
        "io.kubernetes.cri.sandbox-name": pod.name,
        "io.kubernetes.cri.sandbox-namespace": pod.namespace,
        "io.kubernetes.cri.sandbox-uid": pod.uid,
    })
}
