//! A pod for tests: a monitor in a directory of its own, busybox as the root file system, and a drop that fails on
//! anything left behind.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gantry_runtime::cgroup::{Cgroup, Layout};
use gantry_runtime::monitor::protocol::{Create, Exit, Status};
use gantry_runtime::monitor::{Client, SealedBinary, exit_record, spawn};
use oci_spec::runtime::Process;
use serde_json::{Value, json};

const BUSYBOX: &str = "/bin/busybox";

/// Why these tests cannot run here, if they cannot; said loudly once by whoever asks.
pub(crate) fn cannot() -> bool {
    let reason = if !nix::unistd::geteuid().is_root() {
        "needs root"
    } else if !Path::new(BUSYBOX).exists() {
        "needs /bin/busybox (apt install busybox-static)"
    } else {
        return false;
    };
    eprintln!("SKIPPED: {reason}");
    true
}

/// Whether the processor is emulated in software, which says nothing of speed. The test machine's harness says so.
pub(crate) fn emulated() -> bool {
    std::env::var_os("GANTRY_EMULATED").is_some()
}

fn binary() -> &'static SealedBinary {
    static BINARY: OnceLock<SealedBinary> = OnceLock::new();
    // GANTRY_RUNTIME: another build of it, to measure what is shipped.
    let path = || std::env::var_os("GANTRY_RUNTIME").unwrap_or_else(|| env!("CARGO_BIN_EXE_gantry-runtime").into());
    BINARY.get_or_init(|| SealedBinary::open(Path::new(&path())).unwrap())
}

/// What scripts of these tests call; the shell has the rest built in.
const APPLETS: &str = "sh seq yes head tr cat sleep touch ls wc stty tty mkdir true";

/// A root file system of busybox alone.
fn make_rootfs(root: &Path) {
    for dir in ["bin", "proc", "dev", "tmp"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    for name in APPLETS.split(' ') {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
}

pub(crate) struct Pod {
    pub(crate) dir: PathBuf,
    pub(crate) client: Client,
    parent: String,
}

impl Pod {
    pub(crate) fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let unique = format!("gantry-mon-{name}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&unique);
        make_rootfs(&dir.join("rootfs"));
        spawn(binary(), &dir).unwrap();
        Self { client: Client::connect(&dir).unwrap(), dir, parent: unique }
    }

    pub(crate) fn log(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.log"))
    }

    /// A shell script as a container, with whatever else `change` wants of the configuration and the request.
    pub(crate) fn create_with(&self, id: &str, script: &str, change: impl FnOnce(&mut Value, &mut Create)) -> i32 {
        let bundle = self.dir.join("containers").join(id).join("bundle");
        fs::create_dir_all(&bundle).unwrap();
        let mut config = json!({
            "ociVersion": "1.2.0",
            "root": { "path": self.dir.join("rootfs"), "readonly": true },
            "process": process(script),
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"] },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"] },
                { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=4m"] }
            ],
            "linux": {
                "cgroupsPath": format!("/{}/{id}", self.parent),
                "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }],
                "resources": { "devices": [{ "allow": false, "access": "rwm" }] }
            }
        });
        let mut create =
            Create { id: id.into(), bundle: bundle.clone(), log_path: Some(self.log(id)), ..Create::default() };
        change(&mut config, &mut create);
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        self.client.create(&create).unwrap()
    }

    pub(crate) fn create(&self, id: &str, script: &str) -> i32 {
        self.create_with(id, script, |_, _| {})
    }

    pub(crate) fn run(&self, id: &str, script: &str) -> i32 {
        let pid = self.create(id, script);
        self.client.start(id).unwrap();
        pid
    }

    /// Waits for the record on disk.
    pub(crate) fn exit(&self, id: &str) -> Exit {
        eventually(&format!("exit of {id}"), || exit_record(&self.dir, id).unwrap())
    }

    /// What the log holds, without times: `stdout F text`.
    pub(crate) fn lines(&self, id: &str) -> Vec<String> {
        let mut text = fs::read(self.log(id)).unwrap();
        // A reader may come in the middle of a write: what has no end yet is left for the next look.
        text.truncate(text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        let text = String::from_utf8_lossy(&text);
        text.split_terminator('\n').map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    pub(crate) fn status(&self, id: &str) -> Option<Status> {
        let state = self.client.state().unwrap();
        state.containers.iter().find(|container| container.id == id).map(|container| container.status)
    }

    /// Pid of the monitor itself.
    pub(crate) fn monitor(&self) -> i32 {
        let text = fs::read_to_string(self.dir.join("monitor.pid")).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    }

    pub(crate) fn cgroup(&self, below: &str) -> Cgroup {
        Cgroup::at(&Layout::discover().unwrap(), &Path::new(&self.parent).join(below)).unwrap()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        if let Ok(state) = self.client.state() {
            for container in &state.containers {
                let deleted = self.client.delete(&container.id, true);
                assert!(failing || deleted.is_ok(), "{deleted:?}");
            }
            let pid = state.pid;
            let shut = self.client.shutdown();
            assert!(failing || shut.is_ok(), "{shut:?}");
            let gone = || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(());
            eventually("end of the monitor", gone);
            assert!(!self.dir.join("monitor.sock").exists());
        }
        let leftover = self.cgroup(".").pids().unwrap_or_default();
        assert!(failing || leftover.is_empty(), "processes are left: {leftover:?}");
        let _ = self.cgroup(".").kill_all();
        let children: BTreeSet<_> = Layout::discover()
            .unwrap()
            .hierarchies()
            .iter()
            .flat_map(|tree| fs::read_dir(tree.mount.join(&self.parent)).into_iter().flatten())
            .filter_map(|entry| entry.ok().filter(|entry| entry.path().is_dir()).map(|entry| entry.path()))
            .collect();
        assert!(failing || children.is_empty(), "cgroups are left: {children:?}");
        self.cgroup(".").delete(Duration::from_secs(5)).unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(failing || !mounts.contains(&self.parent), "mounts are left");
        fs::remove_dir_all(&self.dir).unwrap();
    }
}

/// An OCI process that runs a script.
fn process(script: &str) -> Value {
    json!({ "args": ["/bin/sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 } })
}

/// Tries for ten seconds.
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(Instant::now() < until, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The same as an exec takes it.
pub(crate) fn exec_process(script: &str, terminal: bool) -> Process {
    let mut value = process(script);
    value["terminal"] = json!(terminal);
    serde_json::from_value(value).unwrap()
}
