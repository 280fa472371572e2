//! A server whose pods are attached by CNI: Debian's plugins in the house's own network namespace, the server killed at
//! every step, and what a client sees.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use gantry_cri_api as api;
use support::{House, Kubelet, shell};

/// Returns from the test with a loud word where the plugins are not installed.
macro_rules! need_plugins {
    () => {
        need_root!();
        let all = ["/usr/lib/cni/bridge", "/usr/lib/cni/portmap", "/usr/lib/cni/host-local", "/usr/sbin/iptables"];
        if let Some(missing) = all.iter().find(|path| !Path::new(path).exists()) {
            eprintln!("SKIPPED {}: {missing} is missing (containernetworking-plugins, iptables)", module_path!());
            return;
        }
    };
}

/// A list of bridge and portmap; host-local keeps its addresses below the house.
fn configure(house: &House) {
    let dir = house.dir.join("net.d");
    fs::create_dir_all(&dir).unwrap();
    let text = format!(
        r#"{{"cniVersion":"1.0.0","name":"test","plugins":[
            {{"type":"bridge","bridge":"gcni0","isGateway":true,"ipMasq":true,"hairpinMode":true,
              "ipam":{{"type":"host-local","dataDir":"{}","routes":[{{"dst":"0.0.0.0/0"}}],
              "ranges":[[{{"subnet":"10.78.0.0/24"}}],[{{"subnet":"fd78::/64"}}]]}}}},
            {{"type":"portmap","capabilities":{{"portMappings":true}}}}]}}"#,
        house.dir.join("ipam").display()
    );
    fs::write(dir.join("10-test.conflist"), text).unwrap();
}

fn with_port(house: &House, name: &str) -> api::PodSandboxConfig {
    let mapping = api::PortMapping { host_port: 8080, container_port: 80, ..Default::default() };
    api::PodSandboxConfig { port_mappings: vec![mapping], ..house.pod(name) }
}

