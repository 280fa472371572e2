//! containerd of Debian drives our runtime through its shim (`BinaryName`): by ctr, and by its CRI server.
//!
//! containerd has a root, a state and a socket of its own, and namespaces in which only `lo` is; its pods use those.
#![allow(clippy::unwrap_used)]

use gantry_cri_api as api;
use gantry_cri_api::runtime_service_client::RuntimeServiceClient;
use gantry_tests::enclosure::{Enclosure, Said, until};
use gantry_tests::house::{House, cgroups};
use gantry_tests::{image, tools};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Child;

const IMAGE: &str = image::NAME;

struct Containerd {
    daemon: Child,
    ctr: PathBuf,
    place: Enclosure,
    house: House,
    runtime: String,
}

impl Containerd {
    /// A containerd of the test's own with one image; `None`, said loudly, where it is not installed.
    fn start(title: &str) -> Option<Self> {
        let found = ["containerd", "ctr", "skopeo", "umoci"].map(tools::find);
        let ours = (tools::ours("gantry-runtime"), tools::ours("gantry"));
        let ([Some(containerd), Some(ctr), Some(_), Some(_)], (Some(runtime), Some(_))) = (found, ours) else {
            eprintln!(
                "SKIPPED {title}: needs containerd, skopeo and umoci (Debian packages of these names), and built binaries"
            );
            return None;
        };
        let house = House::new(title);
        let place = Enclosure::new(&house);
        let runtime = runtime.display().to_string();
        let config = house.path("config.toml");
        fs::write(&config, configuration(&house.dir().display().to_string(), &runtime)).unwrap();
        let log = File::create(house.path("log")).unwrap();
        let daemon = place
            .command(&containerd, &["--config", &config.display().to_string()])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let made = Self { daemon, ctr, place, house, runtime };
        until("containerd to answer", || made.ctr(&["version"]).code == 0);
        made.import();
        Some(made)
    }

    /// Brings the image to containerd as an archive, for ctr and for CRI.
    fn import(&self) {
        let layout = image::layout(self.house.dir()).unwrap().display().to_string();
        // containerd makes its pause container of it, too, which needs something to run.
        let name = format!("{layout}:{IMAGE}");
        tools::output("umoci", &["config", "--image", &name, "--config.cmd", "sleep", "--config.cmd", "600"]).unwrap();
        let archive = self.house.path("image.tar").display().to_string();
        let target = format!("docker-archive:{archive}:{IMAGE}");
        tools::output("skopeo", &["--insecure-policy", "copy", "--quiet", &format!("oci:{layout}"), &target]).unwrap();
        for namespace in ["default", "k8s.io"] {
            self.ok(&["--namespace", namespace, "images", "import", "--snapshotter", "native", &archive]);
        }
    }

    fn ctr(&self, args: &[&str]) -> Said {
        let socket = self.house.path("containerd.sock").display().to_string();
        self.place.run(&self.ctr, &[&["--address", &socket], args].concat())
    }

    /// Runs a command that has to succeed, and returns what it printed.
    fn ok(&self, args: &[&str]) -> String {
        let said = self.ctr(args);
        assert_eq!(said.code, 0, "ctr {}: {said:?}", args.join(" "));
        said.out
    }

    /// `ctr run` with our runtime, the cgroup named after the house.
    fn run(&self, flags: &[&str], id: &str, args: &[&str]) -> Said {
        let cgroup = format!("/{}-{id}", self.house.name());
        let ours = ["run", "--snapshotter=native", "--runc-binary", &self.runtime, "--cgroup", &cgroup];
        self.ctr(&[&ours, flags, &[IMAGE, id], args].concat())
    }

    fn status(&self, id: &str) -> String {
        let tasks = self.ok(&["tasks", "ls"]);
        let line = tasks.lines().find(|line| line.split_whitespace().next() == Some(id)).unwrap_or_default();
        line.split_whitespace().nth(2).unwrap_or_default().to_owned()
    }
}

fn configuration(dir: &str, runtime: &str) -> String {
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{dir}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{IMAGE}"
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    default_runtime_name = "gantry"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.gantry]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.gantry.options]
        BinaryName = "{runtime}"
"#
    )
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.daemon.id()).expect("a pid"));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.daemon.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.house.path("log")).unwrap_or_default();
            let errors: Vec<&str> = log.lines().filter(|line| line.contains("level=error")).collect();
            eprintln!("containerd's errors:\n{}", errors.join("\n"));
        }
        // The parent of a pod's cgroups is the kubelet's to make and to remove.
        for cgroup in cgroups(self.house.name()) {
            let _ = fs::remove_dir(cgroup);
        }
    }
}

