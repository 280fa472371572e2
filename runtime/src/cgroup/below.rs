//! Where an `exec` enters the cgroups: that of the container, or existing ones below it (`runc exec --cgroup`).

use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use super::controller::Version;
use super::layout::{Hierarchy, Layout};
use super::tree::{Cgroup, Doors};
use crate::error::{Context, Error, Kind, Result};

/// Cgroups below that of a container, by tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Below {
    /// For every tree that `controllers` does not name.
    everywhere: Option<PathBuf>,
    /// v1: name of a controller (or of a named tree), and the path in its tree.
    controllers: Vec<(String, PathBuf)>,
}

impl Below {
    /// Reads `PATH`, or one or more `CONTROLLER[,CONTROLLER...]:PATH`.
    ///
    /// # Errors
    /// `Invalid` for an empty or repeated controller, for a path upwards, and for a mixture of both forms.
    pub fn parse(texts: &[&str]) -> Result<Below> {
        let wrong = |text: &str, why: &str| Err(Error::new(Kind::Invalid, format!("--cgroup {text}: {why}")));
        let mut below = Below::default();
        for text in texts {
            let (names, path) = text.split_once(':').map_or((None, *text), |(names, path)| (Some(names), path));
            let Some(path) = inside(path) else { return wrong(text, "a path must not contain ..") };
            let Some(names) = names else {
                if texts.len() > 1 {
                    return wrong(text, "a path without a controller stands alone");
                }
                below.everywhere = Some(path);
                return Ok(below);
            };
            for name in names.split(',') {
                if name.is_empty() {
                    return wrong(text, "the name of a controller is empty");
                }
                if below.controllers.iter().any(|(known, _)| known == name) {
                    return wrong(text, &format!("controller {name} is there twice"));
                }
                below.controllers.push((name.to_owned(), path.clone()));
            }
        }
        Ok(below)
    }

    /// The path below the container's cgroup in this tree, if one was asked for.
    fn of(&self, tree: &Hierarchy) -> Result<Option<&Path>> {
        let mut found: Option<&Path> = None;
        for (name, path) in self.controllers.iter().filter(|(name, _)| names(tree, name)) {
            if found.is_some_and(|other| other != path) {
                let what = format!("--cgroup {name}:{}: it shares its tree with another one", path.display());
                return Err(Error::new(Kind::Invalid, what));
            }
            found = Some(path);
        }
        Ok(found.or(self.everywhere.as_deref()))
    }

    fn check(&self, layout: &Layout) -> Result<()> {
        let v1 = |tree: &&Hierarchy| tree.version == Version::V1;
        for (name, path) in &self.controllers {
            if !layout.hierarchies().iter().filter(v1).any(|tree| names(tree, name)) {
                let what = format!("--cgroup {name}:{}: this host has no v1 controller {name}", path.display());
                return Err(Error::new(Kind::Invalid, what));
            }
        }
        Ok(())
    }
}

/// Whether `name` is a controller of this v1 tree, or the tree's own name.
fn names(tree: &Hierarchy, name: &str) -> bool {
    let listed = tree.controllers.iter().any(|controller| controller.name() == name);
    let own = tree.mount.file_name().is_some_and(|last| last == name);
    tree.version == Version::V1 && (listed || tree.controllers.is_empty() && own)
}

/// The path without slashes at its beginning; `None` if it leads upwards.
fn inside(path: &str) -> Option<PathBuf> {
    let parts = Path::new(path).components();
    let upwards = parts.clone().any(|part| matches!(part, Component::ParentDir));
    let clean = parts.filter(|part| matches!(part, Component::Normal(_))).collect();
    (!upwards).then_some(clean)
}

