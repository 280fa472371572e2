//! `private_network`: the node in a network namespace of its own, from which no pod reaches any other network.
//!
//! The API server's listener is bound before the move, so it stays in the host's namespace and `kubectl` needs nothing
//! special; everything bound later, and every pod, is inside. The namespace is held by a bind mount and entered again
//! after a restart, because the pods' links hang on it.

use gantry_cri::network::netns::{self, NetnsSpec};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The directory in which the namespace is held, as file `net`: not among the pods', which the CRI server sweeps.
fn home(run_dir: &Path) -> PathBuf {
    run_dir.join("node/netns")
}

/// Enters the node's namespace, making it first where there is none. Call it while the process has one thread.
pub(crate) fn enter(run_dir: &Path) -> Result<(), String> {
    if join(run_dir)? {
        return Ok(());
    }
    make(run_dir)?;
    if join(run_dir)? { Ok(()) } else { Err(format!("{} holds no network namespace", home(run_dir).display())) }
}

/// Enters the namespace that is held; false where there is none.
fn join(run_dir: &Path) -> Result<bool, String> {
    let handle = home(run_dir).join("net");
    let Ok(file) = File::open(&handle) else { return Ok(false) };
    match setns(&file, CloneFlags::CLONE_NEWNET) {
        Ok(()) => Ok(true),
        // A plain file: the process died between making the file and mounting the namespace on it.
        Err(nix::Error::EINVAL) => Ok(false),
        Err(why) => Err(format!("enter the network namespace {}: {why}", handle.display())),
    }
}

/// Makes a namespace with only its loopback device, as pods' are made, and holds it.
fn make(run_dir: &Path) -> Result<(), String> {
    let spec = NetnsSpec { net: true, ..NetnsSpec::default() };
    block_on(async {
        netns::prepare(&run_dir.join("node")).await?;
        netns::remove(&home(run_dir)).await?;
        netns::create(&home(run_dir), &spec).await.map(drop)
    })
    .map_err(|why| format!("make the node's network namespace: {why}"))
}

/// Lets the namespace go.
pub(crate) fn release(run_dir: &Path) -> Result<(), String> {
    block_on(async {
        netns::remove(&home(run_dir)).await?;
        netns::unprepare(&run_dir.join("node")).await
    })
    .map_err(|why| format!("release the node's network namespace: {why}"))
}

fn block_on(work: impl Future<Output = gantry_cri::Result<()>>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|why| format!("start the async runtime: {why}"))?.block_on(work).map_err(|why| why.to_string())
}
