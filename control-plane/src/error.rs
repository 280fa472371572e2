//! The error of the control plane: a kind no finer than what a client of the API can act upon, a sentence, the object
//! it is about, the fields that are wrong, and the cause below.
//!
//! It becomes a `Status` object (Kubernetes API conventions, "Response Status Kind") at the HTTP edge; the in-process
//! client hands it out as it is.

use std::error::Error as StdError;
use std::fmt;

use serde_json::{Map, Value, json};

/// A result with the control plane's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as a client has to tell cases apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The request makes no sense (400).
    BadRequest,
    /// Nobody knows who is asking (401).
    Unauthorized,
    /// The asker is known and may not (403).
    Forbidden,
    /// The object, kind or path does not exist (404).
    NotFound,
    /// The kind exists and does not have this verb (405).
    MethodNotAllowed,
    /// None of the accepted media types can be produced (406).
    NotAcceptable,
    /// An object of this name exists (409).
    AlreadyExists,
    /// The object was changed by another since it was read (409).
    Conflict,
    /// The revision asked for was compacted away; list again (410).
    Expired,
    /// The body is larger than is taken (413).
    TooLarge,
    /// The body's media type is not understood (415).
    UnsupportedMediaType,
    /// The object was understood and breaks a rule (422).
    Invalid,
    /// Ask again later (429).
    TooManyRequests,
    /// Our own fault (500).
    Internal,
    /// A node that we had to ask did not answer properly (502).
    BadGateway,
    /// Not now: starting or stopping (503).
    Unavailable,
    /// It took too long (504).
    Timeout,
}

impl Kind {
    /// The HTTP status code and the `reason` of the Status object.
    pub fn code_and_reason(self) -> (u16, &'static str) {
        match self {
            Kind::BadRequest => (400, "BadRequest"),
            Kind::Unauthorized => (401, "Unauthorized"),
            Kind::Forbidden => (403, "Forbidden"),
            Kind::NotFound => (404, "NotFound"),
            Kind::MethodNotAllowed => (405, "MethodNotAllowed"),
            Kind::NotAcceptable => (406, "NotAcceptable"),
            Kind::AlreadyExists => (409, "AlreadyExists"),
            Kind::Conflict => (409, "Conflict"),
            Kind::Expired => (410, "Expired"),
            Kind::TooLarge => (413, "RequestEntityTooLarge"),
            Kind::UnsupportedMediaType => (415, "UnsupportedMediaType"),
            Kind::Invalid => (422, "Invalid"),
            Kind::TooManyRequests => (429, "TooManyRequests"),
            Kind::Internal => (500, "InternalError"),
            Kind::BadGateway => (502, "BadGateway"),
            Kind::Unavailable => (503, "ServiceUnavailable"),
            Kind::Timeout => (504, "Timeout"),
        }
    }
}

/// One field that breaks a rule: `spec.containers[0].name: Required value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, ... as in `metav1.CauseType`.
    pub reason: &'static str,
    /// The path, `spec.containers[0].name`.
    pub field: String,
    /// The sentence without the path.
    pub message: String,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// The object that an error is about, for the `details` of a Status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// API group, empty for core.
    pub group: String,
    /// Resource name (`pods`) or, for `Invalid`, the kind (`Pod`): the API server does it so.
    pub kind: String,
    /// Name of the object.
    pub name: String,
}

