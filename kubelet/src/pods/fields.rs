//! The downward API: fields and resources of a pod as text, for environments and volumes. Pure.
//! Upstream: pkg/fieldpath and pkg/api/v1/resource.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::error::{Error, Result};
use crate::pod;
use crate::quantity::{self, Resources};

/// The addresses that fields may ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub pod: Vec<String>,
    pub host: Vec<String>,
}

/// The value of `path`, such as `metadata.labels['app']`.
///
/// # Errors
/// `Kind::Pod` for a path that the downward API does not have.
pub(crate) fn field(of: &Pod, path: &str, addresses: &Addresses) -> Result<String> {
    let meta = &of.metadata;
    let first = |list: &[String]| list.first().cloned().unwrap_or_default();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(unknown(path)),
        };
        return Ok(map.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => pod::name(of).to_string(),
        "metadata.namespace" => pod::namespace(of).to_string(),
        "metadata.uid" => pod::uid(of).to_string(),
        "metadata.labels" => listing(meta.labels.as_ref()),
        "metadata.annotations" => listing(meta.annotations.as_ref()),
        "spec.nodeName" => pod::spec(of).node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => pod::spec(of).service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => first(&addresses.host),
        "status.hostIPs" => addresses.host.join(","),
        "status.podIP" => first(&addresses.pod),
        "status.podIPs" => addresses.pod.join(","),
        _ => return Err(unknown(path)),
    })
}

fn unknown(path: &str) -> Error {
    Error::pod(format!("unsupported fieldPath: {path}"))
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// `key="value"` a line, values quoted as Go does.
fn listing(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<_> = map.into_iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect();
    lines.join("\n")
}

/// A container's limit or request, divided and rounded up; a limit that is not set is what the node has.
///
/// # Errors
/// `Kind::Pod` for a resource that the downward API does not have, or a zero divisor.
pub(crate) fn resource(
    of: &Pod,
    own: &Container,
    selector: &ResourceFieldSelector,
    allocatable: &Resources,
) -> Result<String> {
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let found = named.and_then(|name| pod::container(of, name)).map(|(_, c)| c);
    let c = match (named, &found) {
        (Some(name), None) => return Err(Error::pod(format!("container {name} not found"))),
        (_, Some(found)) => found,
        (None, None) => own,
    };
    let bad = || Error::pod(format!("unsupported container resource: {}", selector.resource));
    let (list, name) = selector.resource.split_once('.').ok_or_else(bad)?;
    let resources = c.resources.clone().unwrap_or_default();
    let value = match list {
        "limits" => resources.limits.as_ref().and_then(|l| l.get(name)).or_else(|| allocatable.get(name)),
        "requests" => {
            let request = resources.requests.as_ref().and_then(|r| r.get(name));
            request.or_else(|| resources.limits.as_ref().and_then(|l| l.get(name)))
        }
        _ => return Err(bad()),
    };
    let divisor = selector.divisor.as_ref().map(|d| d.0.as_str()).filter(|d| !d.is_empty() && *d != "0").unwrap_or("1");
    let divisor = quantity::milli(divisor).filter(|d| *d > 0).ok_or_else(|| Error::pod("divisor is not positive"))?;
    let value = value.and_then(|q| quantity::milli(&q.0)).unwrap_or(0);
    Ok(((value + divisor - 1) / divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_listed_and_quoted() {
        let of: Pod = serde_json::from_value(serde_json::json!({"metadata": {"labels": {"b": "x\"y", "a": "1\n2"}}}))
            .expect("pod");
        let none = Addresses::default();
        assert_eq!(field(&of, "metadata.labels", &none).expect("labels"), "a=\"1\\n2\"\nb=\"x\\\"y\"");
        assert!(field(&of, "spec.volumes", &none).is_err());
        assert!(field(&of, "spec['x']", &none).is_err());
        assert_eq!(field(&of, "metadata.annotations['no']", &none).expect("empty"), "");
    }
}
