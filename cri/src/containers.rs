//! The life of a container: create, start, stop, remove. As for pods, remove is the only rollback.
//!
//! ```text
//! create  record -> rootfs -> bundle -> monitor: create -> record: made
//! start   monitor: start -> record: started_at
//! stop    signal -> grace -> KILL to all; done when the exit is on record
//! remove  stop -> monitor: delete (cgroup) -> rootfs -> bundle -> record
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gantry_cri_api::{ContainerConfig, ContainerEventType, ContainerState, NamespaceMode, PodSandboxConfig};
use gantry_images::Image;
use gantry_runtime::monitor::protocol::Create;
use serde_json::Value;

use crate::convert::{self, Input, Places, Seccomp};
use crate::error::{Context, Error, Kind, Result};
use crate::node::{Container, Node, Pod, blocking, new_id, now};
use crate::store::{ContainerRecord, Exit, PodRecord, gone, private_dir};
use crate::{cdi, exits, host, pods, rootfs, volumes};

/// How long a killed container may take to be gone. What takes longer is in the kernel's hands.
const DYING: Duration = Duration::from_secs(10);

/// Makes a container that waits for its start; gives its id.
///
/// # Errors
/// [`Kind::NotFound`] (pod, image), [`Kind::WrongState`] (the pod is stopped), [`Kind::Exists`] (a container of this name
/// and attempt), [`Kind::Invalid`]. After an error nothing is left of the container.
pub async fn create(
    node: &Arc<Node>,
    pod: &str,
    mut config: ContainerConfig,
    said: Option<PodSandboxConfig>,
) -> Result<String> {
    let pod = node.pod(pod)?;
    let _open = pod.gate.read().await;
    let of_pod = pods::ready(&pod)?;
    check(&config)?;
    let name = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
    let image = node.images.image(&name).ok_or_else(|| Error::not_found("image", &name))?;
    if let Some(kind) = &image.artifact {
        let why = format!("image {name:?} is an artifact ({kind}): it can be mounted as a volume, not run");
        return Err(Error::new(Kind::Invalid, why));
    }
    volumes::pin(node, &mut config.mounts)?;
    let mut record = ContainerRecord::new(&new_id()?, &pod.id, config, now());
    record.image_id = image.id.clone();
    record.image_ref = image.repo_digests.first().unwrap_or(&image.id).clone();
    record.cgroup = pods::container_cgroup(node, &of_pod, &record.id);
    record.log_path = log_path(said.as_ref().unwrap_or(&of_pod.config), &record.config)?;
    record.stop_signal = convert::stop_signal(&record.config, &image.config)?;
    let container = node.add_container(&pod, record)?;
    match build(node, &container, &of_pod, &image).await {
        Ok(()) => Ok(container.id.clone()),
        Err(why) => {
            if let Err(more) = remove(node, &container).await {
                tracing::error!(container = container.id, %more, "what was made of a container that failed could not all be removed");
            }
            let name = container.record.get().name();
            Err(why.within(format!("create container {name}")))
        }
    }
}

/// Refuses what cannot be, before anything is made.
fn check(config: &ContainerConfig) -> Result<()> {
    if config.metadata.as_ref().is_none_or(|meta| meta.name.is_empty()) {
        return Err(Error::new(Kind::Invalid, "config.metadata: needs a name"));
    }
    volumes::check(&config.mounts)
}

/// `log_directory/log_path`; empty for a container without a log. It must stay below the directory.
fn log_path(pod: &PodSandboxConfig, config: &ContainerConfig) -> Result<String> {
    if pod.log_directory.is_empty() || config.log_path.is_empty() {
        return Ok(String::new());
    }
    let relative = Path::new(&config.log_path);
    let plain = relative.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    match plain {
        true => Ok(Path::new(&pod.log_directory).join(relative).to_string_lossy().into_owned()),
        false => Err(Error::new(Kind::Invalid, format!("log_path: {:?} leaves the log directory", config.log_path))),
    }
}

