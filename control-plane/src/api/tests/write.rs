//! create, update, patch.

use serde_json::{Value, json};

use super::{DEPLOYMENTS, MAPS, PODS, config_map, deployment, pod};
use crate::testing::House;

#[tokio::test]
async fn create_fills_in_and_refuses_a_second() {
    let house = House::new("create").await;
    let (status, made) = house.json(&format!("POST {PODS}"), &pod("p")).await;
    assert_eq!(status, 201, "{made}");
    let meta = &made["metadata"];
    assert_eq!((meta["name"].as_str(), meta["namespace"].as_str()), (Some("p"), Some("default")));
    assert!(meta["uid"].as_str().is_some_and(|u| u.len() == 36) && meta["creationTimestamp"].is_string());
    assert!(meta["resourceVersion"].as_str().is_some_and(|v| v.parse::<u64>().is_ok()));
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["spec"]["tolerations"].as_array().map(Vec::len), Some(2));
    assert_eq!(made["spec"]["priority"], 0);
    assert_eq!(made["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    let (status, again) = house.json(&format!("POST {PODS}"), &pod("p")).await;
    assert_eq!((status, again["reason"].as_str()), (409, Some("AlreadyExists")));
    assert_eq!(again["message"], "pods \"p\" already exists");
    let (_, read) = house.json(&format!("GET {PODS}/p"), &Value::Null).await;
    assert_eq!(read, made);
}

#[tokio::test]
async fn a_pod_names_a_class_of_runtime_that_exists() {
    let house = House::new("class").await;
    let mut boxed = pod("p");
    boxed["spec"]["runtimeClassName"] = "boxed".into();
    let (status, said) = house.json(&format!("POST {PODS}"), &boxed).await;
    let expected = r#"pods "p" is forbidden: pod rejected: RuntimeClass "boxed" not found"#;
    assert_eq!((status, said["message"].as_str()), (403, Some(expected)));
    let class = json!({"metadata": {"name": "boxed"}, "handler": "boxed"});
    let (status, made) = house.json("POST /apis/node.k8s.io/v1/runtimeclasses", &class).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(house.json(&format!("POST {PODS}"), &boxed).await.0, 201);
}

#[tokio::test]
async fn names_are_generated() {
    let house = House::new("generate").await;
    let mut object = config_map("");
    object["metadata"] = json!({"generateName": "x-"});
    let (status, made) = house.json(&format!("POST {MAPS}"), &object).await;
    assert_eq!(status, 201);
    let name = made["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("x-") && name.len() == 7, "{name}");
}

#[tokio::test]
async fn bad_objects_are_told_field_by_field() {
    let house = House::new("bad").await;
    let table = [
        (
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "x"}, "spec": {}}),
            422,
            "Pod \"x\" is invalid: spec.containers: Required value",
        ),
        (
            json!({"kind": "ConfigMap", "metadata": {"name": "x"}}),
            400,
            "the kind in the data (ConfigMap) does not match",
        ),
        (json!({"apiVersion": "v2", "metadata": {"name": "x"}}), 400, "the apiVersion in the data (v2) does not match"),
        (json!({"metadata": {"name": "x", "namespace": "other"}}), 400, "the namespace of the provided object"),
        (json!({"metadata": {"name": "x", "resourceVersion": "3"}}), 400, "resourceVersion should not be set"),
        (json!({"spec": 3}), 400, "json: cannot unmarshal number into field spec"),
    ];
    for (object, code, message) in table {
        let (status, said) = house.json(&format!("POST {PODS}"), &object).await;
        assert_eq!(status, code, "{said}");
        assert!(said["message"].as_str().is_some_and(|m| m.starts_with(message)), "{said}");
        assert_eq!(said["kind"], "Status");
    }
    let (status, said) = house.json("POST /api/v1/namespaces/none/configmaps", &config_map("x")).await;
    assert_eq!((status, said["message"].as_str()), (404, Some("namespaces \"none\" not found")));
    let mut lonely = pod("x");
    lonely["spec"]["serviceAccountName"] = "nobody".into();
    let (status, said) = house.json(&format!("POST {PODS}"), &lonely).await;
    assert_eq!(status, 403, "{said}");
}

#[tokio::test]
async fn unknown_fields_are_an_error_a_warning_or_nothing() {
    let house = House::new("unknown").await;
    let mut object = config_map("x");
    object["daata"] = json!({});
    let ask = |mode: &str| format!("POST {MAPS}?dryRun=All&fieldValidation={mode}");
    let (status, said) = house.json(&ask("Strict"), &object).await;
    assert_eq!(status, 400);
    let expected =
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"daata\"";
    assert_eq!(said["message"], expected);
    let warned = house.ask(&ask("Warn"), object.to_string(), &[]).await;
    assert_eq!(warned.status, 201);
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"daata\\\"\"");
    let ignored = house.ask(&ask("Ignore"), object.to_string(), &[]).await;
    assert!(ignored.headers.get("warning").is_none());
    assert!(ignored.json().get("daata").is_none());
    let (status, _) = house.json(&format!("GET {MAPS}/x"), &Value::Null).await;
    assert_eq!(status, 404, "a dry run stores nothing");
}

