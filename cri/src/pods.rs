//! The life of a pod: run, stop, remove. The remove path is the only rollback there is.
//!
//! ```text
//! run     record -> netns -> { address | files | monitor } -> record: made
//! stop    containers killed -> address back -> record: stopped -> monitor ends
//! remove  stop -> containers removed -> netns -> files -> record
//! ```
//! The record comes first and goes last. Every step of stop and remove may be repeated, so that after a crash between
//! any two of them the next start, or the kubelet's next call, finishes the work.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use gantry_cri_api::{ContainerEventType, NamespaceMode, PodSandboxConfig, PodSandboxState, Protocol};
use gantry_runtime::cgroup::Cgroup;

use crate::error::{Context, Error, Kind, Result};
use crate::network::netns::{self, NetnsSpec};
use crate::network::{self, Dns, PortMapping, Wish};
use crate::node::{Node, Pod, blocking, new_id, now};
use crate::store::{PodRecord, gone};
use crate::{containers, exits};

/// Handlers that name this runtime. The empty one is what a pod without a RuntimeClass has.
pub const HANDLERS: &[&str] = &["", "gantry"];

/// Makes a pod that containers can be created in; gives its id.
///
/// # Errors
/// [`Kind::Invalid`], [`Kind::Exists`] (a pod of this name and attempt), [`Kind::Unsupported`], [`Kind::Exhausted`] (no
/// address). After an error nothing is left of the pod.
pub async fn run(node: &Arc<Node>, config: PodSandboxConfig, handler: &str) -> Result<String> {
    check(&config, handler)?;
    let record = PodRecord::new(&new_id()?, config, handler, now());
    let pod = node.add_pod(record)?;
    match build(node, &pod).await {
        Ok(()) => Ok(pod.id.clone()),
        Err(why) => {
            if let Err(more) = remove(node, &pod).await {
                tracing::error!(pod = pod.id, %more, "what was made of a pod that failed could not all be removed");
            }
            let name = pod.record.get().name();
            Err(why.within(format!("run pod {name}")))
        }
    }
}

fn check(config: &PodSandboxConfig, handler: &str) -> Result<()> {
    let invalid = |what: &str| Err(Error::new(Kind::Invalid, what));
    let Some(meta) = &config.metadata else { return invalid("config.metadata: is missing") };
    if meta.name.is_empty() || meta.namespace.is_empty() {
        return invalid("config.metadata: needs a name and a namespace");
    }
    if !HANDLERS.contains(&handler) {
        return Err(Error::new(Kind::Invalid, format!("runtime handler {handler:?}: not known; there is \"gantry\"")));
    }
    if !config.log_directory.is_empty() && !Path::new(&config.log_directory).is_absolute() {
        return invalid("config.log_directory: is not absolute");
    }
    let linux = config.linux.clone().unwrap_or_default();
    if linux.cgroup_parent.ends_with(".slice") || linux.cgroup_parent.split('/').any(|part| part == "..") {
        return invalid("linux.cgroup_parent: must be a path of the cgroupfs driver, such as /kubepods/pod1");
    }
    let options = linux.security_context.and_then(|security| security.namespace_options).unwrap_or_default();
    if options.userns_options.is_some_and(|user| user.mode() != NamespaceMode::Node) {
        return Err(Error::new(Kind::Unsupported, "user namespaces of pods are not offered by this version"));
    }
    Ok(())
}

async fn build(node: &Arc<Node>, pod: &Arc<Pod>) -> Result<()> {
    pod.save(&node.store).await?;
    node.fault("run-after-record");
    let record = pod.record.get();
    let own_ipc = record.namespaces().ipc() != NamespaceMode::Node;
    let spec = NetnsSpec {
        net: !record.host_network(),
        ipc: own_ipc,
        uts: !record.host_network(),
        hostname: record.config.hostname.clone(),
        sysctls: record.config.linux.as_ref().map(|l| l.sysctls.clone().into_iter().collect()).unwrap_or_default(),
    };
    netns::create(&pod.netns, &spec).await.context(|| "make its namespaces")?;
    node.fault("run-after-netns");
    let files = async {
        let (run, files, config) = (node.store.run_dir(&pod.id), pod.files.clone(), Arc::clone(&record));
        blocking(move || {
            crate::store::private_dir(&run)?;
            files.make(&config.config, own_ipc)
        })
        .await?;
        node.fault("run-after-files");
        pod.monitor.spawn(&node.binary).await
    };
    let (ips, ()) = tokio::try_join!(attach(node, pod, &record), files)?;
    node.fault("run-after-monitor");
    pod.amend(&node.store, |record| {
        record.ips = ips;
        record.made = true;
        true
    })
    .await?;
    exits::follow(node, pod);
    node.tell(&pod.id, &pod.id, ContainerEventType::ContainerCreatedEvent);
    node.tell(&pod.id, &pod.id, ContainerEventType::ContainerStartedEvent);
    Ok(())
}

