//! Decisions as text: a pod and what is seen of it on the left, the plan on the right.

use serde_json::{Value, json};

use super::*;
use crate::pods::memory::Health;
use crate::pods::seen::Sandbox;

struct Case {
    pod: Pod,
    view: View,
    memory: Memory,
    now: i64,
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("a time")
}

fn case(spec: Value) -> Case {
    let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec});
    Case {
        pod: serde_json::from_value(pod).expect("a pod"),
        view: View::default(),
        memory: Memory::default(),
        now: 1000,
    }
}

impl Case {
    fn sandbox(mut self, id: &str, ready: bool) -> Self {
        let attempt = self.view.sandboxes.len() as u32;
        let sandbox =
            Sandbox { id: id.into(), attempt, ready, created_at: 1, ips: vec!["10.0.0.2".into()], host_network: false };
        self.view.sandboxes.insert(0, sandbox);
        self
    }

    /// A container in the newest sandbox: `+` running, `.` created, a number: exited with it.
    fn has(mut self, name: &str, state: &str) -> Self {
        let code = state.parse().unwrap_or(0);
        let before = self.view.newest(name).map(|s| s.restarts + 1);
        let hash = pod::container(&self.pod, name).map(|(_, c)| labels::hash(&c)).unwrap_or_default();
        let seen = Seen {
            id: format!("{name}{}", before.unwrap_or(0)),
            name: name.into(),
            sandbox: self.view.sandboxes[0].id.clone(),
            state: match state {
                "+" => State::Running,
                "." => State::Created,
                _ => State::Exited,
            },
            restarts: before.unwrap_or(0),
            created_at: 1,
            started_at: 1,
            finished_at: 990 * 1_000_000_000,
            exit_code: code,
            reason: String::new(),
            message: String::new(),
            image: String::new(),
            image_ref: String::new(),
            image_id: String::new(),
            hash,
            log_path: String::new(),
            said: String::new(),
            user: None,
        };
        self.view.containers.insert(0, seen);
        self
    }

    fn says(&self, want: &str) {
        let facts = Facts { pod: &self.pod, view: &self.view, memory: &self.memory, now: at(self.now) };
        assert_eq!(decide(facts).to_string(), want);
    }
}

fn two(policy: &str) -> Case {
    case(json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]}))
}

#[test]
fn a_new_pod_gets_a_sandbox_and_all_its_containers() {
    two("Always").says("sandbox 0\nstart a 0\nstart b 0\n");
    two("Always").sandbox("s", true).has("a", "+").says("start b 0\n");
    two("Always").sandbox("s", true).has("a", "+").has("b", "+").says("");
}

#[test]
fn restart_policies() {
    let over = |policy: &str, a: &str, b: &str| two(policy).sandbox("s", true).has("a", a).has("b", b);
    over("Always", "0", "+").says("start a 1\n");
    over("OnFailure", "0", "+").says("");
    over("OnFailure", "7", "0").says("start a 1\n");
    over("OnFailure", "0", "0").says("stop-sandbox s\ndone\n");
    over("Never", "7", "+").says("");
    over("Never", "7", "0").says("stop-sandbox s\ndone\n");
}

#[test]
fn a_crash_loop_waits_and_then_goes_on() {
    let mut c = two("Always").sandbox("s", true).has("a", "1").has("b", "+");
    c.memory.restarting("a", at(985));
    c.now = 995;
    c.says("wait a CrashLoopBackOff\nlook 1000\n");
    c.now = 1000;
    c.says("start a 1\n");
}

#[test]
fn failed_starts_wait_with_their_reason() {
    let mut c = two("Always").sandbox("s", true).has("b", "+");
    c.memory.failed("a", "ErrImagePull", "no such image".into(), at(1000));
    c.says("wait a ErrImagePull\nlook 1002\n");
    c.now = 1003;
    c.says("wait a ImagePullBackOff\nlook 1010\n");
    c.now = 1010;
    c.says("start a 0\n");
    let mut c = two("Always").sandbox("s", true).has("b", "+");
    c.memory.failed("a", "CreateContainerConfigError", "configmap \"x\" not found".into(), at(1000));
    c.says("wait a CreateContainerConfigError\nlook 1010\n");
}

#[test]
fn a_lost_sandbox_is_replaced_with_all_that_ran_in_it() {
    two("Always")
        .sandbox("s", false)
        .has("a", "137")
        .has("b", "+")
        .says("kill b b0: the sandbox changed\nsandbox 1\nstart a 1\n");
    two("Never").sandbox("s", false).has("a", "0").has("b", "1").says("done\n");
    let mut c = two("Always").sandbox("s", true);
    c.view.sandboxes[0].ips.clear();
    c.says("stop-sandbox s\nsandbox 1\nstart a 0\nstart b 0\n");
    c.pod.spec.as_mut().expect("spec").host_network = Some(true);
    c.says("start a 0\nstart b 0\n");
}

