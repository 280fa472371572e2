//! Security contexts of pod and container, merged and put into CRI's words. Pure and total: what is not
//! understood is an error, never a default that is open (SECURITY_CASES 08, 19, 26).

use gantry_cri_api as cri;
use gantry_cri_api::security_profile::ProfileType;
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile};

use crate::error::{Error, Result};
use crate::pod::{self, Role};

/// What the image says about its user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ImageUser {
    pub uid: Option<i64>,
    pub username: String,
}

/// Paths that hide the host from a container with the default procMount; as containerd and Docker.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Sysctls that are namespaced and bounded: upstream's safe set.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

fn of_pod(of: &Pod) -> PodSecurityContext {
    pod::spec(of).security_context.clone().unwrap_or_default()
}

/// The namespaces of the pod (and of containers without a target).
pub(crate) fn namespaces(of: &Pod) -> cri::NamespaceOption {
    use cri::NamespaceMode as Mode;
    let spec = pod::spec(of);
    let node_or = |host: Option<bool>, else_: Mode| if host == Some(true) { Mode::Node as i32 } else { else_ as i32 };
    let pid = if spec.share_process_namespace == Some(true) { Mode::Pod } else { Mode::Container };
    cri::NamespaceOption {
        network: node_or(spec.host_network, Mode::Pod),
        ipc: node_or(spec.host_ipc, Mode::Pod),
        pid: node_or(spec.host_pid, pid),
        ..Default::default()
    }
}

fn value(of: Option<i64>) -> Option<cri::Int64Value> {
    of.map(|value| cri::Int64Value { value })
}

fn seccomp(wanted: Option<&SeccompProfile>, root: &str, default_on: bool) -> Result<cri::SecurityProfile> {
    let profile = |kind: ProfileType, reference: String| cri::SecurityProfile {
        profile_type: kind as i32,
        localhost_ref: reference,
    };
    let Some(wanted) = wanted else {
        let kind = if default_on { ProfileType::RuntimeDefault } else { ProfileType::Unconfined };
        return Ok(profile(kind, String::new()));
    };
    match wanted.type_.as_str() {
        "RuntimeDefault" => Ok(profile(ProfileType::RuntimeDefault, String::new())),
        "Unconfined" => Ok(profile(ProfileType::Unconfined, String::new())),
        "Localhost" => {
            let file = wanted.localhost_profile.as_deref().unwrap_or_default();
            // CVE-2023-2431: an empty localhost profile was taken for unconfined.
            if file.is_empty() || file.starts_with('/') || file.split('/').any(|part| part == "..") {
                return Err(Error::pod(format!("seccomp localhostProfile {file:?} is empty, absolute or climbs")));
            }
            Ok(profile(ProfileType::Localhost, format!("{root}/seccomp/{file}")))
        }
        other => Err(Error::pod(format!("unknown seccomp profile type {other:?}"))),
    }
}

fn supplemental(of: &PodSecurityContext) -> Vec<i64> {
    let mut groups = of.supplemental_groups.clone().unwrap_or_default();
    groups.extend(of.fs_group);
    groups
}

fn groups_policy(of: &PodSecurityContext) -> Result<i32> {
    match of.supplemental_groups_policy.as_deref() {
        None | Some("" | "Merge") => Ok(cri::SupplementalGroupsPolicy::Merge as i32),
        Some("Strict") => Ok(cri::SupplementalGroupsPolicy::Strict as i32),
        Some(other) => Err(Error::pod(format!("unknown supplementalGroupsPolicy {other:?}"))),
    }
}

/// The sandbox's security context; `root` is the kubelet's directory, `seccomp_default` its setting.
///
/// # Errors
/// `Kind::Pod` where the pod asks for what is unknown or not allowed.
pub(crate) fn sandbox(of: &Pod, root: &str) -> Result<cri::LinuxSandboxSecurityContext> {
    let context = of_pod(of);
    let privileged = pod::ordered(of).any(|(_, c)| pod::security(c).privileged == Some(true));
    Ok(cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(of)),
        run_as_user: value(context.run_as_user),
        run_as_group: value(context.run_as_group.filter(|_| context.run_as_user.is_some())),
        supplemental_groups: supplemental(&context),
        supplemental_groups_policy: groups_policy(&context)?,
        privileged,
        seccomp: Some(seccomp(context.seccomp_profile.as_ref(), root, true)?),
        ..Default::default()
    })
}

