//! The pod's namespaces (network, IPC, UTS), made without a process and kept by bind mounts.

use crate::error::Result;
use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
};

/// Which namespaces to make, and what to set in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetnsSpec {
    /// A network namespace of its own, with `lo` up; false for a pod on the host's network.
    pub net: bool,
    /// An IPC namespace of its own.
    pub ipc: bool,
    /// A UTS namespace of its own.
    pub uts: bool,
    /// Host name to set; ignored without `uts`. At most 64 bytes; empty leaves the host's.
    pub hostname: String,
    /// `net.*` (needs `net`), `kernel.shm*`, `kernel.msg*`, `kernel.sem`, `fs.mqueue.*` (need `ipc`); others are refused.
    pub sysctls: BTreeMap<String, String>,
}

/// Files that hold the namespaces; one for each kind that was asked for: `dir/net`, `dir/ipc`, `dir/uts`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetnsPaths {
    /// Network namespace, or none.
    pub net: Option<PathBuf>,
    /// IPC namespace, or none.
    pub ipc: Option<PathBuf>,
    /// UTS namespace, or none.
    pub uts: Option<PathBuf>,
}

/// Makes `base` a directory (0700) whose mounts propagate nowhere; every `dir` below belongs in such a base. Idempotent.
///
/// # Errors
/// `Internal` when it cannot be made or mounted.
pub async fn prepare(base: &Path) -> Result<()> {
    let _ = base;
    Ok(())
}

/// Makes the namespaces that `spec` asks for and binds them to files below `dir` (made, 0700).
///
/// # Errors
/// `Invalid` for a sysctl that is not allowed or not namespaced, `Internal` otherwise; then nothing is left of `dir`.
pub async fn create(dir: &Path, spec: &NetnsSpec) -> Result<NetnsPaths> {
    let _ = (dir, spec);
    Ok(NetnsPaths::default())
}

/// Unmounts and deletes what [`create`] made, also when it was cut short. Idempotent.
///
/// # Errors
/// `Internal`, after everything was tried.
pub async fn remove(dir: &Path) -> Result<()> {
    let _ = dir;
    Ok(())
}

/// Removes each directory of `base` whose name is not a living pod's.
///
/// # Errors
/// `Internal`, after everything was tried.
pub async fn sweep(base: &Path, living: &HashSet<String>) -> Result<()> {
    let _ = (base, living);
    Ok(())
}
