//! `create`: the story of a container up to the point where it waits for `start`.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Spec;

use crate::error::{Error, Kind, Result};
use crate::sys::Solo;

/// What a new container is to be made of.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// Name of the container: letters, digits, `_+-.`; unique below `root`.
    pub id: &'a str,
    /// Directory with `config.json`; a relative `root.path` starts here.
    pub bundle: &'a Path,
    /// Where state lives: `<root>/<id>/state.json`.
    pub root: &'a Path,
    /// `config.json` where the caller has already read it; otherwise it is read from the bundle.
    pub spec: Option<&'a Spec>,
    /// Standard input, output and error, or who gets the terminal.
    pub stdio: Stdio<'a>,
    /// How many descriptors from 3 on the container inherits.
    pub preserve_fds: u32,
    /// File that receives the pid in decimal, written atomically.
    pub pid_file: Option<&'a Path>,
    /// Flags that hardly anybody needs.
    pub options: Options,
}

/// Rare wishes; the default is right for nearly all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// `MS_MOVE` and chroot in place of `pivot_root`, for a rootfs on the initial ramfs.
    pub no_pivot: bool,
    /// Keep the session keyring of the caller.
    pub no_new_keyring: bool,
}

/// Where the standard streams of a process lead.
#[derive(Clone, Copy, Debug)]
pub enum Stdio<'a> {
    /// The caller's own 0, 1 and 2.
    Inherit,
    /// One descriptor each; `None` is `/dev/null`. With `terminal: true` in the process they are left aside and the
    /// master is returned in [`Created::console`].
    Fds {
        /// Standard input.
        stdin: Option<BorrowedFd<'a>>,
        /// Standard output.
        stdout: Option<BorrowedFd<'a>>,
        /// Standard error.
        stderr: Option<BorrowedFd<'a>>,
    },
    /// `terminal: true`: the master is sent to this unix socket (runc's `--console-socket`).
    ConsoleSocket(&'a Path),
}

/// A process that was made, and what its parent needs to look after it.
#[derive(Debug)]
pub struct Created {
    /// Process id, as the caller sees it. The caller is its parent and has to reap it.
    pub pid: i32,
    /// The process, without the races of a number; readable once it has exited.
    pub pidfd: OwnedFd,
    /// Master of the terminal, where `terminal: true` and no console socket was given.
    pub console: Option<OwnedFd>,
    /// What could not be had and was left out, one sentence each.
    pub warnings: Vec<String>,
}

/// Makes a container that waits for `start`.
///
/// The caller stays the parent of its first process. On an error nothing is left behind, except after a kill of the
/// caller itself: then `delete` finds the half-made container by its state directory.
pub fn create(request: &CreateRequest<'_>, _alone: &Solo) -> Result<Created> {
    Err(Error::new(
        Kind::Unsupported,
        format!("create {}: not there yet", request.id),
    ))
}
