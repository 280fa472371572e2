//! Watches, line by line.

use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::{MAPS, config_map};
use crate::api::Body;
use crate::testing::House;

/// The next `count` events of a watch.
async fn events(body: &mut Body, count: usize) -> Vec<Value> {
    let mut list = Vec::new();
    while list.len() < count {
        let frame = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.expect("an event in time");
        let data = frame.expect("not the end").expect("no error").into_data().expect("data");
        for line in data.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            list.push(serde_json::from_slice(line).expect("a line of json"));
        }
    }
    list
}

fn said(events: &[Value]) -> Vec<String> {
    let one = |e: &Value| {
        format!("{} {}", e["type"].as_str().unwrap_or("?"), e["object"]["metadata"]["name"].as_str().unwrap_or("-"))
    };
    events.iter().map(one).collect()
}

async fn watch(house: &House, query: &str) -> Body {
    let response = house
        .open(
            Some(std::sync::Arc::new(crate::access::User::control_plane())),
            &format!("GET {MAPS}?watch=true&{query}"),
            "",
            &[],
        )
        .await;
    assert_eq!(response.status(), 200);
    response.into_body()
}

#[tokio::test]
async fn a_watch_tells_what_happens() {
    let house = House::new("watch").await;
    house.json(&format!("POST {MAPS}"), &config_map("a")).await;
    let mut body = watch(&house, "").await;
    assert_eq!(said(&events(&mut body, 1).await), ["ADDED a"]);
    house.json(&format!("POST {MAPS}"), &config_map("b")).await;
    house.patch("merge", &format!("{MAPS}/a"), &json!({"data": {"x": "y"}})).await;
    house.json(&format!("DELETE {MAPS}/b"), &Value::Null).await;
    house.json("POST /api/v1/namespaces/kube-system/configmaps", &config_map("elsewhere")).await;
    house.json(&format!("POST {MAPS}"), &config_map("c")).await;
    let seen = events(&mut body, 4).await;
    assert_eq!(said(&seen), ["ADDED b", "MODIFIED a", "DELETED b", "ADDED c"]);
    let revision = |e: &Value| e["object"]["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse::<u64>().ok());
    assert!(seen.windows(2).all(|w| revision(&w[0]) < revision(&w[1])), "{seen:?}");
    assert_eq!(seen[2]["object"]["data"]["k"], "v", "a deletion shows the last state");
}

#[tokio::test]
async fn a_selection_is_entered_and_left() {
    let house = House::new("selection").await;
    house.json(&format!("POST {MAPS}"), &config_map("a")).await;
    let mut body = watch(&house, "labelSelector=l%3D1").await;
    for label in [json!("1"), json!("1"), json!("2"), Value::Null] {
        let body =
            json!({"metadata": {"labels": {"l": label}, "annotations": {"n": uuid::Uuid::new_v4().to_string()}}});
        house.patch("merge", &format!("{MAPS}/a"), &body).await;
    }
    assert_eq!(said(&events(&mut body, 3).await), ["ADDED a", "MODIFIED a", "DELETED a"]);
}

#[tokio::test]
async fn a_watch_goes_on_from_a_revision() {
    let house = House::new("resume").await;
    let (_, a) = house.json(&format!("POST {MAPS}"), &config_map("a")).await;
    house.json(&format!("POST {MAPS}"), &config_map("b")).await;
    let from = a["metadata"]["resourceVersion"].as_str().expect("revision");
    let mut body = watch(&house, &format!("resourceVersion={from}")).await;
    assert_eq!(said(&events(&mut body, 1).await), ["ADDED b"]);
    let future = house.ask(&format!("GET {MAPS}?watch=1&resourceVersion=99999"), "", &[]).await;
    assert_eq!(future.status, 504, "{}", future.text);
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let house = House::new("initial").await;
    house.json(&format!("POST {MAPS}"), &config_map("a")).await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut body = watch(&house, query).await;
    let seen = events(&mut body, 2).await;
    assert_eq!(said(&seen), ["ADDED a", "BOOKMARK -"]);
    assert_eq!(seen[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(seen[1]["object"]["kind"], "ConfigMap");
    let refused = house.ask(&format!("GET {MAPS}?watch=1&sendInitialEvents=true"), "", &[]).await;
    assert_eq!(refused.status, 422);
}

#[tokio::test]
async fn a_watch_ends_in_time_with_a_bookmark() {
    let house = House::new("timeout").await;
    let answer = house
        .ask(&format!("GET {MAPS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion=0"), "", &[])
        .await;
    let last: Value = serde_json::from_str(answer.text.lines().last().expect("a line")).expect("json");
    assert_eq!(last["type"], "BOOKMARK");
}

#[tokio::test]
async fn tables_are_watched_too() {
    let house = House::new("watch-table").await;
    house.json(&format!("POST {MAPS}"), &config_map("a")).await;
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let user = Some(std::sync::Arc::new(crate::access::User::control_plane()));
    let mut body = house.open(user, &format!("GET {MAPS}?watch=1"), "", &accept).await.into_body();
    house.json(&format!("POST {MAPS}"), &config_map("b")).await;
    let seen = events(&mut body, 2).await;
    assert_eq!(seen[0]["object"]["columnDefinitions"].as_array().map(Vec::len), Some(3));
    assert_eq!(seen[1]["object"]["rows"][0]["cells"][0], "b");
    assert_eq!(seen[1]["object"]["columnDefinitions"], json!([]), "columns come once");
}

#[tokio::test]
async fn a_hundred_watchers_see_every_event() {
    let house = House::new("fan-out").await;
    let mut bodies = Vec::new();
    for _ in 0..100 {
        bodies.push(watch(&house, "resourceVersion=0").await);
    }
    for at in 0..20 {
        house.json(&format!("POST {MAPS}"), &config_map(&format!("m{at}"))).await;
    }
    for body in &mut bodies {
        assert_eq!(events(body, 20).await.len(), 20);
    }
}

#[tokio::test]
async fn the_in_process_client_lists_and_watches() {
    use crate::client::{Client, ListOptions, WatchEvent};
    let house = House::new("client").await;
    let client = Client::new(house.api.clone());
    client.create("configmaps", "default", config_map("a")).await.expect("created");
    let mut watch = client.watch("configmaps", "", &ListOptions::default()).await.expect("watches");
    assert_eq!(watch.items.len(), 1);
    client.create("configmaps", "default", config_map("b")).await.expect("created");
    match watch.next().await {
        Some(Ok(WatchEvent::Added(object))) => assert_eq!(object["metadata"]["name"], "b"),
        other => panic!("{other:?}"),
    }
    let map: k8s_openapi::api::core::v1::ConfigMap = client.get_as("default", "b").await.expect("typed");
    assert_eq!(map.data.expect("data")["k"], "v");
    assert!(client.bind("default", "none", "n").await.expect_err("no pod").is_not_found());
}
