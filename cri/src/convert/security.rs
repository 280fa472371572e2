//! What confines a container: capabilities, seccomp, AppArmor, SELinux, masked and read-only paths.
//!
//! Every function is total: what is not understood is refused, and nothing at all means the closed default
//! (SECURITY_CASES 26: an empty localhost profile must not become "unconfined").

use std::collections::BTreeSet;

use gantry_cri_api::security_profile::ProfileType;
use gantry_cri_api::{Capability, LinuxContainerSecurityContext, NamespaceMode, SecurityProfile};
use serde_json::{Value, json};

use super::{Host, Seccomp};
use crate::config::DefaultSeccomp;
use crate::error::{Context, Error, Kind, Result};

/// What a container may do that names no capability; the list that Docker began and every CRI runtime has.
const DEFAULT_CAPABILITIES: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Every capability of Linux 6.18 (capability.h), by number.
pub(crate) const ALL_CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Files of the kernel that tell or change what is not the container's, hidden from it.
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Files of the kernel that a container may read.
const READONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

pub(super) fn capabilities(security: &LinuxContainerSecurityContext, host: &Host) -> Result<Value> {
    if security.privileged {
        return Ok(sets(&host.capabilities, &BTreeSet::new()));
    }
    let wanted = security.capabilities.clone().unwrap_or_default();
    let own = adjust(&wanted, host)?;
    let mut ambient = BTreeSet::new();
    for name in &wanted.add_ambient_capabilities {
        match name.eq_ignore_ascii_case("ALL") {
            true => ambient.extend(host.capabilities.iter().cloned()),
            false => drop(ambient.insert(known(name)?)),
        }
    }
    Ok(sets(&own.union(&ambient).cloned().collect(), &ambient))
}

/// First ALL, then single names, so that "drop ALL, add CHOWN" leaves CHOWN in whichever order they came.
fn adjust(wanted: &Capability, host: &Host) -> Result<BTreeSet<String>> {
    let all = |list: &[String]| list.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let mut own: BTreeSet<String> = match (all(&wanted.add_capabilities), all(&wanted.drop_capabilities)) {
        (true, false) => host.capabilities.clone(),
        (_, true) => BTreeSet::new(),
        (false, false) => DEFAULT_CAPABILITIES
            .iter()
            .map(|name| (*name).to_owned())
            .filter(|n| host.capabilities.contains(n))
            .collect(),
    };
    for name in wanted.add_capabilities.iter().filter(|name| !name.eq_ignore_ascii_case("ALL")) {
        own.insert(known(name)?);
    }
    for name in wanted.drop_capabilities.iter().filter(|name| !name.eq_ignore_ascii_case("ALL")) {
        own.remove(&known(name)?);
    }
    Ok(own)
}

fn known(name: &str) -> Result<String> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    match ALL_CAPABILITIES.contains(&full.as_str()) {
        true => Ok(full),
        false => Err(Error::new(Kind::Invalid, format!("capabilities: {name:?} is not known"))),
    }
}

/// Inheritable stays empty without ambient ones (CVE-2022-24769 and its like).
fn sets(own: &BTreeSet<String>, ambient: &BTreeSet<String>) -> Value {
    json!({"bounding": own, "effective": own, "permitted": own, "inheritable": ambient, "ambient": ambient})
}

pub(super) fn seccomp(
    security: &LinuxContainerSecurityContext,
    profiles: &Seccomp,
    host: &Host,
) -> Result<Option<Value>> {
    if security.privileged {
        return Ok(None);
    }
    // The default opens further calls for those who hold the capability that they need.
    let runtime_default = || {
        let bounding = capabilities(security, host)?["bounding"].take();
        let bounding = serde_json::from_value(bounding).context(|| "read capabilities")?;
        serde_json::to_value(gantry_runtime::seccomp::default_profile(&bounding))
            .context(|| "encode a profile")
            .map(Some)
    };
    match security.seccomp.as_ref().map(SecurityProfile::profile_type) {
        Some(ProfileType::Unconfined) => Ok(None),
        Some(ProfileType::RuntimeDefault) => runtime_default(),
        Some(ProfileType::Localhost) => match &profiles.localhost {
            Some(profile) if has_default(profile) => Ok(Some(profile.clone())),
            _ => Err(Error::new(Kind::Invalid, "seccomp: the localhost profile has no defaultAction")),
        },
        None => match profiles.unset {
            DefaultSeccomp::RuntimeDefault => runtime_default(),
            DefaultSeccomp::Unconfined => Ok(None),
        },
    }
}

