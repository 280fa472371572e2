//! What several RPCs of the runtime service list: the same items as one message and as a stream of chunks.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use gantry_cri_api as api;
use serde_json::{Value, json};
use tonic::Status;

use super::{Service, encode};
use crate::node::{Container, Happened, Pod};
use crate::{containers, metrics, stats};

impl Service {
    pub(super) fn fitting_pods(&self, filter: Option<&api::PodSandboxFilter>) -> Vec<api::PodSandbox> {
        let records = self.node.pods().into_iter().map(|pod| pod.record.get());
        records.filter(|record| encode::pod_fits(record, filter)).map(|record| encode::pod(&record)).collect()
    }

    pub(super) fn fitting_containers(&self, filter: Option<&api::ContainerFilter>) -> Vec<api::Container> {
        let records = self.node.containers().into_iter().map(|container| container.record.get());
        // A container that is being made is none yet: kubelet would take it for a broken one.
        let made = records.filter(|record| record.made || record.exit.is_some());
        made.filter(|record| encode::container_fits(record, filter)).map(|record| encode::container(&record)).collect()
    }

    pub(super) async fn container_figures(
        &self,
        filter: Option<&api::ContainerStatsFilter>,
    ) -> Vec<api::ContainerStats> {
        let fits = |container: &Arc<Container>| {
            let record = container.record.get();
            record.made
                && record.exit.is_none()
                && filter.is_none_or(|filter| {
                    record.id.starts_with(&filter.id)
                        && record.pod.starts_with(&filter.pod_sandbox_id)
                        && encode::labels_fit(&record.config.labels, &filter.label_selector)
                })
        };
        let all: Vec<_> = self.node.containers().into_iter().filter(fits).collect();
        let figures = join_all(all.iter().map(|container| stats::container(&self.node, container))).await;
        // One that ends in this moment has none.
        figures.into_iter().filter_map(Result::ok).collect()
    }

    pub(super) async fn pod_figures(&self, filter: Option<&api::PodSandboxStatsFilter>) -> Vec<api::PodSandboxStats> {
        let fits = |pod: &Arc<Pod>| {
            let record = pod.record.get();
            record.state() == api::PodSandboxState::SandboxReady
                && filter.is_none_or(|filter| {
                    record.id.starts_with(&filter.id)
                        && encode::labels_fit(&record.config.labels, &filter.label_selector)
                })
        };
        let all: Vec<_> = self.node.pods().into_iter().filter(fits).collect();
        let figures = join_all(all.iter().map(|pod| stats::pod(&self.node, pod))).await;
        figures.into_iter().filter_map(Result::ok).collect()
    }

    /// Metrics of every pod that is ready.
    pub(super) async fn pod_metrics(&self) -> Vec<api::PodSandboxMetrics> {
        let mut all = self.node.pods();
        all.retain(|pod| pod.record.get().state() == api::PodSandboxState::SandboxReady);
        let told = join_all(all.iter().map(|pod| metrics::pod(&self.node, pod))).await;
        // One that is stopped in this moment has none.
        told.into_iter().filter_map(Result::ok).collect()
    }

    pub(super) fn statuses_of(&self, pod: &str) -> Vec<api::ContainerStatus> {
        self.node.containers_of(pod).iter().map(|container| encode::container_status(&container.record.get())).collect()
    }

    /// What `crictl inspect` shows under `info`.
    pub(super) async fn container_info(&self, container: &Container) -> Result<HashMap<String, String>, Status> {
        let record = container.record.get();
        let spec = containers::spec(&self.node, container).await.unwrap_or(Value::Null);
        let state = container.pod.monitor.state().await.ok();
        let pid = state.and_then(|state| state.containers.iter().find(|c| c.id == container.id).map(|c| c.pid));
        let info = json!({
            "sandboxID": container.pod.id,
            "pid": pid.unwrap_or(0),
            "config": record.config,
            "cgroup": record.cgroup,
            "runtimeSpec": spec,
        });
        Ok(HashMap::from([("info".to_owned(), info.to_string())]))
    }

    /// What `crictl inspectp` shows under `info`.
    pub(super) async fn pod_info(&self, pod: &Pod) -> HashMap<String, String> {
        let record = pod.record.get();
        let monitor = pod.monitor.state().await.ok();
        let info = json!({
            "config": record.config,
            "monitorPid": monitor.map_or(0, |state| state.pid),
            "netns": if record.host_network() { Value::Null } else { json!(pod.netns.join("net")) },
            "runDir": self.node.store.run_dir(&pod.id),
            "runtimeHandler": record.runtime_handler,
            // Where tools made for containerd look for the pod's namespaces and addresses.
            "runtimeSpec": { "linux": { "namespaces": encode::namespaces(&record, &pod.netns) } },
            "cniResult": encode::addresses(&record, &pod.netns),
        });
        HashMap::from([("info".to_owned(), info.to_string())])
    }

    /// An event with the pod as it is now.
    pub(super) fn event(&self, happened: &Happened) -> api::ContainerEventResponse {
        let pod = self.node.pod(&happened.pod).ok();
        api::ContainerEventResponse {
            container_id: happened.id.clone(),
            container_event_type: happened.what as i32,
            created_at: happened.at,
            pod_sandbox_status: pod.map(|pod| encode::pod_status(&pod.record.get())),
            containers_statuses: self.statuses_of(&happened.pod),
        }
    }
}
