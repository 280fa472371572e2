//! What every part of one running kubelet shares: its configuration, its connections, its clock, and the
//! facts of the node.

use std::sync::{Arc, PoisonError, RwLock};

use k8s_openapi::api::core::v1::Service;
use tokio::sync::{Semaphore, watch};

use crate::api::Api;
use crate::api::events::Recorder;
use crate::cgroups::Cgroups;
use crate::clock::Clock;
use crate::config::Config;
use crate::cri::Cri;
use crate::pods::timing::Timings;
use crate::quantity::Resources;
use crate::source::objects::Objects;
use crate::volumes::tokens::Tokens;

/// What pods may know of their node. Capacity is read once: it changes with a restart of the machine.
#[derive(Debug)]
pub(crate) struct NodeFacts {
    pub ip: std::net::IpAddr,
    pub memory: i64,
    pub capacity: Resources,
    pub allocatable: Resources,
    /// The runtime's name and version, once it answered.
    pub runtime: RwLock<(String, String)>,
}

impl NodeFacts {
    pub(crate) fn ips(&self) -> Vec<String> {
        vec![self.ip.to_string()]
    }

    /// The runtime's name, the scheme of container ids.
    pub(crate) fn runtime_name(&self) -> String {
        self.runtime.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

/// See the module.
pub(crate) struct Shared {
    pub config: Config,
    pub clock: Clock,
    pub cri: Cri,
    pub api: Option<Api>,
    pub events: Recorder,
    pub objects: Objects,
    pub services: watch::Receiver<Option<Arc<Vec<Service>>>>,
    pub tokens: Tokens,
    pub cgroups: Cgroups,
    pub timings: Timings,
    pub node: NodeFacts,
    pub pulls: Semaphore,
}