async fn attach(node: &Node, pod: &Pod, record: &PodRecord) -> Result<Vec<String>> {
    if record.host_network() {
        return Ok(Vec::new());
    }
    let attached = node.network.attach(wish(node, pod, record)?).await;
    let attached = attached.context(|| "give it an address")?;
    node.fault("run-after-network");
    Ok(attached.ips.iter().map(ToString::to_string).collect())
}

fn wish(node: &Node, pod: &Pod, record: &PodRecord) -> Result<Wish> {
    let meta = record.config.metadata.clone().unwrap_or_default();
    let dns = record.config.dns_config.clone().unwrap_or_default();
    Ok(Wish {
        pod: pod.id.clone(),
        netns: pod.netns.join("net"),
        ports: ports(&record.config)?,
        namespace: meta.namespace,
        name: meta.name,
        uid: meta.uid,
        dns: Dns { servers: dns.servers, searches: dns.searches, options: dns.options },
        annotations: record.config.annotations.clone(),
        cgroup: cgroup(node, record),
    })
}

fn ports(config: &PodSandboxConfig) -> Result<Vec<PortMapping>> {
    let port = |number: i32| {
        u16::try_from(number).map_err(|_| Error::new(Kind::Invalid, format!("port_mappings: {number} is not a port")))
    };
    let convert = |mapping: &gantry_cri_api::PortMapping| {
        let host_ip: Option<IpAddr> = match mapping.host_ip.as_str() {
            "" | "0.0.0.0" | "::" => None,
            text => Some(text.parse().map_err(|_| {
                Error::new(Kind::Invalid, format!("port_mappings: host_ip {text:?} is not an IP address"))
            })?),
        };
        Ok(PortMapping {
            protocol: match mapping.protocol() {
                Protocol::Tcp => network::Protocol::Tcp,
                Protocol::Udp => network::Protocol::Udp,
                Protocol::Sctp => network::Protocol::Sctp,
            },
            container_port: port(mapping.container_port)?,
            host_port: port(mapping.host_port)?,
            host_ip,
        })
    };
    config.port_mappings.iter().filter(|mapping| mapping.host_port != 0).map(convert).collect()
}

/// Ends everything that runs in the pod and gives its address back. Idempotent.
///
/// # Errors
/// Those of every step, after all were tried; calling again repeats what is missing.
pub async fn stop(node: &Arc<Node>, pod: &Arc<Pod>) -> Result<()> {
    let _alone = pod.gate.write().await;
    stop_alone(node, pod).await
}

async fn stop_alone(node: &Arc<Node>, pod: &Arc<Pod>) -> Result<()> {
    let containers = node.containers_of(&pod.id);
    let killed = join_all(containers.iter().map(|c| containers::stop(node, c, Duration::ZERO))).await;
    let mut errors: Vec<Error> = killed.into_iter().filter_map(Result::err).collect();
    node.fault("stop-pod-after-kill");
    let record = pod.record.get();
    if !record.host_network() {
        errors.extend(node.network.detach(&pod.id).await.err());
    }
    node.fault("stop-pod-after-network");
    if errors.is_empty() {
        let was_stopped = record.stopped;
        let stopped = pod.amend(&node.store, |record| !std::mem::replace(&mut record.stopped, true)).await;
        errors.extend(stopped.err());
        errors.extend(pod.monitor.shutdown().await.err());
        if !was_stopped {
            node.tell(&pod.id, &pod.id, ContainerEventType::ContainerStoppedEvent);
        }
    }
    gather(errors, || format!("stop pod {}", pod.id))
}

/// Removes the pod with its containers. Idempotent.
///
/// # Errors
/// Those of every step, after all were tried; the record stays while anything else does.
pub async fn remove(node: &Arc<Node>, pod: &Arc<Pod>) -> Result<()> {
    let _alone = pod.gate.write().await;
    stop_alone(node, pod).await?;
    let containers = node.containers_of(&pod.id);
    let removed = join_all(containers.iter().map(|container| containers::remove(node, container))).await;
    let mut errors: Vec<Error> = removed.into_iter().filter_map(Result::err).collect();
    node.fault("remove-pod-after-monitor");
    errors.extend(netns::remove(&pod.netns).await.err());
    node.fault("remove-pod-after-netns");
    gather(errors, || format!("remove pod {}", pod.id))?;
    let (owned, files, run, store) =
        (Arc::clone(node), pod.files.clone(), node.store.run_dir(&pod.id), node.store.clone());
    let (id, cgroup) = (pod.id.clone(), cgroup(node, &pod.record.get()));
    blocking(move || {
        files.unmount()?;
        gone(std::fs::remove_dir_all(&run)).context(|| format!("remove {}", run.display()))?;
        owned.fault("remove-pod-after-run-dir");
        delete_cgroup(&owned, &cgroup)?;
        store.forget_pod(&id)
    })
    .await
    .context(|| format!("remove pod {}", pod.id))?;
    node.drop_pod(pod);
    node.tell(&pod.id, &pod.id, ContainerEventType::ContainerDeletedEvent);
    Ok(())
}

