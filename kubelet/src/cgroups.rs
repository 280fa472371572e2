//! The cgroups above the containers: `kubepods`, its QoS groups, and one group a pod, made and limited by
//! plain file writes on cgroup v1 (each controller where it is mounted), hybrid and v2. Containers join
//! below through `cgroup_parent`. What to write is decided as (file, value) pairs and tested as text.
//! Docs: the kernel's admin-guide/cgroup-v1 and cgroup-v2.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use crate::error::{Error, Result};
use crate::pod;
use crate::qos::{self, Class, Limits};

/// Where the controllers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tree {
    /// The unified hierarchy.
    V2(PathBuf),
    /// cpu, memory and pids where they are mounted as v1; those absent are left out.
    V1 { cpu: Option<PathBuf>, memory: Option<PathBuf>, pids: Option<PathBuf> },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Cgroups {
    tree: Tree,
    mount: PathBuf,
    root: String,
    make: bool,
}

impl Cgroups {
    /// Finds the tree under `mount`; `root` is the prefix before `/kubepods`; without `make` only paths are given.
    pub(crate) fn new(mount: &Path, root: &str, make: bool) -> Self {
        Self { tree: detect(mount), mount: mount.to_path_buf(), root: root.to_string(), make }
    }

    /// The cgroup of `pod`, as CRI's `cgroup_parent` wants it.
    pub(crate) fn pod_path(&self, pod: &Pod) -> String {
        let middle = match qos::class(pod) {
            Class::Guaranteed => "",
            Class::Burstable => "/burstable",
            Class::BestEffort => "/besteffort",
        };
        format!("{}/kubepods{middle}/pod{}", self.root, pod::uid(pod))
    }

    /// Makes `kubepods` and its QoS groups. Idempotent.
    ///
    /// # Errors
    /// The file that could not be written.
    pub(crate) fn make_root(&self) -> Result<()> {
        if !self.make {
            return Ok(());
        }
        for group in ["/kubepods", "/kubepods/burstable", "/kubepods/besteffort"] {
            let shares = if group.ends_with("besteffort") { 2 } else { 1024 };
            let limits = Limits { shares, quota: None, memory: None, pids: None };
            self.make_group(&format!("{}{group}", self.root), &limits)?;
        }
        Ok(())
    }

    /// Makes and limits the pod's cgroup. Idempotent.
    ///
    /// # Errors
    /// The file that could not be written.
    pub(crate) fn make_pod(&self, pod: &Pod, pids: i64) -> Result<()> {
        if !self.make {
            return Ok(());
        }
        self.make_group(&self.pod_path(pod), &qos::pod_limits(pod, pids))
    }

    fn make_group(&self, group: &str, limits: &Limits) -> Result<()> {
        if let Tree::V2(root) = &self.tree {
            enable_controllers(root, group)?;
        }
        for dir in self.dirs(group) {
            fs::create_dir_all(&dir).map_err(|e| Error::io(format!("create cgroup {}", dir.display()), e))?;
        }
        for (file, value) in writes(&self.tree, group, limits) {
            write(&file, &value)?;
        }
        Ok(())
    }

    fn dirs(&self, group: &str) -> Vec<PathBuf> {
        match &self.tree {
            Tree::V2(root) => vec![below(root, group)],
            Tree::V1 { cpu, memory, pids } => {
                [cpu, memory, pids].into_iter().flatten().map(|root| below(root, group)).collect()
            }
        }
    }

    /// Removes the pod's cgroup in every hierarchy, empty children first. A group still busy stays for the
    /// next round of garbage collection.
    pub(crate) fn remove_pod(&self, uid: &str) {
        if !self.make || uid.is_empty() {
            return;
        }
        for hierarchy in self.hierarchies() {
            for middle in ["", "/burstable", "/besteffort"] {
                let dir = below(&hierarchy, &format!("{}/kubepods{middle}/pod{uid}", self.root));
                if let Err(why) = remove_empty(&dir)
                    && why.kind() != io::ErrorKind::NotFound
                {
                    tracing::debug!(cgroup = %dir.display(), %why, "cgroup stays for now");
                }
            }
        }
    }