/// Whether a profile says what becomes of a call that it does not name. The runtime knows which actions there are.
fn has_default(profile: &Value) -> bool {
    profile.get("defaultAction").and_then(Value::as_str).is_some_and(|action| action.starts_with("SCMP_ACT_"))
}

/// The name of the AppArmor profile. A profile that was asked for by name and cannot be had is an error.
pub(super) fn apparmor(security: &LinuxContainerSecurityContext, host: &Host) -> Result<Option<String>> {
    let Some(profile) = &security.apparmor else { return Ok(None) };
    match (profile.profile_type(), host.apparmor) {
        _ if security.privileged => Ok(None),
        (ProfileType::Localhost, false) => {
            Err(Error::new(Kind::Unsupported, "apparmor: this kernel has no AppArmor, a localhost profile cannot hold"))
        }
        (ProfileType::Localhost, true) if profile.localhost_ref.is_empty() => {
            Err(Error::new(Kind::Invalid, "apparmor: a localhost profile needs a name"))
        }
        (ProfileType::Localhost, true) => Ok(Some(profile.localhost_ref.clone())),
        (ProfileType::Unconfined, true) => Ok(Some("unconfined".to_owned())),
        // Gantry loads no profile of its own; the runtime's default is then what the host gives to new programs.
        (ProfileType::RuntimeDefault, true) | (_, false) => Ok(None),
    }
}

/// SELinux labels of a container.
pub(super) struct Labels {
    pub process: String,
    pub mount: String,
}

