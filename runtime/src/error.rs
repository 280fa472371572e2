//! The one error type of this crate: a kind for the edges that must branch on it, and a sentence for people.
//!
//! The sentence says what failed, on what and why, lower case, from the outside in:
//! `create web: mount proc on /proc: Operation not permitted (EPERM)`. `Display` prints the whole chain, so that a
//! log line, the OCI log file and standard error read the same.

use std::fmt;

use crate::sys::Errno;

/// What every fallible function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an edge (the command line, the monitor, the CRI server) has to tell apart. No finer than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request or `config.json` is wrong; the sentence names the JSON path. Trying again does not help.
    Invalid,
    /// No container of this id.
    NotFound,
    /// A container of this id exists already.
    Exists,
    /// The container is not in a status that allows the operation.
    WrongState,
    /// This kernel, this host or this version of Gantry lacks what was asked for.
    Unsupported,
    /// The program of the container cannot be found or executed (exit codes 127 and 126 of a shell).
    Program,
    /// A system call failed.
    System,
}

/// A failure: its kind, what was being done, and its cause.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    what: String,
    cause: Option<Box<Error>>,
    errno: Option<Errno>,
}

impl Error {
    /// A failure without a deeper cause; `what` is a lower-case sentence without a full stop.
    pub fn new(kind: Kind, what: impl Into<String>) -> Error {
        Error { kind, what: what.into(), cause: None, errno: None }
    }

    /// A failed system call: `what` was being done when the kernel answered `errno`.
    pub fn system(what: impl Into<String>, errno: Errno) -> Error {
        Error { kind: Kind::System, what: what.into(), cause: None, errno: Some(errno) }
    }

    /// A failure of the standard library's input and output.
    pub fn io(what: impl Into<String>, cause: &std::io::Error) -> Error {
        match cause.raw_os_error() {
            Some(raw) => Error::system(what, Errno::from_raw(raw)),
            None => Error::new(Kind::System, format!("{}: {cause}", what.into())),
        }
    }

    /// The same failure, seen from one level further out; the kind stays.
    #[must_use]
    pub fn within(self, what: impl Into<String>) -> Error {
        Error { kind: self.kind, what: what.into(), errno: None, cause: Some(Box::new(self)) }
    }

    /// The same failure of a field, seen from what the field belongs to: `path: why` becomes `mounts[3].path: why`. One
    /// that does not begin with the name of a field is put behind a colon, as by [`Error::within`].
    #[must_use]
    pub fn below(mut self, parent: &str) -> Error {
        let end = self.what.find([':', '[', '.']).unwrap_or(self.what.len());
        let field = &self.what[..end];
        if !field.is_empty() && field.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            self.what = format!("{parent}.{}", self.what);
            return self;
        }
        self.within(parent)
    }

    /// The same failure as another kind.
    #[must_use]
    pub fn of_kind(mut self, kind: Kind) -> Error {
        self.kind = kind;
        self
    }

    /// What the caller may branch on.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The kernel's answer at the root of the chain, if a system call failed.
    pub fn errno(&self) -> Option<Errno> {
        self.errno.or_else(|| self.cause.as_ref().and_then(|cause| cause.errno()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(errno) = self.errno {
            write!(f, ": {errno}")?;
        }
        match &self.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Gives a bare errno or `io::Error` the sentence that it lacks.
pub trait Context<T> {
    /// Says what was being done; called only on failure.
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for std::result::Result<T, Errno> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|errno| Error::system(what(), errno))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|cause| Error::io(what(), &cause))
    }
}

impl<T> Context<T> for Result<T> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|cause| cause.within(what()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_runs_from_the_outside_in_and_ends_with_the_errno() {
        let failed: Result<()> = Err(Errno::from_raw(libc::EPERM)).context(|| "mount proc on /proc");
        let error = failed.context(|| "create web").unwrap_err();
        assert_eq!(error.to_string(), "create web: mount proc on /proc: Operation not permitted (EPERM)");
        assert_eq!(error.errno(), Some(Errno::from_raw(libc::EPERM)));
        assert_eq!(error.kind(), Kind::System);
    }

    #[test]
    fn paths_grow_from_the_inside_out() {
        let of = |what: &str| Error::new(Kind::Invalid, what);
        assert_eq!(of("path: is gone").below("mounts[3]").to_string(), "mounts[3].path: is gone");
        assert_eq!(
            of("no").within("syscalls[0].args").below("linux.seccomp").to_string(),
            "linux.seccomp.syscalls[0].args: no"
        );
        assert_eq!(of("it is gone").below("mounts[3]").to_string(), "mounts[3]: it is gone");
    }

    #[test]
    fn the_kind_survives_context() {
        let error = Error::new(Kind::Invalid, "process.args: must not be empty").within("create web");
        assert_eq!(error.kind(), Kind::Invalid);
        assert_eq!(error.errno(), None);
    }
}
