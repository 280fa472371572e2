//! Where each cgroup controller is mounted on this host.
//!
//! Three worlds exist: v1 (a mount for each controller), pure v2 (one tree) and hybrids of both, in which some
//! controllers may be on v2 while others are on v1. Refusing a hybrid whose v2 tree offers a controller, as crun does,
//! refuses real machines; so each controller is simply used where it is. Source: proc(5), `/proc/self/mountinfo`.

use std::path::{Component, Path, PathBuf};

use super::controller::{Controller, Version};
use super::usual;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::fs::read_text;

/// One mounted cgroup tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted; every cgroup path is taken below it.
    pub mount: PathBuf,
    /// Which files it has.
    pub version: Version,
    /// The controllers that it offers; none for a named v1 tree (`name=systemd`) and for the v2 tree of most hybrids.
    pub controllers: Vec<Controller>,
    /// v2 only: every name in `cgroup.controllers`, known to us or not, to be handed down to children.
    pub offered: Vec<String>,
}

/// The cgroup trees of a host, in the order of its mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    hierarchies: Vec<Hierarchy>,
}

impl Layout {
    /// The layout of this host: where everything is at its usual place without the mount table, else by
    /// `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// `Unsupported` where no cgroup tree is mounted at all.
    pub fn discover() -> Result<Self> {
        if let Some(layout) = usual::layout() {
            return Ok(layout);
        }
        let text = read_text(Path::new("/proc/self/mountinfo")).context(|| "read /proc/self/mountinfo")?;
        let layout = Self::parse(&text, |mount| read_text(&mount.join("cgroup.controllers")).unwrap_or_default());
        if layout.hierarchies.is_empty() {
            return Err(Error::new(Kind::Unsupported, "no cgroup tree is mounted (expected one on /sys/fs/cgroup)"));
        }
        Ok(layout)
    }

    /// Reads the layout from the text of a mountinfo file; `offered` gives the text of a v2 mount's `cgroup.controllers`.
    ///
    /// A tree that is mounted more than once is used where it is below `/sys/fs/cgroup`, else at its first mount.
    pub fn parse(mountinfo: &str, offered: impl Fn(&Path) -> String) -> Self {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for line in mountinfo.lines() {
            let Some((mount, kind, options)) = fields(line) else { continue };
            let found = match kind {
                "cgroup" => v1(mount, options),
                "cgroup2" => v2(mount.clone(), &offered(&mount)),
                _ => continue,
            };
            match hierarchies.iter_mut().find(|known| known.same_tree(&found, options)) {
                Some(known) if !usual(&known.mount) && usual(&found.mount) => *known = found,
                Some(_) => {}
                None => hierarchies.push(found),
            }
        }
        Self { hierarchies }
    }

    /// A layout put together by hand, such as temporary directories in a test.
    pub fn of(hierarchies: Vec<Hierarchy>) -> Self {
        Self { hierarchies }
    }

    /// Every tree.
    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    /// The version in which `controller` is offered, if it is at all.
    ///
    /// Devices and freezing need no controller in v2: any v2 tree has them, where no v1 tree does.
    pub fn version_of(&self, controller: Controller) -> Option<Version> {
        let listed = self.hierarchies.iter().find(|tree| tree.controllers.contains(&controller));
        let builtin = matches!(controller, Controller::Devices | Controller::Freezer);
        match listed {
            Some(tree) => Some(tree.version),
            None if builtin && self.unified().is_some() => Some(Version::V2),
            None => None,
        }
    }

    /// The v2 tree, if there is one.
    pub fn unified(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|tree| tree.version == Version::V2)
    }

    /// Whether v2 is all there is.
    pub fn is_pure_v2(&self) -> bool {
        self.hierarchies.iter().all(|tree| tree.version == Version::V2)
    }
}

impl Hierarchy {
    fn same_tree(&self, other: &Self, options: &str) -> bool {
        match (self.version, other.version) {
            (Version::V2, Version::V2) => true,
            // A named tree has no controllers to know it by: two of them differ unless they are mounted at one place.
            (Version::V1, Version::V1) if other.controllers.is_empty() => {
                self.controllers.is_empty() && name_of(options) == self.mount.file_name().and_then(|name| name.to_str())
            }
            (Version::V1, Version::V1) => self.controllers == other.controllers,
            _ => false,
        }
    }
}

/// The cgroup path of a container as the directory below each mount: leading slashes gone, no way up.
///
/// # Errors
/// `Invalid` for a path with `..` or nothing in it.
pub fn below_mount(path: &Path) -> Result<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::new(Kind::Invalid, format!("cgroup path {} must not contain ..", path.display())));
            }
        }
    }
    if clean.as_os_str().is_empty() {
        return Err(Error::new(Kind::Invalid, "the cgroup path is empty: it would be the root of every tree"));
    }
    Ok(clean)
}

