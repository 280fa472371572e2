//! What the crate's tests share.

use std::path::{Path, PathBuf};

/// A directory of its own, removed when dropped.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new(name: &str) -> Self {
        let nonce = getrandom::u64().expect("randomness");
        let dir = std::env::temp_dir().join(format!("gantry-kubelet-{name}-{nonce:016x}"));
        std::fs::create_dir_all(&dir).expect("create a temporary directory");
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
