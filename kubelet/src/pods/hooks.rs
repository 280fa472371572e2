//! Lifecycle hooks: postStart and preStop by exec, HTTP GET or sleep.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::error::{Error, Result};
use crate::probes::check;
use crate::shared::Shared;

/// Runs one hook of `c`, whose container is `id` in a pod at `ip`.
///
/// # Errors
/// `Kind::Pod` saying how it failed, without the output's secrets being anyone's but the pod's.
pub(crate) async fn run(
    shared: &Shared,
    c: &Container,
    id: &str,
    ip: Option<&str>,
    hook: &LifecycleHandler,
    limit: Duration,
) -> Result<()> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let done = shared.cri.exec_sync(id, &command, limit).await?;
        if done.code != 0 {
            let output: String = done.output.chars().take(1024).collect();
            let said = if output.trim().is_empty() { String::new() } else { format!(": {}", output.trim()) };
            return Err(Error::pod(format!("command {command:?} exited with {}{said}", done.code)));
        }
        return Ok(());
    }
    if let Some(get) = &hook.http_get {
        return check::http(get, c, ip.unwrap_or_default(), limit).await.map(drop).map_err(Error::pod);
    }
    if let Some(sleep) = &hook.sleep {
        let wanted = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
        tokio::time::sleep(wanted.min(limit)).await;
        return Ok(());
    }
    Err(Error::pod("this kind of lifecycle handler is not supported"))
}
