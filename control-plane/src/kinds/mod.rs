//! Every kind that the server knows, as data: names, scope, verbs, subresources, where it is stored.
//!
//! What a kind does beyond its row is found by its name: defaults (`defaults/`), rules (`validate/`), what a write may
//! change (`strategy`), columns (`columns/`), its schema (`schema`).

pub mod columns;
pub mod defaults;
pub mod form;
pub mod lists;
pub mod normal;
pub mod qos;
pub mod quantity;
pub mod schema;
pub mod strategy;
mod table;
pub mod validate;

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Kind as ErrorKind, Result};

/// One kind at one version.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// API group; empty for core.
    pub group: String,
    /// API version, `v1`.
    pub version: String,
    /// `Pod`
    pub kind: String,
    /// `pods`
    pub plural: String,
    /// `pod`
    pub singular: String,
    /// `po`
    pub short_names: Vec<String>,
    /// `all`
    pub categories: Vec<String>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// The verbs of the resource itself, in the order of discovery.
    pub verbs: Vec<String>,
    /// Subresources.
    pub subresources: Vec<Subresource>,
    /// Prefix of its keys in the store, `core/pods/`. Two versions of one kind share it.
    pub storage: String,
}

/// A subresource: `pods/log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// `log`
    pub name: String,
    /// Group and version of what it takes and gives if they are not the resource's own (`autoscaling/v1` of scales).
    pub group_version: Option<(String, String)>,
    /// Kind that it takes and gives, `Scale`.
    pub kind: String,
    /// Its verbs.
    pub verbs: Vec<String>,
}

impl Kind {
    /// `v1`, `apps/v1`
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `pods`, `deployments.apps`
    pub fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Whether the resource (or, if named, its subresource) has the verb.
    pub fn allows(&self, subresource: &str, verb: &str) -> bool {
        let verbs =
            if subresource.is_empty() { Some(&self.verbs) } else { self.subresource(subresource).map(|s| &s.verbs) };
        verbs.is_some_and(|list| list.iter().any(|v| v == verb))
    }

    /// A subresource by name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether it has a status subresource.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// Key of an object in the store.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced { format!("{}{namespace}/{name}", self.storage) } else { format!("{}{name}", self.storage) }
    }

    /// Prefix of the keys of all objects, or of those of one namespace.
    pub fn prefix(&self, namespace: &str) -> String {
        if self.namespaced && !namespace.is_empty() {
            format!("{}{namespace}/", self.storage)
        } else {
            self.storage.clone()
        }
    }

    /// Whether a PUT creates what is not there.
    pub fn creates_on_update(&self) -> bool {
        matches!(self.kind.as_str(), "Endpoints" | "Event" | "Lease" | "Service")
    }

    /// `pods "web" not found`
    pub fn not_found(&self, name: &str) -> Error {
        Error::not_found(&self.group, &self.plural, name)
    }
}

/// All kinds.
#[derive(Debug)]
pub struct Kinds {
    list: Vec<Arc<Kind>>,
    by_path: HashMap<(String, String, String), Arc<Kind>>,
    by_resource: HashMap<String, Arc<Kind>>,
}

impl Kinds {
    /// The built-in kinds.
    pub fn builtin() -> Self {
        let list: Vec<Arc<Kind>> = table::rows().map(Arc::new).collect();
        let path = |k: &Kind| (k.group.clone(), k.version.clone(), k.plural.clone());
        let by_path = list.iter().map(|k| (path(k), k.clone())).collect();
        let mut by_resource = HashMap::new();
        for kind in &list {
            by_resource.entry(kind.resource()).or_insert_with(|| kind.clone());
        }
        Self { list, by_path, by_resource }
    }

    /// Every kind, in the order of discovery.
    pub fn all(&self) -> &[Arc<Kind>] {
        &self.list
    }

    /// The kind of `/apis/GROUP/VERSION/PLURAL`.
    pub fn at(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.by_path.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// The kind called `pods` or `deployments.apps`.
    pub fn named(&self, resource: &str) -> Result<Arc<Kind>> {
        let found = self.by_resource.get(resource).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no kind is called {resource:?}")))
    }

    /// The kind of an object's `apiVersion` and `kind`.
    pub fn of(&self, api_version: &str, kind: &str) -> Option<&Arc<Kind>> {
        self.list.iter().find(|k| k.kind == kind && k.api_version() == api_version)
    }

    /// Whether the group and version exist.
    pub fn has_version(&self, group: &str, version: &str) -> bool {
        self.list.iter().any(|k| k.group == group && k.version == version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_path_and_by_name() {
        let kinds = Kinds::builtin();
        let deployment = kinds.at("apps", "v1", "deployments").expect("there");
        assert_eq!(deployment.key("a", "b"), "apps/deployments/a/b");
        assert_eq!(deployment.prefix("a"), "apps/deployments/a/");
        assert_eq!(deployment.api_version(), "apps/v1");
        assert_eq!(kinds.named("nodes").expect("there").key("", "n1"), "core/nodes/n1");
        assert!(kinds.named("unicorns").is_err());
        assert!(deployment.allows("scale", "patch") && !deployment.allows("scale", "delete"));
    }

    #[test]
    fn both_versions_of_events_share_their_place() {
        let kinds = Kinds::builtin();
        let (a, b) = (kinds.at("", "v1", "events"), kinds.at("events.k8s.io", "v1", "events"));
        assert_eq!(a.expect("core").storage, b.expect("new").storage);
    }

    #[test]
    fn every_row_is_whole() {
        for kind in Kinds::builtin().all() {
            assert!(!kind.verbs.is_empty(), "{}", kind.kind);
            assert!(kind.plural.chars().all(|c| c.is_ascii_lowercase()), "{}", kind.plural);
        }
    }
}
