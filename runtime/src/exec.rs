//! `exec`: one more process in a running container.

use std::path::Path;

use oci_spec::runtime::Process;

use crate::create::{Created, Options, Stdio};
use crate::error::{Error, Kind, Result};
use crate::sys::Solo;

/// A process to be started inside of a running container.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// Where state lives.
    pub root: &'a Path,
    /// The container.
    pub id: &'a str,
    /// What to run, in full: user, arguments, environment, capabilities.
    pub process: &'a Process,
    /// Standard input, output and error, or who gets the terminal.
    pub stdio: Stdio<'a>,
    /// How many descriptors from 3 on the process inherits.
    pub preserve_fds: u32,
    /// File that receives the pid in decimal, written atomically.
    pub pid_file: Option<&'a Path>,
    /// Rare wishes.
    pub options: Options,
}

/// Starts the process; the caller is its parent and reaps it.
pub fn exec(request: &ExecRequest<'_>, _alone: &Solo) -> Result<Created> {
    Err(Error::new(
        Kind::Unsupported,
        format!("exec in {}: not there yet", request.id),
    ))
}
