//! What the CRI server knows, on disk: one JSON file a pod, one a container. Disk is the truth, memory a cache.
//!
//! ```text
//! <root>/pods/POD/pod.json           PodRecord: outlives a reboot
//! <root>/pods/POD/CONTAINER.json     ContainerRecord
//! <run>/pods/POD32/                  of this boot only: monitor.sock, containers/, etc/, shm. The first 32 digits:
//!                                    the path of a unix socket has 107 bytes (unix(7))
//! <run>/netns/POD/                   the namespaces' bind mounts
//! ```
//!
//! A record is written before the thing that it describes is made and removed after that thing is gone, so that a
//! thing without a record cannot exist. Each is replaced by write, fsync, rename; a version tells an older program
//! from a newer one. Records hold facts; state is derived ([`PodRecord::state`], [`ContainerRecord::state`]).

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use gantry_cri_api::{
    ContainerConfig, ContainerState, LinuxContainerResources, NamespaceMode, PodSandboxConfig, PodSandboxState,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::convert::User;
use crate::error::{Context, Error, Kind, Result};

/// The version of both kinds of records that this program writes and reads.
const VERSION: u32 = 1;

/// A pod: what was asked for, and what has become of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PodRecord {
    version: u32,
    /// 64 hex digits.
    pub id: String,
    /// The wish, as it came.
    pub config: PodSandboxConfig,
    /// The runtime handler that was asked for.
    pub runtime_handler: String,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Making it has come to its end; a pod without is rubbish after a restart.
    pub made: bool,
    /// It was stopped, or its monitor is gone: nothing can be started in it any more.
    pub stopped: bool,
    /// Its addresses, the primary one first; none on the host's network.
    pub ips: Vec<String>,
}

/// A container: what was asked for, and what has become of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ContainerRecord {
    version: u32,
    /// 64 hex digits.
    pub id: String,
    /// The pod's id.
    pub pod: String,
    /// The wish, as it came.
    pub config: ContainerConfig,
    /// The image's id, `sha256:…` of its configuration.
    pub image_id: String,
    /// A name of the image that leads to exactly this content.
    pub image_ref: String,
    /// Where its lines go, absolute; empty for nowhere.
    pub log_path: String,
    /// Its cgroup, from the root of each hierarchy.
    pub cgroup: String,
    /// Who runs it.
    pub user: User,
    /// What asks it to end.
    pub stop_signal: i32,
    /// The limits in force, after updates.
    pub resources: Option<LinuxContainerResources>,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Making it has come to its end; a container without is rubbish after a restart.
    pub made: bool,
    /// When it was started, in nanoseconds since 1970; 0 before.
    pub started_at: i64,
    /// How it ended.
    pub exit: Option<Exit>,
}

/// The end of a container.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Exit {
    /// Exit code; 128 + n for signal n.
    pub code: i32,
    /// Nanoseconds since 1970.
    pub finished_at: i64,
    /// One word for programs: Completed, Error, OOMKilled, StartError, ContainerStatusUnknown.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

impl PodRecord {
    /// A pod that is about to be made.
    pub fn new(id: &str, config: PodSandboxConfig, runtime_handler: &str, now: i64) -> Self {
        Self {
            version: VERSION,
            id: id.to_owned(),
            config,
            runtime_handler: runtime_handler.to_owned(),
            created_at: now,
            made: false,
            stopped: false,
            ips: Vec::new(),
        }
    }

    /// Ready while containers can be started in it.
    pub fn state(&self) -> PodSandboxState {
        match self.made && !self.stopped {
            true => PodSandboxState::SandboxReady,
            false => PodSandboxState::SandboxNotready,
        }
    }

    /// The name that no two pods share: what kubelet counts attempts with.
    pub fn name(&self) -> String {
        pod_name(&self.config)
    }

    /// How the pod wants its network, PID and IPC namespaces.
    pub fn namespaces(&self) -> gantry_cri_api::NamespaceOption {
        let linux = self.config.linux.as_ref();
        linux.and_then(|l| l.security_context.as_ref()).and_then(|s| s.namespace_options.clone()).unwrap_or_default()
    }

    /// Whether it lives on the host's network.
    pub fn host_network(&self) -> bool {
        self.namespaces().network() == NamespaceMode::Node
    }
}

/// `NAME_NAMESPACE_UID_ATTEMPT`.
pub fn pod_name(config: &PodSandboxConfig) -> String {
    let meta = config.metadata.clone().unwrap_or_default();
    format!("{}_{}_{}_{}", meta.name, meta.namespace, meta.uid, meta.attempt)
}

impl ContainerRecord {
    /// A container that is about to be made; the rest is filled in by its maker.
    pub fn new(id: &str, pod: &str, config: ContainerConfig, now: i64) -> Self {
        let resources = config.linux.as_ref().and_then(|linux| linux.resources.clone());
        Self {
            version: VERSION,
            id: id.to_owned(),
            pod: pod.to_owned(),
            config,
            image_id: String::new(),
            image_ref: String::new(),
            log_path: String::new(),
            cgroup: String::new(),
            user: User::default(),
            stop_signal: libc::SIGTERM,
            resources,
            created_at: now,
            made: false,
            started_at: 0,
            exit: None,
        }
    }

