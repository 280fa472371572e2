//! Metrics of pods under cAdvisor's names: what is described is told, with the labels that were described.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use std::collections::HashMap;

use gantry_cri_api as api;
use support::{House, Kubelet, shell};

/// The first value of each metric of a list, with its labels.
fn by_name(metrics: &[api::Metric]) -> HashMap<&str, (u64, &[String])> {
    metrics.iter().rev().map(|m| (m.name.as_str(), (m.value.unwrap().value, m.label_values.as_slice()))).collect()
}

#[tokio::test]
async fn what_is_described_is_told() {
    need_root!();
    let house = House::new("metrics").await;
    let mut kubelet = Kubelet::of(&house).await;
    let config = house.pod("metrics");
    let pod = kubelet.run(&config).await;
    let mut main = shell("main", "dd if=/dev/zero of=/file bs=1M count=3; sync; exec sleep 100");
    let limits =
        api::LinuxContainerResources { memory_limit_in_bytes: 64 << 20, cpu_shares: 512, ..Default::default() };
    main.linux.get_or_insert_default().resources = Some(limits);
    let id = kubelet.launch(&pod, &config, main).await;
    kubelet.says(&id, "while ! grep -q ^sleep /proc/1/cmdline; do sleep 0.05; done").await;

    let described = kubelet.client.list_metric_descriptors(api::ListMetricDescriptorsRequest {}).await.unwrap();
    let keys: HashMap<String, usize> =
        described.into_inner().descriptors.into_iter().map(|one| (one.name, one.label_keys.len())).collect();
    let told = kubelet.client.list_pod_sandbox_metrics(api::ListPodSandboxMetricsRequest {}).await.unwrap();
    let told = told.into_inner().pod_metrics;
    assert_eq!((told.len(), told[0].pod_sandbox_id.as_str()), (1, pod.as_str()));
    let of_container = &told[0].container_metrics[0];
    assert_eq!(of_container.container_id, id);
    for metric in told[0].metrics.iter().chain(&of_container.metrics) {
        assert_eq!(keys.get(&metric.name), Some(&metric.label_values.len()), "{}", metric.name);
    }
    let (figures, network) = (by_name(&of_container.metrics), by_name(&told[0].metrics));
    let value = |name: &str| figures[name].0;
    assert_eq!(value("container_spec_memory_limit_bytes"), 64 << 20);
    assert_eq!(value("container_spec_cpu_shares"), 512);
    assert!((1..=2).contains(&value("container_processes")), "{}", value("container_processes"));
    assert!(value("container_fs_usage_bytes") >= 3 << 20, "{}", value("container_fs_usage_bytes"));
    assert!(value("container_memory_usage_bytes") > 0 && value("container_file_descriptors") >= 3);
    assert!(value("container_ulimits_soft") > 0);
    assert_eq!(figures["container_processes"].1, ["metrics", "default", "main", &id, support::IMAGE]);
    let (received, labels) = network["container_network_receive_packets_total"];
    assert_eq!(labels, ["metrics", "default", "", &pod, "", "eth0"], "{received}");

    let request = api::StreamPodSandboxMetricsRequest {};
    let mut stream = kubelet.client.stream_pod_sandbox_metrics(request).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().pod_sandbox_metrics[0].pod_sandbox_id, pod);
    assert!(stream.message().await.unwrap().is_none());
    kubelet.client.stop_pod_sandbox(api::StopPodSandboxRequest { pod_sandbox_id: pod.clone() }).await.unwrap();
    let told = kubelet.client.list_pod_sandbox_metrics(api::ListPodSandboxMetricsRequest {}).await.unwrap();
    assert!(told.into_inner().pod_metrics.is_empty());
    kubelet.destroy(&pod).await;
}
