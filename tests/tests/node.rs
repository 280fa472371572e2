//! A whole node as its users see it: `gantry up`, and the real `kubectl` against it.
#![allow(clippy::unwrap_used)]

use gantry_tests::house::House;
use gantry_tests::node::{self, Node};
use gantry_tests::{image, tools};
use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Starts a node, or says why this machine cannot.
fn node(title: &str) -> Option<(House, Node)> {
    if let Err(why) = node::possible() {
        eprintln!("SKIPPED {title}: {why}");
        return None;
    }
    let house = House::new(title);
    let node = Node::start(&house);
    Some((house, node))
}

/// A pod of one container that runs a shell script.
fn pod(name: &str, policy: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: {policy}\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: {}\n    command: [/bin/sh, -c]\n    args: ['{script}']\n",
        image::NAME
    )
}

fn example() -> String {
    tools::repository().join("examples/web.yaml").display().to_string()
}

#[test]
fn the_example_walks_the_whole_road() {
    let Some((house, node)) = node("road") else { return };
    node.kubectl(&["apply", "-f", &example()]);
    node.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]);
    let web = node.object("pod", "web");
    let address = web["status"]["podIP"].as_str().unwrap();

    let page = node.inside(&["busybox", "wget", "-q", "-O", "-", &format!("http://{address}:8080/")]);
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    assert!(page.contains("Hello from Gantry") && page.contains("written by web"), "{page}");

    assert!(node.kubectl(&["logs", "web", "-c", "writer"]).contains("wrote the page\n"));
    let said = node.kubectl(&["exec", "web", "-c", "web", "--", "/bin/sh", "-c", "echo $PORT; hostname"]);
    assert_eq!(said, "8080\nweb\n");
    let limit = |file: &str| {
        let uid = web["metadata"]["uid"].as_str().unwrap();
        let pods = gantry_tests::house::cgroups(house.name());
        let all =
            pods.iter().flat_map(|root| walk(root)).filter(|p| p.to_string_lossy().contains(uid) && p.ends_with(file));
        all.filter_map(|p| fs::read_to_string(p).ok()).map(|t| t.trim().to_owned()).collect::<Vec<_>>()
    };
    let memory = [limit("memory.limit_in_bytes"), limit("memory.max")].concat();
    assert!(memory.contains(&(32 * 1024 * 1024).to_string()), "a container's limit is set: {memory:?}");
    assert!(memory.contains(&(64 * 1024 * 1024).to_string()), "the pod's limit is the sum: {memory:?}");

    node.kubectl(&["delete", "-f", &example()]);
    assert!(node.try_kubectl(&["get", "pod", "web"]).is_none());
    drop(node);
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()) {
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn kubectl_finds_what_it_asks_for() {
    let Some((_house, node)) = node("kubectl") else { return };
    node.apply(&pod("talker", "Always", "i=0; while true; do echo line $i; i=$((i+1)); sleep 0.2; done"));
    node.until_ready("talker");
    let wide = node.kubectl(&["get", "pods", "-o", "wide"]);
    for word in ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "talker", "1/1", "Running", "node-1"] {
        assert!(wide.contains(word), "{word} in\n{wide}");
    }
    assert!(node.kubectl(&["get", "pod", "talker", "-o", "yaml"]).contains("kind: Pod"));
    let described = node.kubectl(&["describe", "pod", "talker"]);
    for word in ["Scheduled", "Started", "QoS Class", "BestEffort", "Container ID"] {
        assert!(described.contains(word), "{word} in\n{described}");
    }
    assert!(node.kubectl(&["describe", "node", "node-1"]).contains("Allocatable"));
    let kinds = node.kubectl(&["api-resources"]);
    for kind in ["pods", "deployments", "configmaps", "leases", "replicasets"] {
        assert!(kinds.contains(kind), "{kind} in\n{kinds}");
    }
    let explained = node.kubectl(&["explain", "pod.spec.containers"]);
    assert!(explained.contains("FIELD: containers") && explained.contains("livenessProbe"), "{explained}");
    assert!(node.kubectl(&["logs", "talker", "--tail=1"]).starts_with("line "));
    node.kubectl(&["label", "pod", "talker", "colour=blue"]);
    assert!(node.kubectl(&["get", "pods", "-l", "colour=blue", "-o", "name"]).contains("pod/talker"));
    node.kubectl(&["patch", "pod", "talker", "--type=merge", "-p", r#"{"metadata":{"annotations":{"a":"b"}}}"#]);
    assert_eq!(node.object("pod", "talker")["metadata"]["annotations"]["a"], "b");
    let failed = node.kubectl_raw(&["exec", "talker", "--", "/bin/sh", "-c", "exit 7"]);
    assert_eq!(failed.status.code(), Some(7));
    let missing = node.kubectl_raw(&["get", "pod", "nobody"]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains(r#"pods "nobody" not found"#));
}

#[test]
fn a_deployment_is_scaled_and_rolled_out() {
    let Some((_house, node)) = node("deployment") else { return };
    node.kubectl(&["create", "deployment", "web", "--image", image::NAME, "--replicas=2", "--", "/bin/sleep", "3600"]);
    node.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    node.kubectl(&["scale", "deployment/web", "--replicas=3"]);
    node.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    node.until("three pods", |n| n.kubectl(&["get", "pods", "-l", "app=web", "--no-headers"]).lines().count() == 3);
    node.kubectl(&["set", "env", "deployment/web", "COLOUR=blue"]);
    node.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert_eq!(node.kubectl(&["get", "replicasets", "--no-headers"]).lines().count(), 2);
    node.kubectl(&["delete", "deployment", "web"]);
    node.until("no pod to be left", |n| n.kubectl(&["get", "pods", "--no-headers"]).trim().is_empty());
}

#[test]
fn a_following_reader_gets_every_line_and_the_end() {
    let Some((_house, node)) = node("follow") else { return };
    node.apply(&pod("counter", "Never", "for i in $(seq 40); do echo line $i; sleep 0.05; done"));
    node.until("the pod to run", |n| n.object("pod", "counter")["status"]["phase"] != "Pending");
    let lines = node.kubectl(&["logs", "-f", "counter"]);
    let wanted: String = (1..=40).map(|i| format!("line {i}\n")).collect();
    assert_eq!(lines, wanted);
    node.until("the pod to succeed", |n| n.object("pod", "counter")["status"]["phase"] == "Succeeded");
}

#[test]
fn a_terminal_is_a_terminal() {
    let Some((house, node)) = node("terminal") else { return };
    node.apply(&pod("shell", "Always", "sleep 3600"));
    node.until_ready("shell");
    // `script` gives kubectl a terminal; without one it would not ask for one.
    let Some(script) = tools::find("script") else {
        eprintln!("SKIPPED a_terminal_is_a_terminal: script is not installed (Debian: bsdutils)");
        return;
    };
    let kubeconfig = house.path("etc/admin.kubeconfig");
    let command = format!(
        "kubectl --kubeconfig {} exec -it shell -- /bin/sh -c 'test -t 0 && echo terminal'",
        kubeconfig.display()
    );
    let mut child = Command::new(script)
        .args(["-qec", &command, "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    assert!(said.contains("terminal"), "{said:?}");
}

#[test]
fn a_watch_shows_a_pod_come_and_go() {
    let Some((house, node)) = node("watch") else { return };
    let out = house.path("watch.txt");
    let kubeconfig = house.path("etc/admin.kubeconfig");
    let mut watch = Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(&kubeconfig)
        .args(["get", "pods", "-w"])
        .stdout(fs::File::create(&out).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    node.apply(&pod("guest", "Never", "true"));
    let seen = |word: &str| fs::read_to_string(&out).unwrap_or_default().contains(word);
    node.until("the watch to show the pod's end", |_| seen("Completed"));
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert!(seen("Pending"), "{}", fs::read_to_string(&out).unwrap());
}

#[test]
fn a_crashing_container_backs_off_and_keeps_its_code() {
    let Some((_house, node)) = node("backoff") else { return };
    node.apply(&pod("crasher", "Always", "exit 3"));
    node.until("CrashLoopBackOff", |n| n.kubectl(&["get", "pod", "crasher"]).contains("CrashLoopBackOff"));
    let status = node.object("pod", "crasher")["status"]["containerStatuses"][0].clone();
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    assert!(status["restartCount"].as_u64().unwrap() >= 1);
}

#[test]
fn an_unready_pod_is_not_ready_and_a_dead_one_is_restarted() {
    let Some((_house, node)) = node("probes") else { return };
    let manifest = pod("probed", "Always", "touch /tmp/live; sleep 3600")
        + "    readinessProbe: {exec: {command: [cat, /tmp/ready]}, periodSeconds: 1}\n"
        + "    livenessProbe: {exec: {command: [cat, /tmp/live]}, periodSeconds: 1, failureThreshold: 1, initialDelaySeconds: 1}\n";
    node.apply(&manifest);
    node.until("the pod to run", |n| n.object("pod", "probed")["status"]["phase"] == "Running");
    std::thread::sleep(Duration::from_millis(1500));
    assert!(node.kubectl(&["get", "pod", "probed"]).contains("0/1"));
    node.kubectl(&["exec", "probed", "--", "touch", "/tmp/ready"]);
    node.until_ready("probed");
    node.kubectl(&["exec", "probed", "--", "rm", "/tmp/live"]);
    node.until("a restart", |n| n.object("pod", "probed")["status"]["containerStatuses"][0]["restartCount"] == 1);
}

#[test]
fn graceful_deletion_waits_for_the_container_and_no_longer() {
    let Some((_house, node)) = node("grace") else { return };
    let script = "trap \"echo bye; exit 0\" TERM; while true; do sleep 0.1; done";
    node.apply(&pod("polite", "Always", script).replace("Seconds: 1", "Seconds: 20"));
    node.until_ready("polite");
    let start = Instant::now();
    node.kubectl(&["delete", "pod", "polite"]);
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "a container that ends on TERM is not waited for: {:?}",
        start.elapsed()
    );
    assert!(node.try_kubectl(&["get", "pod", "polite"]).is_none());
}
