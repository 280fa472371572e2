//! What monitors tell becomes what records say: one task a pod follows its monitor and writes down every end.
//!
//! A monitor that goes away while its pod is not stopped was killed; then its containers, which nobody watches any
//! more, are killed too and the pod is not ready (kubelet makes another). What the monitor recorded before stays true.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gantry_cri_api::ContainerEventType;
use gantry_runtime::cgroup::Cgroup;
use gantry_runtime::monitor::protocol::{ContainerState, Event, Exit as Ended};

use crate::error::Result;
use crate::node::{Container, Node, Pod, blocking, now};
use crate::store::{ContainerRecord, Exit};

/// Follows the pod's monitor from now on, on a task of its own that ends with the monitor or the server.
pub fn follow(node: &Arc<Node>, pod: &Arc<Pod>) {
    let (node, pod) = (Arc::clone(node), Arc::clone(pod));
    tokio::spawn(async move {
        let shutdown = node.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            told = listen(&node, &pod) => {
                if let Err(why) = told {
                    tracing::warn!(pod = pod.id, %why, "the monitor can no longer be followed");
                }
                if let Err(why) = lost(&node, &pod).await {
                    tracing::error!(pod = pod.id, %why, "the end of the pod's monitor could not be written down");
                }
            }
        }
    });
}

async fn listen(node: &Arc<Node>, pod: &Arc<Pod>) -> Result<()> {
    let mut events = pod.monitor.subscribe().await?;
    // Only now the state: what happened before the subscription is in it, what happens after comes as an event.
    for state in pod.monitor.state().await?.containers {
        seen(node, &state).await?;
    }
    while let Some(event) = events.next().await? {
        if let Event::Exited { id, exit } = event
            && let Ok(container) = node.container(&id)
        {
            ended(node, &container, &exit).await?;
        }
    }
    Ok(())
}

/// Writes down what the monitor knows about a container that we may have missed.
pub async fn seen(node: &Arc<Node>, state: &ContainerState) -> Result<()> {
    let Ok(container) = node.container(&state.id) else { return Ok(()) };
    let started_at = state.started_at;
    container
        .amend(&node.store, move |record| {
            let news = record.made && record.started_at == 0 && started_at != 0;
            if news {
                record.started_at = started_at;
            }
            news
        })
        .await?;
    match &state.exit {
        Some(exit) => ended(node, &container, exit).await,
        None => Ok(()),
    }
}

/// Writes down how a container ended; the first word on that is the last.
pub async fn ended(node: &Arc<Node>, container: &Arc<Container>, exit: &Ended) -> Result<()> {
    let exit = *exit;
    settle(node, container, move |record| {
        if record.started_at == 0 {
            record.started_at = exit.started_at;
        }
        reason(&exit)
    })
    .await
}

/// Writes an end down and tells of it, unless there is one already.
pub async fn settle(
    node: &Arc<Node>,
    container: &Arc<Container>,
    how: impl FnOnce(&mut ContainerRecord) -> Exit + Send + 'static,
) -> Result<()> {
    if container.record.get().exit.is_some() {
        return Ok(());
    }
    let first = Arc::new(AtomicBool::new(false));
    let mark = Arc::clone(&first);
    container
        .amend(&node.store, move |record| {
            if record.exit.is_some() {
                return false;
            }
            let exit = how(record);
            record.exit = Some(exit);
            mark.store(true, Ordering::Relaxed);
            true
        })
        .await?;
    if first.load(Ordering::Relaxed) {
        node.tell(&container.id, &container.pod.id, ContainerEventType::ContainerStoppedEvent);
    }
    Ok(())
}

fn reason(exit: &Ended) -> Exit {
    let reason = match (exit.oom, exit.code) {
        (true, code) if code != 0 => "OOMKilled",
        (_, 0) => "Completed",
        _ => "Error",
    };
    Exit { code: exit.code, finished_at: exit.finished_at, reason: reason.to_owned(), message: String::new() }
}

/// An end that nobody saw: the monitor or the machine went down before.
pub fn unseen(why: &str) -> Exit {
    let message = format!("{why}; the exit code is not known");
    Exit { code: 255, finished_at: now(), reason: "ContainerStatusUnknown".into(), message }
}

/// The monitor is gone: kills what may be left of its containers, reads its records, marks the pod as stopped.
pub async fn lost(node: &Arc<Node>, pod: &Arc<Pod>) -> Result<()> {
    if pod.record.get().stopped {
        return Ok(());
    }
    if pod.monitor.state().await.is_ok() {
        // Only the connection was lost: it lives and can be followed again.
        follow(node, pod);
        return Ok(());
    }
    for container in node.containers_of(&pod.id) {
        let record = container.record.get();
        if record.exit.is_some() || !record.made {
            continue;
        }
        let (layout, path) = (node.cgroups.clone(), record.cgroup.clone());
        let killed = blocking(move || Ok(Cgroup::at(&layout, Path::new(&path))?.kill_all()?)).await;
        if let Err(why) = killed {
            tracing::error!(pod = pod.id, container = container.id, %why, "a container without a monitor cannot be killed");
        }
        match pod.monitor.exit_record(&container.id)? {
            Some(exit) => ended(node, &container, &exit).await?,
            None => settle(node, &container, |_| unseen("its monitor was killed")).await?,
        }
    }
    pod.amend(&node.store, |record| !std::mem::replace(&mut record.stopped, true)).await?;
    node.tell(&pod.id, &pod.id, ContainerEventType::ContainerStoppedEvent);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_an_end() {
        let with = |code, oom| reason(&Ended { code, oom, finished_at: 5, ..Ended::default() }).reason;
        assert_eq!(with(0, false), "Completed");
        assert_eq!(with(1, false), "Error");
        assert_eq!(with(137, true), "OOMKilled");
        // A process of the container was killed for memory, but the container itself ended well.
        assert_eq!(with(0, true), "Completed");
    }

    #[test]
    fn an_unseen_end_invents_no_code() {
        let exit = unseen("its monitor was killed");
        assert_eq!((exit.code, exit.reason.as_str()), (255, "ContainerStatusUnknown"));
        assert!(exit.message.contains("not known"));
    }
}
