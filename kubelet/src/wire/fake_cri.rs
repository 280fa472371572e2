//! A CRI server in memory. Containers run until told to exit; a script says which exit at once, which
//! images are missing, and what exec answers. Every changing call is logged as one line.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use gantry_cri_api as cri;
use gantry_cri_api::image_service_server::{ImageService, ImageServiceServer};
use gantry_cri_api::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use gantry_cri_api::tonic::{self, Request, Response, Status};
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt};

#[derive(Default)]
pub(super) struct World {
    pub sandboxes: Vec<cri::PodSandboxStatus>,
    /// (sandbox, status, the config it was made from)
    pub containers: Vec<(String, cri::ContainerStatus, cri::ContainerConfig)>,
    pub images: BTreeSet<String>,
    /// Containers that exit with this code as soon as they start.
    pub exits_at_once: BTreeMap<String, i32>,
    /// Exit code of ExecSync by the first word of the command; else 0.
    pub exec: BTreeMap<String, i32>,
    pub log: Vec<String>,
    pub stream_url: String,
    clock: i64,
}

#[derive(Clone)]
pub(super) struct FakeCri {
    world: Arc<Mutex<World>>,
    events: broadcast::Sender<cri::ContainerEventResponse>,
    nanos: Arc<dyn Fn() -> i64 + Send + Sync>,
}

type Answer<T> = Result<Response<T>, Status>;
type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl FakeCri {
    /// `nanos` is the time that containers are stamped with.
    pub(super) fn new(nanos: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        let mut world = World::default();
        world.images.insert("busybox:1".into());
        Self { world: Arc::new(Mutex::new(world)), events: broadcast::channel(256).0, nanos: Arc::new(nanos) }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("the world")
    }

    /// Serves on a unix socket until the task is dropped.
    pub(super) fn serve(&self, socket: &Path) -> tokio::task::JoinHandle<()> {
        let listener = tokio::net::UnixListener::bind(socket).expect("bind the CRI socket");
        let fake = self.clone();
        tokio::spawn(async move {
            let server = tonic::transport::Server::builder()
                .add_service(RuntimeServiceServer::new(fake.clone()))
                .add_service(ImageServiceServer::new(fake));
            server.serve_with_incoming(UnixListenerStream::new(listener)).await.expect("serve CRI");
        })
    }

    /// Ends the newest run of the container.
    pub(super) fn exit(&self, name: &str, code: i32) {
        let id = {
            let mut world = self.world();
            let now = (self.nanos)();
            let found =
                world.containers.iter_mut().rev().find(|(_, s, _)| s.metadata.as_ref().is_some_and(|m| m.name == name));
            let status = &mut found.expect("a container of that name").1;
            status.state = cri::ContainerState::ContainerExited as i32;
            (status.exit_code, status.finished_at) = (code, now);
            status.id.clone()
        };
        self.event(&id);
    }

    /// The changing calls since the last time, one a line.
    pub(super) fn take_log(&self) -> String {
        std::mem::take(&mut self.world().log).join("\n")
    }

    fn event(&self, container: &str) {
        let world = self.world();
        let Some((sandbox, status, _)) = world.containers.iter().find(|(_, s, _)| s.id == container) else { return };
        let event = cri::ContainerEventResponse {
            container_id: container.into(),
            pod_sandbox_status: world.sandboxes.iter().find(|s| s.id == *sandbox).cloned(),
            containers_statuses: vec![status.clone()],
            ..Default::default()
        };
        // Nobody may be listening yet.
        let _ = self.events.send(event);
    }
}

fn selected(filter: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    filter.iter().all(|(k, v)| labels.get(k) == Some(v))
}

fn find<'a>(
    world: &'a mut World,
    id: &str,
) -> Result<&'a mut (String, cri::ContainerStatus, cri::ContainerConfig), Status> {
    world.containers.iter_mut().find(|(_, s, _)| s.id == id).ok_or_else(|| Status::not_found(format!("container {id}")))
}

