//! One attack's scene: a scratch host, a bundle, and a runtime that is asked to run it. The same for every runtime.

use gantry_tests::house::House;
use gantry_tests::{bundle, tools};
use serde_json::{Value, json};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long one command of a runtime may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A runtime under attack.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    /// `ours`, `runc`, `crun`.
    pub(crate) name: String,
    /// Its binary.
    pub(crate) program: PathBuf,
}

/// What came of an attack.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It failed.
    Defended,
    /// It failed because the runtime would not make the container at all, and said why.
    Refuses,
    /// It worked, in these words.
    Vulnerable(String),
    /// It cannot be tried, for this reason.
    NotApplicable(String),
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Verdict::Defended => f.write_str("defended"),
            Verdict::Refuses => f.write_str("refuses"),
            Verdict::Vulnerable(how) => write!(f, "**vulnerable** ({how})"),
            Verdict::NotApplicable(why) => write!(f, "not applicable ({why})"),
        }
    }
}

/// `Defended` unless `how` says otherwise.
pub(crate) fn unless(how: Option<String>) -> Verdict {
    how.map_or(Verdict::Defended, Verdict::Vulnerable)
}

/// What a case returns: an error is trouble of the scene, neither defence nor hole.
pub(crate) type Outcome = Result<Verdict, String>;

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn failed(&self) -> bool {
        self.code != 0
    }
}

/// A bundle, a state directory and a container's name, all of one attack.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) house: House,
    pub(crate) runtime: Runtime,
    pub(crate) config: Value,
    /// Name of the container.
    pub(crate) id: String,
}

impl Scene {
    /// A container of the default specification, with busybox, and this program as `/attack`.
    pub(crate) fn new(title: &str, runtime: &Runtime) -> Result<Self, String> {
        let house = House::new(&format!("sec-{title}-{}", runtime.name));
        let dir = house.path("bundle");
        let ours = tools::ours("gantry-runtime").ok_or("gantry-runtime is not built")?;
        bundle::bundle(&dir, &ours, &["/bin/true"])?;
        let text = std::fs::read_to_string(dir.join("config.json")).map_err(|e| format!("read config.json: {e}"))?;
        let mut config: Value = serde_json::from_str(&text).map_err(|e| format!("parse config.json: {e}"))?;
        config["linux"]["cgroupsPath"] = json!(format!("/{}", house.name()));
        config["root"]["readonly"] = json!(false);
        let mut scene = Self { id: house.name().to_owned(), house, runtime: runtime.clone(), config };
        scene.add_program()?;
        Ok(scene)
    }

    /// Binds this program and the libraries it needs.
    fn add_program(&mut self) -> Result<(), String> {
        let own = std::env::current_exe().map_err(|e| format!("find the own program: {e}"))?;
        self.bind(&own, "/attack", &["bind", "ro"]);
        for dir in ["/lib", "/lib64", "/usr"] {
            if Path::new(dir).exists() {
                let real = std::fs::canonicalize(dir).map_err(|e| format!("find {dir}: {e}"))?;
                self.bind(&real, dir, &["rbind", "ro"]);
            }
        }
        Ok(())
    }

    /// Appends a bind mount.
    pub(crate) fn bind(&mut self, from: &Path, to: &str, options: &[&str]) {
        self.mount(json!({ "type": "bind", "source": from, "destination": to, "options": options }));
    }

    /// Appends a mount.
    pub(crate) fn mount(&mut self, mount: Value) {
        self.config["mounts"].as_array_mut().expect("a list").push(mount);
    }

    /// Leaves out the mounts below (and on) a directory.
    pub(crate) fn without_mounts(&mut self, below: &str) {
        let kept = |mount: &Value| !Path::new(mount["destination"].as_str().unwrap_or("")).starts_with(below);
        self.config["mounts"].as_array_mut().expect("a list").retain(kept);
    }

    /// Leaves out a namespace.
    pub(crate) fn without_namespace(&mut self, kind: &str) {
        self.config["linux"]["namespaces"].as_array_mut().expect("a list").retain(|space| space["type"] != kind);
    }

    /// Adds capabilities to the bounding, effective and permitted sets.
    pub(crate) fn add_capabilities(&mut self, names: &[&str]) {
        for set in ["bounding", "effective", "permitted"] {
            let list = self.config["process"]["capabilities"][set].as_array_mut().expect("a list");
            list.extend(names.iter().map(|name| json!(name)));
        }
    }

