//! Statuses as text: phase, conditions that hold, and one word a container.

use serde_json::{Value, json};

use super::*;
use crate::pods::actions::decide;
use crate::pods::memory::{Health, Memory};
use crate::pods::seen::{Sandbox, View};
use k8s_openapi::jiff::Timestamp;

fn seen(name: &str, id: &str, state: State, code: i32) -> Seen {
    Seen {
        id: id.into(),
        name: name.into(),
        sandbox: "s".into(),
        state,
        restarts: 0,
        created_at: 1,
        started_at: 1_000_000_000,
        finished_at: 2_000_000_000,
        exit_code: code,
        reason: String::new(),
        message: String::new(),
        image: "img".into(),
        image_ref: "sha256:1".into(),
        image_id: String::new(),
        hash: String::new(),
        log_path: String::new(),
        said: "said".into(),
        user: None,
    }
}

struct Scene {
    pod: Pod,
    view: View,
    memory: Memory,
    ending: bool,
}

fn scene(spec: Value, status: Value, containers: Vec<Seen>) -> Scene {
    let pod = json!({"metadata": {"name": "p", "uid": "u", "generation": 3}, "spec": spec, "status": status});
    let sandbox = Sandbox {
        id: "s".into(),
        attempt: 0,
        ready: true,
        created_at: 1,
        ips: vec!["10.0.0.2".into()],
        host_network: false,
    };
    Scene {
        pod: serde_json::from_value(pod).expect("a pod"),
        view: View { sandboxes: vec![sandbox], containers },
        memory: Memory::default(),
        ending: false,
    }
}

impl Scene {
    fn status(&self) -> PodStatus {
        let now = Timestamp::from_second(1000).expect("now");
        let facts = Facts { pod: &self.pod, view: &self.view, memory: &self.memory, now };
        let around = Around { runtime: "gantry".into(), node_ips: vec!["192.0.2.1".into()], ending: self.ending };
        compute(facts, &decide(facts), &around)
    }

    fn says(&self, want: &str) {
        let status = self.status();
        let word = |s: &Option<ContainerState>| match s.clone().unwrap_or_default() {
            ContainerState { running: Some(_), .. } => "running".to_string(),
            ContainerState { terminated: Some(t), .. } => format!("{}({})", t.reason.unwrap_or_default(), t.exit_code),
            ContainerState { waiting: Some(w), .. } => w.reason.unwrap_or_default(),
            _ => "-".to_string(),
        };
        let mut text = status.phase.clone().unwrap_or_default();
        for s in status.init_container_statuses.iter().chain(&status.container_statuses).flatten() {
            text += &format!(
                " | {} {} last={}{}",
                s.name,
                word(&s.state),
                word(&s.last_state),
                if s.ready { " ready" } else { "" }
            );
        }
        let holding: Vec<_> =
            status.conditions.iter().flatten().filter(|c| c.status == "True").map(|c| c.type_.as_str()).collect();
        assert_eq!(format!("{text} | {}", holding.join(",")), want);
    }
}

const ALL: &str = "PodReadyToStartContainers,Initialized,Ready,ContainersReady,PodScheduled";

fn one(policy: &str) -> Value {
    json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "img"}]})
}

#[test]
fn the_life_of_a_pod() {
    let begun = "PodReadyToStartContainers,Initialized,PodScheduled";
    scene(one("Always"), json!({}), vec![]).says(&format!("Pending | a ContainerCreating last=- | {begun}"));
    scene(one("Always"), json!({}), vec![seen("a", "1", State::Running, 0)])
        .says(&format!("Running | a running last=- ready | {ALL}"));
    scene(one("Never"), json!({}), vec![seen("a", "1", State::Exited, 0)])
        .says(&format!("Succeeded | a Completed(0) last=- | {begun}"));
    scene(one("Never"), json!({}), vec![seen("a", "1", State::Exited, 7)])
        .says(&format!("Failed | a Error(7) last=- | {begun}"));
    scene(one("OnFailure"), json!({}), vec![seen("a", "1", State::Exited, 7)])
        .says(&format!("Running | a Error(7) last=- | {begun}"));
}

#[test]
fn a_crash_loop_keeps_the_end_as_last_state() {
    let mut s = scene(one("Always"), json!({}), vec![seen("a", "1", State::Exited, 7)]);
    s.view.containers[0].finished_at = 999_000_000_000;
    s.memory.restarting("a", Timestamp::from_second(999).expect("t"));
    s.says("Running | a CrashLoopBackOff last=Error(7) | PodReadyToStartContainers,Initialized,PodScheduled");
    let status = s.status();
    let last = &status.container_statuses.as_ref().expect("one")[0].last_state;
    assert_eq!(last.as_ref().and_then(|l| l.terminated.as_ref()?.message.as_deref()), Some("said"));
    assert_eq!(status.container_statuses.as_ref().expect("one")[0].container_id.as_deref(), Some("gantry://1"));
}

