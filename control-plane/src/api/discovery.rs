//! Discovery: which groups, versions and resources there are, in the old form (a document a version) and in the
//! aggregated one (`apidiscovery.k8s.io`), and the server's version.

use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};

use super::body::Body;
use super::negotiate::{Encoding, choose, media};
use super::{Api, respond};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::kinds::{Kind, Subresource};

/// The Kubernetes version whose behaviour we follow.
const KUBERNETES: &str = "v1.33.0";

/// Answers `/api`, `/apis`, `/api/v1`, `/apis/G`, `/apis/G/V`, `/version`, `/`.
pub(crate) fn document(api: &Api, path: &str, request: &Request<Body>) -> Result<Response<Body>> {
    let accept = request.headers().get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if matches!(path, "/api" | "/apis")
        && let Some(version) = aggregated_version(accept)
    {
        return Ok(aggregated(api, path == "/apis", version, request));
    }
    let encoding = choose(accept).map_or(Encoding::Json, |form| form.encoding);
    let missing = || Error::new(ErrorKind::NotFound, "the server could not find the requested resource");
    let value = match path.trim_start_matches('/').split('/').collect::<Vec<_>>().as_slice() {
        [""] => json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2",
            "/openapi/v3", "/readyz", "/version"]}),
        ["version"] => version(),
        ["api"] => json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        ["apis"] => json!({"kind": "APIGroupList", "apiVersion": "v1",
            "groups": groups(api).iter().map(|g| group(api, g)).collect::<Value>()}),
        ["apis", name] if groups(api).contains(name) => with_type(group(api, name)),
        ["api", version] if api.kinds.has_version("", version) => resources(api, "", version),
        ["apis", name, version] if !name.is_empty() && api.kinds.has_version(name, version) => {
            resources(api, name, version)
        }
        _ => return Err(missing()),
    };
    let mut response = respond::value(StatusCode::OK, encoding, &value);
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": format!("{KUBERNETES}+gantry{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "2026-01-01T00:00:00Z",
        "goVersion": "go1.24", "compiler": "rustc", "platform": format!("linux/{}", platform()),
        "emulationMajor": "1", "emulationMinor": "33", "minCompatibilityMajor": "1", "minCompatibilityMinor": "32",
    })
}

/// The architecture in Go's words.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Groups besides the core one, in the order of the table.
fn groups(api: &Api) -> Vec<&str> {
    let mut list: Vec<&str> = Vec::new();
    for kind in api.kinds.all() {
        if !kind.group.is_empty() && !list.contains(&kind.group.as_str()) {
            list.push(&kind.group);
        }
    }
    list
}

fn versions<'a>(api: &'a Api, group: &str) -> Vec<&'a str> {
    let mut list: Vec<&str> = Vec::new();
    for kind in api.kinds.all().iter().filter(|k| k.group == group) {
        if !list.contains(&kind.version.as_str()) {
            list.push(&kind.version);
        }
    }
    list
}

fn group(api: &Api, name: &str) -> Value {
    let one = |version: &&str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let list: Vec<Value> = versions(api, name).iter().map(one).collect();
    json!({"name": name, "versions": list, "preferredVersion": list.first()})
}

fn with_type(mut group: Value) -> Value {
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    group
}

/// `/api/v1`, `/apis/apps/v1`: an APIResourceList.
fn resources(api: &Api, group: &str, version: &str) -> Value {
    let mut list = Vec::new();
    for kind in api.kinds.all().iter().filter(|k| k.group == group && k.version == version) {
        let mut row = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": kind.verbs,
        });
        for (key, value) in [("shortNames", &kind.short_names), ("categories", &kind.categories)] {
            if !value.is_empty() {
                row[key] = json!(value);
            }
        }
        list.push(row);
        list.extend(kind.subresources.iter().map(|sub| subresource(kind, sub)));
    }
    let name = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": list})
}

fn subresource(kind: &Kind, sub: &Subresource) -> Value {
    let mut row = json!({
        "name": format!("{}/{}", kind.plural, sub.name), "singularName": "", "namespaced": kind.namespaced,
        "kind": sub.kind, "verbs": sub.verbs,
    });
    if let Some((group, version)) = &sub.group_version {
        row["group"] = group.as_str().into();
        row["version"] = version.as_str().into();
    }
    row
}

/// `v2` or `v2beta1` if the client takes aggregated discovery first.
fn aggregated_version(accept: &str) -> Option<&'static str> {
    media(accept).find_map(|media| {
        let fits = media.get("g") == "apidiscovery.k8s.io" && media.get("as") == "APIGroupDiscoveryList";
        match media.get("v") {
            "v2" if fits => Some("v2"),
            "v2beta1" if fits => Some("v2beta1"),
            _ => None,
        }
    })
}

fn aggregated(api: &Api, named_groups: bool, version: &'static str, request: &Request<Body>) -> Response<Body> {
    let names = if named_groups { groups(api) } else { vec![""] };
    let items: Vec<Value> = names.iter().map(|name| group_discovery(api, name)).collect();
    let value = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {}, "items": items,
    });
    let text = value.to_string();
    let tag = format!("\"{}\"", super::openapi::hash(text.as_bytes()));
    let known = request.headers().get(IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == tag.as_bytes());
    let mut response = if known {
        respond::bytes(StatusCode::NOT_MODIFIED, "application/json", "")
    } else {
        respond::bytes(StatusCode::OK, "application/json", text)
    };
    let media_type = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    let headers = response.headers_mut();
    for (name, text) in [(CONTENT_TYPE, media_type), (ETAG, tag), (VARY, "Accept".into())] {
        headers.insert(name, HeaderValue::from_str(&text).expect("hash and version are plain text"));
    }
    headers.insert("cache-control", HeaderValue::from_static("public"));
    response
}

fn group_discovery(api: &Api, group: &str) -> Value {
    let versions = versions(api, group).into_iter().map(|version| {
        let kinds = api.kinds.all().iter().filter(|k| k.group == group && k.version == version);
        let resources: Vec<Value> = kinds.map(|kind| resource_discovery(kind)).collect();
        json!({"version": version, "resources": resources, "freshness": "Current"})
    });
    let metadata = if group.is_empty() {
        json!({"creationTimestamp": null})
    } else {
        json!({"name": group, "creationTimestamp": null})
    };
    json!({"metadata": metadata, "versions": versions.collect::<Vec<_>>()})
}

fn resource_discovery(kind: &Kind) -> Value {
    let mut row = json!({
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular, "verbs": kind.verbs,
    });
    for (key, value) in [("shortNames", &kind.short_names), ("categories", &kind.categories)] {
        if !value.is_empty() {
            row[key] = json!(value);
        }
    }
    if !kind.subresources.is_empty() {
        let one = |sub: &Subresource| {
            let (group, version) = match &sub.group_version {
                Some((group, version)) => (group, version),
                None => (&kind.group, &kind.version),
            };
            json!({"subresource": sub.name, "verbs": sub.verbs,
                "responseKind": {"group": group, "version": version, "kind": sub.kind}})
        };
        row["subresources"] = kind.subresources.iter().map(one).collect();
    }
    row
}
