//! The real kubectl against a control plane of our own: what it prints is what a person sees.
//!
//! The whole script runs with `/usr/bin/kubectl`; a short one with every other release found. Without any, the test
//! says so loudly and passes. A faked kubelet (a patch of a pod's status) stands in for a node.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use gantry_control_plane::{Config, run};
use tokio_util::sync::CancellationToken;

/// Where several releases of kubectl may be.
const RELEASES: &str = "/usr/lib/google-cloud-sdk/bin";

struct Cluster {
    dir: PathBuf,
    shutdown: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Cluster {
    fn start() -> Self {
        let dir = std::env::temp_dir().join(format!("gantry-kubectl-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let shutdown = CancellationToken::new();
        let config = Config {
            data_dir: dir.clone(),
            listeners: vec![TcpListener::bind("127.0.0.1:0").expect("listens")],
            admin_kubeconfig: Some(dir.join("kubeconfig")),
            ..Config::default()
        };
        let token = shutdown.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
            runtime.block_on(run(config, token)).expect("runs");
        });
        let started = Instant::now();
        while !dir.join("kubeconfig").exists() {
            assert!(started.elapsed() < Duration::from_secs(20), "the control plane does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { dir, shutdown, thread: Some(thread) }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        let _ = std::fs::remove_dir_all(&self.dir);
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the control plane did not end well");
        }
    }
}

struct Kubectl<'a> {
    binary: PathBuf,
    cluster: &'a Cluster,
}

impl Kubectl<'_> {
    fn output(&self, line: &str, input: &str) -> Output {
        use std::io::Write;
        use std::process::Stdio;
        let mut command = Command::new(&self.binary);
        command.env("KUBECONFIG", self.cluster.dir.join("kubeconfig"));
        command.env("HOME", &self.cluster.dir).env("KUBECTL_EXPLAIN_OPENAPIV3", "true");
        command.args(words(line)).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        // It may end without reading all.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("kubectl ends")
    }

    /// Runs a command that must succeed; returns what it prints.
    fn ok(&self, line: &str) -> String {
        self.ok_with(line, "")
    }

    fn ok_with(&self, line: &str, input: &str) -> String {
        let output = self.output(line, input);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {line}: {complaint}{said}", self.binary.display());
        said
    }

