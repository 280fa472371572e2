//! Strategic merge patches, every directive, as (current, patch, expected).

use serde_json::json;

use super::*;

fn pod(current: Value, patch: Value) -> Result<Value> {
    let mut object = current;
    merge(&mut object, &patch, schema().kind("", "v1", "Pod").as_ref())?;
    Ok(object)
}

fn check(current: Value, patch: Value, expected: Value) {
    let said = format!("{patch}");
    assert_eq!(pod(current, patch).unwrap_or_else(|e| panic!("{said}: {e}")), expected, "{said}");
}

fn containers(list: Value) -> Value {
    json!({"spec": {"containers": list}})
}

#[test]
fn maps_merge_and_null_deletes() {
    check(
        json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
        json!({"metadata": {"labels": {"b": null, "c": "3"}, "annotations": {"x": "y", "z": null}}}),
        json!({"metadata": {"labels": {"a": "1", "c": "3"}, "annotations": {"x": "y"}}}),
    );
}

#[test]
fn lists_with_a_key_merge_by_it() {
    check(
        containers(json!([{"name": "a", "image": "x"}, {"name": "b", "image": "y"}])),
        containers(json!([{"name": "b", "image": "z"}, {"name": "c"}])),
        containers(json!([{"name": "a", "image": "x"}, {"name": "b", "image": "z"}, {"name": "c"}])),
    );
    check(
        containers(json!([{"name": "a", "env": [{"name": "X", "value": "1"}], "args": ["1"]}])),
        containers(json!([{"name": "a", "env": [{"name": "Y", "value": "2"}], "args": ["2"]}])),
        containers(
            json!([{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}], "args": ["2"]}]),
        ),
    );
}

#[test]
fn patch_directives_delete_and_replace() {
    let two = containers(json!([{"name": "a"}, {"name": "b"}]));
    check(two.clone(), containers(json!([{"name": "a", "$patch": "delete"}])), containers(json!([{"name": "b"}])));
    check(two.clone(), containers(json!([{"$patch": "replace"}, {"name": "c"}])), containers(json!([{"name": "c"}])));
    check(
        two.clone(),
        containers(json!([{"name": "a", "$patch": "merge", "image": "i"}])),
        containers(json!([{"name": "a", "image": "i"}, {"name": "b"}])),
    );
    check(
        json!({"metadata": {"labels": {"a": "1"}}}),
        json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}}}),
        json!({"metadata": {"labels": {"b": "2"}}}),
    );
    check(
        json!({"spec": {"securityContext": {"runAsUser": 1}}}),
        json!({"spec": {"securityContext": {"$patch": "delete"}}}),
        json!({"spec": {"securityContext": {}}}),
    );
    assert!(pod(two, containers(json!([{"name": "a", "$patch": "frob"}]))).is_err());
}

#[test]
fn sets_of_primitives_merge_and_lose_members() {
    check(
        json!({"metadata": {"finalizers": ["a/a", "b/b"]}}),
        json!({"metadata": {"finalizers": ["c/c", "a/a"], "$deleteFromPrimitiveList/finalizers": ["b/b"]}}),
        json!({"metadata": {"finalizers": ["a/a", "c/c"]}}),
    );
}

#[test]
fn atomic_lists_are_replaced() {
    check(
        json!({"spec": {"tolerations": [{"key": "a"}]}}),
        json!({"spec": {"tolerations": [{"key": "b"}]}}),
        json!({"spec": {"tolerations": [{"key": "b"}]}}),
    );
}

#[test]
fn set_element_order_orders() {
    check(
        containers(json!([{"name": "a"}, {"name": "s"}, {"name": "b"}])),
        json!({"spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}],
            "containers": [{"name": "c"}],
        }}),
        containers(json!([{"name": "s"}, {"name": "b"}, {"name": "c"}, {"name": "a"}])),
    );
    check(
        json!({"metadata": {"finalizers": ["a/a", "b/b"]}}),
        json!({"metadata": {"$setElementOrder/finalizers": ["b/b", "a/a"]}}),
        json!({"metadata": {"finalizers": ["b/b", "a/a"]}}),
    );
    let stray = json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "x"}]}});
    assert!(pod(containers(json!([{"name": "a"}])), stray).is_err());
}

#[test]
fn retain_keys_drop_the_rest() {
    let volume = |v: Value| json!({"spec": {"volumes": [v]}});
    check(
        volume(json!({"name": "v", "emptyDir": {}})),
        volume(json!({"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}})),
        volume(json!({"name": "v", "hostPath": {"path": "/x"}})),
    );
    let wrong = volume(json!({"name": "v", "$retainKeys": ["name"], "hostPath": {"path": "/x"}}));
    assert!(pod(volume(json!({"name": "v"})), wrong).is_err());
}

#[test]
fn an_entry_without_its_key_is_refused() {
    let error = pod(containers(json!([])), containers(json!([{"image": "x"}]))).expect_err("no key");
    assert_eq!(error.to_string(), "map does not contain declared merge key: name");
}

#[test]
fn a_new_map_has_no_directives_inside() {
    check(
        json!({"spec": {}}),
        json!({"spec": {"securityContext": {"$patch": "merge", "runAsUser": 1, "x": null}}}),
        json!({"spec": {"securityContext": {"runAsUser": 1}}}),
    );
}
