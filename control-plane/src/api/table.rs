//! Tables and bare metadata: the forms in which `kubectl get` and informers of metadata take objects.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::{Kind, columns};

/// `meta.k8s.io/v1`, or its beta.
pub(crate) fn version(beta: bool) -> &'static str {
    if beta { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" }
}

/// PartialObjectMetadata of an object.
pub(crate) fn metadata(object: &Value, beta: bool) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": version(beta), "metadata": object["metadata"]})
}

/// The Table of objects. `include` says what comes with each row: `None`, `Metadata` (also if empty) or `Object`.
pub(crate) fn of(kind: &Kind, objects: &[Value], include: &str, beta: bool, header: bool, now: Timestamp) -> Value {
    let row = |object: &Value| {
        let mut row = json!({"cells": columns::cells(kind, object, now)});
        match include {
            "None" => {}
            "Object" => row["object"] = object.clone(),
            _ => row["object"] = metadata(object, beta),
        }
        row
    };
    let version_of_one = match objects {
        [one] => one["metadata"]["resourceVersion"].clone(),
        _ => "".into(),
    };
    let definitions = if header { columns::definitions(kind) } else { Value::Array(Vec::new()) };
    json!({
        "kind": "Table", "apiVersion": version(beta), "metadata": {"resourceVersion": version_of_one},
        "columnDefinitions": definitions, "rows": objects.iter().map(row).collect::<Value>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kinds;

    #[test]
    fn a_table_has_columns_cells_and_metadata() {
        let kind = Kinds::builtin().named("configmaps").expect("kind");
        let object =
            json!({"metadata": {"name": "a", "creationTimestamp": "2026-11-23T14:00:00Z"}, "data": {"k": "v"}});
        let now = "2026-11-23T15:00:00Z".parse().expect("time");
        let table = of(&kind, std::slice::from_ref(&object), "", false, true, now);
        assert_eq!(table["columnDefinitions"][0]["name"], "Name");
        assert_eq!(table["columnDefinitions"][0]["format"], "name");
        assert_eq!(table["rows"][0]["cells"], json!(["a", 1, "60m"]));
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        let whole = of(&kind, std::slice::from_ref(&object), "Object", false, true, now);
        assert_eq!(whole["rows"][0]["object"], object);
        let none = of(&kind, &[object], "None", true, true, now);
        assert!(none["rows"][0].get("object").is_none());
        assert_eq!(none["apiVersion"], "meta.k8s.io/v1beta1");
    }
}
