//! Log rotation: a container's log that has grown too large is renamed, the runtime reopens it, and the
//! oldest files beyond the limit go. Names as upstream's: `0.log.20261123-150405`.

use std::path::Path;

use crate::error::{Error, Result};
use crate::pods::labels;
use crate::server::logs::with_rotated;
use crate::shared::Shared;

/// Rotates the logs of all running containers that need it.
pub(crate) async fn run(shared: &Shared) {
    let running = match shared.cri.containers(&[]).await {
        Ok(list) => list,
        Err(why) => {
            tracing::debug!(%why, "cannot list containers for log rotation");
            return;
        }
    };
    for c in running.iter().filter(|c| c.state() == gantry_cri_api::ContainerState::ContainerRunning) {
        if !c.labels.contains_key(labels::POD_UID) {
            continue;
        }
        if let Err(why) = rotate(shared, &c.id).await {
            tracing::warn!(container = c.id, %why, "cannot rotate the log");
        }
    }
}

async fn rotate(shared: &Shared, id: &str) -> Result<()> {
    let path = shared.cri.container_status(id).await?.log_path;
    let path = Path::new(&path);
    let length = std::fs::metadata(path).map_or(0, |m| m.len());
    if path.as_os_str().is_empty() || length < shared.config.container_log_max_bytes {
        return Ok(());
    }
    let stamp = crate::clock::wall().strftime("%Y%m%d-%H%M%S").to_string();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let old = path.with_file_name(format!("{name}.{stamp}"));
    std::fs::rename(path, &old).map_err(|e| Error::io(format!("rename {}", path.display()), e))?;
    if let Err(why) = shared.cri.reopen_log(id).await {
        // Put back, so that it is still found and grows on until the next try.
        std::fs::rename(&old, path).map_err(|e| Error::io(format!("rename {}", old.display()), e))?;
        return Err(why);
    }
    prune(path, shared.config.container_log_max_files as usize);
    Ok(())
}

fn prune(path: &Path, keep: usize) {
    let all = with_rotated(path);
    let excess = all.len().saturating_sub(keep.max(2));
    for old in &all[..excess] {
        if let Err(why) = std::fs::remove_file(old) {
            tracing::warn!(file = %old.display(), %why, "cannot remove an old log");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn the_oldest_files_go_first() {
        let dir = TempDir::new("prune");
        let log = dir.path().join("0.log");
        for name in ["0.log", "0.log.20261123-150001", "0.log.20261123-150002", "0.log.20261123-150003", "1.log"] {
            std::fs::write(dir.path().join(name), "x").expect("log");
        }
        prune(&log, 2);
        assert!(log.exists() && dir.path().join("0.log.20261123-150003").exists() && dir.path().join("1.log").exists());
        assert!(
            !dir.path().join("0.log.20261123-150001").exists() && !dir.path().join("0.log.20261123-150002").exists()
        );
    }
}