#[test]
fn init_containers_hold_the_phase_at_pending() {
    let spec = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
    scene(spec.clone(), json!({}), vec![seen("i", "1", State::Running, 0)])
        .says("Pending | i running last=- | a PodInitializing last=- | PodReadyToStartContainers,PodScheduled");
    scene(spec.clone(), json!({}), vec![seen("i", "1", State::Exited, 0)])
        .says("Pending | i Completed(0) last=- ready | a ContainerCreating last=- | PodReadyToStartContainers,Initialized,PodScheduled");
    let mut never = spec;
    never["restartPolicy"] = "Never".into();
    scene(never, json!({}), vec![seen("i", "1", State::Exited, 2)])
        .says("Failed | i Error(2) last=- | a PodInitializing last=- | PodReadyToStartContainers,PodScheduled");
}

#[test]
fn readiness_waits_for_probe_and_gates() {
    let spec = json!({"containers": [{"name": "a", "readinessProbe": {"tcpSocket": {"port": 1}}}],
        "readinessGates": [{"conditionType": "x/y"}]});
    let mut s = scene(spec, json!({}), vec![seen("a", "1", State::Running, 0)]);
    let some = "PodReadyToStartContainers,Initialized";
    s.says(&format!("Running | a running last=- | {some},PodScheduled"));
    s.memory.health.insert("1".into(), Health { ready: Some(true), ..Health::default() });
    s.says(&format!("Running | a running last=- ready | {some},ContainersReady,PodScheduled"));
    s.pod.status = serde_json::from_value(json!({"conditions": [{"type": "x/y", "status": "True"}]})).expect("status");
    s.says(&format!("Running | a running last=- ready | {ALL}"));
}

#[test]
fn what_the_runtime_lost_is_taken_from_the_api() {
    let old = json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.9"}], "startTime": "2020-01-01T00:00:00Z",
        "containerStatuses": [{"name": "a", "restartCount": 2, "containerID": "gantry://0", "ready": true, "image": "", "imageID": "",
        "state": {"running": {}}}]});
    let mut s = scene(one("Never"), old, vec![]);
    s.ending = true;
    s.view.sandboxes.clear();
    s.says("Failed | a ContainerStatusUnknown(137) last=- | Initialized,PodScheduled");
    assert_eq!(s.status().pod_ip.as_deref(), Some("10.0.0.9"));
    assert_eq!(s.status().observed_generation, Some(3));
}

#[test]
fn a_container_runs_when_its_post_start_hook_has_ended() {
    let mut s = scene(one("Always"), json!({}), vec![seen("a", "1", State::Running, 0)]);
    s.memory.hooked.insert("1".into());
    s.says("Pending | a ContainerCreating last=- | PodReadyToStartContainers,Initialized,PodScheduled");
    s.memory.hooked.clear();
    assert_eq!(s.status().phase.as_deref(), Some("Running"));
}

#[test]
fn a_pod_that_was_never_let_in_has_no_containers_to_wait_for() {
    let mut s = scene(one("Always"), json!({}), vec![]);
    s.view.sandboxes.clear();
    s.memory.ended = Some(("SysctlForbidden".into(), "no".into()));
    let status = s.status();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("SysctlForbidden")));
    assert!(status.container_statuses.is_none());
}

#[test]
fn a_deadline_fails_the_pod_once_nothing_runs() {
    let mut spec = one("Always");
    spec["activeDeadlineSeconds"] = 10.into();
    let old = json!({"phase": "Running", "startTime": "1970-01-01T00:10:00Z"});
    let s = scene(spec.clone(), old.clone(), vec![seen("a", "1", State::Running, 0)]);
    assert_eq!(s.status().phase.as_deref(), Some("Running"));
    let s = scene(spec, old, vec![seen("a", "1", State::Exited, 137)]);
    assert_eq!((s.status().phase.as_deref(), s.status().reason.as_deref()), (Some("Failed"), Some("DeadlineExceeded")));
}

#[test]
fn transition_times_move_only_with_the_status() {
    let old = json!({"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"},
        {"type": "Initialized", "status": "False", "lastTransitionTime": "2020-01-01T00:00:00Z"}]});
    let status = scene(one("Always"), old, vec![seen("a", "1", State::Running, 0)]).status();
    let of = |kind: &str| {
        let found = status.conditions.iter().flatten().find(|c| c.type_ == kind).expect(kind);
        found.last_transition_time.as_ref().expect("a time").0.as_second()
    };
    assert_eq!((of("Ready"), of("Initialized")), (1_577_836_800, 1000));
}
