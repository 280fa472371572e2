//! Who asks: tokens, anonymity, impersonation; and what they may.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{MAPS, PODS, config_map, pod};
use crate::access::{AUTHENTICATED, NODES, User};
use crate::testing::House;

fn user(name: &str, groups: &[&str]) -> Option<Arc<User>> {
    let groups = groups.iter().chain(&[AUTHENTICATED]).map(|g| (*g).to_owned()).collect();
    Some(Arc::new(User { name: name.into(), groups, ..Default::default() }))
}

#[tokio::test]
async fn nobody_and_somebody() {
    let house = House::new("who").await;
    let code = |user: Option<Arc<User>>, line: &'static str, header: Option<&'static str>| {
        let house = &house;
        async move {
            let headers: Vec<_> = header.map(|h| ("authorization", h)).into_iter().collect();
            let answer = house.ask_as(user, line, "", &headers).await;
            (answer.status, answer.text)
        }
    };
    assert_eq!(code(None, "GET /version", None).await.0, 200);
    let (status, text) = code(None, "GET /api/v1/pods", None).await;
    assert_eq!(status, 401);
    assert!(text.contains("\"reason\":\"Unauthorized\""), "{text}");
    assert_eq!(code(None, "GET /api", Some("Bearer wrong")).await.0, 401);
    assert_eq!(code(None, "GET /api", Some("Basic eA==")).await.0, 401);
    assert_eq!(code(None, "GET /api", Some("Bearer secret-token")).await.0, 200);
    let (status, text) = code(None, "GET /api/v1/namespaces/default/pods", Some("Bearer secret-token")).await;
    assert_eq!(status, 403);
    let expected = "pods is forbidden: User \\\"static\\\" cannot list resource \\\"pods\\\" in API group \\\"\\\" in the namespace \\\"default\\\"";
    assert!(text.contains(expected), "{text}");
    let (status, text) = code(user("bob", &[]), "GET /metrics", None).await;
    assert_eq!((status, text.contains("cannot get path")), (403, true), "{text}");
}

#[tokio::test]
async fn masters_may_be_others() {
    let house = House::new("impersonate").await;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    let line = "POST /apis/authentication.k8s.io/v1/selfsubjectreviews";
    let as_bob = [("impersonate-user", "bob"), ("impersonate-group", "dev")];
    let answer = house.ask(line, review.clone(), &as_bob).await.json();
    assert_eq!(answer["status"]["userInfo"], json!({"username": "bob", "groups": ["dev", AUTHENTICATED]}));
    let denied = house.ask_as(user("eve", &[]), line, review, &as_bob).await;
    assert_eq!(denied.status, 403);
    let no_name = house.ask("GET /api", "", &[("impersonate-group", "dev")]).await;
    assert_eq!(no_name.status, 400);
}

