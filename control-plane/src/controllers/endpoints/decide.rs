//! DECIDE: a Service and its pods -> its EndpointSlices and its Endpoints object.
//!
//! As upstream's endpointslice and endpoints controllers: at most 100 endpoints a slice; pods that resolve a named
//! target port to different numbers stand in different slices; terminating pods are listed but not ready. Slices
//! have names that follow from their place, so a change rewrites few of them and no name is ever guessed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use crate::controllers::meta::{is_finished, is_ready, is_terminating, name, namespace, owned_by, uid};
use crate::controllers::write::Write;

const SLICES: &str = "endpointslices.discovery.k8s.io";
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const US: &str = "endpointslice-controller.k8s.io";
/// Upstream's default.
const A_SLICE: usize = 100;
/// An Endpoints object lists no more (KEP-752).
const AN_OBJECT: usize = 1000;

/// A pod behind a service.
struct Backend<'a> {
    pod: &'a Pod,
    ip: String,
    ready: bool,
    serving: bool,
}

/// Resolved ports: (name, protocol, number, application protocol).
type Ports = Vec<(String, String, i32, Option<String>)>;

/// Whether a pod's labels fit a service's selector; a service without one selects nothing here.
pub(super) fn selects(service: &Service, pod: &Pod) -> bool {
    let selector =
        service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|selector| !selector.is_empty());
    let labels = pod.metadata.labels.as_ref();
    selector.is_some_and(|selector| selector.iter().all(|(k, v)| labels.and_then(|labels| labels.get(k)) == Some(v)))
}

/// Decides over the pods, slices and Endpoints of the service's namespace.
pub(super) fn decide(
    service: &Service,
    pods: &[Arc<Pod>],
    slices: &[Arc<EndpointSlice>],
    endpoints: Option<&Endpoints>,
) -> Vec<Write> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let has_selector = spec.selector.as_ref().is_some_and(|selector| !selector.is_empty());
    if !has_selector || spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let mut writes = Vec::new();
    let mut wanted: BTreeMap<String, Value> = BTreeMap::new();
    let mut subsets = Vec::new();
    for family in families(spec) {
        let groups = group(service, spec, pods, family);
        for (number, (ports, backends)) in groups.iter().enumerate() {
            // A service without pods has one slice, empty.
            let chunks: Vec<_> = if backends.is_empty() { vec![&[][..]] } else { backends.chunks(A_SLICE).collect() };
            for (chunk, backends) in chunks.into_iter().enumerate() {
                let slice = slice(service, family, (number, chunk), ports, backends);
                wanted.insert(slice["metadata"]["name"].as_str().unwrap_or_default().to_owned(), slice);
            }
        }
        if subsets.is_empty() {
            subsets = groups.iter().map(|(ports, backends)| subset(ports, backends)).collect();
        }
    }
    let ours = |slice: &&Arc<EndpointSlice>| {
        let label = |key: &str| slice.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
        label(SERVICE_NAME) == Some(name(&service.metadata)) && label(MANAGED_BY) == Some(US)
    };
    for slice in slices.iter().filter(ours) {
        match wanted.remove(name(&slice.metadata)) {
            Some(new) => writes.extend(replace(slice, &new)),
            None => writes.push(delete(service, name(&slice.metadata), uid(&slice.metadata))),
        }
    }
    writes.extend(wanted.into_values().map(|object| Write::Create { resource: SLICES, object }));
    writes.extend(endpoints_write(service, endpoints, &subsets));
    writes
}

fn families(spec: &ServiceSpec) -> Vec<bool> {
    let named: Vec<bool> = spec.ip_families.iter().flatten().map(|family| family == "IPv6").collect();
    if named.is_empty() { vec![false] } else { named }
}

/// Backends by the ports they resolve to; always at least one group, so that a service without pods has a slice.
fn group<'a>(
    service: &Service,
    spec: &ServiceSpec,
    pods: &'a [Arc<Pod>],
    v6: bool,
) -> BTreeMap<Ports, Vec<Backend<'a>>> {
    let mut groups: BTreeMap<Ports, Vec<Backend<'_>>> = BTreeMap::new();
    let anyway = spec.publish_not_ready_addresses == Some(true);
    for pod in pods.iter().filter(|pod| selects(service, pod) && !is_finished(pod)) {
        let Some(ip) = address(pod, v6) else { continue };
        let serving = is_ready(pod);
        let ready = anyway || (serving && !is_terminating(&pod.metadata));
        let ports = spec.ports.iter().flatten().filter_map(|port| resolve(port, pod)).collect();
        groups.entry(ports).or_default().push(Backend { pod, ip, ready, serving });
    }
    if groups.is_empty() {
        groups.insert(Ports::new(), Vec::new());
    }
    for backends in groups.values_mut() {
        backends.sort_by(|a, b| a.ip.cmp(&b.ip));
    }
    groups
}

fn address(pod: &Pod, v6: bool) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).chain(status.pod_ip.as_deref());
    let mut parsed = all.filter_map(|ip| ip.parse::<IpAddr>().ok());
    parsed.find(|ip| ip.is_ipv6() == v6).map(|ip| ip.to_string())
}

