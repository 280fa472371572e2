//! The mounts of a container: the kernel's filesystems, the pod's files, then what was asked for, outer paths first.

use std::path::Path;

use gantry_cri_api::{LinuxContainerSecurityContext, Mount, MountPropagation};
use serde_json::{Value, json};

use super::Input;
use crate::error::{Error, Kind, Result};

/// What is mounted, and how mounts of the host may travel in.
pub(super) struct Mounts {
    pub list: Vec<Value>,
    pub rootfs_propagation: Option<Propagation>,
}

/// How mounts travel between host and container (mount_namespaces(7)); ordered, the widest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Propagation {
    /// Host to container.
    Slave,
    /// Both ways; only for privileged containers.
    Shared,
}

impl Propagation {
    /// The word of `linux.rootfsPropagation`.
    pub fn rootfs(self) -> &'static str {
        match self {
            Self::Slave => "rslave",
            Self::Shared => "rshared",
        }
    }
}

/// Options that `mount_options` of CRI may name; the rest have fields of their own or are dangerous.
const FREE_OPTIONS: &[&str] =
    &["noexec", "exec", "nosuid", "nodev", "noatime", "nodiratime", "relatime", "strictatime"];

pub(super) fn decide(input: &Input<'_>, security: &LinuxContainerSecurityContext) -> Result<Mounts> {
    let wanted = &input.config.mounts;
    for mount in wanted {
        check(mount, security)?;
    }
    let mut list: Vec<Value> = kernel(input, security.privileged);
    list.extend(files(input, security.readonly_rootfs));
    list.retain(|mount| !mount["destination"].as_str().is_some_and(|path| overridden(wanted, path)));
    let mut ordered: Vec<&Mount> = wanted.iter().collect();
    ordered.sort_by_key(|mount| Path::new(&mount.container_path).components().count());
    list.extend(ordered.into_iter().map(bind));
    let rootfs_propagation = wanted
        .iter()
        .filter_map(|mount| match mount.propagation() {
            MountPropagation::PropagationPrivate => None,
            MountPropagation::PropagationHostToContainer => Some(Propagation::Slave),
            MountPropagation::PropagationBidirectional => Some(Propagation::Shared),
        })
        .max();
    Ok(Mounts { list, rootfs_propagation })
}

/// A mount that was asked for takes the place of ours; one of `/dev` takes that of everything below `/dev`.
fn overridden(wanted: &[Mount], path: &str) -> bool {
    wanted.iter().any(|mount| {
        let asked = clean(&mount.container_path);
        asked == path || (asked == "/dev" && path.starts_with("/dev/"))
    })
}

fn clean(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => "/",
        path => path,
    }
}

fn check(mount: &Mount, security: &LinuxContainerSecurityContext) -> Result<()> {
    let path = &mount.container_path;
    let refuse = |kind, why: &str| Err(Error::new(kind, format!("mount {path:?}: {why}")));
    if !path.starts_with('/') || Path::new(path).components().any(|part| part == std::path::Component::ParentDir) {
        return refuse(Kind::Invalid, "container_path must be absolute, without ..");
    }
    if clean(path) == "/" {
        return refuse(Kind::Invalid, "nothing can be mounted over the root");
    }
    if !mount.host_path.starts_with('/') {
        return refuse(Kind::Invalid, "host_path must be absolute");
    }
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return refuse(Kind::Unsupported, "idmapped mounts are not offered by this version");
    }
    if mount.propagation() == MountPropagation::PropagationBidirectional && !security.privileged {
        return refuse(Kind::Invalid, "bidirectional propagation needs a privileged container");
    }
    if mount.recursive_read_only && !mount.readonly {
        return refuse(Kind::Invalid, "recursive_read_only needs readonly");
    }
    if mount.recursive_read_only && mount.propagation() != MountPropagation::PropagationPrivate {
        return refuse(Kind::Invalid, "recursive_read_only needs private propagation");
    }
    if let Some(option) = mount.mount_options.iter().find(|option| !FREE_OPTIONS.contains(&option.as_str())) {
        return refuse(Kind::Invalid, &format!("mount option {option:?} is not allowed"));
    }
    Ok(())
}

fn bind(mount: &Mount) -> Value {
    let propagation = match mount.propagation() {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => "rslave",
        MountPropagation::PropagationBidirectional => "rshared",
    };
    let access = match (mount.readonly, mount.recursive_read_only) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    let mut options = vec!["rbind", propagation, access];
    options.extend(mount.mount_options.iter().map(String::as_str));
    json!({"destination": clean(&mount.container_path), "type": "bind", "source": mount.host_path, "options": options})
}

fn kernel(input: &Input<'_>, privileged: bool) -> Vec<Value> {
    let write = if privileged { "rw" } else { "ro" };
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    let mut list = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &pts),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", write]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", write]),
    ];
    // A mount of it shows the queues of the mounter's IPC namespace, the pod's or the host's: a bind of the host's own
    // mount would need the host to have one.
    list.push(mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]));
    let shm = input.places.shm.to_string_lossy();
    list.push(mount("/dev/shm", "bind", &shm, &["rbind", "rprivate", "rw", "nosuid", "noexec", "nodev"]));
    list
}

/// What the pod says about names, as files of its own; kubelet mounts its own `/etc/hosts` over ours.
fn files(input: &Input<'_>, readonly: bool) -> impl Iterator<Item = Value> {
    let access = if readonly { "ro" } else { "rw" };
    [
        ("/etc/hostname", &input.places.hostname),
        ("/etc/hosts", &input.places.hosts),
        ("/etc/resolv.conf", &input.places.resolv_conf),
    ]
    .map(|(destination, source)| {
        json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate", access]})
    })
    .into_iter()
}
