//! Rules as a table: object -> the sentences that a client reads.

use serde_json::json;

use super::*;
use crate::kinds::Kinds;

fn said(resource: &str, object: &Value) -> Vec<String> {
    let kind = Kinds::builtin().named(resource).expect("kind");
    create(&kind, object).iter().map(ToString::to_string).collect()
}

fn changed(resource: &str, new: &Value, old: &Value) -> Vec<String> {
    let kind = Kinds::builtin().named(resource).expect("kind");
    update(&kind, "", new, old).iter().map(ToString::to_string).collect()
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": spec})
}

fn assert_says(resource: &str, object: &Value, expected: &[&str]) {
    let said = said(resource, object);
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.starts_with(expected), "{said}\nis not\n{expected}");
    }
}

#[test]
fn pods_tell_what_is_missing() {
    assert_says("pods", &pod(json!({})), &["spec.containers: Required value"]);
    assert_says(
        "pods",
        &pod(
            json!({"containers": [{"image": "x"}, {"name": "A"}, {"name": "b", "image": "x"}, {"name": "b", "image": "x"}]}),
        ),
        &[
            "spec.containers[0].name: Required value",
            "spec.containers[1].name: Invalid value: \"A\": a lowercase RFC 1123 label",
            "spec.containers[1].image: Required value",
            "spec.containers[3].name: Duplicate value: \"b\"",
        ],
    );
    assert_says(
        "pods",
        &pod(
            json!({"restartPolicy": "Sometimes", "volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}],
            "containers": [{"name": "a", "image": "x",
                "ports": [{"containerPort": 70000}], "env": [{"value": "x"}],
                "volumeMounts": [{"name": "w", "mountPath": "/w"}, {"name": "v"}],
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2", "memory": "-1"}},
                "livenessProbe": {"periodSeconds": -1}}]}),
        ),
        &[
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.containers[0].env[0].name: Required value",
            "spec.containers[0].volumeMounts[0].name: Not found: \"w\"",
            "spec.containers[0].volumeMounts[1].mountPath: Required value",
            "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            "spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ],
    );
}

#[test]
fn a_git_repository_volume_is_refused() {
    let spec = json!({"containers": [{"name": "a", "image": "x"}], "volumes": [{"name": "g", "gitRepo": {"repository": "r"}}]});
    assert_says("pods", &pod(spec), &["spec.volumes[0].gitRepo: Forbidden: is not supported"]);
}

#[test]
fn pods_change_little() {
    let old = pod(json!({"containers": [{"name": "a", "image": "x"}], "tolerations": [{"key": "k"}]}));
    let mut image = old.clone();
    image["spec"]["containers"][0]["image"] = "y".into();
    assert_eq!(changed("pods", &image, &old), Vec::<String>::new());
    let mut more = old.clone();
    more["spec"]["tolerations"] = json!([{"key": "k"}, {"key": "l"}]);
    assert_eq!(changed("pods", &more, &old), Vec::<String>::new());
    for (path, value) in [("/spec/containers/0/name", json!("b")), ("/spec/tolerations", json!([]))] {
        let mut new = old.clone();
        *new.pointer_mut(path).expect("there") = value;
        assert!(changed("pods", &new, &old)[0].starts_with("spec: Forbidden: pod updates may not change"), "{path}");
    }
}

#[test]
fn metadata_is_checked() {
    assert_says(
        "configmaps",
        &json!({"metadata": {}}),
        &["metadata.name: Required value: name or generateName is required"],
    );
    let object = json!({"metadata": {"name": "A_b", "labels": {"a b": "c", "ok": "no way"}, "annotations": {"x/y/z": ""},
        "ownerReferences": [{"kind": "K", "name": "n", "uid": "u"}], "finalizers": ["bad one"]}});
    assert_says(
        "configmaps",
        &object,
        &[
            "metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain",
            "metadata.labels: Invalid value: \"a b\": name part must",
            "metadata.labels: Invalid value: \"no way\": a valid label must",
            "metadata.annotations: Invalid value: \"x/y/z\"",
            "metadata.finalizers[0]: Invalid value: \"bad one\"",
            "metadata.ownerReferences[0].apiVersion: Invalid value: \"\": must not be empty",
        ],
    );
}

#[test]
fn deployments_select_their_template() {
    let deployment = |selector: Value, labels: Value| {
        json!({"metadata": {"name": "d"}, "spec": {"selector": selector, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "x"}]}}}})
    };
    let good = deployment(json!({"matchLabels": {"a": "1"}}), json!({"a": "1", "b": "2"}));
    assert_says("deployments.apps", &good, &[]);
    assert_says("deployments.apps", &deployment(Value::Null, json!({})), &["spec.selector: Required value"]);
    let other = deployment(json!({"matchLabels": {"a": "1"}}), json!({"a": "2"}));
    let text =
        "spec.template.metadata.labels: Invalid value: {\"a\":\"2\"}: `selector` does not match template `labels`";
    assert_says("deployments.apps", &other, &[text]);
    let mut moved = good.clone();
    moved["spec"]["selector"]["matchLabels"] = json!({"b": "2"});
    assert!(changed("deployments.apps", &moved, &good)[0].ends_with("field is immutable"));
    let mut both = good;
    both["spec"]["strategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "0%"}});
    assert_says(
        "deployments.apps",
        &both,
        &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0"],
    );
}

#[test]
fn data_keys_and_immutability() {
    let map = json!({"kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a/b": "x"}});
    assert_says("configmaps", &map, &["data[a/b]: Invalid value: \"a/b\": a valid config key"]);
    let old = json!({"metadata": {"name": "m"}, "immutable": true, "data": {"a": "1"}});
    let mut new = old.clone();
    new["data"]["a"] = "2".into();
    assert_eq!(changed("configmaps", &new, &old), ["data: Forbidden: field is immutable when `immutable` is set"]);
    let tls =
        json!({"kind": "Secret", "metadata": {"name": "m"}, "type": "kubernetes.io/tls", "data": {"tls.crt": "eA=="}});
    assert_says("secrets", &tls, &["data[tls.key]: Required value"]);
}

#[test]
fn services_and_events() {
    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "ClusterIP", "ports": [{"port": 80}, {"port": 0, "name": "b"}]}});
    assert_says(
        "services",
        &service,
        &["spec.ports[0].name: Required value", "spec.ports[1].port: Invalid value: 0: must be between 1 and 65535"],
    );
    let event = json!({"metadata": {"name": "e", "namespace": "a"}, "involvedObject": {"namespace": "b"}});
    assert_says("events", &event, &["involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"]);
}