async fn build(node: &Arc<Node>, container: &Arc<Container>, pod: &Arc<PodRecord>, image: &Arc<Image>) -> Result<()> {
    container.save(&node.store).await?;
    node.fault("create-after-record");
    let root = node.images.rootfs(&image.id, &container.id).await?.path;
    node.fault("create-after-rootfs");
    let mut config = container.record.get().config.clone();
    volumes::mount(node, container, &mut config.mounts).await?;
    let places = places(node, &container.pod, pod, &config).await?;
    let bundle = node.store.bundle(&container.pod.id, &container.id);
    let work =
        Bundle { node: Arc::clone(node), container: Arc::clone(container), pod: Arc::clone(pod), config, places };
    let image = Arc::clone(image);
    let dir = bundle.clone();
    let user = blocking(move || work.write(&image, &root, &dir)).await?;
    node.fault("create-after-bundle");
    let record = container.record.get();
    let create = Create {
        id: container.id.clone(),
        bundle,
        log_path: Some(&record.log_path).filter(|path| !path.is_empty()).map(PathBuf::from),
        tty: record.config.tty,
        stdin: record.config.stdin,
        stdin_once: record.config.stdin_once,
    };
    container.pod.monitor.create(create).await?;
    node.fault("create-after-create");
    container
        .amend(&node.store, |record| {
            record.user = user;
            record.made = true;
            true
        })
        .await?;
    node.tell(&container.id, &container.pod.id, ContainerEventType::ContainerCreatedEvent);
    Ok(())
}

/// What goes to a blocking thread to decide and write the bundle.
struct Bundle {
    node: Arc<Node>,
    container: Arc<Container>,
    pod: Arc<PodRecord>,
    config: ContainerConfig,
    places: Places,
}

impl Bundle {
    fn write(&self, image: &Image, root: &Path, dir: &Path) -> Result<convert::User> {
        let security = convert::security_context(&self.config);
        let image_user = image.config.config().as_ref().and_then(|image| image.user().clone()).unwrap_or_default();
        let wanted = convert::wanted(&security, &image_user)?;
        let user = rootfs::user(root, &wanted)?;
        for mount in &self.config.mounts {
            host::ensure_source(Path::new(&mount.host_path))?;
        }
        let record = self.container.record.get();
        let seccomp = Seccomp {
            localhost: host::localhost_profile(security.seccomp.as_ref())?,
            unset: self.node.config.default_seccomp,
        };
        let mut spec = convert::container(&Input {
            id: &record.id,
            pod_id: &self.pod.id,
            pod: &self.pod.config,
            config: &self.config,
            image: &image.config,
            user: &user,
            rootfs: root,
            places: &self.places,
            cgroup: &record.cgroup,
            seccomp: &seccomp,
            devices: &host::devices(&self.config.devices)?,
            host: &self.node.host,
        })?;
        cdi::inject(&mut spec, &self.config.cdi_devices, &self.node.config.cdi_dirs)?;
        private_dir(dir)?;
        let text = serde_json::to_vec(&spec).context(|| "encode config.json")?;
        let path = dir.join("config.json");
        std::fs::write(&path, text).context(|| format!("write {}", path.display()))?;
        if let Some(logs) = Path::new(&record.log_path).parent() {
            // kubelet has made it; crictl has not.
            std::fs::create_dir_all(logs).context(|| format!("make {}", logs.display()))?;
        }
        Ok(user)
    }
}

async fn places(node: &Node, pod: &Pod, record: &PodRecord, config: &ContainerConfig) -> Result<Places> {
    let wanted = convert::security_context(config).namespace_options.unwrap_or_default();
    let own = |there: bool, name: &str| there.then(|| pod.netns.join(name));
    let own_ipc = record.namespaces().ipc() != NamespaceMode::Node;
    let pid = match wanted.pid() {
        NamespaceMode::Pod => Some(pod.monitor.pause(&pods::pause_cgroup(node, record)).await?),
        NamespaceMode::Target => Some(target(node, pod, &wanted.target_id).await?),
        NamespaceMode::Container | NamespaceMode::Node => None,
    };
    Ok(Places {
        net: own(!record.host_network(), "net"),
        ipc: own(own_ipc, "ipc"),
        uts: own(!record.host_network(), "uts"),
        pid: pid.map(|pid| PathBuf::from(format!("/proc/{pid}/ns/pid"))),
        hostname: pod.files.hostname(),
        hosts: pod.files.hosts(),
        resolv_conf: pod.files.resolv_conf(),
        shm: if own_ipc { pod.files.shm() } else { "/dev/shm".into() },
    })
}

