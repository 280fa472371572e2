//! A whole node as its users see it: `gantry up`, and the real `kubectl` against it.
#![allow(clippy::unwrap_used)]

use gantry_tests::house::House;
use gantry_tests::node::{Node, pod, try_start};
use gantry_tests::{image, tools};
use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn example() -> String {
    tools::repository().join("examples/web.yaml").display().to_string()
}

#[test]
fn the_example_walks_the_whole_road() {
    let Some((house, node)) = try_start("road") else { return };
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
    let Some((_house, node)) = try_start("kubectl") else { return };
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
    let Some((_house, node)) = try_start("deployment") else { return };
    node.kubectl(&["create", "deployment", "web", "--image", image::NAME, "--replicas=2", "--", "/bin/sleep", "3600"]);
    node.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    node.kubectl(&["scale", "deployment/web", "--replicas=3"]);
    node.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    node.until("three pods", |n| n.kubectl(&["get", "pods", "-l", "app=web", "--no-headers"]).lines().count() == 3);
    node.kubectl(&["set", "env", "deployment/web", "COLOUR=blue"]);
    node.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert_eq!(node.kubectl(&["get", "replicasets", "--no-headers"]).lines().count(), 2);
    let colour = r#"jsonpath={.spec.template.spec.containers[0].env[*].value}"#;
    node.kubectl(&["rollout", "undo", "deployment/web"]);
    assert_eq!(node.kubectl(&["get", "deployment", "web", "-o", colour]), "");
    node.kubectl(&["rollout", "pause", "deployment/web"]);
    node.kubectl(&["rollout", "resume", "deployment/web"]);
    node.kubectl(&["rollout", "restart", "deployment/web"]);
    node.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    node.kubectl(&["delete", "deployment", "web"]);
    node.until("no pod to be left", |n| n.kubectl(&["get", "pods", "--no-headers"]).trim().is_empty());
}

#[test]
fn a_following_reader_gets_every_line_and_the_end() {
    let Some((_house, node)) = try_start("follow") else { return };
    node.apply(&pod("counter", "Never", "for i in $(seq 40); do echo line $i; sleep 0.05; done"));
    node.until("the pod to run", |n| n.object("pod", "counter")["status"]["phase"] != "Pending");
    let lines = node.kubectl(&["logs", "-f", "counter"]);
    let wanted: String = (1..=40).map(|i| format!("line {i}\n")).collect();
    assert_eq!(lines, wanted);
    node.until("the pod to succeed", |n| n.object("pod", "counter")["status"]["phase"] == "Succeeded");
}

#[test]
fn a_terminal_is_a_terminal() {
    let Some((house, node)) = try_start("terminal") else { return };
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
    let Some((house, node)) = try_start("watch") else { return };
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
    let Some((_house, node)) = try_start("backoff") else { return };
    node.apply(&pod("crasher", "Always", "exit 3"));
    node.until("CrashLoopBackOff", |n| n.kubectl(&["get", "pod", "crasher"]).contains("CrashLoopBackOff"));
    let status = node.object("pod", "crasher")["status"]["containerStatuses"][0].clone();
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    assert!(status["restartCount"].as_u64().unwrap() >= 1);
}

