//! A pod's volumes: made before its containers, refreshed when what they show changes, taken down with the
//! pod. Layout under the kubelet's root as upstream's: pods/<uid>/volumes/kubernetes.io~<kind>/<name>.
//! Kinds that are not made here are refused with a message that becomes a FailedMount event.

pub(crate) mod atomic;
pub(crate) mod content;
pub(crate) mod hostpath;
pub(crate) mod subpath;
pub(crate) mod tokens;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};
use k8s_openapi::jiff::Timestamp;
use nix::mount::{MsFlags, mount};

use crate::error::{Error, Result};
use crate::files;
use crate::pod;
use crate::pods::env::{Kind, Sources};
use crate::pods::fields::Addresses;
use crate::quantity;
use crate::shared::Shared;
use content::{Inputs, Payload, TokenWish};

/// The volumes of a pod that are ready to be mounted, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Volumes {
    pub paths: BTreeMap<String, PathBuf>,
    /// Mounts of these are always read-only.
    pub read_only: Vec<String>,
    /// When a token among them is to be renewed.
    pub renew_at: Option<Timestamp>,
}

/// The directory of everything that belongs to a pod.
pub(crate) fn pod_dir(root: &Path, uid: &str) -> PathBuf {
    root.join("pods").join(uid)
}

fn volume_dir(root: &Path, uid: &str, volume: &Volume) -> PathBuf {
    let kind = match volume {
        Volume { empty_dir: Some(_), .. } => "empty-dir",
        Volume { config_map: Some(_), .. } => "configmap",
        Volume { secret: Some(_), .. } => "secret",
        Volume { downward_api: Some(_), .. } => "downward-api",
        _ => "projected",
    };
    pod_dir(root, uid).join("volumes").join(format!("kubernetes.io~{kind}")).join(&volume.name)
}

/// Makes (or refreshes) all volumes of the pod. Idempotent.
///
/// # Errors
/// The first volume that cannot be had: FailedMount.
pub(crate) async fn set_up(shared: &Shared, of: &Pod) -> Result<Volumes> {
    let volumes = pod::spec(of).volumes.clone().unwrap_or_default();
    if volumes.is_empty() {
        return Ok(Volumes::default());
    }
    let (sources, tokens) = tokio::try_join!(fetch(shared, of, &volumes), tokens::fetch(shared, of, &volumes))?;
    let plain: BTreeMap<TokenWish, String> = tokens.iter().map(|(w, t)| (w.clone(), t.token.clone())).collect();
    let addresses = Addresses { host: shared.node.ips(), ..Addresses::default() };
    let inputs = Inputs {
        pod: of,
        sources: &sources,
        tokens: &plain,
        addresses: &addresses,
        allocatable: &shared.node.allocatable,
    };
    let mut payloads = BTreeMap::new();
    for volume in &volumes {
        let files = content::files(&inputs, volume).map_err(|e| failed(volume, e))?;
        payloads.extend(files.map(|f| (volume.name.clone(), f)));
    }
    let (root, uid) = (shared.config.root_dir.clone(), pod::uid(of).to_string());
    let group = pod::spec(of).security_context.as_ref().and_then(|c| c.fs_group).and_then(|g| u32::try_from(g).ok());
    let renew_at = tokens.values().map(|t| t.renew_at).min();
    let made = tokio::task::spawn_blocking(move || -> Result<Volumes> {
        let mut out = Volumes { renew_at, ..Volumes::default() };
        for volume in &volumes {
            let path = make(&root, &uid, volume, payloads.get(&volume.name), group).map_err(|e| failed(volume, e))?;
            out.paths.insert(volume.name.clone(), path);
            if payloads.contains_key(&volume.name) {
                out.read_only.push(volume.name.clone());
            }
        }
        Ok(out)
    });
    made.await.map_err(|e| Error::io("set up volumes", e))?
}

fn failed(volume: &Volume, why: Error) -> Error {
    Error::new(why.kind(), format!("MountVolume.SetUp failed for volume {:?}: {why}", volume.name))
}

/// The data of all ConfigMaps and Secrets named by `volumes`.
async fn fetch(shared: &Shared, of: &Pod, volumes: &[Volume]) -> Result<Sources> {
    let mut wanted: Vec<_> = volumes.iter().flat_map(content::references).collect();
    wanted.sort();
    wanted.dedup();
    sources(shared, pod::namespace(of), wanted).await
}

/// The data of `wanted` that exists.
pub(crate) async fn sources(shared: &Shared, namespace: &str, wanted: Vec<(Kind, String)>) -> Result<Sources> {
    let all = wanted.into_iter().map(|(kind, name)| async move {
        let data = shared.objects.get(kind, namespace, &name).await?;
        Ok::<_, Error>(data.map(|d| ((kind, name), (*d).clone())))
    });
    Ok(try_join_all(all).await?.into_iter().flatten().collect())
}

