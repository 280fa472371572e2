//! Pod networking: namespaces that need no process to live, addresses that survive a crash, and a bridge.
//!
//! [`netns`] makes the pod's network, IPC and UTS namespaces and keeps them by bind mounts. [`Network`] gives a pod an
//! address on the built-in bridge. Everything is recorded before it exists, so that after a SIGKILL at any
//! instruction [`Network::reconcile`] and [`netns::sweep`] find what belongs to no living pod.
//!
//! ```text
//! pod's netns            daemon's netns
//! eth0 10.88.0.7/16 ==== gv<hash of the pod id> -- bridge gantry0 10.88.0.1/16 -- masquerade -- uplink
//! default via 10.88.0.1                            host ports: dnat to 10.88.0.7
//! ```
//!
//! The order of an attach is lease, pair, address, host ports; that of a detach the reverse, and it is the only
//! rollback. Nothing executes a program; an attach is some ten system calls.
//!
//! Where a CNI configuration is installed, its plugins make the network instead ([`cni`]): the same verbs, the same
//! order of record and deed.

mod bridge;
mod cni;
mod config;
mod firewall;
mod inside;
mod ipv6;
mod leases;
mod link;
pub mod netns;
mod nft;
mod range;
mod sysctl;
#[cfg(test)]
mod tests;

pub use config::{Mode, NetworkConfig, Settings};
pub use inside::connect;
pub use range::{Cidr, Ranges};

