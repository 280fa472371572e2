//! From a path to what is meant.

use super::query::decode;

/// What a path means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/api/v1/...`, `/apis/G/V/...`
    Resource(Target),
    /// A document: `/api`, `/apis/apps`, `/version`, `/openapi/v3`, ...
    Document(String),
}

/// Which resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) plural: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// The rest, of `proxy`, with its slash.
    pub(crate) rest: String,
}

/// Reads a path.
pub(crate) fn route(path: &str) -> Route {
    let document = || Route::Document(if path == "/" { path.into() } else { path.trim_end_matches('/').into() });
    let parts: Vec<&str> = path.trim_start_matches('/').splitn(10, '/').collect();
    let (group, version, parts) = match parts.as_slice() {
        ["api", version, parts @ ..] => ("", *version, parts),
        ["apis", group, version, parts @ ..] => (*group, *version, parts),
        _ => return document(),
    };
    let parts = if let [parts @ .., ""] = parts { parts } else { parts };
    if parts.is_empty() {
        return document();
    }
    let mut target = Target { group: group.into(), version: version.into(), ..Default::default() };
    let rest = match parts {
        // A namespace's own subresources, before the resources inside it.
        ["namespaces", _, "status" | "finalize"] | ["namespaces"] | ["namespaces", _] => parts,
        ["namespaces", namespace, rest @ ..] => {
            target.namespace = decode(namespace, false);
            rest
        }
        rest => rest,
    };
    let mut rest = rest.iter();
    target.plural = rest.next().map_or(String::new(), |p| decode(p, false));
    target.name = rest.next().map_or(String::new(), |p| decode(p, false));
    target.subresource = rest.next().map_or(String::new(), |p| decode(p, false));
    // The rest is passed on as it came.
    target.rest = rest_of(path, &target);
    Route::Resource(target)
}

/// What follows the subresource in the path.
fn rest_of(path: &str, target: &Target) -> String {
    if target.subresource != "proxy" {
        return path
            .rsplit_once(&format!("/{}/", target.subresource))
            .map_or(String::new(), |(_, rest)| format!("/{rest}"));
    }
    path.split_once("/proxy").map_or(String::new(), |(_, rest)| rest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &str) -> String {
        match route(path) {
            Route::Document(path) => format!("document {path}"),
            Route::Resource(t) => {
                format!(
                    "{}|{}|{}|{}|{}|{}|{}",
                    t.group, t.version, t.namespace, t.plural, t.name, t.subresource, t.rest
                )
            }
        }
    }

    #[test]
    fn paths_mean_what_they_say() {
        let table = [
            ("/api/v1/pods", "|v1||pods|||"),
            ("/api/v1/namespaces/a/pods/b", "|v1|a|pods|b||"),
            ("/api/v1/namespaces/a/pods/b/status", "|v1|a|pods|b|status|"),
            ("/api/v1/namespaces", "|v1||namespaces|||"),
            ("/api/v1/namespaces/a", "|v1||namespaces|a||"),
            ("/api/v1/namespaces/a/finalize", "|v1||namespaces|a|finalize|"),
            ("/apis/apps/v1/namespaces/a/deployments/d/scale", "apps|v1|a|deployments|d|scale|"),
            ("/api/v1/nodes/n/proxy/metrics/x", "|v1||nodes|n|proxy|/metrics/x"),
            ("/api/v1/namespaces/a/pods/p%3A80/proxy/", "|v1|a|pods|p:80|proxy|/"),
            ("/apis/apps/v1", "document /apis/apps/v1"),
            ("/api/v1/", "document /api/v1"),
            ("/apis", "document /apis"),
            ("/", "document /"),
            ("/openapi/v3/apis/apps/v1", "document /openapi/v3/apis/apps/v1"),
            ("/api/v1/namespaces/a/pods/b/exec/x", "|v1|a|pods|b|exec|/x"),
        ];
        for (path, expected) in table {
            assert_eq!(said(path), expected, "{path}");
        }
    }
}
