//! The in-process client: what the scheduler and the controllers use instead of HTTPS.
//!
//! It runs the very code of the HTTP verbs (defaults, validation, conflict checks, events), without TLS and without
//! serialising twice. Kinds are named as `kubectl` would: `pods`, `deployments.apps`, `leases.coordination.k8s.io`.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::watch::Subscription;
use crate::api::{Api, Call, subresources, verbs};
use crate::error::{Error, Result};

/// Which objects a list or a watch is about.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// `app=web,tier!=db`; empty selects all.
    pub label_selector: String,
    /// `spec.nodeName=n1`; empty selects all.
    pub field_selector: String,
}

/// A list and the revision that it shows.
#[derive(Clone, Debug)]
pub struct List<T = Arc<Value>> {
    /// The objects, each with its `metadata.resourceVersion`.
    pub items: Vec<T>,
    /// The `resourceVersion` of the list: a watch from here misses nothing.
    pub revision: u64,
}

/// One change that a watch tells of.
#[derive(Clone, Debug)]
pub enum WatchEvent<T = Arc<Value>> {
    /// The object came into being, or into the selection.
    Added(T),
    /// The object changed.
    Modified(T),
    /// The object went, or left the selection; its last state.
    Deleted(T),
    /// Nothing changed up to this revision.
    Bookmark(u64),
}

/// The kinds of patch, by media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// `application/json-patch+json` (RFC 6902)
    Json,
    /// `application/merge-patch+json` (RFC 7386)
    Merge,
    /// `application/strategic-merge-patch+json`
    Strategic,
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds of grace; `Some(0)` removes a pod now.
    pub grace_seconds: Option<i64>,
    /// Refuse (409) unless the object has this uid.
    pub uid: Option<String>,
    /// Refuse (409) unless the object has this `resourceVersion`.
    pub revision: Option<String>,
    /// `Background` (the default), `Foreground` or `Orphan`.
    pub propagation: Option<String>,
}

/// The client. Cheap to clone; acts as the user `system:apiserver`, which may do everything.
#[derive(Clone)]
pub struct Client {
    api: Arc<Api>,
}

/// A list, then every change after it.
#[derive(Debug)]
pub struct Watch {
    /// What was there when the watch began.
    pub items: Vec<Arc<Value>>,
    /// The revision of `items`.
    pub revision: u64,
    stream: Subscription,
}

impl Watch {
    /// The next change; `None` when the server stops. `Err` of kind `Expired` asks to watch anew (and list again).
    pub async fn next(&mut self) -> Option<Result<WatchEvent>> {
        self.stream.next().await
    }
}

/// The metadata that every object has, for the bounds of the typed methods.
pub trait Object: Resource + Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned {}
impl<T: Resource + Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned> Object for T {}

impl Client {
    pub(crate) fn new(api: Arc<Api>) -> Self {
        Self { api }
    }

    /// Reads one object. `namespace` is empty for cluster-scoped kinds, here and below.
    pub async fn get(&self, resource: &str, namespace: &str, name: &str) -> Result<Value> {
        let call = self.call(resource, namespace, name)?;
        verbs::get(&self.api, &call).await
    }

    /// Lists objects; an empty namespace lists all of them.
    pub async fn list(&self, resource: &str, namespace: &str, options: &ListOptions) -> Result<List> {
        let call = self.call(resource, namespace, "")?;
        verbs::list_all(&self.api, &call, options).await
    }

    /// Creates an object: defaults are filled in, rules checked. Returns what was stored.
    pub async fn create(&self, resource: &str, namespace: &str, object: Value) -> Result<Value> {
        let call = self.call(resource, namespace, "")?;
        verbs::create(&self.api, &call, object).await
    }

    /// Replaces an object; its `metadata.resourceVersion`, if it has one, must be the stored one (else `Conflict`).
    pub async fn update(&self, resource: &str, object: Value) -> Result<Value> {
        let call = self.call_for(resource, &object, "")?;
        verbs::update(&self.api, &call, object).await
    }

    /// Replaces only the status of an object.
    pub async fn update_status(&self, resource: &str, object: Value) -> Result<Value> {
        let call = self.call_for(resource, &object, "status")?;
        verbs::update(&self.api, &call, object).await
    }

