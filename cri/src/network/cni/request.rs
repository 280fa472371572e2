//! What a plugin is told, decided as text: its environment, its standard input, the arguments of its capabilities.
//!
//! Source: SPEC.md of CNI (sections 2 and 3), CONVENTIONS.md ("Dynamic plugin specific fields"), and for the names of
//! arguments what kubelet's dockershim began and containerd and CRI-O keep.

use super::super::{Dns, PortMapping, Wish};
use super::list::{List, Plugin};
use super::result::Outcome;
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::PathBuf;

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Verb {
    /// As `CNI_COMMAND` has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// As libcni's messages have it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Del => "delete",
            Self::Check => "check",
            Self::Gc => "gc",
            Self::Status => "status",
            Self::Version => "version",
        }
    }
}

/// An attachment, for GC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Valid {
    #[serde(rename = "containerID")]
    pub(super) pod: String,
    #[serde(rename = "ifname")]
    pub(super) device: String,
}

/// One device of one pod, as plugins know it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Target {
    /// `CNI_CONTAINERID`.
    pub(super) pod: String,
    /// `CNI_IFNAME`.
    pub(super) device: String,
    /// `CNI_NETNS`.
    pub(super) netns: PathBuf,
    /// `CNI_ARGS`.
    pub(super) args: Vec<(String, String)>,
    /// Arguments by the names of capabilities.
    pub(super) capabilities: Map<String, Value>,
}

/// The environment of a plugin, beside the daemon's own. `netns` is empty where the namespace is gone (DEL).
pub(super) fn environment(
    verb: Verb,
    target: Option<&Target>,
    dirs: &[PathBuf],
    netns_gone: bool,
) -> Vec<(&'static str, String)> {
    let dirs: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    let netns = |target: &Target| if netns_gone { String::new() } else { target.netns.display().to_string() };
    let args = |target: &Target| {
        let pairs: Vec<String> = target.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        pairs.join(";")
    };
    vec![
        ("CNI_COMMAND", verb.name().to_owned()),
        ("CNI_CONTAINERID", target.map(|target| target.pod.clone()).unwrap_or_default()),
        ("CNI_NETNS", target.map(netns).unwrap_or_default()),
        ("CNI_IFNAME", target.map(|target| target.device.clone()).unwrap_or_default()),
        ("CNI_ARGS", target.map(args).unwrap_or_default()),
        ("CNI_PATH", dirs.join(":")),
    ]
}

/// The standard input of a plugin for one device of a pod.
pub(super) fn input(list: &List, plugin: &Plugin, previous: Option<&Outcome>, target: &Target) -> Value {
    let mut body = base(list, plugin);
    if let Some(previous) = previous {
        body.insert("prevResult".into(), previous.in_version(list.version));
    }
    let wanted = |(name, _): &(&String, &Value)| plugin.capabilities.contains(*name);
    let runtime: Map<String, Value> =
        target.capabilities.iter().filter(wanted).map(|(name, value)| (name.clone(), value.clone())).collect();
    if !runtime.is_empty() {
        body.insert("runtimeConfig".into(), runtime.into());
    }
    body.into()
}

/// The standard input of a plugin that is asked about itself: STATUS, or GC with what is valid.
pub(super) fn input_of_network(list: &List, plugin: &Plugin, valid: Option<&[Valid]>) -> Value {
    let mut body = base(list, plugin);
    if let Some(valid) = valid {
        // The second is what 1.1.0's text said by mistake, and some plugins read.
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            body.insert(key.into(), json!(valid));
        }
    }
    body.into()
}

/// Every plugin is told the list's name and version. What only a runtime may say is taken from no file.
fn base(list: &List, plugin: &Plugin) -> Map<String, Value> {
    let mut body = plugin.body.clone();
    for key in ["prevResult", "runtimeConfig"] {
        body.remove(key);
    }
    body.insert("name".into(), list.name.clone().into());
    body.insert("cniVersion".into(), list.version.to_string().into());
    body
}

