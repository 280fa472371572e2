//! The labels and annotations that a kubelet puts on sandboxes and containers, with upstream's names, so
//! that `crictl` shows the usual and a restarted kubelet finds everything again.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::pod;

pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
pub(crate) const HASH: &str = "io.kubernetes.container.hash";
pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
pub(crate) const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
const CONFIG_SEEN: &str = "kubernetes.io/config.seen";
const CONFIG_SOURCE: &str = "kubernetes.io/config.source";

/// Prefixes that belong to the kubelet: a pod's own labels and annotations must not reach them
/// (SECURITY_CASES 21).
const RESERVED: [&str; 2] = ["io.kubernetes.pod.", "io.kubernetes.container."];

fn own(map: Option<&std::collections::BTreeMap<String, String>>) -> HashMap<String, String> {
    let fine = |key: &str| !RESERVED.iter().any(|r| key.starts_with(r));
    map.into_iter().flatten().filter(|(k, _)| fine(k)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

pub(crate) fn sandbox_labels(of: &Pod) -> HashMap<String, String> {
    let mut labels = own(of.metadata.labels.as_ref());
    labels.insert(POD_NAME.into(), pod::name(of).into());
    labels.insert(POD_NAMESPACE.into(), pod::namespace(of).into());
    labels.insert(POD_UID.into(), pod::uid(of).into());
    labels
}

pub(crate) fn sandbox_annotations(of: &Pod, seen: &str) -> HashMap<String, String> {
    let mut all = own(of.metadata.annotations.as_ref());
    all.insert(CONFIG_SEEN.into(), seen.into());
    all.entry(CONFIG_SOURCE.into()).or_insert_with(|| "api".into());
    all
}

pub(crate) fn container_labels(of: &Pod, container: &Container) -> HashMap<String, String> {
    HashMap::from([
        (POD_NAME.into(), pod::name(of).into()),
        (POD_NAMESPACE.into(), pod::namespace(of).into()),
        (POD_UID.into(), pod::uid(of).into()),
        (CONTAINER_NAME.into(), container.name.clone()),
    ])
}

pub(crate) fn container_annotations(of: &Pod, container: &Container, restarts: u32) -> HashMap<String, String> {
    let path = container.termination_message_path.clone();
    let policy = container.termination_message_policy.clone();
    HashMap::from([
        (HASH.into(), hash(container)),
        (RESTART_COUNT.into(), restarts.to_string()),
        (TERMINATION_PATH.into(), path.unwrap_or_else(|| "/dev/termination-log".into())),
        (TERMINATION_POLICY.into(), policy.unwrap_or_else(|| "File".into())),
        (GRACE.into(), pod::spec(of).termination_grace_period_seconds.unwrap_or(30).to_string()),
    ])
}

/// What a running container is compared by: its name and image, the only parts of it that may change in a
/// pod, as upstream hashes since 1.31. FNV-1a, 32 bits, in hexadecimal.
pub(crate) fn hash(container: &Container) -> String {
    let text = format!("{}\0{}", container.name, container.image.as_deref().unwrap_or_default());
    let fnv = text.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    format!("{fnv:x}")
}

/// The directory under the pod logs directory that belongs to the pod.
pub(crate) fn log_dir(namespace: &str, name: &str, uid: &str) -> String {
    format!("{namespace}_{name}_{uid}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_keys_of_the_author_have_no_effect() {
        let of: Pod = serde_json::from_value(serde_json::json!({"metadata": {
            "name": "p", "uid": "real", "labels": {"io.kubernetes.pod.uid": "fake", "a": "b"},
            "annotations": {"io.kubernetes.container.restartCount": "9", "c": "d"}}}))
        .expect("pod");
        let labels = sandbox_labels(&of);
        assert_eq!((labels[POD_UID].as_str(), labels["a"].as_str()), ("real", "b"));
        let annotations = sandbox_annotations(&of, "t");
        assert!(!annotations.contains_key(RESTART_COUNT) && annotations["c"] == "d");
    }

    #[test]
    fn only_name_and_image_change_the_hash() {
        let mut c = Container { name: "a".into(), image: Some("i".into()), ..Default::default() };
        let before = hash(&c);
        c.args = Some(vec!["x".into()]);
        assert_eq!(hash(&c), before);
        c.image = Some("j".into());
        assert_ne!(hash(&c), before);
    }
}
