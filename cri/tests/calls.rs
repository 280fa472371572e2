//! Calls that change or watch a running container: streams over a WebSocket, logs, limits, events; and images.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use std::fs;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use gantry_cri_api as api;
use gantry_cri_api::ContainerEventType::{
    ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
};
use support::{House, IMAGE, Kubelet, shell};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Message;
use tonic::Code;

/// A client of the stream behind `url`, speaking v5.channel.k8s.io.
async fn dial(house: &House, url: &str) -> WebSocketStream<TcpStream> {
    let address = url.strip_prefix("http://").unwrap().split('/').next().unwrap().parse().unwrap();
    let stream = house.connect(address);
    let mut request = url.replacen("http", "ws", 1).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "v5.channel.k8s.io".parse().unwrap());
    tokio_tungstenite::client_async(request, stream).await.unwrap().0
}

async fn exec_url(kubelet: &mut Kubelet, id: &str, script: &str, tty: bool) -> String {
    let cmd = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let request = api::ExecRequest { container_id: id.into(), cmd, tty, stdin: true, stdout: true, stderr: !tty };
    kubelet.client.exec(request).await.unwrap().into_inner().url
}

/// What arrives on a channel until the server closes.
async fn rest(socket: &mut WebSocketStream<TcpStream>, channel: u8) -> String {
    let mut text = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(data) = message
            && data.first() == Some(&channel)
        {
            text.extend_from_slice(&data[1..]);
        }
    }
    String::from_utf8(text).unwrap()
}

