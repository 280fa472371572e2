//! What has to hold between objects before one is stored: its namespace, a pod's account and priority, a service's
//! address.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::pick::pick;
use super::{Api, Call, verbs};
use crate::error::{Error, Kind, Result};
use crate::kinds::form;
use crate::store::Range;

/// Ports that NodePort services get.
const NODE_PORTS: std::ops::RangeInclusive<u64> = 30_000..=32_767;

/// Admits and completes an object that is created.
pub(crate) fn create(api: &Api, call: &Call, object: &mut Value) -> Result<()> {
    if call.kind.namespaced {
        namespace(api, call, object)?;
    }
    match call.kind.kind.as_str() {
        "Pod" => pod(api, call, object),
        "Service" => service(api, object),
        _ => Ok(()),
    }
}

/// Admits an object that replaces another.
pub(crate) fn update(api: &Api, call: &Call, new: &mut Value, old: &Value) -> Result<()> {
    if call.kind.kind == "Service" && call.subresource.is_empty() {
        let address = form::text(old, &["spec", "clusterIP"]).to_owned();
        let kept = form::text(new, &["spec", "clusterIP"]).is_empty() && new["spec"]["type"] != "ExternalName";
        if kept && !address.is_empty() {
            new["spec"]["clusterIP"] = address.into();
            new["spec"]["clusterIPs"] = old["spec"]["clusterIPs"].clone();
        }
        return service(api, new);
    }
    Ok(())
}

fn forbidden(call: &Call, object: &Value, why: &str) -> Error {
    let name = form::text(object, &["metadata", "name"]);
    let text = format!("{} {name:?} is forbidden: {why}", call.kind.resource());
    Error::new(Kind::Forbidden, text).about(&call.kind.group, &call.kind.plural, name)
}

/// The namespace must be there, and stay.
fn namespace(api: &Api, call: &Call, object: &Value) -> Result<()> {
    let name = &call.namespace;
    let found = api.store.get(&format!("core/namespaces/{name}"));
    let found = found.ok_or_else(|| Error::not_found("", "namespaces", name))?;
    if !pick(&found.value, &[&["metadata", "deletionTimestamp"]])[0].is_null() {
        let why = format!("unable to create new content in namespace {name} because it is being terminated");
        return Err(forbidden(call, object, &why));
    }
    Ok(())
}

fn pod(api: &Api, call: &Call, pod: &mut Value) -> Result<()> {
    let mirror = pod["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some();
    if !mirror {
        account(api, call, pod)?;
        runtime_class(api, call, pod)?;
    }
    priority(api, call, pod)?;
    tolerations(&mut pod["spec"]);
    Ok(())
}

fn account(api: &Api, call: &Call, pod: &mut Value) -> Result<()> {
    let given = form::text(pod, &["spec", "serviceAccountName"]);
    let name = if given.is_empty() { "default".to_owned() } else { given.to_owned() };
    if api.store.get(&format!("core/serviceaccounts/{}/{name}", call.namespace)).is_none() {
        let text =
            format!("error looking up service account {}/{name}: serviceaccount {name:?} not found", call.namespace);
        return Err(forbidden(call, pod, &text));
    }
    let account = api.store.get(&format!("core/serviceaccounts/{}/{name}", call.namespace));
    let told = account.map(|account| pick(&account.value, &[&["automountServiceAccountToken"]])[0].take());
    pod["spec"]["serviceAccountName"] = name.as_str().into();
    pod["spec"]["serviceAccount"] = name.into();
    // The pod's own word counts before its account's.
    let wanted = [&pod["spec"]["automountServiceAccountToken"], &told.unwrap_or_default()];
    if api.account_volumes && !wanted.into_iter().find(|w| w.is_boolean()).is_some_and(|w| *w == false) {
        mount_account(&mut pod["spec"], &verbs::generate("kube-api-access-"));
    }
    Ok(())
}

/// A pod that names a class of runtime is refused where there is none of that name.
fn runtime_class(api: &Api, call: &Call, pod: &Value) -> Result<()> {
    let name = form::text(pod, &["spec", "runtimeClassName"]);
    if name.is_empty() || api.store.get(&format!("node.k8s.io/runtimeclasses/{name}")).is_some() {
        return Ok(());
    }
    Err(forbidden(call, pod, &format!("pod rejected: RuntimeClass {name:?} not found")))
}

/// Where programs look for their account: token, authority and namespace.
const ACCOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Mounts token, authority and namespace into every container that has nothing there.
fn mount_account(spec: &mut Value, volume: &str) {
    let mount = json!({"name": volume, "readOnly": true, "mountPath": ACCOUNT_PATH});
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if form::list(container, &["volumeMounts"]).iter().any(|m| m["mountPath"] == ACCOUNT_PATH) {
                continue;
            }
            mounted = true;
            match container["volumeMounts"].as_array_mut() {
                Some(mounts) => mounts.push(mount.clone()),
                None => container["volumeMounts"] = json!([mount]),
            }
        }
    }
    if !mounted {
        return;
    }
    let namespace = json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    let volume = json!({"name": volume, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]}});
    match spec["volumes"].as_array_mut() {
        Some(volumes) => volumes.push(volume),
        None => spec["volumes"] = json!([volume]),
    }
}

