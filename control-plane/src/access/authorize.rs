//! May they? One function and a table.
//!
//! | who | may |
//! |---|---|
//! | `system:masters` | everything |
//! | anybody known | discovery, openapi, version, health; reviews of themselves |
//! | `system:node:X` in `system:nodes` | what X needs: its Node, Lease and CSINode, pods bound to it, their status, what they mount, events |
//! | anybody | health and version |
//!
//! RBAC objects come later; they add a rule to this function. The node rules are a simplified Node authorizer and
//! NodeRestriction (Kubernetes documentation, "Using Node Authorization").

use serde_json::Value;

use super::{AUTHENTICATED, MASTERS, User};
use crate::kinds::form;
use crate::store::{Range, Store};

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// `get`, `list`, `watch`, `create`, ... or the HTTP method in lower case for paths.
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// A path that is no resource; empty for resources.
    pub(crate) path: String,
    /// The field selector of a list, watch or deletecollection.
    pub(crate) field_selector: String,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) allowed: bool,
    pub(crate) reason: String,
}

/// Paths that anybody may read.
const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version"];

/// Paths that anybody who is known may read.
const DISCOVERY: &[&str] = &["/api", "/apis", "/openapi", "/version", "/healthz", "/livez", "/readyz"];

/// Reviews that anybody who is known may ask of themselves.
const SELF_REVIEWS: &[&str] = &["selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"];

/// Decides.
pub(crate) fn authorize(store: &Store, user: &User, asked: &Attributes) -> Decision {
    let yes = |reason: &str| Decision { allowed: true, reason: reason.into() };
    if user.is_in(MASTERS) {
        return yes("");
    }
    let under = |paths: &[&str]| paths.iter().any(|p| asked.path == *p || asked.path.starts_with(&format!("{p}/")));
    if asked.verb == "get" && !asked.path.is_empty() && (under(PUBLIC) || user.is_in(AUTHENTICATED) && under(DISCOVERY))
    {
        return yes("discovery is open");
    }
    let asks_itself = SELF_REVIEWS.contains(&asked.resource.as_str()) && asked.verb == "create";
    if user.is_in(AUTHENTICATED) && asks_itself {
        return yes("everybody may ask about themselves");
    }
    if let Some(node) = user.node() {
        return node_may(store, node, asked);
    }
    Decision { allowed: false, reason: String::new() }
}

/// Resources that a node may read whole: `get list watch`.
const NODE_READS: &[&str] = &["services", "runtimeclasses", "csidrivers", "csinodes", "nodes", "endpointslices"];

fn node_may(store: &Store, node: &str, asked: &Attributes) -> Decision {
    let no = |why: &str| Decision { allowed: false, reason: why.into() };
    let yes = Decision { allowed: true, reason: "node".into() };
    let reads = matches!(asked.verb.as_str(), "get" | "list" | "watch");
    let own = asked.name == node;
    match (asked.resource.as_str(), asked.subresource.as_str(), asked.verb.as_str()) {
        (resource, "", _) if reads && NODE_READS.contains(&resource) => yes,
        ("nodes" | "csinodes", "", "create") => yes,
        ("nodes", "" | "status", "update" | "patch") | ("csinodes", "", "update" | "patch" | "delete") if own => yes,
        ("nodes" | "csinodes", ..) => no("a node may only change itself"),
        ("leases", "", "create") if asked.namespace == "kube-node-lease" => yes,
        ("leases", "", _) if asked.namespace == "kube-node-lease" && own => yes,
        ("leases", ..) => no("a node may only use its own lease"),
        ("events", "", "create" | "patch" | "update") => yes,
        ("tokenreviews" | "subjectaccessreviews" | "localsubjectaccessreviews", "", "create") => yes,
        ("certificatesigningrequests", "", "create" | "get" | "list" | "watch") => yes,
        ("pods", ..) => pods(store, node, asked),
        ("configmaps" | "secrets" | "serviceaccounts", ..) => mounted(store, node, asked),
        _ => no("nodes do not need this"),
    }
}