/// The arguments of `CNI_ARGS` for a pod of Kubernetes.
///
/// # Errors
/// `Invalid` for a name with which a pod could set further arguments.
pub(super) fn arguments(wish: &Wish) -> Result<Vec<(String, String)>> {
    let all = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", &*wish.namespace),
        ("K8S_POD_NAME", &*wish.name),
        ("K8S_POD_INFRA_CONTAINER_ID", &*wish.pod),
        ("K8S_POD_UID", &*wish.uid),
    ];
    for (key, value) in all {
        if value.chars().any(|c| matches!(c, ';' | '=') || c.is_control()) {
            return Err(Error::new(
                Kind::Invalid,
                format!("{key}: {value:?} has a character that CNI_ARGS cannot carry"),
            ));
        }
    }
    Ok(all.map(|(key, value)| (key.to_owned(), value.to_owned())).into())
}

/// Arguments for every capability that we know of; each plugin is given those that it declares.
///
/// # Errors
/// `Invalid` for an annotation of bandwidth that is no quantity.
pub(super) fn capabilities(wish: &Wish, ip_ranges: &[String]) -> Result<Map<String, Value>> {
    let mut all = Map::new();
    let ports: Vec<Value> = wish.ports.iter().filter(|port| port.host_port != 0).map(port_mapping).collect();
    if !ports.is_empty() {
        all.insert("portMappings".into(), ports.into());
    }
    if let Some(bandwidth) = bandwidth(&wish.annotations)? {
        all.insert("bandwidth".into(), bandwidth);
    }
    let Dns { servers, searches, options } = &wish.dns;
    if !(servers.is_empty() && searches.is_empty() && options.is_empty()) {
        all.insert("dns".into(), json!({ "servers": servers, "searches": searches, "options": options }));
    }
    if !ip_ranges.is_empty() {
        let sets: Vec<Value> = ip_ranges.iter().map(|range| json!([{ "subnet": range }])).collect();
        all.insert("ipRanges".into(), sets.into());
    }
    all.insert("aliases".into(), json!([wish.name]));
    if !wish.cgroup.is_empty() {
        all.insert("cgroupPath".into(), wish.cgroup.clone().into());
    }
    if !wish.annotations.is_empty() {
        all.insert("io.kubernetes.cri.pod-annotations".into(), json!(wish.annotations));
    }
    Ok(all)
}

fn port_mapping(port: &PortMapping) -> Value {
    json!({
        "hostPort": port.host_port,
        "containerPort": port.container_port,
        "protocol": port.protocol.name(),
        "hostIP": port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
    })
}

/// Rates in bits a second from the pod's annotations; bursts without a limit of their own, as containerd has them.
fn bandwidth(annotations: &HashMap<String, String>) -> Result<Option<Value>> {
    let mut all = Map::new();
    for direction in ["ingress", "egress"] {
        let name = format!("kubernetes.io/{direction}-bandwidth");
        let Some(text) = annotations.get(&name) else { continue };
        let rate = quantity(text).filter(|rate| (1_000..=1_000_000_000_000_000).contains(rate)).ok_or_else(|| {
            let why = format!("annotation {name}: {text:?} is not a rate from 1k to 1P bits a second");
            Error::new(Kind::Invalid, why)
        })?;
        all.insert(format!("{direction}Rate"), rate.into());
        all.insert(format!("{direction}Burst"), u32::MAX.into());
    }
    Ok((!all.is_empty()).then(|| all.into()))
}

/// A quantity of Kubernetes (resource.Quantity) as a whole number, rounded up.
fn quantity(text: &str) -> Option<u64> {
    const UNITS: [(&str, f64); 13] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
        ("", 1.0),
    ];
    let (_, (number, unit)) = UNITS.iter().find_map(|(unit, factor)| {
        let number = text.strip_suffix(unit)?;
        Some((unit, (number, factor)))
    })?;
    let decimal = !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    let value = number.parse::<f64>().ok().filter(|_| decimal)? * unit;
    (value < 1e18).then(|| value.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_numbers_of_bits() {
        for (text, bits) in [("1M", 1_000_000), ("10Mi", 10_485_760), ("1.5k", 1500), ("2500", 2500), ("1500m", 2)] {
            assert_eq!(quantity(text), Some(bits), "{text}");
        }
        for bad in ["", "M", "1MB", "-1", "1e3x", "inf", "NaN", "1 M", "9999E"] {
            assert_eq!(quantity(bad), None, "{bad}");
        }
    }
}
