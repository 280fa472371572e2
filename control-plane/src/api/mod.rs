//! The Kubernetes API: from a request to the store and back.
//!
//! ```text
//! serve (TLS, HTTP) ─> http (who, may they, headers) ─> route ─> handle ─> verbs ─> store
//!                                                        ├─> discovery, openapi, health
//!                                                        └─> node: log, exec, attach, portforward, proxy ─> kubelet
//! ```

mod admission;
mod body;
mod convert;
mod discovery;
mod gnostic;
mod handle;
mod http;
mod negotiate;
mod node;
mod object;
mod openapi;
mod patch;
mod pick;
mod protobuf;
mod query;
mod respond;
mod reviews;
mod route;
mod scale;
mod selector;
pub(crate) mod serve;
mod stream;
pub(crate) mod subresources;
mod table;
mod timings;
pub(crate) mod verbs;
pub(crate) mod watch;

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, OnceLock};

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

#[cfg(test)]
pub(crate) use body::{Body, full};
#[cfg(test)]
pub(crate) use http::answer;

use crate::access::{Access, User};
use crate::error::Result;
use crate::kinds::{Kind, Kinds};
use crate::store::Store;
use verbs::FieldValidation;

/// Everything that a request needs.
pub(crate) struct Api {
    pub(crate) kinds: Kinds,
    pub(crate) store: Store,
    pub(crate) access: Access,
    /// What Services get their addresses from: network and prefix length.
    pub(crate) service_cidr: (Ipv4Addr, u8),
    /// Whether pods get their account mounted.
    pub(crate) account_volumes: bool,
    /// How to speak to kubelets; `None` where there are none (tests).
    pub(crate) kubelet_tls: Option<Arc<rustls::ClientConfig>>,
    /// Requests in flight, watches and streams apart.
    pub(crate) inflight: Semaphore,
    pub(crate) shutdown: CancellationToken,
    pub(crate) documents: OnceLock<openapi::Documents>,
    pub(crate) requests: std::sync::atomic::AtomicU64,
    /// When each of the last pods was stored and bound.
    pub(crate) timings: timings::Timings,
}

/// Requests handled at one time; more are told 429.
pub(crate) const INFLIGHT: usize = 600;

impl Api {
    pub(crate) fn new(store: Store, access: Access, shutdown: CancellationToken) -> Self {
        Self {
            kinds: Kinds::builtin(),
            store,
            access,
            service_cidr: (Ipv4Addr::new(10, 96, 0, 0), 16),
            account_volumes: false,
            kubelet_tls: None,
            inflight: Semaphore::new(INFLIGHT),
            shutdown,
            documents: OnceLock::new(),
            requests: Default::default(),
            timings: timings::Timings::default(),
        }
    }

    /// Makes what a cluster has from the start: four namespaces, each with its default service account, and the two
    /// priority classes of the system.
    pub(crate) async fn bootstrap(&self) -> Result<()> {
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            let call = Call::internal(self.kinds.named("namespaces")?, "", "");
            verbs::ensure(self, &call, json!({"metadata": {"name": name}})).await?;
            self.default_account(name).await?;
        }
        for (name, value) in [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)] {
            let call = Call::internal(self.kinds.named("priorityclasses.scheduling.k8s.io")?, "", "");
            verbs::ensure(self, &call, json!({"metadata": {"name": name}, "value": value})).await?;
        }
        Ok(())
    }

    /// Makes the service account that pods of a namespace have by default.
    pub(crate) async fn default_account(&self, namespace: &str) -> Result<()> {
        let call = Call::internal(self.kinds.named("serviceaccounts")?, namespace, "");
        verbs::ensure(self, &call, json!({"metadata": {"name": "default"}})).await
    }
}

/// What a request is about: which object of which kind, who asks, and under which conditions to write.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) kind: Arc<Kind>,
    /// Empty: cluster scope, or all namespaces.
    pub(crate) namespace: String,
    /// Empty: the collection.
    pub(crate) name: String,
    /// Empty: the resource itself.
    pub(crate) subresource: String,
    pub(crate) user: Arc<User>,
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
    warnings: Arc<Mutex<Vec<String>>>,
}

impl Call {
    /// A call of the control plane itself.
    pub(crate) fn internal(kind: Arc<Kind>, namespace: &str, name: &str) -> Self {
        Self::new(kind, namespace, name, "", Arc::new(User::control_plane()))
    }

    /// A call of a user.
    pub(crate) fn new(kind: Arc<Kind>, namespace: &str, name: &str, subresource: &str, user: Arc<User>) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
            subresource: subresource.into(),
            user,
            dry_run: false,
            field_validation: FieldValidation::Ignore,
            warnings: Arc::default(),
        }
    }

    /// Key of the object in the store.
    pub(crate) fn key(&self) -> String {
        self.kind.key(&self.namespace, &self.name)
    }

    /// Group, version and kind of what the call takes: the kind's own, or its subresource's.
    pub(crate) fn body_kind(&self) -> (&str, &str, &str) {
        let kind = &self.kind;
        match self.kind.subresource(&self.subresource) {
            Some(sub) => match &sub.group_version {
                Some((group, version)) => (group, version, &sub.kind),
                None => (&kind.group, &kind.version, &sub.kind),
            },
            None => (&kind.group, &kind.version, &kind.kind),
        }
    }

    /// Tells the client of something that is not quite right (`Warning` headers).
    pub(crate) fn warn(&self, told: impl IntoIterator<Item = String>) {
        self.warnings.lock().unwrap_or_else(|e| e.into_inner()).extend(told);
    }

    /// The warnings so far.
    pub(crate) fn warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(|e| e.into_inner()))
    }
}

/// A `Status` object of success.
pub(crate) fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
}

#[cfg(test)]
mod tests;