#[test]
fn an_unready_pod_is_not_ready_and_a_dead_one_is_restarted() {
    let Some((_house, node)) = try_start("probes") else { return };
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
    let Some((_house, node)) = try_start("grace") else { return };
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

/// Runs kubectl with something to read, as in a pipe.
fn talk(house: &House, args: &[&str], input: &str) -> std::process::Output {
    use std::io::Write;
    let mut child = Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(house.path("etc/admin.kubeconfig"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // kubectl may end without reading: then its exit code tells.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// A pod with one of everything that is mounted, set or run for a container.
const WHOLE: &str = r#"apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue, file.txt: "a line\n"}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {word: xyzzy}
---
apiVersion: v1
kind: Pod
metadata: {name: whole, labels: {app: whole}}
spec:
  terminationGracePeriodSeconds: 1
  hostAliases: [{ip: 192.0.2.9, hostnames: [far.example]}]
  securityContext: {fsGroup: 3000}
  initContainers:
  - {name: first, image: IMAGE, command: [sh, -c, "echo first >> /scratch/order"], volumeMounts: &scratch [{name: scratch, mountPath: /scratch}]}
  - {name: side, image: IMAGE, restartPolicy: Always, command: [sh, -c, "echo side >> /scratch/order; sleep 3600"], volumeMounts: *scratch, startupProbe: {exec: {command: [grep, side, /scratch/order]}, periodSeconds: 1}}
  - {name: second, image: IMAGE, command: [sh, -c, "echo second >> /scratch/order"], volumeMounts: *scratch}
  containers:
  - name: main
    image: IMAGE
    command: [sleep, "3600"]
    securityContext: {runAsUser: 1000, runAsGroup: 2000, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
    env:
    - {name: WORD, valueFrom: {secretKeyRef: {name: key, key: word}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: BOTH, value: "$(WORD)-$(NODE)"}
    - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
    envFrom: [{configMapRef: {name: settings}, prefix: SET_}]
    resources: {limits: {memory: 64Mi}}
    lifecycle:
      postStart: {exec: {command: [sh, -c, "sleep 0.5; echo hook > /scratch/hook"]}}
      preStop: {exec: {command: [sh, -c, "echo bye > /host/farewell"]}}
    volumeMounts:
    - {name: scratch, mountPath: /scratch}
    - {name: settings, mountPath: /settings}
    - {name: settings, mountPath: /one.txt, subPath: file.txt}
    - {name: key, mountPath: /key}
    - {name: about, mountPath: /about}
    - {name: host, mountPath: /host}
  volumes:
  - {name: scratch, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: settings, configMap: {name: settings}}
  - {name: key, secret: {secretName: key, defaultMode: 0440}}
  - {name: about, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  - {name: host, hostPath: {path: HOST, type: Directory}}
"#;

#[test]
fn a_pod_has_what_its_spec_says() {
    let Some((house, node)) = try_start("whole") else { return };
    let host = house.path("shared");
    fs::create_dir(&host).unwrap();
    fs::set_permissions(&host, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    node.apply(&WHOLE.replace("IMAGE", image::NAME).replace("HOST", &host.display().to_string()));
    node.until_ready("whole");
    let inside = |script: &str| node.kubectl(&["exec", "whole", "-c", "main", "--", "sh", "-c", script]);
    let table = [
        ("cat /scratch/order /scratch/hook", "first\nside\nsecond\nhook\n"),
        ("echo $WORD $NODE $BOTH $SET_colour $LIMIT", "xyzzy node-1 xyzzy-node-1 blue 67108864\n"),
        ("cat /settings/colour /one.txt /key/word /about/labels", "bluea line\nxyzzyapp=\"whole\""),
        ("grep far.example /etc/hosts", "192.0.2.9\tfar.example\n"),
        ("id -u; id -g; id -G", "1000\n2000\n2000 3000\n"),
        ("touch /new 2>/dev/null || echo refused", "refused\n"),
        ("grep CapBnd /proc/self/status", "CapBnd:\t0000000000000000\n"),
        ("dd if=/dev/zero of=/scratch/much bs=1k count=2k 2>/dev/null || echo full; rm /scratch/much", "full\n"),
    ];
    for (script, expected) in table {
        assert_eq!(inside(script), expected, "{script}");
    }
    the_account_is_known(&house, &node, &inside);
    node.kubectl(&["patch", "configmap", "settings", "-p", r#"{"data":{"colour":"red"}}"#]);
    node.until("the new colour in the volume", |_| inside("cat /settings/colour") == "red");
    node.kubectl(&["delete", "pod", "whole"]);
    assert_eq!(fs::read_to_string(host.join("farewell")).unwrap(), "bye\n", "what preStop wrote");
}

/// The pod's token, authority and namespace are those of its account, as the API server says.
fn the_account_is_known(house: &House, node: &Node, inside: &dyn Fn(&str) -> String) {
    let dir = "/var/run/secrets/kubernetes.io/serviceaccount";
    assert_eq!(inside(&format!("cat {dir}/namespace")), "default");
    let (authority, cache) = (house.path("pod-ca.crt"), house.path("pod-cache").display().to_string());
    fs::write(&authority, inside(&format!("cat {dir}/ca.crt"))).unwrap();
    let token = inside(&format!("cat {dir}/token"));
    let config = fs::read_to_string(house.path("etc/admin.kubeconfig")).unwrap();
    let server = config.lines().find_map(|line| line.trim().strip_prefix("server: ")).unwrap().trim_matches('"');
    let authority = authority.display().to_string();
    let ask = |token: &str| {
        let who = ["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"];
        let mut args = vec!["kubectl", "--kubeconfig", "/dev/null", "--cache-dir", &cache, "--server", server];
        args.extend(["--certificate-authority", &authority, "--token", token]);
        args.extend(who);
        node.inside(&args)
    };
    let said = ask(&token);
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert_eq!(text, "system:serviceaccount:default:default", "{}", String::from_utf8_lossy(&said.stderr));
    assert!(!ask(&format!("{token}x")).status.success(), "a token that nobody signed");
}

#[test]
fn what_goes_wrong_is_said() {
    let Some((_house, node)) = try_start("wrong") else { return };
    let state = |pod: &str, path: &str| {
        node.try_kubectl(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")]).unwrap_or_default()
    };
    let limited = "    resources: {limits: {memory: 16Mi}}\n";
    node.apply(&(pod("greedy", "Never", "x=a; while true; do x=$x$x; done") + limited));
    let late = pod("late", "Always", "sleep 3600").replace("spec:\n", "spec:\n  activeDeadlineSeconds: 1\n");
    node.apply(&late);
    node.apply(&pod("unknown", "Always", "true").replace(image::NAME, "registry.invalid/nothing:1"));
    node.apply(&(pod("huge", "Always", "true") + "    resources: {requests: {cpu: 500}}\n"));
    node.apply(&(pod("waiting", "Always", "sleep 3600") + "    envFrom: [{configMapRef: {name: later}}]\n"));
    let first = ".status.containerStatuses[0].state";
    let table = [
        ("greedy", ".status.phase", "Failed"),
        ("greedy", &format!("{first}.terminated.reason"), "OOMKilled"),
        ("greedy", &format!("{first}.terminated.exitCode"), "137"),
        ("late", ".status.reason", "DeadlineExceeded"),
        ("unknown", &format!("{first}.waiting.reason"), "ImagePullBackOff"),
        ("huge", ".status.conditions[0].message", "0/1 nodes are available: 1 Insufficient cpu."),
        ("waiting", &format!("{first}.waiting.reason"), "CreateContainerConfigError"),
    ];
    for (pod, path, expected) in table {
        node.until(&format!("{path} of {pod} to be {expected}"), |_| state(pod, path).starts_with(expected));
    }
    node.kubectl(&["create", "configmap", "later", "--from-literal=a=b"]);
    node.until_ready("waiting");
    let refused = |args: &[&str], why: &str| {
        let said = node.kubectl_raw(args);
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(!said.status.success() && text.contains(why), "{args:?}: {text}");
    };
    refused(&["create", "job", "j", "--image=x"], "could not find the requested resource");
    refused(&["top", "pods"], "Metrics API not available");
    refused(&["logs", "waiting", "-c", "nobody"], "container nobody is not valid for pod waiting");
    let nobodys = r#"{"spec":{"serviceAccountName":"nobody"}}"#;
    refused(&["run", "x", "--image=x", "--overrides", nobodys], r#"serviceaccount "nobody" not found"#);
}

#[test]
fn kubectl_reaches_into_containers() {
    let Some((house, node)) = try_start("reach") else { return };
    // `kubectl cp` runs tar in the container.
    let script = "ln -s busybox /bin/tar; echo page > /www/index.html; exec httpd -f -p 8080 -h /www";
    node.apply(&pod("web", "Always", script));
    node.apply(&pod("mayfly", "Always", "echo I was; sleep 0.2; exit 1"));
    node.until_ready("web");
    let (here, back) = (house.path("here.txt").display().to_string(), house.path("back.txt").display().to_string());
    fs::write(&here, "carried\n").unwrap();
    node.kubectl(&["cp", &here, "web:/tmp/there.txt"]);
    node.kubectl(&["cp", "web:/tmp/there.txt", &back]);
    assert_eq!(fs::read_to_string(&back).unwrap(), "carried\n");

    let run = |name: &str, command: &[&str], input: &str| {
        let args = ["run", name, "--image", image::NAME, "-i", "--rm", "-q", "--restart=Never", "--"];
        talk(&house, &[&args[..], command].concat(), input)
    };
    assert_eq!(String::from_utf8_lossy(&run("echo", &["cat"], "said\n").stdout), "said\n");
    assert_eq!(run("end", &["sh", "-c", "read line; exit $line"], "3\n").status.code(), Some(3));

    assert_eq!(forwarded(&house), "page\n");
    let debug = ["debug", "web", "--image", image::NAME, "--target=main", "-i", "-q", "--", "sh", "-c"];
    let said = talk(&house, &[&debug[..], &["read x; ps -o args"]].concat(), "\n");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("httpd -f"), "a debugger sees the processes of its target: {said}");

    node.until("a restart", |n| n.object("pod", "mayfly")["status"]["containerStatuses"][0]["restartCount"] != 0);
    assert_eq!(node.kubectl(&["logs", "mayfly", "--previous"]), "I was\n");
}

/// What the pod `web` serves, through `kubectl port-forward`.
fn forwarded(house: &House) -> String {
    use std::io::{BufRead, BufReader, Write};
    let mut kubectl = Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(house.path("etc/admin.kubeconfig"))
        .args(["port-forward", "pod/web", ":8080"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    // Kept open to the end: kubectl goes on writing to it.
    let mut said = BufReader::new(kubectl.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    let address = line.split(' ').nth(2).unwrap_or_else(|| panic!("no address in {line:?}"));
    let mut connection = std::net::TcpStream::connect(address).unwrap();
    connection.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut page = String::new();
    connection.read_to_string(&mut page).unwrap();
    kubectl.kill().unwrap();
    kubectl.wait().unwrap();
    page.split_once("\r\n\r\n").map_or(page.clone(), |(_, body)| body.to_owned())
}

#[test]
fn a_node_is_cordoned_tainted_and_drained() {
    let Some((_house, node)) = try_start("drain") else { return };
    let told = |pod: &str, why: &str| {
        let path = "jsonpath={.status.conditions[?(@.type==\"PodScheduled\")].message}";
        node.until(&format!("{pod} to wait: {why}"), |n| n.kubectl(&["get", "pod", pod, "-o", path]).contains(why));
    };
    node.apply(&pod("guest", "Always", "sleep 3600"));
    node.until_ready("guest");
    node.kubectl(&["drain", "node-1", "--force", "--timeout=60s"]);
    assert!(node.try_kubectl(&["get", "pod", "guest"]).is_none(), "a drained node has no pods");
    node.apply(&pod("late", "Always", "sleep 3600"));
    told("late", "1 node(s) were unschedulable");
    node.kubectl(&["uncordon", "node-1"]);
    node.until_ready("late");
    node.kubectl(&["taint", "nodes", "node-1", "kept=for-others:NoExecute"]);
    node.until("the pod that does not tolerate it to go", |n| n.try_kubectl(&["get", "pod", "late"]).is_none());
    node.apply(&pod("other", "Always", "sleep 3600"));
    told("other", "untolerated taint {kept: for-others}");
    node.kubectl(&["taint", "nodes", "node-1", "kept-"]);
    node.until_ready("other");
    node.kubectl(&["delete", "pod", "other", "--force", "--grace-period=0"]);
    assert!(node.try_kubectl(&["get", "pod", "other"]).is_none());
}