#[tokio::test]
async fn a_service_account_lives_by_its_token() {
    let house = House::new("token").await;
    let uri = "/api/v1/namespaces/default/serviceaccounts/default/token";
    house.json(&format!("POST {PODS}"), &pod("p")).await;
    let bound = json!({"spec": {"expirationSeconds": 3600, "boundObjectRef": {"kind": "Pod", "name": "p"}}});
    let (status, made) = house.json(&format!("POST {uri}"), &bound).await;
    assert_eq!(status, 201, "{made}");
    let token = made["status"]["token"].as_str().expect("a token").to_owned();
    let review = json!({"spec": {"token": token}});
    let (_, told) = house.json("POST /apis/authentication.k8s.io/v1/tokenreviews", &review).await;
    assert_eq!(told["status"]["authenticated"], true);
    let info = &told["status"]["user"];
    assert_eq!(info["username"], "system:serviceaccount:default:default");
    assert_eq!(info["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    let header = format!("Bearer {token}");
    let ask = |line: &'static str| {
        let (house, header) = (&house, &header);
        async move { house.ask_as(None, line, "", &[("authorization", header)]).await }
    };
    assert_eq!(ask("GET /apis").await.status, 200);
    assert_eq!(ask("GET /api/v1/secrets").await.status, 403);
    house.json(&format!("DELETE {PODS}/p"), &json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(ask("GET /apis").await.status, 401, "the token dies with its pod");
    let (_, told) = house.json("POST /apis/authentication.k8s.io/v1/tokenreviews", &review).await;
    assert_eq!(told["status"]["authenticated"], false);
    for (spec, code) in [
        (json!({"expirationSeconds": 5}), 422),
        (json!({"boundObjectRef": {"kind": "Pod", "name": "none"}}), 404),
        (json!({"boundObjectRef": {"kind": "Tree", "name": "x"}}), 422),
    ] {
        assert_eq!(house.json(&format!("POST {uri}"), &json!({"spec": spec})).await.0, code, "{spec}");
    }
}

#[tokio::test]
async fn tokens_have_an_audience() {
    let house = House::new("audience").await;
    let uri = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let (_, made) = house.json(&format!("POST {uri}"), &json!({"spec": {"audiences": ["vault"]}})).await;
    let token = made["status"]["token"].as_str().expect("a token");
    let header = format!("Bearer {token}");
    let answer = house.ask_as(None, "GET /apis", "", &[("authorization", &header)]).await;
    assert_eq!(answer.status, 401, "it is not for us");
    let review = json!({"spec": {"token": token, "audiences": ["vault", "other"]}});
    let (_, told) = house.json("POST /apis/authentication.k8s.io/v1/tokenreviews", &review).await;
    assert_eq!(told["status"]["audiences"], json!(["vault"]));
}

#[tokio::test]
async fn a_node_keeps_to_itself() {
    let house = House::new("node").await;
    let node = user("system:node:n1", &[NODES]);
    let code = |line: String, body: Value| {
        let (house, node) = (&house, node.clone());
        async move { house.ask_as(node, &line, body.to_string(), &[("content-type", "application/json")]).await.status }
    };
    assert_eq!(code("POST /api/v1/nodes".into(), json!({"metadata": {"name": "n1"}})).await, 201);
    assert_eq!(code("POST /api/v1/nodes".into(), json!({"metadata": {"name": "n2"}})).await, 403);
    assert_eq!(code(format!("POST {PODS}"), pod("p")).await, 403, "only mirror pods");
    let mut mirror = pod("m");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    mirror["spec"]["nodeName"] = "n1".into();
    let mut curious = mirror.clone();
    curious["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]);
    assert_eq!(code(format!("POST {PODS}"), curious).await, 403, "no way to secrets");
    assert_eq!(code(format!("POST {PODS}"), mirror).await, 201);
    house.json(&format!("POST {PODS}"), &pod("own")).await;
    let binding = json!({"metadata": {"name": "own"}, "target": {"kind": "Node", "name": "n1"}});
    house.json(&format!("POST {PODS}/own/binding"), &binding).await;
    let token = "POST /api/v1/namespaces/default/serviceaccounts/default/token";
    let bound = json!({"spec": {"boundObjectRef": {"kind": "Pod", "name": "own"}}});
    assert_eq!(code(token.into(), bound).await, 201);
    assert_eq!(code(token.into(), json!({"spec": {}})).await, 403, "tokens of nodes are bound");
    assert_eq!(code(format!("POST {MAPS}"), config_map("m")).await, 403);
    assert_eq!(code("GET /api/v1/pods?fieldSelector=spec.nodeName%3Dn1".into(), Value::Null).await, 200);
    assert_eq!(code("GET /api/v1/pods".into(), Value::Null).await, 403);
}

#[tokio::test]
async fn access_reviews_answer_as_the_authoriser_does() {
    let house = House::new("reviews").await;
    let spec = |user: &str, groups: Value| {
        json!({"spec": {"user": user, "groups": groups,
        "resourceAttributes": {"verb": "get", "resource": "nodes", "subresource": "proxy", "name": "n1"}}})
    };
    let uri = "POST /apis/authorization.k8s.io/v1/subjectaccessreviews";
    let (status, told) = house.json(uri, &spec("root", json!(["system:masters"]))).await;
    assert_eq!((status, told["status"]["allowed"].as_bool()), (201, Some(true)));
    let (_, told) = house.json(uri, &spec("bob", json!([]))).await;
    assert_eq!(told["status"]["allowed"], false);
    let path = json!({"spec": {"nonResourceAttributes": {"verb": "get", "path": "/metrics"}}});
    let (_, told) = house.json("POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &path).await;
    assert_eq!(told["status"]["allowed"], true);
    let (_, rules) = house
        .json("POST /apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &json!({"spec": {"namespace": "x"}}))
        .await;
    assert_eq!(rules["status"]["incomplete"], false);
}

#[tokio::test]
async fn accounts_are_mounted_if_asked() {
    let mut house = House::new("mounted").await;
    Arc::get_mut(&mut house.api).expect("the only one").account_volumes = true;
    let (status, made) = house.json(&format!("POST {PODS}"), &pod("p")).await;
    assert_eq!(status, 201, "{made}");
    let volume = &made["spec"]["volumes"][0];
    assert_eq!(volume["projected"]["sources"][0]["serviceAccountToken"]["path"], "token");
    assert_eq!(made["spec"]["containers"][0]["volumeMounts"][0]["name"], volume["name"]);
    let mut without = pod("q");
    without["spec"]["automountServiceAccountToken"] = false.into();
    let (_, made) = house.json(&format!("POST {PODS}"), &without).await;
    assert!(made["spec"].get("volumes").is_none());
}
