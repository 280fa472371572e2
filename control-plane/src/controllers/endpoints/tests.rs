//! Services and pods as text.

use serde_json::{Value, json};

use super::decide::decide;
use super::*;

fn service(ports: Value) -> Service {
    let service = json!({
        "metadata": {"name": "web", "namespace": "d", "uid": "W"},
        "spec": {"selector": {"app": "web"}, "ports": ports},
    });
    serde_json::from_value(service).expect("service")
}

fn pod(name: &str, ip: &str, ready: bool, change: Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {
            "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
        },
    });
    json_patch::merge(&mut pod, &change);
    Arc::new(serde_json::from_value(pod).expect("pod"))
}

/// What the writes leave behind, after which a second look must find nothing to do.
fn settle(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSlice>, Endpoints) {
    let writes = decide(service, pods, &[], None);
    let objects = |wanted: &str| -> Vec<Value> {
        let one = |write: &Write| match write {
            Write::Create { resource, object } if *resource == wanted => Some(object.clone()),
            _ => None,
        };
        writes.iter().filter_map(one).collect()
    };
    let slices: Vec<EndpointSlice> = objects("endpointslices.discovery.k8s.io")
        .into_iter()
        .map(|object| serde_json::from_value(object).expect("slice"))
        .collect();
    let endpoints: Endpoints = serde_json::from_value(objects("endpoints").remove(0)).expect("endpoints");
    let shared: Vec<_> = slices.iter().cloned().map(Arc::new).collect();
    let again = decide(service, pods, &shared, Some(&endpoints));
    assert!(again.is_empty(), "{:?}", again.iter().map(ToString::to_string).collect::<Vec<_>>());
    (slices, endpoints)
}

fn text(slices: &[EndpointSlice]) -> Vec<String> {
    let one = |slice: &EndpointSlice| {
        let ports: Vec<_> = slice.ports.iter().flatten().map(|port| port.port.unwrap_or(0).to_string()).collect();
        let endpoints = slice.endpoints.iter().map(|endpoint| {
            let c = endpoint.conditions.clone().unwrap_or_default();
            let flag = |flag: Option<bool>, name: &'static str| if flag == Some(true) { name } else { "-" };
            format!(
                "{}{}{}{}",
                endpoint.addresses[0],
                flag(c.ready, "r"),
                flag(c.serving, "s"),
                flag(c.terminating, "t")
            )
        });
        format!(
            "{} :{} {}",
            slice.metadata.name.as_deref().unwrap_or(""),
            ports.join(","),
            endpoints.collect::<Vec<_>>().join(" ")
        )
    };
    slices.iter().map(one).collect()
}

#[test]
fn ready_pods_are_listed_ready() {
    let pods = [
        pod("a", "10.0.0.2", true, json!({})),
        pod("b", "10.0.0.1", false, json!({})),
        pod("going", "10.0.0.3", true, json!({"metadata": {"deletionTimestamp": "2027-01-01T00:00:00Z"}})),
        pod("done", "10.0.0.4", true, json!({"status": {"phase": "Succeeded"}})),
        pod("other", "10.0.0.5", true, json!({"metadata": {"labels": {"app": "db"}}})),
        pod("starting", "", false, json!({"status": {"podIPs": null}})),
    ];
    let (slices, endpoints) = settle(&service(json!([{"port": 80, "targetPort": "http"}])), &pods);
    assert_eq!(text(&slices), ["web-0-0 :8080 10.0.0.1--- 10.0.0.2rs- 10.0.0.3-st"]);
    let subsets = json!(endpoints.subsets);
    assert_eq!(subsets[0]["addresses"][0]["ip"], "10.0.0.2");
    assert_eq!(subsets[0]["notReadyAddresses"][0]["ip"], "10.0.0.1");
    assert_eq!(subsets[0]["ports"], json!([{"port": 8080, "protocol": "TCP"}]));
    assert_eq!(subsets[0]["addresses"].as_array().map(Vec::len), Some(1));
}

#[test]
fn pods_that_name_their_port_differently_are_told_apart() {
    let other = json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 9090}]}]}});
    let pods = [pod("a", "10.0.0.1", true, json!({})), pod("b", "10.0.0.2", true, other)];
    let (slices, _) = settle(&service(json!([{"port": 80, "targetPort": "http"}])), &pods);
    assert_eq!(text(&slices), ["web-0-0 :8080 10.0.0.1rs-", "web-1-0 :9090 10.0.0.2rs-"]);
    let (slices, _) = settle(&service(json!([{"port": 80}])), &pods);
    assert_eq!(text(&slices), ["web-0-0 :80 10.0.0.1rs- 10.0.0.2rs-"]);
}

#[test]
fn a_slice_holds_a_hundred() {
    let pods: Vec<_> = (0..250).map(|n| pod(&format!("p{n}"), &format!("10.0.1.{n}"), true, json!({}))).collect();
    let (slices, endpoints) = settle(&service(json!([{"port": 80}])), &pods);
    assert_eq!(slices.iter().map(|slice| slice.endpoints.len()).collect::<Vec<_>>(), [100, 100, 50]);
    assert_eq!(json!(endpoints.subsets)[0]["addresses"].as_array().map(Vec::len), Some(250));
}

#[test]
fn changes_are_small_writes() {
    let service = service(json!([{"port": 80}]));
    let (slices, endpoints) = settle(&service, &[pod("a", "10.0.0.1", true, json!({}))]);
    let slices: Vec<_> = slices.into_iter().map(Arc::new).collect();
    let texts = |pods: &[Arc<Pod>]| -> Vec<String> {
        let writes = decide(&service, pods, &slices, Some(&endpoints));
        writes.iter().map(|w| w.to_string().split(" {").next().unwrap_or_default().to_owned()).collect()
    };
    let both = ["patch endpointslices.discovery.k8s.io d/web-0-0", "patch endpoints d/web"];
    assert_eq!(texts(&[pod("a", "10.0.0.1", false, json!({}))]), both);
    assert_eq!(texts(&[]), both, "the last slice stays, empty");
    let mut bare = service.clone();
    bare.spec.as_mut().expect("spec").selector = None;
    assert!(decide(&bare, &[], &slices, Some(&endpoints)).is_empty(), "without a selector the user writes them");
}
