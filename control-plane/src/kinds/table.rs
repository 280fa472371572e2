//! The table of built-in kinds. Names, short names, categories and verbs are those that `kubectl api-resources` shows
//! for Kubernetes 1.33.

use super::{Kind, Subresource};

/// group, version, kind, plural, short names, categories, namespaced, verbs, subresources
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    bool,
    &'static str,
    &'static str,
);

const ALL: &str = "create delete deletecollection get list patch update watch";

/// Names of subresources stand for rows of [`SUBRESOURCES`].
#[rustfmt::skip]
const ROWS: &[Row] = &[
    // group, version, kind, plural, short names, categories, namespaced, verbs, subresources
    ("", "v1", "Binding", "bindings", "", "", true, "create", ""),
    ("", "v1", "ConfigMap", "configmaps", "cm", "", true, ALL, ""),
    ("", "v1", "Endpoints", "endpoints", "ep", "", true, ALL, ""),
    ("", "v1", "Event", "events", "ev", "", true, ALL, ""),
    ("", "v1", "Namespace", "namespaces", "ns", "", false, "create delete get list patch update watch", "finalize status"),
    ("", "v1", "Node", "nodes", "no", "", false, ALL, "proxy status"),
    ("", "v1", "Pod", "pods", "po", "all", true, ALL,
        "attach binding ephemeralcontainers eviction exec log portforward proxy status"),
    ("", "v1", "Secret", "secrets", "", "", true, ALL, ""),
    ("", "v1", "ServiceAccount", "serviceaccounts", "sa", "", true, ALL, "token"),
    ("", "v1", "Service", "services", "svc", "all", true, ALL, "status"),
    ("apps", "v1", "Deployment", "deployments", "deploy", "all", true, ALL, "scale status"),
    ("apps", "v1", "ReplicaSet", "replicasets", "rs", "all", true, ALL, "scale status"),
    ("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", "", "", false, "create", ""),
    ("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", "", "", false, "create", ""),
    ("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews", "", "", true, "create", ""),
    ("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", "", "", false, "create", ""),
    ("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", "", "", false, "create", ""),
    ("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", "", "", false, "create", ""),
    ("coordination.k8s.io", "v1", "Lease", "leases", "", "", true, ALL, ""),
    ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "", "", true, ALL, ""),
    ("events.k8s.io", "v1", "Event", "events", "ev", "", true, ALL, ""),
    ("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", "", "", false, ALL, ""),
    ("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", "pc", "", false, ALL, ""),
    ("storage.k8s.io", "v1", "CSIDriver", "csidrivers", "", "", false, ALL, ""),
    ("storage.k8s.io", "v1", "CSINode", "csinodes", "", "", false, ALL, ""),
];

/// resource, name, group and version if not the resource's own, kind, verbs
#[rustfmt::skip]
const SUBRESOURCES: &[(&str, &str, &str, &str, &str)] = &[
    ("pods", "attach", "", "PodAttachOptions", "create get"),
    ("pods", "binding", "", "Binding", "create"),
    ("pods", "ephemeralcontainers", "", "Pod", "get patch update"),
    ("pods", "eviction", "policy/v1", "Eviction", "create"),
    ("pods", "exec", "", "PodExecOptions", "create get"),
    ("pods", "log", "", "Pod", "get"),
    ("pods", "portforward", "", "PodPortForwardOptions", "create get"),
    ("pods", "proxy", "", "PodProxyOptions", "create delete get patch update"),
    ("nodes", "proxy", "", "NodeProxyOptions", "create delete get patch update"),
    ("namespaces", "finalize", "", "Namespace", "update"),
    ("serviceaccounts", "token", "authentication.k8s.io/v1", "TokenRequest", "create"),
    ("", "scale", "autoscaling/v1", "Scale", "get patch update"),
    ("", "status", "", "", "get patch update"),
];

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn subresource(plural: &str, kind: &str, name: &str) -> Subresource {
    let row = SUBRESOURCES.iter().find(|r| r.1 == name && (r.0 == plural || r.0.is_empty()));
    let (_, _, group_version, own, verbs) = row.expect("every subresource named in ROWS has a row");
    let group_version = group_version.split_once('/').map(|(g, v)| (g.to_owned(), v.to_owned()));
    let kind = if own.is_empty() { kind } else { own };
    Subresource { name: name.to_owned(), group_version, kind: kind.to_owned(), verbs: words(verbs) }
}

/// The table as values.
pub(super) fn rows() -> impl Iterator<Item = Kind> {
    ROWS.iter().map(|&(group, version, kind, plural, short, categories, namespaced, verbs, subresources)| {
        let home = match group {
            "" | "events.k8s.io" => "core",
            other => other,
        };
        Kind {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            plural: plural.into(),
            singular: kind.to_ascii_lowercase(),
            short_names: words(short),
            categories: words(categories),
            namespaced,
            verbs: words(verbs),
            subresources: subresources.split_whitespace().map(|name| subresource(plural, kind, name)).collect(),
            storage: format!("{home}/{plural}/"),
        }
    })
}