    /// uids of the pods that have a cgroup.
    pub(crate) fn pods(&self) -> Vec<String> {
        let mut uids = Vec::new();
        for hierarchy in self.hierarchies() {
            for middle in ["", "/burstable", "/besteffort"] {
                let dir = below(&hierarchy, &format!("{}/kubepods{middle}", self.root));
                for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                    if let Some(uid) = entry.file_name().to_string_lossy().strip_prefix("pod") {
                        uids.push(uid.to_string());
                    }
                }
            }
        }
        uids.sort();
        uids.dedup();
        uids
    }

    /// Every hierarchy: the runtime makes the pod's directory in those that only it uses.
    fn hierarchies(&self) -> Vec<PathBuf> {
        if let Tree::V2(root) = &self.tree {
            return vec![root.clone()];
        }
        let entries = fs::read_dir(&self.mount).into_iter().flatten().flatten();
        entries.map(|e| e.path()).filter(|p| p.is_dir() && !p.is_symlink()).collect()
    }
}

/// `group` under `hierarchy`; joining an absolute path would replace it.
fn below(hierarchy: &Path, group: &str) -> PathBuf {
    hierarchy.join(group.trim_start_matches('/'))
}

fn detect(mount: &Path) -> Tree {
    if mount.join("cgroup.controllers").exists() {
        return Tree::V2(mount.to_path_buf());
    }
    let find = |name: &str, names: &[&str]| {
        names.iter().map(|n| mount.join(n)).find(|p| p.is_dir()).or_else(|| {
            // Mounted together under a name such as "cpu,cpuacct".
            let entries = fs::read_dir(mount).into_iter().flatten().flatten();
            entries
                .map(|e| e.path())
                .find(|p| p.file_name().is_some_and(|f| f.to_string_lossy().split(',').any(|part| part == name)))
        })
    };
    Tree::V1 { cpu: find("cpu", &["cpu"]), memory: find("memory", &["memory"]), pids: find("pids", &["pids"]) }
}

/// The (file, value) pairs that put `limits` on `group`.
fn writes(tree: &Tree, group: &str, limits: &Limits) -> Vec<(PathBuf, String)> {
    let group = group.trim_start_matches('/');
    let or = |value: Option<i64>, none: &str| value.map_or_else(|| none.to_string(), |v| v.to_string());
    let mut out = Vec::new();
    match tree {
        Tree::V2(root) => {
            let dir = root.join(group);
            out.push((dir.join("cpu.weight"), weight(limits.shares).to_string()));
            out.push((dir.join("cpu.max"), format!("{} {}", or(limits.quota, "max"), qos::PERIOD)));
            out.push((dir.join("memory.max"), or(limits.memory, "max")));
            out.push((dir.join("pids.max"), or(limits.pids, "max")));
        }
        Tree::V1 { cpu, memory, pids } => {
            if let Some(dir) = cpu.as_ref().map(|c| c.join(group)) {
                out.push((dir.join("cpu.shares"), limits.shares.to_string()));
                out.push((dir.join("cpu.cfs_period_us"), qos::PERIOD.to_string()));
                out.push((dir.join("cpu.cfs_quota_us"), or(limits.quota, "-1")));
            }
            if let Some(dir) = memory.as_ref().map(|c| c.join(group)) {
                out.push((dir.join("memory.limit_in_bytes"), or(limits.memory, "-1")));
            }
            if let Some(dir) = pids.as_ref().map(|c| c.join(group)) {
                out.push((dir.join("pids.max"), or(limits.pids, "max")));
            }
        }
    }
    out
}