pub(super) fn selinux(security: &LinuxContainerSecurityContext, host: &Host) -> Result<Option<Labels>> {
    let Some(wanted) = security.selinux_options.as_ref().filter(|_| host.selinux) else { return Ok(None) };
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    let parts = [&wanted.user, &wanted.role, &wanted.r#type, &wanted.level];
    if parts.iter().any(|part| part.contains(|c: char| c.is_whitespace() || c.is_control())) {
        return Err(Error::new(Kind::Invalid, "selinux_options: a part holds white space"));
    }
    let level = or(&wanted.level, "s0");
    let (user, role) = (or(&wanted.user, "system_u"), or(&wanted.role, "system_r"));
    Ok(Some(Labels {
        process: format!("{user}:{role}:{}:{level}", or(&wanted.r#type, "container_t")),
        mount: format!("system_u:object_r:container_file_t:{level}"),
    }))
}

pub(super) fn masked(security: &LinuxContainerSecurityContext) -> Vec<String> {
    hidden(security, &security.masked_paths, MASKED)
}

pub(super) fn readonly(security: &LinuxContainerSecurityContext) -> Vec<String> {
    hidden(security, &security.readonly_paths, READONLY)
}

/// kubelet always sends both lists, and both empty only for `procMount: Unmasked`, which it allows only with a user
/// namespace. Both empty without one is a client that said nothing: that gets the defaults.
fn hidden(security: &LinuxContainerSecurityContext, wanted: &[String], default: &[&str]) -> Vec<String> {
    let unmasked = security
        .namespace_options
        .as_ref()
        .and_then(|options| options.userns_options.as_ref())
        .is_some_and(|user| user.mode() == NamespaceMode::Pod);
    let said_nothing = security.masked_paths.is_empty() && security.readonly_paths.is_empty() && !unmasked;
    match (security.privileged, said_nothing) {
        (true, _) => Vec::new(),
        (false, true) => default.iter().map(|path| (*path).to_owned()).collect(),
        (false, false) => wanted.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host { capabilities: ALL_CAPABILITIES.iter().map(|n| (*n).to_owned()).collect(), ..Host::default() }
    }

    fn own(add: &[&str], drop: &[&str]) -> Vec<String> {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let wanted = Capability { add_capabilities: list(add), drop_capabilities: list(drop), ..Default::default() };
        adjust(&wanted, &host()).unwrap().into_iter().collect()
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        assert_eq!(own(&[], &[]), DEFAULT_CAPABILITIES);
        assert_eq!(own(&["CHOWN"], &["ALL"]), ["CAP_CHOWN"]);
        assert_eq!(own(&["all"], &[]).len(), ALL_CAPABILITIES.len());
        assert_eq!(own(&["ALL"], &["NET_RAW"]).len(), ALL_CAPABILITIES.len() - 1);
        assert!(!own(&[], &["CAP_KILL"]).contains(&"CAP_KILL".to_owned()));
        assert!(own(&["sys_time"], &[]).contains(&"CAP_SYS_TIME".to_owned()));
        assert!(known("ROOT").is_err());
    }

    #[test]
    fn case_06_inheritable_is_empty_unless_ambient_is_asked_for() {
        let mut security = LinuxContainerSecurityContext::default();
        let sets = capabilities(&security, &host()).unwrap();
        assert_eq!((&sets["inheritable"], &sets["ambient"]), (&json!([]), &json!([])));
        let wanted = Capability { add_ambient_capabilities: vec!["CHOWN".into()], ..Default::default() };
        security.capabilities = Some(wanted);
        let sets = capabilities(&security, &host()).unwrap();
        assert_eq!((&sets["inheritable"], &sets["ambient"]), (&json!(["CAP_CHOWN"]), &json!(["CAP_CHOWN"])));
        security.privileged = true;
        assert_eq!(capabilities(&security, &host()).unwrap()["inheritable"], json!([]));
    }

    #[test]
    fn case_26_no_profile_ever_opens_by_accident() {
        let with = |profile: Option<(ProfileType, Option<Value>)>, privileged| {
            let profiles = Seccomp {
                localhost: profile.as_ref().and_then(|(_, json)| json.clone()),
                unset: DefaultSeccomp::RuntimeDefault,
            };
            let seccomp = profile.map(|(kind, _)| SecurityProfile { profile_type: kind as i32, ..Default::default() });
            let security = LinuxContainerSecurityContext { seccomp, privileged, ..Default::default() };
            super::seccomp(&security, &profiles, &host())
        };
        assert!(with(None, false).unwrap().is_some());
        assert!(with(Some((ProfileType::RuntimeDefault, None)), false).unwrap().is_some());
        assert!(with(Some((ProfileType::Unconfined, None)), false).unwrap().is_none());
        assert!(with(None, true).unwrap().is_none());
        assert!(with(Some((ProfileType::Localhost, None)), false).is_err());
        assert!(with(Some((ProfileType::Localhost, Some(json!({})))), false).is_err());
        let good = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        assert_eq!(with(Some((ProfileType::Localhost, Some(good.clone()))), false).unwrap(), Some(good));
    }

    #[test]
    fn apparmor_by_name_is_held_or_refused() {
        let security = |kind: ProfileType, name: &str| LinuxContainerSecurityContext {
            apparmor: Some(SecurityProfile { profile_type: kind as i32, localhost_ref: name.into() }),
            ..Default::default()
        };
        let with = Host { apparmor: true, ..host() };
        assert!(apparmor(&security(ProfileType::Localhost, "web"), &host()).is_err());
        assert!(apparmor(&security(ProfileType::Localhost, ""), &with).is_err());
        assert_eq!(apparmor(&security(ProfileType::Localhost, "web"), &with).unwrap().as_deref(), Some("web"));
        assert_eq!(apparmor(&security(ProfileType::RuntimeDefault, ""), &host()).unwrap(), None);
    }

    #[test]
    fn saying_nothing_masks() {
        let mut security = LinuxContainerSecurityContext::default();
        assert!(masked(&security).contains(&"/proc/kcore".to_owned()));
        security.masked_paths = vec!["/proc/x".into()];
        assert_eq!(masked(&security), ["/proc/x"]);
        assert!(readonly(&security).is_empty());
        security.privileged = true;
        assert!(masked(&security).is_empty());
    }
}
