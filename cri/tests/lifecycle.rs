//! Pods and containers from their first call to their last, over the socket, with real namespaces and cgroups.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use std::fs;
use std::time::{Duration, Instant};

use gantry_cri_api as api;
use gantry_cri_api::{ContainerState, NamespaceMode, PodSandboxState};
use support::{House, Kubelet, pid_of, security, shell};
use tonic::Code;

#[tokio::test]
async fn a_pod_from_run_to_remove() {
    need_root!();
    let house = House::new("life").await;
    let mut kubelet = Kubelet::of(&house).await;
    let config = house.pod("web");
    let pod = kubelet.run(&config).await;
    let status = kubelet.pod_status(&pod).await;
    assert_eq!(status.state(), PodSandboxState::SandboxReady);
    assert!(status.network.unwrap().ip.starts_with("10.77.0."));

    let id = kubelet.create(&pod, &config, shell("main", "echo hello; echo oops >&2; sleep 100")).await.unwrap();
    assert_eq!(kubelet.status(&id).await.state(), ContainerState::ContainerCreated);
    kubelet.client.start_container(api::StartContainerRequest { container_id: id.clone() }).await.unwrap();
    let status = kubelet.status(&id).await;
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    assert!(status.started_at >= status.created_at);

    assert_eq!(kubelet.says(&id, "echo inside").await, "inside");
    let outcome = kubelet.exec(&id, &["/bin/sh", "-c", "echo out; echo err >&2; exit 7"]).await.unwrap();
    assert_eq!(
        (outcome.stdout.as_slice(), outcome.stderr.as_slice(), outcome.exit_code),
        (&b"out\n"[..], &b"err\n"[..], 7)
    );
    let log = fs::read_to_string(house.log_of("main")).unwrap();
    assert!(log.lines().any(|line| line.ends_with(" stdout F hello")), "{log}");
    assert!(log.lines().any(|line| line.ends_with(" stderr F oops")), "{log}");

    kubelet.stop(&id, 0).await.unwrap();
    let status = kubelet.status(&id).await;
    assert_eq!(
        (status.state(), status.exit_code, status.reason.as_str()),
        (ContainerState::ContainerExited, 137, "Error")
    );
    assert!(status.finished_at >= status.started_at);
    kubelet.remove(&id).await;
    kubelet.destroy(&pod).await;
}

#[tokio::test]
async fn exit_codes_and_reasons() {
    need_root!();
    let house = House::new("codes").await;
    let mut kubelet = Kubelet::of(&house).await;
    let config = house.pod("codes");
    let pod = kubelet.run(&config).await;
    for (name, script, code, reason) in [("good", "true", 0, "Completed"), ("bad", "exit 7", 7, "Error")] {
        let id = kubelet.launch(&pod, &config, shell(name, script)).await;
        let status = kubelet.exited(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{name}");
    }
    let mut missing = shell("missing", "");
    missing.command = vec!["/bin/nothing".into()];
    match kubelet.create(&pod, &config, missing).await {
        // Where the program is looked for at create, nothing is left; where it is at start, the container says why.
        Err(why) => assert!(why.message().contains("/bin/nothing"), "{why}"),
        Ok(id) => {
            let request = api::StartContainerRequest { container_id: id.clone() };
            let why = kubelet.client.start_container(request).await.unwrap_err();
            assert!(why.message().contains("/bin/nothing"), "{why}");
            let status = kubelet.status(&id).await;
            assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 128));
            assert_eq!(status.reason, "StartError");
        }
    }
    kubelet.destroy(&pod).await;
}