use crate::error::{Context as _, Error, Result};
use bridge::Bridge;
use cni::Cni;
use gantry_runtime::netlink::Socket;
use inside::blocking;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Transport protocol of a port mapping (`runtime.v1.Protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, the default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the pod (`runtime.v1.PortMapping`); only one with a host port asks anything of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port inside the pod.
    pub container_port: u16,
    /// Port on the host, or 0 for none.
    pub host_port: u16,
    /// Address on the host, or none for all of them.
    pub host_ip: Option<IpAddr>,
}

impl PortMapping {
    /// Whether both want the same port of the host on a common address.
    fn clashes(&self, other: &Self) -> bool {
        let any = |ip: Option<IpAddr>| ip.is_none_or(|ip| ip.is_unspecified());
        self.protocol == other.protocol
            && self.host_port == other.host_port
            && (any(self.host_ip) || any(other.host_ip) || self.host_ip == other.host_ip)
    }
}

/// A pod's resolver, for plugins with the capability `dns`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of servers.
    pub servers: Vec<String>,
    /// Domains that are searched.
    pub searches: Vec<String>,
    /// Options of resolv.conf(5).
    pub options: Vec<String>,
}

/// What a network is asked to attach. The bridge needs the first three fields, CNI passes all of them on.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Id of the pod.
    pub pod: String,
    /// File of its network namespace.
    pub netns: PathBuf,
    /// Its ports.
    pub ports: Vec<PortMapping>,
    /// Namespace, name and uid in Kubernetes.
    pub namespace: String,
    /// See `namespace`.
    pub name: String,
    /// See `namespace`.
    pub uid: String,
    /// Its resolver.
    pub dns: Dns,
    /// Its annotations: `kubernetes.io/ingress-bandwidth` and `egress-bandwidth` are read, the rest is passed on.
    pub annotations: HashMap<String, String>,
    /// Its cgroup, from the root of each hierarchy.
    pub cgroup: String,
}

/// What a pod was given; stays the same for the pod's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Addresses of `eth0` in the pod, the primary one first.
    pub ips: Vec<IpAddr>,
    /// Where the default route of the pod leads.
    pub gateway: IpAddr,
    /// Hardware address of `eth0`, six hexadecimal bytes with colons.
    pub mac: String,
}

/// What `Status` of the CRI reports as NetworkReady.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Whether pods can be attached.
    pub ready: bool,
    /// Why not, for people; empty when ready.
    pub message: String,
    /// Addresses that the bridge has handed out, and pods attached by CNI.
    pub used: usize,
    /// Addresses that the bridge's range has; 0 while there is no bridge.
    pub size: usize,
}

/// The network of one node, in the network namespace of the thread that opened it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Network {
    config: Arc<NetworkConfig>,
    cni: Arc<Cni>,
    /// Made with the first pod that needs it, or at once where it has pods.
    bridge: Arc<Mutex<Option<Arc<Bridge>>>>,
    /// Whether the node's loopback was closed to the pods of CNI.
    guarded: Arc<AtomicBool>,
}

/// The table that closes the node's loopback to the pods of CNI.
const GUARD: &str = "gantry-guard";

impl Network {
    /// Reads the records of an earlier run; where the bridge is used, locks its state directory and makes it.
    ///
    /// # Errors
    /// `Invalid` for a bad configuration, `Exists` where another daemon holds `state_dir`, `Internal` otherwise.
    pub async fn open(config: NetworkConfig) -> Result<Self> {
        config.settings.check()?;
        let cni = Cni::open(config.settings.clone(), &config.records_dir, config.fault.clone())?;
        let network =
            Self { cni: Arc::new(cni), config: Arc::new(config), bridge: Arc::default(), guarded: Arc::default() };
        let has_pods =
            std::fs::read_dir(network.config.state_dir.join("leases")).is_ok_and(|mut all| all.next().is_some());
        if has_pods || !network.uses_cni() {
            network.bridge().await?;
        }
        Ok(network)
    }

    /// Whether the next pod is attached by CNI.
    fn uses_cni(&self) -> bool {
        match self.config.settings.mode {
            Mode::Cni => true,
            Mode::Bridge => false,
            Mode::Auto => self.cni.is_configured(),
        }
    }

    fn made(&self) -> Option<Arc<Bridge>> {
        self.bridge.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn bridge(&self) -> Result<Arc<Bridge>> {
        if let Some(bridge) = self.made() {
            return Ok(bridge);
        }
        let (slot, config) = (Arc::clone(&self.bridge), Arc::clone(&self.config));
        blocking(move || {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            match &*slot {
                Some(bridge) => Ok(Arc::clone(bridge)),
                None => Ok(Arc::clone(slot.insert(Arc::new(Bridge::open((*config).clone())?)))),
            }
        })
        .await
    }

    /// A second wall: kernels without nf_tables do without it, as they do everywhere but here.
    async fn guard(&self) {
        if self.guarded.swap(true, Ordering::Relaxed) {
            return;
        }
        let written = blocking(|| {
            let mut socket = Socket::netfilter().context(|| "open nfnetlink")?;
            let rules = firewall::decide_guard();
            nft::replace(&mut socket, GUARD, &[firewall::Family::V4], &rules).context(|| "write table gantry-guard")
        });
        if let Err(why) = written.await {
            tracing::warn!(%why, "the node's loopback is not guarded against pods");
        }
    }

    /// Gives the pod an address and `eth0` in its network namespace. For a pod that has an address already (an attach
    /// that a crash cut short), the device is made anew, on the bridge with the same address.
    ///
    /// Once begun it runs to its end even when the caller is dropped; a later [`detach`](Self::detach) waits for it.
    ///
    /// # Errors
    /// `Exhausted` with no address left, `Exists` for a host port in use, `Invalid`, `Unavailable` with no valid CNI
    /// configuration, `Timeout` for a plugin that hangs, `Internal`. After an error nothing of the pod is left, or
    /// what is left is on record.
    pub async fn attach(&self, wish: Wish) -> Result<Attachment> {
        if self.uses_cni() {
            self.guard().await;
            let cni = Arc::clone(&self.cni);
            let task = tokio::spawn(async move { cni.attach(&wish).await });
            return task.await.unwrap_or_else(|why| Err(Error::internal(format!("attach: {why}"))));
        }
        let bridge = self.bridge().await?;
        blocking(move || bridge.attach(&wish.pod, &wish.netns, &wish.ports)).await
    }

    /// Takes device, host ports and address from the pod; a pod without any is no error. Its namespace may be gone.
    /// Whatever attached the pod detaches it, also when another network is configured by now.
    ///
    /// # Errors
    /// `Internal`, or a plugin's error; then the address is still the pod's, and the call can be repeated.
    pub async fn detach(&self, pod_id: &str) -> Result<()> {
        let (cni, pod) = (Arc::clone(&self.cni), pod_id.to_owned());
        let task = tokio::spawn(async move { cni.detach(&pod).await });
        task.await.unwrap_or_else(|why| Err(Error::internal(format!("detach: {why}"))))?;
        let Some(bridge) = self.made() else { return Ok(()) };
        let pod = pod_id.to_owned();
        blocking(move || bridge.detach(&pod)).await
    }

    /// What the pod was given, or none.
    pub fn attachment(&self, pod_id: &str) -> Option<Attachment> {
        self.made().and_then(|bridge| bridge.attachment(pod_id)).or_else(|| self.cni.attachment(pod_id))
    }

    /// Asks the plugins whether the pod's attachment is as they left it (CHECK); the bridge is not asked.
    ///
    /// # Errors
    /// What the first plugin says that finds something wrong.
    pub async fn check(&self, pod_id: &str) -> Result<()> {
        self.cni.check(pod_id).await
    }

    /// Releases whatever belongs to no pod of `living`. To be called once at start, after the pods were read and
    /// before the first attach.
    ///
    /// # Errors
    /// `Internal`, after everything was tried.
    pub async fn reconcile(&self, living: &HashSet<String>) -> Result<()> {
        let collect = self.config.settings.mode != Mode::Bridge;
        let outcome = self.cni.reconcile(living, collect).await;
        let Some(bridge) = self.made() else { return outcome };
        let living = living.clone();
        outcome.and(blocking(move || bridge.reconcile(&living)).await)
    }

    /// Whether pods can be attached, and how full the range is.
    pub async fn status(&self) -> Status {
        let bridge = self.made();
        let (mut used, size) = bridge.as_ref().map_or((0, 0), |bridge| bridge.fill());
        used += self.cni.used();
        let checked = match (self.uses_cni(), bridge) {
            (true, _) => self.cni.status().await.map_err(|why| why.within("Network plugin returns error")),
            (false, Some(bridge)) => blocking(move || bridge.check()).await,
            // The configuration of CNI went away: the next pod makes the bridge.
            (false, None) => Ok(()),
        };
        let message = checked.err().map(|why| why.to_string()).unwrap_or_default();
        Status { ready: message.is_empty(), message, used, size }
    }

    /// Entries for the `info` of the CRI's verbose Status: `network`, and with CNI in use what containerd says of it.
    pub fn info(&self) -> Vec<(String, String)> {
        let uses_cni = self.uses_cni();
        let network = serde_json::json!({
            "kind": if uses_cni { "cni" } else { "bridge" },
            "mode": self.config.settings.mode,
            "bridge": self.config.bridge_name,
            "podCIDR": self.config.ranges,
            "attachedByCNI": self.cni.used(),
            "addressesInUse": self.made().map_or(0, |bridge| bridge.fill().0),
        });
        let mut info = if uses_cni { self.cni.info() } else { Vec::new() };
        info.push(("network".to_owned(), network.to_string()));
        info
    }

    /// Detaches every pod and removes bridge and firewall table: for a node that goes away for good.
    ///
    /// # Errors
    /// `Internal`, after everything was tried.
    pub async fn dismantle(&self) -> Result<()> {
        let outcome = self.cni.reconcile(&HashSet::new(), false).await;
        let unguarded = blocking(|| {
            let mut socket = Socket::netfilter().context(|| "open nfnetlink")?;
            nft::remove(&mut socket, GUARD, firewall::Family::V4).context(|| "remove table gantry-guard")
        });
        if self.guarded.load(Ordering::Relaxed) || self.uses_cni() {
            // Where there is no nf_tables, there is no table.
            let _ = unguarded.await;
        }
        if self.config.settings.mode == Mode::Cni && self.made().is_none() {
            return outcome;
        }
        let bridge = self.bridge().await?;
        outcome.and(blocking(move || bridge.dismantle()).await)
    }
}