/// The pod's sysctls, checked against the safe set and the node's `allowed` patterns.
///
/// # Errors
/// `Kind::Pod` naming the sysctl that is not allowed: the pod is rejected with SysctlForbidden.
pub(crate) fn sysctls(of: &Pod, allowed: &[String]) -> Result<Vec<(String, String)>> {
    let spec = pod::spec(of);
    let mut out = Vec::new();
    for sysctl in of_pod(of).sysctls.into_iter().flatten() {
        let name = sysctl.name.replace('/', ".");
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => *pattern == name,
        };
        let known = SAFE_SYSCTLS.contains(&name.as_str()) || allowed.iter().any(matches);
        let host = (name.starts_with("net.") && spec.host_network == Some(true))
            || (name.starts_with("kernel.") && spec.host_ipc == Some(true));
        if !plain || !known || host || sysctl.value.contains(['\n', '\0']) {
            return Err(Error::pod(format!("sysctl {:?} is not allowed on this node", sysctl.name)));
        }
        out.push((name, sysctl.value));
    }
    Ok(out)
}

/// The settings of the node that a container's context depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'a> {
    pub root: &'a str,
    pub seccomp_default: bool,
}

/// A container's security context. `target` is the id whose PID namespace an ephemeral container joins.
///
/// # Errors
/// `Kind::Pod`: the user cannot be proven not to be root, or something unknown is asked for. This is
/// checked at every start, first or not.
pub(crate) fn container(
    of: &Pod,
    role: Role,
    c: &Container,
    image: &ImageUser,
    rules: Rules<'_>,
    target: Option<String>,
) -> Result<cri::LinuxContainerSecurityContext> {
    let (all, own) = (of_pod(of), pod::security(c));
    let privileged = own.privileged == Some(true);
    let user = own.run_as_user.or(all.run_as_user);
    for id in [user, own.run_as_group.or(all.run_as_group)].into_iter().flatten() {
        if u32::try_from(id).is_err() || id > i64::from(i32::MAX) {
            return Err(Error::pod(format!("user or group id {id} is out of range")));
        }
    }
    if own.run_as_non_root.or(all.run_as_non_root) == Some(true) {
        not_root(user, image, c)?;
    }
    if privileged && own.allow_privilege_escalation == Some(false) {
        return Err(Error::pod("allowPrivilegeEscalation false contradicts privileged"));
    }
    let mut options = namespaces(of);
    if let Some(target_id) = target.filter(|_| role == Role::Ephemeral) {
        options.pid = cri::NamespaceMode::Target as i32;
        options.target_id = target_id;
    }
    let unmasked = match own.proc_mount.as_deref() {
        None | Some("" | "Default") => false,
        Some("Unmasked") => true,
        Some(other) => return Err(Error::pod(format!("unknown procMount {other:?}"))),
    };
    let list = |paths: &[&str]| {
        if privileged || unmasked { Vec::new() } else { paths.iter().map(|p| (*p).to_string()).collect() }
    };
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let profile = own.seccomp_profile.as_ref().or(all.seccomp_profile.as_ref());
    let has_user = user.is_some() || image.uid.is_some() || !image.username.is_empty();
    Ok(cri::LinuxContainerSecurityContext {
        capabilities: Some(cri::Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
            ..Default::default()
        }),
        privileged,
        namespace_options: Some(options),
        run_as_user: value(user.or(if image.username.is_empty() { image.uid } else { None })),
        run_as_username: if user.is_none() { image.username.clone() } else { String::new() },
        run_as_group: value(own.run_as_group.or(all.run_as_group).filter(|_| has_user)),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: supplemental(&all),
        supplemental_groups_policy: groups_policy(&all)?,
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: list(&MASKED),
        readonly_paths: list(&READONLY),
        seccomp: Some(if privileged {
            seccomp(None, rules.root, false)?
        } else {
            seccomp(profile, rules.root, rules.seccomp_default)?
        }),
        ..Default::default()
    })
}

