//! A CRI server and nothing else: `cri-server CONFIG.toml`. The tests run it as a process that they can kill.

use std::error::Error;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Runtime::new()?;
    let served = runtime.block_on(serve());
    // A thread that waits for a monitor that hangs must not hold the end.
    runtime.shutdown_background();
    served
}

async fn serve() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let path = std::env::args().nth(1).ok_or("usage: cri-server CONFIG.toml")?;
    let config: gantry_cri::Config = toml::from_str(&std::fs::read_to_string(path)?)?;
    let shutdown = CancellationToken::new();
    let mut term = signal(SignalKind::terminate())?;
    let end = shutdown.clone();
    tokio::spawn(async move {
        term.recv().await;
        end.cancel();
    });
    Ok(gantry_cri::run(config, shutdown).await?)
}
