//! The control plane as one process: open the store, complete the certificates, serve, schedule, control.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::access::{Access, Signer, read_tokens};
use crate::api::{Api, serve};
use crate::client::Client;
use crate::controllers;
use crate::error::{Error, Result};
use crate::pki::{self, Names};
use crate::scheduler;
use crate::store::Store;

/// Everything that an operator may set. Durations are seconds.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the store (`store/`) and the certificates (`pki/`) are kept.
    pub data_dir: PathBuf,
    /// Sockets that listen already: they may belong to other network namespaces than the process is in.
    #[serde(skip)]
    pub listeners: Vec<TcpListener>,
    /// Addresses to listen on besides; default none.
    pub listen: Vec<SocketAddr>,
    /// What the serving certificate answers to, besides `localhost`, `kubernetes...` and 127.0.0.1.
    #[serde(skip)]
    pub names: Names,
    /// Where to write a kubeconfig of the administrator.
    pub admin_kubeconfig: Option<PathBuf>,
    /// The URL in it; default the first listener's address.
    pub server_url: String,
    /// A file of static bearer tokens: `token,user,uid[,"groups"]` a line.
    pub token_file: Option<PathBuf>,
    /// Issuer of service-account tokens.
    pub issuer: String,
    /// What Services get their addresses from.
    pub service_cidr: String,
    /// Whether each pod gets the token of its account, the authority and its namespace mounted under
    /// `/var/run/secrets/kubernetes.io/serviceaccount`, as in Kubernetes. The kubelet asks for the token while the
    /// sandbox is made, so that no pod starts later for it. Default yes.
    pub account_volumes: bool,
    /// A node that is silent for so long is taken for unreachable.
    pub node_grace_seconds: u64,
    /// Whether the scheduler runs here.
    pub scheduler: bool,
    /// Whether the controllers run here.
    pub controllers: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/gantry/control-plane".into(),
            listeners: Vec::new(),
            listen: Vec::new(),
            names: Names::default(),
            admin_kubeconfig: None,
            server_url: String::new(),
            token_file: None,
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            service_cidr: "10.96.0.0/16".into(),
            account_volumes: true,
            node_grace_seconds: 40,
            scheduler: true,
            controllers: true,
        }
    }
}

/// Runs the control plane until `shutdown`. The kubeconfig is written when the API answers.
///
/// # Errors
/// When the store cannot be opened, a certificate not be made, an address not be listened on.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<()> {
    let mut listeners = config.listeners;
    for address in &config.listen {
        let listener = TcpListener::bind(address);
        listeners.push(listener.map_err(|e| Error::internal(format!("cannot listen on {address}"), e))?);
    }
    let first =
        listeners.first().ok_or_else(|| Error::internal("start the API server", "it has no address to listen on"))?;
    let server_url = match config.server_url.as_str() {
        "" => format!("https://{}", reachable(first.local_addr()?)),
        url => url.to_owned(),
    };
    let pki = pki::ensure(&config.data_dir.join("pki"), &names(config.names))?;
    let store = open(config.data_dir.join("store")).await?;
    let tokens = config.token_file.as_deref().map(read_tokens).transpose()?.unwrap_or_default();
    let signer = Signer::new(&pki.service_account.key_pem, &config.issuer)?;
    // Requests end before the store does: they have a token of their own.
    let mut api = Api::new(store, Access::new(tokens, Some(signer)), shutdown.clone());
    api.service_cidr = parse_cidr(&config.service_cidr)?;
    api.account_volumes = config.account_volumes;
    api.kubelet_tls = Some(Arc::new(serve::kubelet_tls(&pki)?));
    let api = Arc::new(api);
    api.bootstrap().await?;
    let mut serving = tokio::spawn(serve::serve(api.clone(), listeners, serve::server_tls(&pki)?));
    if let Some(path) = &config.admin_kubeconfig {
        pki::write_kubeconfig(path, &server_url, &pki.ca_pem, &pki.admin)?;
    }
    tracing::info!(%server_url, revision = api.store.revision(), "the control plane serves");
    let client = Client::new(api);
    let mut parts = tokio::task::JoinSet::new();
    if config.scheduler {
        parts.spawn(scheduler::run(client.clone(), scheduler::Config::default(), shutdown.clone()));
    }
    if config.controllers {
        let settings = controllers::Config {
            node_grace: Duration::from_secs(config.node_grace_seconds),
            ca_pem: Some(pki.ca_pem),
            ..controllers::Config::default()
        };
        parts.spawn(controllers::run(client, settings, shutdown.clone()));
    }
    let ended = tokio::select! {
        served = &mut serving => return finish(served, parts, &shutdown).await,
        Some(ended) = parts.join_next() => ended,
    };
    // A part that ends before its time takes the whole with it, rather than leave a cluster that does half its work.
    let asked = shutdown.is_cancelled();
    shutdown.cancel();
    let end = finish(serving.await, parts, &shutdown).await;
    match ended {
        Err(e) => Err(Error::internal("a part of the control plane ended", e)),
        Ok(()) if !asked => Err(Error::internal("run the control plane", "the scheduler or the controllers ended")),
        Ok(()) => end,
    }
}

