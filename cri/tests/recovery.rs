//! The server is killed, at every place where that may hurt, and started again: what lived lives, what ended has its
//! code, what was half made is gone, and nothing leaks (the house looks when it is dropped).
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use std::fs;
use std::time::Duration;

use gantry_cri_api as api;
use gantry_cri_api::{ContainerState, PodSandboxState};
use support::{House, Kubelet, shell};

#[tokio::test]
async fn containers_outlive_a_killed_server_with_logs_and_codes() {
    need_root!();
    let mut house = House::new("outlive").await;
    let mut kubelet = Kubelet::of(&house).await;
    let config = house.pod("web");
    let pod = kubelet.run(&config).await;
    let ip = kubelet.pod_status(&pod).await.network.unwrap().ip;
    let lives = kubelet
        .launch(&pod, &config, shell("lives", "i=0; while true; do echo $i; i=$((i+1)); sleep 0.05; done"))
        .await;
    let ends =
        kubelet.launch(&pod, &config, shell("ends", "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 7")).await;
    let waits = kubelet.create(&pod, &config, shell("waits", "exit 5")).await.unwrap();
    let started_at = kubelet.status(&lives).await.started_at;
    // Ends while nobody is there: containerd reports such a code as 255.
    kubelet.says(&ends, "(sleep 0.5; touch /tmp/go) >/dev/null 2>&1 &").await;
    house.kill();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let lines_while_away = fs::read_to_string(house.log_of("lives")).unwrap().lines().count();
    house.start().await;

    let mut kubelet = Kubelet::of(&house).await;
    let status = kubelet.status(&ends).await;
    assert_eq!(
        (status.state(), status.exit_code, status.reason.as_str()),
        (ContainerState::ContainerExited, 7, "Error")
    );
    let status = kubelet.status(&lives).await;
    assert_eq!((status.state(), status.started_at), (ContainerState::ContainerRunning, started_at));
    assert_eq!(kubelet.pod_status(&pod).await.network.unwrap().ip, ip);
    assert_eq!(kubelet.says(&lives, "echo still here").await, "still here");
    kubelet.client.start_container(api::StartContainerRequest { container_id: waits.clone() }).await.unwrap();
    assert_eq!(kubelet.exited(&waits).await.exit_code, 5);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let log = fs::read_to_string(house.log_of("lives")).unwrap();
    assert!(lines_while_away > 10 && log.lines().count() > lines_while_away, "{lines_while_away}");
    for (at, line) in log.lines().enumerate() {
        assert!(line.ends_with(&format!(" stdout F {at}")), "line {at} is {line:?}");
    }
    kubelet.destroy(&pod).await;
}

#[tokio::test]
async fn a_server_that_is_told_to_end_leaves_its_pods() {
    need_root!();
    let mut house = House::new("leave").await;
    let mut kubelet = Kubelet::of(&house).await;
    let config = house.pod("web");
    let pod = kubelet.run(&config).await;
    let id = kubelet.launch(&pod, &config, shell("main", "sleep 100")).await;
    drop(kubelet);
    house.restart().await;
    let mut kubelet = Kubelet::of(&house).await;
    assert_eq!(kubelet.says(&id, "echo here").await, "here");
    kubelet.destroy(&pod).await;
}

