//! Static pods: manifests in a directory, run without asking the API. The directory is watched with
//! inotify and read again whole when anything in it changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;

use super::pods::Update;
use crate::dirwatch::DirWatch;
use crate::error::{Error, Result};

/// Annotation with the manifest's hash; it also tells a mirror pod from others.
pub(crate) const HASH: &str = "kubernetes.io/config.hash";
const LARGEST: u64 = 1024 * 1024;

/// Follows `dir` into `updates`.
///
/// # Errors
/// `Kind::Io` where the directory cannot be watched.
pub(crate) async fn watch_dir(dir: PathBuf, node: String, updates: mpsc::Sender<Update>) -> Result<()> {
    let watch = DirWatch::new(&dir)?;
    loop {
        if updates.send(Update::All(read_dir(&dir, &node))).await.is_err() {
            return Ok(());
        }
        watch.changed().await?;
    }
}

fn read_dir(dir: &Path, node: &str) -> Vec<Arc<Pod>> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|e| e.path()).collect();
    paths.sort();
    let plain = |p: &PathBuf| p.file_name().is_some_and(|n| !n.to_string_lossy().starts_with('.'));
    let mut pods = Vec::new();
    for path in paths.into_iter().filter(plain) {
        match crate::files::read_capped(&path, LARGEST)
            .map_err(|e| Error::io("read it", e))
            .and_then(|t| parse(&t, node))
        {
            Ok(pod) => pods.push(Arc::new(pod)),
            Err(why) => tracing::warn!(file = %path.display(), %why, "static pod is left out"),
        }
    }
    pods
}

/// A manifest as a pod of this node: its name gets the node's as suffix, its uid is the manifest's hash.
fn parse(text: &[u8], node: &str) -> Result<Pod> {
    let mut pod: Pod = serde_yaml_ng::from_slice(text).map_err(|e| Error::pod("read the manifest").because(e))?;
    let name = pod.metadata.name.clone().filter(|n| !n.is_empty()).ok_or_else(|| Error::pod("it has no name"))?;
    let spec = pod.spec.as_mut().ok_or_else(|| Error::pod("it has no spec"))?;
    spec.node_name = Some(node.to_string());
    let (mut low, mut high) = (0xcbf2_9ce4_8422_2325_u64, 0x6c62_272e_07bb_0142_u64);
    for byte in text.iter().chain(node.as_bytes()) {
        low = (low ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        high = (high.rotate_left(5) ^ low).wrapping_mul(0x0100_0000_01b3);
    }
    let hash = format!("{high:016x}{low:016x}");
    let meta = &mut pod.metadata;
    meta.uid = Some(hash.clone());
    meta.name = Some(format!("{name}-{node}"));
    meta.namespace.get_or_insert_with(|| "default".into());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(HASH.into(), hash);
    annotations.insert("kubernetes.io/config.source".into(), "file".into());
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::time::Duration;

    #[test]
    fn manifests_become_pods_of_the_node() {
        let pod = parse(b"metadata: {name: a}\nspec: {containers: [{name: c}]}", "n1").expect("a pod");
        assert_eq!(pod.metadata.name.as_deref(), Some("a-n1"));
        assert_eq!(pod.metadata.uid.as_ref().map(String::len), Some(32));
        let other = parse(b"metadata: {name: a}\nspec: {containers: [{name: d}]}", "n1").expect("a pod");
        assert_ne!(pod.metadata.uid, other.metadata.uid, "a changed manifest is a new pod");
        assert!(parse(b"metadata: {}\nspec: {containers: []}", "n1").is_err());
        assert!(parse(b": [", "n1").is_err());
    }

    #[tokio::test]
    async fn a_new_manifest_is_seen_at_once() {
        let dir = TempDir::new("static");
        let (send, mut updates) = mpsc::channel(4);
        let task = tokio::spawn(watch_dir(dir.path().to_path_buf(), "n1".into(), send));
        let mut next = async || tokio::time::timeout(Duration::from_secs(5), updates.recv()).await.expect("in time");
        assert!(matches!(next().await, Some(Update::All(all)) if all.is_empty()));
        std::fs::write(dir.path().join("a.yaml"), "metadata: {name: a}\nspec: {containers: []}").expect("write");
        assert!(matches!(next().await, Some(Update::All(all)) if all.len() == 1));
        task.abort();
    }
}