    /// The container runs this.
    pub(crate) fn args(&mut self, args: &[&str]) -> &mut Self {
        self.config["process"]["args"] = json!(args);
        self
    }

    /// The container runs this in its shell.
    pub(crate) fn script(&mut self, script: &str) -> &mut Self {
        self.args(&["/bin/sh", "-c", script])
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.house.path("bundle/rootfs")
    }

    /// A directory of the host that no container has any business in.
    pub(crate) fn canary(&self) -> Result<PathBuf, String> {
        let dir = self.house.path("canary");
        std::fs::create_dir_all(&dir).map_err(|e| format!("make {}: {e}", dir.display()))?;
        Ok(dir)
    }

    /// A command of the runtime, after which the caller may want more of it.
    pub(crate) fn command(&self, args: &[&str]) -> Result<Command, String> {
        let file = self.house.path("bundle/config.json");
        std::fs::write(&file, self.config.to_string()).map_err(|e| format!("write {}: {e}", file.display()))?;
        let mut command = Command::new(&self.runtime.program);
        command.arg("--root").arg(self.house.path("state")).args(args).current_dir(self.house.path("bundle"));
        Ok(command)
    }

    /// Runs a command to its end.
    pub(crate) fn call(&self, args: &[&str]) -> Result<Said, String> {
        finish(&mut self.command(args)?, self.house.dir())
    }

    /// `run` in the foreground.
    pub(crate) fn run(&self) -> Result<Said, String> {
        self.call(&["run", &self.id])
    }

    /// `create`, or with `start` the whole way; the container's output goes nowhere.
    pub(crate) fn detach(&self, start: bool) -> Result<Said, String> {
        let verb: &[&str] = if start { &["run", "--detach"] } else { &["create"] };
        let mut command = self.command(&[verb, &[self.id.as_str()]].concat())?;
        let err = self.house.path("detached.err");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(&err).map_err(|e| format!("make a file: {e}"))?);
        let mut child = command.spawn().map_err(|e| format!("start {}: {e}", self.runtime.name))?;
        let code = wait(&mut child)?;
        Ok(Said { code, out: String::new(), err: std::fs::read_to_string(err).unwrap_or_default() })
    }

    /// A container that sleeps.
    pub(crate) fn sleeping(&mut self) -> Result<(), String> {
        let said = self.args(&["/bin/sleep", "100"]).detach(true)?;
        if said.failed() { Err(format!("{} runs nothing: {}", self.runtime.name, said.err)) } else { Ok(()) }
    }

    /// `exec` in the container.
    pub(crate) fn exec(&self, args: &[&str]) -> Result<Said, String> {
        self.call(&[&["exec", self.id.as_str()], args].concat())
    }

    pub(crate) fn pid(&self) -> Result<u32, String> {
        let said = self.call(&["state", &self.id])?;
        let state: Value = serde_json::from_str(&said.out).map_err(|e| format!("state: {e}: {}", said.err))?;
        state["pid"].as_u64().map(|pid| pid as u32).ok_or_else(|| format!("state: no pid in {state}"))
    }

    pub(crate) fn delete(&self) {
        let _ = self.call(&["delete", "--force", &self.id]);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.delete();
    }
}

/// Runs a command to its end; its output goes through files, so that a process left behind holds up nobody.
pub(crate) fn finish(command: &mut Command, dir: &Path) -> Result<Said, String> {
    let (out, err) = (dir.join("said.out"), dir.join("said.err"));
    let make = |path: &Path| File::create(path).map_err(|e| format!("make {}: {e}", path.display()));
    command.stdin(Stdio::null()).stdout(make(&out)?).stderr(make(&err)?);
    let mut child = command.spawn().map_err(|e| format!("start {command:?}: {e}"))?;
    let code = wait(&mut child)?;
    let text = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    Ok(Said { code, out: text(&out), err: text(&err) })
}

/// Waits, but not for ever.
fn wait(child: &mut Child) -> Result<i32, String> {
    let end = Instant::now() + PATIENCE;
    loop {
        match child.try_wait().map_err(|e| format!("wait: {e}"))? {
            Some(status) => return Ok(status.code().unwrap_or(1000)),
            None if Instant::now() > end => {
                let _ = child.kill();
                let _ = child.wait();
                return Ok(1001);
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}