/// Waits until as many processes of the container as `count` have `marker` in their command line.
async fn processes(kubelet: &mut Kubelet, id: &str, marker: &str, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let pattern = format!("ps | grep -c '[s]leep {marker}' || true");
    while kubelet.says(id, &pattern).await != count.to_string() {
        assert!(Instant::now() < deadline, "there are not {count} of sleep {marker}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_session_over_a_websocket_and_what_is_left_of_one_whose_client_goes() {
    need_root!();
    let house = House::new("ws").await;
    let mut kubelet = Kubelet::of(&house).await;
    let config = house.pod("ws");
    let pod = kubelet.run(&config).await;
    let id = kubelet.launch(&pod, &config, shell("main", "sleep 100")).await;

    let url = exec_url(&mut kubelet, &id, "cat; exit 7", false).await;
    let mut socket = dial(&house, &url).await;
    socket.send(Message::binary(b"\0hello\n".to_vec())).await.unwrap();
    // Channel 255 closes the input: cat ends.
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    let mut said = (String::new(), String::new());
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(data) = message else { continue };
        let text = String::from_utf8_lossy(&data[1..]);
        match data[0] {
            1 => said.0 += &text,
            3 => said.1 += &text,
            _ => {}
        }
    }
    assert_eq!(said.0, "hello\n");
    assert!(said.1.contains(r#""reason":"ExitCode","message":"7""#), "{}", said.1);

    // A URL serves once.
    let address = url.strip_prefix("http://").unwrap().split('/').next().unwrap().parse().unwrap();
    let again = url.replacen("http", "ws", 1).into_client_request().unwrap();
    assert!(tokio_tungstenite::client_async(again, house.connect(address)).await.is_err());

    // Clients that go in the same moment: whatever was started for them by then ends, too.
    for _ in 0..12 {
        let url = exec_url(&mut kubelet, &id, "exec sleep 770", false).await;
        drop(dial(&house, &url).await);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    processes(&mut kubelet, &id, "770", 0).await;

    for (marker, tty) in [("771", false), ("772", true)] {
        let url = exec_url(&mut kubelet, &id, &format!("trap '' HUP; echo on; exec sleep {marker}"), tty).await;
        let mut socket = dial(&house, &url).await;
        processes(&mut kubelet, &id, marker, 1).await;
        let first = socket.next().await.unwrap().unwrap();
        assert!(!first.into_data().is_empty());
        drop(socket);
        processes(&mut kubelet, &id, marker, 0).await;
    }
    kubelet.destroy(&pod).await;
}

#[tokio::test]
async fn attach_has_the_main_process() {
    need_root!();
    let house = House::new("attach").await;
    let mut kubelet = Kubelet::of(&house).await;
    let config = house.pod("attach");
    let pod = kubelet.run(&config).await;
    let mut main = shell("main", "read line; echo got $line; exit 3");
    (main.stdin, main.stdin_once) = (true, true);
    let id = kubelet.launch(&pod, &config, main).await;
    let request = api::AttachRequest { container_id: id.clone(), stdin: true, stdout: true, stderr: true, tty: false };
    let url = kubelet.client.attach(request).await.unwrap().into_inner().url;
    let mut socket = dial(&house, &url).await;
    socket.send(Message::binary(b"\0word\n".to_vec())).await.unwrap();
    assert_eq!(rest(&mut socket, 1).await, "got word\n");
    assert_eq!(kubelet.exited(&id).await.exit_code, 3);
    kubelet.destroy(&pod).await;
}

#[tokio::test]
async fn a_log_goes_on_in_a_new_file_and_limits_change() {
    need_root!();
    let house = House::new("change").await;
    let mut kubelet = Kubelet::of(&house).await;
    let config = house.pod("change");
    let pod = kubelet.run(&config).await;
    let id = kubelet.launch(&pod, &config, shell("main", "while true; do echo tick; sleep 0.1; done")).await;
    let (log, old) = (house.log_of("main"), house.log_of("main.1"));
    let ticks = |path: &std::path::Path| fs::read_to_string(path).unwrap_or_default().matches("tick\n").count();
    let deadline = Instant::now() + Duration::from_secs(10);
    while ticks(&log) == 0 {
        assert!(Instant::now() < deadline, "no line");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fs::rename(&log, &old).unwrap();
    let request = api::ReopenContainerLogRequest { container_id: id.clone() };
    kubelet.client.reopen_container_log(request).await.unwrap();
    let before = ticks(&old);
    while ticks(&log) < 2 {
        assert!(Instant::now() < deadline, "no line in the new file");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(ticks(&old), before);

    let limits = api::LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() };
    let request =
        api::UpdateContainerResourcesRequest { container_id: id.clone(), linux: Some(limits), ..Default::default() };
    kubelet.client.update_container_resources(request).await.unwrap();
    let told = kubelet.status(&id).await.resources.unwrap().linux.unwrap();
    assert_eq!(told.memory_limit_in_bytes, 64 << 20);
    let stats = kubelet.client.container_stats(api::ContainerStatsRequest { container_id: id.clone() }).await;
    let memory = stats.unwrap().into_inner().stats.unwrap().memory.unwrap();
    let (free, used) = (memory.available_bytes.unwrap().value, memory.working_set_bytes.unwrap().value);
    assert_eq!(free + used, 64 << 20);

    // One limit that the kernel refuses: then none changes, and the record says what is in force.
    let wrong = api::LinuxContainerResources { cpu_shares: 300, cpuset_cpus: "4000".into(), ..Default::default() };
    let request =
        api::UpdateContainerResourcesRequest { container_id: id.clone(), linux: Some(wrong), ..Default::default() };
    let why = kubelet.client.update_container_resources(request).await.unwrap_err();
    assert!(why.message().contains("cpuset"), "{why}");
    let told = kubelet.status(&id).await.resources.unwrap().linux.unwrap();
    assert_eq!((told.memory_limit_in_bytes, told.cpu_shares, told.cpuset_cpus.as_str()), (64 << 20, 0, ""));
    kubelet.stop(&id, 0).await.unwrap();
    let request = api::ReopenContainerLogRequest { container_id: id.clone() };
    assert_eq!(kubelet.client.reopen_container_log(request).await.unwrap_err().code(), Code::FailedPrecondition);
    kubelet.destroy(&pod).await;
}

#[tokio::test]
async fn what_kubelet_sets_on_a_pod_is_written_down() {
    need_root!();
    let house = House::new("podlimits").await;
    let mut kubelet = Kubelet::of(&house).await;
    let pod = kubelet.run(&house.pod("podlimits")).await;
    let limits = |bytes| Some(api::LinuxContainerResources { memory_limit_in_bytes: bytes, ..Default::default() });
    for (overhead, resources) in [(limits(1 << 20), limits(64 << 20)), (None, limits(32 << 20))] {
        let request = api::UpdatePodSandboxResourcesRequest { pod_sandbox_id: pod.clone(), overhead, resources };
        kubelet.client.update_pod_sandbox_resources(request).await.unwrap();
    }
    let request = api::PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: true };
    let info = kubelet.client.pod_sandbox_status(request).await.unwrap().into_inner().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    let linux = &info["config"]["linux"];
    assert_eq!(linux["overhead"]["memory_limit_in_bytes"], 1 << 20, "{linux}");
    assert_eq!(linux["resources"]["memory_limit_in_bytes"], 32 << 20, "{linux}");
    let request = api::UpdatePodSandboxResourcesRequest { pod_sandbox_id: "0123".into(), ..Default::default() };
    assert_eq!(kubelet.client.update_pod_sandbox_resources(request).await.unwrap_err().code(), Code::NotFound);
    kubelet.destroy(&pod).await;
}

#[tokio::test]
async fn events_tell_a_containers_life_in_order() {
    need_root!();
    let house = House::new("events").await;
    let mut kubelet = Kubelet::of(&house).await;
    let mut watcher = house.client().await;
    let mut events = watcher.get_container_events(api::GetEventsRequest {}).await.unwrap().into_inner();
    let config = house.pod("events");
    let pod = kubelet.run(&config).await;
    let id = kubelet.launch(&pod, &config, shell("main", "exit 4")).await;
    kubelet.exited(&id).await;
    kubelet.remove(&id).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&ContainerDeletedEvent) {
        let event = tokio::time::timeout(Duration::from_secs(10), events.message()).await.unwrap().unwrap().unwrap();
        if event.container_id == id {
            if event.container_event_type() == ContainerStoppedEvent {
                assert_eq!(event.containers_statuses[0].exit_code, 4);
            }
            assert_eq!(event.pod_sandbox_status.as_ref().unwrap().id, pod);
            seen.push(event.container_event_type());
        }
    }
    // A program that is quick may have ended before its start is told of.
    seen[1..3].sort();
    assert_eq!(seen, [ContainerCreatedEvent, ContainerStartedEvent, ContainerStoppedEvent, ContainerDeletedEvent]);
    kubelet.destroy(&pod).await;
}

#[tokio::test]
async fn images_are_listed_measured_and_removed() {
    need_root!();
    let house = House::new("images").await;
    let mut images = house.images().await;
    let list = images.list_images(api::ListImagesRequest::default()).await.unwrap().into_inner().images;
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].repo_tags, [IMAGE]);
    assert!(list[0].size > 0);
    let info = images.image_fs_info(api::ImageFsInfoRequest {}).await.unwrap().into_inner();
    let space = &info.image_filesystems[0];
    assert!(space.used_bytes.unwrap().value >= list[0].size);
    let place = &space.fs_id.as_ref().unwrap().mountpoint;
    assert!(std::path::Path::new(place).starts_with(&house.dir), "{place}");
    let spec = || Some(api::ImageSpec { image: IMAGE.into(), ..Default::default() });
    for _ in 0..2 {
        images.remove_image(api::RemoveImageRequest { image: spec() }).await.unwrap();
    }
    let status = images.image_status(api::ImageStatusRequest { image: spec(), verbose: false }).await.unwrap();
    assert!(status.into_inner().image.is_none());
    assert!(images.list_images(api::ListImagesRequest::default()).await.unwrap().into_inner().images.is_empty());
}

#[tokio::test]
async fn a_pod_in_the_hosts_network() {
    need_root!();
    let house = House::new("hostnet").await;
    let mut kubelet = Kubelet::of(&house).await;
    let mut config = house.pod("hostnet");
    let options = api::NamespaceOption {
        network: api::NamespaceMode::Node as i32,
        ..support::pid_of(api::NamespaceMode::Container)
    };
    let context = api::LinuxSandboxSecurityContext { namespace_options: Some(options.clone()), ..Default::default() };
    config.linux = Some(api::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() });
    let pod = kubelet.run(&config).await;
    assert_eq!(kubelet.pod_status(&pod).await.network.unwrap_or_default().ip, "");
    let mut main = shell("main", "sleep 100");
    support::security(&mut main).namespace_options = Some(options);
    let id = kubelet.launch(&pod, &config, main).await;
    // "The host" is where the server lives: the house's namespace, with its bridge or without, and no eth0.
    let inside = kubelet.says(&id, "readlink /proc/self/ns/net").await;
    assert_eq!(inside, house.network());
    kubelet.destroy(&pod).await;
}
