//! A whole node of a test's own: `gantry up` in a network namespace of its own, every path below a [`House`].

use crate::house::House;
use crate::{image, tools};
use serde_json::Value;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longest that a node may take from its start to Ready on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running (or killed) node. Dropping it takes the node down with everything on it.
#[derive(Debug)]
pub struct Node {
    config: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
    run_dir: PathBuf,
    gantry: PathBuf,
    log: PathBuf,
    daemon: Option<Child>,
}

/// What a node needs that a machine may lack; the reason for a skip.
///
/// # Errors
/// A sentence that names what is missing.
pub fn possible() -> Result<(), String> {
    if !tools::is_root() {
        return Err("a node needs root".into());
    }
    for tool in ["kubectl", "busybox", "nsenter"] {
        tools::find(tool).ok_or(format!("{tool} is not installed (`make setup` installs it)"))?;
    }
    for program in ["gantry", "gantry-runtime"] {
        tools::ours(program).ok_or(format!("{program} is not built (`make build` builds it)"))?;
    }
    Ok(())
}

/// A house and a node in it for the test `title`; or says loudly why this machine cannot, and returns nothing.
#[must_use]
pub fn try_start(title: &str) -> Option<(House, Node)> {
    if let Err(why) = possible() {
        eprintln!("SKIPPED {title}: {why}");
        return None;
    }
    let house = House::new(title);
    let node = Node::start(&house);
    Some((house, node))
}

/// The manifest of a pod whose only container, `main`, runs a shell script (without single quotes) from the busybox
/// image; with a grace period of one second. Further fields of the container may be appended, indented by four.
#[must_use]
pub fn pod(name: &str, restart_policy: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: {restart_policy}\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: {}\n    \
         command: [/bin/sh, -c]\n    args: ['{script}']\n",
        image::NAME
    )
}

impl Node {
    /// Starts a node in `house` and waits until it is Ready, with the busybox image of [`image`] imported.
    ///
    /// # Panics
    /// The node does not become Ready; its log is printed.
    #[must_use]
    pub fn start(house: &House) -> Self {
        let gantry = tools::ours("gantry").expect("checked by possible()");
        let runtime = tools::ours("gantry-runtime").expect("checked by possible()");
        let dir = house.dir().display();
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let text = format!(
            "data_dir = \"{dir}/data\"\nrun_dir = \"{dir}/run\"\nconfig_dir = \"{dir}/etc\"\nlog_dir = \"{dir}/logs\"\n\
             node_name = \"node-1\"\napi_address = \"127.0.0.1:{port}\"\nprivate_network = true\n\
             cgroup_root = \"/{}\"\nruntime = \"{}\"\nlog = \"info\"\n\
             image_gc_high_threshold_percent = 100\n",
            // However full this machine's disk is, the image stays.
            house.name(),
            runtime.display()
        );
        let config = house.path("gantry.toml");
        fs::write(&config, text).expect("own directory");
        let mut node = Self {
            config,
            kubeconfig: house.path("etc/admin.kubeconfig"),
            home: house.path("home"),
            run_dir: house.path("run"),
            log: house.path("gantry.log"),
            gantry,
            daemon: None,
        };
        node.up();
        node.import(house);
        node
    }

    fn import(&self, house: &House) {
        let layout = image::layout(house.dir()).expect("an image can be built");
        self.gantry(&["image", "import", &layout.display().to_string()]);
    }

    /// Runs a subcommand of `gantry` with this node's configuration.
    ///
    /// # Panics
    /// It fails.
    pub fn gantry(&self, args: &[&str]) -> String {
        let mut command = Command::new(&self.gantry);
        command.args(args).arg("--config").arg(&self.config);
        let said = command.output().expect("gantry starts");
        assert!(said.status.success(), "gantry {args:?}: {}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8_lossy(&said.stdout).into_owned()
    }

    /// Starts the daemon (again) and waits until the node is Ready.
    ///
    /// # Panics
    /// It does not become Ready; the daemon's log is printed.
    pub fn up(&mut self) {
        self.spawn(&[]);
        self.until("the node to be Ready", |node| {
            let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
            node.try_kubectl(&["get", "node", "node-1", "-o", ready]).is_some_and(|said| said == "True")
        });
    }

    /// Starts the daemon with extra environment, without waiting for anything.
    ///
    /// # Panics
    /// The program cannot be started.
    pub fn spawn(&mut self, environment: &[(&str, &str)]) {
        let log = File::options().create(true).append(true).open(&self.log).expect("own directory");
        let mut command = Command::new(&self.gantry);
        command.arg("up").arg("--config").arg(&self.config).stdin(Stdio::null());
        command.envs(environment.iter().copied());
        command.stdout(log.try_clone().expect("own file")).stderr(log);
        self.daemon = Some(command.spawn().expect("gantry starts"));
    }

    /// The daemon's process id; 0 when none runs.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().map_or(0, Child::id)
    }

