//! Rollouts played step by step over the pure functions: a world in memory takes the writes, pods come and go at
//! random, and at each step the promises of the strategy are checked.

use serde_json::{Value, json};

use super::decide::{Bounds, Decision, Snapshot, decide};
use super::sets::{available, replicas};
use super::*;
use k8s_openapi::jiff::Timestamp;

/// The cluster as far as a Deployment sees it.
struct World {
    deployment: Value,
    sets: Vec<Value>,
    clock: i64,
    uids: u32,
    dice: u64,
}

impl World {
    fn new(spec: Value) -> World {
        let mut spec = spec;
        spec["selector"] = json!({"matchLabels": {"app": "web"}});
        if spec["template"].is_null() {
            spec["template"] = template("v1");
        }
        // The API's default.
        if spec["progressDeadlineSeconds"].is_null() {
            spec["progressDeadlineSeconds"] = 600.into();
        }
        let metadata = json!({"name": "web", "namespace": "d", "uid": "D", "generation": 1, "resourceVersion": "1"});
        World { deployment: json!({"metadata": metadata, "spec": spec}), sets: vec![], clock: 0, uids: 0, dice: 42 }
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % sides
    }

    fn typed(&self) -> (Deployment, Vec<Arc<ReplicaSet>>) {
        let set = |set: &Value| Arc::new(serde_json::from_value(set.clone()).expect("set"));
        (serde_json::from_value(self.deployment.clone()).expect("deployment"), self.sets.iter().map(set).collect())
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + self.clock).expect("time")
    }

    fn look(&self) -> Decision {
        let (deployment, sets) = self.typed();
        decide(&Snapshot { deployment: &deployment, sets: &sets, pods: &[], now: self.now() })
    }

    /// One look of the controller; returns its writes as text.
    fn step(&mut self) -> Vec<String> {
        self.clock += 1;
        let writes = self.look().writes;
        writes.iter().for_each(|write| self.apply(write));
        writes.iter().map(ToString::to_string).collect()
    }

    fn apply(&mut self, write: &Write) {
        match write {
            Write::Create { object, .. } => {
                self.uids += 1;
                let mut set = object.clone();
                set["metadata"]["uid"] = format!("S{}", self.uids).into();
                set["metadata"]["generation"] = 1.into();
                set["metadata"]["creationTimestamp"] = format!("2027-01-01T00:00:{:02}Z", self.uids).into();
                set["status"] = json!({"replicas": 0, "observedGeneration": 1});
                self.sets.push(set);
            }
            Write::Patch { resource, name, body, .. } if *resource == "replicasets.apps" => {
                let set = self.sets.iter_mut().find(|set| set["metadata"]["name"] == **name).expect("set");
                json_patch::merge(set, body);
            }
            Write::Patch { body, .. } | Write::PatchStatus { body, .. } => {
                json_patch::merge(&mut self.deployment, body)
            }
            Write::Delete { name, .. } => self.sets.retain(|set| set["metadata"]["name"] != **name),
            Write::Status { .. } => panic!("not of a Deployment"),
        }
    }

    /// The ReplicaSet controller and the kubelets: a random step towards what is wanted. Nothing becomes available in
    /// a set whose template says so.
    fn pods_move(&mut self) {
        for at in 0..self.sets.len() {
            let dice = self.roll(3);
            let set = &mut self.sets[at];
            let wanted = set["spec"]["replicas"].as_i64().expect("replicas");
            let broken = set["spec"]["template"]["spec"]["containers"][0]["image"] == "broken";
            let status = &mut set["status"];
            let ready = status["availableReplicas"].as_i64().unwrap_or(0).min(wanted);
            let ready = if dice > 0 && ready < wanted && !broken { ready + 1 } else { ready };
            *status = json!({"replicas": wanted, "readyReplicas": ready, "availableReplicas": ready, "observedGeneration": 9});
        }
    }

    /// A new template, as `kubectl set image` makes it.
    fn set_image(&mut self, image: &str) {
        self.deployment["spec"]["template"] = template(image);
        let generation = self.deployment["metadata"]["generation"].as_i64().expect("generation");
        self.deployment["metadata"]["generation"] = (generation + 1).into();
    }

    /// Plays until nothing is left to do, checking the promises after each step; returns the number of steps.
    fn play(&mut self, check_available: bool) -> usize {
        for step in 0..500 {
            let writes = self.step();
            self.check(check_available);
            if writes.is_empty() && self.quiet() {
                return step;
            }
            self.pods_move();
        }
        panic!("the rollout never ended: {}\n{:#?}", self.deployment["status"], self.sets);
    }

    fn quiet(&self) -> bool {
        self.sets.iter().all(|set| {
            let wanted = set["spec"]["replicas"].as_i64();
            set["status"]["availableReplicas"].as_i64().or(Some(0)) == wanted
        })
    }

    fn check(&self, check_available: bool) {
        let (deployment, sets) = self.typed();
        let bounds = Bounds::of(&deployment);
        let total: i32 = sets.iter().map(|set| replicas(set)).sum();
        assert!(total <= bounds.replicas + bounds.surge, "{total} wanted of {} + {}", bounds.replicas, bounds.surge);
        // What is available and not told to go.
        let serving: i32 = sets.iter().map(|set| available(set).min(replicas(set))).sum();
        let least = bounds.replicas - bounds.unavailable;
        assert!(!check_available || serving >= least, "{serving} serve, {least} promised");
    }

    fn condition(&self, kind: &str) -> String {
        let conditions = self.deployment["status"]["conditions"].as_array().expect("conditions");
        let found = conditions.iter().find(|c| c["type"] == kind).unwrap_or(&Value::Null);
        let text = |field: &str| found[field].as_str().unwrap_or("-").to_owned();
        format!("{} {}", text("status"), text("reason"))
    }

    fn revision(&self) -> &str {
        self.deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"].as_str().unwrap_or_default()
    }

    fn images(&self) -> Vec<String> {
        let image =
            |set: &Value| set["spec"]["template"]["spec"]["containers"][0]["image"].as_str().expect("image").to_owned();
        self.sets.iter().map(|set| format!("{}={}", image(set), set["spec"]["replicas"])).collect()
    }
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

