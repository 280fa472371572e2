//! `runtime.v1.RuntimeService`. A trait of this many methods is one long table; each entry decodes, calls, encodes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use gantry_cri_api as api;
use gantry_cri_api::runtime_service_server::RuntimeService;
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status};

use super::{Service, Streaming, chunks, encode, not_offered, status};
use crate::error::{Error, Kind};
use crate::node::{now, to_the_end};
use crate::streaming::Streams;
use crate::{containers, metrics, pods, resources, stats, streams};

type Answer<T> = Result<Response<T>, Status>;

/// "Not found" is success for what stops or removes: it is gone already (api.proto of CRI: idempotent).
fn gone_is_fine(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(why) if why.kind() == Kind::NotFound => Ok(()),
        other => other,
    }
}

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, _: Request<api::VersionRequest>) -> Answer<api::VersionResponse> {
        Ok(Response::new(api::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "gantry".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        }))
    }

    async fn run_pod_sandbox(&self, request: Request<api::RunPodSandboxRequest>) -> Answer<api::RunPodSandboxResponse> {
        let request = request.into_inner();
        let node = Arc::clone(&self.node);
        let config = request.config.ok_or_else(|| Status::invalid_argument("config: is missing"))?;
        let pod_sandbox_id =
            to_the_end(async move { pods::run(&node, config, &request.runtime_handler).await }).await?;
        Ok(Response::new(api::RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<api::StopPodSandboxRequest>,
    ) -> Answer<api::StopPodSandboxResponse> {
        let (node, id) = (Arc::clone(&self.node), request.into_inner().pod_sandbox_id);
        gone_is_fine(to_the_end(async move { pods::stop(&node, &node.pod(&id)?).await }).await)?;
        Ok(Response::new(api::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<api::RemovePodSandboxRequest>,
    ) -> Answer<api::RemovePodSandboxResponse> {
        let (node, id) = (Arc::clone(&self.node), request.into_inner().pod_sandbox_id);
        gone_is_fine(to_the_end(async move { pods::remove(&node, &node.pod(&id)?).await }).await)?;
        Ok(Response::new(api::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<api::PodSandboxStatusRequest>,
    ) -> Answer<api::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let pod = self.node.pod(&request.pod_sandbox_id)?;
        Ok(Response::new(api::PodSandboxStatusResponse {
            status: Some(encode::pod_status(&pod.record.get())),
            info: if request.verbose { self.pod_info(&pod).await } else { HashMap::new() },
            containers_statuses: self.statuses_of(&pod.id),
            timestamp: now(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<api::ListPodSandboxRequest>,
    ) -> Answer<api::ListPodSandboxResponse> {
        let items = self.fitting_pods(request.into_inner().filter.as_ref());
        Ok(Response::new(api::ListPodSandboxResponse { items }))
    }

    type StreamPodSandboxesStream = Streaming<api::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<api::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let items = self.fitting_pods(request.into_inner().filter.as_ref());
        Ok(Response::new(chunks(items, |pod_sandboxes| api::StreamPodSandboxesResponse { pod_sandboxes })))
    }

    async fn create_container(
        &self,
        request: Request<api::CreateContainerRequest>,
    ) -> Answer<api::CreateContainerResponse> {
        let request = request.into_inner();
        let node = Arc::clone(&self.node);
        let config = request.config.ok_or_else(|| Status::invalid_argument("config: is missing"))?;
        let container_id = to_the_end(async move {
            containers::create(&node, &request.pod_sandbox_id, config, request.sandbox_config).await
        })
        .await?;
        Ok(Response::new(api::CreateContainerResponse { container_id }))
    }

    async fn start_container(
        &self,
        request: Request<api::StartContainerRequest>,
    ) -> Answer<api::StartContainerResponse> {
        let (node, id) = (Arc::clone(&self.node), request.into_inner().container_id);
        to_the_end(async move { containers::start(&node, &node.container(&id)?).await }).await?;
        Ok(Response::new(api::StartContainerResponse {}))
    }

    async fn stop_container(&self, request: Request<api::StopContainerRequest>) -> Answer<api::StopContainerResponse> {
        let request = request.into_inner();
        let node = Arc::clone(&self.node);
        let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
        let stop = async move { containers::stop(&node, &node.container(&request.container_id)?, grace).await };
        gone_is_fine(to_the_end(stop).await)?;
        Ok(Response::new(api::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<api::RemoveContainerRequest>,
    ) -> Answer<api::RemoveContainerResponse> {
        let (node, id) = (Arc::clone(&self.node), request.into_inner().container_id);
        gone_is_fine(to_the_end(async move { containers::remove(&node, &node.container(&id)?).await }).await)?;
        Ok(Response::new(api::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<api::ListContainersRequest>,
    ) -> Answer<api::ListContainersResponse> {
        let containers = self.fitting_containers(request.into_inner().filter.as_ref());
        Ok(Response::new(api::ListContainersResponse { containers }))
    }

    type StreamContainersStream = Streaming<api::StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<api::StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let containers = self.fitting_containers(request.into_inner().filter.as_ref());
        Ok(Response::new(chunks(containers, |containers| api::StreamContainersResponse { containers })))
    }

    async fn container_status(
        &self,
        request: Request<api::ContainerStatusRequest>,
    ) -> Answer<api::ContainerStatusResponse> {
        let request = request.into_inner();
        let container = self.node.container(&request.container_id)?;
        let status = Some(encode::container_status(&container.record.get()));
        let info = if request.verbose { self.container_info(&container).await? } else { HashMap::new() };
        Ok(Response::new(api::ContainerStatusResponse { status, info }))
    }

    async fn update_container_resources(
        &self,
        request: Request<api::UpdateContainerResourcesRequest>,
    ) -> Answer<api::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let node = Arc::clone(&self.node);
        let wanted = request.linux.ok_or_else(|| Status::invalid_argument("linux: is missing"))?;
        to_the_end(async move { resources::update(&node, &request.container_id, wanted).await }).await?;
        Ok(Response::new(api::UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<api::ReopenContainerLogRequest>,
    ) -> Answer<api::ReopenContainerLogResponse> {
        let container = containers::running(&self.node, &request.into_inner().container_id)?;
        container.pod.monitor.reopen_log(&container.id).await?;
        Ok(Response::new(api::ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<api::ExecSyncRequest>) -> Answer<api::ExecSyncResponse> {
        let request = request.into_inner();
        let patience = u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let outcome = streams::exec_sync(&self.node, &request.container_id, &request.cmd, patience).await?;
        let streams::Outcome { stdout, stderr, code } = outcome;
        Ok(Response::new(api::ExecSyncResponse { stdout, stderr, exit_code: code }))
    }

    async fn exec(&self, request: Request<api::ExecRequest>) -> Answer<api::ExecResponse> {
        let r = request.into_inner();
        let wanted = Streams { stdin: r.stdin, stdout: r.stdout, stderr: r.stderr, tty: r.tty };
        let url = streams::exec_url(&self.node, &r.container_id, r.cmd, wanted)?;
        Ok(Response::new(api::ExecResponse { url }))
    }

    async fn attach(&self, request: Request<api::AttachRequest>) -> Answer<api::AttachResponse> {
        let r = request.into_inner();
        let wanted = Streams { stdin: r.stdin, stdout: r.stdout, stderr: r.stderr, tty: r.tty };
        let url = streams::attach_url(&self.node, &r.container_id, wanted)?;
        Ok(Response::new(api::AttachResponse { url }))
    }

    async fn port_forward(&self, request: Request<api::PortForwardRequest>) -> Answer<api::PortForwardResponse> {
        let request = request.into_inner();
        let pod = self.node.pod(&request.pod_sandbox_id)?;
        let url = streams::port_forward_url(&self.node, &pod, &request.port)?;
        Ok(Response::new(api::PortForwardResponse { url }))
    }

    async fn container_stats(
        &self,
        request: Request<api::ContainerStatsRequest>,
    ) -> Answer<api::ContainerStatsResponse> {
        let container = self.node.container(&request.into_inner().container_id)?;
        let stats = Some(stats::container(&self.node, &container).await?);
        Ok(Response::new(api::ContainerStatsResponse { stats }))
    }

    async fn list_container_stats(
        &self,
        request: Request<api::ListContainerStatsRequest>,
    ) -> Answer<api::ListContainerStatsResponse> {
        let stats = self.container_figures(request.into_inner().filter.as_ref()).await;
        Ok(Response::new(api::ListContainerStatsResponse { stats }))
    }

    type StreamContainerStatsStream = Streaming<api::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<api::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let stats = self.container_figures(request.into_inner().filter.as_ref()).await;
        Ok(Response::new(chunks(stats, |container_stats| api::StreamContainerStatsResponse { container_stats })))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<api::PodSandboxStatsRequest>,
    ) -> Answer<api::PodSandboxStatsResponse> {
        let pod = self.node.pod(&request.into_inner().pod_sandbox_id)?;
        let stats = Some(stats::pod(&self.node, &pod).await?);
        Ok(Response::new(api::PodSandboxStatsResponse { stats }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<api::ListPodSandboxStatsRequest>,
    ) -> Answer<api::ListPodSandboxStatsResponse> {
        let stats = self.pod_figures(request.into_inner().filter.as_ref()).await;
        Ok(Response::new(api::ListPodSandboxStatsResponse { stats }))
    }

    type StreamPodSandboxStatsStream = Streaming<api::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<api::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let stats = self.pod_figures(request.into_inner().filter.as_ref()).await;
        Ok(Response::new(chunks(stats, |pod_sandbox_stats| api::StreamPodSandboxStatsResponse { pod_sandbox_stats })))
    }

    async fn status(&self, request: Request<api::StatusRequest>) -> Answer<api::StatusResponse> {
        Ok(Response::new(status::of(&self.node, request.into_inner().verbose).await))
    }

    async fn runtime_config(&self, _: Request<api::RuntimeConfigRequest>) -> Answer<api::RuntimeConfigResponse> {
        let linux = api::LinuxRuntimeConfiguration { cgroup_driver: api::CgroupDriver::Cgroupfs as i32 };
        Ok(Response::new(api::RuntimeConfigResponse { linux: Some(linux) }))
    }

    async fn update_runtime_config(
        &self,
        _: Request<api::UpdateRuntimeConfigRequest>,
    ) -> Answer<api::UpdateRuntimeConfigResponse> {
        // kubelet tells the range of its node's pods; ours is set by the configuration, as containerd's by CNI's.
        Ok(Response::new(api::UpdateRuntimeConfigResponse {}))
    }

    type GetContainerEventsStream = Streaming<api::ContainerEventResponse>;

    async fn get_container_events(&self, _: Request<api::GetEventsRequest>) -> Answer<Self::GetContainerEventsStream> {
        let service = self.clone();
        let shutdown = self.node.shutdown.clone();
        // A client that lags loses events and, being told nothing by them, finds out when it lists.
        let events = BroadcastStream::new(self.node.events.subscribe())
            .filter_map(move |event| std::future::ready(event.ok().map(|event| Ok(service.event(&event)))));
        Ok(Response::new(Box::pin(events.take_until(shutdown.cancelled_owned()))))
    }

    async fn checkpoint_container(
        &self,
        _: Request<api::CheckpointContainerRequest>,
    ) -> Answer<api::CheckpointContainerResponse> {
        not_offered("checkpointing a container")
    }

    async fn checkpoint_pod(&self, _: Request<api::CheckpointPodRequest>) -> Answer<api::CheckpointPodResponse> {
        not_offered("checkpointing a pod")
    }

    async fn restore_pod(&self, _: Request<api::RestorePodRequest>) -> Answer<api::RestorePodResponse> {
        not_offered("restoring a pod")
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<api::ListMetricDescriptorsRequest>,
    ) -> Answer<api::ListMetricDescriptorsResponse> {
        Ok(Response::new(api::ListMetricDescriptorsResponse { descriptors: metrics::descriptors() }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<api::ListPodSandboxMetricsRequest>,
    ) -> Answer<api::ListPodSandboxMetricsResponse> {
        Ok(Response::new(api::ListPodSandboxMetricsResponse { pod_metrics: self.pod_metrics().await }))
    }

    type StreamPodSandboxMetricsStream = Streaming<api::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<api::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        let wrap = |pod_sandbox_metrics| api::StreamPodSandboxMetricsResponse { pod_sandbox_metrics };
        Ok(Response::new(chunks(self.pod_metrics().await, wrap)))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<api::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<api::UpdatePodSandboxResourcesResponse> {
        let (node, request) = (Arc::clone(&self.node), request.into_inner());
        to_the_end(async move {
            resources::update_pod(&node, &request.pod_sandbox_id, request.overhead, request.resources).await
        })
        .await?;
        Ok(Response::new(api::UpdatePodSandboxResourcesResponse {}))
    }
}