    /// Ends the daemon with SIGKILL, as a crash would; pods stay.
    pub fn kill9(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// Whether the daemon has ended by itself (a fault point, a crash), waiting for at most `limit`.
    pub fn ended_within(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while let Some(daemon) = self.daemon.as_mut() {
            if !matches!(daemon.try_wait(), Ok(None)) {
                self.daemon = None;
                return true;
            }
            if Instant::now() > end {
                return false;
            }
            sleep(Duration::from_millis(10));
        }
        true
    }

    /// Runs kubectl against this node.
    ///
    /// # Panics
    /// kubectl cannot be started.
    #[must_use]
    pub fn kubectl_raw(&self, args: &[&str]) -> Output {
        Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(args)
            .env("HOME", &self.home)
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .output()
            .expect("kubectl starts")
    }

    /// kubectl's output, or nothing where it failed.
    #[must_use]
    pub fn try_kubectl(&self, args: &[&str]) -> Option<String> {
        let said = self.kubectl_raw(args);
        said.status.success().then(|| String::from_utf8_lossy(&said.stdout).into_owned())
    }

    /// kubectl's output.
    ///
    /// # Panics
    /// kubectl fails.
    pub fn kubectl(&self, args: &[&str]) -> String {
        let said = self.kubectl_raw(args);
        assert!(said.status.success(), "kubectl {args:?}: {}{}", String::from_utf8_lossy(&said.stderr), self.tail());
        String::from_utf8_lossy(&said.stdout).into_owned()
    }

    /// Applies a manifest given as text.
    ///
    /// # Panics
    /// kubectl refuses it.
    pub fn apply(&self, manifest: &str) {
        let file = self.home.join("manifest.yaml");
        fs::create_dir_all(&self.home).expect("own directory");
        fs::write(&file, manifest).expect("own directory");
        self.kubectl(&["apply", "-f", &file.display().to_string()]);
    }

    /// An object as JSON.
    ///
    /// # Panics
    /// It does not exist, or kubectl prints no JSON.
    #[must_use]
    pub fn object(&self, kind: &str, name: &str) -> Value {
        serde_json::from_str(&self.kubectl(&["get", kind, name, "-o", "json"])).expect("kubectl prints JSON")
    }

    /// Waits for `done`, asking every 50 ms.
    ///
    /// # Panics
    /// It does not come true within a minute; the end of the daemon's log is printed.
    pub fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "waited {PATIENCE:?} for {what}{}", self.tail());
            sleep(Duration::from_millis(50));
        }
    }

    /// Waits until a pod's Ready condition is true.
    ///
    /// # Panics
    /// It does not become so.
    pub fn until_ready(&self, pod: &str) {
        let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        self.until(&format!("pod {pod} to be Ready"), |n| {
            n.try_kubectl(&["get", "pod", pod, "-o", ready]).is_some_and(|said| said == "True")
        });
    }

    /// Runs a program inside the node's network namespace.
    ///
    /// # Panics
    /// `nsenter` cannot be started.
    #[must_use]
    pub fn inside(&self, args: &[&str]) -> Output {
        let netns = format!("--net={}", self.run_dir.join("node/netns/net").display());
        Command::new("nsenter").arg(netns).args(args).stdin(Stdio::null()).output().expect("nsenter starts")
    }

    /// The end of the daemon's log, for failure messages.
    #[must_use]
    pub fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(40);
        format!("\n--- the node's log ---\n{}", lines[from..].join("\n"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.tail());
        }
        let mut command = Command::new(&self.gantry);
        let down = command.arg("down").arg("--config").arg(&self.config).output();
        self.kill9();
        if let Ok(down) = down
            && !down.status.success()
        {
            eprintln!("gantry down: {}", String::from_utf8_lossy(&down.stderr));
        }
    }
}