    /// Runs a command that must fail; returns its complaint.
    fn fails(&self, line: &str) -> String {
        let output = self.output(line, "");
        assert!(!output.status.success(), "{line} should fail");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs a command whose output must contain every one of `parts`.
    fn says(&self, line: &str, parts: &[&str]) {
        let said = self.ok(line);
        for part in parts {
            assert!(said.contains(part), "{} {line}: no {part:?} in:\n{said}", self.binary.display());
        }
    }

    /// As [`Self::says`], tried until it does, for what a controller does a moment later.
    fn soon(&self, line: &str, part: &str) {
        let started = Instant::now();
        loop {
            let said = self.ok(line);
            if said.contains(part) {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(10), "{line}: no {part:?} in:\n{said}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Splits at spaces, except within single quotes.
fn words(line: &str) -> Vec<String> {
    let (mut list, mut quoted, mut word, mut some) = (Vec::new(), false, String::new(), false);
    for c in line.chars() {
        match c {
            '\'' => (quoted, some) = (!quoted, true),
            ' ' if !quoted => {
                if some {
                    list.push(std::mem::take(&mut word));
                }
                some = false;
            }
            c => {
                word.push(c);
                some = true;
            }
        }
    }
    if some {
        list.push(word);
    }
    list
}

fn found() -> Vec<PathBuf> {
    let names = std::fs::read_dir(RELEASES).into_iter().flatten().flatten().map(|e| e.path());
    let named = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("kubectl."));
    let mut list: Vec<PathBuf> = names.filter(named).collect();
    list.sort();
    let usual = Path::new("/usr/bin/kubectl");
    if usual.exists() {
        list.insert(0, usual.to_owned());
    }
    list
}

fn manifest(image: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, labels: {{app: web}}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: a
        image: {image}
        ports: [{{containerPort: 80}}]
        env: [{{name: A, value: one}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: conf}}
data: {{key: value}}
"
    )
}

const NODE: &str = "apiVersion: v1
kind: Node
metadata: {name: n1}
status:
  allocatable: {cpu: '4', memory: 8Gi, pods: '110'}
  conditions: [{type: Ready, status: 'True', reason: KubeletReady, message: ok}]
  addresses: [{type: InternalIP, address: 127.0.0.1}]
";

const RUNNING: &str = r#"{"status":{"phase":"Running","podIP":"10.1.1.1","conditions":[{"type":"Ready","status":"True"}],"containerStatuses":[{"name":"a","ready":true,"restartCount":0,"image":"x","imageID":"","state":{"running":{"startedAt":"2026-11-23T16:20:00Z"}}}]}}"#;

/// What every release must be able to do.
fn short(kubectl: &Kubectl<'_>, namespace: &str) {
    let k = |line: &str| format!("-n {namespace} {line}");
    kubectl.ok(&format!("create namespace {namespace}"));
    kubectl.ok(&k("create configmap lit --from-literal=a=b"));
    let applied = kubectl.ok_with(&k("apply -f -"), &manifest("x:1"));
    assert_eq!(applied, "deployment.apps/web created\nconfigmap/conf created\n");
    let again = kubectl.ok_with(&k("apply -f -"), &manifest("x:1"));
    assert_eq!(again, "deployment.apps/web unchanged\nconfigmap/conf unchanged\n");
    let changed = kubectl.ok_with(&k("apply -f -"), &manifest("x:2"));
    assert_eq!(changed, "deployment.apps/web configured\nconfigmap/conf unchanged\n");
    kubectl.says(&k("get deploy web -o jsonpath={.spec.template.spec.containers[0].image}"), &["x:2"]);
    kubectl.says(&k("get deploy,cm -o wide"), &["READY", "IMAGES", "x:2", "configmap/lit"]);
    kubectl.says(&k("explain deployment.spec.strategy"), &["rollingUpdate", "Deployment"]);
    kubectl.says(&k("scale deploy web --replicas=1"), &["scaled"]);
    kubectl.says(&k("delete deploy web"), &["deleted"]);
    kubectl.says(&k("api-resources -o name"), &["deployments.apps", "pods"]);
    kubectl.ok(&format!("delete namespace {namespace} --timeout=20s"));
}

fn objects(kubectl: &Kubectl<'_>) {
    kubectl.says("version", &["Server Version: v1.33"]);
    kubectl.says("get ns", &["kube-node-lease", "Active"]);
    kubectl.ok_with("create -f -", NODE);
    kubectl.says("get nodes -o wide", &["n1", "Ready", "127.0.0.1"]);
    kubectl.ok("create deployment made --image=x:1 --replicas=1");
    kubectl.ok("create secret generic s --from-literal=a=b");
    kubectl.ok("create serviceaccount robot");
    kubectl.says("get secret s -o jsonpath={.data.a}", &["Yg=="]);
    assert!(kubectl.ok("create token robot").starts_with("ey"));
    kubectl.says("run p --image=x:1", &["pod/p created"]);
    kubectl.says("label pod p tier=front", &["labeled"]);
    kubectl.says("annotate pod p note=x", &["annotated"]);
    kubectl.says("get pods -l tier=front -o name", &["pod/p"]);
    kubectl.says("get pods p --show-labels", &["tier=front"]);
    kubectl.says("get pod p -o yaml", &["schedulerName: default-scheduler", "phase: Pending"]);
    kubectl.says("get pod p -o json", &["\"qosClass\": \"BestEffort\""]);
    kubectl.says("get --raw /readyz", &["ok"]);
    kubectl.says("auth can-i delete pods", &["yes"]);
    let refused = kubectl.output("auth can-i delete pods --as bob", "");
    assert_eq!(String::from_utf8_lossy(&refused.stdout), "no\n");
    assert!(kubectl.fails("get pods --as bob").contains("Forbidden"));
    assert!(kubectl.fails("get pod none").contains("pods \"none\" not found"));
    assert!(kubectl.fails("apply --server-side --dry-run=server -f /dev/null").contains("no objects passed"));
    kubectl.soon("describe pod p", "Successfully assigned default/p to n1");
    kubectl.says("describe node n1", &["Non-terminated Pods", "default"]);
    kubectl.says("delete pod p --force --grace-period=0", &["deleted"]);
}

fn rollout(kubectl: &Kubectl<'_>) {
    kubectl.ok_with("apply -f -", &manifest("x:1"));
    kubectl.soon("get pods -l app=web -o name", "pod/web-");
    kubectl.says("set image deploy/web a=x:2", &["image updated"]);
    for (kind, patch) in [
        ("strategic", r#"{"spec":{"template":{"spec":{"containers":[{"name":"a","image":"x:3"}]}}}}"#),
        ("merge", r#"{"spec":{"replicas":1}}"#),
        ("json", r#"[{"op":"add","path":"/metadata/annotations/json","value":"yes"}]"#),
    ] {
        kubectl.says(&format!("patch deploy web --type={kind} -p '{patch}'"), &["patched"]);
    }
    kubectl.says("get deploy web -o yaml", &["image: x:3", "replicas: 1", "json: \"yes\""]);
    kubectl.soon("get rs -l app=web -o jsonpath={range.items[*]}{.spec.template.spec.containers[0].image}{end}", "x:3");
    // The faked kubelet: whatever pod there is becomes ready, until the rollout is done.
    let done = std::thread::scope(|scope| {
        let status = scope.spawn(|| kubectl.ok("rollout status deploy/web --timeout=20s"));
        while !status.is_finished() {
            let names = kubectl.ok("get pods -l app=web --field-selector=status.phase=Pending -o name");
            for name in names.lines() {
                // It may be gone by now.
                kubectl.output(&format!("patch {name} --subresource=status -p '{RUNNING}'"), "");
            }
            let going =
                "get pods -l app=web -o jsonpath={range.items[?(@.metadata.deletionTimestamp)]}{.metadata.name}{end}";
            for name in kubectl.ok(&going.replace("{end}", "{\"\\n\"}{end}")).lines() {
                kubectl.output(&format!("delete pod {name} --force --grace-period=0"), "");
            }
        }
        status.join().expect("no panic")
    });
    assert!(done.contains("successfully rolled out"), "{done}");
    kubectl.says("wait --for=condition=Available deploy/web --timeout=10s", &["condition met"]);
    kubectl.says("rollout history deploy/web", &["REVISION"]);
    kubectl.says("get all", &["deployment.apps/web", "replicaset.apps/web-"]);
    let manifest = manifest("x:4");
    let diff = kubectl.output("diff -f -", &manifest);
    assert!(String::from_utf8_lossy(&diff.stdout).contains("+        image: x:4"), "{diff:?}");
}

fn watch(kubectl: &Kubectl<'_>) {
    std::thread::scope(|scope| {
        let seen =
            scope.spawn(|| kubectl.output("get cm -w --field-selector=metadata.name=seen --request-timeout=4s", ""));
        std::thread::sleep(Duration::from_millis(700));
        kubectl.ok("create cm seen --from-literal=a=b");
        kubectl.ok("patch cm seen --type=merge -p '{\"data\":{\"c\":\"d\"}}'");
        let seen = String::from_utf8_lossy(&seen.join().expect("no panic").stdout).into_owned();
        let rows: Vec<Vec<&str>> = seen.lines().skip(1).map(|l| l.split_whitespace().take(2).collect()).collect();
        assert_eq!(rows, [["seen", "1"], ["seen", "2"]], "{seen}");
    });
}

#[test]
fn kubectl_finds_itself_at_home() {
    let binaries = found();
    let Some((first, others)) = binaries.split_first() else {
        eprintln!("SKIPPED: no kubectl on this machine; install one as /usr/bin/kubectl to run this test");
        return;
    };
    let cluster = Cluster::start();
    let kubectl = Kubectl { binary: first.clone(), cluster: &cluster };
    objects(&kubectl);
    rollout(&kubectl);
    watch(&kubectl);
    // Pods that are bound need a kubelet to go; those of the short scripts shall stay unbound.
    kubectl.says("cordon n1", &["cordoned"]);
    for (at, binary) in others.iter().enumerate() {
        short(&Kubectl { binary: binary.clone(), cluster: &cluster }, &format!("release-{at}"));
    }
}