/// Mount point, file system type and super options of a mountinfo line (fields 5, first and last after ` - `).
fn fields(line: &str) -> Option<(PathBuf, &str, &str)> {
    let (before, after) = line.split_once(" - ")?;
    let mount = before.split(' ').nth(4)?;
    let mut after = after.split(' ');
    let kind = after.next()?;
    let options = after.nth(1)?;
    Some((PathBuf::from(unescape(mount)), kind, options))
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
pub(crate) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        match rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

pub(super) fn v1(mount: PathBuf, options: &str) -> Hierarchy {
    let controllers = options.split(',').filter_map(|name| Controller::named(name, Version::V1)).collect();
    Hierarchy { mount, version: Version::V1, controllers, offered: Vec::new() }
}

pub(super) fn v2(mount: PathBuf, offered: &str) -> Hierarchy {
    let offered: Vec<String> = offered.split_whitespace().map(str::to_owned).collect();
    let controllers = offered.iter().filter_map(|name| Controller::named(name, Version::V2)).collect();
    Hierarchy { mount, version: Version::V2, controllers, offered }
}

fn name_of(options: &str) -> Option<&str> {
    options.split(',').find_map(|option| option.strip_prefix("name="))
}

fn usual(mount: &Path) -> bool {
    mount.starts_with("/sys/fs/cgroup")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
99 27 0:32 / /srv/my\\040jail/memory rw - cgroup cgroup rw,memory
";

    fn show(layout: &Layout) -> String {
        let mut out = String::new();
        for tree in layout.hierarchies() {
            let names: Vec<&str> = tree.controllers.iter().map(|controller| controller.name()).collect();
            out += &format!("{:?} {} {}\n", tree.version, tree.mount.display(), names.join(","));
        }
        out
    }

    #[test]
    fn a_hybrid_uses_each_controller_where_it_is() {
        let layout = Layout::parse(HYBRID, |_| "hugetlb dmem\n".to_owned());
        assert_eq!(
            show(&layout),
            "V1 /sys/fs/cgroup/cpu,cpuacct cpu,cpuacct\nV1 /sys/fs/cgroup/memory memory\n\
             V1 /sys/fs/cgroup/systemd \nV2 /sys/fs/cgroup/unified hugetlb\n"
        );
        assert_eq!(layout.version_of(Controller::Memory), Some(Version::V1));
        assert_eq!(layout.version_of(Controller::Hugetlb), Some(Version::V2));
        assert_eq!(layout.version_of(Controller::Pids), None);
        assert_eq!(layout.version_of(Controller::Freezer), Some(Version::V2), "v2 freezes without a controller");
        assert_eq!(layout.unified().unwrap().offered, ["hugetlb", "dmem"]);
        assert!(!layout.is_pure_v2());
    }

    #[test]
    fn pure_v2_is_one_tree() {
        let text = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let layout = Layout::parse(text, |_| "cpuset cpu io memory hugetlb pids rdma misc".to_owned());
        assert_eq!(show(&layout), "V2 /sys/fs/cgroup cpuset,cpu,blkio,memory,hugetlb,pids,rdma,misc\n");
        assert!(layout.is_pure_v2());
    }

    #[test]
    fn a_second_mount_elsewhere_is_replaced_by_the_usual_one() {
        let text = "99 27 0:32 / /srv/jail rw - cgroup cgroup rw,memory\n\
                    35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(show(&Layout::parse(text, |_| String::new())), "V1 /sys/fs/cgroup/memory memory\n");
    }

    #[test]
    fn mount_points_are_unescaped() {
        let text = "99 27 0:32 / /srv/my\\040jail\\134x rw - cgroup cgroup rw,memory\n";
        assert_eq!(show(&Layout::parse(text, |_| String::new())), "V1 /srv/my jail\\x memory\n");
    }

    #[test]
    fn garbage_lines_are_passed_over() {
        assert_eq!(Layout::parse("\nx - \n1 2 3 - cgroup\n", |_| String::new()), Layout::default());
    }

    #[test]
    fn paths_stay_below_the_mount() {
        let below = |path: &str| below_mount(Path::new(path)).map(|clean| clean.display().to_string());
        assert_eq!(below("/pods/./a//b").unwrap(), "pods/a/b");
        assert_eq!(below("pods/a").unwrap(), "pods/a");
        assert_eq!(below("/a/../../etc").unwrap_err().kind(), Kind::Invalid);
        assert_eq!(below("/").unwrap_err().kind(), Kind::Invalid);
    }
}
