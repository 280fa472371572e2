//! One container, in CRI's words: command, environment, mounts, resources, security. Pure: paths of
//! volumes and the image's user come in.

use gantry_cri_api as cri;
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use super::security::{self, ImageUser, Rules};
use super::{env, labels};
use crate::error::{Error, Result};
use crate::pod::Role;
use crate::qos;

/// A host path to mount for one of the container's volumeMounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bind {
    pub host: String,
    pub read_only: bool,
}

/// What a container config is made from.
pub(crate) struct Parts<'a> {
    pub pod: &'a Pod,
    pub role: Role,
    pub container: &'a Container,
    pub restarts: u32,
    pub env: Vec<(String, String)>,
    /// One for each volumeMount, in its order.
    pub binds: Vec<Bind>,
    /// Host file mounted at terminationMessagePath.
    pub termination_log: Option<String>,
    /// Host file mounted at /etc/hosts.
    pub etc_hosts: Option<String>,
    pub image_id: String,
    pub image_user: ImageUser,
    pub rules: Rules<'a>,
    pub node_memory: i64,
    /// For ephemeral containers with a target.
    pub target: Option<String>,
}

/// The log file of a container's run, relative to the pod's log directory.
pub(crate) fn log_path(name: &str, restarts: u32) -> String {
    format!("{name}/{restarts}.log")
}

/// See the module.
///
/// # Errors
/// `Kind::Pod`: CreateContainerConfigError.
pub(crate) fn config(parts: &Parts<'_>) -> Result<cri::ContainerConfig> {
    let c = parts.container;
    let mounts = c.volume_mounts.as_deref().unwrap_or_default();
    let mut all = Vec::with_capacity(mounts.len() + 2);
    for (mount, bind) in mounts.iter().zip(&parts.binds) {
        all.push(volume(mount, bind, parts)?);
    }
    let taken = |path: &str| mounts.iter().any(|m| m.mount_path.trim_end_matches('/') == path);
    let plain = |container_path: &str, host: &String| cri::Mount {
        container_path: container_path.into(),
        host_path: host.clone(),
        ..Default::default()
    };
    all.extend(parts.etc_hosts.iter().filter(|_| !taken("/etc/hosts")).map(|host| plain("/etc/hosts", host)));
    let at = c.termination_message_path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/dev/termination-log");
    all.extend(parts.termination_log.iter().map(|host| plain(at, host)));
    let mut image = crate::cri::image_spec(&parts.image_id);
    image.user_specified_image = c.image.clone().unwrap_or_default();
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: c.name.clone(), attempt: parts.restarts }),
        image: Some(image),
        command: env::expand_all(c.command.as_ref(), &parts.env),
        args: env::expand_all(c.args.as_ref(), &parts.env),
        working_dir: c.working_dir.clone().unwrap_or_default(),
        envs: parts.env.iter().map(|(k, v)| cri::KeyValue { key: k.clone(), value: v.clone().into() }).collect(),
        mounts: all,
        labels: labels::container_labels(parts.pod, c),
        annotations: labels::container_annotations(parts.pod, c, parts.restarts),
        log_path: log_path(&c.name, parts.restarts),
        stdin: c.stdin == Some(true),
        stdin_once: c.stdin_once == Some(true),
        tty: c.tty == Some(true),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(qos::container(parts.pod, parts.role, c, parts.node_memory)),
            security_context: Some(security::container(
                parts.pod,
                parts.role,
                c,
                &parts.image_user,
                parts.rules,
                parts.target.clone(),
            )?),
        }),
        stop_signal: stop_signal(c)? as i32,
        ..Default::default()
    })
}