    /// What CRI calls its state.
    pub fn state(&self) -> ContainerState {
        match (self.made, &self.exit, self.started_at) {
            (_, Some(_), _) => ContainerState::ContainerExited,
            (false, ..) => ContainerState::ContainerUnknown,
            (true, None, 0) => ContainerState::ContainerCreated,
            (true, None, _) => ContainerState::ContainerRunning,
        }
    }

    /// The name that no two containers of a pod share.
    pub fn name(&self) -> String {
        let meta = self.config.metadata.clone().unwrap_or_default();
        format!("{}_{}", meta.name, meta.attempt)
    }
}

/// The records of one server, and where a pod's files are.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    run: PathBuf,
}

/// What was found on disk.
#[derive(Debug, Default)]
pub struct Found {
    /// Pods with their containers.
    pub pods: Vec<(PodRecord, Vec<ContainerRecord>)>,
    /// Pods whose record is missing or cannot be read, with the reason: made by nobody who came far enough.
    pub broken: Vec<(String, String)>,
}

impl Store {
    /// Makes the directories (0700, SECURITY_CASES 12).
    pub fn open(root: &Path, run: &Path) -> Result<Self> {
        let store = Self { root: root.join("pods"), run: run.join("pods") };
        for dir in [root, run, &store.root, &store.run] {
            private_dir(dir)?;
        }
        Ok(store)
    }

    /// Files of the pod that end with the boot.
    pub fn run_dir(&self, pod: &str) -> PathBuf {
        self.run.join(short(pod))
    }

    /// The OCI bundle of a container.
    pub fn bundle(&self, pod: &str, container: &str) -> PathBuf {
        self.run_dir(pod).join("containers").join(container).join("bundle")
    }

    /// Writes a pod's record; durable when it returns.
    pub fn save_pod(&self, record: &PodRecord) -> Result<()> {
        let dir = self.root.join(&record.id);
        private_dir(&dir)?;
        replace(&dir.join("pod.json"), &json(record)?).context(|| format!("write the record of pod {}", record.id))
    }

    /// Writes a container's record; durable when it returns.
    pub fn save_container(&self, record: &ContainerRecord) -> Result<()> {
        let path = self.container(&record.pod, &record.id);
        replace(&path, &json(record)?).context(|| format!("write the record of container {}", record.id))
    }

    /// Removes a pod's record and directory, whatever is in it. Idempotent.
    pub fn forget_pod(&self, id: &str) -> Result<()> {
        gone(fs::remove_dir_all(self.root.join(id))).context(|| format!("remove the record of pod {id}"))
    }

    /// Removes a container's record. Idempotent.
    pub fn forget_container(&self, pod: &str, id: &str) -> Result<()> {
        gone(fs::remove_file(self.container(pod, id))).context(|| format!("remove the record of container {id}"))
    }

    /// Everything on disk, in no order. One record that cannot be read hides no other.
    pub fn load(&self) -> Result<Found> {
        let mut found = Found::default();
        for id in names(&self.root)? {
            match read::<PodRecord>(&self.root.join(&id).join("pod.json")) {
                Ok(pod) if pod.version > VERSION => {
                    return Err(Error::new(Kind::Unsupported, format!("pod {id}: its record is of a newer version")));
                }
                Ok(pod) => {
                    let containers = self.containers_of(&id)?;
                    found.pods.push((pod, containers));
                }
                Err(why) => found.broken.push((id, why.to_string())),
            }
        }
        let known: BTreeSet<String> = names(&self.root)?.iter().map(|id| short(id).to_owned()).collect();
        for id in names(&self.run)? {
            if !known.contains(&id) {
                found.broken.push((id, "files of a pod without a record".into()));
            }
        }
        Ok(found)
    }

    fn containers_of(&self, pod: &str) -> Result<Vec<ContainerRecord>> {
        let mut list = Vec::new();
        for name in names(&self.root.join(pod))? {
            if name == "pod.json" || !name.ends_with(".json") {
                continue;
            }
            match read(&self.root.join(pod).join(&name)) {
                Ok(record) => list.push(record),
                Err(why) => tracing::error!(pod, name, %why, "a container's record cannot be read; it is left out"),
            }
        }
        Ok(list)
    }

    fn container(&self, pod: &str, id: &str) -> PathBuf {
        self.root.join(pod).join(format!("{id}.json"))
    }
}

/// Makes a directory and its parents, open to nobody but root.
pub fn private_dir(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).context(|| format!("make {}", path.display()))
}