fn priority(api: &Api, call: &Call, pod: &mut Value) -> Result<()> {
    let name = form::text(pod, &["spec", "priorityClassName"]).to_owned();
    let (value, policy) = if name.is_empty() {
        (json!(0), json!("PreemptLowerPriority"))
    } else {
        let found = api.store.get(&format!("scheduling.k8s.io/priorityclasses/{name}"));
        let found =
            found.ok_or_else(|| forbidden(call, pod, &format!("no PriorityClass with name {name} was found")))?;
        let mut found = pick(&found.value, &[&["value"], &["preemptionPolicy"]]);
        (found[0].take(), found[1].take())
    };
    let given = &pod["spec"]["priority"];
    if given.is_number() && *given != value {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(forbidden(call, pod, &why));
    }
    pod["spec"]["priority"] = value;
    pod["spec"]["preemptionPolicy"] = policy;
    Ok(())
}

/// Pods stay for five minutes on a node that is silent, unless they say otherwise.
fn tolerations(spec: &mut Value) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = form::list(spec, &["tolerations"]).iter().any(|t| {
            let (own, effect) = (form::text(t, &["key"]), form::text(t, &["effect"]));
            (own == key || own.is_empty()) && (effect.is_empty() || effect == "NoExecute")
        });
        if tolerated {
            continue;
        }
        let toleration = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
        match spec["tolerations"].as_array_mut() {
            Some(list) => list.push(toleration),
            None => spec["tolerations"] = json!([toleration]),
        }
    }
}

/// Gives a service its address and node ports.
fn service(api: &Api, service: &mut Value) -> Result<()> {
    let spec = &mut service["spec"];
    let kind = form::text(spec, &["type"]).to_owned();
    if kind == "ExternalName" {
        return Ok(());
    }
    let taken = services(api)?;
    if form::text(spec, &["clusterIP"]).is_empty() {
        let address = free_address(api.service_cidr, &taken.addresses)
            .ok_or_else(|| Error::new(Kind::Internal, "no address is left in the service network"))?;
        spec["clusterIP"] = address.to_string().into();
    }
    spec["clusterIPs"] = json!([spec["clusterIP"]]);
    if !matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        return Ok(());
    }
    let mut ports = taken.ports;
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        if port["nodePort"].as_u64().is_none_or(|p| p == 0) {
            let free = NODE_PORTS.into_iter().find(|p| !ports.contains(p));
            let free = free.ok_or_else(|| Error::new(Kind::Internal, "no node port is left"))?;
            ports.insert(free);
            port["nodePort"] = free.into();
        }
    }
    Ok(())
}

struct Taken {
    addresses: HashSet<String>,
    ports: HashSet<u64>,
}

fn services(api: &Api) -> Result<Taken> {
    let range = Range { prefix: "core/services/", ..Default::default() };
    let page = api.store.list(range).map_err(|e| Error::internal("list services", e))?;
    let mut taken = Taken { addresses: HashSet::new(), ports: HashSet::new() };
    for item in page.items {
        let found = pick(&item.value, &[&["spec", "clusterIP"], &["spec", "ports"]]);
        taken.addresses.extend(found[0].as_str().map(str::to_owned));
        let ports = found[1].as_array().into_iter().flatten();
        taken.ports.extend(ports.filter_map(|port| port["nodePort"].as_u64()));
    }
    Ok(taken)
}

/// The first free address after the network's first, which is the API's own.
fn free_address((network, prefix): (Ipv4Addr, u8), taken: &HashSet<String>) -> Option<Ipv4Addr> {
    let hosts = 1u32.checked_shl(32 - u32::from(prefix)).map_or(u32::MAX, |n| n - 1);
    let candidates = (2..hosts).map(|n| Ipv4Addr::from(u32::from(network) + n));
    candidates.take(70_000).find(|address| !taken.contains(&address.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_handed_out_once() {
        let network = (Ipv4Addr::new(10, 96, 0, 0), 30);
        let first = free_address(network, &HashSet::new()).expect("free");
        assert_eq!(first, Ipv4Addr::new(10, 96, 0, 2));
        assert_eq!(free_address(network, &HashSet::from(["10.96.0.2".to_owned()])), None);
    }

    #[test]
    fn an_account_is_mounted_where_nothing_is() {
        let mut spec = json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "v", "mountPath": ACCOUNT_PATH}]}]});
        mount_account(&mut spec, "kube-api-access-x");
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], "kube-api-access-x");
        assert_eq!(form::list(&spec["containers"][1], &["volumeMounts"]).len(), 1);
        assert_eq!(form::list(&spec["volumes"][0], &["projected", "sources"]).len(), 3);
        let mut own = json!({"containers": [spec["containers"][1]]});
        mount_account(&mut own, "kube-api-access-x");
        assert!(own.get("volumes").is_none());
    }

    #[test]
    fn pods_tolerate_silent_nodes_for_five_minutes() {
        let mut spec = json!({});
        tolerations(&mut spec);
        assert_eq!(form::list(&spec, &["tolerations"]).len(), 2);
        let mut all = json!({"tolerations": [{"operator": "Exists"}]});
        tolerations(&mut all);
        assert_eq!(form::list(&all, &["tolerations"]).len(), 1);
    }
}
