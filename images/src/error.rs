//! The one error type of this crate: a [`Kind`] no finer than a CRI server needs to choose its status
//! code, a sentence for people, and the chain of causes.

use std::error::Error as StdError;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

/// Result of every fallible function here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can act on. A CRI server maps these one to one to gRPC codes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The image, tag, digest or file does not exist (gRPC NOT_FOUND).
    NotFound,
    /// The caller's text is wrong: a reference, a key, a flag (INVALID_ARGUMENT).
    InvalidArgument,
    /// The registry asks for credentials, or refused those given (UNAUTHENTICATED).
    Unauthorized,
    /// The content contradicts its digest, its size or its specification (DATA_LOSS or INTERNAL).
    Invalid,
    /// The content is larger than a configured limit (RESOURCE_EXHAUSTED).
    TooLarge,
    /// The registry cannot be reached or failed even after retries (UNAVAILABLE).
    Unavailable,
    /// The content is valid but of a form that we do not read, or for no platform of ours (UNIMPLEMENTED).
    Unsupported,
    /// The object is in use, or exists already as something else (FAILED_PRECONDITION).
    Conflict,
    /// The host failed: disk, mount, memory (INTERNAL).
    System,
}

/// An error: `kind` for programs; `Display` prints the sentence and every cause, joined by `: `.
pub struct Error {
    kind: Kind,
    message: String,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error without a further cause. `message`: lower case, what failed, on what, why.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), cause: None }
    }

    /// The same with the error that caused it.
    pub fn caused(kind: Kind, message: impl Into<String>, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { kind, message: message.into(), cause: Some(cause.into()) }
    }

    /// The error with one more sentence in front; the kind stays.
    #[must_use]
    pub fn within(self, what: impl Into<String>) -> Self {
        Self { kind: self.kind, message: what.into(), cause: Some(Box::new(self)) }
    }

    /// What a caller can act on.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether all this came about because a filesystem, or a quota on it, is full.
    pub fn is_disk_full(&self) -> bool {
        let mut next: Option<&(dyn StdError + 'static)> = Some(self);
        while let Some(why) = next {
            match why.downcast_ref::<std::io::Error>() {
                Some(io) if matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => return true,
                // What it carries is not among its sources, only what that was caused by.
                Some(io) if io.get_ref().is_some() => next = io.get_ref().map(|inner| inner as _),
                _ => next = why.source(),
            }
        }
        false
    }

    /// The error, and if the disk below `root` is full, what to do about that.
    #[must_use]
    pub(crate) fn advised(self, root: &Path) -> Self {
        match self.is_disk_full() && self.kind == Kind::System {
            true => {
                let root = root.display();
                let advice = "make room there, for example with `gantry image prune`, and try again";
                self.within(format!("the disk below {root} is full ({advice})"))
            }
            false => self,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        // Our own errors print their whole chain already; foreign ones print one sentence each.
        let mut next: Option<&(dyn StdError + 'static)> = self.cause.as_deref().map(|e| e as _);
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            if cause.is::<Error>() {
                break;
            }
            next = cause.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_deref().map(|e| e as _)
    }
}

/// Adds a sentence to a failed system call or to one of our own errors.
pub(crate) trait Context<T> {
    /// `what` is evaluated only on failure.
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for std::io::Result<T> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|why| match why.get_ref().is_some_and(|inner| inner.is::<Error>()) {
            // An error of ours that travelled through `io::Read` keeps its kind.
            true => match why.into_inner().map(|inner| inner.downcast::<Error>()) {
                Some(Ok(ours)) => ours.within(what()),
                Some(Err(other)) => Error::caused(Kind::System, what(), other),
                None => Error::new(Kind::System, what()),
            },
            false => Error::caused(Kind::System, what(), why),
        })
    }
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(std::io::Error::from).context(what)
    }
}

impl<T> Context<T> for Result<T> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|why| why.within(what()))
    }
}

/// Carries an error of ours through an `io::Read` or `io::Write`.
pub(crate) fn through_io(why: Error) -> std::io::Error {
    std::io::Error::other(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_the_whole_chain_once() {
        let io = std::io::Error::from_raw_os_error(28);
        let e = Error::caused(Kind::System, "write blob sha256:ab", io).within("pull web:1");
        assert_eq!(e.to_string(), "pull web:1: write blob sha256:ab: No space left on device (os error 28)");
        assert_eq!(e.kind(), Kind::System);
    }

    #[test]
    fn a_full_disk_is_seen_through_everything() {
        let full = || Error::caused(Kind::System, "write blob", std::io::Error::from_raw_os_error(28));
        assert!(full().within("layer 1").is_disk_full());
        let carried: Result<()> = Err(through_io(full())).context(|| "unpack");
        assert!(carried.unwrap_err().is_disk_full());
        let twice = Error::caused(Kind::System, "unpack", through_io(full()));
        assert!(twice.is_disk_full());
        assert!(!Error::caused(Kind::System, "write", std::io::Error::from_raw_os_error(5)).is_disk_full());
        assert_eq!(
            full().advised(Path::new("/s")).to_string(),
            "the disk below /s is full (make room there, for example with `gantry image prune`, and try again): \
             write blob: No space left on device (os error 28)"
        );
    }

    #[test]
    fn an_error_keeps_its_kind_through_io() {
        let io = through_io(Error::new(Kind::TooLarge, "layer too large"));
        let back: Result<()> = Err(io).context(|| "unpack");
        assert_eq!(back.as_ref().unwrap_err().kind(), Kind::TooLarge);
        assert_eq!(back.unwrap_err().to_string(), "unpack: layer too large");
    }
}
