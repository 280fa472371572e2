//! A container's environment, command and arguments. Pure: what ConfigMaps and Secrets hold comes in as
//! `Sources`. Rules: upstream's makeEnvironmentVariables and third_party/forked/golang/expansion.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret, Service};

use super::fields::{self, Addresses};
use crate::error::{Error, Result};
use crate::pod;
use crate::quantity::Resources;

/// A ConfigMap or Secret of the pod's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    ConfigMap,
    Secret,
}

impl Kind {
    /// The API's plural.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmaps",
            Self::Secret => "secrets",
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }
}

/// The data of what is referred to; an absent entry is an object that does not exist.
pub(crate) type Sources = BTreeMap<(Kind, String), BTreeMap<String, Vec<u8>>>;

pub(crate) fn data_of_config_map(of: ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let plain = of.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes()));
    let binary = of.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0));
    plain.chain(binary).collect()
}

pub(crate) fn data_of_secret(of: Secret) -> BTreeMap<String, Vec<u8>> {
    of.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect()
}

/// What the container's environment refers to.
pub(crate) fn references(c: &Container) -> Vec<(Kind, String)> {
    let mut all = Vec::new();
    for from in c.env_from.iter().flatten() {
        all.extend(from.config_map_ref.as_ref().map(|r| (Kind::ConfigMap, r.name.clone())));
        all.extend(from.secret_ref.as_ref().map(|r| (Kind::Secret, r.name.clone())));
    }
    for source in c.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        all.extend(source.config_map_key_ref.as_ref().map(|r| (Kind::ConfigMap, r.name.clone())));
        all.extend(source.secret_key_ref.as_ref().map(|r| (Kind::Secret, r.name.clone())));
    }
    all.sort();
    all.dedup();
    all
}

/// What an environment is made from.
pub(crate) struct Inputs<'a> {
    pub pod: &'a Pod,
    pub sources: &'a Sources,
    pub services: &'a [Service],
    pub addresses: &'a Addresses,
    /// What limits default to.
    pub allocatable: &'a Resources,
}

/// The environment, in the order in which it was defined; later definitions replace earlier ones.
///
/// # Errors
/// `Kind::Pod` naming the object or key that is missing: CreateContainerConfigError.
pub(crate) fn build(inputs: &Inputs<'_>, c: &Container) -> Result<Vec<(String, String)>> {
    let mut out = Environment::default();
    for (name, value) in service_variables(inputs.pod, inputs.services) {
        out.set(name, value);
    }
    for from in c.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let config_map = from.config_map_ref.as_ref().map(|r| (Kind::ConfigMap, &r.name, r.optional));
        let secret = from.secret_ref.as_ref().map(|r| (Kind::Secret, &r.name, r.optional));
        for (kind, name, optional) in config_map.into_iter().chain(secret) {
            match inputs.sources.get(&(kind, name.clone())) {
                Some(data) => {
                    for (key, value) in data {
                        out.set(format!("{prefix}{key}"), String::from_utf8_lossy(value).into_owned());
                    }
                }
                None if optional == Some(true) => {}
                None => return Err(Error::pod(format!("{} {name:?} not found", kind.noun()))),
            }
        }
    }
    for var in c.env.iter().flatten() {
        let value = match &var.value_from {
            Some(source) => match from_source(inputs, c, source)? {
                Some(value) => value,
                None => continue,
            },
            None => expand(var.value.as_deref().unwrap_or_default(), |name| out.get(name)),
        };
        out.set(var.name.clone(), value);
    }
    Ok(out.0)
}

#[derive(Default)]
struct Environment(Vec<(String, String)>);

impl Environment {
    fn set(&mut self, name: String, value: String) {
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some(entry) => entry.1 = value,
            None => self.0.push((name, value)),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// `None`: optional and not there.
fn from_source(inputs: &Inputs<'_>, c: &Container, source: &EnvVarSource) -> Result<Option<String>> {
    if let Some(field) = &source.field_ref {
        return fields::field(inputs.pod, &field.field_path, inputs.addresses).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return fields::resource(inputs.pod, c, resource, inputs.allocatable).map(Some);
    }
    let config_map = source.config_map_key_ref.as_ref().map(|r| (Kind::ConfigMap, &r.name, &r.key, r.optional));
    let secret = source.secret_key_ref.as_ref().map(|r| (Kind::Secret, &r.name, &r.key, r.optional));
    let Some((kind, name, key, optional)) = config_map.or(secret) else { return Ok(Some(String::new())) };
    let optional = optional == Some(true);
    let Some(data) = inputs.sources.get(&(kind, name.clone())) else {
        return if optional { Ok(None) } else { Err(Error::pod(format!("{} {name:?} not found", kind.noun()))) };
    };
    match data.get(key) {
        Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        None if optional => Ok(None),
        None => {
            let (noun, namespace) =
                (if kind == Kind::Secret { "Secret" } else { "ConfigMap" }, pod::namespace(inputs.pod));
            Err(Error::pod(format!("couldn't find key {key} in {noun} {namespace}/{name}")))
        }
    }
}

/// Replaces `$(NAME)` by its value where there is one; `$$` is a literal `$`.
pub(crate) fn expand<'a>(text: &str, value: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match value(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out + rest
}

/// `words` with variables replaced: a command or its arguments.
pub(crate) fn expand_all(words: Option<&Vec<String>>, env: &[(String, String)]) -> Vec<String> {
    let value = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    words.into_iter().flatten().map(|word| expand(word, value)).collect()
}

/// The variables of the namespace's services (if enableServiceLinks) and of `default/kubernetes`.
fn service_variables(of: &Pod, services: &[Service]) -> BTreeMap<String, String> {
    let links = pod::spec(of).enable_service_links != Some(false);
    let mut out = BTreeMap::new();
    let is_master = |s: &&Service| {
        s.metadata.namespace.as_deref() == Some("default") && s.metadata.name.as_deref() == Some("kubernetes")
    };
    let own = |s: &&Service| links && s.metadata.namespace.as_deref() == Some(pod::namespace(of));
    let chosen = services.iter().filter(is_master).chain(services.iter().filter(own));
    for service in chosen {
        let Some(spec) = &service.spec else { continue };
        let ip = spec.cluster_ip.as_deref().unwrap_or_default();
        if ip.is_empty() || ip == "None" {
            continue;
        }
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let prefix = name.to_uppercase().replace('-', "_");
        out.insert(format!("{prefix}_SERVICE_HOST"), ip.to_string());
        for (at, port) in spec.ports.iter().flatten().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{}:{}", protocol.to_lowercase(), bracketed(ip), port.port);
            if at == 0 {
                out.insert(format!("{prefix}_SERVICE_PORT"), port.port.to_string());
                out.insert(format!("{prefix}_PORT"), url.clone());
            }
            if let Some(named) = port.name.as_deref().filter(|n| !n.is_empty()) {
                let named = named.to_uppercase().replace('-', "_");
                out.insert(format!("{prefix}_SERVICE_PORT_{named}"), port.port.to_string());
            }
            let base = format!("{prefix}_PORT_{}_{protocol}", port.port);
            out.insert(base.clone(), url);
            out.insert(format!("{base}_PROTO"), protocol.to_lowercase());
            out.insert(format!("{base}_PORT"), port.port.to_string());
            out.insert(format!("{base}_ADDR"), ip.to_string());
        }
    }
    out
}