#[test]
fn a_first_rollout_as_text() {
    let mut world = World::new(json!({"replicas": 2}));
    let text = world.step();
    let name = world.sets[0]["metadata"]["name"].as_str().expect("name").to_owned();
    assert_eq!(text[0], format!("create replicasets.apps d/{name}"));
    assert!(
        text[1].ends_with(r#"{"metadata":{"annotations":{"deployment.kubernetes.io/revision":"1"}}}"#),
        "{}",
        text[1]
    );
    assert!(text[2].starts_with("patch-status deployments.apps d/web"), "{}", text[2]);
    assert_eq!(world.condition("Progressing"), "True NewReplicaSetCreated");
    assert_eq!(world.condition("Available"), "False MinimumReplicasUnavailable");
    let hash = world.sets[0]["metadata"]["labels"]["pod-template-hash"].as_str().expect("hash");
    assert_eq!(name, format!("web-{hash}"));
    assert_eq!(world.sets[0]["spec"]["selector"]["matchLabels"], json!({"app": "web", "pod-template-hash": hash}));
    assert_eq!(world.sets[0]["spec"]["template"]["metadata"]["labels"]["pod-template-hash"], hash);
    world.play(false);
    assert_eq!(world.condition("Progressing"), "True NewReplicaSetAvailable");
    assert_eq!(world.condition("Available"), "True MinimumReplicasAvailable");
    let status = &world.deployment["status"];
    assert_eq!(
        (&status["replicas"], &status["updatedReplicas"], &status["availableReplicas"]),
        (&json!(2), &json!(2), &json!(2))
    );
    assert_eq!(status["observedGeneration"], 1);
    assert!(status["unavailableReplicas"].is_null());
}

#[test]
fn rolling_updates_keep_their_promises() {
    let cases = [
        (10, json!("25%"), json!("25%")),
        (10, json!(1), json!(0)),
        (10, json!(0), json!(1)),
        (1, json!("25%"), json!("25%")),
        (3, json!("0%"), json!("10%")),
        (7, json!("100%"), json!(0)),
        (5, json!(2), json!("100%")),
        (4, json!(3), json!(3)),
    ];
    for (n, surge, unavailable) in cases {
        for seed in 0..10 {
            let rolling = json!({"maxSurge": surge, "maxUnavailable": unavailable});
            let strategy = json!({"type": "RollingUpdate", "rollingUpdate": rolling});
            let mut world = World::new(json!({"replicas": n, "strategy": strategy, "progressDeadlineSeconds": 600}));
            world.dice = seed;
            world.play(false);
            world.set_image("v2");
            world.play(true);
            assert_eq!(world.images(), ["v1=0".to_owned(), format!("v2={n}")], "{rolling}");
            assert_eq!(world.condition("Progressing"), "True NewReplicaSetAvailable");
            assert_eq!(world.revision(), "2");
        }
    }
}

#[test]
fn a_template_changed_in_the_middle_of_a_rollout_wins() {
    for seed in 0..20 {
        let mut world = World::new(json!({"replicas": 6}));
        world.dice = seed;
        world.play(false);
        world.set_image("v2");
        for _ in 0..=seed % 7 {
            world.step();
            world.check(true);
            world.pods_move();
        }
        world.set_image("v3");
        world.play(true);
        assert_eq!(world.images().last().expect("set"), "v3=6");
        assert_eq!(world.images().iter().filter(|image| image.ends_with("=0")).count(), world.sets.len() - 1);
    }
}

#[test]
fn a_broken_image_stops_before_the_promise_is_broken_and_the_deadline_tells() {
    let mut world = World::new(json!({"replicas": 4, "progressDeadlineSeconds": 60}));
    world.play(false);
    world.set_image("broken");
    for _ in 0..30 {
        world.step();
        world.check(true);
        world.pods_move();
    }
    assert_eq!(world.condition("Progressing"), "True ReplicaSetUpdated");
    assert_eq!(world.images(), ["v1=3", "broken=2"]);
    let wait = world.look().look_again.expect("the deadline");
    world.clock += wait.as_secs() as i64;
    world.step();
    assert_eq!(world.condition("Progressing"), "False ProgressDeadlineExceeded");

    world.set_image("v1"); // kubectl rollout undo
    world.play(true);
    assert_eq!(world.images(), ["v1=4", "broken=0"]);
    assert_eq!(world.revision(), "3", "the old set moves to the end of the history");
}

#[test]
fn recreate_never_runs_two_templates() {
    let mut world = World::new(json!({"replicas": 3, "strategy": {"type": "Recreate"}}));
    world.play(false);
    world.set_image("v2");
    world.step();
    assert_eq!(world.images(), ["v1=0"]);
    let (deployment, sets) = world.typed();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": "S1", "controller": true}]},
        "status": {"phase": "Running"},
    }))
    .expect("pod");
    let seen = Snapshot { deployment: &deployment, sets: &sets, pods: &[Arc::new(pod)], now: world.now() };
    assert!(!decide(&seen).writes.iter().any(|w| matches!(w, Write::Create { .. })), "an old pod still runs");
    world.play(false);
    assert_eq!(world.images(), ["v1=0", "v2=3"]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(json!({"replicas": 2, "progressDeadlineSeconds": 60}));
    world.play(false);
    world.deployment["spec"]["paused"] = true.into();
    world.set_image("v2");
    world.deployment["spec"]["replicas"] = 5.into();
    world.play(false);
    assert_eq!(world.images(), ["v1=5"]);
    assert_eq!(world.condition("Progressing"), "Unknown DeploymentPaused");
    world.deployment["spec"]["paused"] = false.into();
    world.step();
    assert_eq!(world.condition("Progressing"), "Unknown DeploymentResumed");
    world.play(true);
    assert_eq!(world.images(), ["v1=0", "v2=5"]);
}

