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

mod bridge;
mod config;
mod firewall;
mod inside;
mod leases;
mod link;
pub mod netns;
mod nft;
mod sysctl;
#[cfg(test)]
mod tests;

pub use config::{Cidr, NetworkConfig};
pub use inside::connect;

use crate::error::Result;
use bridge::Bridge;
use inside::blocking;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

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
    pub host_ip: Option<Ipv4Addr>,
}

impl PortMapping {
    /// Whether both want the same port of the host on a common address.
    fn clashes(&self, other: &Self) -> bool {
        let any = |ip: Option<Ipv4Addr>| ip.is_none_or(|ip| ip.is_unspecified());
        self.protocol == other.protocol
            && self.host_port == other.host_port
            && (any(self.host_ip) || any(other.host_ip) || self.host_ip == other.host_ip)
    }
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
    /// Addresses handed out.
    pub used: usize,
    /// Addresses that the range has.
    pub size: usize,
}

/// The network of one node, in the network namespace of the thread that opened it. Cheap to clone.
///
/// The built-in bridge is the one kind today; CNI becomes a second one behind the same verbs.
#[derive(Debug, Clone)]
pub struct Network {
    bridge: Arc<Bridge>,
}

impl Network {
    /// Reads the leases of an earlier run, locks the state directory, makes the bridge.
    ///
    /// # Errors
    /// `Invalid` for a bad configuration, `Exists` where another daemon holds `state_dir`, `Internal` otherwise.
    pub async fn open(config: NetworkConfig) -> Result<Self> {
        let bridge = blocking(move || Bridge::open(config)).await?;
        Ok(Self { bridge: Arc::new(bridge) })
    }

    /// Gives the pod an address and `eth0` in the network namespace at `netns`. For a pod that has an address already
    /// (an attach that a crash cut short), the device is made anew with the same address.
    ///
    /// Once begun it runs to its end even when the caller is dropped; a later [`detach`](Self::detach) waits for it.
    ///
    /// # Errors
    /// `Exhausted` with no address left, `Exists` for a host port in use, `Invalid`, `Internal`. After an error
    /// nothing of the pod is left.
    pub async fn attach(&self, pod_id: &str, netns: &Path, ports: &[PortMapping]) -> Result<Attachment> {
        let (bridge, netns) = (self.bridge.clone(), netns.to_owned());
        let (pod, ports) = (pod_id.to_owned(), ports.to_owned());
        blocking(move || bridge.attach(&pod, &netns, &ports)).await
    }

    /// Takes device, host ports and address from the pod; a pod without any is no error. `netns` may be gone; the
    /// bridge does not need it.
    ///
    /// # Errors
    /// `Internal`; then the address is still the pod's, and the call can be repeated.
    pub async fn detach(&self, pod_id: &str, netns: Option<&Path>) -> Result<()> {
        let _ = netns;
        let (bridge, pod) = (self.bridge.clone(), pod_id.to_owned());
        blocking(move || bridge.detach(&pod)).await
    }

    /// What the pod was given, or none.
    pub fn attachment(&self, pod_id: &str) -> Option<Attachment> {
        self.bridge.attachment(pod_id)
    }

    /// Releases whatever belongs to no pod of `living`. To be called once at start, after the pods were read and
    /// before the first attach.
    ///
    /// # Errors
    /// `Internal`, after everything was tried.
    pub async fn reconcile(&self, living: &HashSet<String>) -> Result<()> {
        let (bridge, living) = (self.bridge.clone(), living.clone());
        blocking(move || bridge.reconcile(&living)).await
    }

    /// Whether pods can be attached, and how full the range is.
    pub async fn status(&self) -> Status {
        let bridge = self.bridge.clone();
        let (used, size) = bridge.fill();
        let message = match blocking(move || bridge.check()).await {
            Ok(()) => String::new(),
            Err(why) => why.to_string(),
        };
        Status { ready: message.is_empty(), message, used, size }
    }

    /// Detaches every pod and removes bridge and firewall table: for a node that goes away for good.
    ///
    /// # Errors
    /// `Internal`, after everything was tried.
    pub async fn dismantle(&self) -> Result<()> {
        let bridge = self.bridge.clone();
        blocking(move || bridge.dismantle()).await
    }
}
