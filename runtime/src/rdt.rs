//! `linux.intelRdt`: shares of cache and memory bandwidth, by the kernel's resctrl file system.
//!
//! runtime-spec, config-linux.md, "IntelRdt". A class of service is a directory of resctrl with `schemata` and `tasks`; a
//! container gets one of its own, or joins one that is there (`closID`). A process joins by writing 0 to `tasks`, as it
//! enters a cgroup. Pure but for [`Group::make`] and its end, which take the root, so that tests bring a tree of theirs.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIntelRdt;
use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Error, Kind, Result};

const RESCTRL_MAGIC: i64 = 0x0765_5821;

/// Where a container's processes go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// The directory of its class.
    pub class: PathBuf,
    /// The container made it, and takes it away.
    pub own: bool,
    /// The group that it is counted in, if so; always the container's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<PathBuf>,
    /// The class has to be there already: nothing is said of what it is to be.
    #[serde(skip)]
    pub expected: bool,
    /// Lines for `schemata`.
    #[serde(skip)]
    pub schemata: String,
}

/// Where resctrl is mounted.
///
/// # Errors
/// `Unsupported` where it is not.
pub(crate) fn root() -> Result<PathBuf> {
    let path = "/sys/fs/resctrl";
    let opened = crate::sys::fs::open(c"/sys/fs/resctrl", libc::O_PATH | libc::O_DIRECTORY);
    match opened.and_then(|dir| crate::sys::fs::magic(dir.as_fd())) {
        Ok(RESCTRL_MAGIC) => Ok(path.into()),
        _ => {
            let what =
                "linux.intelRdt: resctrl is not mounted on /sys/fs/resctrl, or this machine has no such resources";
            Err(Error::new(Kind::Unsupported, what))
        }
    }
}

impl Group {
    /// What a specification comes to, below `root`.
    pub(crate) fn decide(asked: &LinuxIntelRdt, id: &str, root: &Path) -> Group {
        let given = asked.clos_id().as_deref().filter(|name| !name.is_empty());
        let lists = asked.schemata().iter().flatten();
        let lines = asked.l3_cache_schema().iter().chain(asked.mem_bw_schema()).chain(lists);
        let schemata: String = lines.filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect();
        let class = match given {
            Some("/") => root.to_owned(),
            given => root.join(given.unwrap_or(id)),
        };
        let counted = asked.enable_monitoring().unwrap_or(false);
        Group {
            monitor: counted.then(|| class.join("mon_groups").join(id)),
            own: given.is_none(),
            expected: given.is_some() && schemata.is_empty(),
            class,
            schemata,
        }
    }

    /// Makes what is not there yet, and says what it is to be.
    ///
    /// # Errors
    /// `Invalid` for a class that has to be there and is not; `System` with what resctrl says of it.
    pub(crate) fn make(&self, root: &Path) -> Result<()> {
        if self.expected && !self.class.is_dir() {
            let what = format!(
                "linux.intelRdt.closID: {} is not there, and nothing says how to make it",
                self.class.display()
            );
            return Err(Error::new(Kind::Invalid, what));
        }
        make_dir(&self.class, root)?;
        if !self.schemata.is_empty() {
            let file = self.class.join("schemata");
            let wrote =
                fs::write(&file, &self.schemata).context(|| format!("write {:?} to {}", self.schemata, file.display()));
            wrote.map_err(|why| told(why, root))?;
        }
        self.monitor.as_ref().map_or(Ok(()), |dir| make_dir(dir, root))
    }

    /// `tasks` of each directory, for a process to write 0 to.
    pub(crate) fn doors(&self) -> Result<Vec<OwnedFd>> {
        let open = |dir: &PathBuf| {
            let path = dir.join("tasks");
            let opened = fs::OpenOptions::new().write(true).open(&path);
            opened.map(OwnedFd::from).context(|| format!("linux.intelRdt: open {}", path.display()))
        };
        [Some(&self.class), self.monitor.as_ref()].into_iter().flatten().map(open).collect()
    }