#[test]
fn scaling_a_stuck_rollout_keeps_the_ratio() {
    let mut world = World::new(json!({"replicas": 8}));
    world.play(false);
    world.set_image("broken");
    for _ in 0..20 {
        world.step();
        world.pods_move();
    }
    assert_eq!(world.images(), ["v1=6", "broken=4"]);
    world.deployment["spec"]["replicas"] = 16.into();
    world.step();
    assert_eq!(world.images(), ["v1=12", "broken=8"]);
    world.check(false);
    world.deployment["spec"]["replicas"] = 0.into();
    world.play(false);
    assert_eq!(world.images(), ["v1=0", "broken=0"]);
}

#[test]
fn only_so_many_old_sets_are_kept() {
    let mut world = World::new(json!({"replicas": 1, "revisionHistoryLimit": 2}));
    for image in ["v1", "v2", "v3", "v4", "v5"] {
        world.set_image(image);
        world.play(false);
    }
    assert_eq!(world.images(), ["v3=0", "v4=0", "v5=1"]);
}

#[test]
fn a_complete_deployment_needs_no_writes() {
    let mut world = World::new(json!({"replicas": 3}));
    world.play(false);
    world.clock += 10_000;
    assert_eq!(world.step(), Vec::<String>::new());
    world.deployment["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = "{}".into();
    assert_eq!(world.step(), Vec::<String>::new(), "what is about the Deployment alone is not copied");
}

#[test]
fn foreign_sets_are_left_alone_and_orphans_adopted() {
    let mut world = World::new(json!({"replicas": 1}));
    world.play(false);
    world.sets[0]["metadata"]["ownerReferences"] = Value::Null;
    let text = world.step();
    assert!(
        text[0].contains(r#""ownerReferences":[{"#) && text[0].starts_with("patch replicasets.apps d/web-"),
        "{text:?}"
    );
    world.sets[0]["metadata"]["ownerReferences"][0]["uid"] = "OTHER".into();
    assert!(world.step()[0].starts_with("create replicasets.apps"), "another's set is not ours");
}

#[test]
fn hashes_are_stable_and_tell_templates_apart() {
    let typed = |value: Value| serde_json::from_value(value).expect("template");
    let (a, b) = (typed(template("a")), typed(template("b")));
    assert_eq!(hash::hash(&a, 0), "78dbf6cfb9");
    assert_ne!(hash::hash(&a, 0), hash::hash(&b, 0));
    assert_ne!(hash::hash(&a, 0), hash::hash(&a, 1), "a collision changes the hash");
    let mut labelled = template("a");
    labelled["metadata"]["labels"]["pod-template-hash"] = "x".into();
    assert!(hash::same(&a, &typed(labelled)));
    assert!(!hash::same(&a, &b));
}
