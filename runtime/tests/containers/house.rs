//! The fixture: a bundle of busybox, and a runtime root that nobody else uses.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const BUSYBOX: &str = "/bin/busybox";

/// Ends a test early, loudly, where the machine cannot run it.
macro_rules! house {
    ($name:expr) => {
        match crate::house::House::new($name) {
            Some(house) => house,
            None => return,
        }
    };
}
pub(crate) use house;

/// The same with systemd's driver.
macro_rules! systemd_house {
    ($name:expr) => {
        match crate::house::House::with_systemd($name) {
            Some(house) => house,
            None => return,
        }
    };
}
pub(crate) use systemd_house;

/// What a command left behind: exit code and both outputs.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A bundle, a state root and a cgroup, all of one test.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) dir: PathBuf,
    pub(crate) cgroup: String,
    /// `config.json`, written by each call that makes a container.
    pub(crate) config: Value,
    /// systemd makes the cgroup: all tests run so, too, where `GANTRY_TEST_DRIVER=systemd` says it.
    pub(crate) systemd: bool,
}

impl House {
    /// `None`, with a sentence on standard error, where containers cannot be run.
    pub(crate) fn new(name: &str) -> Option<House> {
        if !nix::unistd::geteuid().is_root() || !Path::new(BUSYBOX).exists() {
            eprintln!("SKIPPED {name}: needs root and {BUSYBOX} (apt-get install busybox-static)");
            return None;
        }
        let pid = std::process::id();
        let dir = PathBuf::from(format!("/tmp/gantry-rt-{pid}-{name}"));
        let bin = dir.join("bundle/rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy(BUSYBOX, bin.join("busybox")).unwrap();
        for tool in ["sh", "true", "cat", "id", "ls", "sleep", "grep", "stat", "mount", "dd", "tty", "readlink", "kill"]
        {
            symlink("busybox", bin.join(tool)).unwrap();
        }
        for dir_name in ["proc", "sys", "dev", "tmp", "etc"] {
            fs::create_dir_all(dir.join("bundle/rootfs").join(dir_name)).unwrap();
        }
        let mut config: Value = serde_json::from_str(gantry_runtime::spec::TEMPLATE).unwrap();
        let systemd = std::env::var("GANTRY_TEST_DRIVER").is_ok_and(|driver| driver == "systemd");
        let mut cgroup = format!("/gantry-rt-{pid}-{name}");
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/bin/true"]);
        config["linux"]["cgroupsPath"] = json!(cgroup);
        if systemd {
            cgroup = format!("/system.slice/gantry-rt-{pid}-{name}.scope");
            config["linux"]["cgroupsPath"] = json!(format!("system.slice:gantry:rt-{pid}-{name}"));
        }
        Some(House { dir, cgroup, config, systemd })
    }

    /// The same with systemd's driver, below a slice of its own. `None`, loudly, where no systemd runs.
    pub(crate) fn with_systemd(name: &str) -> Option<House> {
        if !Path::new("/run/systemd/system").exists() {
            eprintln!("SKIPPED {name}: needs systemd as the first process (make vm-test has it)");
            return None;
        }
        let mut house = House::new(name)?;
        let unit = format!("{}-{name}", std::process::id());
        house.systemd = true;
        house.cgroup = format!("/gantry.slice/gantry-test.slice/rt-{unit}.scope");
        house.set("/linux/cgroupsPath", json!(format!("gantry-test.slice:rt:{unit}")));
        Some(house)
    }

    /// Sets one field, by JSON pointer.
    pub(crate) fn set(&mut self, pointer: &str, value: Value) -> &mut House {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        self.config.pointer_mut(parent).unwrap()[field] = value;
        self
    }

    /// Appends to a list, by JSON pointer.
    pub(crate) fn push(&mut self, pointer: &str, value: Value) -> &mut House {
        self.config.pointer_mut(pointer).unwrap().as_array_mut().unwrap().push(value);
        self
    }

    /// The container runs this in its shell.
    pub(crate) fn script(&mut self, script: &str) -> &mut House {
        self.set("/process/args", json!(["/bin/sh", "-c", script]))
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.join("bundle/rootfs")
    }

    /// A command of the runtime, ready to be changed and started.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gantry-runtime"));
        command.arg("--root").arg(self.dir.join("state")).args(self.systemd.then_some("--systemd-cgroup")).args(args);
        command.current_dir(self.dir.join("bundle")).stdin(Stdio::null());
        command
    }