fn pods(store: &Store, node: &str, asked: &Attributes) -> Decision {
    let answer = |allowed: bool, why: &str| Decision { allowed, reason: why.into() };
    match (asked.verb.as_str(), asked.subresource.as_str()) {
        ("list" | "watch", "") => {
            let wanted = format!("spec.nodeName={node}");
            let narrowed = asked.field_selector.split(',').any(|f| f.replace("==", "=") == wanted);
            answer(narrowed, "a node may only list pods with the field selector spec.nodeName of itself")
        }
        // A mirror pod: what is created is checked with its content.
        ("create", "") => answer(true, "node"),
        ("get" | "delete", "") | ("get" | "update" | "patch", "status") | ("create", "eviction") => {
            let pod = store.get(&format!("core/pods/{}/{}", asked.namespace, asked.name));
            let bound = pod.is_none_or(|pod| node_of(&pod.value) == node);
            answer(bound, "a node may only touch pods that are bound to it")
        }
        _ => answer(false, "nodes do not need this"),
    }
}

fn node_of(pod: &[u8]) -> String {
    let pod: Value = serde_json::from_slice(pod).unwrap_or_default();
    form::text(&pod, &["spec", "nodeName"]).to_owned()
}

/// ConfigMaps, Secrets and accounts of pods that are bound to the node.
fn mounted(store: &Store, node: &str, asked: &Attributes) -> Decision {
    let no = |why: &str| Decision { allowed: false, reason: why.into() };
    let name = match asked.field_selector.strip_prefix("metadata.name=") {
        Some(name) if asked.name.is_empty() => name,
        _ => asked.name.as_str(),
    };
    let token = asked.resource == "serviceaccounts" && asked.subresource == "token" && asked.verb == "create";
    let reads = matches!(asked.verb.as_str(), "get" | "list" | "watch") && asked.subresource.is_empty();
    if name.is_empty() || !(reads || token) {
        return no("a node may only read single objects that its pods refer to");
    }
    let prefix = format!("core/pods/{}/", asked.namespace);
    let Ok(page) = store.list(Range { prefix: &prefix, ..Default::default() }) else {
        return no("no pods can be read");
    };
    let refers = page.items.iter().any(|item| {
        let pod: Value = serde_json::from_slice(&item.value).unwrap_or_default();
        form::text(&pod, &["spec", "nodeName"]) == node && refers(&pod["spec"], &asked.resource, name)
    });
    if refers {
        return Decision { allowed: true, reason: "node".into() };
    }
    no("no relationship found between node and this object")
}

/// Whether a pod's spec refers to an object: a value `name` (or `secretName`, ...) under a key that says so.
fn refers(spec: &Value, resource: &str, name: &str) -> bool {
    if resource == "serviceaccounts" {
        return form::text(spec, &["serviceAccountName"]) == name;
    }
    let holders: &[&str] = match resource {
        "configmaps" => &["configMap", "configMapRef", "configMapKeyRef"],
        _ => &["secret", "secretRef", "secretKeyRef", "imagePullSecrets", "nodePublishSecretRef"],
    };
    fn search(value: &Value, inside: bool, holders: &[&str], name: &str) -> bool {
        match value {
            Value::Object(map) => map.iter().any(|(key, value)| {
                let named = inside && matches!(key.as_str(), "name" | "secretName") && value == name;
                named || search(value, holders.contains(&key.as_str()), holders, name)
            }),
            Value::Array(list) => list.iter().any(|value| search(value, inside, holders, name)),
            _ => false,
        }
    }
    search(spec, false, holders, name)
}

/// Whether a pod's spec refers to anything in the API: an account, secret, config map or claim. A mirror pod may not:
/// else a node could make itself one and so read what its pods do not use.
pub(crate) fn refers_to_objects(spec: &Value) -> bool {
    const HOLDERS: &[&str] = &[
        "configMap",
        "configMapRef",
        "configMapKeyRef",
        "secret",
        "secretRef",
        "secretKeyRef",
        "imagePullSecrets",
        "nodePublishSecretRef",
        "persistentVolumeClaim",
        "ephemeral",
        "projected",
        "resourceClaims",
    ];
    fn search(value: &Value) -> bool {
        match value {
            Value::Object(map) => map.iter().any(|(key, value)| {
                let held = HOLDERS.contains(&key.as_str()) && value.as_array().is_none_or(|list| !list.is_empty());
                held || search(value)
            }),
            Value::Array(list) => list.iter().any(search),
            _ => false,
        }
    }
    let account = ["serviceAccountName", "serviceAccount"].iter().any(|key| !form::text(spec, &[*key]).is_empty());
    account || search(spec)
}

#[cfg(test)]
#[path = "authorize_tests.rs"]
mod tests;
