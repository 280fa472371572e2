//! The workers of this node, one a pod: pods from the sources go to their workers, events of the runtime
//! wake them, and a slow relist finds what no event told.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::labels;
use super::worker::{Inputs, Wanted, Worker};
use crate::node::{admission, sync};
use crate::pod;
use crate::shared::Shared;
use crate::source::pods::{Update, key};

/// Where the pods came from: each source tells only of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Api,
    Files,
}

/// A node's labels.
pub(crate) type Labels = BTreeMap<String, String>;

struct Entry {
    source: Source,
    wanted: watch::Sender<Wanted>,
    nudge: mpsc::Sender<()>,
    shown: watch::Receiver<Arc<Pod>>,
    task: Option<tokio::task::Id>,
}

/// What the rest of the kubelet may ask about the pods. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Pods {
    entries: Arc<Mutex<HashMap<String, Entry>>>,
    /// Sources that have told of all their pods once.
    synced: Arc<Mutex<HashSet<Source>>>,
}

impl Pods {
    fn with<T>(&self, use_: impl FnOnce(&mut HashMap<String, Entry>) -> T) -> T {
        use_(&mut self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All pods with their newest status.
    pub(crate) fn all(&self) -> Vec<Arc<Pod>> {
        self.with(|entries| entries.values().map(|e| e.shown.borrow().clone()).collect())
    }

    /// The pod called `name`, of that uid if one is given.
    pub(crate) fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Arc<Pod>> {
        let fits = |p: &Arc<Pod>| {
            pod::namespace(p) == namespace && pod::name(p) == name && uid.is_none_or(|u| pod::uid(p) == u)
        };
        self.all().into_iter().find(fits)
    }

    pub(crate) fn knows(&self, uid: &str) -> bool {
        self.with(|entries| entries.contains_key(uid))
    }

    /// Whether every source in `all` has told of its pods.
    pub(crate) fn are_synced(&self, all: &[Source]) -> bool {
        let synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().all(|s| synced.contains(s))
    }

    /// Wakes the worker of the pod with that uid.
    pub(crate) fn nudge(&self, uid: &str) {
        self.with(|entries| {
            if let Some(entry) = entries.get(uid) {
                // Full means that it is about to look anyway.
                let _ = entry.nudge.try_send(());
            }
        });
    }

    fn nudge_all(&self) {
        self.with(|entries| {
            for entry in entries.values() {
                let _ = entry.nudge.try_send(());
            }
        });
    }
}

/// Runs the workers until `updates` ends.
pub(crate) async fn run(
    shared: Arc<Shared>,
    pods: Pods,
    node_labels: watch::Receiver<Option<Labels>>,
    mut updates: mpsc::Receiver<(Source, Update)>,
) {
    let mut workers: JoinSet<String> = JoinSet::new();
    loop {
        tokio::select! {
            update = updates.recv() => {
                let Some((source, update)) = update else { return };
                let labels = node_labels.borrow().clone().unwrap_or_else(|| sync::labels(&shared));
                take(&shared, &pods, &labels, &mut workers, source, update);
            }
            Some(done) = workers.join_next(), if !workers.is_empty() => {
                match done {
                    Ok(uid) => { pods.with(|e| e.remove(&uid)); }
                    Err(why) => {
                        // A defect of ours: the pod gets a new worker, which finds everything in the runtime.
                        tracing::error!(%why, "a pod's worker failed");
                        let labels = node_labels.borrow().clone().unwrap_or_else(|| sync::labels(&shared));
                        revive(&shared, &pods, &labels, &mut workers, why.id());
                    }
                }
            }
        }
    }
}

/// Gives the pod whose worker was `task` a new one, unless it is gone.
fn revive(shared: &Arc<Shared>, pods: &Pods, labels: &Labels, workers: &mut JoinSet<String>, task: tokio::task::Id) {
    let lost = pods.with(|entries| {
        let uid = entries.iter().find(|(_, e)| e.task == Some(task)).map(|(uid, _)| uid.clone())?;
        entries.remove(&uid)
    });
    let Some(lost) = lost else { return };
    let wanted = lost.wanted.borrow().clone();
    if !wanted.gone {
        set(shared, pods, labels, workers, lost.source, wanted.pod);
    }
}

fn take(
    shared: &Arc<Shared>,
    pods: &Pods,
    labels: &Labels,
    workers: &mut JoinSet<String>,
    source: Source,
    update: Update,
) {
    match update {
        Update::All(all) => {
            let now: HashSet<String> = all.iter().map(|p| key(p)).collect();
            pods.with(|entries| {
                for (uid, entry) in entries.iter().filter(|(_, e)| e.source == source) {
                    if !now.contains(uid) {
                        entry.wanted.send_modify(|w| w.gone = true);
                    }
                }
            });
            // Older first: after a restart those that run already are admitted before those that wait.
            let mut all = all;
            all.sort_by_key(|p| p.metadata.creation_timestamp.as_ref().map(|t| t.0));
            for pod in all {
                set(shared, pods, labels, workers, source, pod);
            }
            pods.synced.lock().unwrap_or_else(PoisonError::into_inner).insert(source);
        }
        Update::Set(pod) => set(shared, pods, labels, workers, source, pod),
        Update::Gone(pod) => pods.with(|entries| {
            if let Some(entry) = entries.get(&key(&pod)) {
                entry.wanted.send_modify(|w| w.gone = true);
            }
        }),
    }
}

fn set(
    shared: &Arc<Shared>,
    pods: &Pods,
    labels: &Labels,
    workers: &mut JoinSet<String>,
    source: Source,
    of: Arc<Pod>,
) {
    // A mirror of a static pod is for people to see; the manifest is what runs.
    let mirrors = of.metadata.annotations.as_ref().is_some_and(|a| a.contains_key("kubernetes.io/config.mirror"));
    if source == Source::Api && mirrors {
        return;
    }
    let uid = key(&of);
    let known = pods.with(|entries| match entries.get(&uid) {
        Some(entry) => {
            entry.wanted.send_modify(|w| {
                w.pod = of.clone();
                w.gone = false;
            });
            true
        }
        None => false,
    });
    if known {
        return;
    }
    let running = pods.all();
    let rejected = admission::judge(&of, &running, labels, &shared.node.allocatable, &shared.config).inspect(
        |(reason, message)| {
            use crate::api::events::Severity;
            shared.events.pod(&of, None, Severity::Warning, "FailedAdmission", format!("{reason}: {message}"));
        },
    );
    tracing::debug!(pod = pod::full_name(&of), uid, ?rejected, "a new pod");
    let (wanted, receive) = watch::channel(Wanted { pod: of.clone(), gone: false, rejected });
    let (nudge, nudges) = mpsc::channel(1);
    let (show, shown) = watch::channel(of);
    pods.with(|entries| entries.insert(uid.clone(), Entry { source, wanted, nudge, shown, task: None }));
    let worker = Worker::new(shared.clone(), Inputs { wanted: receive, nudges, shown: show });
    let id = uid.clone();
    let task = workers.spawn(async move {
        worker.run().await;
        id
    });
    pods.with(|entries| {
        if let Some(entry) = entries.get_mut(&uid) {
            entry.task = Some(task.id());
        }
    });
}

/// Between relists while the runtime gives events, and while it does not.
const SAFETY_NET: Duration = Duration::from_secs(30);
const WITHOUT_EVENTS: Duration = Duration::from_secs(1);

/// Wakes workers by the runtime's events; relists every second where it gives none.
pub(crate) async fn watch_runtime(shared: Arc<Shared>, pods: Pods) {
    loop {
        match shared.cri.events().await {
            Ok(mut events) => {
                // What happened before the stream began was told to nobody.
                pods.nudge_all();
                let mut net = tokio::time::interval(SAFETY_NET);
                net.tick().await;
                let mut states = BTreeMap::new();
                loop {
                    tokio::select! {
                        event = events.message() => match event {
                            Ok(Some(event)) => {
                                let status = event.pod_sandbox_status.as_ref();
                                let by_label = event.containers_statuses.iter().find_map(|c| c.labels.get(labels::POD_UID));
                                let uid = status.and_then(|s| s.metadata.as_ref()).map(|m| &m.uid).or(by_label);
                                match uid {
                                    Some(uid) => pods.nudge(uid),
                                    None => pods.nudge_all(),
                                }
                            }
                            Ok(None) | Err(_) => break,
                        },
                        _ = net.tick() => relist(&shared, &pods, &mut states).await,
                    }
                }
            }
            Err(why) => tracing::debug!(%why, "the runtime gives no events"),
        }
        without_events(&shared, &pods).await;
    }
}

/// Relists for half a minute, then lets events be tried again.
async fn without_events(shared: &Shared, pods: &Pods) {
    let mut states = BTreeMap::new();
    for _ in 0..30 {
        relist(shared, pods, &mut states).await;
        tokio::time::sleep(WITHOUT_EVENTS).await;
        // A runtime that was only restarting answers again soon.
        if states.is_empty() && shared.cri.version().await.is_ok() {
            return;
        }
    }
}

/// Wakes the pods whose containers or sandboxes are in another state than in `states`.
async fn relist(shared: &Shared, pods: &Pods, states: &mut BTreeMap<String, (String, i32)>) {
    let both = tokio::try_join!(shared.cri.sandboxes(&[]), shared.cri.containers(&[]));
    let (sandboxes, containers) = match both {
        Ok(both) => both,
        Err(why) => {
            tracing::debug!(%why, "cannot relist");
            return;
        }
    };
    let of = |labels: &HashMap<String, String>| labels.get(labels::POD_UID).cloned().unwrap_or_default();
    let now: BTreeMap<String, (String, i32)> = sandboxes
        .iter()
        .map(|s| (s.id.clone(), (of(&s.labels), s.state)))
        .chain(containers.iter().map(|c| (c.id.clone(), (of(&c.labels), c.state))))
        .collect();
    let changed = now.iter().filter(|(id, what)| states.get(*id) != Some(what));
    let gone = states.iter().filter(|(id, _)| !now.contains_key(*id));
    for (_, (uid, _)) in changed.chain(gone) {
        pods.nudge(uid);
    }
    *states = now;
}
