//! A CRI server of the test's own: directories, a network namespace without a route anywhere, cgroups below a root of
//! its own, and a process that can be killed. Dropping it looks for what was left behind and fails the test on it.
//!
//! The server's process enters the namespace with nsenter (ip netns exec would hide the cgroups).
#![allow(dead_code, reason = "each test file uses its part")]

mod image;
mod leaks;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gantry_cri_api as api;
use gantry_cri_api::image_service_client::ImageServiceClient;
use gantry_cri_api::runtime_service_client::RuntimeServiceClient;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tonic::transport::Channel;

/// The image that every house has: Debian's static busybox with its applets, user `web` (33), `cmd` sh.
pub(crate) const IMAGE: &str = "docker.io/library/busybox:test";

/// Why the real tests cannot run here, if so. Said loudly by whoever asks.
pub(crate) fn cannot() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".into());
    }
    for tool in ["/bin/busybox", "/usr/bin/nsenter"] {
        if !Path::new(tool).exists() {
            return Some(format!("{tool} is missing (busybox-static, util-linux)"));
        }
    }
    None
}

/// Returns from the test with a loud word where it cannot run.
#[macro_export]
macro_rules! need_root {
    () => {
        if let Some(why) = support::cannot() {
            eprintln!("SKIPPED {}: {why}", module_path!());
            return;
        }
    };
}

/// One server and its surroundings.
pub(crate) struct House {
    /// Everything of it is below.
    pub(crate) dir: PathBuf,
    /// The cgroup below which all of its are.
    pub(crate) cgroup: String,
    netns: String,
    server: Option<Child>,
    /// Faults to die at, given to the next start of the server.
    pub(crate) fault: Option<String>,
    /// Further lines of its `network` section, given to the next start. CNI's directories are below its own.
    pub(crate) network_section: String,
}

impl House {
    /// A house with the image in its store and the server up.
    pub(crate) async fn new(name: &str) -> Self {
        let mut house = Self::empty(name);
        image::import(&house.dir.join("images")).await;
        house.start().await;
        house
    }

    fn empty(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = PathBuf::from(format!("/tmp/gantry-cri-{unique}"));
        fs::create_dir_all(&dir).unwrap();
        // In memory: what is tested here is not the disk, which others may keep busy.
        mount(Some("gantry-cri-test"), &dir, Some("tmpfs"), MsFlags::empty(), Some("mode=0700,size=512m")).unwrap();
        let netns = format!("gantry-cri-{unique}");
        run("ip", &["netns", "add", &netns]);
        run("ip", &["-n", &netns, "link", "set", "lo", "up"]);
        Self {
            dir,
            cgroup: format!("/gantry-cri-{name}-{unique}"),
            netns,
            server: None,
            fault: None,
            network_section: String::new(),
        }
    }

