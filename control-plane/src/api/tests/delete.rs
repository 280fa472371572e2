//! delete: grace, finalizers, preconditions, collections, namespaces.

use serde_json::{Value, json};

use super::{MAPS, PODS, config_map, pod};
use crate::testing::House;

#[tokio::test]
async fn a_plain_object_goes_at_once() {
    let house = House::new("delete").await;
    let (_, made) = house.json(&format!("POST {MAPS}"), &config_map("m")).await;
    let wrong = json!({"preconditions": {"uid": "other"}});
    assert_eq!(house.json(&format!("DELETE {MAPS}/m"), &wrong).await.0, 409);
    let dry = json!({"dryRun": ["All"]});
    assert_eq!(house.json(&format!("DELETE {MAPS}/m"), &dry).await.0, 200);
    let (status, said) = house.json(&format!("DELETE {MAPS}/m"), &Value::Null).await;
    assert_eq!((status, said["status"].as_str()), (200, Some("Success")));
    assert_eq!(said["details"]["uid"], made["metadata"]["uid"]);
    assert_eq!(house.json(&format!("DELETE {MAPS}/m"), &Value::Null).await.0, 404);
}

#[tokio::test]
async fn a_running_pod_has_its_grace() {
    let house = House::new("grace").await;
    house.json(&format!("POST {PODS}"), &pod("p")).await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(house.json(&format!("POST {PODS}/p/binding"), &binding).await.0, 201);
    let (status, marked) = house.json(&format!("DELETE {PODS}/p"), &json!({"gracePeriodSeconds": 7})).await;
    assert_eq!((status, marked["metadata"]["deletionGracePeriodSeconds"].as_i64()), (200, Some(7)));
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let (_, still) = house.json(&format!("GET {PODS}/p"), &Value::Null).await;
    assert_eq!(still["metadata"]["deletionGracePeriodSeconds"], 7);
    let (status, _) = house.json(&format!("DELETE {PODS}/p"), &json!({"gracePeriodSeconds": 0})).await;
    assert_eq!((status, house.json(&format!("GET {PODS}/p"), &Value::Null).await.0), (200, 404));
}

#[tokio::test]
async fn the_last_finalizer_lets_go() {
    let house = House::new("finalizer").await;
    let mut object = config_map("m");
    object["metadata"]["finalizers"] = json!(["a/b"]);
    house.json(&format!("POST {MAPS}"), &object).await;
    house.json(&format!("DELETE {MAPS}/m"), &Value::Null).await;
    let (status, _) = house.json(&format!("GET {MAPS}/m"), &Value::Null).await;
    assert_eq!(status, 200);
    let (status, said) =
        house.patch("merge", &format!("{MAPS}/m"), &json!({"metadata": {"finalizers": ["a/b", "c/d"]}})).await;
    assert_eq!(status, 422, "no new ones now: {said}");
    let (status, _) = house.patch("merge", &format!("{MAPS}/m"), &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!((status, house.json(&format!("GET {MAPS}/m"), &Value::Null).await.0), (200, 404));
}

#[tokio::test]
async fn collections_go_by_selector() {
    let house = House::new("collection").await;
    for (name, label) in [("a", "1"), ("b", "2"), ("c", "1")] {
        let mut object = config_map(name);
        object["metadata"]["labels"] = json!({"l": label});
        house.json(&format!("POST {MAPS}"), &object).await;
    }
    assert_eq!(house.json(&format!("DELETE {MAPS}?labelSelector=l%3D1"), &Value::Null).await.0, 200);
    let (_, left) = house.json(&format!("GET {MAPS}"), &Value::Null).await;
    assert_eq!(left["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_namespace_ends_in_order() {
    let house = House::new("namespace").await;
    let (status, made) = house.json("POST /api/v1/namespaces", &json!({"metadata": {"name": "x"}})).await;
    assert_eq!((status, made["status"]["phase"].as_str()), (201, Some("Active")));
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "x");
    assert_eq!(house.json("GET /api/v1/namespaces/x/serviceaccounts/default", &Value::Null).await.0, 200);
    let (_, dying) = house.json("DELETE /api/v1/namespaces/x", &Value::Null).await;
    assert_eq!(dying["status"]["phase"], "Terminating");
    let (status, said) = house.json("POST /api/v1/namespaces/x/configmaps", &config_map("m")).await;
    assert_eq!(status, 403, "{said}");
    let mut done = dying;
    done["spec"] = json!({"finalizers": []});
    assert_eq!(house.json("PUT /api/v1/namespaces/x/finalize", &done).await.0, 200);
    assert_eq!(house.json("GET /api/v1/namespaces/x", &Value::Null).await.0, 404);
    assert_eq!(house.json("DELETE /api/v1/namespaces/kube-system", &Value::Null).await.0, 403);
}
