//! get, list, Tables.

use serde_json::{Value, json};

use super::{MAPS, PODS, config_map, pod};
use crate::testing::House;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[tokio::test]
async fn lists_are_paged_at_one_revision() {
    let house = House::new("pages").await;
    for at in 0..7 {
        house.json(&format!("POST {MAPS}"), &config_map(&format!("m{at}"))).await;
    }
    let (mut names, mut token, mut revisions) = (Vec::new(), String::new(), Vec::new());
    loop {
        let (status, page) = house.json(&format!("GET {MAPS}?limit=3&continue={token}"), &Value::Null).await;
        assert_eq!((status, page["kind"].as_str()), (200, Some("ConfigMapList")));
        let items = page["items"].as_array().expect("items").iter();
        names.extend(items.map(|i| i["metadata"]["name"].as_str().expect("a name").to_owned()));
        revisions.push(page["metadata"]["resourceVersion"].clone());
        if names.len() == 3 {
            assert_eq!(page["metadata"]["remainingItemCount"], 4);
            house.json(&format!("POST {MAPS}"), &config_map("m9")).await;
        }
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4", "m5", "m6"], "what came later is not in these pages");
    revisions.dedup();
    assert_eq!(revisions.len(), 1);
    assert_eq!(house.json(&format!("GET {MAPS}?continue=nonsense"), &Value::Null).await.0, 400);
}

#[tokio::test]
async fn selectors_choose() {
    let house = House::new("select").await;
    for (name, label) in [("a", "1"), ("b", "2"), ("c", "1")] {
        let mut object = config_map(name);
        object["metadata"]["labels"] = json!({"l": label});
        house.json(&format!("POST {MAPS}"), &object).await;
    }
    let table = [
        ("labelSelector=l%3D1", "a c"),
        ("labelSelector=l+in+(2,3)", "b"),
        ("fieldSelector=metadata.name%3Db", "b"),
        ("fieldSelector=metadata.name!%3Db&labelSelector=l", "a c"),
        ("labelSelector=l%3D1&limit=1", "a"),
        ("labelSelector=none", ""),
    ];
    for (query, expected) in table {
        let (_, list) = house.json(&format!("GET {MAPS}?{query}"), &Value::Null).await;
        let names: Vec<&str> =
            list["items"].as_array().expect("items").iter().filter_map(|i| i["metadata"]["name"].as_str()).collect();
        assert_eq!(names.join(" "), expected, "{query}");
    }
    let (status, said) = house.json(&format!("GET {MAPS}?fieldSelector=data.k%3Dv"), &Value::Null).await;
    assert_eq!((status, said["message"].as_str()), (400, Some("field label not supported: data.k")));
}

#[tokio::test]
async fn revisions_of_lists_are_kept_to() {
    let house = House::new("revision").await;
    house.json(&format!("POST {MAPS}"), &config_map("a")).await;
    let (_, list) = house.json(&format!("GET {MAPS}"), &Value::Null).await;
    let then = list["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
    house.json(&format!("POST {MAPS}"), &config_map("b")).await;
    let count = |list: &Value| list["items"].as_array().map(Vec::len);
    let (_, exact) =
        house.json(&format!("GET {MAPS}?resourceVersion={then}&resourceVersionMatch=Exact"), &Value::Null).await;
    assert_eq!(count(&exact), Some(1));
    let (_, newer) =
        house.json(&format!("GET {MAPS}?resourceVersion={then}&resourceVersionMatch=NotOlderThan"), &Value::Null).await;
    assert_eq!(count(&newer), Some(2));
    for (query, code) in [
        ("resourceVersion=999999", 504),
        ("resourceVersionMatch=Exact", 400),
        ("resourceVersion=x", 400),
        ("resourceVersion=0&resourceVersionMatch=Exact", 400),
        ("resourceVersion=0", 200),
    ] {
        assert_eq!(house.json(&format!("GET {MAPS}?{query}"), &Value::Null).await.0, code, "{query}");
    }
}

#[tokio::test]
async fn tables_and_bare_metadata() {
    let house = House::new("table").await;
    house.json(&format!("POST {PODS}"), &pod("p")).await;
    let ask = |line: String, accept: &'static str| {
        let house = &house;
        async move { house.ask(&line, "", &[("accept", accept)]).await.json() }
    };
    let table = ask(format!("GET {PODS}"), TABLE).await;
    assert_eq!(table["kind"], "Table");
    let names: Vec<&str> =
        table["columnDefinitions"].as_array().expect("columns").iter().filter_map(|c| c["name"].as_str()).collect();
    assert_eq!(
        names,
        ["Name", "Ready", "Status", "Restarts", "Age", "IP", "Node", "Nominated Node", "Readiness Gates"]
    );
    let row = &table["rows"][0];
    assert_eq!((&row["cells"][0], &row["cells"][2]), (&json!("p"), &json!("Pending")));
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    let whole = ask(format!("GET {PODS}/p?includeObject=Object"), TABLE).await;
    assert_eq!(whole["rows"][0]["object"]["spec"]["containers"][0]["name"], "a");
    let accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = ask(format!("GET {PODS}"), accept).await;
    assert_eq!((list["kind"].as_str(), list["items"][0].get("spec")), (Some("PartialObjectMetadataList"), None));
    let refused = house.ask(&format!("GET {PODS}"), "", &[("accept", "application/vnd.kubernetes.protobuf")]).await;
    assert_eq!(refused.status, 406);
}

#[tokio::test]
async fn what_is_not_there() {
    let house = House::new("missing").await;
    for (line, code) in [
        ("GET /api/v1/namespaces/default/pods/none", 404),
        ("GET /api/v1/unicorns", 404),
        ("GET /apis/none/v1/x", 404),
        ("GET /api/v1/namespaces/default/pods/none/frob", 404),
        ("GET /api/v1/pods/none", 400),
        ("GET /nowhere", 404),
        ("POST /api/v1/nodes/n", 405),
        ("OPTIONS /api/v1/nodes", 405),
        ("POST /healthz", 405),
        ("DELETE /api/v1/namespaces", 405),
    ] {
        let (status, said) = house.json(line, &Value::Null).await;
        assert_eq!((status, said["kind"].as_str()), (code, Some("Status")), "{line}: {said}");
    }
}

#[tokio::test]
async fn both_versions_of_events_are_one() {
    let house = House::new("events").await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "R", "message": "hello", "type": "Normal", "reportingComponent": "k", "reportingInstance": ""});
    let (status, made) = house.json("POST /api/v1/namespaces/default/events", &event).await;
    assert_eq!(status, 201, "{made}");
    let uri = "/apis/events.k8s.io/v1/namespaces/default/events";
    let (_, list) = house.json(&format!("GET {uri}?fieldSelector=regarding.name%3Dp"), &Value::Null).await;
    let new = &list["items"][0];
    assert_eq!((new["apiVersion"].as_str(), new["note"].as_str()), (Some("events.k8s.io/v1"), Some("hello")));
    let (status, patched) = house.patch("merge", &format!("{uri}/e"), &json!({"note": "bye"})).await;
    assert_eq!(status, 200, "{patched}");
    let (_, core) = house.json("GET /api/v1/namespaces/default/events/e", &Value::Null).await;
    assert_eq!((core["message"].as_str(), core["apiVersion"].as_str()), (Some("bye"), Some("v1")));
}