fn volume(mount: &VolumeMount, bind: &Bind, parts: &Parts<'_>) -> Result<cri::Mount> {
    use cri::MountPropagation as Propagation;
    let privileged = crate::pod::security(parts.container).privileged == Some(true);
    let propagation = match mount.mount_propagation.as_deref() {
        None | Some("" | "None") => Propagation::PropagationPrivate,
        Some("HostToContainer") => Propagation::PropagationHostToContainer,
        Some("Bidirectional") if privileged => Propagation::PropagationBidirectional,
        Some("Bidirectional") => return Err(Error::pod("Bidirectional propagation needs a privileged container")),
        Some(other) => return Err(Error::pod(format!("unknown mountPropagation {other:?}"))),
    };
    let read_only = mount.read_only == Some(true) || bind.read_only;
    let recursive = match mount.recursive_read_only.as_deref() {
        None | Some("" | "Disabled") => false,
        Some("IfPossible" | "Enabled") if read_only => true,
        Some(other) => return Err(Error::pod(format!("recursiveReadOnly {other:?} needs a read-only mount"))),
    };
    let path = &mount.mount_path;
    Ok(cri::Mount {
        container_path: if path.starts_with('/') { path.clone() } else { format!("/{path}") },
        host_path: bind.host.clone(),
        readonly: read_only,
        propagation: propagation as i32,
        recursive_read_only: recursive,
        ..Default::default()
    })
}

fn stop_signal(c: &Container) -> Result<cri::Signal> {
    let Some(name) = c.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref()).filter(|n| !n.is_empty()) else {
        return Ok(cri::Signal::RuntimeDefault);
    };
    let known = name.replace("MIN+", "MINPLUS").replace("MAX-", "MAXMINUS");
    cri::Signal::from_str_name(&format!("SIGNAL_{known}"))
        .ok_or_else(|| Error::pod(format!("unknown stopSignal {name:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn made(container: serde_json::Value) -> Result<cri::ContainerConfig> {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [container]}}))
                .expect("pod");
        let c = &crate::pod::spec(&pod).containers[0];
        let binds = c
            .volume_mounts
            .iter()
            .flatten()
            .map(|m| Bind { host: format!("/vol/{}", m.name), read_only: m.name == "ro" })
            .collect();
        config(&Parts {
            pod: &pod,
            role: Role::Main,
            container: c,
            restarts: 3,
            env: vec![("A".into(), "1".into())],
            binds,
            termination_log: Some("/pods/u/term".into()),
            etc_hosts: Some("/pods/u/etc-hosts".into()),
            image_id: "sha256:1".into(),
            image_user: ImageUser::default(),
            rules: Rules { root: "/r", seccomp_default: false },
            node_memory: 1 << 30,
            target: None,
        })
    }

    #[test]
    fn a_container_in_full() {
        let c = made(json!({"name": "c", "image": "i", "command": ["sh", "-c", "echo $(A) $(B)"], "args": ["$$(A)"],
            "volumeMounts": [{"name": "v", "mountPath": "data"}, {"name": "ro", "mountPath": "/ro", "recursiveReadOnly": "Enabled"}],
            "lifecycle": {"stopSignal": "SIGUSR1"}, "tty": true}))
        .expect("a config");
        let mounts: Vec<_> =
            c.mounts.iter().map(|m| format!("{} {} {}", m.container_path, m.host_path, m.readonly)).collect();
        assert_eq!(
            mounts,
            [
                "/data /vol/v false",
                "/ro /vol/ro true",
                "/etc/hosts /pods/u/etc-hosts false",
                "/dev/termination-log /pods/u/term false"
            ]
        );
        assert_eq!(c.command, ["sh", "-c", "echo 1 $(B)"]);
        assert_eq!((c.args[0].as_str(), c.log_path.as_str(), c.tty), ("$(A)", "c/3.log", true));
        assert_eq!(c.stop_signal(), cri::Signal::Sigusr1);
        assert_eq!(c.annotations[labels::RESTART_COUNT], "3");
    }

    #[test]
    fn an_author_s_hosts_file_wins() {
        let c =
            made(json!({"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/etc/hosts"}]})).expect("a config");
        assert_eq!(c.mounts.iter().filter(|m| m.container_path == "/etc/hosts").count(), 1);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        for (field, value) in [
            ("volumeMounts", json!([{"name": "v", "mountPath": "/x", "mountPropagation": "Bidirectional"}])),
            ("volumeMounts", json!([{"name": "v", "mountPath": "/x", "recursiveReadOnly": "Enabled"}])),
            ("lifecycle", json!({"stopSignal": "SIGNOPE"})),
        ] {
            let mut c = json!({"name": "c"});
            c[field] = value.clone();
            assert!(made(c).is_err(), "{value}");
        }
    }
}
