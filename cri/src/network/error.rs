//! The error of the network module: a kind for the edge, one line for people, and the chain of causes.

use std::fmt;

/// What a caller may decide on; everything else is text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request or the configuration makes no sense (gRPC INVALID_ARGUMENT).
    Invalid,
    /// Every address of the range is in use (gRPC RESOURCE_EXHAUSTED).
    Exhausted,
    /// A host port or the state directory belongs to someone else (gRPC ALREADY_EXISTS).
    Conflict,
    /// The kernel refused, or a file could not be read or written (gRPC INTERNAL).
    System,
}

/// Why a network operation failed: lower case, what failed, on what, why.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    text: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Shorthand for results of this module.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), source: None }
    }

    /// A [`Kind::System`] error: `text` says what failed on what, `cause` why.
    pub(crate) fn system(
        text: impl Into<String>,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind: Kind::System, text: text.into(), source: Some(cause.into()) }
    }

    /// The kind, for the edge to map to its status code.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(cause) => write!(f, "{}: {cause}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|cause| cause as _)
    }
}
