//! Records as CRI messages; pure.

use std::collections::HashMap;
use std::path::Path;

use gantry_cri_api as api;
use gantry_images::Image;
use serde_json::{Value, json};

use crate::store::{ContainerRecord, PodRecord};

pub(super) fn pod(record: &PodRecord) -> api::PodSandbox {
    api::PodSandbox {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        state: record.state() as i32,
        created_at: record.created_at,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    }
}

pub(super) fn pod_status(record: &PodRecord) -> api::PodSandboxStatus {
    let mut ips = record.ips.iter();
    let network = api::PodSandboxNetworkStatus {
        ip: ips.next().cloned().unwrap_or_default(),
        additional_ips: ips.map(|ip| api::PodIp { ip: ip.clone() }).collect(),
    };
    let namespaces = api::Namespace { options: Some(record.namespaces()) };
    api::PodSandboxStatus {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        state: record.state() as i32,
        created_at: record.created_at,
        network: Some(network),
        linux: Some(api::LinuxPodSandboxStatus { namespaces: Some(namespaces) }),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    }
}

pub(super) fn container(record: &ContainerRecord) -> api::Container {
    api::Container {
        id: record.id.clone(),
        pod_sandbox_id: record.pod.clone(),
        metadata: record.config.metadata.clone(),
        image: record.config.image.clone(),
        image_ref: record.image_ref.clone(),
        state: record.state() as i32,
        created_at: record.created_at,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        image_id: record.image_id.clone(),
    }
}

pub(super) fn container_status(record: &ContainerRecord) -> api::ContainerStatus {
    let exit = record.exit.as_ref();
    let user = &record.user;
    let user = api::LinuxContainerUser {
        uid: user.uid.into(),
        gid: user.gid.into(),
        supplemental_groups: user.groups.iter().map(|group| i64::from(*group)).collect(),
    };
    api::ContainerStatus {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        state: record.state() as i32,
        created_at: record.created_at,
        started_at: record.started_at,
        finished_at: exit.map_or(0, |exit| exit.finished_at),
        exit_code: exit.map_or(0, |exit| exit.code),
        image: record.config.image.clone(),
        image_ref: record.image_ref.clone(),
        reason: exit.map(|exit| exit.reason.clone()).unwrap_or_default(),
        message: exit.map(|exit| exit.message.clone()).unwrap_or_default(),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        mounts: record.config.mounts.clone(),
        log_path: record.log_path.clone(),
        resources: record.resources.clone().map(|linux| api::ContainerResources { linux: Some(linux) }),
        image_id: record.image_id.clone(),
        user: Some(api::ContainerUser { linux: Some(user) }),
        stop_signal: stop_signal(record.stop_signal) as i32,
    }
}

/// The signal as CRI names it; the real-time ones stand in order from SIGRTMIN = 34.
fn stop_signal(number: i32) -> api::Signal {
    if (34..=64).contains(&number) {
        return api::Signal::try_from(api::Signal::Sigrtmin as i32 + number - 34).unwrap_or_default();
    }
    let name = nix::sys::signal::Signal::try_from(number).map(|signal| signal.as_str()).unwrap_or_default();
    api::Signal::from_str_name(&format!("SIGNAL_{name}")).unwrap_or_default()
}

pub(super) fn image(image: &Image) -> api::Image {
    let user = image.config.config().as_ref().and_then(|config| config.user().clone()).unwrap_or_default();
    let name = user.split(':').next().unwrap_or_default();
    // A number is told as one, anything else as a name: kubelet checks runAsNonRoot against either.
    let uid = match name {
        "" => None,
        name => name.parse::<u32>().ok(),
    };
    api::Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: uid.map(|uid| api::Int64Value { value: uid.into() }),
        username: if uid.is_some() { String::new() } else { name.to_owned() },
        spec: None,
        pinned: image.pinned,
    }
}

/// The namespaces that a pod has of its own, as an OCI specification names them.
pub(super) fn namespaces(record: &PodRecord, dir: &Path) -> Value {
    let own = |kind: &str, file: &str| json!({"type": kind, "path": dir.join(file)});
    let mut list = Vec::new();
    if !record.host_network() {
        list.extend([own("network", "net"), own("uts", "uts")]);
    }
    if record.namespaces().ipc() != api::NamespaceMode::Node {
        list.push(own("ipc", "ipc"));
    }
    Value::Array(list)
}