    /// Patches an object; a conflict with another writer is retried inside.
    pub async fn patch(&self, at: (&str, &str, &str), patch: PatchType, body: &Value) -> Result<Value> {
        let call = self.call(at.0, at.1, at.2)?;
        verbs::patch(&self.api, &call, patch, body).await
    }

    /// Patches the status of an object. `at` is (resource, namespace, name), as above.
    pub async fn patch_status(&self, at: (&str, &str, &str), patch: PatchType, body: &Value) -> Result<Value> {
        let mut call = self.call(at.0, at.1, at.2)?;
        call.subresource = "status".into();
        verbs::patch(&self.api, &call, patch, body).await
    }

    /// Deletes an object: gracefully where the kind knows that, after its finalizers where it has any.
    pub async fn delete(&self, resource: &str, namespace: &str, name: &str, options: &DeleteOptions) -> Result<()> {
        let call = self.call(resource, namespace, name)?;
        verbs::delete(&self.api, &call, options).await.map(drop)
    }

    /// Binds a pod to a node: what the scheduler does. `Conflict` if the pod has a node already.
    pub async fn bind(&self, namespace: &str, pod: &str, node: &str) -> Result<()> {
        let mut call = self.call("pods", namespace, pod)?;
        call.subresource = "binding".into();
        let target = json!({"apiVersion": "v1", "kind": "Node", "name": node});
        let body = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}, "target": target});
        subresources::bind(&self.api, &call, &body).await
    }

    /// Lists, and then tells every change; an empty namespace watches all of them.
    pub async fn watch(&self, resource: &str, namespace: &str, options: &ListOptions) -> Result<Watch> {
        let call = self.call(resource, namespace, "")?;
        let (list, stream) = verbs::list_and_watch(&self.api, &call, options).await?;
        Ok(Watch { items: list.items, revision: list.revision, stream })
    }

    /// Typed [`Self::get`].
    pub async fn get_as<T: Object>(&self, namespace: &str, name: &str) -> Result<T> {
        typed(self.get(&resource_of::<T>(), namespace, name).await?)
    }

    /// Typed [`Self::list`].
    pub async fn list_as<T: Object>(&self, namespace: &str, options: &ListOptions) -> Result<List<T>> {
        let list = self.list(&resource_of::<T>(), namespace, options).await?;
        let items = list.items.into_iter().map(|item| typed(Arc::unwrap_or_clone(item)));
        Ok(List { items: items.collect::<Result<_>>()?, revision: list.revision })
    }

    /// Typed [`Self::create`], into the namespace that the object names.
    pub async fn create_as<T: Object>(&self, object: &T) -> Result<T> {
        let namespace = object.metadata().namespace.clone().unwrap_or_default();
        typed(self.create(&resource_of::<T>(), &namespace, untyped(object)?).await?)
    }

    /// Typed [`Self::update`].
    pub async fn update_as<T: Object>(&self, object: &T) -> Result<T> {
        typed(self.update(&resource_of::<T>(), untyped(object)?).await?)
    }

    /// Typed [`Self::update_status`].
    pub async fn update_status_as<T: Object>(&self, object: &T) -> Result<T> {
        typed(self.update_status(&resource_of::<T>(), untyped(object)?).await?)
    }

    fn call(&self, resource: &str, namespace: &str, name: &str) -> Result<Call> {
        let kind = self.api.kinds.named(resource)?;
        Ok(Call::internal(kind, namespace, name))
    }

    fn call_for(&self, resource: &str, object: &Value, subresource: &str) -> Result<Call> {
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
        let mut call = self.call(resource, text("namespace"), text("name"))?;
        call.subresource = subresource.into();
        Ok(call)
    }
}

/// `deployments.apps` of a type.
pub fn resource_of<T: Resource>() -> String {
    if T::GROUP.is_empty() { T::URL_PATH_SEGMENT.into() } else { format!("{}.{}", T::URL_PATH_SEGMENT, T::GROUP) }
}

/// A typed view of an object.
pub fn typed<T: DeserializeOwned>(object: Value) -> Result<T> {
    serde_json::from_value(object).map_err(|e| Error::internal("object does not fit its type", e))
}

/// The JSON of a typed object.
pub fn untyped<T: Serialize>(object: &T) -> Result<Value> {
    serde_json::to_value(object).map_err(|e| Error::internal("type does not become an object", e))
}