/// cgroup v2 weight of v1 shares, the formula of KEP-2254.
fn weight(shares: i64) -> i64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Enables what the root offers of cpu, memory and pids on every group above `group`.
fn enable_controllers(root: &Path, group: &str) -> Result<()> {
    let mut dir = root.to_path_buf();
    for part in group.trim_matches('/').split('/') {
        let offered = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        for controller in ["cpu", "memory", "pids"] {
            if offered.split_whitespace().any(|c| c == controller) {
                write(&dir.join("cgroup.subtree_control"), &format!("+{controller}"))?;
            }
        }
        dir.push(part);
        fs::create_dir_all(&dir).map_err(|e| Error::io(format!("create cgroup {}", dir.display()), e))?;
    }
    Ok(())
}

/// A file that the kernel does not offer is a limit that cannot be had: said, not fatal.
fn write(file: &Path, value: &str) -> Result<()> {
    match fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(file)
        .and_then(|mut f| io::Write::write_all(&mut f, value.as_bytes()))
    {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            tracing::debug!(file = %file.display(), "this kernel has no such cgroup file");
            Ok(())
        }
        Err(e) => Err(Error::io(format!("write {value} to {}", file.display()), e)),
        Ok(()) => Ok(()),
    }
}

fn remove_empty(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_empty(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(tree: &Tree, limits: &Limits) -> String {
        let line = |(file, value): (PathBuf, String)| format!("{} {value}\n", file.display());
        writes(tree, "/kubepods/podx", limits).into_iter().map(line).collect()
    }

    #[test]
    fn limits_become_file_writes() {
        let limits = Limits { shares: 512, quota: Some(50_000), memory: Some(64), pids: Some(9) };
        let v1 = Tree::V1 { cpu: Some("/c".into()), memory: Some("/m".into()), pids: Some("/p".into()) };
        assert_eq!(
            text(&v1, &limits),
            "/c/kubepods/podx/cpu.shares 512\n/c/kubepods/podx/cpu.cfs_period_us 100000\n\
             /c/kubepods/podx/cpu.cfs_quota_us 50000\n/m/kubepods/podx/memory.limit_in_bytes 64\n/p/kubepods/podx/pids.max 9\n"
        );
        let free = Limits { shares: 2, quota: None, memory: None, pids: None };
        assert_eq!(
            text(&Tree::V2("/u".into()), &free),
            "/u/kubepods/podx/cpu.weight 1\n/u/kubepods/podx/cpu.max max 100000\n\
             /u/kubepods/podx/memory.max max\n/u/kubepods/podx/pids.max max\n"
        );
        assert_eq!((weight(1024), weight(262_144)), (39, 10_000));
    }

    #[test]
    fn a_unified_tree_is_made_limited_and_removed() {
        let dir = crate::testing::TempDir::new("cgroup-v2");
        for sub in ["", "t", "t/kubepods", "t/kubepods/burstable", "t/kubepods/besteffort"] {
            let at = dir.path().join(sub);
            fs::create_dir_all(&at).expect("mkdir");
            fs::write(at.join("cgroup.controllers"), "cpu io memory pids\n").expect("controllers");
            fs::write(at.join("cgroup.subtree_control"), "").expect("subtree");
        }
        let cgroups = Cgroups::new(dir.path(), "/t", true);
        cgroups.make_root().expect("root");
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"uid": "u1"}})).expect("pod");
        assert_eq!(cgroups.pod_path(&pod), "/t/kubepods/besteffort/podu1");
        let made = dir.path().join("t/kubepods/besteffort/podu1");
        fs::create_dir_all(made.join("container")).expect("mkdir");
        for file in ["cpu.weight", "cpu.max", "memory.max", "pids.max"] {
            fs::write(made.join(file), "").expect("file");
        }
        cgroups.make_pod(&pod, 7).expect("pod");
        assert_eq!(fs::read_to_string(made.join("pids.max")).expect("read"), "7");
        assert_eq!(fs::read_to_string(dir.path().join("t/cgroup.subtree_control")).expect("read"), "+pids");
        assert_eq!(cgroups.pods(), ["u1"]);
        for file in ["cpu.weight", "cpu.max", "memory.max", "pids.max"] {
            fs::remove_file(made.join(file)).expect("unlink: cgroupfs has no files to a rmdir");
        }
        cgroups.remove_pod("u1");
        assert!(!made.exists());
    }
}