#[tokio::test]
async fn two_containers_share_the_pods_namespaces_and_not_their_own() {
    need_root!();
    let house = House::new("share").await;
    let mut kubelet = Kubelet::of(&house).await;
    let config = house.pod("pair");
    let pod = kubelet.run(&config).await;
    let one = kubelet.launch(&pod, &config, shell("one", "echo shared > /dev/shm/x; sleep 100")).await;
    let two = kubelet.launch(&pod, &config, shell("two", "sleep 100")).await;
    for kind in ["net", "ipc", "uts"] {
        let link = format!("readlink /proc/self/ns/{kind}");
        let (a, b) = (kubelet.says(&one, &link).await, kubelet.says(&two, &link).await);
        assert_eq!(a, b, "{kind}");
        assert_ne!(
            a,
            fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_string_lossy(),
            "{kind} is the host's"
        );
    }
    for kind in ["pid", "mnt"] {
        let link = format!("readlink /proc/self/ns/{kind}");
        assert_ne!(kubelet.says(&one, &link).await, kubelet.says(&two, &link).await, "{kind}");
    }
    assert_eq!(kubelet.says(&two, "cat /dev/shm/x").await, "shared");
    assert_eq!(kubelet.says(&one, "hostname").await, "pair");
    assert_eq!(kubelet.says(&one, "cat /etc/hostname").await, "pair");
    // A server in one is reached from the other over the pod's loopback.
    kubelet.says(&one, "mkdir -p /tmp/www; echo page > /tmp/www/index.html; httpd -p 8080 -h /tmp/www").await;
    assert_eq!(kubelet.says(&two, "wget -q -O - http://127.0.0.1:8080/").await, "page");
    kubelet.destroy(&pod).await;
}

#[tokio::test]
async fn a_shared_pid_namespace_is_the_pods_and_a_target_is_joined() {
    need_root!();
    let house = House::new("pids").await;
    let mut kubelet = Kubelet::of(&house).await;
    let config = house.pod("pids");
    let pod = kubelet.run(&config).await;
    let shared = |name: &str, script: &str| {
        let mut config = shell(name, script);
        security(&mut config).namespace_options = Some(pid_of(NamespaceMode::Pod));
        config
    };
    let one = kubelet.launch(&pod, &config, shared("one", "exec sleep 111")).await;
    let two = kubelet.launch(&pod, &config, shared("two", "exec sleep 112")).await;
    assert_eq!(kubelet.says(&two, "ps | grep -c '[s]leep 11'").await, "2");
    let space = "readlink /proc/self/ns/pid";
    assert_eq!(kubelet.says(&one, space).await, kubelet.says(&two, space).await);

    let own = kubelet.launch(&pod, &config, shell("own", "exec sleep 113")).await;
    let mut debugger = shell("debugger", "exec sleep 114");
    security(&mut debugger).namespace_options =
        Some(api::NamespaceOption { target_id: own.clone(), ..pid_of(NamespaceMode::Target) });
    let debugger = kubelet.launch(&pod, &config, debugger).await;
    assert_eq!(kubelet.says(&debugger, "ps | grep -c '[s]leep 11'").await, "2");
    assert_eq!(kubelet.says(&own, "cat /proc/1/cmdline").await.replace('\0', " "), "sleep 113 ");
    for id in [&debugger, &own, &two, &one] {
        kubelet.stop(id, 0).await.unwrap();
    }
    kubelet.destroy(&pod).await;
}

#[tokio::test]
async fn a_shared_pid_namespace_below_a_cgroup_that_kubelet_named() {
    need_root!();
    let house = House::new("pids2").await;
    let mut kubelet = Kubelet::of(&house).await;
    let mut config = house.pod("pids2");
    let cgroup_parent = format!("{}/kubepods", house.cgroup);
    config.linux = Some(api::LinuxPodSandboxConfig { cgroup_parent: cgroup_parent.clone(), ..Default::default() });
    let pod = kubelet.run(&config).await;
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let mut main = shell(name, "exec sleep 115");
        security(&mut main).namespace_options = Some(pid_of(NamespaceMode::Pod));
        ids.push(kubelet.launch(&pod, &config, main).await);
    }
    assert_eq!(kubelet.says(&ids[0], "ps | grep -c '[s]leep 115'").await, "2");
    kubelet.destroy(&pod).await;
    // The parent is kubelet's to remove; nothing may be in it any more.
    let layout = gantry_runtime::cgroup::Layout::discover().unwrap();
    let parent = gantry_runtime::cgroup::Cgroup::at(&layout, std::path::Path::new(&cgroup_parent)).unwrap();
    for hierarchy in layout.hierarchies() {
        let dir = hierarchy.mount.join(cgroup_parent.trim_start_matches('/'));
        let inside = fs::read_dir(dir).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
        assert_eq!(inside.count(), 0);
    }
    parent.delete(Duration::from_secs(5)).unwrap();
}

