//! A kubelet: it takes the pods bound to its node from any Kubernetes API server, hands them to any CRI
//! runtime, watches that they stay well, and says so. `run` is the daemon.
#![forbid(unsafe_code)]

#![allow(dead_code, reason = "parts land one after the other")]

mod api;
mod certs;
mod cgroups;
mod clock;
mod config;
mod cri;
mod error;
mod files;
mod pod;
mod pods;
mod qos;
mod quantity;
#[cfg(test)]
mod testing;

pub use config::{Config, TaintConfig};
pub use error::{Error, Kind, Result};

use tokio_util::sync::CancellationToken;

/// Runs a kubelet until `shutdown` is cancelled. Containers keep running when it returns.
///
/// # Errors
/// `Kind::Config` where the configuration cannot be used; `Kind::Io` where the listener or the root
/// directory cannot be had. What the API server or the runtime do later is retried, never returned.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<()> {
    let _config = config.check()?;
    shutdown.cancelled().await;
    Ok(())
}
