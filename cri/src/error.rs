//! The one error type of this crate: a kind as fine as a gRPC code, and a sentence for people.
//!
//! `Display` prints the chain from the outside in: `run pod web: make its namespaces: mount tmpfs on …: EPERM`.
//! [`Error`] becomes a `tonic::Status` at the edge (`service/`), nowhere else.

use std::fmt;

use tonic::{Code, Status};

/// What every fallible function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a kubelet branches on. No finer than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No such pod, container or image.
    NotFound,
    /// The name is taken.
    Exists,
    /// The request is wrong; trying again does not help.
    Invalid,
    /// The object is not in a state that allows the operation.
    WrongState,
    /// This kernel or this version of Gantry lacks what was asked for.
    Unsupported,
    /// It took longer than the caller gave it.
    Timeout,
    /// Something that comes back by itself is away: a monitor that restarts, a server that shuts down.
    Unavailable,
    /// No address, no space, no more of something.
    Exhausted,
    /// A registry wants credentials, or other ones.
    Unauthorized,
    /// Anything else.
    Internal,
}

/// A failure: its kind and the chain of what was being done.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    what: String,
}

impl Error {
    /// A failure; `what` is a lower-case sentence without a full stop that says what failed, on what, why.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { kind, what }
    }

    /// A failure of the system that no caller can branch on.
    pub fn internal(what: impl Into<String>) -> Self {
        Self::new(Kind::Internal, what)
    }

    /// A pod, container or image (`noun`) that is not here.
    pub fn not_found(noun: &str, id: &str) -> Self {
        Self::new(Kind::NotFound, format!("{noun} {id:?}: not found"))
    }

    /// The same failure, seen from one level further out; the kind stays.
    #[must_use]
    pub fn within(self, what: impl fmt::Display) -> Self {
        Self { kind: self.kind, what: format!("{what}: {}", self.what) }
    }

    /// What the caller may branch on.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Error {}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match error.kind {
            Kind::NotFound => Code::NotFound,
            Kind::Exists => Code::AlreadyExists,
            Kind::Invalid => Code::InvalidArgument,
            Kind::WrongState => Code::FailedPrecondition,
            Kind::Unsupported => Code::Unimplemented,
            Kind::Timeout => Code::DeadlineExceeded,
            Kind::Unavailable => Code::Unavailable,
            Kind::Exhausted => Code::ResourceExhausted,
            Kind::Unauthorized => Code::Unauthenticated,
            Kind::Internal => Code::Unknown,
        };
        Self::new(code, error.what)
    }
}

impl From<gantry_runtime::Error> for Error {
    fn from(error: gantry_runtime::Error) -> Self {
        use gantry_runtime::Kind as Runtime;
        let kind = match error.kind() {
            Runtime::Invalid => Kind::Invalid,
            Runtime::NotFound => Kind::NotFound,
            Runtime::Exists => Kind::Exists,
            Runtime::WrongState => Kind::WrongState,
            Runtime::Unsupported => Kind::Unsupported,
            Runtime::Program | Runtime::System => Kind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<gantry_images::Error> for Error {
    fn from(error: gantry_images::Error) -> Self {
        use gantry_images::Kind as Images;
        let kind = match error.kind() {
            Images::NotFound => Kind::NotFound,
            Images::InvalidArgument => Kind::Invalid,
            Images::Unauthorized => Kind::Unauthorized,
            Images::TooLarge => Kind::Exhausted,
            Images::Unavailable => Kind::Unavailable,
            Images::Unsupported => Kind::Unsupported,
            Images::Conflict => Kind::WrongState,
            Images::Invalid | Images::System => Kind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

/// Says what was being done when something failed.
pub trait Context<T> {
    /// `what` is asked for only on failure.
    fn context<S: fmt::Display>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context<S: fmt::Display>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|cause| cause.within(what()))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn context<S: fmt::Display>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|cause| Error::internal(format!("{}: {cause}", what())))
    }
}

impl<T> Context<T> for std::result::Result<T, nix::errno::Errno> {
    fn context<S: fmt::Display>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|errno| Error::internal(format!("{}: {} ({errno:?})", what(), errno.desc())))
    }
}

impl<T> Context<T> for serde_json::Result<T> {
    fn context<S: fmt::Display>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|cause| Error::internal(format!("{}: {cause}", what())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_reads_from_the_outside_in_and_keeps_the_kind() {
        let failed: Result<()> = Err(Error::not_found("container", "web"));
        let error = failed.context(|| "stop pod a").unwrap_err();
        assert_eq!(error.to_string(), "stop pod a: container \"web\": not found");
        assert_eq!(Status::from(error).code(), Code::NotFound);
    }

    #[test]
    fn an_errno_is_named() {
        let failed: std::result::Result<(), _> = Err(nix::errno::Errno::EPERM);
        let error = failed.context(|| "mount proc").unwrap_err();
        assert_eq!(error.to_string(), "mount proc: Operation not permitted (EPERM)");
    }
}
