//! Controllers and scheduler together over the real API and a real store; only the nodes are played.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Config;
use crate::access::Access;
use crate::api::Api;
use crate::client::{Client, DeleteOptions, ListOptions, PatchType, WatchEvent};
use crate::scheduler;
use crate::store::Store;
use crate::testing::TempDir;

/// A control plane in this process, with played nodes.
struct Cluster {
    client: Client,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
    _dir: TempDir,
}

impl Cluster {
    async fn start(config: Config) -> Cluster {
        let dir = TempDir::new("cluster");
        let store = Store::open(dir.path()).expect("store");
        let shutdown = CancellationToken::new();
        let api = Arc::new(Api::new(store, Access::new(HashMap::new(), None), shutdown.clone()));
        api.bootstrap().await.expect("bootstrap");
        let client = Client::new(api);
        let mut tasks = JoinSet::new();
        tasks.spawn(super::run(client.clone(), config, shutdown.clone()));
        tasks.spawn(scheduler::run(client.clone(), scheduler::Config::default(), shutdown.clone()));
        Cluster { client, shutdown, tasks, _dir: dir }
    }

    /// A node whose kubelet runs every pod at once.
    async fn node(&mut self, name: &str) {
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "status": {
                "allocatable": {"cpu": "64", "memory": "64Gi", "pods": "500"},
                "capacity": {"cpu": "64", "memory": "64Gi", "pods": "500"},
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            },
        });
        self.client.create("nodes", "", node).await.expect("node");
        self.tasks.spawn(kubelet(self.client.clone(), name.to_owned(), self.shutdown.clone()));
    }

    async fn create(&self, resource: &str, object: Value) -> Value {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        self.client
            .create(resource, &namespace, object)
            .await
            .unwrap_or_else(|e| panic!("create {resource}: {}", e.chain()))
    }

    async fn patch(&self, resource: &str, namespace: &str, name: &str, body: Value) {
        let done = self.client.patch((resource, namespace, name), PatchType::Merge, &body).await;
        done.unwrap_or_else(|e| panic!("patch {resource} {name}: {}", e.chain()));
    }

    async fn list(&self, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
        self.client.list(resource, namespace, &ListOptions::default()).await.expect("list").items
    }

    async fn delete(&self, resource: &str, namespace: &str, name: &str, propagation: &str) {
        let propagation = (!propagation.is_empty()).then(|| propagation.to_owned());
        let options = DeleteOptions { propagation, ..DeleteOptions::default() };
        self.client.delete(resource, namespace, name, &options).await.expect("delete");
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(10), all).await.expect("everything stops");
    }
}

/// Runs what is bound to the node: Running and Ready at once; what is to end ends at once.
async fn kubelet(client: Client, node: String, shutdown: CancellationToken) {
    let options = ListOptions { field_selector: format!("spec.nodeName={node}"), ..ListOptions::default() };
    let mut watch = client.watch("pods", "", &options).await.expect("watch");
    let mut started = HashSet::new();
    let mut pods: Vec<Arc<Value>> = std::mem::take(&mut watch.items);
    loop {
        for pod in pods.drain(..) {
            let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
            let (namespace, name, uid) = (text("namespace"), text("name"), text("uid"));
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                let options =
                    DeleteOptions { grace_seconds: Some(0), uid: Some(uid.into()), ..DeleteOptions::default() };
                let _ = client.delete("pods", namespace, name, &options).await;
            } else if started.insert(uid.to_owned()) {
                let ip = format!("10.1.{}.{}", started.len() / 250, started.len() % 250);
                let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
                let status = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [ready]});
                let _ = client
                    .patch_status(("pods", namespace, name), PatchType::Strategic, &json!({"status": status}))
                    .await;
            }
        }
        let event = tokio::select! { () = shutdown.cancelled() => return, event = watch.next() => event };
        match event {
            Some(Ok(WatchEvent::Added(pod) | WatchEvent::Modified(pod))) => pods.push(pod),
            Some(Ok(_)) => {}
            _ => return,
        }
    }
}