/// The first process of a container of the same pod.
async fn target(node: &Node, pod: &Pod, id: &str) -> Result<i32> {
    let target = node.container(id)?;
    if target.pod.id != pod.id {
        return Err(Error::new(Kind::Invalid, format!("target_id: container {id} is in another pod")));
    }
    let state = pod.monitor.state().await?;
    let running = state.containers.iter().find(|c| c.id == target.id && c.exit.is_none());
    running
        .map(|c| c.pid)
        .ok_or_else(|| Error::new(Kind::WrongState, format!("target_id: container {id} does not run")))
}

/// Runs the container's program.
///
/// # Errors
/// [`Kind::NotFound`], [`Kind::WrongState`] unless it is created. When the program cannot be run the container has
/// exited with 128 and the reason StartError, as kubelet expects.
pub async fn start(node: &Arc<Node>, container: &Arc<Container>) -> Result<()> {
    let _alone = container.gate.lock().await;
    let state = container.record.get().state();
    if state != ContainerState::ContainerCreated {
        let name = state.as_str_name();
        return Err(Error::new(Kind::WrongState, format!("start container {}: it is in {name}", container.id)));
    }
    pods::ready(&container.pod)?;
    node.fault("start-before-start");
    let begun = now();
    if let Err(why) = container.pod.monitor.start(&container.id).await {
        let message = why.to_string();
        exits::settle(node, container, move |_| Exit {
            code: 128,
            finished_at: now(),
            reason: "StartError".into(),
            message,
        })
        .await?;
        let _ = container.pod.monitor.kill(&container.id, libc::SIGKILL, true).await;
        return Err(why);
    }
    node.fault("start-after-start");
    container
        .amend(&node.store, move |record| {
            let news = record.started_at == 0;
            if news {
                record.started_at = begun;
            }
            news
        })
        .await?;
    node.tell(&container.id, &container.pod.id, ContainerEventType::ContainerStartedEvent);
    Ok(())
}

/// Ends the container: its stop signal, then after `grace` KILL to everything in it. Idempotent; returns once the exit
/// is on record.
///
/// # Errors
/// [`Kind::Timeout`] when it does not die even of KILL.
pub async fn stop(node: &Arc<Node>, container: &Arc<Container>, grace: Duration) -> Result<()> {
    let record = container.record.get();
    if record.exit.is_some() || !record.made {
        return Ok(());
    }
    let monitor = &container.pod.monitor;
    if !grace.is_zero() && record.started_at != 0 {
        monitor.kill(&container.id, record.stop_signal, false).await?;
        node.fault("stop-after-signal");
        if exited(container, grace).await {
            return Ok(());
        }
    }
    monitor.kill(&container.id, libc::SIGKILL, true).await?;
    if exited(container, DYING).await {
        return Ok(());
    }
    // The event may have been lost with a connection; the monitor's own word counts.
    for state in monitor.state().await?.containers.iter().filter(|state| state.id == container.id) {
        exits::seen(node, state).await?;
    }
    match container.record.get().exit {
        Some(_) => Ok(()),
        None => {
            let seconds = DYING.as_secs();
            let what = format!(
                "stop container {}: {seconds} s after KILL it still exists: {}",
                container.id,
                stuck(node, &record)
            );
            Err(Error::new(Kind::Timeout, what))
        }
    }
}

async fn exited(container: &Container, patience: Duration) -> bool {
    let mut watch = container.record.watch();
    let ended = watch.wait_for(|record| record.exit.is_some());
    tokio::time::timeout(patience, ended).await.is_ok()
}