/// Waits for what still runs.
async fn finish(
    served: std::result::Result<Result<()>, tokio::task::JoinError>,
    mut parts: tokio::task::JoinSet<()>,
    shutdown: &CancellationToken,
) -> Result<()> {
    shutdown.cancel();
    while let Some(done) = parts.join_next().await {
        done.map_err(|e| Error::internal("a part of the control plane ended", e))?;
    }
    served.map_err(|e| Error::internal("the API server ended", e))?
}

async fn open(dir: PathBuf) -> Result<Store> {
    let shown = dir.display().to_string();
    let opened = tokio::task::spawn_blocking(move || Store::open(&dir)).await;
    let opened = opened.map_err(|e| Error::internal("open the store", e))?;
    opened.map_err(|e| Error::internal(format!("cannot open the store in {shown}"), e))
}

/// An address that a client on this host can use.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() { (Ipv4Addr::LOCALHOST, address.port()).into() } else { address }
}

fn names(mut names: Names) -> Names {
    for name in ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"] {
        if !names.dns.iter().any(|n| n == name) {
            names.dns.push(name.into());
        }
    }
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    if !names.ips.contains(&local) {
        names.ips.push(local);
    }
    names
}

fn parse_cidr(text: &str) -> Result<(Ipv4Addr, u8)> {
    let parsed = text.split_once('/').and_then(|(ip, length)| Some((ip.parse().ok()?, length.parse().ok()?)));
    let fits = parsed.filter(|(_, length): &(Ipv4Addr, u8)| (8..=30).contains(length));
    fits.ok_or_else(|| {
        Error::internal("read the service network", format!("{text:?} is no network such as 10.96.0.0/16"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn config(dir: &TempDir) -> Config {
        Config {
            data_dir: dir.path().into(),
            listen: vec!["127.0.0.1:0".parse().expect("address")],
            admin_kubeconfig: Some(dir.path().join("kubeconfig")),
            ..Config::default()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_starts_stops_and_starts_again() {
        let dir = TempDir::new("run");
        for _ in 0..2 {
            let _ = std::fs::remove_file(dir.path().join("kubeconfig"));
            let shutdown = CancellationToken::new();
            let running = tokio::spawn(run(config(&dir), shutdown.clone()));
            for _ in 0..500 {
                if dir.path().join("kubeconfig").exists() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let text = std::fs::read_to_string(dir.path().join("kubeconfig")).expect("a kubeconfig");
            assert!(text.contains("server: https://127.0.0.1:"), "{text}");
            shutdown.cancel();
            let ended = tokio::time::timeout(Duration::from_secs(20), running).await;
            ended.expect("in time").expect("no panic").expect("a good end");
        }
    }

    #[tokio::test]
    async fn without_an_address_it_says_so() {
        let dir = TempDir::new("no-address");
        let config = Config { listen: Vec::new(), ..config(&dir) };
        let error = run(config, CancellationToken::new()).await.expect_err("nowhere to listen");
        assert_eq!(error.chain(), "start the API server: it has no address to listen on");
    }

    #[test]
    fn networks_are_checked() {
        assert_eq!(parse_cidr("10.96.0.0/16").expect("fits"), (Ipv4Addr::new(10, 96, 0, 0), 16));
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/2"] {
            assert!(parse_cidr(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_unspecified_address_is_reached_locally() {
        assert_eq!(reachable("0.0.0.0:6443".parse().expect("address")).to_string(), "127.0.0.1:6443");
    }
}