#[tokio::test]
async fn two_writers_conflict_and_the_slower_is_told() {
    let house = House::new("conflict").await;
    let (_, first) = house.json(&format!("POST {MAPS}"), &config_map("m")).await;
    let mut second = first.clone();
    second["data"]["k"] = "2".into();
    let (status, done) = house.json(&format!("PUT {MAPS}/m"), &second).await;
    assert_eq!((status, done["data"]["k"].as_str()), (200, Some("2")));
    assert_ne!(done["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let (status, said) = house.json(&format!("PUT {MAPS}/m"), &second).await;
    assert_eq!((status, said["reason"].as_str()), (409, Some("Conflict")));
    second["metadata"]["resourceVersion"] = "".into();
    second["data"]["k"] = "3".into();
    assert_eq!(house.json(&format!("PUT {MAPS}/m"), &second).await.0, 200, "without a revision it is unconditional");
    second["metadata"]["uid"] = "other".into();
    assert_eq!(house.json(&format!("PUT {MAPS}/m"), &second).await.0, 409, "another uid is another object");
    let (_, same) = house.json(&format!("GET {MAPS}/m"), &Value::Null).await;
    let (_, put) = house.json(&format!("PUT {MAPS}/m"), &same).await;
    assert_eq!(put["metadata"]["resourceVersion"], same["metadata"]["resourceVersion"], "no change, no revision");
    assert_eq!(house.json(&format!("PUT {MAPS}/other"), &same).await.0, 400, "the name in the path rules");
}

#[tokio::test]
async fn three_kinds_of_patch() {
    let house = House::new("patch").await;
    house.json(&format!("POST {DEPLOYMENTS}"), &deployment("d")).await;
    let uri = format!("{DEPLOYMENTS}/d");
    let (status, done) = house.patch("merge", &uri, &json!({"spec": {"replicas": 5}})).await;
    assert_eq!((status, &done["spec"]["replicas"], &done["metadata"]["generation"]), (200, &json!(5), &json!(2)));
    let body = json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "y"}, {"name": "b", "image": "z"}]}}}});
    let (_, done) = house.patch("strategic-merge", &uri, &body).await;
    let images: Vec<&Value> =
        done["spec"]["template"]["spec"]["containers"].as_array().expect("list").iter().map(|c| &c["image"]).collect();
    assert_eq!(images, ["y", "z"]);
    let body = json!([{"op": "test", "path": "/spec/replicas", "value": 5}, {"op": "replace", "path": "/spec/replicas", "value": 1}]);
    let (_, done) = house.patch("json", &uri, &body).await;
    assert_eq!(done["spec"]["replicas"], 1);
    let (status, said) = house.patch("json", &uri, &body).await;
    assert_eq!(status, 422, "a failed test: {said}");
    let (status, said) = house.patch("merge", &uri, &json!({"spec": {"selector": {"matchLabels": {"x": "y"}}}})).await;
    assert_eq!(status, 422, "{said}");
    let (status, _) =
        house.patch("merge", &uri, &json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 9}})).await;
    assert_eq!(status, 409);
    let (status, said) =
        house.patch("strategic-merge", &format!("{uri}?fieldValidation=Strict"), &json!({"spec": {"x": 1}})).await;
    assert_eq!(status, 400, "{said}");
    let (status, _) = house.patch("merge", &format!("{DEPLOYMENTS}/none"), &json!({})).await;
    assert_eq!(status, 404);
    let other = house.ask(&format!("PATCH {uri}"), "{}", &[("content-type", "application/apply-patch+yaml")]).await;
    assert_eq!(other.status, 415);
}

#[tokio::test]
async fn many_patches_at_once_all_land() {
    let house = std::sync::Arc::new(House::new("race").await);
    house.json(&format!("POST {MAPS}"), &config_map("m")).await;
    let mut tasks = tokio::task::JoinSet::new();
    for at in 0..16 {
        let house = house.clone();
        tasks.spawn(async move {
            house.patch("merge", &format!("{MAPS}/m"), &json!({"data": {format!("k{at}"): "v"}})).await.0
        });
    }
    while let Some(status) = tasks.join_next().await {
        assert_eq!(status.expect("no panic"), 200);
    }
    let (_, map) = house.json(&format!("GET {MAPS}/m"), &Value::Null).await;
    assert_eq!(map["data"].as_object().map(|d| d.len()), Some(17));
}

#[tokio::test]
async fn status_and_spec_go_separate_ways() {
    let house = House::new("status").await;
    house.json(&format!("POST {DEPLOYMENTS}"), &deployment("d")).await;
    let both = json!({"spec": {"replicas": 7}, "status": {"readyReplicas": 3}});
    let (_, done) = house.patch("merge", &format!("{DEPLOYMENTS}/d/status"), &both).await;
    assert_eq!((&done["spec"]["replicas"], &done["status"]["readyReplicas"]), (&json!(2), &json!(3)));
    let (_, done) = house
        .patch("merge", &format!("{DEPLOYMENTS}/d"), &json!({"spec": {"replicas": 7}, "status": {"readyReplicas": 9}}))
        .await;
    assert_eq!((&done["spec"]["replicas"], &done["status"]["readyReplicas"]), (&json!(7), &json!(3)));
}

#[tokio::test]
async fn bodies_may_be_yaml() {
    let house = House::new("yaml").await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y}\ndata: {a: b}\n";
    let made = house
        .ask(&format!("POST {MAPS}"), yaml, &[("content-type", "application/yaml"), ("accept", "application/yaml")])
        .await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert!(made.text.contains("data:\n  a: b"), "{}", made.text);
}

#[tokio::test]
async fn a_lease_is_created_by_put() {
    let house = House::new("lease").await;
    let lease =
        json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "h", "renewTime": "2026-11-23T15:00:00.1Z"}});
    let uri = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    let (status, made) = house.json(&format!("PUT {uri}"), &lease).await;
    assert_eq!((status, made["spec"]["renewTime"].as_str()), (201, Some("2026-11-23T15:00:00.100000Z")));
    assert_eq!(house.json(&format!("PUT {uri}"), &lease).await.0, 200);
}