    /// Takes away what the container has made.
    pub(crate) fn remove(&self) -> Result<()> {
        let gone = |dir: &PathBuf| match fs::remove_dir(dir) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", dir.display()), &why))
            }
            _ => Ok(()),
        };
        let counted = self.monitor.as_ref().map_or(Ok(()), gone);
        let class = if self.own { gone(&self.class) } else { Ok(()) };
        counted.and(class)
    }
}

fn make_dir(dir: &Path, root: &Path) -> Result<()> {
    match fs::create_dir(dir) {
        Err(why) if why.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(told(Error::io(format!("linux.intelRdt: make {}", dir.display()), &why), root))
        }
        _ => Ok(()),
    }
}

/// A failure, with what the kernel says about it in a file.
fn told(why: Error, root: &Path) -> Error {
    let status = fs::read_to_string(root.join("info/last_cmd_status")).unwrap_or_default();
    match status.trim() {
        "" | "ok" => why,
        said => Error::new(why.kind(), format!("linux.intelRdt: {why}: {said}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse;

    fn decided(json: &str) -> Group {
        Group::decide(&parse(json).unwrap(), "web", Path::new("/r"))
    }

    #[test]
    fn a_class_of_its_own_or_one_that_is_there() {
        let group = decided(r#"{"l3CacheSchema":"L3:0=f","memBwSchema":"MB:0=20","schemata":["L2:0=3"]}"#);
        assert_eq!((group.class.to_str(), group.own, group.expected), (Some("/r/web"), true, false));
        assert_eq!(group.schemata, "L3:0=f\nMB:0=20\nL2:0=3\n");
        let group = decided(r#"{"closID":"gold","enableMonitoring":true}"#);
        assert_eq!((group.class.to_str(), group.own, group.expected), (Some("/r/gold"), false, true));
        assert_eq!(group.monitor, Some("/r/gold/mon_groups/web".into()));
        assert_eq!(decided(r#"{"closID":"/"}"#).class, Path::new("/r"));
    }

    #[test]
    fn made_entered_and_removed_on_a_tree_of_the_test() {
        let root = std::env::temp_dir().join(format!("gantry-resctrl-{}", std::process::id()));
        fs::create_dir_all(root.join("info")).unwrap();
        let asked = parse(r#"{"schemata":["L3:0=f"],"enableMonitoring":true}"#).unwrap();
        let group = Group::decide(&asked, "web", &root);
        // What the kernel makes by itself in a new directory.
        fs::create_dir_all(root.join("web/mon_groups")).unwrap();
        group.make(&root).unwrap();
        for dir in ["web", "web/mon_groups/web"] {
            fs::write(root.join(dir).join("tasks"), "").unwrap();
        }
        assert_eq!(fs::read_to_string(root.join("web/schemata")).unwrap(), "L3:0=f\n");
        assert_eq!(group.doors().unwrap().len(), 2);
        for file in ["web/mon_groups/web/tasks", "web/tasks", "web/schemata"] {
            fs::remove_file(root.join(file)).unwrap();
        }
        // The kernel's directories go with their files; these have to be empty.
        fs::remove_dir(root.join("web/mon_groups/web")).unwrap();
        fs::remove_dir(root.join("web/mon_groups")).unwrap();
        group.remove().unwrap();
        group.remove().unwrap();
        assert!(!root.join("web").exists());

        let absent = Group::decide(&parse(r#"{"closID":"gold"}"#).unwrap(), "web", &root);
        assert!(absent.make(&root).unwrap_err().to_string().contains("gold is not there"));
        fs::write(root.join("info/last_cmd_status"), "mask out of range\n").unwrap();
        let refused = Group { class: root.join("no/way"), ..absent };
        let why = Group { expected: false, ..refused }.make(&root).unwrap_err().to_string();
        assert!(why.ends_with("No such file or directory (ENOENT): mask out of range"), "{why}");
        fs::remove_dir_all(root).unwrap();
    }
}
