//! The end of a pod: containers stopped within the grace period, the sandbox taken down, the last status
//! said, the object deleted with grace 0, and everything of the pod removed from the node. Each step is
//! tried until it works; a shorter grace period asked for meanwhile takes effect at once.

use std::time::Duration;

use serde_json::json;

use super::actions::{Plan, decide};
use super::stop;
use super::worker::Worker;
use crate::api::reflect::jitter;
use crate::error::{Error, Kind, Result};
use crate::pod;
use crate::shared::Shared;
use crate::{garbage, volumes};

/// Ends the pod of `worker` and returns when it is gone from its source.
pub(super) async fn run(mut worker: Worker) {
    let mut wait = Duration::from_millis(100);
    loop {
        match stop_all(&mut worker).await {
            Ok(()) => break,
            Err(why) => {
                tracing::warn!(pod = pod::full_name(&worker.pod), %why, "cannot stop the pod yet");
                tokio::time::sleep(jitter(wait)).await;
                wait = (wait * 2).min(Duration::from_secs(10));
            }
        }
    }
    let in_api = !worker.inputs.wanted.borrow().gone;
    if in_api {
        say(&mut worker);
        worker.writer.flush().await;
    }
    clean(&mut worker).await;
    if in_api {
        delete(&mut worker).await;
    }
    tracing::debug!(pod = pod::full_name(&worker.pod), "the pod is over");
}

fn say(worker: &mut Worker) {
    let plan = Plan { actions: Vec::new(), waiting: Default::default(), done: true, ..decide(worker.facts()) };
    worker.say(&plan, true);
}

async fn stop_all(worker: &mut Worker) -> Result<()> {
    if !worker.look().await {
        return Err(Error::new(Kind::Unavailable, "the runtime does not answer"));
    }
    say(worker);
    loop {
        let grace = pod::grace(&worker.pod);
        let victims = stop::everything(&worker.view, grace);
        let (shared, pod, view) = (worker.shared.clone(), worker.pod.clone(), worker.view.clone());
        let mut wanted = worker.inputs.wanted.clone();
        let shorter = async {
            // Anything but a shorter grace period changes nothing about the end.
            if wanted.wait_for(|w| pod::grace(&w.pod) < grace).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            stopped = stop::containers(&shared, &pod, &view, victims) => break stopped?,
            () = shorter => {
                worker.pod = worker.inputs.wanted.borrow_and_update().pod.clone();
            }
        }
    }
    for sandbox in worker.view.sandboxes.clone().iter().filter(|s| s.ready) {
        worker.shared.cri.stop_sandbox(&sandbox.id).await?;
    }
    if !worker.look().await {
        return Err(Error::new(Kind::Unavailable, "the runtime does not answer"));
    }
    match worker.view.running().next() {
        Some(left) => Err(Error::pod(format!("container {} still runs", left.name))),
        None => Ok(()),
    }
}

/// Removes all of the pod from the runtime and from disk. What fails here is left to garbage collection.
async fn clean(worker: &mut Worker) {
    let shared: &Shared = &worker.shared;
    let removed = garbage::remove_sandboxes(shared, &worker.view).await;
    let uid = pod::uid(&worker.pod).to_string();
    shared.tokens.forget(&uid);
    let root = shared.config.root_dir.clone();
    let logs = garbage::log_dir(shared, &worker.pod);
    let torn = tokio::task::spawn_blocking(move || volumes::tear_down(&root, &uid)).await;
    if removed.is_ok() {
        let _ = tokio::fs::remove_dir_all(&logs).await;
    }
    let torn = torn.unwrap_or_else(|e| Err(Error::io("take volumes down", e)));
    for why in [removed, torn].into_iter().filter_map(Result::err) {
        tracing::warn!(pod = pod::full_name(&worker.pod), %why, "something of the pod stays for now");
    }
    worker.shared.cgroups.remove_pod(pod::uid(&worker.pod));
}

/// Deletes the object for good and waits until its source says so.
async fn delete(worker: &mut Worker) {
    let Some(api) = worker.shared.api.clone() else { return };
    let of = worker.pod.clone();
    let path = format!("/api/v1/namespaces/{}/pods/{}", pod::namespace(&of), pod::name(&of));
    let options = json!({
        "kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0, "preconditions": {"uid": pod::uid(&of)},
    });
    let mut wait = Duration::from_millis(100);
    loop {
        match api.delete(&path, &options).await {
            Ok(_) => break,
            Err(why) if matches!(why.kind(), Kind::NotFound | Kind::Conflict | Kind::Gone) => break,
            Err(why) => {
                tracing::warn!(pod = pod::full_name(&of), %why, "cannot delete the pod, will try again");
                tokio::time::sleep(jitter(wait)).await;
                wait = (wait * 2).min(Duration::from_secs(10));
            }
        }
    }
    // Finalizers may keep the object; the worker stays until it is gone, so that nothing starts again.
    if worker.inputs.wanted.wait_for(|w| w.gone).await.is_err() {
        tracing::debug!(pod = pod::full_name(&of), "shutting down");
    }
}