#[tokio::test]
async fn one_pod_reaches_another_by_its_address() {
    need_root!();
    let house = House::new("reach").await;
    let mut kubelet = Kubelet::of(&house).await;
    let (config, other) = (house.pod("server"), house.pod("client"));
    let pod = kubelet.run(&config).await;
    let script = "mkdir /tmp/www; echo page > /tmp/www/index.html; exec httpd -f -p 80 -h /tmp/www";
    let server = kubelet.launch(&pod, &config, shell("server", script)).await;
    let peer = kubelet.run(&other).await;
    let client = kubelet.launch(&peer, &other, shell("client", "sleep 100")).await;
    let ip = kubelet.pod_status(&pod).await.network.unwrap().ip;
    let fetch = format!("for i in 1 2 3 4 5 6 7 8 9 10; do wget -q -O - http://{ip}/ && exit; sleep 0.1; done; exit 1");
    assert_eq!(kubelet.says(&client, &fetch).await, "page");
    assert_eq!(kubelet.status(&server).await.state(), ContainerState::ContainerRunning);
    kubelet.destroy_all().await;
}

#[tokio::test]
async fn the_stop_signal_comes_before_the_kill() {
    need_root!();
    let house = House::new("stop").await;
    let mut kubelet = Kubelet::of(&house).await;
    let config = house.pod("stop");
    let pod = kubelet.run(&config).await;
    // The image says SIGUSR1.
    let script = "trap 'echo asked; exit 3' USR1; while true; do sleep 0.05; done";
    let polite = kubelet.launch(&pod, &config, shell("polite", script)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    kubelet.stop(&polite, 10).await.unwrap();
    assert_eq!(kubelet.status(&polite).await.exit_code, 3);
    assert!(fs::read_to_string(house.log_of("polite")).unwrap().contains("stdout F asked"));

    let deaf = kubelet.launch(&pod, &config, shell("deaf", "trap '' USR1; while true; do sleep 0.05; done")).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    kubelet.stop(&deaf, 1).await.unwrap();
    assert_eq!(kubelet.status(&deaf).await.exit_code, 137);
    assert!((900..4000).contains(&(begun.elapsed().as_millis() as u64)), "{:?}", begun.elapsed());
    kubelet.destroy(&pod).await;
}

#[tokio::test]
async fn what_is_not_there_and_what_is_twice() {
    need_root!();
    let house = House::new("codes2").await;
    let mut kubelet = Kubelet::of(&house).await;
    let config = house.pod("twice");
    let pod = kubelet.run(&config).await;
    let again = api::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
    assert_eq!(kubelet.client.run_pod_sandbox(again).await.unwrap_err().code(), Code::AlreadyExists);
    let id = kubelet.create(&pod, &config, shell("c", "true")).await.unwrap();
    assert_eq!(kubelet.create(&pod, &config, shell("c", "true")).await.unwrap_err().code(), Code::AlreadyExists);
    let mut no_image = shell("d", "true");
    no_image.image = Some(api::ImageSpec { image: "nowhere.example/none:1".into(), ..Default::default() });
    assert_eq!(kubelet.create(&pod, &config, no_image).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(kubelet.exec(&id, &["true"]).await.unwrap_err().code(), Code::FailedPrecondition);

    // Stop and remove are idempotent, also for what never was.
    kubelet.stop("0123", 0).await.unwrap();
    kubelet.remove("0123").await;
    kubelet.destroy("0123").await;
    let status = api::ContainerStatusRequest { container_id: "0123".into(), verbose: false };
    assert_eq!(kubelet.client.container_status(status).await.unwrap_err().code(), Code::NotFound);

    kubelet.remove(&id).await;
    kubelet.remove(&id).await;
    kubelet.destroy(&pod).await;
    kubelet.destroy(&pod).await;
}

#[tokio::test]
async fn an_exec_that_takes_too_long_is_killed() {
    need_root!();
    let house = House::new("slow").await;
    let mut kubelet = Kubelet::of(&house).await;
    let config = house.pod("slow");
    let pod = kubelet.run(&config).await;
    let id = kubelet.launch(&pod, &config, shell("main", "sleep 100")).await;
    let cmd = ["/bin/sh", "-c", "exec sleep 77"].map(str::to_owned).to_vec();
    let request = api::ExecSyncRequest { container_id: id.clone(), cmd, timeout: 1 };
    let begun = Instant::now();
    assert_eq!(kubelet.client.exec_sync(request).await.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(kubelet.says(&id, "ps | grep -c '[s]leep 77' || true").await, "0");
    // One that leaves somebody behind who holds its output does not hold us.
    let begun = Instant::now();
    assert_eq!(kubelet.says(&id, "sleep 5 & echo left").await, "left");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    kubelet.destroy(&pod).await;
}

#[tokio::test]
async fn lists_filter_and_figures_count() {
    need_root!();
    let house = House::new("lists").await;
    let mut kubelet = Kubelet::of(&house).await;
    let (a, b) = (house.pod("a"), house.pod("b"));
    let (pod_a, pod_b) = (kubelet.run(&a).await, kubelet.run(&b).await);
    let id = kubelet.launch(&pod_a, &a, shell("busy", "while true; do :; done")).await;
    let labels = std::collections::HashMap::from([("app".to_owned(), "b".to_owned())]);
    let filter = api::PodSandboxFilter { label_selector: labels, ..Default::default() };
    let list = kubelet.client.list_pod_sandbox(api::ListPodSandboxRequest { filter: Some(filter) }).await;
    let found: Vec<_> = list.unwrap().into_inner().items.into_iter().map(|pod| pod.id).collect();
    assert_eq!(found.as_slice(), std::slice::from_ref(&pod_b));
    let filter = api::ContainerFilter { pod_sandbox_id: pod_b.clone(), ..Default::default() };
    let list = kubelet.client.list_containers(api::ListContainersRequest { filter: Some(filter) }).await;
    assert!(list.unwrap().into_inner().containers.is_empty());

    tokio::time::sleep(Duration::from_millis(300)).await;
    let stats = kubelet.client.list_container_stats(api::ListContainerStatsRequest::default()).await;
    let stats = stats.unwrap().into_inner().stats;
    assert_eq!(stats.len(), 1);
    let cpu = stats[0].cpu.unwrap().usage_core_nano_seconds.unwrap().value;
    assert!(cpu > 50_000_000, "{cpu}");
    assert!(stats[0].memory.unwrap().working_set_bytes.unwrap().value > 0);
    let request = api::PodSandboxStatsRequest { pod_sandbox_id: pod_a.clone() };
    let linux = kubelet.client.pod_sandbox_stats(request).await.unwrap().into_inner().stats.unwrap().linux.unwrap();
    assert_eq!(linux.containers.len(), 1);
    assert_eq!(linux.network.unwrap().default_interface.unwrap().name, "eth0");
    let request = api::ContainerStatusRequest { container_id: id.clone(), verbose: true };
    let info = kubelet.client.container_status(request).await.unwrap().into_inner().info;
    assert!(info["info"].contains("runtimeSpec"), "{info:?}");
    kubelet.destroy_all().await;
}