/// Turns "not found" into success: whatever removes is idempotent.
pub fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn short(id: &str) -> &str {
    id.get(..32).unwrap_or(id)
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).context(|| format!("list {}", dir.display()))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).filter(|n| !n.starts_with('.')).collect())
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).context(|| format!("read {}", path.display()))
}

fn json<T: Serialize>(record: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(record).context(|| "encode a record")
}

/// Write, fsync, rename; the directory too, where the name is new (fsync(2): otherwise the name may be lost).
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let new = !path.exists();
    let draft = dir.join(format!(".{}", name.to_string_lossy()));
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    file.sync_data()?;
    fs::rename(&draft, path)?;
    if new { File::open(dir)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use gantry_cri_api::{ContainerMetadata, PodSandboxMetadata};

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("gantry-cri-store-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    fn pod(id: &str) -> PodRecord {
        let metadata = PodSandboxMetadata { name: "web".into(), uid: "u".into(), namespace: "n".into(), attempt: 2 };
        PodRecord::new(id, PodSandboxConfig { metadata: Some(metadata), ..Default::default() }, "", 7)
    }

    #[test]
    fn records_come_back_as_they_were() {
        let dir = scratch("back");
        let store = Store::open(&dir.join("root"), &dir.join("run")).unwrap();
        let mut record = pod("aa");
        store.save_pod(&record).unwrap();
        record.ips = vec!["10.0.0.2".into()];
        store.save_pod(&record).unwrap();
        let metadata = ContainerMetadata { name: "c".into(), attempt: 1 };
        let config = ContainerConfig { metadata: Some(metadata), ..Default::default() };
        let mut container = ContainerRecord::new("bb", "aa", config, 8);
        container.exit = Some(Exit { code: 7, finished_at: 9, reason: "Error".into(), message: String::new() });
        store.save_container(&container).unwrap();
        let found = store.load().unwrap();
        let (seen, containers) = &found.pods[0];
        assert_eq!((seen.ips.as_slice(), seen.name().as_str()), (&["10.0.0.2".to_owned()][..], "web_n_u_2"));
        assert_eq!(containers[0].exit.as_ref().unwrap().code, 7);
        assert_eq!((containers[0].name().as_str(), containers[0].state()), ("c_1", ContainerState::ContainerExited));
        store.forget_container("aa", "bb").unwrap();
        store.forget_container("aa", "bb").unwrap();
        store.forget_pod("aa").unwrap();
        store.forget_pod("aa").unwrap();
        assert!(store.load().unwrap().pods.is_empty());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn rubbish_is_told_and_hides_nothing() {
        let dir = scratch("rubbish");
        let store = Store::open(&dir.join("root"), &dir.join("run")).unwrap();
        store.save_pod(&pod("good")).unwrap();
        fs::create_dir_all(dir.join("root/pods/empty")).unwrap();
        fs::create_dir_all(dir.join("root/pods/torn")).unwrap();
        fs::write(dir.join("root/pods/torn/pod.json"), "{\"vers").unwrap();
        fs::create_dir_all(dir.join("run/pods/left")).unwrap();
        let found = store.load().unwrap();
        assert_eq!(found.pods.len(), 1);
        let mut broken: Vec<_> = found.broken.iter().map(|(id, _)| id.as_str()).collect();
        broken.sort_unstable();
        assert_eq!(broken, ["empty", "left", "torn"]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_newer_version_is_refused_rather_than_removed() {
        let dir = scratch("newer");
        let store = Store::open(&dir.join("root"), &dir.join("run")).unwrap();
        let mut record = pod("aa");
        record.version = VERSION + 1;
        store.save_pod(&record).unwrap();
        assert_eq!(store.load().unwrap_err().kind(), Kind::Unsupported);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn case_12_nobody_else_looks_in() {
        use std::os::unix::fs::PermissionsExt;
        let dir = scratch("modes");
        let store = Store::open(&dir.join("root"), &dir.join("run")).unwrap();
        store.save_pod(&pod("aa")).unwrap();
        for (path, mode) in [("root", 0o700), ("run", 0o700), ("root/pods/aa", 0o700), ("root/pods/aa/pod.json", 0o600)]
        {
            assert_eq!(fs::metadata(dir.join(path)).unwrap().permissions().mode() & 0o777, mode, "{path}");
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn state_is_derived() {
        let mut record = ContainerRecord::new("a", "p", ContainerConfig::default(), 1);
        assert_eq!(record.state(), ContainerState::ContainerUnknown);
        record.made = true;
        assert_eq!(record.state(), ContainerState::ContainerCreated);
        record.started_at = 2;
        assert_eq!(record.state(), ContainerState::ContainerRunning);
        let mut pod = pod("p");
        assert_eq!(pod.state(), PodSandboxState::SandboxNotready);
        pod.made = true;
        assert_eq!(pod.state(), PodSandboxState::SandboxReady);
        pod.stopped = true;
        assert_eq!(pod.state(), PodSandboxState::SandboxNotready);
    }
}
