//! Requests with nothing out of the ordinary, for callers that embed the library: what they leave out stays as it is when
//! a field is added.

use std::path::Path;

use oci_spec::runtime::Process;

use crate::{CreateRequest, ExecRequest, Options, Stdio};

impl<'a> CreateRequest<'a> {
    /// A container of `bundle` with the caller's own standard streams and nothing out of the ordinary.
    ///
    /// ```
    /// use gantry_runtime::{CreateRequest, Stdio};
    /// use std::path::Path;
    ///
    /// let quiet = Stdio::Fds { stdin: None, stdout: None, stderr: None };
    /// let (root, bundle) = (Path::new("/run/me"), Path::new("/srv/web"));
    /// let request = CreateRequest { stdio: quiet, ..CreateRequest::new(root, "web", bundle) };
    /// assert!(request.spec.is_none(), "config.json is read from the bundle");
    /// ```
    pub fn new(root: &'a Path, id: &'a str, bundle: &'a Path) -> CreateRequest<'a> {
        CreateRequest {
            id,
            bundle,
            root,
            spec: None,
            stdio: Stdio::Inherit,
            preserve_fds: 0,
            pid_file: None,
            pidfd_socket: None,
            options: Options::default(),
        }
    }
}

impl<'a> ExecRequest<'a> {
    /// A process with the caller's own standard streams and nothing out of the ordinary. What it is by default in its
    /// container tells [`process_of`](crate::process_of).
    pub fn new(root: &'a Path, id: &'a str, process: &'a Process) -> ExecRequest<'a> {
        ExecRequest {
            root,
            id,
            process,
            stdio: Stdio::Inherit,
            preserve_fds: 0,
            pid_file: None,
            pidfd_socket: None,
            below: None,
            options: Options::default(),
        }
    }
}
