//! One pod's worker: a task that owns everything about the pod. It looks at the runtime, decides, has the
//! plan carried out, and says the status; then waits for the next thing to happen: a change of the pod, an
//! event of the runtime, a probe's verdict, news of its own job, or the time that the plan named.
//!
//! ```text
//!   running ──(deletionTimestamp, or gone from the API)──> ending ──(nothing runs, status said)──> over
//! ```

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::actions::{self, Action, Facts, Plan};
use super::apply::{Job, News};
use super::memory::Memory;
use super::seen::{self, State, View};
use super::status::{self, Around};
use super::writer::Writer;
use super::{ending, logs};
use crate::api::events::Severity;
use crate::clock::plus;
use crate::pod;
use crate::probes::{Probes, Verdict};
use crate::shared::Shared;
use crate::volumes;

/// The pod as it is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub pod: Arc<Pod>,
    /// It is no longer in its source: end it without telling anyone.
    pub gone: bool,
    /// Why the node does not take it: reason and message.
    pub rejected: Option<(String, String)>,
}

/// What a worker is driven by.
pub(crate) struct Inputs {
    pub wanted: watch::Receiver<Wanted>,
    /// Something about the pod may have changed in the runtime.
    pub nudges: mpsc::Receiver<()>,
    /// The last statuses and what the runtime has, for the HTTPS endpoint.
    pub shown: watch::Sender<Arc<Pod>>,
}

/// See the module.
pub(crate) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) inputs: Inputs,
    pub(super) pod: Arc<Pod>,
    pub(super) view: View,
    pub(super) memory: Memory,
    pub(super) writer: Writer,
    probes: Probes,
    verdicts: mpsc::UnboundedReceiver<Verdict>,
    job: JoinSet<()>,
    stop: CancellationToken,
    news: (mpsc::UnboundedSender<News>, mpsc::UnboundedReceiver<News>),
    renew_at: Option<Timestamp>,
    /// Changes of the ConfigMaps and Secrets that the pod refers to.
    followed: JoinSet<()>,
    changes: (mpsc::Sender<()>, mpsc::Receiver<()>),
    is_ready: bool,
    /// The last plan carried out, and on what view: the same again has to wait.
    tried: Option<(String, View)>,
    unseen: bool,
    volumes_stale: bool,
    /// The pod is finished and what it does not need any more was given back.
    released: bool,
    told_deadline: bool,
}

enum Happened {
    Wanted,
    Nudge,
    Verdict(Verdict),
    News(News),
    JobDone,
    Changed,
    Time,
}