fn bracketed(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn built(container: Value, sources: &Sources, services: Value) -> Result<String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a/b": "c"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "sa", "containers": [container]}}))
        .expect("pod");
        let services: Vec<Service> = serde_json::from_value(services).expect("services");
        let addresses = Addresses { pod: vec!["10.0.0.2".into()], host: vec!["192.0.2.1".into()] };
        let allocatable = serde_json::from_value(json!({"cpu": "2", "memory": "1Gi"})).expect("resources");
        let inputs =
            Inputs { pod: &pod, sources, services: &services, addresses: &addresses, allocatable: &allocatable };
        let all = build(&inputs, &pod::spec(&pod).containers[0])?;
        Ok(all.into_iter().map(|(k, v)| format!("{k}={v}\n")).collect())
    }

    fn sources() -> Sources {
        let data =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_string(), v.as_bytes().to_vec())).collect();
        BTreeMap::from([
            ((Kind::ConfigMap, "cm".to_string()), data(&[("one", "1"), ("two", "2")])),
            ((Kind::Secret, "s".to_string()), data(&[("pass", "word")])),
        ])
    }

    #[test]
    fn variables_expand_in_order() {
        let c = json!({"name": "c", "env": [
            {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(C)$$(A)$x"}, {"name": "C", "value": "3"},
            {"name": "A", "value": "again $(B)"}]});
        assert_eq!(built(c, &sources(), json!([])).expect("env"), "A=again 1$(C)$(A)$x\nB=1$(C)$(A)$x\nC=3\n");
        assert_eq!(expand("$(", |_| Some("no")), "$(");
        assert_eq!(expand("a$", |_| Some("no")), "a$");
    }

    #[test]
    fn references_are_followed() {
        let c = json!({"name": "c", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "1Mi"}},
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "gone", "optional": true}}],
            "env": [
            {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pass"}}},
            {"name": "NO", "valueFrom": {"secretKeyRef": {"name": "s", "key": "x", "optional": true}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "MCPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
            {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}}]});
        assert_eq!(
            built(c, &sources(), json!([])).expect("env"),
            "P_one=1\nP_two=2\nS=word\nIP=10.0.0.2\nL=c\nCPU=2\nMCPU=1500\nMEM=1024\n"
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        for (env, want) in [
            (
                json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "no", "key": "k"}}}]}),
                "configmap \"no\" not found",
            ),
            (
                json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}]}),
                "couldn't find key k in ConfigMap n/cm",
            ),
            (json!({"envFrom": [{"secretRef": {"name": "no"}}]}), "secret \"no\" not found"),
        ] {
            let mut c = env;
            c["name"] = "c".into();
            assert_eq!(built(c, &sources(), json!([])).expect_err(want).to_string(), want);
        }
    }

    #[test]
    fn services_become_variables() {
        let services = json!([
            {"metadata": {"name": "my-db", "namespace": "n"}, "spec": {"clusterIP": "10.1.0.1", "ports": [{"name": "sql", "port": 5432}]}},
            {"metadata": {"name": "other", "namespace": "m"}, "spec": {"clusterIP": "10.1.0.2", "ports": [{"port": 1}]}},
            {"metadata": {"name": "headless", "namespace": "n"}, "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}]);
        assert_eq!(
            built(json!({"name": "c"}), &sources(), services).expect("env"),
            "MY_DB_PORT=tcp://10.1.0.1:5432\nMY_DB_PORT_5432_TCP=tcp://10.1.0.1:5432\nMY_DB_PORT_5432_TCP_ADDR=10.1.0.1\n\
             MY_DB_PORT_5432_TCP_PORT=5432\nMY_DB_PORT_5432_TCP_PROTO=tcp\nMY_DB_SERVICE_HOST=10.1.0.1\n\
             MY_DB_SERVICE_PORT=5432\nMY_DB_SERVICE_PORT_SQL=5432\n"
        );
    }
}
