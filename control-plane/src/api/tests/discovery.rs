//! Discovery, OpenAPI, health.

use serde_json::{Value, json};

use crate::testing::House;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

#[tokio::test]
async fn the_old_documents() {
    let house = House::new("legacy").await;
    let get = |path: &'static str| {
        let house = &house;
        async move { house.json(&format!("GET {path}"), &Value::Null).await.1 }
    };
    assert_eq!(get("/api").await["versions"], json!(["v1"]));
    let core = get("/api/v1").await;
    assert_eq!(core["groupVersion"], "v1");
    let names: Vec<&str> =
        core["resources"].as_array().expect("list").iter().filter_map(|r| r["name"].as_str()).collect();
    for wanted in [
        "pods",
        "pods/log",
        "pods/exec",
        "pods/binding",
        "nodes/status",
        "namespaces/finalize",
        "serviceaccounts/token",
    ] {
        assert!(names.contains(&wanted), "{wanted}");
    }
    let apps = get("/apis/apps/v1").await;
    let scale =
        apps["resources"].as_array().expect("list").iter().find(|r| r["name"] == "deployments/scale").expect("scale");
    assert_eq!((&scale["group"], &scale["kind"]), (&json!("autoscaling"), &json!("Scale")));
    assert_eq!(get("/apis/apps").await["preferredVersion"]["groupVersion"], "apps/v1");
    assert_eq!(get("/version").await["major"], "1");
    assert!(get("/apis").await["groups"].as_array().is_some_and(|g| g.len() > 5));
}

#[tokio::test]
async fn aggregated_discovery_has_a_tag() {
    let house = House::new("aggregated").await;
    let first = house.ask("GET /apis", "", &[("accept", AGGREGATED)]).await;
    let document = first.json();
    assert_eq!(
        (document["kind"].as_str(), document["apiVersion"].as_str()),
        (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io/v2"))
    );
    let apps =
        document["items"].as_array().expect("items").iter().find(|g| g["metadata"]["name"] == "apps").expect("apps");
    let deployments = &apps["versions"][0]["resources"][0];
    assert_eq!(
        (deployments["scope"].as_str(), deployments["responseKind"]["kind"].as_str()),
        (Some("Namespaced"), Some("Deployment"))
    );
    let tag = first.headers["etag"].to_str().expect("text").to_owned();
    let again = house.ask("GET /apis", "", &[("accept", AGGREGATED), ("if-none-match", &tag)]).await;
    assert_eq!((again.status, again.text.as_str()), (304, ""));
    let beta = house
        .ask("GET /api", "", &[("accept", "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList")])
        .await;
    assert_eq!(beta.json()["apiVersion"], "apidiscovery.k8s.io/v2beta1");
}

#[tokio::test]
async fn openapi_says_what_kubectl_reads() {
    let house = House::new("openapi").await;
    let index = house.json("GET /openapi/v3", &Value::Null).await.1;
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("a url").to_owned();
    let document = house.json(&format!("GET {url}"), &Value::Null).await.1;
    let schemas = &document["components"]["schemas"];
    let spec = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(spec["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(spec["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"][0]["kind"], "Deployment");
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    let parameters: Vec<&str> =
        patch["parameters"].as_array().expect("list").iter().filter_map(|p| p["name"].as_str()).collect();
    assert!(parameters.contains(&"fieldValidation") && parameters.contains(&"dryRun"));
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().expect("a name");
        assert!(schemas.get(name).is_some(), "{name} is referred to and not there");
    }
    let v2 = house.json("GET /openapi/v2", &Value::Null).await.1;
    assert_eq!(v2["swagger"], "2.0");
    assert!(v2["definitions"]["io.k8s.api.core.v1.Pod"]["properties"]["spec"]["$ref"].is_string());
    let asked = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let protobuf = house.ask("GET /openapi/v2", "", &[("accept", asked)]).await;
    assert_eq!((protobuf.status, &protobuf.text.as_bytes()[..5]), (200, &b"\x0a\x032.0"[..]));
    assert_eq!(house.ask("GET /openapi/v2", "", &[("accept", "text/html")]).await.status, 406);
}

#[tokio::test]
async fn health_and_metrics() {
    let house = House::new("health").await;
    for path in ["/healthz", "/livez", "/readyz"] {
        let answer = house.ask_as(None, &format!("GET {path}"), "", &[]).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, "ok"), "{path}");
    }
    let metrics = house.ask("GET /metrics", "", &[]).await;
    assert!(metrics.text.contains("\napiserver_request_total "), "{}", metrics.text);
    house.api.shutdown.cancel();
    assert_eq!(house.ask("GET /readyz", "", &[]).await.status, 503);
}
