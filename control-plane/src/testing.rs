//! What the tests of this crate share.

use std::path::{Path, PathBuf};

/// A directory that goes when it is dropped.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    /// A new directory whose name has `what` in it.
    pub(crate) fn new(what: &str) -> Self {
        let path = std::env::temp_dir().join(format!("gantry-{what}-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&path).expect("a directory for the test");
        Self(path)
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