/// The wait before the runtime is asked again after it failed to answer.
const RUNTIME_AWAY: Duration = Duration::from_secs(1);

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, inputs: Inputs) -> Self {
        let (send, verdicts) = mpsc::unbounded_channel();
        let pod = inputs.wanted.borrow().pod.clone();
        shared.timings.seen(&pod);
        Self {
            writer: Writer::new(shared.api.clone(), &pod),
            probes: Probes::new(shared.clone(), send),
            view: View::default(),
            memory: Memory::default(),
            job: JoinSet::new(),
            stop: CancellationToken::new(),
            news: mpsc::unbounded_channel(),
            renew_at: None,
            followed: JoinSet::new(),
            changes: mpsc::channel(1),
            is_ready: false,
            tried: None,
            unseen: true,
            // A kubelet that was restarted does not know when the tokens of its pods run out.
            volumes_stale: true,
            released: false,
            told_deadline: false,
            verdicts,
            pod,
            inputs,
            shared,
        }
    }

    /// Runs until the pod is over and gone from its source.
    pub(crate) async fn run(mut self) {
        self.follow_objects();
        loop {
            self.take_wanted();
            if self.is_ending() {
                return self.end().await;
            }
            if self.unseen && !self.look().await {
                tokio::time::sleep(RUNTIME_AWAY).await;
                continue;
            }
            let look_at = self.step();
            let happened = self.wait(look_at).await;
            self.take(happened);
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.inputs.wanted.borrow().gone || self.pod.metadata.deletion_timestamp.is_some()
    }

    fn take_wanted(&mut self) {
        let wanted = self.inputs.wanted.borrow_and_update().clone();
        self.pod = wanted.pod;
        if self.memory.ended.is_none() {
            self.memory.ended = wanted.rejected;
        }
    }

    /// Asks the runtime; false when it did not answer.
    pub(super) async fn look(&mut self) -> bool {
        match seen::look(&self.shared.cri, pod::uid(&self.pod), &self.view).await {
            Ok(view) => {
                self.view = view;
                self.unseen = false;
                logs::read_terminations(&self.shared, &self.pod, &mut self.view);
                let alive = |id: &String| self.view.running().any(|c| c.id == *id);
                self.memory.health.retain(|id, _| alive(id));
                self.adopt();
                true
            }
            Err(why) => {
                tracing::warn!(pod = pod::full_name(&self.pod), %why, "cannot look at the pod");
                false
            }
        }
    }

    /// Containers that ran before this kubelet keep the readiness the API has of them until a probe says
    /// otherwise: a restart of the kubelet is no reason to take a pod out of service.
    fn adopt(&mut self) {
        let Some(old) = self.pod.status.as_ref() else { return };
        for (role, c) in pod::ordered(&self.pod) {
            let Some(seen) = self.view.newest(&c.name).filter(|s| s.state == State::Running) else { continue };
            let Some(before) = status::previous(old, role, &c.name) else { continue };
            let same = before.container_id.as_deref().is_some_and(|id| id.ends_with(&format!("//{}", seen.id)));
            if same && !self.memory.health.contains_key(&seen.id) {
                let health = self.memory.health.entry(seen.id.clone()).or_default();
                health.started = before.started.filter(|s| *s);
                health.ready = Some(before.ready).filter(|r| *r);
            }
        }
    }

    pub(super) fn facts(&self) -> Facts<'_> {
        Facts { pod: &self.pod, view: &self.view, memory: &self.memory, now: self.shared.clock.now() }
    }

    /// Decides, sets the plan to work, says the status; returns when to look again.
    fn step(&mut self) -> Option<Timestamp> {
        let mut plan = actions::decide(self.facts());
        if self.volumes_stale && self.job.is_empty() && !plan.done {
            self.volumes_stale = false;
            self.refresh_volumes();
        }
        self.say(&plan, false);
        self.note_back_off(&plan);
        self.note_deadline(&plan);
        if plan.done && plan.actions.is_empty() && self.job.is_empty() && !self.released {
            self.release();
        }
        if self.job.is_empty() && !plan.actions.is_empty() {
            let text = plan.to_string();
            if self.tried.as_ref().is_some_and(|(t, v)| *t == text && *v == self.view) {
                // It changed nothing the last time; something outside has to move first.
                let at = plus(self.shared.clock.now(), 1);
                plan.look_at = Some(plan.look_at.map_or(at, |p| p.min(at)));
                self.tried = None;
            } else {
                self.tried = Some((text, self.view.clone()));
                self.start_job(std::mem::take(&mut plan.actions));
            }
        }
        match (plan.look_at, self.renew_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn start_job(&mut self, actions: Vec<Action>) {
        let now = self.shared.clock.now();
        for action in &actions {
            if let Action::Start { name, .. } = action
                && self.view.newest(name).is_some_and(|s| s.state == State::Exited)
            {
                self.memory.restarting(name, now);
            }
        }
        tracing::debug!(pod = pod::full_name(&self.pod), ?actions, "carrying out");
        let job = Job {
            shared: self.shared.clone(),
            pod: self.pod.clone(),
            view: self.view.clone(),
            actions,
            stop: self.stop.clone(),
            news: self.news.0.clone(),
        };
        self.job.spawn(job.run());
    }

    /// Computes the status, hands it to the writer, and keeps the probes in step.
    pub(super) fn say(&mut self, plan: &Plan, ending: bool) {
        let around = Around { runtime: self.shared.node.runtime_name(), node_ips: self.shared.node.ips(), ending };
        let status = status::compute(self.facts(), plan, &around);
        self.probes.sync(&self.pod, &self.view, &self.memory, ending);
        let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        if ready && !self.is_ready {
            self.shared.timings.ready(&self.pod);
        }
        self.is_ready = ready;
        let mut shown = (*self.pod).clone();
        shown.status = Some(status.clone());
        self.inputs.shown.send_replace(Arc::new(shown));
        self.writer.want(status);
    }

    /// An event when the pod's time is up.
    fn note_deadline(&mut self, plan: &Plan) {
        let passed = actions::deadline(&self.pod).is_some_and(|at| at <= self.shared.clock.now());
        if plan.done && passed && !pod::is_finished(&self.pod) && !self.told_deadline {
            self.told_deadline = true;
            self.shared.events.pod(&self.pod, None, Severity::Normal, "DeadlineExceeded", status::OVERDUE.into());
        }
    }

    /// A BackOff event when a container begins to wait.
    fn note_back_off(&mut self, plan: &Plan) {
        for (name, waiting) in &plan.waiting {
            let (severity, message) = match waiting.reason {
                "CrashLoopBackOff" => (
                    Severity::Warning,
                    format!(
                        "Back-off restarting failed container {name} in pod {}_{}({})",
                        pod::name(&self.pod),
                        pod::namespace(&self.pod),
                        pod::uid(&self.pod)
                    ),
                ),
                "ImagePullBackOff" => {
                    let image = pod::container(&self.pod, name).and_then(|(_, c)| c.image).unwrap_or_default();
                    (Severity::Normal, format!("Back-off pulling image {image:?}"))
                }
                _ => continue,
            };
            self.shared.events.pod(&self.pod, Some(name), severity, "BackOff", message);
        }
    }

    async fn wait(&mut self, look_at: Option<Timestamp>) -> Happened {
        let clock = self.shared.clock.clone();
        let timer = async {
            match look_at {
                Some(at) => clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = self.inputs.wanted.changed() => {
                // The pool dropped its end: it is shutting down, and aborts this task.
                if changed.is_err() { std::future::pending::<()>().await; }
                Happened::Wanted
            }
            Some(news) = self.news.1.recv() => Happened::News(news),
            Some(_) = self.job.join_next(), if !self.job.is_empty() => Happened::JobDone,
            Some(verdict) = self.verdicts.recv() => Happened::Verdict(verdict),
            Some(()) = self.inputs.nudges.recv() => Happened::Nudge,
            Some(()) = self.changes.1.recv() => Happened::Changed,
            () = timer => Happened::Time,
        }
    }

    fn take(&mut self, happened: Happened) {
        match happened {
            Happened::Wanted | Happened::Time => {
                let now = self.shared.clock.now();
                if self.renew_at.is_some_and(|at| at <= now) {
                    self.renew_at = None;
                    self.volumes_stale = true;
                }
            }
            Happened::Nudge | Happened::JobDone => self.unseen = true,
            Happened::Verdict(verdict) => {
                verdict.apply(self.memory.health.entry(verdict.id.clone()).or_default());
            }
            Happened::News(news) => self.take_news(news),
            Happened::Changed => {
                // What failed for want of an object may have it now.
                let waits = ["CreateContainerConfigError", "ContainerCreating"];
                self.memory.failures.retain(|_, f| !waits.contains(&f.reason));
                self.volumes_stale = true;
            }
        }
    }

    fn take_news(&mut self, news: News) {
        match news {
            News::Look => self.unseen = true,
            News::Failed { name, reason, message } => {
                tracing::debug!(pod = pod::full_name(&self.pod), name, reason, message, "start failed");
                let now = self.shared.clock.now();
                self.memory.failed(&name, reason, message, now);
                self.unseen = true;
            }
            News::Started { name } => {
                self.memory.failures.remove(&name);
                self.memory.failures.remove("");
                self.unseen = true;
            }
            News::Hook { id, runs: true } => drop(self.memory.hooked.insert(id)),
            News::Hook { id, runs: false } => drop(self.memory.hooked.remove(&id)),
            News::Volumes(volumes) => self.renew_at = volumes.renew_at,
        }
    }

    /// Volumes and cgroup of a pod that will not run again; its logs and messages stay until it is deleted.
    fn release(&mut self) {
        self.released = true;
        let (shared, uid) = (self.shared.clone(), pod::uid(&self.pod).to_string());
        self.job.spawn_blocking(move || {
            if let Err(why) = volumes::release(&shared.config.root_dir, &uid) {
                tracing::warn!(uid, %why, "volumes of a finished pod stay for now");
            }
            shared.cgroups.remove_pod(&uid);
        });
    }

    /// Writes volumes whose ConfigMaps, Secrets or tokens are new.
    fn refresh_volumes(&mut self) {
        if self.view.sandbox().is_none() {
            return;
        }
        let (shared, pod, news) = (self.shared.clone(), self.pod.clone(), self.news.0.clone());
        self.job.spawn(async move {
            match volumes::set_up(&shared, &pod).await {
                // The worker may be gone already.
                Ok(volumes) => drop(news.send(News::Volumes(volumes))),
                Err(why) => shared.events.pod(&pod, None, Severity::Warning, "FailedMount", why.to_string()),
            }
        });
    }

    /// Follows every ConfigMap and Secret that the pod refers to.
    fn follow_objects(&mut self) {
        let spec = pod::spec(&self.pod);
        let mut wanted: Vec<_> = spec.volumes.iter().flatten().flat_map(volumes::content::references).collect();
        wanted.extend(pod::ordered(&self.pod).flat_map(|(_, c)| super::env::references(c)));
        wanted.sort();
        wanted.dedup();
        for (kind, name) in wanted {
            let Ok(followed) = self.shared.objects.follow(kind, pod::namespace(&self.pod), &name) else { continue };
            let say = self.changes.0.clone();
            self.followed.spawn(async move {
                loop {
                    followed.changed().await;
                    // Full means that a change is already waiting to be taken.
                    let _ = say.try_send(());
                }
            });
        }
    }

    /// Stops what is in flight, then ends the pod; see `ending`.
    async fn end(mut self) {
        self.stop.cancel();
        while self.job.join_next().await.is_some() {}
        self.memory.hooked.clear();
        ending::run(self).await;
    }
}
