//! The scale subresource: a view of an object's replicas as `autoscaling/v1` Scale.

use serde_json::{Map, Value, json};

use crate::error::{Cause, Error, Result};
use crate::kinds::{Kind, form};

/// The Scale of an object.
pub(crate) fn of(_kind: &Kind, object: &Value) -> Value {
    let metadata = &object["metadata"];
    let keys = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"];
    let kept = keys.iter().filter_map(|k| Some(((*k).to_owned(), metadata.get(*k)?.clone())));
    let mut status = json!({"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)});
    let selector = form::selector_text(&object["spec"]["selector"]);
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": kept.collect::<Map<_, _>>(),
        "spec": {"replicas": object["spec"]["replicas"].as_i64().unwrap_or(0)}, "status": status,
    })
}

/// The object with the replicas of a Scale.
///
/// # Errors
/// `Invalid` for a negative count.
pub(crate) fn apply(kind: &Kind, object: &Value, scale: &Value) -> Result<Value> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let cause = Cause {
            reason: "FieldValueInvalid",
            field: "spec.replicas".into(),
            message: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
        };
        let name = form::text(object, &["metadata", "name"]);
        return Err(Error::invalid(&kind.group, "Scale", name, vec![cause]));
    }
    let mut new = object.clone();
    new["spec"]["replicas"] = replicas.into();
    new["metadata"]["resourceVersion"] = scale["metadata"]["resourceVersion"].clone();
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kinds;

    #[test]
    fn a_scale_shows_and_sets_replicas() {
        let kind = Kinds::builtin().named("deployments.apps").expect("kind");
        let object = json!({
            "metadata": {"name": "web", "labels": {}},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"b": "1", "a": "2"},
                "matchExpressions": [{"key": "c", "operator": "In", "values": ["x", "y"]}]}},
            "status": {"replicas": 1},
        });
        let mut scale = of(&kind, &object);
        assert_eq!(scale["metadata"], json!({"name": "web"}));
        assert_eq!(scale["status"], json!({"replicas": 1, "selector": "a=2,b=1,c in (x,y)"}));
        scale["spec"]["replicas"] = 5.into();
        assert_eq!(apply(&kind, &object, &scale).expect("applies")["spec"]["replicas"], 5);
        scale["spec"]["replicas"] = (-1).into();
        assert!(apply(&kind, &object, &scale).is_err());
    }
}
