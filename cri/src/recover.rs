//! Start-up after whatever happened: the records say what there should be, the monitors what there is.
//!
//! ```text
//! broken or half-made pod    -> removed                    half-made container -> removed
//! made pod, monitor answers  -> its state is taken over, and followed
//! made pod, no monitor       -> records of exits are read; the rest ended unseen; the pod is stopped
//! address, netns, rootfs of no known pod or container -> released
//! ```

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join_all;

use tokio_util::task::AbortOnDropHandle;

use crate::error::{Error, Result};
use crate::exits;
use crate::monitor::Monitor;
use crate::network::netns;
use crate::node::{Node, Pod};
use crate::store::{Found, PodRecord};
use crate::{containers, pods};

/// Makes the table true again. What cannot be tidied up is logged and tried again at the next start; the server serves
/// all the same.
///
/// # Errors
/// When the records cannot be read at all.
pub async fn recover(node: &Arc<Node>) -> Result<()> {
    netns::prepare(&node.netns_base()).await?;
    let Found { pods: found, broken } = node.store.load()?;
    for (id, why) in broken {
        tracing::warn!(pod = id, why, "clearing away a pod that was never made");
        note("clear away", &id, clear(node, &id).await);
    }
    let mut all = Vec::new();
    for (record, containers) in found {
        let pod = node.add_pod(record)?;
        for record in containers {
            node.add_container(&pod, record)?;
        }
        all.push(pod);
    }
    let living: HashSet<String> = all.iter().map(|pod| pod.id.clone()).collect();
    join_all(all.iter().map(|pod| async move { note("recover", &pod.id, take_over(node, pod).await) })).await;
    note("release", "addresses", node.network.reconcile(&still(node, &living)).await);
    note("release", "namespaces", netns::sweep(&node.netns_base(), &still(node, &living)).await);
    note("release", "root filesystems", release_rootfs(node).await);
    Ok(())
}

/// Asks CNI, while the server serves already, whether the pods that live are attached as they were (CHECK), one pod after
/// the other; what is wrong is logged. Ends when what it gives is dropped.
pub fn look_at_networks(node: &Arc<Node>) -> AbortOnDropHandle<()> {
    let node = Arc::clone(node);
    AbortOnDropHandle::new(tokio::spawn(async move {
        for pod in node.pods() {
            let record = pod.record.get();
            if record.made && !record.stopped {
                let _here = pod.gate.read().await;
                note("check the network of", &pod.id, node.network.check(&pod.id).await);
            }
        }
    }))
}

/// Pods that lived at start and have not been removed since.
fn still(node: &Node, living: &HashSet<String>) -> HashSet<String> {
    node.pods().iter().map(|pod| pod.id.clone()).filter(|id| living.contains(id)).collect()
}

async fn take_over(node: &Arc<Node>, pod: &Arc<Pod>) -> Result<()> {
    let record = pod.record.get();
    if !record.made {
        return pods::remove(node, pod).await;
    }
    match pod.monitor.state().await {
        Ok(state) => {
            for state in &state.containers {
                exits::seen(node, state).await?;
            }
            let known: HashSet<String> = node.containers_of(&pod.id).iter().map(|c| c.id.clone()).collect();
            for stray in state.containers.iter().filter(|state| !known.contains(&state.id)) {
                note("delete stray container", &stray.id, pod.monitor.delete(&stray.id).await);
            }
            if !record.stopped {
                exits::follow(node, pod);
            }
        }
        Err(why) => {
            tracing::warn!(pod = pod.id, %why, "the monitor does not answer");
            exits::lost(node, pod).await?;
            settle_rest(node, pod).await?;
        }
    }
    remove_half_made(node, pod).await
}

/// A stopped pod's containers have ended too, whatever their records say.
async fn settle_rest(node: &Arc<Node>, pod: &Arc<Pod>) -> Result<()> {
    for container in node.containers_of(&pod.id) {
        let record = container.record.get();
        if record.made && record.exit.is_none() {
            match pod.monitor.exit_record(&container.id)? {
                Some(exit) => exits::ended(node, &container, &exit).await?,
                None => exits::settle(node, &container, |_| exits::unseen("the machine was started anew")).await?,
            }
        }
    }
    Ok(())
}

async fn remove_half_made(node: &Arc<Node>, pod: &Arc<Pod>) -> Result<()> {
    for container in node.containers_of(&pod.id) {
        if !container.record.get().made {
            containers::remove(node, &container).await?;
        }
    }
    Ok(())
}

/// Removes what a pod without a readable record may have left. `id` may be cut to the length of a run directory's name.
async fn clear(node: &Arc<Node>, id: &str) -> Result<()> {
    let run = node.store.run_dir(id);
    let monitor = Monitor::at(&run);
    if let Ok(state) = monitor.state().await {
        for container in &state.containers {
            monitor.delete(&container.id).await?;
        }
        monitor.shutdown().await?;
    }
    let unreadable = PodRecord::new(id, Default::default(), "", 0);
    let pod = node.add_pod(unreadable)?;
    pods::remove(node, &pod).await
}

async fn release_rootfs(node: &Arc<Node>) -> Result<()> {
    let known: HashSet<String> = node.containers().iter().map(|container| container.id.clone()).collect();
    for key in node.images.rootfs_keys()? {
        // Image volumes are keyed by the container's id, a dot and their number.
        let owner = key.split('.').next().unwrap_or(&key);
        let ours = owner.len() == 64 && owner.bytes().all(|byte| byte.is_ascii_hexdigit());
        if ours && !known.contains(owner) {
            node.images.release_rootfs(&key).await?;
        }
    }
    Ok(())
}

fn note(what: &str, id: &str, result: Result<(), Error>) {
    if let Err(why) = result {
        tracing::error!(what, id, %why, "recovery could not be completed");
    }
}