impl Cgroup {
    /// As [`Cgroup::doors`], for a further process of a container whose first one is `init`.
    ///
    /// Without a wish, on pure v2, a cgroup that has gone or takes no processes any more (the container has handed
    /// controllers down, as systemd in it does) is replaced by the one that `init` is in now. On a hybrid the v2 tree
    /// takes part only where the path exists there.
    ///
    /// # Errors
    /// `Invalid` for a controller that is not there, `System` for a path that is not.
    pub fn doors_below(&self, below: Option<&Below>, init: i32) -> Result<Doors> {
        let Some(below) = below else { return self.doors_with(init) };
        below.check(self.layout())?;
        let mut doors = Doors::default();
        for (tree, own) in self.dirs() {
            let wanted = below.of(tree)?.map(|sub| own.join(sub));
            match tree.version {
                Version::V1 => {
                    let tasks = wanted.unwrap_or(own).join("tasks");
                    let opened = OpenOptions::new().write(true).open(&tasks);
                    doors.tasks.push(opened.context(|| format!("--cgroup: open {}", tasks.display()))?.into());
                }
                Version::V2 => {
                    let pure = self.layout().is_pure_v2();
                    let dir = wanted.filter(|dir| pure || dir.is_dir()).unwrap_or(own);
                    doors.unified = Some(open(&dir).context(|| format!("--cgroup: open {}", dir.display()))?);
                }
            }
        }
        Ok(doors)
    }

    fn doors_with(&self, init: i32) -> Result<Doors> {
        let Some(dir) = self.unified_dir().filter(|_| self.layout().is_pure_v2()) else { return self.doors() };
        if fs::read(dir.join("cgroup.subtree_control")).is_ok_and(|handed| handed.iter().all(u8::is_ascii_whitespace)) {
            return self.doors();
        }
        match self.of_process(init) {
            Some(unified) => Ok(Doors { unified: Some(unified), ..Doors::default() }),
            None => self.doors(),
        }
    }

    /// The v2 cgroup that a process is in.
    fn of_process(&self, pid: i32) -> Option<OwnedFd> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = inside(text.lines().find_map(|line| line.strip_prefix("0::"))?)?;
        open(&self.layout().unified()?.mount.join(path)).ok()
    }
}

fn open(dir: &Path) -> std::io::Result<OwnedFd> {
    File::open(dir).map(OwnedFd::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_path_or_one_for_each_controller() {
        let one = Below::parse(&["/a//b"]).unwrap();
        assert_eq!(one, Below { everywhere: Some("a/b".into()), controllers: Vec::new() });
        let many = Below::parse(&["cpu,cpuacct:x", "memory:/"]).unwrap();
        let named = [("cpu", "x"), ("cpuacct", "x"), ("memory", "")];
        assert_eq!(many.controllers, named.map(|(name, path)| (name.to_owned(), PathBuf::from(path))));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let cases: [(&[&str], &str); 5] = [
            (&[":x"], "--cgroup :x: the name of a controller is empty"),
            (&["cpu,:x"], "--cgroup cpu,:x: the name of a controller is empty"),
            (&["cpu:x", "cpu:y"], "--cgroup cpu:y: controller cpu is there twice"),
            (&["cpu:x", "y"], "--cgroup y: a path without a controller stands alone"),
            (&["cpu:../x"], "--cgroup cpu:../x: a path must not contain .."),
        ];
        for (texts, sentence) in cases {
            assert_eq!(Below::parse(texts).unwrap_err().to_string(), sentence);
        }
    }

    #[test]
    fn controllers_that_share_a_tree_go_together() {
        use crate::cgroup::Controller;
        let tree = |mount: &str, controllers: &[Controller]| Hierarchy {
            mount: mount.into(),
            version: Version::V1,
            controllers: controllers.to_vec(),
            offered: Vec::new(),
        };
        let both = tree("/sys/fs/cgroup/cpu,cpuacct", &[Controller::Cpu, Controller::Cpuacct]);
        let below = Below::parse(&["cpu:x", "cpuacct:y"]).unwrap();
        assert!(below.of(&both).unwrap_err().to_string().ends_with("it shares its tree with another one"));
        let below = Below::parse(&["cpu:x", "systemd:z"]).unwrap();
        assert_eq!(below.of(&both).unwrap(), Some(Path::new("x")));
        assert_eq!(below.of(&tree("/sys/fs/cgroup/systemd", &[])).unwrap(), Some(Path::new("z")));
        assert_eq!(below.of(&tree("/m", &[Controller::Memory])).unwrap(), None);
        let layout = Layout::of(vec![both]);
        assert_eq!(
            below.check(&layout).unwrap_err().to_string(),
            "--cgroup systemd:z: this host has no v1 controller systemd"
        );
    }
}