/// The whole service: what is given, and UNIMPLEMENTED for the rest.
macro_rules! runtime {
    ({ $($real:tt)* } refuse { $($name:ident: $request:ident => $response:ident),* $(,)? }) => {
        #[tonic::async_trait]
        impl RuntimeService for FakeCri {
            type StreamPodSandboxesStream = Boxed<cri::StreamPodSandboxesResponse>;
            type StreamContainersStream = Boxed<cri::StreamContainersResponse>;
            type StreamContainerStatsStream = Boxed<cri::StreamContainerStatsResponse>;
            type StreamPodSandboxStatsStream = Boxed<cri::StreamPodSandboxStatsResponse>;
            type StreamPodSandboxMetricsStream = Boxed<cri::StreamPodSandboxMetricsResponse>;
            type GetContainerEventsStream = Boxed<cri::ContainerEventResponse>;
            $($real)*
            $(async fn $name(&self, _: Request<cri::$request>) -> Answer<cri::$response> {
                Err(Status::unimplemented(stringify!($name)))
            })*
            async fn stream_pod_sandboxes(&self, _: Request<cri::StreamPodSandboxesRequest>) -> Answer<Self::StreamPodSandboxesStream> {
                Err(Status::unimplemented("stream"))
            }
            async fn stream_containers(&self, _: Request<cri::StreamContainersRequest>) -> Answer<Self::StreamContainersStream> {
                Err(Status::unimplemented("stream"))
            }
            async fn stream_container_stats(&self, _: Request<cri::StreamContainerStatsRequest>) -> Answer<Self::StreamContainerStatsStream> {
                Err(Status::unimplemented("stream"))
            }
            async fn stream_pod_sandbox_stats(&self, _: Request<cri::StreamPodSandboxStatsRequest>) -> Answer<Self::StreamPodSandboxStatsStream> {
                Err(Status::unimplemented("stream"))
            }
            async fn stream_pod_sandbox_metrics(&self, _: Request<cri::StreamPodSandboxMetricsRequest>) -> Answer<Self::StreamPodSandboxMetricsStream> {
                Err(Status::unimplemented("stream"))
            }
        }
    };
}

