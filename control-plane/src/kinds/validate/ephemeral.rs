//! Rules of ephemeral containers, which `kubectl debug` adds to a pod that runs: they are only ever added.

use std::collections::HashSet;

use serde_json::Value;

use super::{Check, container};
use crate::kinds::form;

const LIST: &str = "ephemeralContainers";

/// What only containers have that the pod waits for or restarts.
const NOT_FOR_THEM: &[&str] = &["lifecycle", "livenessProbe", "readinessProbe", "startupProbe", "ports"];

/// Checks the list of `new`: what `old` has stays as it is, what is more is whole.
pub(super) fn update(new: &Value, old: &Value, check: &mut Check) {
    let (given, before) = (form::list(new, &[LIST]), form::list(old, &[LIST]));
    let name = |each: &Value| form::text(each, &["name"]).to_owned();
    for each in before {
        if !given.iter().any(|g| name(g) == name(each)) {
            check.forbidden(LIST, &format!("existing ephemeral containers {:?} may not be removed", [name(each)]));
        }
    }
    let volumes: HashSet<&str> = form::list(new, &["volumes"]).iter().map(|v| form::text(v, &["name"])).collect();
    let others: Vec<&Value> =
        ["initContainers", "containers"].iter().flat_map(|field| form::list(new, &[field])).collect();
    let mut names: HashSet<&str> = others.iter().map(|c| form::text(c, &["name"])).collect();
    check.each(LIST, given, |check, each| {
        container::name(each, &mut names, check);
        match before.iter().find(|b| name(b) == name(each)) {
            Some(same) if same == each => return,
            Some(_) => return check.forbidden("", "existing ephemeral containers may not be changed"),
            None => container::check(each, &volumes, check),
        }
        for field in NOT_FOR_THEM.iter().filter(|f| !is_empty(&each[**f])) {
            check.forbidden(field, "cannot be set for an Ephemeral Container");
        }
        if ["limits", "requests"].iter().any(|which| !is_empty(&each["resources"][which])) {
            check.forbidden("resources", "cannot be set for an Ephemeral Container");
        }
        let target = form::text(each, &["targetContainerName"]);
        if !target.is_empty() && !others.iter().any(|c| form::text(c, &["name"]) == target) {
            check.not_found("targetContainerName", target);
        }
    });
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(given: Value) -> Vec<String> {
        let spec = |list: Value| json!({"containers": [{"name": "main"}], "volumes": [], LIST: list});
        let old = spec(json!([{"name": "first", "image": "a"}]));
        let mut check = Check::default();
        update(&spec(given), &old, &mut check);
        check.causes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn one_more_is_taken() {
        let more = json!([{"name": "first", "image": "a"},
            {"name": "second", "image": "b", "targetContainerName": "main", "resources": {}}]);
        assert!(said(more).is_empty());
    }

    #[test]
    fn what_is_there_stays() {
        assert!(said(json!([]))[0].starts_with("ephemeralContainers: Forbidden: existing"));
        let changed = said(json!([{"name": "first", "image": "other"}]));
        assert!(changed[0].contains("may not be changed"), "{changed:?}");
    }

    #[test]
    fn what_is_new_is_whole() {
        let table = [
            (json!({"name": "second"}), "ephemeralContainers[1].image: Required value"),
            (json!({"name": "main", "image": "b"}), "ephemeralContainers[1].name: Duplicate value: \"main\""),
            (
                json!({"name": "x", "image": "b", "targetContainerName": "none"}),
                "ephemeralContainers[1].targetContainerName: Not found: \"none\"",
            ),
            (
                json!({"name": "x", "image": "b", "livenessProbe": {"exec": {"command": ["a"]}}}),
                "ephemeralContainers[1].livenessProbe: Forbidden: cannot be set for an Ephemeral Container",
            ),
        ];
        for (each, expected) in table {
            let all = said(json!([{"name": "first", "image": "a"}, each]));
            assert!(all.iter().any(|c| c.starts_with(expected)), "{expected}: {all:?}");
        }
    }
}
