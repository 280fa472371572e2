//! The life of pods, seen from both ends.

use serde_json::json;

use super::house::{House, condition, state};

fn one() -> serde_json::Value {
    json!({"containers": [{"name": "web", "image": "busybox:1", "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}]})
}

#[tokio::test]
async fn a_pod_becomes_ready_and_the_node_is_registered() {
    let house = House::new("start").await;
    house.pod("p", one());
    house.until_ready("p").await;
    assert_eq!(house.cri.take_log(), "sandbox s0 /kubepods/besteffort/poduid-p\ncreate web-0\nstart web-0");
    let status = house.status("p");
    assert_eq!(
        (status["phase"].as_str(), status["podIP"].as_str(), status["hostIP"].as_str()),
        (Some("Running"), Some("127.0.0.1"), Some("127.0.0.1"))
    );
    assert_eq!((status["qosClass"].as_str(), status["observedGeneration"].as_i64()), (Some("BestEffort"), Some(1)));
    let web = &status["containerStatuses"][0];
    assert_eq!(
        (web["containerID"].as_str(), web["restartCount"].as_i64(), web["started"].as_bool()),
        (Some("fake://web-0"), Some(0), Some(true))
    );
    let envs = house.cri.world().containers[0].2.envs.clone();
    assert_eq!((envs[0].key.as_str(), envs[0].value.as_slice()), ("IP", &b"127.0.0.1"[..]));
    house.until("the events", || house.reasons() == ["Pulled", "Created", "Started"]).await;
    house.until("the lease", || house.api.get("leases", "kube-node-lease", "n1").is_some()).await;
    let node = || house.api.get("nodes", "", "n1").unwrap_or_default();
    house.until("the node is ready", || condition(&node()["status"], "Ready") == "True").await;
    assert_eq!(node()["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], house.port);
}

#[tokio::test]
async fn a_crashing_container_restarts_at_once_then_backs_off() {
    let house = House::new("crash").await;
    house.pod("p", one());
    house.until_ready("p").await;
    house.cri.exit("web", 3);
    house.until("the first restart", || house.status("p")["containerStatuses"][0]["restartCount"] == 1).await;
    house.until_state("p", "running").await;
    house.cri.exit("web", 4);
    house.until_state("p", "CrashLoopBackOff").await;
    let web = house.status("p")["containerStatuses"][0].clone();
    assert_eq!((web["lastState"]["terminated"]["exitCode"].as_i64(), web["ready"].as_bool()), (Some(4), Some(false)));
    assert_eq!(house.status("p")["phase"], "Running");
    house.pass(9);
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(state(&house.status("p")["containerStatuses"][0]), "CrashLoopBackOff");
    house.pass(2);
    house.until_state("p", "running").await;
    assert_eq!(house.status("p")["containerStatuses"][0]["restartCount"], 2);
    house.until("the BackOff event", || house.reasons().contains(&"BackOff".to_string())).await;
}

#[tokio::test]
async fn deletion_stops_says_and_removes() {
    let house = House::new("delete").await;
    let mut spec = one();
    spec["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    spec["containers"][0]["lifecycle"] = json!({"preStop": {"exec": {"command": ["bye"]}}});
    house.pod("p", spec);
    house.until_ready("p").await;
    let volumes = house.dir.path().join("root/pods/uid-p/volumes/kubernetes.io~empty-dir/v");
    assert!(volumes.is_dir());
    house.cri.take_log();
    house.api.mark_deleted("p", 7);
    house.until("the pod is gone", || house.api.get("pods", "default", "p").is_none()).await;
    assert_eq!(
        house.cri.take_log(),
        "exec web-0 bye\nstop web-0 7\nstop-sandbox s0\nremove web-0\nstop-sandbox s0\nremove-sandbox s0"
    );
    assert!(!house.dir.path().join("root/pods/uid-p").exists());
    house.until("the Killing event", || house.reasons().contains(&"Killing".to_string())).await;
}

#[tokio::test]
async fn a_restarted_kubelet_changes_nothing() {
    let mut house = House::new("restart").await;
    house.pod("p", one());
    house.until_ready("p").await;
    let before = house.status("p");
    house.stop().await;
    house.cri.take_log();
    house.start().await;
    let node_port = || {
        house.api.get("nodes", "", "n1").unwrap_or_default()["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
            .clone()
    };
    house.until("the node says its new port", || node_port() == house.port).await;
    house.pod("q", one());
    house.until_ready("q").await;
    assert!(!house.cri.take_log().contains("web-0\nstart web-0\ncreate"), "p was left alone");
    assert_eq!(house.status("p"), before);
    // What happens while no kubelet runs is found afterwards.
    house.stop().await;
    house.api.mark_deleted("p", 1);
    house.start().await;
    house.until("p is gone", || house.api.get("pods", "default", "p").is_none()).await;
}

#[tokio::test]
async fn a_pod_removed_while_no_kubelet_ran_is_stopped() {
    let mut house = House::new("orphan").await;
    house.pod("p", one());
    house.until_ready("p").await;
    house.stop().await;
    let mut moved = house.api.get("pods", "default", "p").expect("the pod");
    moved["spec"]["nodeName"] = "other".into();
    house.api.put("pods", moved);
    house.start().await;
    house.until("the sandbox is gone", || house.cri.world().sandboxes.is_empty()).await;
    house.until("its directory is gone", || !house.dir.path().join("root/pods/uid-p").exists()).await;
}

#[tokio::test]
async fn readiness_and_liveness_probes() {
    let house = House::new("probes").await;
    house.cri.world().exec.insert("ready".into(), 1);
    let mut spec = one();
    spec["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["ready"]}, "periodSeconds": 1});
    spec["containers"][0]["livenessProbe"] =
        json!({"exec": {"command": ["live"]}, "periodSeconds": 1, "failureThreshold": 1});
    house.pod("p", spec);
    house.until_state("p", "running").await;
    house.until("Unhealthy", || house.reasons().contains(&"Unhealthy".to_string())).await;
    assert_eq!(condition(&house.status("p"), "Ready"), "False");
    house.cri.world().exec.clear();
    house.until_ready("p").await;
    house.cri.world().exec.insert("live".into(), 1);
    house.until("a restart", || house.status("p")["containerStatuses"][0]["restartCount"] == 1).await;
    assert!(house.cri.take_log().contains("stop web-0 30"));
}

#[tokio::test]
async fn a_missing_config_map_is_waited_for() {
    let house = House::new("configmap").await;
    let mut spec = one();
    spec["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "settings"}}]);
    house.pod("p", spec);
    house.until_state("p", "CreateContainerConfigError").await;
    let waiting = house.status("p")["containerStatuses"][0]["state"]["waiting"]["message"].clone();
    assert_eq!(waiting, "configmap \"settings\" not found");
    house.api.put("configmaps", json!({"metadata": {"name": "settings", "namespace": "default"}, "data": {"A": "1"}}));
    // No clock moves here: the watch tells.
    house.until_ready("p").await;
    let env = house.cri.world().containers[0].2.envs[0].clone();
    assert_eq!((env.key.as_str(), env.value.as_slice()), ("A", &b"1"[..]));
}

#[tokio::test]
async fn config_map_volumes_follow_their_object() {
    let house = House::new("cmvolume").await;
    let settings =
        |value: &str| json!({"metadata": {"name": "settings", "namespace": "default"}, "data": {"a": value}});
    let mut spec = one();
    spec["volumes"] = json!([{"name": "v", "configMap": {"name": "settings"}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    house.pod("p", spec);
    house.until("FailedMount", || house.reasons().contains(&"FailedMount".to_string())).await;
    house.api.put("configmaps", settings("1"));
    house.until_ready("p").await;
    let file = house.dir.path().join("root/pods/uid-p/volumes/kubernetes.io~configmap/v/a");
    assert_eq!(std::fs::read_to_string(&file).expect("file"), "1");
    house.api.put("configmaps", settings("2"));
    house.until("the new content", || std::fs::read_to_string(&file).is_ok_and(|t| t == "2")).await;
}

#[tokio::test]
async fn a_missing_image_backs_off_and_says_so() {
    let house = House::new("image").await;
    house.pod("p", json!({"containers": [{"name": "web", "image": "missing:1"}]}));
    house.until_state("p", "ErrImagePull").await;
    house.pass(3);
    house.until_state("p", "ImagePullBackOff").await;
    assert_eq!(house.cri.take_log().matches("pull missing:1").count(), 1);
    house.pass(8);
    house.until("the second try", || house.cri.world().log.contains(&"pull missing:1".to_string())).await;
    assert_eq!(house.status("p")["phase"], "Pending");
}

#[tokio::test]
async fn init_containers_come_first_and_jobs_end() {
    let house = House::new("job").await;
    house.cri.world().exits_at_once.insert("setup".into(), 0);
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "setup", "image": "busybox:1"}],
        "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [{"name": "web", "image": "busybox:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]});
    house.pod("p", spec);
    house.until_ready("p").await;
    assert_eq!(
        house.cri.take_log(),
        "sandbox s0 /kubepods/besteffort/poduid-p\ncreate setup-0\nstart setup-0\ncreate web-0\nstart web-0"
    );
    house.cri.exit("web", 0);
    house.until("Succeeded", || house.status("p")["phase"] == "Succeeded").await;
    house.until("the sandbox stopped", || house.cri.world().log.contains(&"stop-sandbox s0".to_string())).await;
    assert_eq!(state(&house.status("p")["initContainerStatuses"][0]), "Completed");
    let dir = house.dir.path().join("root/pods/uid-p");
    house.until("its volumes are given back", || !dir.join("volumes").exists()).await;
    assert!(house.dir.path().join("logs/default_p_uid-p/web").is_dir(), "its logs stay");
}

#[tokio::test]
async fn a_pod_that_does_not_fit_is_rejected() {
    let house = House::new("admission").await;
    house.pod(
        "p",
        json!({"containers": [{"name": "c", "image": "busybox:1", "resources": {"requests": {"cpu": "100k"}}}]}),
    );
    house.until("Failed", || house.status("p")["phase"] == "Failed").await;
    assert_eq!(house.status("p")["reason"], "OutOfcpu");
    assert_eq!(house.cri.take_log(), "");
}

#[tokio::test]
async fn a_pod_is_admitted_by_the_label_that_its_node_just_got() {
    let house = House::new("labels").await;
    house.until("the node", || house.api.get("nodes", "", "n1").is_some()).await;
    house.pod("wrong", json!({"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "c", "image": "busybox:1"}]}));
    house.until("it is refused", || house.status("wrong")["reason"] == "NodeAffinity").await;
    let mut node = house.api.get("nodes", "", "n1").expect("the node");
    node["metadata"]["labels"]["disk"] = "ssd".into();
    house.api.put("nodes", node);
    // Two watches bring the label and the pod; the label was first by far.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    house.pod("right", json!({"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "c", "image": "busybox:1"}]}));
    house.until_ready("right").await;
}

#[tokio::test]
async fn a_container_that_is_soon_ready_does_not_wait_for_the_period() {
    let house = House::new("early").await;
    house.cri.world().exec.insert("ready".into(), 1);
    let mut spec = one();
    spec["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["ready"]}, "periodSeconds": 60});
    house.pod("p", spec);
    house.until("it was asked", || house.cri.world().log.contains(&"exec web-0 ready".to_string())).await;
    house.cri.world().exec.clear();
    // The house's patience is a third of the period.
    house.until_ready("p").await;
    assert!(!house.reasons().contains(&"Unhealthy".to_string()), "looks before the first period say nothing");
}
