//! DO: carries out a plan against the runtime. Independent things run at once: cgroup and sandbox, volumes,
//! and every image; each container is made as soon as its image, the sandbox and the volumes are there. The
//! next container waits only for a postStart hook of the one before. What happened is told as news.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared as SharedFuture, join_all};
use gantry_cri_api as cri;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::actions::Action;
use super::make::{self, Place};
use super::seen::View;
use super::stop::{self, Victim};
use super::timing::Stage;
use super::{images, sandbox};
use crate::api::events::Severity;
use crate::pod;
use crate::shared::Shared;
use crate::volumes::{self, Volumes};

/// What the worker is told while its plan is carried out.
#[derive(Debug)]
pub(crate) enum News {
    /// Something in the runtime changed: look.
    Look,
    /// A start failed; "" is the sandbox.
    Failed { name: String, reason: &'static str, message: String },
    /// The container runs.
    Started { name: String },
    /// The container's postStart hook is about to run, or has ended.
    Hook { id: String, runs: bool },
    /// Volumes are ready; tokens among them are to be renewed at that time.
    Volumes(Volumes),
}

/// One plan being carried out.
pub(crate) struct Job {
    pub shared: Arc<Shared>,
    pub pod: Arc<Pod>,
    pub view: View,
    pub actions: Vec<Action>,
    /// The pod is to end: start nothing more.
    pub stop: CancellationToken,
    pub news: mpsc::UnboundedSender<News>,
}

/// The sandbox with its volumes, or nothing: then the news said why.
type Base = Option<Arc<Place>>;

impl Job {
    fn tell(&self, news: News) {
        // The worker may be gone already; then nobody wants the news.
        let _ = self.news.send(news);
    }

    fn failed(&self, name: &str, reason: &'static str, message: String) {
        self.tell(News::Failed { name: name.to_string(), reason, message });
    }

    /// A sandbox that could not be made: an event for people, news for the worker.
    fn sandbox_failed(&self, why: &dyn std::fmt::Display) {
        let (reason, message) = ("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {why}"));
        self.event("", Severity::Warning, reason, message);
        self.failed("", reason, why.to_string());
    }

    fn event(&self, name: &str, severity: Severity, reason: &'static str, message: String) {
        self.shared.events.pod(&self.pod, Some(name).filter(|n| !n.is_empty()), severity, reason, message);
    }

