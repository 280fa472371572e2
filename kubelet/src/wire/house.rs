//! A kubelet between its two fakes, in a directory of its own.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::fake_api::FakeApi;
use super::fake_cri::FakeCri;
use crate::Config;
use crate::clock::Clock;
use crate::testing::TempDir;

/// The second at which the manual clock begins.
const BEGIN: i64 = 1_700_000_000;
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct House {
    pub api: FakeApi,
    pub cri: FakeCri,
    pub dir: TempDir,
    pub port: u16,
    /// PEM of the CA that clients are believed by, if any.
    pub client_ca: Option<String>,
    seconds: Arc<AtomicI64>,
    clock: watch::Sender<Timestamp>,
    running: Option<(CancellationToken, JoinHandle<crate::Result<()>>)>,
    serving: JoinHandle<()>,
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("a time")
}

impl House {
    /// Both fakes and a kubelet on node n1.
    pub(super) async fn new(name: &str) -> Self {
        let mut house = Self::empty(name).await;
        house.start().await;
        house
    }

    /// Both fakes, no kubelet yet.
    pub(super) async fn empty(name: &str) -> Self {
        let dir = TempDir::new(name);
        let seconds = Arc::new(AtomicI64::new(BEGIN));
        let stamp = seconds.clone();
        let cri = FakeCri::new(move || stamp.load(Ordering::SeqCst) * 1_000_000_000);
        let serving = cri.serve(&dir.path().join("cri.sock"));
        let api = FakeApi::start().await;
        let kubeconfig = format!(
            "current-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: \"http://{}\"}}}}]\nusers: [{{name: u, user: {{}}}}]\n",
            api.address
        );
        std::fs::write(dir.path().join("kubeconfig"), kubeconfig).expect("kubeconfig");
        let clock = watch::channel(at(BEGIN)).0;
        Self { api, cri, dir, port: 0, client_ca: None, seconds, clock, running: None, serving }
    }

    pub(super) async fn start(&mut self) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        self.port = listener.local_addr().expect("address").port();
        let at = |name: &str| self.dir.path().join(name);
        if let Some(pem) = &self.client_ca {
            std::fs::write(at("ca.crt"), pem).expect("ca");
        }
        let config = Config {
            kubeconfig: Some(at("kubeconfig")),
            cri_socket: at("cri.sock"),
            node_name: "n1".into(),
            node_ip: Some("127.0.0.1".parse().expect("ip")),
            root_dir: at("root"),
            pod_logs_dir: at("logs"),
            listener: Some(listener),
            client_ca: self.client_ca.as_ref().map(|_| at("ca.crt")),
            create_cgroups: false,
            garbage_interval_seconds: 1,
            ..Config::default()
        };
        let shutdown = CancellationToken::new();
        let clock = Clock::Manual(self.clock.subscribe());
        let task = tokio::spawn(crate::run::start(config, clock, shutdown.clone()));
        self.running = Some((shutdown, task));
    }

    /// Stops the kubelet; its containers run on.
    pub(super) async fn stop(&mut self) {
        let (shutdown, task) = self.running.take().expect("it runs");
        shutdown.cancel();
        task.await.expect("no panic").expect("no error");
    }

    /// Moves the kubelet's clock.
    pub(super) fn pass(&self, seconds: i64) {
        let now = self.seconds.fetch_add(seconds, Ordering::SeqCst) + seconds;
        self.clock.send_replace(at(now));
    }

    /// Creates a pod bound to n1, as the scheduler leaves it.
    pub(super) fn pod(&self, name: &str, mut spec: Value) {
        spec["nodeName"] = "n1".into();
        let metadata = json!({"name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1});
        self.api.put("pods", json!({"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}));
    }

    pub(super) fn status(&self, name: &str) -> Value {
        self.api.get("pods", "default", name).map(|p| p["status"].clone()).unwrap_or_default()
    }

    /// Waits until `holds`; panics with what is there when it never does.
    pub(super) async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds() {
            if tokio::time::Instant::now() > deadline {
                panic!("never: {what}\npods: {:#?}\nruntime: {:#?}", self.api.all("pods"), self.cri.world().log);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) async fn until_ready(&self, name: &str) {
        self.until("the pod is ready", || condition(&self.status(name), "Ready") == "True").await;
    }

    /// Waits until the container's state has this word: `running`, a waiting reason or a terminated reason.
    pub(super) async fn until_state(&self, name: &str, word: &str) {
        self.until(word, || state(&self.status(name)["containerStatuses"][0]) == word).await;
    }

    /// Reasons of the events about the pod, in order.
    pub(super) fn reasons(&self) -> Vec<String> {
        let mut events = self.api.all("events");
        events.retain(|e| e["involvedObject"]["kind"] == "Pod");
        events.sort_by_key(|e| e["metadata"]["name"].as_str().map(str::to_string));
        events.iter().filter_map(|e| e["reason"].as_str().map(str::to_string)).collect()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.running {
            task.abort();
        }
        self.serving.abort();
    }
}

pub(super) fn condition(status: &Value, kind: &str) -> String {
    let all = status["conditions"].as_array();
    let found = all.into_iter().flatten().find(|c| c["type"] == kind);
    found.and_then(|c| c["status"].as_str()).unwrap_or("-").to_string()
}

pub(super) fn state(container: &Value) -> String {
    let state = &container["state"];
    if !state["running"].is_null() {
        return "running".into();
    }
    let word = |kind: &str| state[kind]["reason"].as_str().map(str::to_string);
    word("waiting").or(word("terminated")).unwrap_or_default()
}
