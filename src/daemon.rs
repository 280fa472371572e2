//! `up`, `server`, `kubelet` and `cri`: each daemon is a `run(config, shutdown)`, and `up` is all of them in one process.

use crate::cli::Request;
use crate::config::Config;
use crate::{check, private_network};
use gantry_control_plane::pki;
use gantry_cri::network::{Mode, Settings};
use std::fs::{self, DirBuilder};
use std::io::IsTerminal;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Runs the daemon that was asked for until SIGTERM or SIGINT, or until one of its parts fails.
pub(crate) fn run(request: Request) -> Result<ExitCode, String> {
    let config = &request.config;
    log_to_stderr(&config.log)?;
    let parts = Parts::of(&request.command);
    if parts.cri
        && let Some(why) = check::obstacle()
    {
        return Err(why);
    }
    for dir in [&config.data_dir, &config.run_dir, &config.config_dir] {
        private_dir(dir)?;
    }
    let _one = Lock::take(config)?;
    // Before the move to another network namespace: this listener is the node's face to the host.
    let mut api = Vec::new();
    if parts.control_plane {
        api.push(listen(config.api_address)?);
    }
    if config.private_network {
        private_network::enter(&config.run_dir)?;
        if parts.control_plane {
            api.push(listen((Ipv4Addr::UNSPECIFIED, config.api_address.port()).into())?);
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|why| format!("start the async runtime: {why}"))?;
    runtime.block_on(serve(&request, parts, api))
}

/// Which parts a subcommand runs.
#[derive(Debug, Clone, Copy)]
struct Parts {
    control_plane: bool,
    kubelet: bool,
    cri: bool,
}

impl Parts {
    fn of(command: &str) -> Self {
        let all = command == "up";
        Self {
            control_plane: all || command == "server",
            kubelet: all || command == "kubelet",
            cri: all || command == "cri",
        }
    }
}

async fn serve(request: &Request, parts: Parts, api: Vec<TcpListener>) -> Result<ExitCode, String> {
    let shutdown = CancellationToken::new();
    let config = &request.config;
    // A signal may come at any time, so it is waited for before anything is started.
    let mut ends = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let mut parts_running = JoinSet::new();
    // First, and alone: it issues certificates in the directory that the control plane then reads.
    let kubelet = if parts.kubelet { Some(kubelet(request, parts.control_plane)?) } else { None };
    if parts.control_plane {
        let (config, token) = (control_plane(config, api), shutdown.clone());
        parts_running.spawn(async move { ("control plane", text(gantry_control_plane::run(config, token).await)) });
    }
    if parts.cri {
        let (config, token) = (cri(config), shutdown.clone());
        parts_running.spawn(async move { ("CRI server", text(gantry_cri::run(config, token).await)) });
    }
    if let Some(config) = kubelet {
        let token = shutdown.clone();
        parts_running.spawn(async move { ("kubelet", text(gantry_kubelet::run(config, token).await)) });
    }
    let first = match &mut ends {
        (Ok(terminate), Ok(interrupt)) => tokio::select! {
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            ended = parts_running.join_next() => ended,
        },
        (Err(why), _) | (_, Err(why)) => return Err(format!("wait for signals: {why}")),
    };
    shutdown.cancel();
    let mut outcome = first.map_or(Ok(()), |ended| verdict(ended, false));
    while let Some(ended) = parts_running.join_next().await {
        outcome = outcome.and(verdict(ended, true));
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

fn text<E: std::error::Error>(result: Result<(), E>) -> Result<(), String> {
    result.map_err(|why| {
        let mut line = why.to_string();
        let mut cause = why.source();
        while let Some(next) = cause {
            let next_line = next.to_string();
            if !line.contains(&next_line) {
                line = format!("{line}: {next_line}");
            }
            cause = next.source();
        }
        line
    })
}

type Ended = Result<(&'static str, Result<(), String>), tokio::task::JoinError>;

/// A part that ends before it was asked to is a failure, whatever it says.
fn verdict(ended: Ended, asked: bool) -> Result<(), String> {
    match ended {
        Ok((part, Err(why))) => Err(format!("{part}: {why}")),
        Ok((part, Ok(()))) if !asked => Err(format!("{part} ended by itself")),
        Ok(_) => Ok(()),
        Err(why) => Err(format!("a part of the node panicked: {why}")),
    }
}

fn control_plane(config: &Config, listeners: Vec<TcpListener>) -> gantry_control_plane::Config {
    gantry_control_plane::Config {
        data_dir: config.data_dir.join("control-plane"),
        listeners,
        names: names(config),
        admin_kubeconfig: Some(config.admin_kubeconfig()),
        server_url: server_url(config),
        token_file: config.token_file.clone(),
        ..gantry_control_plane::Config::default()
    }
}

fn server_url(config: &Config) -> String {
    let address = config.api_address;
    let ip = if address.ip().is_unspecified() { config.address() } else { address.ip() };
    format!("https://{}", std::net::SocketAddr::new(ip, address.port()))
}

/// What the API server's certificate answers to.
fn names(config: &Config) -> pki::Names {
    let dns = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned);
    let mut ips = vec![Ipv4Addr::LOCALHOST.into(), config.address(), config.api_address.ip()];
    ips.retain(|ip: &std::net::IpAddr| !ip.is_unspecified());
    ips.dedup();
    pki::Names { dns: dns.into_iter().chain([config.node_name.clone()]).collect(), ips }
}

/// What is configured in `/etc/cni/net.d` is the host's network: a node in a network of its own takes it only when told.
fn network(config: &Config) -> Settings {
    let mut settings = config.network.clone();
    if config.private_network && settings.mode == Mode::Auto {
        settings.mode = Mode::Bridge;
    }
    settings
}

pub(crate) fn cri(config: &Config) -> gantry_cri::Config {
    gantry_cri::Config {
        socket: config.cri_socket(),
        root: config.data_dir.join("cri"),
        run: config.run_dir.clone(),
        images_root: config.image_store().root,
        images: config.image_store(),
        runtime_binary: config.runtime.clone(),
        cgroup_root: config.cgroup_root.clone(),
        pod_cidr: config.pod_cidr.clone(),
        bridge: config.bridge.clone(),
        network: network(config),
        ..gantry_cri::Config::default()
    }
}

fn kubelet(request: &Request, own_control_plane: bool) -> Result<gantry_kubelet::Config, String> {
    let config = &request.config;
    let mut kubelet = gantry_kubelet::Config {
        cri_socket: config.cri_socket(),
        node_name: config.node_name.clone(),
        node_ip: Some(config.address()),
        root_dir: config.data_dir.join("kubelet"),
        pod_logs_dir: config.log_dir.clone(),
        listen: config.kubelet_address,
        cgroup_root: if config.cgroup_root == "/" { String::new() } else { config.cgroup_root.clone() },
        max_pods: config.max_pods,
        pod_pids_limit: config.pod_pids_limit,
        image_gc_high_threshold_percent: config.image_gc_high_threshold_percent,
        image_gc_low_threshold_percent: config.image_gc_low_threshold_percent,
        image_minimum_gc_age_seconds: config.image_minimum_gc_age_seconds,
        image_maximum_gc_age_seconds: config.image_maximum_gc_age_seconds,
        kubeconfig: request.kubeconfig.clone(),
        ..gantry_kubelet::Config::default()
    };
    if own_control_plane {
        let dir = config.data_dir.join("control-plane/pki");
        let own = pki::Names { dns: vec![config.node_name.clone()], ips: vec![config.address()] };
        let issue = pki::ensure(&dir, &names(config)).and_then(|_| pki::issue_node(&dir, &config.node_name, &own));
        let node = issue.map_err(|why| format!("issue the node's certificates: {why}"))?;
        let written = node.write_kubeconfig(&server_url(config)).map_err(|why| why.to_string())?;
        kubelet.kubeconfig = Some(written);
        kubelet.serving_cert = Some(node.serving.cert_path.clone());
        kubelet.serving_key = Some(node.serving.key_path.clone());
        kubelet.client_ca = Some(node.ca_path);
    } else if kubelet.kubeconfig.is_none() {
        return Err("kubelet: no API server is known; name its kubeconfig with --kubeconfig FILE".into());
    }
    Ok(kubelet)
}

fn listen(address: std::net::SocketAddr) -> Result<TcpListener, String> {
    let listener = TcpListener::bind(address).map_err(|why| format!("listen on {address} for the API: {why}"))?;
    listener.set_nonblocking(true).map_err(|why| format!("listen on {address}: {why}"))?;
    Ok(listener)
}

/// Makes a directory that only root can enter.
fn private_dir(dir: &std::path::Path) -> Result<(), String> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|why| format!("make {}: {why}", dir.display()))
}

fn log_to_stderr(filter: &str) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|why| format!("log: {filter:?}: {why}"))?;
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr).init();
    Ok(())
}

/// The node's pid file, locked for as long as the daemon lives; the kernel releases it however the daemon ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: nix::fcntl::Flock<fs::File>,
}

impl Lock {
    /// Takes the lock and writes the pid, or says who has it.
    pub(crate) fn take(config: &Config) -> Result<Self, String> {
        let path = config.run_dir.join("gantry.pid");
        let open = fs::File::options().create(true).read(true).write(true).truncate(false).open(&path);
        let file = open.map_err(|why| format!("open {}: {why}", path.display()))?;
        match nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                use std::io::Write;
                let written = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
                written.map_err(|why| format!("write {}: {why}", path.display()))?;
                Ok(Self { _file: file })
            }
            Err((_, why)) => {
                let pid = fs::read_to_string(&path).unwrap_or_default();
                Err(format!(
                    "a node with the run directory {} already runs as pid {pid}: {why}",
                    config.run_dir.display()
                ))
            }
        }
    }
}
