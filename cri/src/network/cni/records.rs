//! What was asked of plugins, on disk before they are run: whatever happens, DEL can be called with the same words.
//!
//! ```text
//! <dir>/POD.json   Record: written before ADD, rewritten with the results, removed after DEL
//! <dir>/POD.lock   locked while a plugin works for the pod; its content is the input of that plugin
//! <cache>/results/NETWORK-POD-DEVICE    as libcni has it: for people and their tools
//! ```
//! Unlike the bridge's leases they outlive a reboot, because the plugins' own records do (host-local's are below
//! `/var/lib/cni`).

use super::super::netns::make_dir;
use super::list::{self, List};
use super::request::Target;
use crate::error::{Context as _, Error, Kind, Result};
use base64::Engine as _;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const VERSION: u32 = 1;

/// A pod's attachments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    /// Each network that it is, or was to be, attached to; in this order.
    pub(super) joined: Vec<Joined>,
}

/// One attachment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Joined {
    /// The configuration as it was at ADD, whole.
    pub(super) list: Value,
    /// What the plugins were told of the pod.
    pub(super) target: Target,
    /// What the last plugin answered; none while ADD has not come to its end.
    pub(super) result: Option<Value>,
}

impl Joined {
    /// The configuration, read again.
    pub(super) fn list(&self) -> Result<List> {
        list::parse_list(self.list.to_string().as_bytes())?.complete()
    }

    /// Its name's part in the file names of the cache.
    fn cache_name(&self) -> String {
        let name = self.list["name"].as_str().unwrap_or_default();
        format!("{name}-{}-{}", self.target.pod, self.target.device)
    }
}

impl Record {
    pub(super) fn new(joined: Vec<Joined>) -> Self {
        Self { version: VERSION, joined }
    }
}

/// The directories of records and of libcni's cache.
#[derive(Debug)]
pub(super) struct Records {
    pub(super) dir: PathBuf,
    pub(super) cache: PathBuf,
}

impl Records {
    pub(super) fn open(dir: &Path, cache: &Path) -> Result<Self> {
        make_dir(dir)?;
        Ok(Self { dir: dir.to_owned(), cache: cache.join("results") })
    }

    fn path(&self, pod: &str) -> PathBuf {
        self.dir.join(format!("{pod}.json"))
    }

    /// The record of a pod, if there is one. One that cannot be read is an error: it may hold addresses.
    pub(super) fn read(&self, pod: &str) -> Result<Option<Record>> {
        let path = self.path(pod);
        let text = match fs::read(&path) {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.context(|| format!("read {}", path.display()))?,
        };
        match serde_json::from_slice::<Record>(&text) {
            Ok(record) if record.version == VERSION => Ok(Some(record)),
            _ => Err(Error::internal(format!(
                "{}: no record of version {VERSION}; free what the pod holds by hand, then remove the file",
                path.display()
            ))),
        }
    }

    /// Every pod that has a record. Drafts and locks of no record are cleared away.
    pub(super) fn pods(&self) -> Result<Vec<String>> {
        let what = || format!("list {}", self.dir.display());
        let (mut pods, mut rest) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.dir).context(what)? {
            let path = entry.context(what)?.path();
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            match path.extension().and_then(|ending| ending.to_str()) {
                Some("json") => pods.push(stem),
                _ => rest.push((stem, path)),
            }
        }
        for (stem, path) in rest {
            if !pods.contains(&stem) {
                let _ = fs::remove_file(path);
            }
        }
        pods.sort();
        Ok(pods)
    }

    pub(super) fn write(&self, pod: &str, record: &Record) -> Result<()> {
        replace(&self.path(pod), &serde_json::to_vec(record).context(|| "encode a record")?)
    }

    /// Forgets a pod: first what is not needed to find the rest.
    pub(super) fn remove(&self, pod: &str) -> Result<()> {
        for path in [self.path(pod), self.dir.join(format!("{pod}.lock"))] {
            crate::store::gone(fs::remove_file(&path)).context(|| format!("remove {}", path.display()))?;
        }
        Ok(())
    }

    /// What libcni would have cached after ADD.
    pub(super) fn write_cache(&self, joined: &Joined) -> Result<()> {
        make_dir(&self.cache)?;
        let target = &joined.target;
        let mut cached = json!({
            "kind": "cniCacheV1",
            "containerId": target.pod,
            "config": base64::engine::general_purpose::STANDARD.encode(joined.list.to_string()),
            "ifName": target.device,
            "networkName": joined.list["name"],
            "netns": target.netns,
            "cniArgs": target.args,
            "result": joined.result,
        });
        if !target.capabilities.is_empty() {
            cached["capabilityArgs"] = target.capabilities.clone().into();
        }
        replace(&self.cache.join(joined.cache_name()), cached.to_string().as_bytes())
    }

    pub(super) fn remove_cache(&self, joined: &Joined) -> Result<()> {
        let path = self.cache.join(joined.cache_name());
        crate::store::gone(fs::remove_file(&path)).context(|| format!("remove {}", path.display()))
    }

    /// Locks the pod against plugins of an earlier daemon that still work for it; waits for them up to `patience`.
    ///
    /// # Errors
    /// `Timeout` when they work longer than that.
    pub(super) async fn lock(&self, pod: &str, patience: Duration) -> Result<Flock<File>> {
        let path = self.dir.join(format!("{pod}.lock"));
        let what = || format!("lock {}", path.display());
        let begun = Instant::now();
        loop {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
            match Flock::lock(file.context(what)?, FlockArg::LockExclusiveNonblock) {
                // Removed in the meantime: the lock of a file that nobody finds locks nobody out.
                Ok(lock) if lock.metadata().context(what)?.nlink() == 0 => {}
                Ok(lock) => return Ok(lock),
                Err(_) if begun.elapsed() > patience => {
                    let why = format!("a plugin that an earlier run started still works for pod {pod}");
                    return Err(Error::new(Kind::Timeout, why));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

/// Write, fsync, rename.
fn replace(path: &Path, text: &[u8]) -> Result<()> {
    let what = || format!("write {}", path.display());
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft);
    let mut file = opened.context(what)?;
    file.write_all(text).context(what)?;
    file.sync_data().context(what)?;
    fs::rename(&draft, path).context(what)
}