#[test]
fn ctr_runs_enters_freezes_and_ends_a_container() {
    let Some(containerd) = Containerd::start("ctr") else { return };
    let said = containerd.run(&["--rm"], "one", &["/bin/sh", "-c", "echo hello; exit 4"]);
    assert_eq!((said.code, said.out.as_str()), (4, "hello\n"), "{said:?}");
    let said = containerd.run(&["--rm"], "none", &["no-such-program"]);
    assert_ne!(said.code, 0);
    assert!(said.err.contains("executable file not found in $PATH"), "the runtime's own sentence: {said:?}");

    let limits = ["--detach", "--memory-limit=67108864", "--seccomp"];
    let said = containerd.run(&limits, "two", &["/bin/sleep", "600"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(containerd.status("two"), "RUNNING");
    let exec = |script: &str| containerd.ctr(&["tasks", "exec", "--exec-id=x", "two", "/bin/sh", "-c", script]);
    let said = exec("grep Seccomp: /proc/self/status; exit 3");
    assert_eq!((said.code, said.out.as_str()), (3, "Seccomp:\t2\n"), "{said:?}");
    let metrics = containerd.ok(&["tasks", "metrics", "two"]);
    assert!(metrics.contains("67108864"), "{metrics}");
    containerd.ok(&["tasks", "pause", "two"]);
    assert_eq!(containerd.status("two"), "PAUSED");
    containerd.ok(&["tasks", "resume", "two"]);
    assert_eq!(containerd.status("two"), "RUNNING");
    assert!(containerd.ok(&["tasks", "ps", "two"]).lines().count() == 2);
    containerd.ok(&["tasks", "kill", "--signal=KILL", "two"]);
    until("the task to have ended", || containerd.status("two") == "STOPPED");
    // Its code is that of the task, 137.
    let _ = containerd.ctr(&["tasks", "rm", "two"]);
    containerd.ok(&["containers", "rm", "two"]);
}

/// A pod on the host's network (which here has only `lo`): that needs no network plugin.
fn sandbox(parent: &str) -> api::PodSandboxConfig {
    let namespaces = api::NamespaceOption {
        network: api::NamespaceMode::Node as i32,
        pid: api::NamespaceMode::Container as i32,
        ..Default::default()
    };
    let security = api::LinuxSandboxSecurityContext { namespace_options: Some(namespaces), ..Default::default() };
    api::PodSandboxConfig {
        metadata: Some(api::PodSandboxMetadata {
            name: "web".into(),
            uid: "1".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        linux: Some(api::LinuxPodSandboxConfig {
            cgroup_parent: parent.into(),
            security_context: Some(security),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container(sandbox: &api::PodSandboxConfig) -> api::ContainerConfig {
    let namespaces = sandbox.linux.as_ref().and_then(|l| l.security_context.as_ref()?.namespace_options.clone());
    let security = api::LinuxContainerSecurityContext { namespace_options: namespaces, ..Default::default() };
    let resources = api::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        cpu_period: 100_000,
        cpu_quota: 50_000,
        ..Default::default()
    };
    api::ContainerConfig {
        metadata: Some(api::ContainerMetadata { name: "web".into(), attempt: 0 }),
        image: Some(api::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: vec!["/bin/sleep".into(), "600".into()],
        linux: Some(api::LinuxContainerConfig { resources: Some(resources), security_context: Some(security) }),
        ..Default::default()
    }
}

#[test]
fn its_cri_server_runs_a_pod() {
    let Some(containerd) = Containerd::start("containerd-cri") else { return };
    tokio::runtime::Runtime::new().unwrap().block_on(pod(&containerd));
}

async fn pod(containerd: &Containerd) {
    let channel = api::connect(containerd.house.path("containerd.sock")).await.unwrap();
    let mut client = RuntimeServiceClient::new(channel);
    let config = sandbox(&format!("/{}", containerd.house.name()));
    let asked = api::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let pod = client.run_pod_sandbox(asked).await.unwrap().into_inner().pod_sandbox_id;
    let asked = api::CreateContainerRequest {
        pod_sandbox_id: pod.clone(),
        config: Some(container(&config)),
        sandbox_config: Some(config),
    };
    let id = client.create_container(asked).await.unwrap().into_inner().container_id;
    client.start_container(api::StartContainerRequest { container_id: id.clone() }).await.unwrap();

    let cmd = ["/bin/sh", "-c", "echo inside; exit 5"].map(str::to_owned).to_vec();
    let asked = api::ExecSyncRequest { container_id: id.clone(), cmd, timeout: 30 };
    let said = client.exec_sync(asked).await.unwrap().into_inner();
    assert_eq!((said.exit_code, said.stdout.as_slice()), (5, &b"inside\n"[..]));

    let asked = api::ContainerStatsRequest { container_id: id.clone() };
    let stats = client.container_stats(asked).await.unwrap().into_inner().stats.unwrap();
    assert!(stats.memory.unwrap().working_set_bytes.unwrap().value > 0);

    let resources = api::LinuxContainerResources { memory_limit_in_bytes: 128 << 20, ..Default::default() };
    let asked =
        api::UpdateContainerResourcesRequest { container_id: id.clone(), linux: Some(resources), ..Default::default() };
    client.update_container_resources(asked).await.unwrap();

    client.stop_container(api::StopContainerRequest { container_id: id.clone(), timeout: 0 }).await.unwrap();
    let asked = api::ContainerStatusRequest { container_id: id.clone(), verbose: false };
    let status = client.container_status(asked).await.unwrap().into_inner().status.unwrap();
    assert_eq!((status.state, status.exit_code), (api::ContainerState::ContainerExited as i32, 137));
    client.remove_container(api::RemoveContainerRequest { container_id: id }).await.unwrap();
    client.stop_pod_sandbox(api::StopPodSandboxRequest { pod_sandbox_id: pod.clone() }).await.unwrap();
    client.remove_pod_sandbox(api::RemovePodSandboxRequest { pod_sandbox_id: pod }).await.unwrap();
}