runtime! {
    {
        async fn version(&self, _: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
            Ok(Response::new(cri::VersionResponse { runtime_name: "fake".into(), runtime_version: "1".into(), ..Default::default() }))
        }

        async fn status(&self, _: Request<cri::StatusRequest>) -> Answer<cri::StatusResponse> {
            let fine = |kind: &str| cri::RuntimeCondition { r#type: kind.into(), status: true, ..Default::default() };
            let status = cri::RuntimeStatus { conditions: vec![fine("RuntimeReady"), fine("NetworkReady")] };
            Ok(Response::new(cri::StatusResponse { status: Some(status), ..Default::default() }))
        }

        async fn run_pod_sandbox(&self, r: Request<cri::RunPodSandboxRequest>) -> Answer<cri::RunPodSandboxResponse> {
            let config = r.into_inner().config.unwrap_or_default();
            let mut world = self.world();
            world.clock += 1;
            let id = format!("s{}", world.sandboxes.len());
            world.log.push(format!("sandbox {id} {}", config.linux.as_ref().map(|l| l.cgroup_parent.clone()).unwrap_or_default()));
            let status = cri::PodSandboxStatus {
                id: id.clone(),
                metadata: config.metadata,
                created_at: world.clock,
                network: Some(cri::PodSandboxNetworkStatus { ip: "127.0.0.1".into(), ..Default::default() }),
                labels: config.labels,
                annotations: config.annotations,
                ..Default::default()
            };
            world.sandboxes.push(status);
            Ok(Response::new(cri::RunPodSandboxResponse { pod_sandbox_id: id }))
        }

        async fn stop_pod_sandbox(&self, r: Request<cri::StopPodSandboxRequest>) -> Answer<cri::StopPodSandboxResponse> {
            let id = r.into_inner().pod_sandbox_id;
            let mut world = self.world();
            world.log.push(format!("stop-sandbox {id}"));
            let found = world.sandboxes.iter_mut().find(|s| s.id == id);
            found.ok_or_else(|| Status::not_found("sandbox"))?.state = cri::PodSandboxState::SandboxNotready as i32;
            Ok(Response::new(Default::default()))
        }

        async fn remove_pod_sandbox(&self, r: Request<cri::RemovePodSandboxRequest>) -> Answer<cri::RemovePodSandboxResponse> {
            let id = r.into_inner().pod_sandbox_id;
            let mut world = self.world();
            world.log.push(format!("remove-sandbox {id}"));
            world.sandboxes.retain(|s| s.id != id);
            world.containers.retain(|(s, _, _)| *s != id);
            Ok(Response::new(Default::default()))
        }

        async fn pod_sandbox_status(&self, r: Request<cri::PodSandboxStatusRequest>) -> Answer<cri::PodSandboxStatusResponse> {
            let id = r.into_inner().pod_sandbox_id;
            let status = self.world().sandboxes.iter().find(|s| s.id == id).cloned();
            let status = status.ok_or_else(|| Status::not_found("sandbox"))?;
            Ok(Response::new(cri::PodSandboxStatusResponse { status: Some(status), ..Default::default() }))
        }

        async fn list_pod_sandbox(&self, r: Request<cri::ListPodSandboxRequest>) -> Answer<cri::ListPodSandboxResponse> {
            let filter = r.into_inner().filter.unwrap_or_default().label_selector;
            let world = self.world();
            let items = world.sandboxes.iter().filter(|s| selected(&filter, &s.labels)).map(|s| cri::PodSandbox {
                id: s.id.clone(),
                metadata: s.metadata.clone(),
                state: s.state,
                created_at: s.created_at,
                labels: s.labels.clone(),
                ..Default::default()
            });
            Ok(Response::new(cri::ListPodSandboxResponse { items: items.collect() }))
        }

        async fn create_container(&self, r: Request<cri::CreateContainerRequest>) -> Answer<cri::CreateContainerResponse> {
            let request = r.into_inner();
            let config = request.config.unwrap_or_default();
            let metadata = config.metadata.clone().unwrap_or_default();
            let now = (self.nanos)();
            let mut world = self.world();
            world.clock += 1;
            let id = format!("{}-{}", metadata.name, metadata.attempt);
            world.log.push(format!("create {id}"));
            let status = cri::ContainerStatus {
                id: id.clone(),
                metadata: Some(metadata),
                state: cri::ContainerState::ContainerCreated as i32,
                created_at: now + world.clock,
                image: config.image.clone(),
                image_ref: "sha256:fake".into(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
                log_path: format!("{}/{}", request.sandbox_config.unwrap_or_default().log_directory, config.log_path),
                ..Default::default()
            };
            world.containers.push((request.pod_sandbox_id, status, config));
            Ok(Response::new(cri::CreateContainerResponse { container_id: id }))
        }

        async fn start_container(&self, r: Request<cri::StartContainerRequest>) -> Answer<cri::StartContainerResponse> {
            let id = r.into_inner().container_id;
            let now = (self.nanos)();
            {
                let mut world = self.world();
                world.log.push(format!("start {id}"));
                let exits = world.exits_at_once.clone();
                let (_, status, _) = find(&mut world, &id)?;
                status.started_at = now;
                status.state = cri::ContainerState::ContainerRunning as i32;
                if let Some(code) = exits.get(&status.metadata.clone().unwrap_or_default().name) {
                    status.state = cri::ContainerState::ContainerExited as i32;
                    (status.exit_code, status.finished_at) = (*code, now);
                }
            }
            self.event(&id);
            Ok(Response::new(Default::default()))
        }

        async fn stop_container(&self, r: Request<cri::StopContainerRequest>) -> Answer<cri::StopContainerResponse> {
            let request = r.into_inner();
            let now = (self.nanos)();
            {
                let mut world = self.world();
                world.log.push(format!("stop {} {}", request.container_id, request.timeout));
                let (_, status, _) = find(&mut world, &request.container_id)?;
                if status.state == cri::ContainerState::ContainerRunning as i32 {
                    status.state = cri::ContainerState::ContainerExited as i32;
                    (status.exit_code, status.finished_at) = (143, now);
                }
            }
            self.event(&request.container_id);
            Ok(Response::new(Default::default()))
        }

        async fn remove_container(&self, r: Request<cri::RemoveContainerRequest>) -> Answer<cri::RemoveContainerResponse> {
            let id = r.into_inner().container_id;
            let mut world = self.world();
            world.log.push(format!("remove {id}"));
            world.containers.retain(|(_, s, _)| s.id != id);
            Ok(Response::new(Default::default()))
        }

        async fn list_containers(&self, r: Request<cri::ListContainersRequest>) -> Answer<cri::ListContainersResponse> {
            let filter = r.into_inner().filter.unwrap_or_default().label_selector;
            let world = self.world();
            let containers = world.containers.iter().filter(|(_, s, _)| selected(&filter, &s.labels)).map(|(sandbox, s, _)| cri::Container {
                id: s.id.clone(),
                pod_sandbox_id: sandbox.clone(),
                metadata: s.metadata.clone(),
                state: s.state,
                created_at: s.created_at,
                labels: s.labels.clone(),
                annotations: s.annotations.clone(),
                ..Default::default()
            });
            Ok(Response::new(cri::ListContainersResponse { containers: containers.collect() }))
        }

        async fn container_status(&self, r: Request<cri::ContainerStatusRequest>) -> Answer<cri::ContainerStatusResponse> {
            let status = find(&mut self.world(), &r.into_inner().container_id)?.1.clone();
            Ok(Response::new(cri::ContainerStatusResponse { status: Some(status), ..Default::default() }))
        }

        async fn exec_sync(&self, r: Request<cri::ExecSyncRequest>) -> Answer<cri::ExecSyncResponse> {
            let request = r.into_inner();
            let mut world = self.world();
            let first = request.cmd.first().cloned().unwrap_or_default();
            let exit_code = world.exec.get(&first).copied().unwrap_or(0);
            world.log.push(format!("exec {} {}", request.container_id, request.cmd.join(" ")));
            Ok(Response::new(cri::ExecSyncResponse { exit_code, stdout: b"said".to_vec(), ..Default::default() }))
        }

        async fn exec(&self, r: Request<cri::ExecRequest>) -> Answer<cri::ExecResponse> {
            let request = r.into_inner();
            let mut world = self.world();
            world.log.push(format!("stream {} {} tty={}", request.container_id, request.cmd.join(" "), request.tty));
            Ok(Response::new(cri::ExecResponse { url: world.stream_url.clone() }))
        }

        async fn get_container_events(&self, _: Request<cri::GetEventsRequest>) -> Answer<Self::GetContainerEventsStream> {
            let events = BroadcastStream::new(self.events.subscribe()).filter_map(Result::ok).map(Ok);
            Ok(Response::new(Box::pin(events)))
        }
    }
    refuse {
        update_pod_sandbox_resources: UpdatePodSandboxResourcesRequest => UpdatePodSandboxResourcesResponse,
        checkpoint_pod: CheckpointPodRequest => CheckpointPodResponse,
        restore_pod: RestorePodRequest => RestorePodResponse,
        update_container_resources: UpdateContainerResourcesRequest => UpdateContainerResourcesResponse,
        reopen_container_log: ReopenContainerLogRequest => ReopenContainerLogResponse,
        checkpoint_container: CheckpointContainerRequest => CheckpointContainerResponse,
        attach: AttachRequest => AttachResponse,
        port_forward: PortForwardRequest => PortForwardResponse,
        container_stats: ContainerStatsRequest => ContainerStatsResponse,
        list_container_stats: ListContainerStatsRequest => ListContainerStatsResponse,
        pod_sandbox_stats: PodSandboxStatsRequest => PodSandboxStatsResponse,
        list_pod_sandbox_stats: ListPodSandboxStatsRequest => ListPodSandboxStatsResponse,
        list_metric_descriptors: ListMetricDescriptorsRequest => ListMetricDescriptorsResponse,
        list_pod_sandbox_metrics: ListPodSandboxMetricsRequest => ListPodSandboxMetricsResponse,
        runtime_config: RuntimeConfigRequest => RuntimeConfigResponse,
        update_runtime_config: UpdateRuntimeConfigRequest => UpdateRuntimeConfigResponse,
    }
}

#[tonic::async_trait]
impl ImageService for FakeCri {
    type StreamImagesStream = Boxed<cri::StreamImagesResponse>;

    async fn list_images(&self, _: Request<cri::ListImagesRequest>) -> Answer<cri::ListImagesResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn stream_images(&self, _: Request<cri::StreamImagesRequest>) -> Answer<Self::StreamImagesStream> {
        Err(Status::unimplemented("stream"))
    }

    async fn image_status(&self, r: Request<cri::ImageStatusRequest>) -> Answer<cri::ImageStatusResponse> {
        let name = r.into_inner().image.unwrap_or_default().image;
        let known = self.world().images.contains(&name);
        let image = known.then(|| cri::Image { id: format!("id-of-{name}"), ..Default::default() });
        Ok(Response::new(cri::ImageStatusResponse { image, ..Default::default() }))
    }

    async fn pull_image(&self, r: Request<cri::PullImageRequest>) -> Answer<cri::PullImageResponse> {
        let name = r.into_inner().image.unwrap_or_default().image;
        let mut world = self.world();
        world.log.push(format!("pull {name}"));
        if name.contains("missing") {
            return Err(Status::not_found(format!("{name}: not found")));
        }
        world.images.insert(name.clone());
        Ok(Response::new(cri::PullImageResponse { image_ref: format!("id-of-{name}") }))
    }

    async fn remove_image(&self, _: Request<cri::RemoveImageRequest>) -> Answer<cri::RemoveImageResponse> {
        Err(Status::unimplemented("remove"))
    }

    async fn image_fs_info(&self, _: Request<cri::ImageFsInfoRequest>) -> Answer<cri::ImageFsInfoResponse> {
        Ok(Response::new(Default::default()))
    }
}