#[tokio::test]
async fn a_killed_monitor_ends_its_pod_and_invents_no_code() {
    need_root!();
    let house = House::new("monitor").await;
    let mut kubelet = Kubelet::of(&house).await;
    let config = house.pod("web");
    let pod = kubelet.run(&config).await;
    let done = kubelet.launch(&pod, &config, shell("done", "exit 3")).await;
    kubelet.exited(&done).await;
    let id = kubelet.launch(&pod, &config, shell("main", "sleep 100")).await;
    for pid in house.monitors() {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    let status = kubelet.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "ContainerStatusUnknown"));
    assert_eq!(kubelet.status(&done).await.exit_code, 3);
    for _ in 0..100 {
        if kubelet.pod_status(&pod).await.state() == PodSandboxState::SandboxNotready {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(kubelet.pod_status(&pod).await.state(), PodSandboxState::SandboxNotready);
    assert!(kubelet.create(&pod, &config, shell("late", "true")).await.is_err());
    kubelet.destroy(&pod).await;
}

#[tokio::test]
async fn after_a_reboot_everything_has_ended() {
    need_root!();
    let mut house = House::new("reboot").await;
    let mut kubelet = Kubelet::of(&house).await;
    let config = house.pod("web");
    let pod = kubelet.run(&config).await;
    let id = kubelet.launch(&pod, &config, shell("main", "sleep 100")).await;
    house.kill();
    house.reboot();
    house.start().await;
    let mut kubelet = Kubelet::of(&house).await;
    let status = kubelet.status(&id).await;
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 255));
    assert_eq!(kubelet.pod_status(&pod).await.state(), PodSandboxState::SandboxNotready);
    // The same pod can be made again at once, as kubelet does with the next attempt.
    let mut next = config.clone();
    next.metadata.as_mut().unwrap().attempt = 1;
    let again = kubelet.run(&next).await;
    kubelet.launch(&again, &next, shell("main", "sleep 100")).await;
    kubelet.destroy_all().await;
}

/// One life of a pod, as far as it goes before the server dies at its fault point.
async fn live(kubelet: &mut Kubelet, config: &api::PodSandboxConfig) -> Result<(), tonic::Status> {
    let request = api::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
    let pod = kubelet.client.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
    let id = kubelet.create(&pod, config, shell("main", "sleep 100")).await?;
    kubelet.client.start_container(api::StartContainerRequest { container_id: id.clone() }).await?;
    kubelet.stop(&id, 1).await?;
    kubelet.client.remove_container(api::RemoveContainerRequest { container_id: id }).await?;
    kubelet.client.stop_pod_sandbox(api::StopPodSandboxRequest { pod_sandbox_id: pod.clone() }).await?;
    kubelet.client.remove_pod_sandbox(api::RemovePodSandboxRequest { pod_sandbox_id: pod }).await.map(drop)
}

#[tokio::test]
async fn killed_at_every_first_fault_point_nothing_is_lost_and_nothing_leaks() {
    need_root!();
    killed_at(half(0)).await;
}

#[tokio::test]
async fn killed_at_every_second_fault_point_nothing_is_lost_and_nothing_leaks() {
    need_root!();
    killed_at(half(1)).await;
}

/// Every other fault point: two halves run side by side.
fn half(which: usize) -> impl Iterator<Item = &'static str> {
    gantry_cri::fault::POINTS.iter().copied().skip(which).step_by(2)
}

async fn killed_at(points: impl Iterator<Item = &'static str>) {
    let mut house = House::new("faults").await;
    for point in points {
        let config = house.pod(point);
        house.fault = Some(point.to_owned());
        house.restart().await;
        let died = live(&mut Kubelet::of(&house).await, &config).await;
        assert!(died.is_err(), "the server passed {point} unharmed");
        house.wait_for_death();
        house.fault = None;
        house.start().await;
        let mut kubelet = Kubelet::of(&house).await;
        let containers = kubelet.client.list_containers(api::ListContainersRequest::default()).await.unwrap();
        for container in containers.into_inner().containers {
            // Whatever is listed can be asked and, where it runs, be used.
            if kubelet.status(&container.id).await.state() == ContainerState::ContainerRunning {
                assert_eq!(kubelet.says(&container.id, "echo yes").await, "yes", "{point}");
            }
        }
        kubelet.destroy_all().await;
        assert_eq!(house.left_behind(), Vec::<String>::new(), "after {point}");
        // The name is free again.
        let pod = kubelet.run(&config).await;
        kubelet.destroy(&pod).await;
    }
}