/// Waits until `check` says yes; says what it last saw if that takes too long.
async fn until<F: Future<Output = (bool, String)>>(what: &str, check: impl Fn() -> F) {
    let start = Instant::now();
    loop {
        let (done, seen) = check().await;
        if done {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: {seen}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": image}]},
        }},
    })
}

async fn rolled_out(cluster: &Cluster, name: &str, replicas: i64, image: &str) {
    until(&format!("{name} rolled out with {image}"), || async {
        let object = cluster.client.get("deployments.apps", "default", name).await.expect("deployment");
        let status = &object["status"];
        let seen = status["observedGeneration"] == object["metadata"]["generation"];
        let full =
            ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|f| status[*f].as_i64() == Some(replicas));
        let pods = cluster.list("pods", "default").await;
        let ours = pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == name);
        let right = ours.filter(|pod| pod["spec"]["containers"][0]["image"] == image).count();
        (seen && full && right == replicas as usize, status.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_lives_rolls_back_and_goes() {
    let mut cluster = Cluster::start(Config::default()).await;
    cluster.node("n1").await;
    cluster.node("n2").await;
    cluster.create("deployments.apps", deployment("web", 4, "v1")).await;
    rolled_out(&cluster, "web", 4, "v1").await;
    let on = |pods: &[Arc<Value>], node: &str| pods.iter().filter(|pod| pod["spec"]["nodeName"] == node).count();
    let pods = cluster.list("pods", "default").await;
    assert_eq!((on(&pods, "n1"), on(&pods, "n2")), (2, 2), "spread over both nodes");

    let template =
        |image: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
    cluster.patch("deployments.apps", "default", "web", template("v2")).await;
    rolled_out(&cluster, "web", 4, "v2").await;
    cluster.patch("deployments.apps", "default", "web", template("v1")).await;
    rolled_out(&cluster, "web", 4, "v1").await;
    let sets = cluster.list("replicasets.apps", "default").await;
    let revisions: BTreeMap<_, _> = sets
        .iter()
        .map(|set| {
            let revision = set["metadata"]["annotations"]["deployment.kubernetes.io/revision"].as_str();
            (revision.expect("revision").to_owned(), set["spec"]["replicas"].as_i64().expect("replicas"))
        })
        .collect();
    assert_eq!(revisions, BTreeMap::from([("2".to_owned(), 0), ("3".to_owned(), 4)]), "rolled back to the first set");

    cluster.patch("deployments.apps", "default", "web", json!({"spec": {"replicas": 1}})).await;
    rolled_out(&cluster, "web", 1, "v1").await;
    cluster.delete("deployments.apps", "default", "web", "").await;
    until("all dependents go", || async {
        let left =
            cluster.list("replicasets.apps", "default").await.len() + cluster.list("pods", "default").await.len();
        (left == 0, format!("{left} left"))
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pod_is_made_twice_however_wild_the_scaling() {
    let mut cluster = Cluster::start(Config::default()).await;
    cluster.node("n1").await;
    cluster.create("deployments.apps", deployment("web", 60, "v1")).await;
    rolled_out(&cluster, "web", 60, "v1").await;
    let created = |events: Vec<Arc<Value>>| {
        let reason = |event: &&Arc<Value>| event["reason"] == "SuccessfulCreate";
        events.iter().filter(reason).count()
    };
    until("events of 60 creations", || async {
        let count = created(cluster.list("events", "default").await);
        assert!(count <= 60, "{count} pods were created");
        (count == 60, count.to_string())
    })
    .await;
    for replicas in [5, 80, 20, 21, 0, 33] {
        cluster.patch("deployments.apps", "default", "web", json!({"spec": {"replicas": replicas}})).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    rolled_out(&cluster, "web", 33, "v1").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let pods = cluster.list("pods", "default").await;
    assert_eq!(pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).count(), 33, "and it stays so");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_bound_within_milliseconds() {
    let mut cluster = Cluster::start(Config::default()).await;
    cluster.node("n1").await;
    let mut watch = cluster.client.watch("pods", "default", &ListOptions::default()).await.expect("watch");
    let mut times = Vec::new();
    for n in 0..30 {
        let spec = json!({"containers": [{"name": "c", "image": "busybox"}]});
        let start = Instant::now();
        let metadata = json!({"name": format!("p{n}"), "namespace": "default"});
        cluster.create("pods", json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})).await;
        loop {
            match watch.next().await.expect("open").expect("event") {
                WatchEvent::Modified(pod)
                    if pod["metadata"]["name"] == format!("p{n}") && pod["spec"]["nodeName"] == "n1" =>
                {
                    break;
                }
                _ => {}
            }
        }
        times.push(start.elapsed());
    }
    times.sort();
    eprintln!("create to bound: p50 {:?}, p90 {:?}", times[15], times[27]);
    assert!(times[15] < Duration::from_millis(50), "{:?}", times[15]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_nowhere_says_so_and_starts_when_a_node_comes() {
    let mut cluster = Cluster::start(Config::default()).await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "busybox"}]},
    });
    cluster.create("pods", pod).await;
    until("the reason in condition and event", || async {
        let pod = cluster.client.get("pods", "default", "p").await.expect("pod");
        let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let condition = conditions.find(|c| c["type"] == "PodScheduled").cloned().unwrap_or_default();
        let told =
            condition["reason"] == "Unschedulable" && condition["message"] == "no nodes available to schedule pods";
        let events = cluster.list("events", "default").await;
        (told && events.iter().any(|event| event["reason"] == "FailedScheduling"), condition.to_string())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1000)).await; // its back-off
    cluster.node("n1").await;
    until("bound", || async {
        let pod = cluster.client.get("pods", "default", "p").await.expect("pod");
        (pod["status"]["phase"] == "Running", pod["status"].to_string())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_emptied_and_goes() {
    let mut cluster = Cluster::start(Config { ca_pem: Some("CA".into()), ..Config::default() }).await;
    cluster.node("n1").await;
    cluster.create("namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})).await;
    until("account and CA", || async {
        let account = cluster.client.get("serviceaccounts", "team", "default").await.is_ok();
        let ca = cluster.client.get("configmaps", "team", "kube-root-ca.crt").await;
        (account && ca.is_ok_and(|map| map["data"]["ca.crt"] == "CA"), format!("account: {account}"))
    })
    .await;
    let mut web = deployment("web", 3, "v1");
    web["metadata"]["namespace"] = "team".into();
    cluster.create("deployments.apps", web).await;
    until("pods", || async {
        let pods = cluster.list("pods", "team").await.len();
        (pods == 3, pods.to_string())
    })
    .await;
    cluster.delete("namespaces", "", "team", "").await;
    until("the namespace goes", || async {
        let gone = cluster.client.get("namespaces", "", "team").await.is_err_and(|e| e.is_not_found());
        let left = cluster.list("pods", "team").await.len() + cluster.list("serviceaccounts", "team").await.len();
        (gone && left == 0, format!("gone: {gone}, left: {left}"))
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_go_in_the_foreground_or_leave_orphans() {
    let mut cluster = Cluster::start(Config::default()).await;
    cluster.node("n1").await;
    for name in ["fore", "orphan"] {
        cluster.create("deployments.apps", deployment(name, 2, "v1")).await;
        rolled_out(&cluster, name, 2, "v1").await;
    }
    cluster.delete("deployments.apps", "default", "fore", "Foreground").await;
    cluster.delete("deployments.apps", "default", "orphan", "Orphan").await;
    until("both deployments go", || async {
        let left = cluster.list("deployments.apps", "default").await;
        if !left.iter().any(|d| d["metadata"]["name"] == "fore") {
            let pods = cluster.list("pods", "default").await;
            let after = pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == "fore").count();
            assert_eq!(after, 0, "a foreground deletion ends after its dependents");
        }
        (left.is_empty(), format!("{} left", left.len()))
    })
    .await;
    let sets = cluster.list("replicasets.apps", "default").await;
    assert_eq!(sets.len(), 1);
    assert!(sets[0]["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty));
    assert_eq!(cluster.list("pods", "default").await.len(), 2, "the orphan's pods stay");
    // A Deployment of the same selector takes the orphan over.
    cluster.create("deployments.apps", deployment("orphan", 2, "v1")).await;
    rolled_out(&cluster, "orphan", 2, "v1").await;
    assert_eq!(cluster.list("replicasets.apps", "default").await.len(), 1, "adopted, not doubled");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_is_noticed_and_forgiven() {
    let mut cluster = Cluster::start(Config { node_grace: Duration::from_millis(400), ..Config::default() }).await;
    cluster.node("n1").await;
    cluster.create("deployments.apps", deployment("web", 1, "v1")).await;
    until("unknown and tainted", || async {
        let node = cluster.client.get("nodes", "", "n1").await.expect("node");
        let ready = &node["status"]["conditions"][0];
        let taints = node["spec"]["taints"].as_array().map_or(0, Vec::len);
        (ready["status"] == "Unknown" && ready["reason"] == "NodeStatusUnknown" && taints == 2, node.to_string())
    })
    .await;
    until("its pods are not ready", || async {
        let pods = cluster.list("pods", "default").await;
        let pod = pods.first().cloned().unwrap_or_default();
        let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        (conditions.any(|c| c["type"] == "Ready" && c["reason"] == "NodeNotReady"), pod["status"].to_string())
    })
    .await;
    // The kubelet is back: it says so again and again, as kubelets do.
    until("the taints go", || async {
        let beat = json!({"status": {"conditions": [
            {"type": "Ready", "status": "True", "lastHeartbeatTime": super::meta::now().to_string()},
        ]}});
        let at = ("nodes", "", "n1");
        cluster.client.patch_status(at, PatchType::Strategic, &beat).await.expect("heartbeat");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let node = cluster.client.get("nodes", "", "n1").await.expect("node");
        (node["spec"]["taints"].as_array().is_none_or(Vec::is_empty), node.to_string())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_list_their_pods_and_lost_nodes_their_ghosts() {
    let mut cluster = Cluster::start(Config { orphan_grace: Duration::from_millis(100), ..Config::default() }).await;
    cluster.node("n1").await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    });
    cluster.create("services", service).await;
    cluster.create("deployments.apps", deployment("web", 2, "v1")).await;
    until("two endpoints", || async {
        let slices = cluster.list("endpointslices.discovery.k8s.io", "default").await;
        let slice = slices.first().cloned().unwrap_or_default();
        let ready =
            slice["endpoints"].as_array().into_iter().flatten().filter(|e| e["conditions"]["ready"] == true).count();
        let old = cluster.client.get("endpoints", "default", "web").await.ok().unwrap_or_default();
        let listed = old["subsets"][0]["addresses"].as_array().map_or(0, Vec::len);
        (ready == 2 && listed == 2, format!("{slice} {old}"))
    })
    .await;
    cluster.patch("deployments.apps", "default", "web", json!({"spec": {"replicas": 0}})).await;
    cluster
        .create(
            "pods",
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ghost", "namespace": "default"},
                "spec": {"nodeName": "nowhere", "containers": [{"name": "c", "image": "busybox"}]},
            }),
        )
        .await;
    until("the ghost goes", || async {
        let gone = cluster.client.get("pods", "default", "ghost").await.is_err_and(|e| e.is_not_found());
        (gone, "still there".to_owned())
    })
    .await;
    cluster.delete("services", "default", "web", "").await;
    until("slices and endpoints go with the service", || async {
        let slices = cluster.list("endpointslices.discovery.k8s.io", "default").await.len();
        let old = cluster.list("endpoints", "default").await.len();
        (slices + old == 0, format!("{slices} slices, {old} endpoints"))
    })
    .await;
    cluster.stop().await;
}