fn resolve(port: &ServicePort, pod: &Pod) -> Option<(String, String, i32, Option<String>)> {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let number = match &port.target_port {
        None | Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(wanted)) => {
            let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
            let ports = containers.iter().flat_map(|container| container.ports.iter().flatten());
            let fits = |p: &&k8s_openapi::api::core::v1::ContainerPort| {
                p.name.as_ref() == Some(wanted) && p.protocol.as_deref().unwrap_or("TCP") == protocol
            };
            ports.into_iter().find(fits)?.container_port
        }
    };
    Some((port.name.clone().unwrap_or_default(), protocol, number, port.app_protocol.clone()))
}

fn target(pod: &Pod) -> Value {
    json!({"kind": "Pod", "namespace": pod.metadata.namespace, "name": pod.metadata.name, "uid": pod.metadata.uid})
}

fn slice(service: &Service, v6: bool, place: (usize, usize), ports: &Ports, backends: &[Backend<'_>]) -> Value {
    let family = if v6 { "IPv6" } else { "IPv4" };
    let endpoint = |backend: &Backend<'_>| {
        let terminating = is_terminating(&backend.pod.metadata);
        let mut endpoint = json!({
            "addresses": [backend.ip],
            "conditions": {"ready": backend.ready, "serving": backend.serving, "terminating": terminating},
            "targetRef": target(backend.pod),
        });
        if let Some(node) = backend.pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) {
            endpoint["nodeName"] = node.as_str().into();
        }
        endpoint
    };
    let port = |(name, protocol, number, app): &(String, String, i32, Option<String>)| {
        let mut port = json!({"name": name, "protocol": protocol, "port": number});
        if let Some(app) = app {
            port["appProtocol"] = app.as_str().into();
        }
        port
    };
    let suffix = format!("{}{}-{}", if v6 { "6-" } else { "" }, place.0, place.1);
    let labels = BTreeMap::from([(SERVICE_NAME, name(&service.metadata)), (MANAGED_BY, US)]);
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-{suffix}", name(&service.metadata)), "namespace": namespace(&service.metadata),
            "labels": labels, "ownerReferences": [owned_by(service)],
        },
        "addressType": family,
        "endpoints": backends.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": ports.iter().map(port).collect::<Vec<_>>(),
    })
}

/// A merge patch of what differs; `None` if nothing does.
fn replace(old: &EndpointSlice, new: &Value) -> Option<Write> {
    let mut body = json!({});
    let was = json!(old);
    for field in ["endpoints", "ports"] {
        let (was, is) = (was.get(field).cloned().unwrap_or_else(|| json!([])), &new[field]);
        if was != *is {
            body[field] = is.clone();
        }
    }
    if body.as_object().is_none_or(|fields| fields.is_empty()) {
        return None;
    }
    let (namespace, name) = (namespace(&old.metadata).to_owned(), name(&old.metadata).to_owned());
    Some(Write::Patch { resource: SLICES, namespace, name, body })
}

fn delete(service: &Service, slice: &str, uid: &str) -> Write {
    let namespace = namespace(&service.metadata).to_owned();
    Write::Delete { resource: SLICES, namespace, name: slice.to_owned(), uid: Some(uid.to_owned()), grace: None }
}

fn subset(ports: &Ports, backends: &[Backend<'_>]) -> Value {
    let list = |ready: bool| -> Vec<Value> {
        let those = backends.iter().filter(|b| b.ready == ready && !is_terminating(&b.pod.metadata)).take(AN_OBJECT);
        let address = |backend: &Backend<'_>| {
            let mut address = json!({"ip": backend.ip, "targetRef": target(backend.pod)});
            if let Some(node) = backend.pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) {
                address["nodeName"] = node.as_str().into();
            }
            address
        };
        those.map(address).collect()
    };
    let mut subset = json!({});
    for (field, list) in [("addresses", list(true)), ("notReadyAddresses", list(false))] {
        if !list.is_empty() {
            subset[field] = list.into();
        }
    }
    if subset.as_object().is_none_or(|fields| fields.is_empty()) {
        return Value::Null;
    }
    let port = |(name, protocol, number, _): &(String, String, i32, Option<String>)| {
        let mut port = json!({"port": number, "protocol": protocol});
        if !name.is_empty() {
            port["name"] = name.as_str().into();
        }
        port
    };
    subset["ports"] = ports.iter().map(port).collect();
    subset
}

fn endpoints_write(service: &Service, old: Option<&Endpoints>, subsets: &[Value]) -> Option<Write> {
    let (namespace, name) = (namespace(&service.metadata), name(&service.metadata));
    let subsets: Vec<&Value> = subsets.iter().filter(|subset| !subset.is_null()).collect();
    match old {
        None => {
            let labels = json!(service.metadata.labels.clone().unwrap_or_default());
            let metadata = json!({"name": name, "namespace": namespace, "labels": labels});
            let object = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets});
            Some(Write::Create { resource: "endpoints", object })
        }
        Some(old) if json!(old.subsets.clone().unwrap_or_default()) != json!(subsets) => Some(Write::Patch {
            resource: "endpoints",
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            body: json!({"subsets": subsets}),
        }),
        Some(_) => None,
    }
}