/// The pod's addresses as containerd tells the result of CNI; null on the host's network.
pub(super) fn addresses(record: &PodRecord, dir: &Path) -> Value {
    if record.host_network() {
        return Value::Null;
    }
    let addresses: Vec<Value> = record.ips.iter().map(|ip| json!({"IP": ip})).collect();
    json!({"Interfaces": {"eth0": {"IPConfigs": addresses, "Sandbox": dir.join("net")}}})
}

/// Whether every label that is wanted is there.
pub(super) fn labels_fit(labels: &HashMap<String, String>, wanted: &HashMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

pub(super) fn pod_fits(record: &PodRecord, filter: Option<&api::PodSandboxFilter>) -> bool {
    filter.is_none_or(|filter| {
        record.id.starts_with(&filter.id)
            && filter.state.as_ref().is_none_or(|wanted| wanted.state() == record.state())
            && labels_fit(&record.config.labels, &filter.label_selector)
    })
}

pub(super) fn container_fits(record: &ContainerRecord, filter: Option<&api::ContainerFilter>) -> bool {
    filter.is_none_or(|filter| {
        record.id.starts_with(&filter.id)
            && record.pod.starts_with(&filter.pod_sandbox_id)
            && filter.state.as_ref().is_none_or(|wanted| wanted.state() == record.state())
            && labels_fit(&record.config.labels, &filter.label_selector)
    })
}

#[cfg(test)]
mod tests {
    use gantry_cri_api::{ContainerConfig, ContainerState, ContainerStateValue, PodSandboxConfig, Signal};

    use super::*;

    #[test]
    fn signals_have_their_names() {
        for (number, name) in [
            (15, Signal::Sigterm),
            (9, Signal::Sigkill),
            (34, Signal::Sigrtmin),
            (37, Signal::Sigrtminplus3),
            (64, Signal::Sigrtmax),
        ] {
            assert_eq!(stop_signal(number), name);
        }
    }

    #[test]
    fn filters_are_conjunctions() {
        let labels = HashMap::from([("app".to_owned(), "web".to_owned())]);
        let config = ContainerConfig { labels: labels.clone(), ..Default::default() };
        let record = ContainerRecord::new("abc", "pod", config, 1);
        let fits = |filter: api::ContainerFilter| container_fits(&record, Some(&filter));
        assert!(container_fits(&record, None));
        assert!(fits(api::ContainerFilter::default()));
        assert!(fits(api::ContainerFilter { id: "ab".into(), label_selector: labels, ..Default::default() }));
        assert!(!fits(api::ContainerFilter { id: "b".into(), ..Default::default() }));
        let other = HashMap::from([("app".to_owned(), "db".to_owned())]);
        assert!(!fits(api::ContainerFilter { label_selector: other, ..Default::default() }));
        let running = Some(ContainerStateValue { state: ContainerState::ContainerRunning as i32 });
        assert!(!fits(api::ContainerFilter { state: running, ..Default::default() }));
    }

    #[test]
    fn tools_find_a_pods_namespaces_and_addresses() {
        let mut record = PodRecord::new("p", PodSandboxConfig::default(), "", 1);
        record.ips = vec!["10.0.0.2".into()];
        let dir = Path::new("/run/netns/p");
        let expected = json!([
            {"type": "network", "path": "/run/netns/p/net"}, {"type": "uts", "path": "/run/netns/p/uts"},
            {"type": "ipc", "path": "/run/netns/p/ipc"},
        ]);
        assert_eq!(namespaces(&record, dir), expected);
        let interface = json!({"IPConfigs": [{"IP": "10.0.0.2"}], "Sandbox": "/run/netns/p/net"});
        assert_eq!(addresses(&record, dir), json!({"Interfaces": {"eth0": interface}}));
        let node = api::NamespaceMode::Node as i32;
        let options = api::NamespaceOption { network: node, ipc: node, ..Default::default() };
        let security = api::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
        let linux = api::LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() };
        record.config.linux = Some(linux);
        assert_eq!((namespaces(&record, dir), addresses(&record, dir)), (json!([]), Value::Null));
    }

    #[test]
    fn addresses_are_split_into_first_and_rest() {
        let mut record = PodRecord::new("p", PodSandboxConfig::default(), "", 1);
        record.ips = vec!["10.0.0.2".into(), "fd00::2".into()];
        let network = pod_status(&record).network.unwrap();
        assert_eq!((network.ip.as_str(), network.additional_ips[0].ip.as_str()), ("10.0.0.2", "fd00::2"));
    }
}
