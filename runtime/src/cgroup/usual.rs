//! The layout of nearly every host, without reading its mount table.
//!
//! A node with a thousand containers has thousands of mounts, and the kernel writes a line for each whenever the table is
//! read. `/proc/self/cgroup` has a line a tree instead; that a tree is mounted at its usual place is one statfs(2). Where
//! anything is elsewhere, the mount table decides ([`Layout::parse`]).

use std::ffi::CString;
use std::path::{Path, PathBuf};

use super::layout::{Hierarchy, Layout, v1, v2};
use crate::sys::fs;

/// `CGROUP_SUPER_MAGIC` and `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const V1_MAGIC: i64 = 0x0027_e0eb;
const V2_MAGIC: i64 = 0x6367_7270;

const ROOT: &str = "/sys/fs/cgroup";

/// The layout, if every tree of this host is mounted below `/sys/fs/cgroup` by the name of its controllers.
pub(super) fn layout() -> Option<Layout> {
    let own = fs::read_text(Path::new("/proc/self/cgroup")).ok()?;
    let magic = |path: &Path| fs::magic_at(&CString::new(path.as_os_str().as_encoded_bytes()).ok()?).ok();
    trees(&own, magic, |mount| fs::read_text(&mount.join("cgroup.controllers")).unwrap_or_default()).map(Layout::of)
}

/// The trees in a text of `/proc/self/cgroup` (cgroups(7)): `7:cpu,cpuacct:/`, `1:name=systemd:/`, `0::/`.
fn trees(own: &str, magic: impl Fn(&Path) -> Option<i64>, offered: impl Fn(&Path) -> String) -> Option<Vec<Hierarchy>> {
    let root = Path::new(ROOT);
    let mut found = Vec::new();
    let mut unified = false;
    for line in own.lines() {
        let names = line.split(':').nth(1)?;
        if names.is_empty() {
            unified = true;
            continue;
        }
        let mount = root.join(names.strip_prefix("name=").unwrap_or(names));
        if magic(&mount)? != V1_MAGIC {
            return None;
        }
        found.push(v1(mount, names));
    }
    // The line of v2 is there wherever the kernel knows it, whether it is mounted or not.
    let place: PathBuf = if found.is_empty() { root.to_owned() } else { root.join("unified") };
    if unified {
        if magic(&place)? != V2_MAGIC {
            return None;
        }
        let offered = offered(&place);
        found.push(v2(place, &offered));
    }
    Some(found).filter(|found| !found.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "7:cpu,cpuacct:/user\n3:memory:/\n1:name=systemd:/init\n0::/\n";

    fn host(own: &str, missing: &str) -> Option<String> {
        let magic = |path: &Path| {
            let path = path.to_str().unwrap();
            let unified = path.ends_with("/unified") || !own.contains("memory");
            (path != missing).then_some(if unified { V2_MAGIC } else { V1_MAGIC })
        };
        let show = |tree: &Hierarchy| {
            let names: Vec<&str> = tree.controllers.iter().map(|controller| controller.name()).collect();
            format!("{:?} {} {}\n", tree.version, tree.mount.display(), names.join(","))
        };
        trees(own, magic, |_| "hugetlb\n".to_owned()).map(|trees| trees.iter().map(show).collect())
    }

    #[test]
    fn a_hybrid_at_its_usual_places() {
        let expected = "V1 /sys/fs/cgroup/cpu,cpuacct cpu,cpuacct\nV1 /sys/fs/cgroup/memory memory\n\
                        V1 /sys/fs/cgroup/systemd \nV2 /sys/fs/cgroup/unified hugetlb\n";
        assert_eq!(host(OWN, "").unwrap(), expected);
    }

    #[test]
    fn pure_v2_is_the_root() {
        assert_eq!(host("0::/user.slice\n", "").unwrap(), "V2 /sys/fs/cgroup hugetlb\n");
    }

    #[test]
    fn whatever_is_elsewhere_is_left_to_the_mount_table() {
        for missing in ["memory", "cpu,cpuacct", "systemd", "unified"] {
            assert_eq!(host(OWN, &format!("{ROOT}/{missing}")), None, "{missing}");
        }
        assert_eq!(host("0::/\n", ROOT), None);
        assert_eq!(host("", ""), None);
        assert_eq!(host("garbage\n", ""), None);
    }

    #[test]
    fn this_host_is_the_same_both_ways() {
        let Some(quick) = layout() else {
            eprintln!("SKIPPED: a cgroup tree of this host is not at its usual place");
            return;
        };
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let read = |mount: &Path| std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
        let sorted = |layout: &Layout| {
            let mut trees: Vec<String> = layout.hierarchies().iter().map(|tree| format!("{tree:?}")).collect();
            trees.sort();
            trees
        };
        assert_eq!(sorted(&quick), sorted(&Layout::parse(&table, read)));
    }
}
