//! The Kubernetes API: from a request to the store and back.

mod object;
mod patch;
mod pick;
mod protobuf;
mod selector;
pub(crate) mod verbs;
pub(crate) mod watch;

use std::sync::Arc;

use crate::kinds::{Kind, Kinds};

/// Everything that a request needs.
pub(crate) struct Api {
    pub(crate) kinds: Kinds,
}

/// What a request is about: which object of which kind, and under which conditions to write.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) kind: Arc<Kind>,
    /// Empty: cluster scope, or all namespaces.
    pub(crate) namespace: String,
    /// Empty: the collection.
    pub(crate) name: String,
    /// Empty: the resource itself.
    pub(crate) subresource: String,
}

impl Call {
    /// A call of the control plane itself.
    pub(crate) fn internal(kind: Arc<Kind>, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
            subresource: String::new(),
        }
    }
}
