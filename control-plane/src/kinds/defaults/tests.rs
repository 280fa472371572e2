//! Defaults, as whole objects.

use super::*;
use crate::kinds::Kinds;

fn with_defaults(resource: &str, mut object: Value) -> Value {
    let kind = Kinds::builtin().named(resource).expect("kind");
    apply(&kind, &mut object);
    let once = object.clone();
    apply(&kind, &mut object);
    assert_eq!(once, object, "defaults twice change something");
    object
}

#[test]
fn a_small_pod_becomes_whole() {
    let pod = with_defaults(
        "pods",
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{
            "name": "a", "image": "busybox",
            "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1"}},
            "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 2},
            "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        }], "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "x"}}, {"name": "h", "hostPath": {"path": "/"}}]}}),
    );
    let expected = json!({
        "containers": [{
            "name": "a", "image": "busybox", "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
            "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "periodSeconds": 2,
                "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3},
            "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name", "apiVersion": "v1"}}}],
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "imagePullPolicy": "Always",
        }],
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "c", "configMap": {"name": "x", "defaultMode": 420}},
            {"name": "h", "hostPath": {"path": "/", "type": ""}}],
        "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
        "terminationGracePeriodSeconds": 30, "securityContext": {}, "enableServiceLinks": true,
    });
    assert_eq!(strip_nulls(pod["spec"].clone()), expected);
}

/// Fails on nulls instead of removing them: none may be left.
fn strip_nulls(value: Value) -> Value {
    assert!(!value.to_string().contains("null"), "{value}");
    value
}

#[test]
fn pull_policies_follow_the_tag() {
    let policy = |image: &str| {
        let spec = json!({"containers": [{"name": "a", "image": image}]});
        with_defaults("pods", json!({"spec": spec}))["spec"]["containers"][0]["imagePullPolicy"].clone()
    };
    for always in ["a", "a:latest", "r:5000/a", "r/b/a:latest"] {
        assert_eq!(policy(always), "Always", "{always}");
    }
    for cached in ["a:1", "a@sha256:00", "r:5000/a:v2", "a:latest@sha256:00"] {
        assert_eq!(policy(cached), "IfNotPresent", "{cached}");
    }
}

#[test]
fn deployments_services_and_secrets() {
    let deployment = with_defaults("deployments.apps", json!({"spec": {"template": {"spec": {"containers": []}}}}));
    assert_eq!(deployment["spec"]["replicas"], 1);
    assert_eq!(
        deployment["spec"]["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
    );
    assert_eq!(deployment["spec"]["template"]["spec"]["restartPolicy"], "Always");
    let recreate = with_defaults("deployments.apps", json!({"spec": {"strategy": {"type": "Recreate"}}}));
    assert_eq!(recreate["spec"]["strategy"], json!({"type": "Recreate"}));
    let secret = with_defaults("secrets", json!({"stringData": {"a": "b"}, "data": {"c": "ZA=="}}));
    assert_eq!(secret, json!({"data": {"c": "ZA==", "a": "Yg=="}, "type": "Opaque"}));
    let service = with_defaults("services", json!({"spec": {"ports": [{"port": 80}]}}));
    assert_eq!(service["spec"]["ports"][0], json!({"port": 80, "protocol": "TCP", "targetPort": 80}));
    let namespace = with_defaults("namespaces", json!({"metadata": {"name": "x"}}));
    assert_eq!(namespace["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "x"}));
}