/// The cgroup that belongs to the pod as such; below the parent that was named, or, with none named, the parent itself.
pub fn cgroup(node: &Node, record: &PodRecord) -> String {
    let parent = match cgroup_parent(record) {
        "" => node.config.cgroup_root.as_str(),
        parent => parent,
    };
    format!("{}/{}", parent.trim_end_matches('/'), record.id)
}

/// The cgroup of a container: beside the pod's own below a parent that was named, else within it.
pub fn container_cgroup(node: &Node, record: &PodRecord, container: &str) -> String {
    match cgroup_parent(record) {
        "" => format!("{}/{container}", cgroup(node, record)),
        parent => format!("{}/{container}", parent.trim_end_matches('/')),
    }
}

/// The cgroup of the process that holds a shared PID namespace: never one with cgroups below it, since version 2
/// refuses processes there (EBUSY; "no internal processes" of cgroups(7)).
pub fn pause_cgroup(node: &Node, record: &PodRecord) -> String {
    match cgroup_parent(record) {
        "" => container_cgroup(node, record, "pause"),
        _ => cgroup(node, record),
    }
}

fn cgroup_parent(record: &PodRecord) -> &str {
    record.config.linux.as_ref().map(|linux| linux.cgroup_parent.as_str()).unwrap_or_default()
}

/// Removes a cgroup of ours in every tree. Idempotent.
pub fn delete_cgroup(node: &Node, path: &str) -> Result<()> {
    let cgroup = Cgroup::at(&node.cgroups, Path::new(path))?;
    Ok(cgroup.delete(Duration::from_secs(5))?)
}

/// The pod, if containers can be made in it.
pub fn ready(pod: &Pod) -> Result<Arc<PodRecord>> {
    let record = pod.record.get();
    match record.state() {
        PodSandboxState::SandboxReady => Ok(record),
        PodSandboxState::SandboxNotready => {
            Err(Error::new(Kind::WrongState, format!("pod sandbox {}: is not ready", pod.id)))
        }
    }
}

fn gather(errors: Vec<Error>, what: impl FnOnce() -> String) -> Result<()> {
    let Some(first) = errors.first() else { return Ok(()) };
    let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Err(Error::new(first.kind(), format!("{}: {}", what(), all.join("; "))))
}

#[cfg(test)]
mod tests {
    use gantry_cri_api::{LinuxPodSandboxConfig, PodSandboxMetadata};

    use super::*;

    fn good() -> PodSandboxConfig {
        let metadata = PodSandboxMetadata { name: "a".into(), namespace: "b".into(), ..Default::default() };
        PodSandboxConfig { metadata: Some(metadata), ..Default::default() }
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_made() {
        check(&good(), "").unwrap();
        check(&good(), "gantry").unwrap();
        assert!(check(&PodSandboxConfig::default(), "").is_err());
        assert!(check(&good(), "kata").unwrap_err().to_string().contains("kata"));
        for parent in ["system.slice", "/a/../.."] {
            let linux = LinuxPodSandboxConfig { cgroup_parent: parent.into(), ..Default::default() };
            assert!(check(&PodSandboxConfig { linux: Some(linux), ..good() }, "").is_err(), "{parent}");
        }
        assert!(check(&PodSandboxConfig { log_directory: "logs".into(), ..good() }, "").is_err());
    }

    #[test]
    fn ports_without_a_host_port_ask_for_nothing() {
        let mapping = |host_port, host_ip: &str| gantry_cri_api::PortMapping {
            container_port: 80,
            host_port,
            host_ip: host_ip.into(),
            protocol: Protocol::Udp as i32,
        };
        let with = |mapping| ports(&PodSandboxConfig { port_mappings: vec![mapping], ..good() });
        assert!(with(mapping(0, "")).unwrap().is_empty());
        assert_eq!(with(mapping(8080, "0.0.0.0")).unwrap()[0].host_ip, None);
        assert_eq!(with(mapping(8080, "127.0.0.1")).unwrap()[0].host_port, 8080);
        assert!(with(mapping(70_000, "")).is_err());
        assert_eq!(with(mapping(80, "fd00::1")).unwrap()[0].host_ip, Some("fd00::1".parse().unwrap()));
        assert!(with(mapping(80, "localhost")).is_err());
    }

    #[test]
    fn errors_are_gathered() {
        assert!(gather(Vec::new(), String::new).is_ok());
        let two = vec![Error::new(Kind::Timeout, "a"), Error::internal("b")];
        let all = gather(two, || "stop pod x".into()).unwrap_err();
        assert_eq!((all.kind(), all.to_string().as_str()), (Kind::Timeout, "stop pod x: a; b"));
    }
}