/// What the kernel says about processes that do not die (proc(5), state D and wchan).
fn stuck(node: &Node, record: &ContainerRecord) -> String {
    let cgroup = gantry_runtime::cgroup::Cgroup::at(&node.cgroups, Path::new(&record.cgroup));
    let pids = cgroup.and_then(|cgroup| cgroup.pids()).unwrap_or_default();
    let told = pids.iter().take(4).map(|pid| {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let state =
            read("stat").rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).unwrap_or("?").to_owned();
        format!("process {pid} in state {state} at {:?}", read("wchan"))
    });
    told.collect::<Vec<_>>().join(", ")
}

/// Removes the container; a running one is killed first. Idempotent.
///
/// # Errors
/// That of the first step that failed; calling again goes on from there.
pub async fn remove(node: &Arc<Node>, container: &Arc<Container>) -> Result<()> {
    let _alone = container.gate.lock().await;
    stop(node, container, Duration::ZERO).await?;
    let record = container.record.get();
    let what = || format!("remove container {}", container.id);
    container.pod.monitor.delete(&container.id).await.context(what)?;
    let (owned, cgroup) = (Arc::clone(node), record.cgroup.clone());
    blocking(move || pods::delete_cgroup(&owned, &cgroup)).await.context(what)?;
    node.fault("remove-after-delete");
    for key in volumes::keys(&record).into_iter().chain([container.id.clone()]) {
        node.images.release_rootfs(&key).await?;
    }
    node.fault("remove-after-rootfs");
    let (store, pod, id) = (node.store.clone(), container.pod.id.clone(), container.id.clone());
    blocking(move || {
        let dir = store.bundle(&pod, &id).parent().map(Path::to_owned).unwrap_or_default();
        gone(std::fs::remove_dir_all(&dir)).context(|| format!("remove {}", dir.display()))?;
        store.forget_container(&pod, &id)
    })
    .await
    .context(what)?;
    node.drop_container(container);
    node.tell(&container.id, &container.pod.id, ContainerEventType::ContainerDeletedEvent);
    Ok(())
}

/// The OCI specification that the container was made from.
pub async fn spec(node: &Node, container: &Container) -> Result<Value> {
    let path = node.store.bundle(&container.pod.id, &container.id).join("config.json");
    blocking(move || {
        let text = std::fs::read(&path).context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).context(|| format!("read {}", path.display()))
    })
    .await
}

/// The container, if it runs.
pub fn running(node: &Node, id: &str) -> Result<Arc<Container>> {
    let container = node.container(id)?;
    let state = container.record.get().state();
    match state {
        ContainerState::ContainerRunning => Ok(container),
        state => {
            let what = format!("container {}: is in {}, not running", container.id, state.as_str_name());
            Err(Error::new(Kind::WrongState, what))
        }
    }
}

#[cfg(test)]
mod tests {
    use gantry_cri_api::ContainerMetadata;

    use super::*;

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_made() {
        let metadata = ContainerMetadata { name: "web".into(), attempt: 0 };
        let good = ContainerConfig { metadata: Some(metadata), ..Default::default() };
        check(&good).unwrap();
        assert!(check(&ContainerConfig::default()).is_err());
    }

    #[test]
    fn a_log_stays_in_the_log_directory() {
        let path = |directory: &str, name: &str| {
            let pod = PodSandboxConfig { log_directory: directory.into(), ..Default::default() };
            log_path(&pod, &ContainerConfig { log_path: name.into(), ..Default::default() })
        };
        assert_eq!(path("/var/log/pods/x", "web/0.log").unwrap(), "/var/log/pods/x/web/0.log");
        assert_eq!(path("", "web/0.log").unwrap(), "");
        assert_eq!(path("/var/log/pods/x", "").unwrap(), "");
        for bad in ["../../etc/cron.d/x", "/etc/cron.d/x", "a/../../b", "./a"] {
            assert!(path("/var/log/pods/x", bad).is_err(), "{bad}");
        }
    }
}
