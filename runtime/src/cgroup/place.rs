//! DECIDE: where a container's cgroup goes, out of `linux.cgroupsPath` and of where the runtime itself is.
//!
//! | `cgroupsPath` | cgroup |
//! |---|---|
//! | `/a/b` | `/a/b` below every mount |
//! | `a/b` | below the cgroup that the runtime is in, tree by tree; on pure v2 beside it, since a cgroup with processes hands no controllers down |
//! | none | `/gantry-<id>`; for a user without privileges as if `gantry-<id>` had been given |
//!
//! runc does the same, except that it takes an id without a path as relative for root, too: a runtime's container would
//! then change its place with the caller's. OCI runtime-spec, config-linux.md, "Cgroups Path".

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::layout::{Hierarchy, Layout, below_mount};
use super::tree::Cgroup;
use super::{Controller, Version};
use crate::error::{Context, Result};

/// Mount of each tree that the cgroup is in, and its path below: where these are not the same for all.
pub type Trees = BTreeMap<PathBuf, PathBuf>;

impl Cgroup {
    /// The cgroup that a configuration asks for.
    ///
    /// # Errors
    /// `Invalid` for a path with `..`, `System` if the runtime's own place cannot be read.
    pub fn asked(layout: &Layout, path: Option<&Path>, id: &str) -> Result<Self> {
        let path = path.filter(|path| !path.as_os_str().is_empty());
        match path {
            Some(path) if path.is_absolute() => Self::at(layout, path),
            Some(path) => Self::relative(layout, path),
            None if nix::unistd::geteuid().is_root() => Self::at(layout, Path::new(&format!("/gantry-{id}"))),
            None => Self::relative(layout, Path::new(&format!("gantry-{id}"))),
        }
    }

    /// The cgroup that was recorded for a container.
    ///
    /// # Errors
    /// `Invalid` for a path with `..`.
    pub fn recorded(layout: &Layout, path: &Path, trees: Option<&Trees>) -> Result<Self> {
        let mut cgroup = Self::at(layout, path)?;
        cgroup.each = trees.cloned();
        Ok(cgroup)
    }

    fn relative(layout: &Layout, path: &Path) -> Result<Self> {
        let read = |file: &str| fs::read_to_string(file).context(|| format!("read {file}"));
        let (own, mounts) = (read("/proc/self/cgroup")?, read("/proc/self/mountinfo")?);
        let below = below_mount(path)?;
        let trees = layout.hierarchies().iter().map(|tree| {
            let here = own_place(tree, &own, &mounts, layout.is_pure_v2());
            (tree.mount.clone(), here.join(&below))
        });
        let mut cgroup = Self::at(layout, path)?;
        cgroup.each = Some(trees.collect());
        Ok(cgroup)
    }

    /// Where it is in each tree, unless that is the same path in all of them; to be recorded.
    pub fn trees(&self) -> Option<&Trees> {
        self.each.as_ref()
    }
}

/// The directory below the mount in which the runtime itself is, or beside which its containers may be.
fn own_place(tree: &Hierarchy, own: &str, mounts: &str, pure_v2: bool) -> PathBuf {
    let line = own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let same = match (tree.version, tree.controllers.as_slice()) {
            (Version::V2, _) => controllers.is_empty(),
            // A tree without controllers has a name, by which it is mounted.
            (Version::V1, []) => {
                let name = tree.mount.file_name().map(|name| name.to_string_lossy());
                controllers.strip_prefix("name=").is_some_and(|given| name.is_some_and(|name| name == given))
            }
            (Version::V1, [first, ..]) => {
                controllers.split(',').any(|name| Controller::named(name, Version::V1) == Some(*first))
            }
        };
        same.then_some(path)
    });
    let root = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, mount) = (fields.next()?, fields.next()?);
        (Path::new(mount) == tree.mount).then_some(root)
    });
    let path = Path::new(line.unwrap_or("/"));
    let below = path.strip_prefix(root.unwrap_or("/")).unwrap_or(Path::new(""));
    let here = if pure_v2 { below.parent().unwrap_or(Path::new("")) } else { below };
    // Above the root of the own cgroup namespace there is nothing that could be reached.
    below_mount(here).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "4:memory:/jobs/7\n2:cpu,cpuacct:/\n1:name=systemd:/user.slice\n0::/user.slice/session.scope\n";
    const MOUNTS: &str = "\
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    fn shown(layout: &Layout, own: &str, mounts: &str) -> String {
        let trees = layout.hierarchies().iter();
        let places = trees.map(|tree| own_place(tree, own, mounts, layout.is_pure_v2()).join("web"));
        places.map(|place| place.display().to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_relative_path_is_below_the_runtime_tree_by_tree() {
        let layout = Layout::parse(MOUNTS, |_| String::new());
        assert_eq!(shown(&layout, OWN, MOUNTS), "jobs/7/web web user.slice/web user.slice/session.scope/web");
    }

    #[test]
    fn on_pure_v2_it_is_beside_the_runtime() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let layout = Layout::parse(mounts, |_| "cpu".to_owned());
        assert_eq!(shown(&layout, "0::/user.slice/session.scope\n", mounts), "user.slice/web");
        assert_eq!(shown(&layout, "0::/\n", mounts), "web");
        assert_eq!(shown(&layout, "0::/../outside\n", mounts), "web");
    }

    #[test]
    fn a_mount_of_a_part_is_taken_off() {
        let mounts = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let layout = Layout::parse(mounts, |_| String::new());
        assert_eq!(shown(&layout, "4:memory:/docker/abc/inner\n", mounts), "inner/web");
        assert_eq!(shown(&layout, "4:memory:/elsewhere\n", mounts), "web");
    }
}