    /// Carries everything out; never fails, failures are news.
    pub(crate) async fn run(self) {
        self.stop_things().await;
        if self.stop.is_cancelled() {
            return;
        }
        let attempt = self.actions.iter().find_map(|a| match a {
            Action::Sandbox { attempt } => Some(*attempt),
            _ => None,
        });
        let current = self.view.sandbox().map(|s| (s.id.clone(), s.ips.clone())).filter(|_| attempt.is_none());
        let number = attempt.or(self.view.sandbox().map(|s| s.attempt)).unwrap_or(0);
        let starts = self.actions.iter().any(|a| matches!(a, Action::Start { .. } | Action::Resume { .. }));
        if !starts && attempt.is_none() {
            return;
        }
        let config = match make::sandbox_config(&self.shared, &self.pod, number).await {
            Ok(config) => config,
            Err(why) => {
                return self.sandbox_failed(&why);
            }
        };
        let base: BoxFuture<'_, Base> = self.base(current, config.clone()).boxed();
        let base = base.shared();
        let mut before: Option<Arc<Notify>> = None;
        let mut pipelines = Vec::new();
        for action in &self.actions {
            let (name, restarts, id) = match action {
                Action::Start { name, restarts } => (name, *restarts, None),
                Action::Resume { name, id } => (name, 0, Some(id.clone())),
                _ => continue,
            };
            let Some((role, c)) = pod::container(&self.pod, name) else { continue };
            let hooked = c.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some());
            let done = Arc::new(Notify::new());
            let gate = before.clone();
            if hooked {
                before = Some(done.clone());
            }
            let (base, config, job) = (base.clone(), &config, &self);
            pipelines.push(async move {
                job.container(role, c, restarts, id, base, config, gate).await;
                done.notify_one();
            });
        }
        // With no container to start the sandbox is still to be made.
        let (_, _) = futures_util::join!(base, join_all(pipelines));
    }

    async fn stop_things(&self) {
        let grace = pod::grace(&self.pod);
        let victims: Vec<Victim> = self
            .actions
            .iter()
            .filter_map(|action| match action {
                Action::Kill { id, why, grace: own, .. } => {
                    let seen = self.view.containers.iter().find(|c| c.id == *id)?.clone();
                    Some(Victim { seen, why: why.clone(), grace: own.unwrap_or(grace) })
                }
                _ => None,
            })
            .collect();
        let any = !victims.is_empty();
        if let Err(why) = stop::containers(&self.shared, &self.pod, &self.view, victims).await {
            tracing::warn!(pod = pod::full_name(&self.pod), %why, "cannot stop a container");
        }
        for action in &self.actions {
            if let Action::StopSandbox { id } = action
                && let Err(why) = self.shared.cri.stop_sandbox(id).await
            {
                tracing::warn!(pod = pod::full_name(&self.pod), %why, "cannot stop a sandbox");
            }
        }
        if any {
            self.tell(News::Look);
        }
    }

    /// Sandbox and volumes, at once.
    async fn base(&self, current: Option<(String, Vec<String>)>, config: cri::PodSandboxConfig) -> Base {
        let timings = &self.shared.timings;
        let volumes = timings.stage(&self.pod, Stage::Volumes, volumes::set_up(&self.shared, &self.pod));
        let sandbox = async {
            match current {
                Some(known) => Ok(known),
                None => {
                    let made =
                        timings.stage(&self.pod, Stage::Sandbox, make::sandbox(&self.shared, &self.pod, config)).await;
                    self.tell(News::Look);
                    made
                }
            }
        };
        let (sandbox, volumes) = tokio::join!(sandbox, volumes);
        let (id, ips) = match sandbox {
            Ok(made) => made,
            Err(why) => {
                self.sandbox_failed(&why);
                return None;
            }
        };
        let volumes = match volumes {
            Ok(volumes) => volumes,
            Err(why) => {
                self.event("", Severity::Warning, "FailedMount", why.to_string());
                for action in &self.actions {
                    if let Action::Start { name, .. } | Action::Resume { name, .. } = action {
                        self.failed(name, "ContainerCreating", String::new());
                    }
                }
                return None;
            }
        };
        self.tell(News::Volumes(volumes.clone()));
        let hosts = make::hosts_file(&self.shared, &self.pod, &ips);
        match hosts {
            Ok(hosts) => Some(Arc::new(Place { sandbox: id, ips, volumes, hosts })),
            Err(why) => {
                self.failed("", "FailedCreatePodSandBox", why.to_string());
                None
            }
        }
    }

    /// One container from its image to its postStart hook.
    #[allow(clippy::too_many_arguments, reason = "one pipeline, called from one place")]
    async fn container(
        &self,
        role: pod::Role,
        c: Container,
        restarts: u32,
        made: Option<String>,
        base: SharedFuture<BoxFuture<'_, Base>>,
        config: &cri::PodSandboxConfig,
        gate: Option<Arc<Notify>>,
    ) {
        let image = match &made {
            Some(_) => None,
            None => {
                let ensure = self.shared.timings.stage(
                    &self.pod,
                    Stage::Image,
                    images::ensure(&self.shared, &self.pod, &c, config),
                );
                let ready = tokio::select! {
                    ready = ensure => ready,
                    () = self.stop.cancelled() => return,
                };
                match ready {
                    Ok(ready) => Some(ready),
                    Err((reason, message)) => return self.failed(&c.name, reason, message),
                }
            }
        };
        let Some(place) = base.await else { return };
        if self.stop.is_cancelled() {
            return;
        }
        let id = match (made, image) {
            (Some(id), _) => id,
            (None, Some(image)) => {
                let request =
                    make::Request { role, container: &c, restarts, image: &image, place: &place, view: &self.view };
                let create = make::container(&self.shared, &self.pod, request, config);
                match self.shared.timings.stage(&self.pod, Stage::Create, create).await {
                    Ok(id) => id,
                    Err((reason, why)) => {
                        self.event(&c.name, Severity::Warning, "Failed", format!("Error: {why}"));
                        return self.failed(&c.name, reason, why.to_string());
                    }
                }
            }
            (None, None) => return,
        };
        self.event(&c.name, Severity::Normal, "Created", format!("Created container: {}", c.name));
        if let Some(gate) = gate {
            gate.notified().await;
            // One notice may be waited for by several: pass it on.
            gate.notify_one();
        }
        if !self.stop.is_cancelled() {
            self.start(&c, &id, place.ips.first().map(String::as_str)).await;
        }
    }

    async fn start(&self, c: &Container, id: &str, ip: Option<&str>) {
        let hook = c.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
        // Told before the start: nobody may see the container as running without its hook.
        if hook.is_some() {
            self.tell(News::Hook { id: id.to_string(), runs: true });
        }
        let start = self.shared.cri.start_container(id);
        if let Err(why) = self.shared.timings.stage(&self.pod, Stage::Start, start).await {
            self.event(&c.name, Severity::Warning, "Failed", format!("Error: {why}"));
            self.tell(News::Hook { id: id.to_string(), runs: false });
            return self.failed(&c.name, "RunContainerError", why.to_string());
        }
        self.event(&c.name, Severity::Normal, "Started", format!("Started container {}", c.name));
        self.tell(News::Started { name: c.name.clone() });
        let Some(hook) = hook else { return };
        let limit = std::time::Duration::from_secs(24 * 3600);
        let ran = tokio::select! {
            ran = super::hooks::run(&self.shared, c, id, ip, hook, limit) => ran,
            () = self.stop.cancelled() => return,
        };
        if let Err(why) = ran {
            self.event(&c.name, Severity::Warning, "FailedPostStartHook", format!("PostStartHook failed: {why}"));
            self.event(&c.name, Severity::Normal, "Killing", "FailedPostStartHook".into());
            if let Err(why) = self.shared.cri.stop_container(id, pod::grace(&self.pod)).await {
                tracing::warn!(pod = pod::full_name(&self.pod), %why, "cannot stop a container");
            }
            self.tell(News::Look);
        }
        // Only now: a container whose hook failed is never seen as running.
        self.tell(News::Hook { id: id.to_string(), runs: false });
    }
}

/// Whether `of` has a hosts file of its own, and the text.
pub(crate) fn hosts_text(of: &Pod, ips: &[String], domain: &str) -> Option<String> {
    if !pod::is_host_network(of) {
        return Some(sandbox::etc_hosts(of, ips, domain));
    }
    let aliases = sandbox::aliases(of);
    (!aliases.is_empty()).then(|| std::fs::read_to_string("/etc/hosts").unwrap_or_default() + &aliases)
}