    /// Starts the server and waits until it answers, or until it has died.
    pub(crate) async fn start(&mut self) {
        let dir = self.dir.display();
        let fault = self.fault.as_ref().map(|at| format!("fault = {at:?}\n")).unwrap_or_default();
        let config = format!(
            "socket = \"{dir}/cri.sock\"\nroot = \"{dir}/root\"\nrun = \"{dir}/run\"\nimages_root = \"{dir}/images\"\n\
             runtime_binary = {:?}\ncgroup_root = \"{}\"\npod_cidr = \"10.77.0.0/24\"\ncdi_dirs = [\"{dir}/cdi\"]\nbridge = \"gcri0\"\n{fault}\
             [network]\nconf_dir = \"{dir}/net.d\"\ncache_dir = \"{dir}/cni\"\n{}",
            built().runtime,
            self.cgroup,
            self.network_section,
        );
        fs::write(self.dir.join("config.toml"), config).unwrap();
        let log = fs::File::options().create(true).append(true).open(self.dir.join("server.log")).unwrap();
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg(&built().server);
        command.arg(self.dir.join("config.toml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.server = Some(command.spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.answers().await {
            if let Some(status) = self.server.as_mut().unwrap().try_wait().unwrap() {
                panic!("the server ended with {status}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "the server does not answer:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn answers(&self) -> bool {
        match api::connect(self.dir.join("cri.sock")).await {
            Ok(channel) => RuntimeServiceClient::new(channel).version(api::VersionRequest::default()).await.is_ok(),
            Err(_) => false,
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// What a reboot does: every process is gone, and with it all mounts, cgroups and what is below /run.
    pub(crate) fn reboot(&self) {
        leaks::clear(&self.dir, &self.cgroup);
        fs::remove_dir_all(self.dir.join("run")).unwrap();
    }

    /// What is there although no pod is.
    pub(crate) fn left_behind(&self) -> Vec<String> {
        leaks::find(&self.dir, &self.cgroup)
    }

    /// SIGTERM, and on.
    pub(crate) async fn restart(&mut self) {
        self.terminate();
        self.start().await;
    }

    /// Waits for a server that is to die at a fault point.
    pub(crate) fn wait_for_death(&mut self) {
        let mut server = self.server.take().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while server.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                let _ = server.kill();
                panic!("the server did not reach its fault point {:?}:\n{}", self.fault, self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn terminate(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        let pid = nix::unistd::Pid::from_raw(server.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while matches!(server.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = server.kill();
                let _ = server.wait();
                eprintln!("the server did not end on SIGTERM");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What the server and the monitors have said.
    pub(crate) fn log(&self) -> String {
        let mut text = fs::read_to_string(self.dir.join("server.log")).unwrap_or_default();
        for pod in fs::read_dir(self.dir.join("run/pods")).into_iter().flatten().flatten() {
            text += &fs::read_to_string(pod.path().join("monitor.log")).unwrap_or_default();
        }
        text
    }

    /// A client of the runtime service.
    pub(crate) async fn client(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(api::connect(self.dir.join("cri.sock")).await.unwrap())
            .max_decoding_message_size(2 * api::MAX_MESSAGE)
    }

    /// A client of the image service.
    pub(crate) async fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(api::connect(self.dir.join("cri.sock")).await.unwrap())
    }

    /// A connection from within the house's network namespace, which a socket keeps once it is made.
    pub(crate) fn connect(&self, to: std::net::SocketAddr) -> tokio::net::TcpStream {
        let path = format!("/run/netns/{}", self.netns);
        let dial = move || {
            let space = fs::File::open(path).unwrap();
            nix::sched::setns(space, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            std::net::TcpStream::connect(to).unwrap()
        };
        // On a thread of its own, which nobody uses after it.
        let stream = std::thread::spawn(dial).join().unwrap();
        stream.set_nonblocking(true).unwrap();
        tokio::net::TcpStream::from_std(stream).unwrap()
    }

    /// The file of the house's network namespace.
    pub(crate) fn network_file(&self) -> PathBuf {
        format!("/run/netns/{}", self.netns).into()
    }

    /// The server's network namespace, as a link in `/proc/<pid>/ns` shows it.
    pub(crate) fn network(&self) -> String {
        let pid = self.server.as_ref().unwrap().id();
        fs::read_link(format!("/proc/{pid}/ns/net")).unwrap().to_string_lossy().into_owned()
    }

    /// A pod's configuration.
    pub(crate) fn pod(&self, name: &str) -> api::PodSandboxConfig {
        let metadata = api::PodSandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "default".into(),
            attempt: 0,
        };
        api::PodSandboxConfig {
            metadata: Some(metadata),
            hostname: name.into(),
            log_directory: self.dir.join("logs").to_string_lossy().into_owned(),
            labels: HashMap::from([("app".to_owned(), name.to_owned())]),
            ..Default::default()
        }
    }

    /// The path of a container's log as its configuration names it.
    pub(crate) fn log_of(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    /// Pids of the monitors that live.
    pub(crate) fn monitors(&self) -> Vec<i32> {
        leaks::monitors(&self.dir)
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.terminate();
        let left = leaks::find(&self.dir, &self.cgroup);
        leaks::clear(&self.dir, &self.cgroup);
        let log = self.log();
        let _ = Command::new("ip").args(["netns", "del", &self.netns]).status();
        let _ = umount2(&self.dir, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.dir);
        if std::thread::panicking() {
            eprintln!("the server said:\n{log}");
        } else {
            assert!(left.is_empty(), "left behind:\n{}\nthe server said:\n{log}", left.join("\n"));
        }
    }
}

/// A container's configuration that runs `script` with busybox' shell.
pub(crate) fn shell(name: &str, script: &str) -> api::ContainerConfig {
    api::ContainerConfig {
        metadata: Some(api::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(api::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: vec!["/bin/sh".into(), "-c".into(), script.into()],
        log_path: format!("{name}.log"),
        linux: Some(api::LinuxContainerConfig {
            security_context: Some(api::LinuxContainerSecurityContext {
                namespace_options: Some(pid_of(api::NamespaceMode::Container)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Namespaces of the pod, but for the PID namespace: what kubelet sends. (A message that says nothing means POD.)
pub(crate) fn pid_of(mode: api::NamespaceMode) -> api::NamespaceOption {
    api::NamespaceOption { pid: mode as i32, ..Default::default() }
}

/// The container's security context, to be changed.
pub(crate) fn security(config: &mut api::ContainerConfig) -> &mut api::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// The few calls that nearly every test makes, unwrapped.
pub(crate) struct Kubelet {
    /// The client itself.
    pub(crate) client: RuntimeServiceClient<Channel>,
}

impl Kubelet {
    pub(crate) async fn of(house: &House) -> Self {
        Self { client: house.client().await }
    }

    pub(crate) async fn run(&mut self, config: &api::PodSandboxConfig) -> String {
        let request = api::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        self.client.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
    }

    pub(crate) async fn create(
        &mut self,
        pod: &str,
        of: &api::PodSandboxConfig,
        config: api::ContainerConfig,
    ) -> Result<String, tonic::Status> {
        let request = api::CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(config),
            sandbox_config: Some(of.clone()),
        };
        Ok(self.client.create_container(request).await?.into_inner().container_id)
    }

    /// Creates and starts.
    pub(crate) async fn launch(
        &mut self,
        pod: &str,
        of: &api::PodSandboxConfig,
        config: api::ContainerConfig,
    ) -> String {
        let id = self.create(pod, of, config).await.unwrap();
        self.client.start_container(api::StartContainerRequest { container_id: id.clone() }).await.unwrap();
        id
    }

    pub(crate) async fn status(&mut self, id: &str) -> api::ContainerStatus {
        let request = api::ContainerStatusRequest { container_id: id.into(), verbose: false };
        self.client.container_status(request).await.unwrap().into_inner().status.unwrap()
    }

    pub(crate) async fn pod_status(&mut self, id: &str) -> api::PodSandboxStatus {
        let request = api::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        self.client.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap()
    }

    /// Waits for the container's end.
    pub(crate) async fn exited(&mut self, id: &str) -> api::ContainerStatus {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let status = self.status(id).await;
            if status.state() == api::ContainerState::ContainerExited {
                return status;
            }
            assert!(Instant::now() < deadline, "container does not exit: {status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn exec(&mut self, id: &str, cmd: &[&str]) -> Result<api::ExecSyncResponse, tonic::Status> {
        let cmd = cmd.iter().map(|word| (*word).to_owned()).collect();
        let request = api::ExecSyncRequest { container_id: id.into(), cmd, timeout: 10 };
        Ok(self.client.exec_sync(request).await?.into_inner())
    }

    /// The trimmed standard output of a command that must succeed.
    pub(crate) async fn says(&mut self, id: &str, script: &str) -> String {
        let outcome = self.exec(id, &["/bin/sh", "-c", script]).await.unwrap();
        let text = String::from_utf8_lossy(&outcome.stdout).trim().to_owned();
        assert_eq!(outcome.exit_code, 0, "{script}: {text} {}", String::from_utf8_lossy(&outcome.stderr));
        text
    }

    pub(crate) async fn stop(&mut self, id: &str, timeout: i64) -> Result<(), tonic::Status> {
        self.client.stop_container(api::StopContainerRequest { container_id: id.into(), timeout }).await.map(drop)
    }

    pub(crate) async fn remove(&mut self, id: &str) {
        self.client.remove_container(api::RemoveContainerRequest { container_id: id.into() }).await.unwrap();
    }

    /// Stops and removes a pod.
    pub(crate) async fn destroy(&mut self, pod: &str) {
        self.client.stop_pod_sandbox(api::StopPodSandboxRequest { pod_sandbox_id: pod.into() }).await.unwrap();
        self.client.remove_pod_sandbox(api::RemovePodSandboxRequest { pod_sandbox_id: pod.into() }).await.unwrap();
    }

    /// Removes whatever pods there are.
    pub(crate) async fn destroy_all(&mut self) {
        let list = self.client.list_pod_sandbox(api::ListPodSandboxRequest::default()).await.unwrap().into_inner();
        for pod in list.items {
            self.destroy(&pod.id).await;
        }
    }
}

fn run(program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).output().unwrap();
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Cargo, without what the cargo that runs this test says of the test's package: build scripts (ring's is one) take it
/// for a change, and everything above them would be compiled again, each time in turn.
fn build(what: &[&str]) {
    let mut cargo = Command::new(env!("CARGO"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"].iter().any(|start| text.starts_with(start)) {
            cargo.env_remove(&name);
        }
    }
    let out = cargo.args(["build", "-q"]).args(what).output().unwrap();
    assert!(out.status.success(), "cargo build {what:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// The programs under test, of the same build as the test itself.
struct Built {
    server: PathBuf,
    runtime: PathBuf,
}

/// Builds them once: `cargo test --test x` alone builds neither examples nor another package's binary.
fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let given = std::env::var_os("GANTRY_RUNTIME").map(PathBuf::from);
        build(&["-p", "gantry-cri", "--example", "cri-server"]);
        if given.is_none() {
            build(&["-p", "gantry-runtime", "--bin", "gantry-runtime"]);
        }
        // …/debug/deps/this-test -> …/debug
        let exe = std::env::current_exe().unwrap();
        let dir = exe.parent().and_then(Path::parent).unwrap();
        Built { server: dir.join("examples/cri-server"), runtime: given.unwrap_or_else(|| dir.join("gantry-runtime")) }
    })
}
