//! scale, binding, eviction, services' addresses.

use serde_json::{Value, json};

use super::{DEPLOYMENTS, PODS, deployment, pod};
use crate::testing::House;

#[tokio::test]
async fn scale_is_read_and_written() {
    let house = House::new("scale").await;
    house.json(&format!("POST {DEPLOYMENTS}"), &deployment("d")).await;
    let uri = format!("{DEPLOYMENTS}/d/scale");
    let (_, scale) = house.json(&format!("GET {uri}"), &Value::Null).await;
    assert_eq!((scale["kind"].as_str(), scale["spec"]["replicas"].as_i64()), (Some("Scale"), Some(2)));
    assert_eq!(scale["status"]["selector"], "app=d");
    let (status, patched) = house.patch("merge", &uri, &json!({"spec": {"replicas": 4}})).await;
    assert_eq!((status, patched["spec"]["replicas"].as_i64()), (200, Some(4)), "{patched}");
    let mut put = patched;
    put["spec"]["replicas"] = 0.into();
    assert_eq!(house.json(&format!("PUT {uri}"), &put).await.0, 200);
    assert_eq!(house.json(&format!("PUT {uri}"), &put).await.0, 409, "its revision is old now");
    assert_eq!(house.patch("merge", &uri, &json!({"spec": {"replicas": -1}})).await.0, 422);
    let (_, whole) = house.json(&format!("GET {DEPLOYMENTS}/d"), &Value::Null).await;
    assert_eq!(whole["spec"]["replicas"], 0);
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let house = House::new("bind").await;
    house.json(&format!("POST {PODS}"), &pod("p")).await;
    let binding = |node: &str| json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": node}});
    assert_eq!(house.json(&format!("POST {PODS}/p/binding"), &binding("")).await.0, 422);
    assert_eq!(house.json(&format!("POST {PODS}/p/binding"), &binding("n1")).await.0, 201);
    let (_, bound) = house.json(&format!("GET {PODS}/p"), &Value::Null).await;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let (status, said) = house.json(&format!("POST {PODS}/p/binding"), &binding("n2")).await;
    assert_eq!((status, said["reason"].as_str()), (409, Some("Conflict")));
    let (status, _) = house.json("POST /api/v1/namespaces/default/bindings", &binding("n2")).await;
    assert_eq!(status, 409);
}

#[tokio::test]
async fn an_eviction_is_a_delete() {
    let house = House::new("evict").await;
    house.json(&format!("POST {PODS}"), &pod("p")).await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let (status, said) = house.json(&format!("POST {PODS}/p/eviction"), &eviction).await;
    assert_eq!((status, said["status"].as_str()), (201, Some("Success")));
    assert_eq!(house.json(&format!("GET {PODS}/p"), &Value::Null).await.0, 404);
}

#[tokio::test]
async fn ephemeral_containers_are_only_added() {
    let house = House::new("ephemeral").await;
    let (_, made) = house.json(&format!("POST {PODS}"), &pod("p")).await;
    let uri = format!("{PODS}/p/ephemeralcontainers");
    let debugger = json!({"spec": {"ephemeralContainers": [{"name": "dbg", "image": "busybox"}], "nodeName": "n9"}});
    let (status, changed) = house.patch("strategic-merge", &uri, &debugger).await;
    assert_eq!(status, 200, "{changed}");
    assert_eq!(changed["spec"]["ephemeralContainers"][0]["terminationMessagePath"], "/dev/termination-log");
    assert_eq!(changed["spec"]["containers"], made["spec"]["containers"]);
    assert!(changed["spec"].get("nodeName").is_none(), "nothing else is written: {changed}");
    let gone = json!({"spec": {"ephemeralContainers": null}});
    assert_eq!(house.patch("merge", &uri, &gone).await.0, 422);
    assert_eq!(house.patch("merge", &format!("{PODS}/p"), &gone).await.0, 422, "not through the pod itself either");
    let (status, said) = house.json(&format!("GET {PODS}/p/resize"), &Value::Null).await;
    assert_eq!((status, said["details"]["kind"].as_str()), (404, Some("pods")), "kubectl reads the details: {said}");
}

#[tokio::test]
async fn streams_need_a_node() {
    let house = House::new("streams").await;
    house.json(&format!("POST {PODS}"), &pod("p")).await;
    let (status, said) = house.json(&format!("GET {PODS}/p/log"), &Value::Null).await;
    assert_eq!((status, said["message"].as_str()), (400, Some("pod p does not have a host assigned")));
    assert_eq!(house.json(&format!("GET {PODS}/none/exec?command=sh"), &Value::Null).await.0, 404);
    assert_eq!(house.json("GET /api/v1/nodes/none/proxy/healthz", &Value::Null).await.0, 404);
}

#[tokio::test]
async fn services_get_addresses_of_their_own() {
    let house = House::new("service").await;
    let uri = "/api/v1/namespaces/default/services";
    let mut seen = Vec::new();
    for name in ["a", "b"] {
        let service = json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        let (status, made) = house.json(&format!("POST {uri}"), &service).await;
        assert_eq!(status, 201, "{made}");
        seen.push((made["spec"]["clusterIP"].to_string(), made["spec"]["ports"][0]["nodePort"].to_string()));
    }
    assert!(seen[0].0 != seen[1].0 && seen[0].1 != seen[1].1, "{seen:?}");
    let (_, kept) = house
        .json(&format!("PUT {uri}/a"), &json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 81}]}}))
        .await;
    assert_eq!(kept["spec"]["clusterIP"].to_string(), seen[0].0, "an update without the address keeps it");
    let headless = json!({"metadata": {"name": "h"}, "spec": {"clusterIP": "None"}});
    let (_, made) = house.json(&format!("POST {uri}"), &headless).await;
    assert_eq!(made["spec"]["clusterIPs"], json!(["None"]));
}