    pub(crate) fn write_config(&self) {
        fs::write(self.dir.join("bundle/config.json"), self.config.to_string()).unwrap();
    }

    /// Runs a command of the runtime to its end.
    pub(crate) fn call(&self, args: &[&str]) -> Said {
        self.write_config();
        said(self.command(args).output().unwrap())
    }

    /// As `call`, with the configuration that lies there.
    pub(crate) fn call_as_is(&self, args: &[&str]) -> Said {
        said(self.command(args).output().unwrap())
    }

    /// As `call`; the command has to succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let said = self.call(args);
        assert_eq!(said.code, 0, "{args:?}: {said:?}");
        said.out
    }

    /// `run` in the foreground.
    pub(crate) fn run(&self) -> Said {
        self.call(&["run", "c"])
    }

    /// `run`; what the container printed.
    pub(crate) fn prints(&self) -> String {
        let said = self.run();
        assert_eq!(said.code, 0, "{said:?}");
        said.out
    }

    /// `create`, with streams that end with the runtime: nobody reads what such a container prints.
    pub(crate) fn create(&self) -> Said {
        self.write_config();
        let mut child = self
            .command(&["create", "c"])
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.dir.join("create.err")).unwrap())
            .spawn()
            .unwrap();
        let code = child.wait().unwrap().code().unwrap_or(-1);
        Said { code, out: String::new(), err: fs::read_to_string(self.dir.join("create.err")).unwrap() }
    }

    /// A container that sleeps.
    pub(crate) fn sleeping(&mut self) {
        self.set("/process/args", json!(["/bin/sleep", "60"]));
        let said = self.create();
        assert_eq!(said.code, 0, "{said:?}");
        self.ok(&["start", "c"]);
    }

    pub(crate) fn status(&self) -> String {
        let state: Value = serde_json::from_str(&self.ok(&["state", "c"])).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }

    pub(crate) fn pid(&self) -> i32 {
        let state: Value = serde_json::from_str(&self.ok(&["state", "c"])).unwrap();
        state["pid"].as_i64().unwrap() as i32
    }

    /// Directories of this house's cgroup, in every tree.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let trees = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let below = trees.map(|tree| tree.path()).chain([PathBuf::from("/sys/fs/cgroup")]);
        below.map(|tree| tree.join(self.cgroup.trim_start_matches('/'))).filter(|dir| dir.is_dir()).collect()
    }

    /// Every process in these.
    fn processes(&self) -> Vec<String> {
        let lists = self.cgroups().into_iter().filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok());
        lists.flat_map(|list| list.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    fn leaks(&self) -> Vec<String> {
        let mut leaks = Vec::new();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours = self.dir.to_string_lossy();
        leaks.extend(mounts.lines().filter(|line| line.contains(&*ours)).map(|line| format!("mount {line}")));
        leaks.extend(self.cgroups().iter().map(|dir| format!("cgroup {}", dir.display())));
        leaks.extend(self.processes().into_iter().map(|pid| format!("process {pid}")));
        for entry in fs::read_dir(self.dir.join("state")).into_iter().flatten().flatten() {
            leaks.push(format!("state {}", entry.path().display()));
        }
        leaks
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let leaks = if std::thread::panicking() { Vec::new() } else { self.leaks() };
        let _ = self.command(&["delete", "--force", "c"]).output();
        let _ = fs::remove_dir_all(&self.dir);
        assert!(leaks.is_empty(), "left behind: {leaks:#?}");
    }
}

pub(crate) fn said(output: Output) -> Said {
    use std::os::unix::process::ExitStatusExt as _;

    let code = output.status.code().unwrap_or_else(|| 1000 + output.status.signal().unwrap_or(0));
    Said {
        code,
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Asks until it is so; fails after ten seconds.
pub(crate) fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !so() {
        assert!(Instant::now() < deadline, "{what}: still not so");
        std::thread::sleep(Duration::from_millis(5));
    }
}
