//! What can go wrong in the store: a kind to decide by, a sentence for people, the cause.

use std::fmt;

/// What a caller may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The key exists and must not.
    Exists,
    /// The key does not exist and must.
    Missing,
    /// The key has changed since the revision expected.
    Conflict,
    /// The revision asked for is older than the history kept: list again.
    Compacted,
    /// The revision asked for has not been reached.
    Future,
    /// The watcher lagged too far behind and was ended: list again.
    Slow,
    /// The commit makes no sense (no operations, an empty key, a key twice).
    Invalid,
    /// The store is closed.
    Closed,
    /// Another process has the store open.
    Locked,
    /// The file is not a store, or it is damaged.
    Corrupt,
    /// The disk failed.
    Io,
}

/// An error of the store.
#[derive(Clone, Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    cause: Option<std::sync::Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), cause: None }
    }

    pub(super) fn with(
        kind: Kind,
        message: impl Into<String>,
        cause: impl std::error::Error + Send + Sync + 'static,
    ) -> Error {
        Error { kind, message: message.into(), cause: Some(std::sync::Arc::new(cause)) }
    }

    pub(super) fn io(message: impl Into<String>, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::with(Kind::Io, message, cause)
    }

    pub(super) fn closed() -> Error {
        Error::new(Kind::Closed, "the store is closed")
    }

    pub(super) fn compacted(asked: u64, kept: u64) -> Error {
        Error::new(Kind::Compacted, format!("revision {asked} is too old: history starts after revision {kept}"))
    }

    pub(super) fn future(asked: u64, now: u64) -> Error {
        Error::new(Kind::Future, format!("revision {asked} is in the future: the store is at revision {now}"))
    }

    /// What went wrong.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|c| c as _)
    }
}
