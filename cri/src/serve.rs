//! [`run`]: opens everything, recovers, serves on the socket until told to stop. Pods go on.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use gantry_runtime::cgroup::Layout;
use gantry_runtime::monitor::SealedBinary;
use nix::fcntl::{Flock, FlockArg};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::error::{Context, Error, Kind, Result};
use crate::network::{Network, NetworkConfig};
use crate::node::{Images, Node, Parts, blocking};
use crate::store::{Store, private_dir};
use crate::streaming::Server;
use crate::{host, recover, service};

/// How long calls under way are given at the end; clients keep their connections open for ever.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves CRI as `config` says until `shutdown`; then it ends and leaves every pod running, to be found again by the
/// next `run` with the same directories.
///
/// # Errors
/// [`Kind::Invalid`] for the configuration, [`Kind::Exists`] when another server uses these directories, and whatever
/// keeps a store, the network or the socket from being opened.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<()> {
    config.check()?;
    private_dir(&config.run)?;
    let _only = only_one(&config.run)?;
    let listener = listen(&config.socket)?;
    let node = open(config, shutdown.clone()).await?;
    recover::recover(&node).await?;
    let _looking = recover::look_at_networks(&node);
    tracing::info!(socket = %node.config.socket.display(), pods = node.pods().len(), "serving CRI");
    let serving = service::router(&node)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown.clone().cancelled_owned());
    let late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        served = serving => served.map_err(|why| Error::internal(format!("serve CRI: {why}"))),
        () = node.images.tend() => Ok(()),
        () = late => Ok(()),
    }
}

fn network_config(config: &Config) -> Result<NetworkConfig> {
    Ok(NetworkConfig {
        settings: config.network.clone(),
        bridge_name: config.bridge.clone(),
        fault: config.fault.clone(),
        ..NetworkConfig::new(config.root.join("network"), config.run.join("network"), config.pod_cidr.parse()?)
    })
}

/// Removes what outlives the last pod by design: the bridge, the firewall table, the mount that keeps namespaces. For a
/// node that goes away for good, after every pod was removed and [`run`] has ended.
///
/// # Errors
/// [`Kind::Exists`] while a server uses these directories, `Internal` for what the kernel refuses.
pub async fn dismantle(config: Config) -> Result<()> {
    let _only = only_one(&config.run)?;
    Network::open(network_config(&config)?).await?.dismantle().await?;
    crate::network::netns::unprepare(&config.run.join("netns")).await
}

async fn open(config: Config, shutdown: CancellationToken) -> Result<std::sync::Arc<Node>> {
    let network = Network::open(network_config(&config)?);
    let mut images_config = gantry_images::Config { root: config.images_root.clone(), ..config.images.clone() };
    if config.hosts_dir.is_some() {
        images_config.hosts_dir.clone_from(&config.hosts_dir);
    }
    images_config.check().map_err(|why| Error::new(Kind::Invalid, format!("images: {why}")))?;
    let dirs = images_config.hosts_dir.iter().flat_map(|path| std::env::split_paths(path).collect::<Vec<_>>());
    let dirs: Vec<String> = dirs.filter(|dir| dir.is_dir()).map(|dir| dir.display().to_string()).collect();
    tracing::info!(dirs = dirs.join(":"), "registries' settings (hosts.toml) are read from here");
    let wanted = config.runtime_binary.clone();
    let store = Store::open(&config.root, &config.run)?;
    let opened = blocking(move || {
        let images = gantry_images::Store::open(images_config)?;
        let binary = SealedBinary::open(&host::runtime_binary(wanted.as_deref())?)?;
        Ok((Images(images), binary, host::look(), Layout::discover()?))
    });
    let (network, (images, binary, host, cgroups)) = tokio::try_join!(network, opened)?;
    let streaming = Server::bind(config.streaming_address, shutdown.clone()).await?;
    Ok(Node::new(Parts { config, store, images, network, streaming, binary, host, cgroups, shutdown }))
}

/// Two servers on the same directories would undo each other's work.
fn only_one(run: &Path) -> Result<Flock<File>> {
    let path = run.join("cri.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.context(|| format!("open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| Error::new(Kind::Exists, format!("another CRI server uses {}", run.display())))
}

/// A socket for root alone, in place of one that a killed server left. Never an abstract one (CVE-2020-15257).
fn listen(path: &Path) -> Result<UnixListener> {
    if let Some(dir) = path.parent().filter(|dir| !dir.exists()) {
        private_dir(dir)?;
    }
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {
            fs::remove_file(path).context(|| format!("remove the stale socket {}", path.display()))?;
        }
        Ok(_) => return Err(Error::new(Kind::Exists, format!("{} is there and no socket", path.display()))),
        Err(_) => {}
    }
    // Bound under another name and renamed, so that nobody can connect before the mode is right.
    let draft = path.with_extension("new");
    let _ = fs::remove_file(&draft);
    let listener = UnixListener::bind(&draft).context(|| format!("listen on {}", path.display()))?;
    fs::set_permissions(&draft, Permissions::from_mode(0o600)).context(|| format!("close {}", path.display()))?;
    fs::rename(&draft, path).context(|| format!("listen on {}", path.display()))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_roots_and_replaces_a_stale_one() {
        let dir = std::env::temp_dir().join(format!("gantry-cri-socket-{}", std::process::id()));
        let path = dir.join("cri.sock");
        drop(listen(&path).unwrap());
        let _listener = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        tokio::net::UnixStream::connect(&path).await.unwrap();
        fs::write(dir.join("file"), "").unwrap();
        assert_eq!(listen(&dir.join("file")).unwrap_err().kind(), Kind::Exists);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn one_server_a_directory() {
        let dir = std::env::temp_dir().join(format!("gantry-cri-lock-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let first = only_one(&dir).unwrap();
        assert_eq!(only_one(&dir).unwrap_err().kind(), Kind::Exists);
        drop(first);
        only_one(&dir).unwrap();
        fs::remove_dir_all(dir).unwrap();
    }
}