#[test]
fn a_failed_sandbox_waits() {
    let mut c = two("Always");
    c.memory.failed("", "FailedCreatePodSandBox", "no network".into(), at(1000));
    c.says("look 1001\n");
    c.now = 1001;
    c.says("sandbox 0\nstart a 0\nstart b 0\n");
}

fn with_inits(policy: &str) -> Case {
    case(json!({"restartPolicy": policy, "containers": [{"name": "a"}],
        "initContainers": [{"name": "i"}, {"name": "side", "restartPolicy": "Always"}, {"name": "j"}]}))
}

#[test]
fn init_containers_go_one_by_one() {
    with_inits("Always").says("sandbox 0\nstart i 0\n");
    let c = || with_inits("Always").sandbox("s", true);
    c().has("i", "+").says("");
    c().has("i", "1").says("start i 1\n");
    c().has("i", "0").says("start side 0\n");
    c().has("i", "0").has("side", "+").says("start j 0\n");
    c().has("i", "0").has("side", "+").has("j", "+").says("");
    c().has("i", "0").has("side", "+").has("j", "0").says("start a 0\n");
    c().has("i", "0").has("side", "1").has("j", "0").has("a", "+").says("start side 1\n");
    c().has("side", "+").has("a", "+").says("");
}

#[test]
fn an_init_container_that_may_not_restart_fails_the_pod() {
    with_inits("Never").sandbox("s", true).has("i", "3").says("stop-sandbox s\ndone\n");
    with_inits("Never").sandbox("s", false).has("i", "3").says("done\n");
}

#[test]
fn sidecars_end_with_the_main_containers() {
    with_inits("Never")
        .sandbox("s", true)
        .has("side", "+")
        .has("a", "0")
        .says("kill side side0\nstop-sandbox s\ndone\n");
}

#[test]
fn a_sidecar_holds_the_next_until_its_startup_probe_passed() {
    let mut c = case(json!({"containers": [{"name": "a"}], "initContainers": [
        {"name": "side", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 1}}}]}))
    .sandbox("s", true)
    .has("side", "+");
    c.says("");
    c.memory.health.insert("side0".into(), Health { started: Some(true), ..Health::default() });
    c.says("start a 0\n");
}

#[test]
fn unhealthy_and_changed_containers_are_killed() {
    let mut c = two("Always").sandbox("s", true).has("a", "+").has("b", "+");
    let health = Health { unhealthy: Some("failed liveness probe".into()), ..Health::default() };
    c.memory.health.insert("a0".into(), health);
    c.view.containers[0].hash = "other".into();
    c.says("kill b b0: its definition changed\nkill a a0: failed liveness probe\n");
}

#[test]
fn a_container_made_before_a_crash_of_the_kubelet_is_started_not_made_again() {
    two("Always").sandbox("s", true).has("a", ".").has("b", "+").says("resume a a0\n");
    let mut c = two("Always").sandbox("s", true).has("a", ".").has("b", "+");
    c.memory.failed("a", "RunContainerError", "no such file".into(), at(980));
    c.says("start a 1\n");
}

#[test]
fn deadlines_and_finished_pods_end_everything() {
    let mut c =
        case(json!({"activeDeadlineSeconds": 60, "containers": [{"name": "a"}]})).sandbox("s", true).has("a", "+");
    c.pod.status = serde_json::from_value(json!({"startTime": "1970-01-01T00:15:50Z"})).expect("status");
    c.says("look 1010\n");
    c.now = 1010;
    c.says("kill a a0\nstop-sandbox s\ndone\n");
    c.now = 1000;
    c.pod.status = serde_json::from_value(json!({"phase": "Succeeded"})).expect("status");
    c.says("kill a a0\nstop-sandbox s\ndone\n");
    two("Always").sandbox("s", false).says("sandbox 1\nstart a 0\nstart b 0\n");
}

#[test]
fn ephemeral_containers_start_once() {
    let spec = json!({"containers": [{"name": "a"}], "ephemeralContainers": [{"name": "dbg"}]});
    let c = || case(spec.clone()).sandbox("s", true).has("a", "+");
    c().says("start dbg 0\n");
    c().has("dbg", "1").says("");
}

#[test]
fn restarts_go_on_counting_when_the_runtime_lost_the_container() {
    let mut c = two("Always").sandbox("s", true).has("b", "+");
    c.pod.status = serde_json::from_value(json!({"containerStatuses": [{"name": "a", "restartCount": 4,
        "containerID": "x://1", "image": "", "imageID": "", "ready": false}]}))
    .expect("status");
    c.says("start a 5\n");
}
