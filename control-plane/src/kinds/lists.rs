//! How lists merge: the `x-kubernetes-*` extensions of the published OpenAPI document, which no crate carries.
//!
//! Source: the `+listType`, `+listMapKey`, `patchStrategy` and `patchMergeKey` tags of Kubernetes 1.33's Go types.
//! Used by strategic merge patches, by validation (no two entries with one key) and shown in `/openapi`.

/// How entries of a list belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListRule {
    /// Key by which a strategic merge patch finds an entry; empty: the list is replaced, or, with `merge`, it is a set.
    pub merge_key: &'static str,
    /// Whether a strategic merge patch merges rather than replaces.
    pub merge: bool,
    /// Whether a strategic merge patch may name the keys to retain (`$retainKeys`).
    pub retain_keys: bool,
    /// `map`, `set`, `atomic`, or empty.
    pub list_type: &'static str,
    /// Keys of a `map` list.
    pub map_keys: &'static [&'static str],
}

const fn map(key: &'static str, keys: &'static [&'static str]) -> ListRule {
    ListRule { merge_key: key, merge: true, retain_keys: false, list_type: "map", map_keys: keys }
}
const fn retain(key: &'static str, keys: &'static [&'static str]) -> ListRule {
    ListRule { merge_key: key, merge: true, retain_keys: true, list_type: "map", map_keys: keys }
}
const SET: ListRule = ListRule { merge_key: "", merge: true, retain_keys: false, list_type: "set", map_keys: &[] };
const ATOMIC: ListRule =
    ListRule { merge_key: "", merge: false, retain_keys: false, list_type: "atomic", map_keys: &[] };
const RETAIN: ListRule = ListRule { merge_key: "", merge: false, retain_keys: true, list_type: "", map_keys: &[] };
const fn atomic_by(key: &'static str) -> ListRule {
    ListRule { merge_key: key, merge: true, retain_keys: false, list_type: "atomic", map_keys: &[] }
}

/// type (without `io.k8s.`), field, rule
#[rustfmt::skip]
const RULES: &[(&str, &str, ListRule)] = &[
    ("apimachinery.pkg.apis.meta.v1.ObjectMeta", "ownerReferences", map("uid", &["uid"])),
    ("apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers", SET),
    ("apimachinery.pkg.apis.meta.v1.ObjectMeta", "managedFields", ATOMIC),
    ("apimachinery.pkg.apis.meta.v1.LabelSelector", "matchExpressions", ATOMIC),
    ("apimachinery.pkg.apis.meta.v1.LabelSelectorRequirement", "values", ATOMIC),
    ("api.core.v1.PodSpec", "volumes", retain("name", &["name"])),
    ("api.core.v1.PodSpec", "containers", map("name", &["name"])),
    ("api.core.v1.PodSpec", "initContainers", map("name", &["name"])),
    ("api.core.v1.PodSpec", "ephemeralContainers", map("name", &["name"])),
    ("api.core.v1.PodSpec", "imagePullSecrets", map("name", &["name"])),
    ("api.core.v1.PodSpec", "tolerations", ATOMIC),
    ("api.core.v1.PodSpec", "hostAliases", map("ip", &["ip"])),
    ("api.core.v1.PodSpec", "readinessGates", ATOMIC),
    ("api.core.v1.PodSpec", "topologySpreadConstraints", map("topologyKey", &["topologyKey", "whenUnsatisfiable"])),
    ("api.core.v1.PodSpec", "schedulingGates", map("name", &["name"])),
    ("api.core.v1.PodSpec", "resourceClaims", retain("name", &["name"])),
    ("api.core.v1.PodStatus", "conditions", map("type", &["type"])),
    ("api.core.v1.PodStatus", "podIPs", map("ip", &["ip"])),
    ("api.core.v1.PodStatus", "hostIPs", atomic_by("ip")),
    ("api.core.v1.PodStatus", "containerStatuses", ATOMIC),
    ("api.core.v1.PodStatus", "initContainerStatuses", ATOMIC),
    ("api.core.v1.PodStatus", "ephemeralContainerStatuses", ATOMIC),
    ("api.core.v1.PodStatus", "resourceClaimStatuses", retain("name", &["name"])),
    ("api.core.v1.PodDNSConfig", "nameservers", ATOMIC),
    ("api.core.v1.PodDNSConfig", "searches", ATOMIC),
    ("api.core.v1.PodDNSConfig", "options", ATOMIC),
    ("api.core.v1.PodSecurityContext", "supplementalGroups", ATOMIC),
    ("api.core.v1.PodSecurityContext", "sysctls", ATOMIC),
    ("api.core.v1.Capabilities", "add", ATOMIC),
    ("api.core.v1.Capabilities", "drop", ATOMIC),
    ("api.core.v1.Container", "args", ATOMIC),
    ("api.core.v1.Container", "command", ATOMIC),
    ("api.core.v1.Container", "env", map("name", &["name"])),
    ("api.core.v1.Container", "envFrom", ATOMIC),
    ("api.core.v1.Container", "ports", map("containerPort", &["containerPort", "protocol"])),
    ("api.core.v1.Container", "resizePolicy", ATOMIC),
    ("api.core.v1.Container", "volumeMounts", map("mountPath", &["mountPath"])),
    ("api.core.v1.Container", "volumeDevices", map("devicePath", &["devicePath"])),
    ("api.core.v1.EphemeralContainer", "args", ATOMIC),
    ("api.core.v1.EphemeralContainer", "command", ATOMIC),
    ("api.core.v1.EphemeralContainer", "env", map("name", &["name"])),
    ("api.core.v1.EphemeralContainer", "envFrom", ATOMIC),
    ("api.core.v1.EphemeralContainer", "ports", map("containerPort", &["containerPort", "protocol"])),
    ("api.core.v1.EphemeralContainer", "volumeMounts", map("mountPath", &["mountPath"])),
    ("api.core.v1.EphemeralContainer", "volumeDevices", map("devicePath", &["devicePath"])),
    ("api.core.v1.ContainerStatus", "volumeMounts", map("mountPath", &["mountPath"])),
    ("api.core.v1.ContainerStatus", "allocatedResourcesStatus", map("name", &["name"])),
    ("api.core.v1.ExecAction", "command", ATOMIC),
    ("api.core.v1.HTTPGetAction", "httpHeaders", ATOMIC),
    ("api.core.v1.HostAlias", "hostnames", ATOMIC),
    ("api.core.v1.ResourceRequirements", "claims", map("name", &["name"])),
    ("api.core.v1.ConfigMapVolumeSource", "items", ATOMIC),
    ("api.core.v1.ConfigMapProjection", "items", ATOMIC),
    ("api.core.v1.SecretVolumeSource", "items", ATOMIC),
    ("api.core.v1.SecretProjection", "items", ATOMIC),
    ("api.core.v1.DownwardAPIVolumeSource", "items", ATOMIC),
    ("api.core.v1.DownwardAPIProjection", "items", ATOMIC),
    ("api.core.v1.ProjectedVolumeSource", "sources", ATOMIC),
    ("api.core.v1.NodeSelector", "nodeSelectorTerms", ATOMIC),
    ("api.core.v1.NodeSelectorTerm", "matchExpressions", ATOMIC),
    ("api.core.v1.NodeSelectorTerm", "matchFields", ATOMIC),
    ("api.core.v1.NodeSelectorRequirement", "values", ATOMIC),
    ("api.core.v1.NodeAffinity", "preferredDuringSchedulingIgnoredDuringExecution", ATOMIC),
    ("api.core.v1.PodAffinity", "preferredDuringSchedulingIgnoredDuringExecution", ATOMIC),
    ("api.core.v1.PodAffinity", "requiredDuringSchedulingIgnoredDuringExecution", ATOMIC),
    ("api.core.v1.PodAntiAffinity", "preferredDuringSchedulingIgnoredDuringExecution", ATOMIC),
    ("api.core.v1.PodAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution", ATOMIC),
    ("api.core.v1.PodAffinityTerm", "namespaces", ATOMIC),
    ("api.core.v1.TopologySpreadConstraint", "matchLabelKeys", ATOMIC),
    ("api.core.v1.NodeSpec", "podCIDRs", SET),
    ("api.core.v1.NodeSpec", "taints", ATOMIC),
    ("api.core.v1.NodeStatus", "addresses", map("type", &["type"])),
    ("api.core.v1.NodeStatus", "conditions", map("type", &["type"])),
    ("api.core.v1.NodeStatus", "images", ATOMIC),
    ("api.core.v1.NodeStatus", "runtimeHandlers", ATOMIC),
    ("api.core.v1.NodeStatus", "volumesAttached", ATOMIC),
    ("api.core.v1.NodeStatus", "volumesInUse", ATOMIC),
    ("api.core.v1.ContainerImage", "names", ATOMIC),
    ("api.core.v1.NamespaceSpec", "finalizers", ATOMIC),
    ("api.core.v1.NamespaceStatus", "conditions", map("type", &["type"])),
    ("api.core.v1.ServiceAccount", "secrets", map("name", &["name"])),
    ("api.core.v1.ServiceAccount", "imagePullSecrets", ATOMIC),
    ("api.core.v1.ServiceSpec", "ports", map("port", &["port", "protocol"])),
    ("api.core.v1.ServiceSpec", "clusterIPs", ATOMIC),
    ("api.core.v1.ServiceSpec", "externalIPs", ATOMIC),
    ("api.core.v1.ServiceSpec", "ipFamilies", ATOMIC),
    ("api.core.v1.ServiceSpec", "loadBalancerSourceRanges", ATOMIC),
    ("api.core.v1.ServiceStatus", "conditions", map("type", &["type"])),
    ("api.core.v1.LoadBalancerStatus", "ingress", ATOMIC),
    ("api.core.v1.Endpoints", "subsets", ATOMIC),
    ("api.core.v1.EndpointSubset", "addresses", ATOMIC),
    ("api.core.v1.EndpointSubset", "notReadyAddresses", ATOMIC),
    ("api.core.v1.EndpointSubset", "ports", ATOMIC),
    ("api.discovery.v1.EndpointSlice", "endpoints", ATOMIC),
    ("api.discovery.v1.EndpointSlice", "ports", ATOMIC),
    ("api.discovery.v1.Endpoint", "addresses", SET),
    ("api.apps.v1.DeploymentSpec", "strategy", RETAIN),
    ("api.apps.v1.DeploymentStatus", "conditions", map("type", &["type"])),
    ("api.apps.v1.ReplicaSetStatus", "conditions", map("type", &["type"])),
    ("api.storage.v1.CSINodeSpec", "drivers", map("name", &["name"])),
    ("api.storage.v1.CSINodeDriver", "topologyKeys", ATOMIC),
    ("api.storage.v1.CSIDriverSpec", "tokenRequests", ATOMIC),
    ("api.storage.v1.CSIDriverSpec", "volumeLifecycleModes", SET),
    ("api.node.v1.Scheduling", "tolerations", ATOMIC),
];

/// The rule of a field of a type, named as in the OpenAPI document.
pub fn rule(type_name: &str, field: &str) -> Option<&'static ListRule> {
    let name = type_name.strip_prefix("io.k8s.")?;
    RULES.iter().find(|(ty, of, _)| *ty == name && *of == field).map(|(_, _, rule)| rule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::schema::{Type, schema};

    #[test]
    fn every_rule_names_a_field_that_exists() {
        for (ty, field, rule) in RULES {
            let object = schema().object(&format!("io.k8s.{ty}")).unwrap_or_else(|| panic!("no type {ty}"));
            let field = object.fields.get(*field).unwrap_or_else(|| panic!("no field {ty}.{field}"));
            if let (Type::List(item), key) = (&field.ty, rule.merge_key)
                && let Type::Object(item) = **item
                && !key.is_empty()
            {
                assert!(schema().at(item).fields.contains_key(key), "{ty}: key {key}");
            }
        }
    }
}