/// The error of this crate.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    about: Option<Box<About>>,
    causes: Vec<Cause>,
    retry_after: Option<u32>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of a kind with a sentence.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), about: None, causes: Vec::new(), retry_after: None, source: None }
    }

    /// Our own fault, with the cause below.
    pub fn internal(message: impl Into<String>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(Kind::Internal, message).because(source)
    }

    /// `pods "web" not found`.
    pub fn not_found(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(plural, group));
        Self::new(Kind::NotFound, message).about(group, plural, name)
    }

    /// `pods "web" already exists`.
    pub fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified(plural, group));
        Self::new(Kind::AlreadyExists, message).about(group, plural, name)
    }

    /// `Operation cannot be fulfilled on pods "web": why`.
    pub fn conflict(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(plural, group));
        Self::new(Kind::Conflict, message).about(group, plural, name)
    }

    /// The standard conflict of two writers.
    pub fn modified(group: &str, plural: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, plural, name, why)
    }

    /// `Pod "web" is invalid: spec.containers: Required value`, with every cause.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let list = match causes.as_slice() {
            [one] => one.to_string(),
            many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        };
        let message = format!("{} {name:?} is invalid: {list}", qualified(kind, group));
        let mut error = Self::new(Kind::Invalid, message).about(group, kind, name);
        error.causes = causes;
        error
    }

    /// Adds the object it is about.
    #[must_use]
    pub fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        self.about = Some(Box::new(About { group: group.into(), kind: kind.into(), name: name.into() }));
        self
    }

    /// Adds the cause below.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Tells the client when to ask again, in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The fields that break rules; empty unless the kind is `Invalid`.
    pub fn causes(&self) -> &[Cause] {
        &self.causes
    }

    /// Seconds after which to ask again, if the answer says so.
    pub fn retry_seconds(&self) -> Option<u32> {
        self.retry_after
    }

    /// Whether the object or path was not there.
    pub fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }

    /// Whether another writer was quicker.
    pub fn is_conflict(&self) -> bool {
        self.kind == Kind::Conflict
    }

    /// Whether an object of the name exists.
    pub fn is_already_exists(&self) -> bool {
        self.kind == Kind::AlreadyExists
    }

    /// Whether the revision was compacted away, so that a watcher has to list again.
    pub fn is_expired(&self) -> bool {
        self.kind == Kind::Expired
    }

    /// The error and all causes below, joined with `: `.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut next = self.source();
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }

    /// The `Status` object (kind `Status`, apiVersion `v1`) that tells a client.
    pub fn to_status(&self) -> Value {
        let (code, reason) = self.kind.code_and_reason();
        let mut details = Map::new();
        if let Some(about) = &self.about {
            for (key, value) in [("name", &about.name), ("group", &about.group), ("kind", &about.kind)] {
                if !value.is_empty() {
                    details.insert(key.into(), value.as_str().into());
                }
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter();
            let list = causes.map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field}));
            details.insert("causes".into(), list.collect());
        }
        if let Some(seconds) = self.retry_after {
            details.insert("retryAfterSeconds".into(), seconds.into());
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.chain(), "reason": reason,
        });
        if !details.is_empty() {
            status["details"] = Value::Object(details);
        }
        status["code"] = code.into();
        status
    }
}

/// `deployments.apps`, or only `pods` in the core group.
fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::internal("input or output", error)
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::new(Kind::BadRequest, format!("json: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_object_becomes_a_status_with_causes() {
        let cause = Cause { reason: "FieldValueRequired", field: "spec.x".into(), message: "Required value".into() };
        let error = Error::invalid("apps", "Deployment", "web", vec![cause]);
        let expected = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "Deployment.apps \"web\" is invalid: spec.x: Required value", "reason": "Invalid",
            "details": {"name": "web", "group": "apps", "kind": "Deployment",
                "causes": [{"reason": "FieldValueRequired", "message": "Required value", "field": "spec.x"}]},
            "code": 422,
        });
        assert_eq!(error.to_status(), expected);
    }

    #[test]
    fn messages_are_those_that_clients_know() {
        assert_eq!(Error::not_found("apps", "deployments", "a").to_string(), "deployments.apps \"a\" not found");
        assert_eq!(Error::already_exists("", "pods", "a").to_string(), "pods \"a\" already exists");
        assert!(
            Error::modified("", "pods", "a").to_string().starts_with("Operation cannot be fulfilled on pods \"a\":")
        );
    }

    #[test]
    fn the_chain_names_every_cause() {
        let error = Error::internal("open store", std::io::Error::other("disk on fire"));
        assert_eq!(error.chain(), "open store: disk on fire");
    }
}