fn make(root: &Path, uid: &str, volume: &Volume, files: Option<&Vec<Payload>>, group: Option<u32>) -> Result<PathBuf> {
    if let Some(source) = &volume.host_path {
        return hostpath::set_up(source);
    }
    let dir = volume_dir(root, uid, volume);
    if let Some(source) = &volume.empty_dir {
        empty_dir(&dir, source, group)?;
        return Ok(dir);
    }
    let Some(files) = files else {
        return Err(Error::pod("this kind of volume is not supported by this node"));
    };
    files::make_dir(&dir, 0o755)?;
    if volume.config_map.is_none() {
        // Secrets, tokens and what is projected never reach a disk.
        tmpfs(&dir, "size=16m,mode=0755")?;
    }
    if let Some(group) = group {
        chown(&dir, None, Some(group)).map_err(|e| Error::io(format!("give {} to group {group}", dir.display()), e))?;
        files::make_dir(&dir, 0o2775)?;
    }
    atomic::write(&dir, files, group)?;
    Ok(dir)
}

fn empty_dir(dir: &Path, source: &EmptyDirVolumeSource, group: Option<u32>) -> Result<()> {
    let is_new = !dir.exists();
    match source.medium.as_deref() {
        None | Some("") => {}
        Some("Memory") => {
            files::make_dir(dir, 0o777)?;
            let size = source.size_limit.as_ref().map(quantity::units).filter(|s| *s > 0);
            let size = size.map_or_else(|| "size=50%".to_string(), |s| format!("size={s}"));
            tmpfs(dir, &format!("{size},mode=0777"))?;
        }
        Some(other) => return Err(Error::pod(format!("emptyDir medium {other:?} is not supported"))),
    }
    if is_new {
        files::make_dir(dir, 0o777)?;
        if let Some(group) = group {
            chown(dir, None, Some(group))
                .map_err(|e| Error::io(format!("give {} to group {group}", dir.display()), e))?;
            fs::set_permissions(dir, fs::Permissions::from_mode(0o2777))
                .map_err(|e| Error::io(format!("set the mode of {}", dir.display()), e))?;
        }
    }
    Ok(())
}

/// Mounts a tmpfs on `dir`, unless something is mounted there already.
fn tmpfs(dir: &Path, options: &str) -> Result<()> {
    if is_mount_point(dir) {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), dir, Some("tmpfs"), flags, Some(options))
        .map_err(|e| Error::io(format!("mount a tmpfs on {}", dir.display()), e))
}

fn is_mount_point(dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::symlink_metadata(path).map(|m| m.dev()).ok();
    dir.parent().is_some_and(|parent| device(dir).is_some() && device(dir) != device(parent))
}

/// Unmounts and removes the volumes of a pod that is finished; the rest of its directory stays.
///
/// # Errors
/// What `tear_down` says.
pub(crate) fn release(root: &Path, uid: &str) -> Result<()> {
    for part in ["volume-subpaths", "volumes"] {
        remove(&checked(root, uid)?.join(part))?;
    }
    Ok(())
}

/// Unmounts and removes everything of the pod under `root`. Runs to its end; what stays is said, and taken
/// up again by garbage collection.
pub(crate) fn tear_down(root: &Path, uid: &str) -> Result<()> {
    remove(&checked(root, uid)?)
}

/// Unmounts and removes everything of every pod under `root`, when the node goes and its pods are gone.
pub(crate) fn tear_down_all(root: &Path) -> Result<()> {
    remove(&root.join("pods"))
}

fn checked(root: &Path, uid: &str) -> Result<PathBuf> {
    if uid.is_empty() || uid.contains('/') || uid.starts_with('.') {
        return Err(Error::pod(format!("pod uid {uid:?} is no name of a directory")));
    }
    Ok(pod_dir(root, uid))
}

fn remove(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for target in mounts_below(dir) {
        subpath::detach(&target);
    }
    if !mounts_below(dir).is_empty() {
        return Err(Error::pod(format!("something stays mounted below {}", dir.display())));
    }
    fs::remove_dir_all(dir).map_err(|e| Error::io(format!("remove {}", dir.display()), e))
}

/// Mount points below `dir`, deepest first.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let real = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    let mut all: Vec<PathBuf> =
        text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).filter(|p| p.starts_with(&real)).collect();
    all.reverse();
    all
}

/// mountinfo writes blanks as \040.
fn unescape(text: &str) -> PathBuf {
    PathBuf::from(text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\"))
}

#[cfg(test)]
#[path = "volume_tests.rs"]
mod tests;
