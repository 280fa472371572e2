//! The row of a node.

use jiff::Timestamp;
use serde_json::Value;

use super::{age, name, or_none};
use crate::kinds::form;

const ROLE: &str = "node-role.kubernetes.io/";

pub(super) fn cells(node: &Value, now: Timestamp) -> Vec<Value> {
    let info = |key: &str| form::text(node, &["status", "nodeInfo", key]).to_owned();
    let known = |text: String| if text.is_empty() { Value::from("<unknown>") } else { text.into() };
    vec![
        name(node),
        status(node).into(),
        or_none(&roles(node).join(",")),
        age(node, now),
        info("kubeletVersion").into(),
        or_none(address(node, "InternalIP")),
        or_none(address(node, "ExternalIP")),
        known(info("osImage")),
        known(info("kernelVersion")),
        known(info("containerRuntimeVersion")),
    ]
}

fn status(node: &Value) -> String {
    let ready = form::list(node, &["status", "conditions"]).iter().find(|c| c["type"] == "Ready");
    let mut text = match ready {
        Some(ready) if ready["status"] == "True" => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node["spec"]["unschedulable"] == true {
        text.push_str(",SchedulingDisabled");
    }
    text
}

fn roles(node: &Value) -> Vec<String> {
    let mut roles = Vec::new();
    for (key, value) in node["metadata"]["labels"].as_object().into_iter().flatten() {
        let old = (key == "kubernetes.io/role").then(|| value.as_str().unwrap_or_default());
        roles.extend(key.strip_prefix(ROLE).or(old).filter(|r| !r.is_empty()).map(str::to_owned));
    }
    roles.sort();
    roles.dedup();
    roles
}

fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let found = form::list(node, &["status", "addresses"]).iter().find(|a| a["type"] == kind);
    found.map_or("", |a| form::text(a, &["address"]))
}
