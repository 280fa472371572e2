//! Who may what, as a table.

use serde_json::json;

use super::*;
use crate::access::{NODES, UNAUTHENTICATED};
use crate::store::{Expect, Op};

async fn store(dir: &std::path::Path) -> Store {
    let store = Store::open(dir).expect("opens");
    let pod = |node: &str| {
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": node, "serviceAccountName": "builder",
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [{"name": "other", "configMap": {"name": "conf"}}, {"name": "s", "secret": {"secretName": "sec"}}],
            "containers": [{"name": "c", "env": [{"name": "e", "valueFrom": {"secretKeyRef": {"name": "envsec"}}}]}]}})
        .to_string()
    };
    let ops =
        vec![Op::put("core/pods/ns/p", Expect::Any, pod("n1")), Op::put("core/pods/far/p", Expect::Any, pod("n2"))];
    store.commit(ops).await.expect("commits");
    store
}

fn user(name: &str, groups: &[&str]) -> User {
    User { name: name.into(), groups: groups.iter().map(|g| (*g).into()).collect(), ..Default::default() }
}

fn ask(text: &str) -> Attributes {
    let mut words = text.split(' ');
    let verb = words.next().unwrap_or_default().to_owned();
    let what = words.next().unwrap_or_default();
    if what.starts_with('/') {
        return Attributes { verb, path: what.into(), ..Default::default() };
    }
    let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
    let place = words.next().unwrap_or_default();
    let (namespace, name) = place.split_once('/').unwrap_or(("", place));
    Attributes {
        verb,
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        name: name.into(),
        field_selector: words.next().unwrap_or_default().into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn the_table_of_who_may_what() {
    let dir = crate::testing::TempDir::new("authorize");
    let store = store(dir.path()).await;
    let master = user("root", &[MASTERS, AUTHENTICATED]);
    let account = user("system:serviceaccount:ns:default", &["system:serviceaccounts", AUTHENTICATED]);
    let node = user("system:node:n1", &[NODES, AUTHENTICATED]);
    let nobody = user("system:anonymous", &[UNAUTHENTICATED]);
    let table = [
        (&master, "delete secrets ns/x", true),
        (&master, "get /metrics", true),
        (&nobody, "get /healthz", true),
        (&nobody, "get /livez/ping", true),
        (&nobody, "get /version", true),
        (&nobody, "get /api", false),
        (&nobody, "get /versionx", false),
        (&nobody, "create selfsubjectreviews", false),
        (&account, "get /apis/apps/v1", true),
        (&account, "get /openapi/v3", true),
        (&account, "post /api", false),
        (&account, "get /metrics", false),
        (&account, "create selfsubjectaccessreviews", true),
        (&account, "list pods ns/", false),
        (&node, "get nodes n2", true),
        (&node, "patch nodes/status n1", true),
        (&node, "patch nodes/status n2", false),
        (&node, "delete nodes n1", false),
        (&node, "list pods / spec.nodeName=n1", true),
        (&node, "list pods / spec.nodeName=n2", false),
        (&node, "list pods /", false),
        (&node, "get pods ns/p", true),
        (&node, "get pods far/p", false),
        (&node, "patch pods/status ns/p", true),
        (&node, "patch pods/status far/p", false),
        (&node, "patch pods ns/p", false),
        (&node, "create pods/exec ns/p", false),
        (&node, "get configmaps ns/conf", true),
        (&node, "get configmaps ns/other", false),
        (&node, "watch configmaps ns/ metadata.name=conf", true),
        (&node, "list configmaps ns/", false),
        (&node, "get secrets ns/sec", true),
        (&node, "get secrets ns/envsec", true),
        (&node, "get secrets ns/pull", true),
        (&node, "get secrets far/sec", false),
        (&node, "update secrets ns/sec", false),
        (&node, "create serviceaccounts/token ns/builder", true),
        (&node, "create serviceaccounts/token ns/default", false),
        (&node, "update leases kube-node-lease/n1", true),
        (&node, "update leases kube-node-lease/n2", false),
        (&node, "create events ns/", true),
        (&node, "create deployments ns/", false),
    ];
    for (user, text, expected) in table {
        assert_eq!(authorize(&store, user, &ask(text)).allowed, expected, "{}: {text}", user.name);
    }
}

#[test]
fn what_a_mirror_pod_may_not_refer_to() {
    for spec in [
        json!({"serviceAccountName": "x"}),
        json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}),
        json!({"volumes": [{"name": "v", "projected": {"sources": []}}]}),
        json!({"containers": [{"envFrom": [{"configMapRef": {"name": "c"}}]}]}),
        json!({"containers": [{"env": [{"name": "e", "valueFrom": {"secretKeyRef": {"name": "s"}}}]}]}),
        json!({"imagePullSecrets": [{"name": "x"}]}),
    ] {
        assert!(refers_to_objects(&spec), "{spec}");
    }
    let plain = json!({"nodeName": "n", "imagePullSecrets": [], "containers": [{"name": "a", "env": [{"name": "e", "value": "secret"}]}],
        "volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "emptyDir": {}}]});
    assert!(!refers_to_objects(&plain));
}
