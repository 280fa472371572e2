//! The rows of Deployments and ReplicaSets.

use jiff::Timestamp;
use serde_json::Value;

use super::{age, name};
use crate::kinds::form::{self, selector_text};

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn template(object: &Value) -> [Value; 3] {
    let joined = |key: &str| {
        let list = form::list(object, &["spec", "template", "spec", "containers"]).iter();
        list.map(|c| form::text(c, &[key])).collect::<Vec<_>>().join(",")
    };
    let selector = selector_text(&object["spec"]["selector"]);
    let selector = if selector.is_empty() { "<none>".into() } else { selector };
    [joined("name").into(), joined("image").into(), selector.into()]
}

pub(super) fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let status = &object["status"];
    let ready = format!("{}/{}", number(&status["readyReplicas"]), number(&object["spec"]["replicas"]));
    let mut cells = vec![
        name(object),
        ready.into(),
        number(&status["updatedReplicas"]).into(),
        number(&status["availableReplicas"]).into(),
        age(object, now),
    ];
    cells.extend(template(object));
    cells
}

pub(super) fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let status = &object["status"];
    let mut cells = vec![
        name(object),
        number(&object["spec"]["replicas"]).into(),
        number(&status["replicas"]).into(),
        number(&status["readyReplicas"]).into(),
        age(object, now),
    ];
    cells.extend(template(object));
    cells
}
