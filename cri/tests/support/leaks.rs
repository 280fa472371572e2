//! What a server may not leave behind once its pods are removed: mounts, processes, cgroups, network namespaces, files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_runtime::cgroup::{Cgroup, Layout};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One line for each thing that is still there.
pub(crate) fn find(dir: &Path, cgroup: &str) -> Vec<String> {
    // The base of the namespaces' files stays mounted while the node is set up; it is no pod's.
    let mounts = mounts(dir).into_iter().filter(|point| !point.ends_with("run/netns"));
    let mut left: Vec<String> = mounts.map(|path| format!("mount {}", path.display())).collect();
    left.extend(monitors(dir).iter().map(|pid| format!("monitor {pid}")));
    left.extend(cgroups(cgroup).iter().map(|path| format!("cgroup {}", path.display())));
    for below in ["root/pods", "run/pods", "run/netns", "images/rootfs"] {
        for entry in fs::read_dir(dir.join(below)).into_iter().flatten().flatten() {
            left.push(format!("file {}", entry.path().display()));
        }
    }
    left.extend(leases(&dir.join("run/network")));
    // What CNI keeps: records, results, and host-local's addresses (a file an address).
    for below in ["root/network", "cni/results", "ipam/test"] {
        for entry in fs::read_dir(dir.join(below)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "lock" && !name.starts_with("last_reserved_ip") {
                left.push(format!("file {}", entry.path().display()));
            }
        }
    }
    left
}

/// Removes it all the same, so that a test that fails leaves the machine as it was.
pub(crate) fn clear(dir: &Path, cgroup: &str) {
    for pid in monitors(dir) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    if let Ok(layout) = Layout::discover() {
        let mut all = cgroups(cgroup);
        all.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        for hierarchy in layout.hierarchies() {
            for path in all.iter().filter_map(|path| path.strip_prefix(&hierarchy.mount).ok()) {
                if let Ok(cgroup) = Cgroup::at(&layout, path) {
                    let _ = cgroup.kill_all();
                    let _ = cgroup.delete(Duration::from_secs(2));
                }
            }
        }
    }
    if let Ok(root) = Layout::discover().and_then(|layout| Cgroup::at(&layout, Path::new(cgroup))) {
        let _ = root.delete(Duration::from_secs(2));
    }
    let mut mounts = mounts(dir);
    mounts.reverse();
    for path in mounts {
        let _ = umount2(&path, MntFlags::MNT_DETACH);
    }
}

fn mounts(dir: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(dir) && point != dir).collect()
}

pub(crate) fn monitors(dir: &Path) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(" monitor ") && line.contains(&format!("{}/", dir.display())) {
            found.push(pid);
        }
    }
    found
}

/// The cgroup and all below it, in every tree.
fn cgroups(path: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(layout) = Layout::discover() else { return found };
    for hierarchy in layout.hierarchies() {
        walk(&hierarchy.mount.join(path.trim_start_matches('/')), &mut found);
    }
    // The root that the configuration names may stay; what is in it may not.
    found.retain(|dir| !dir.ends_with(path.trim_start_matches('/')));
    found
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    if !dir.is_dir() {
        return;
    }
    found.push(dir.to_owned());
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found);
        }
    }
}

/// Leases of addresses: any file in a directory of the network's state, but for the memory of what was given back.
fn leases(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.path().is_dir() && entry.file_name() != "released") {
        for lease in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
            found.push(format!("lease {}", lease.path().display()));
        }
    }
    found
}
