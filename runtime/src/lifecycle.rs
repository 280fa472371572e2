//! The short verbs on a container that exists: start, kill, delete, state, list, pause, resume.

use std::path::{Path, PathBuf};

use oci_spec::runtime::State;

use crate::error::{Error, Kind, Result};

/// Where the containers of one runtime root are.
pub const DEFAULT_ROOT: &str = "/run/gantry/runtime";

/// Lets a created container run its program, then runs the `poststart` hooks.
pub fn start(_root: &Path, id: &str) -> Result<()> {
    Err(Error::new(
        Kind::Unsupported,
        format!("start {id}: not there yet"),
    ))
}

/// Sends `signal` to the first process, or with `all` to every process of the container.
pub fn kill(_root: &Path, id: &str, _signal: i32, _all: bool) -> Result<()> {
    Err(Error::new(
        Kind::Unsupported,
        format!("kill {id}: not there yet"),
    ))
}

/// Removes a stopped container: its cgroups and its state, then runs the `poststop` hooks.
///
/// With `force` a running one is killed first, and one that does not exist is no error. The only rollback there is:
/// it also removes what a killed `create` left.
pub fn delete(_root: &Path, id: &str, _force: bool) -> Result<()> {
    Err(Error::new(
        Kind::Unsupported,
        format!("delete {id}: not there yet"),
    ))
}

/// The OCI state of a container (runtime-spec, "State").
pub fn state(_root: &Path, id: &str) -> Result<State> {
    Err(Error::new(
        Kind::Unsupported,
        format!("state {id}: not there yet"),
    ))
}

/// One row of `list`.
#[derive(Debug)]
pub struct Listed {
    /// OCI state; a record that cannot be read is left out.
    pub state: State,
    /// Where its state lives.
    pub dir: PathBuf,
}

/// Every container below `root`, sorted by id.
pub fn list(_root: &Path) -> Result<Vec<Listed>> {
    Ok(Vec::new())
}
