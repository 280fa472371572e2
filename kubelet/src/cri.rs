//! The runtime, over CRI: one method a call that the kubelet makes, each with its deadline, errors in the
//! house's form. Nothing is decided here.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use gantry_cri_api as cri;
use gantry_cri_api::image_service_client::ImageServiceClient;
use gantry_cri_api::runtime_service_client::RuntimeServiceClient;
use gantry_cri_api::tonic::transport::Channel;
use gantry_cri_api::tonic::{Code, Request, Response, Status, Streaming};

use crate::error::{Error, Kind, Result};

const QUICK: Duration = Duration::from_secs(10);
/// Verbs that change things: upstream's runtimeRequestTimeout.
const SLOW: Duration = Duration::from_secs(120);
/// Upstream gives a pull no deadline but that of making progress; the runtime watches that.
const PULL: Duration = Duration::from_secs(3600);

/// See the module. Clones share one connection.
#[derive(Debug, Clone)]
pub(crate) struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

/// What an exec came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Executed {
    pub code: i32,
    /// stdout followed by stderr, lossily.
    pub output: String,
}

fn with<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

async fn call<T>(
    what: &str,
    deadline: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T> {
    match tokio::time::timeout(deadline, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(explain(what, &status)),
        Err(_) => Err(Error::new(Kind::Cri, format!("{what}: no answer within {} s", deadline.as_secs()))),
    }
}

fn explain(what: &str, status: &Status) -> Error {
    let kind = match status.code() {
        Code::NotFound => Kind::NotFound,
        Code::Unavailable => Kind::Unavailable,
        Code::Unimplemented => Kind::Refused,
        _ => Kind::Cri,
    };
    let message = if status.message().is_empty() { status.code().description() } else { status.message() };
    Error::new(kind, format!("{what}: {message}"))
}

impl Cri {
    /// Connects with the first call, and again after the server was restarted.
    pub(crate) fn new(socket: &Path) -> Self {
        let channel = cri::connect_lazy(socket);
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(cri::MAX_MESSAGE),
            images: ImageServiceClient::new(channel).max_decoding_message_size(cri::MAX_MESSAGE),
        }
    }

    pub(crate) async fn version(&self) -> Result<cri::VersionResponse> {
        let request = with(cri::VersionRequest { version: "0.1.0".into() }, QUICK);
        call("ask the runtime's version", QUICK, self.runtime.clone().version(request)).await
    }

    pub(crate) async fn status(&self) -> Result<cri::StatusResponse> {
        let request = with(cri::StatusRequest { verbose: false }, QUICK);
        call("ask the runtime's status", QUICK, self.runtime.clone().status(request)).await
    }

    pub(crate) async fn sandboxes(&self, labels: &[(&str, &str)]) -> Result<Vec<cri::PodSandbox>> {
        let filter = cri::PodSandboxFilter { label_selector: selector(labels), ..Default::default() };
        let request = with(cri::ListPodSandboxRequest { filter: Some(filter) }, QUICK);
        Ok(call("list pod sandboxes", QUICK, self.runtime.clone().list_pod_sandbox(request)).await?.items)
    }

    pub(crate) async fn containers(&self, labels: &[(&str, &str)]) -> Result<Vec<cri::Container>> {
        let filter = cri::ContainerFilter { label_selector: selector(labels), ..Default::default() };
        let request = with(cri::ListContainersRequest { filter: Some(filter) }, QUICK);
        Ok(call("list containers", QUICK, self.runtime.clone().list_containers(request)).await?.containers)
    }

    pub(crate) async fn sandbox_status(&self, id: &str) -> Result<cri::PodSandboxStatus> {
        let request = with(cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false }, QUICK);
        let what = format!("ask the status of sandbox {id}");
        let answer = call(&what, QUICK, self.runtime.clone().pod_sandbox_status(request)).await?;
        answer.status.ok_or_else(|| Error::new(Kind::Cri, format!("{what}: empty answer")))
    }

    pub(crate) async fn container_status(&self, id: &str) -> Result<cri::ContainerStatus> {
        let request = with(cri::ContainerStatusRequest { container_id: id.into(), verbose: false }, QUICK);
        let what = format!("ask the status of container {id}");
        let answer = call(&what, QUICK, self.runtime.clone().container_status(request)).await?;
        answer.status.ok_or_else(|| Error::new(Kind::Cri, format!("{what}: empty answer")))
    }

    pub(crate) async fn run_sandbox(&self, config: cri::PodSandboxConfig, handler: &str) -> Result<String> {
        let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.into() };
        let mut runtime = self.runtime.clone();
        Ok(call("run pod sandbox", SLOW, runtime.run_pod_sandbox(with(request, SLOW))).await?.pod_sandbox_id)
    }

    pub(crate) async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let request = with(cri::StopPodSandboxRequest { pod_sandbox_id: id.into() }, SLOW);
        let answer = call(&format!("stop sandbox {id}"), SLOW, self.runtime.clone().stop_pod_sandbox(request)).await;
        gone_is_fine(answer.map(drop))
    }

    pub(crate) async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let request = with(cri::RemovePodSandboxRequest { pod_sandbox_id: id.into() }, SLOW);
        let answer =
            call(&format!("remove sandbox {id}"), SLOW, self.runtime.clone().remove_pod_sandbox(request)).await;
        gone_is_fine(answer.map(drop))
    }

    pub(crate) async fn create_container(
        &self,
        sandbox: &str,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Result<String> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let mut runtime = self.runtime.clone();
        Ok(call("create container", SLOW, runtime.create_container(with(request, SLOW))).await?.container_id)
    }

    pub(crate) async fn start_container(&self, id: &str) -> Result<()> {
        let request = with(cri::StartContainerRequest { container_id: id.into() }, SLOW);
        call("start container", SLOW, self.runtime.clone().start_container(request)).await.map(drop)
    }

    pub(crate) async fn stop_container(&self, id: &str, grace: i64) -> Result<()> {
        let deadline = SLOW + Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        let request = cri::StopContainerRequest { container_id: id.into(), timeout: grace };
        let what = format!("stop container {id}");
        gone_is_fine(
            call(&what, deadline, self.runtime.clone().stop_container(with(request, deadline))).await.map(drop),
        )
    }

    pub(crate) async fn remove_container(&self, id: &str) -> Result<()> {
        let request = with(cri::RemoveContainerRequest { container_id: id.into() }, SLOW);
        let what = format!("remove container {id}");
        gone_is_fine(call(&what, SLOW, self.runtime.clone().remove_container(request)).await.map(drop))
    }

    /// Runs `cmd`; `timeout` at least a second.
    pub(crate) async fn exec_sync(&self, id: &str, cmd: &[String], timeout: Duration) -> Result<Executed> {
        let seconds = timeout.as_secs().max(1);
        let request = cri::ExecSyncRequest {
            container_id: id.into(),
            cmd: cmd.to_vec(),
            timeout: i64::try_from(seconds).unwrap_or(i64::MAX),
        };
        let deadline = Duration::from_secs(seconds) + QUICK;
        let answer = call("exec", deadline, self.runtime.clone().exec_sync(with(request, deadline))).await?;
        let mut output = answer.stdout;
        output.extend_from_slice(&answer.stderr);
        Ok(Executed { code: answer.exit_code, output: String::from_utf8_lossy(&output).into_owned() })
    }

    pub(crate) async fn exec(&self, request: cri::ExecRequest) -> Result<String> {
        Ok(call("prepare exec", QUICK, self.runtime.clone().exec(with(request, QUICK))).await?.url)
    }

    pub(crate) async fn attach(&self, request: cri::AttachRequest) -> Result<String> {
        Ok(call("prepare attach", QUICK, self.runtime.clone().attach(with(request, QUICK))).await?.url)
    }

    pub(crate) async fn port_forward(&self, request: cri::PortForwardRequest) -> Result<String> {
        Ok(call("prepare port forward", QUICK, self.runtime.clone().port_forward(with(request, QUICK))).await?.url)
    }

    pub(crate) async fn reopen_log(&self, id: &str) -> Result<()> {
        let request = with(cri::ReopenContainerLogRequest { container_id: id.into() }, QUICK);
        call("reopen the log", QUICK, self.runtime.clone().reopen_container_log(request)).await.map(drop)
    }

    pub(crate) async fn events(&self) -> Result<Streaming<cri::ContainerEventResponse>> {
        let mut runtime = self.runtime.clone();
        let answer = runtime.get_container_events(cri::GetEventsRequest {});
        call("ask for container events", QUICK, answer).await
    }

    pub(crate) async fn stats(&self) -> Result<Vec<cri::ContainerStats>> {
        let request = with(cri::ListContainerStatsRequest { filter: None }, QUICK);
        Ok(call("list container stats", QUICK, self.runtime.clone().list_container_stats(request)).await?.stats)
    }

    pub(crate) async fn images(&self) -> Result<Vec<cri::Image>> {
        let request = with(cri::ListImagesRequest { filter: None }, QUICK);
        Ok(call("list images", QUICK, self.images.clone().list_images(request)).await?.images)
    }

    /// The image, when it is on this node.
    pub(crate) async fn image(&self, name: &str) -> Result<Option<cri::Image>> {
        let request = cri::ImageStatusRequest { image: Some(image_spec(name)), verbose: false };
        let what = format!("look for image {name}");
        Ok(call(&what, QUICK, self.images.clone().image_status(with(request, QUICK))).await?.image)
    }

    pub(crate) async fn pull(
        &self,
        name: &str,
        auth: Option<cri::AuthConfig>,
        sandbox: cri::PodSandboxConfig,
    ) -> Result<String> {
        let request = cri::PullImageRequest { image: Some(image_spec(name)), auth, sandbox_config: Some(sandbox) };
        let what = format!("pull image {name}");
        Ok(call(&what, PULL, self.images.clone().pull_image(with(request, PULL))).await?.image_ref)
    }

    /// Removes an image; one that is not there is removed.
    pub(crate) async fn remove_image(&self, id: &str) -> Result<()> {
        let request = with(cri::RemoveImageRequest { image: Some(image_spec(id)) }, QUICK);
        call(&format!("remove image {id}"), QUICK, self.images.clone().remove_image(request)).await.map(drop)
    }

    pub(crate) async fn image_fs(&self) -> Result<cri::ImageFsInfoResponse> {
        let request = with(cri::ImageFsInfoRequest {}, QUICK);
        call("ask the image filesystem", QUICK, self.images.clone().image_fs_info(request)).await
    }
}

/// An image as CRI names it.
pub(crate) fn image_spec(name: &str) -> cri::ImageSpec {
    cri::ImageSpec { image: name.into(), user_specified_image: name.into(), ..Default::default() }
}

fn selector(labels: &[(&str, &str)]) -> HashMap<String, String> {
    labels.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect()
}

fn gone_is_fine(answer: Result<()>) -> Result<()> {
    match answer {
        Err(e) if e.kind() == Kind::NotFound => Ok(()),
        other => other,
    }
}
