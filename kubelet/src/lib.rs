//! A kubelet: it takes the pods bound to its node from any Kubernetes API server, hands them to any CRI
//! runtime, watches that they stay well, and says so. `run` is the daemon.
//!
//! ```text
//! source/   pods of this node (API watch, static files), ConfigMaps, Secrets, Services
//! pods/     one worker a pod: actions (decides) -> apply (does) -> status (says) -> writer (patches)
//! volumes/  what is mounted        probes/  what is asked of containers
//! node/     the Node object, its lease, admission        server/  HTTPS :10250
//! api/      the API server as a client sees it           cri      the runtime
//! ```
//!
//! Everything about a pod belongs to its worker; nothing is kept that a restart could not find again in the
//! API, in the runtime or on disk.
#![forbid(unsafe_code)]

mod api;
mod certs;
mod cgroups;
mod clock;
mod config;
mod cri;
mod dirwatch;
mod error;
mod files;
mod garbage;
mod image_garbage;
mod node;
mod pod;
mod pods;
mod probes;
mod qos;
mod quantity;
mod run;
mod server;
mod shared;
mod source;
#[cfg(test)]
mod testing;
mod volumes;
#[cfg(test)]
mod wire;

pub use config::{Config, TaintConfig};
pub use error::{Error, Kind, Result};
pub use run::{dismantle, run};