/// runAsNonRoot: proves that the container will not run as uid 0, or refuses it with upstream's words.
fn not_root(user: Option<i64>, image: &ImageUser, c: &Container) -> Result<()> {
    match (user, image) {
        (Some(0), _) => {
            Err(Error::pod(format!("container's runAsUser breaks non-root policy (container: {})", c.name)))
        }
        (Some(_), _) => Ok(()),
        (None, ImageUser { username, .. }) if !username.is_empty() => Err(Error::pod(format!(
            "container has runAsNonRoot and image has non-numeric user ({username}), cannot verify user is non-root (container: {})",
            c.name
        ))),
        (None, ImageUser { uid: Some(uid), .. }) if *uid != 0 => Ok(()),
        (None, _) => {
            Err(Error::pod(format!("container has runAsNonRoot and image will run as root (container: {})", c.name)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn made(pod_context: Value, context: Value, image: &ImageUser) -> Result<cri::LinuxContainerSecurityContext> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "securityContext": pod_context, "containers": [{"name": "c", "securityContext": context}]}}))
        .expect("pod");
        let rules = Rules { root: "/r", seccomp_default: false };
        container(&pod, Role::Main, &pod::spec(&pod).containers[0], image, rules, None)
    }

    fn image(uid: Option<i64>, username: &str) -> ImageUser {
        ImageUser { uid, username: username.into() }
    }

    #[test]
    fn run_as_non_root_never_lets_root_through() {
        let non_root = || json!({"runAsNonRoot": true});
        for (pod_context, context, image, fine) in [
            (non_root(), json!({}), image(None, ""), false),
            (non_root(), json!({}), image(Some(0), ""), false),
            (non_root(), json!({}), image(Some(1000), ""), true),
            (non_root(), json!({}), image(None, "www"), false),
            (non_root(), json!({"runAsUser": 0}), image(Some(1000), ""), false),
            (non_root(), json!({"runAsUser": 5}), image(None, "root"), true),
            (non_root(), json!({"runAsNonRoot": false}), image(Some(0), ""), true),
            (json!({"runAsUser": 0}), non_root(), image(Some(7), ""), false),
            (json!({}), json!({}), image(Some(0), ""), true),
        ] {
            assert_eq!(
                made(pod_context.clone(), context.clone(), &image).is_ok(),
                fine,
                "{pod_context} {context} {image:?}"
            );
        }
    }

    #[test]
    fn nothing_unknown_becomes_a_default() {
        for context in [
            json!({"seccompProfile": {"type": "Localhost"}}),
            json!({"seccompProfile": {"type": "Localhost", "localhostProfile": ""}}),
            json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "../x"}}),
            json!({"seccompProfile": {"type": "unconfined"}}),
            json!({"procMount": "None"}),
            json!({"runAsUser": -1}),
            json!({"runAsUser": 4_294_967_296_i64}),
            json!({"privileged": true, "allowPrivilegeEscalation": false}),
        ] {
            assert!(made(json!({}), context.clone(), &ImageUser::default()).is_err(), "{context}");
        }
    }

    #[test]
    fn contexts_are_merged() {
        let c = made(
            json!({"runAsUser": 1, "fsGroup": 7, "supplementalGroups": [5], "seccompProfile": {"type": "RuntimeDefault"}}),
            json!({"runAsUser": 2, "runAsGroup": 3, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
                "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false}),
            &ImageUser::default(),
        )
        .expect("a context");
        assert_eq!((c.run_as_user.map(|v| v.value), c.run_as_group.map(|v| v.value)), (Some(2), Some(3)));
        assert_eq!(c.supplemental_groups, [5, 7]);
        assert!(c.readonly_rootfs && c.no_new_privs && !c.privileged);
        assert_eq!(c.capabilities.expect("capabilities").drop_capabilities, ["ALL"]);
        assert_eq!(c.seccomp.expect("seccomp").profile_type(), ProfileType::RuntimeDefault);
        assert!(c.masked_paths.contains(&"/proc/kcore".to_string()));
    }

    #[test]
    fn sysctls_are_safe_or_allowed() {
        let pod = |name: &str, value: &str| -> Pod {
            serde_json::from_value(
                json!({"spec": {"containers": [], "securityContext": {"sysctls": [{"name": name, "value": value}]}}}),
            )
            .expect("pod")
        };
        assert!(sysctls(&pod("net.ipv4.tcp_syncookies", "1"), &[]).is_ok());
        assert!(sysctls(&pod("kernel.msgmax", "1"), &[]).is_err());
        assert!(sysctls(&pod("kernel.msgmax", "1"), &["kernel.msg*".into()]).is_ok());
        assert!(sysctls(&pod("kernel.shm_rmid_forced=1+kernel.core_pattern", "x"), &["kernel.*".into()]).is_err());
        assert!(sysctls(&pod("kernel.shm_rmid_forced", "1\n2"), &[]).is_err());
    }
}