async fn network_ready(kubelet: &mut Kubelet) -> api::RuntimeCondition {
    let status = kubelet.client.status(api::StatusRequest { verbose: true }).await.unwrap().into_inner();
    status.status.unwrap().conditions.into_iter().find(|condition| condition.r#type == "NetworkReady").unwrap()
}

/// Links and rules of the house that are a pod's.
fn links_and_rules(house: &House) -> String {
    let at = format!("--net={}", house.network_file().display());
    let run = |program: &[&str]| {
        let output = Command::new("nsenter").arg(&at).args(program).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let mut all: Vec<String> =
        run(&["ip", "-o", "link"]).lines().filter(|l| l.contains("veth")).map(str::to_owned).collect();
    all.extend(run(&["iptables-save"]).lines().filter(|line| line.contains("10.78.0.")).map(str::to_owned));
    all.join("\n")
}

#[tokio::test]
async fn pods_live_on_cni_and_a_client_sees_both_addresses() {
    need_plugins!();
    let mut house = House::new("cni").await;
    let mut kubelet = Kubelet::of(&house).await;
    // On the bridge first: it leaves as it came, whatever is configured by then.
    let early = house.pod("early");
    let early_id = kubelet.run(&early).await;
    configure(&house);
    assert!(network_ready(&mut kubelet).await.status);
    let config = with_port(&house, "web");
    let pod = kubelet.run(&config).await;
    let network = kubelet.pod_status(&pod).await.network.unwrap();
    assert_eq!((network.ip.as_str(), network.additional_ips[0].ip.as_str()), ("10.78.0.2", "fd78::2"));
    let serve = "while true; do echo hello | nc -l -p 80; done";
    let id = kubelet.launch(&pod, &config, shell("main", serve)).await;
    let told = kubelet.says(&id, "ip -o addr show eth0").await;
    assert!(told.contains("10.78.0.2/24") && told.contains("fd78::2/64"), "{told}");
    let other = house.pod("other");
    let client = kubelet.run(&other).await;
    let client_id = kubelet.launch(&client, &other, shell("main", "sleep 100")).await;
    for address in ["10.78.0.2 80", "10.78.0.1 8080"] {
        let ask = format!("for i in 1 2 3 4 5 6 7 8 9 10; do nc -w 2 {address} </dev/null && break; sleep 0.2; done");
        assert_eq!(kubelet.says(&client_id, &ask).await, "hello", "{address}");
    }
    let info = kubelet.client.status(api::StatusRequest { verbose: true }).await.unwrap().into_inner().info;
    assert!(info["cniconfig"].contains("portmap") && info["network"].contains("\"kind\":\"cni\""), "{info:?}");
    assert_eq!(info["lastCNILoadStatus"], "OK");
    house.restart().await;
    let mut kubelet = Kubelet::of(&house).await;
    assert_eq!(kubelet.pod_status(&pod).await.network.unwrap().ip, "10.78.0.2");
    kubelet.destroy(&early_id).await;
    kubelet.destroy_all().await;
    assert_eq!(links_and_rules(&house), "");
}

#[tokio::test]
async fn killed_at_every_step_of_an_attachment_nothing_leaks() {
    need_plugins!();
    let mut house = House::new("cni-faults").await;
    configure(&house);
    for point in gantry_cri::fault::CNI_POINTS {
        let config = with_port(&house, point);
        house.fault = Some((*point).to_owned());
        house.restart().await;
        let mut kubelet = Kubelet::of(&house).await;
        let request = api::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        if let Ok(made) = kubelet.client.run_pod_sandbox(request).await {
            let stop = api::StopPodSandboxRequest { pod_sandbox_id: made.into_inner().pod_sandbox_id };
            kubelet.client.stop_pod_sandbox(stop).await.unwrap_err();
        }
        house.wait_for_death();
        house.fault = None;
        house.start().await;
        let mut kubelet = Kubelet::of(&house).await;
        kubelet.destroy_all().await;
        assert_eq!(house.left_behind(), Vec::<String>::new(), "after {point}");
        assert_eq!(links_and_rules(&house), "", "after {point}");
        // The host port and the name are free again.
        let pod = kubelet.run(&config).await;
        kubelet.destroy(&pod).await;
    }
}

#[tokio::test]
async fn after_a_reboot_every_address_is_free_again() {
    need_plugins!();
    let mut house = House::new("cni-reboot").await;
    configure(&house);
    let mut kubelet = Kubelet::of(&house).await;
    let pod = kubelet.run(&with_port(&house, "web")).await;
    house.kill();
    house.reboot();
    house.start().await;
    let mut kubelet = Kubelet::of(&house).await;
    assert!(house.left_behind().iter().any(|left| left.ends_with("ipam/test/10.78.0.2")));
    // What kubelet does with a pod that is no longer ready; the drop of the house looks for what is left.
    kubelet.destroy(&pod).await;
}

#[tokio::test]
async fn with_cni_alone_and_no_configuration_the_node_is_not_ready() {
    need_root!();
    let mut house = House::new("cni-none").await;
    house.network_section = "mode = \"cni\"\n".into();
    house.restart().await;
    let mut kubelet = Kubelet::of(&house).await;
    let ready = network_ready(&mut kubelet).await;
    assert_eq!((ready.status, ready.reason.as_str()), (false, "NetworkPluginNotReady"));
    let expected = "Network plugin returns error: cni plugin not initialized: no network configuration in ";
    assert!(ready.message.starts_with(expected), "{}", ready.message);
    let request = api::RunPodSandboxRequest { config: Some(house.pod("web")), runtime_handler: String::new() };
    let refused = kubelet.client.run_pod_sandbox(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert!(refused.message().contains("cni plugin not initialized"), "{refused}");
    // A pod on the host's network needs none.
    let mut config = house.pod("host");
    let options = api::NamespaceOption { network: api::NamespaceMode::Node as i32, ..Default::default() };
    let security = api::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
    config.linux = Some(api::LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() });
    config.hostname = String::new();
    let pod = kubelet.run(&config).await;
    let id = kubelet.launch(&pod, &config, shell("main", "sleep 100")).await;
    assert_eq!(kubelet.says(&id, "echo here").await, "here");
    kubelet.destroy(&pod).await;
    // It was told to end and ends by itself, in a moment.
    for _ in 0..200 {
        if house.monitors().is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
