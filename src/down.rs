//! `gantry down`: ends the daemon, then everything that it left running by design: pods, monitors, namespaces.

use crate::config::Config;
use crate::{daemon, private_network};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long the daemon may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// Stops the node and removes what runs on it; its images, store and certificates stay in the data directory.
pub(crate) fn run(config: &Config) -> Result<ExitCode, String> {
    if !config.run_dir.exists() {
        println!("no node runs with the run directory {}", config.run_dir.display());
        return Ok(ExitCode::SUCCESS);
    }
    stop_daemon(config)?;
    let _one = daemon::Lock::take(config)?;
    if config.private_network {
        private_network::enter(&config.run_dir)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|why| format!("start the async runtime: {why}"))?;
    let removed = runtime.block_on(remove_pods(config));
    let dismantled = runtime.block_on(gantry_cri::dismantle(daemon::cri(config)));
    drop(runtime);
    let volumes = gantry_kubelet::dismantle(&config.data_dir.join("kubelet"));
    remove_cgroups(config);
    private_network::release(&config.run_dir)?;
    let removed = removed?;
    dismantled.map_err(|why| format!("take down the pod network: {why}"))?;
    volumes.map_err(|why| format!("remove the pods' volumes: {why}"))?;
    remove_run_dir(&config.run_dir)?;
    println!("the node is down; pods removed: {removed}");
    Ok(ExitCode::SUCCESS)
}

/// Ends the daemon that holds the pid file, if one does.
fn stop_daemon(config: &Config) -> Result<(), String> {
    let file = config.run_dir.join("gantry.pid");
    let pid = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
    let Some(pid) = pid.filter(|_| daemon::Lock::take(config).is_err()) else { return Ok(()) };
    kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(|why| format!("stop the daemon, pid {pid}: {why}"))?;
    let end = Instant::now() + PATIENCE;
    while daemon::Lock::take(config).is_err() {
        if Instant::now() > end {
            kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(|why| format!("kill the daemon, pid {pid}: {why}"))?;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Runs the CRI server alone for as long as it takes to remove every pod through it.
async fn remove_pods(config: &Config) -> Result<usize, String> {
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(gantry_cri::run(daemon::cri(config), shutdown.clone()));
    let removed = async {
        let mut client = connect(&config.cri_socket()).await?;
        let list = client.list_pod_sandbox(gantry_cri_api::ListPodSandboxRequest::default()).await;
        let pods = list.map_err(|why| format!("list the pods: {}", why.message()))?.into_inner().items;
        for pod in &pods {
            let stop = gantry_cri_api::StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
            client.stop_pod_sandbox(stop).await.map_err(|why| format!("stop pod {}: {}", pod.id, why.message()))?;
            let remove = gantry_cri_api::RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
            client
                .remove_pod_sandbox(remove)
                .await
                .map_err(|why| format!("remove pod {}: {}", pod.id, why.message()))?;
        }
        Ok(pods.len())
    }
    .await;
    shutdown.cancel();
    match server.await {
        Ok(Ok(())) => removed,
        Ok(Err(why)) => Err(format!("CRI server: {why}")),
        Err(why) => Err(format!("CRI server: {why}")),
    }
}

type Client = gantry_cri_api::runtime_service_client::RuntimeServiceClient<gantry_cri_api::tonic::transport::Channel>;

async fn connect(socket: &Path) -> Result<Client, String> {
    let end = Instant::now() + PATIENCE;
    loop {
        match gantry_cri_api::connect(socket).await {
            Ok(channel) => return Ok(Client::new(channel)),
            Err(why) if Instant::now() > end => return Err(format!("connect to {}: {why}", socket.display())),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Removes sockets, locks and empty directories; nothing, where something is still mounted below.
fn remove_run_dir(dir: &Path) -> Result<(), String> {
    let below = format!("{}/", dir.display());
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|why| format!("read the mounts: {why}"))?;
    if let Some(mount) = mounts.split_whitespace().find(|word| word.starts_with(&below)) {
        return Err(format!("{mount} is still mounted; unmount it, then run this again"));
    }
    fs::remove_dir_all(dir).map_err(|why| format!("remove {}: {why}", dir.display()))
}

/// Removes the groups that the kubelet made, deepest first. One that is in use stays: it is not ours then.
fn remove_cgroups(config: &Config) {
    let below = config.cgroup_root.trim_matches('/');
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path()) {
        remove_tree(&hierarchy.join(below).join("kubepods"));
        if !below.is_empty() {
            let _ = fs::remove_dir(hierarchy.join(below));
        }
    }
    let unified = Path::new("/sys/fs/cgroup").join(below);
    remove_tree(&unified.join("kubepods"));
    if !below.is_empty() {
        let _ = fs::remove_dir(unified);
    }
}

fn remove_tree(group: &Path) {
    for child in fs::read_dir(group).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if child.is_dir() {
            remove_tree(&child);
        }
    }
    let _ = fs::remove_dir(group);
}
