//! The control plane alone, for a try: `cargo run -p gantry-control-plane --example apiserver -- DIR [PORT]`.
//!
//! The administrator's kubeconfig is `DIR/admin.kubeconfig`.

use std::path::PathBuf;

use gantry_control_plane::{Config, run};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("want a directory")?);
    let port: u16 = arguments.next().map_or(Ok(0), |p| p.parse())?;
    let config = Config {
        data_dir: dir.clone(),
        listeners: vec![std::net::TcpListener::bind(("127.0.0.1", port))?],
        admin_kubeconfig: Some(dir.join("admin.kubeconfig")),
        ..Config::default()
    };
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    });
    Ok(run(config, shutdown).await?)
}
