//! The crate's one error: a kind no finer than its callers need, a sentence that says what failed, on
//! what, and a chain of causes. Nothing branches on the text.

use std::error::Error as StdError;
use std::fmt;

/// Shorthand for this crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller may want to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The configuration, a certificate or a kubeconfig cannot be used.
    Config,
    /// The API server said no such object.
    NotFound,
    /// The API server said the object exists, or its resourceVersion or uid is another.
    Conflict,
    /// The API server no longer has the resourceVersion asked for (410).
    Gone,
    /// The API server refused for lack of rights, or the request was invalid: retrying is of no use.
    Refused,
    /// The API server did not answer or failed: retry later.
    Unavailable,
    /// A CRI call failed.
    Cri,
    /// A pod asks for what this node does not support or allow.
    Pod,
    /// A file or system call failed.
    Io,
}

/// See the module.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with a message in the house's form: lower case, what, on what.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(Kind::Config, message)
    }

    pub(crate) fn pod(message: impl Into<String>) -> Self {
        Self::new(Kind::Pod, message)
    }

    pub(crate) fn io(message: impl Into<String>, cause: impl StdError + Send + Sync + 'static) -> Self {
        Self::new(Kind::Io, message).because(cause)
    }

    pub(crate) fn because(mut self, cause: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(cause));
        self
    }

    /// What a caller may branch on.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    /// The whole chain, joined by colons: status fields and events have no other place for causes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut cause = self.source.as_deref().map(|e| e as &dyn StdError);
        while let Some(e) = cause {
            write!(f, ": {e}")?;
            // Ours prints its own chain already.
            cause = if e.is::<Error>() { None } else { e.source() };
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}
