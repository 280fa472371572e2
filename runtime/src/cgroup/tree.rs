//! DO: one container's directory in every tree: create, open for joining, delete.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::controller::{Controller, Version};
use super::layout::{Hierarchy, Layout, below_mount};
use super::place::Trees;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::fs::{open_path, read_text, write_once};

/// One cgroup: the same path in every tree of the host, as a rule. Holds paths only; nothing is opened or made by having one.
#[derive(Clone, Debug)]
pub struct Cgroup {
    layout: Layout,
    below: PathBuf,
    /// The trees that it is in and its path in each, where that is not `below` in all of them.
    pub(super) each: Option<Trees>,
}

/// Everything that a new process needs to enter a cgroup by itself.
#[derive(Debug, Default)]
pub struct Doors {
    /// v1: `tasks` of every tree, open for writing. The process writes `0` to each while it has one thread. Not
    /// `cgroup.procs`: that moves a whole process, for which the kernel takes `cgroup_threadgroup_rwsem` for writing
    /// even when it is the caller's own, and waits for an RCU grace period on a quiet host.
    pub tasks: Vec<OwnedFd>,
    /// v1: the same by path, where the cgroup is not made yet.
    pub later: Vec<CString>,
    /// v2: the directory, for `CLONE_INTO_CGROUP`.
    pub unified: Option<OwnedFd>,
}

impl Cgroup {
    /// The cgroup at `path` below the mount of every tree; a leading slash changes nothing.
    ///
    /// # Errors
    /// `Invalid` for an empty path or one with `..`.
    pub fn at(layout: &Layout, path: &Path) -> Result<Self> {
        Ok(Self { layout: layout.clone(), below: below_mount(path)?, each: None })
    }

    /// The path below every mount, without a leading slash.
    pub fn path(&self) -> &Path {
        &self.below
    }

    /// The host that this cgroup is on.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The directory in which this controller's files are, if the host has the controller.
    pub fn dir(&self, controller: Controller) -> Option<PathBuf> {
        let trees = self.layout.hierarchies();
        let listed = trees.iter().find(|tree| tree.controllers.contains(&controller));
        let builtin = matches!(controller, Controller::Devices | Controller::Freezer);
        let tree = listed.or_else(|| self.layout.unified().filter(|_| builtin))?;
        self.dir_in(tree)
    }

    /// The version in which it can be limited by this controller: none where it is not in the controller's tree.
    pub(super) fn version_of(&self, controller: Controller) -> Option<Version> {
        match self.each {
            Some(_) => self.dir(controller).and_then(|_| self.layout.version_of(controller)),
            None => self.layout.version_of(controller),
        }
    }

    /// The directory in the v2 tree, if there is such a tree.
    pub fn unified_dir(&self) -> Option<PathBuf> {
        self.layout.unified().and_then(|tree| self.dir_in(tree))
    }

    /// The directory in every tree that it is in.
    pub(crate) fn dirs(&self) -> impl Iterator<Item = (&Hierarchy, PathBuf)> {
        self.layout.hierarchies().iter().filter_map(|tree| Some((tree, self.dir_in(tree)?)))
    }

    fn dir_in(&self, tree: &Hierarchy) -> Option<PathBuf> {
        Some(tree.mount.join(self.below_in(tree)?))
    }

    fn below_in(&self, tree: &Hierarchy) -> Option<&Path> {
        match &self.each {
            None => Some(&self.below),
            Some(trees) => trees.get(&tree.mount).map(PathBuf::as_path),
        }
    }

    /// Whether any tree has it.
    pub fn exists(&self) -> bool {
        self.dirs().any(|(_, dir)| dir.is_dir())
    }

    /// Makes the directory, and what is missing above it, in every tree; one that is there already stays as it is.
    ///
    /// v2 hands the controllers down to it; v1 copies `cpuset.cpus` and `cpuset.mems` from above, without which no
    /// process can enter.
    ///
    /// # Errors
    /// `System` with the directory's path. What has been made stays: `delete` removes it.
    pub fn create(&self) -> Result<()> {
        self.layout.hierarchies().iter().try_for_each(|tree| self.create_in(tree))
    }

    /// As [`Cgroup::create`], but stays out of the trees in which this user may make no cgroup. Whether there were such.
    ///
    /// # Errors
    /// As [`Cgroup::create`], for anything but a lack of permission.
    pub fn create_where_permitted(&mut self) -> Result<bool> {
        let mut trees = Trees::new();
        let mut refused = false;
        for tree in self.layout.hierarchies() {
            let Some(below) = self.below_in(tree) else { continue };
            match self.create_in(tree) {
                Err(why) if is_forbidden(&why) => refused = true,
                created => {
                    created?;
                    trees.insert(tree.mount.clone(), below.to_owned());
                }
            }
        }
        if refused {
            self.each = Some(trees);
        }
        Ok(refused)
    }

    fn create_in(&self, tree: &Hierarchy) -> Result<()> {
        let Some(below) = self.below_in(tree) else { return Ok(()) };
        if tree.version == Version::V2 {
            hand_down(tree, below)?;
        } else if tree.controllers.contains(&Controller::Cpuset) {
            return inherit_cpuset(tree, below);
        }
        make_dir(&tree.mount.join(below)).map(drop)
    }

    /// Makes the directory in the v2 tree alone, into which a process can be cloned while [`Cgroup::create`] makes the
    /// others; they are entered by path. `None` where there is no v1 tree, or one that this user may not change.
    ///
    /// # Errors
    /// As [`Cgroup::create`].
    pub fn begin(&self) -> Result<Option<Doors>> {
        if self.layout.is_pure_v2() {
            return Ok(None);
        }
        let mut doors = Doors::default();
        for (tree, dir) in self.dirs() {
            if tree.version == Version::V2 {
                self.create_in(tree)?;
                let open = open_path(&dir, libc::O_RDONLY | libc::O_DIRECTORY);
                doors.unified = Some(open.context(|| format!("open {}", dir.display()))?);
            } else {
                let path = CString::new(dir.join("tasks").into_os_string().into_encoded_bytes());
                doors.later.push(path.map_err(|_| Error::new(Kind::Invalid, "the cgroup path has a zero byte"))?);
            }
        }
        Ok(Some(doors).filter(|doors| !doors.later.is_empty()))
    }

    /// Opens what a new process needs to enter by itself; every descriptor is close-on-exec.
    ///
    /// # Errors
    /// `System`, if a directory has gone.
    pub fn doors(&self) -> Result<Doors> {
        let mut doors = Doors::default();
        for (tree, dir) in self.dirs() {
            match tree.version {
                Version::V1 => {
                    let tasks = dir.join("tasks");
                    let opened = open_path(&tasks, libc::O_WRONLY);
                    doors.tasks.push(opened.context(|| format!("open {}", tasks.display()))?);
                }
                Version::V2 => {
                    let open = open_path(&dir, libc::O_RDONLY | libc::O_DIRECTORY);
                    doors.unified = Some(open.context(|| format!("open {}", dir.display()))?);
                }
            }
        }
        Ok(doors)
    }

    /// Moves a process in from outside. Costs an RCU grace period on a quiet host: prefer [`Cgroup::doors`].
    ///
    /// # Errors
    /// `System`, if the process or a directory has gone.
    pub fn join(&self, pid: i32) -> Result<()> {
        for (_, dir) in self.dirs() {
            write_file(&dir.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Removes the directory, and those that the container made below it, from every tree.
    ///
    /// Dying processes keep a directory busy, so it is tried again for up to `patience`. All trees are tried, whatever
    /// happens in one; what was never made is no error.
    ///
    /// # Errors
    /// `System` with the first directory that stayed.
    pub fn delete(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_micros(500);
        loop {
            let failed = self.dirs().filter_map(|(_, dir)| remove(&dir).err().map(|why| (dir, why))).last();
            let Some((dir, why)) = failed else { return Ok(()) };
            let busy = why.raw_os_error() == Some(libc::EBUSY);
            if !busy || Instant::now() >= deadline {
                return Err(why).context(|| format!("remove cgroup {}", dir.display()));
            }
            sleep(pause.min(deadline.saturating_duration_since(Instant::now())));
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

/// Whether the kernel refused because this user may not.
pub fn is_forbidden(why: &Error) -> bool {
    why.errno().is_some_and(|errno| matches!(errno.raw(), libc::EPERM | libc::EACCES | libc::EROFS))
}

/// Writes a value with one system call, as interface files want it.
pub(super) fn put(path: &Path, value: &str) -> io::Result<()> {
    let put = open_path(path, libc::O_WRONLY).and_then(|file| write_once(file.as_fd(), value.as_bytes()));
    put.map_err(|why| io::Error::from_raw_os_error(why.raw()))
}

pub(super) fn write_file(path: &Path, value: &str) -> Result<()> {
    put(path, value).context(|| format!("write {value:?} to {}", path.display()))
}

pub(super) fn missing(why: &io::Error) -> bool {
    why.kind() == io::ErrorKind::NotFound
}

/// Makes a directory, and those above it; whether it was not there before.
fn make_dir(dir: &Path) -> Result<bool> {
    match fs::create_dir(dir) {
        Ok(()) => Ok(true),
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(why) if missing(&why) => {
            fs::create_dir_all(dir).map(|()| true).context(|| format!("create cgroup {}", dir.display()))
        }
        Err(why) => Err(why).context(|| format!("create cgroup {}", dir.display())),
    }
}

/// Enables what the root offers at every level above the cgroup.
///
/// Levels that have it already are only read. A controller that a level refuses is left out: if a limit needs it, the
/// missing file says so.
fn hand_down(tree: &Hierarchy, below: &Path) -> Result<()> {
    let mut level = tree.mount.clone();
    let parents = below.parent().into_iter().flat_map(Path::components);
    for name in std::iter::once(None).chain(parents.map(Some)) {
        if let Some(name) = name {
            level.push(name);
            make_dir(&level)?;
        }
        if tree.offered.is_empty() {
            continue;
        }
        let file = level.join("cgroup.subtree_control");
        let enabled = read_text(&file).unwrap_or_default();
        let wanted: Vec<String> = tree
            .offered
            .iter()
            .filter(|name| !enabled.split_whitespace().any(|on| on == *name))
            .map(|name| format!("+{name}"))
            .collect();
        if !wanted.is_empty() && put(&file, &wanted.join(" ")).is_err() {
            for one in &wanted {
                // One at a time, so that one refused controller does not take the others along.
                let _ = put(&file, one);
            }
        }
    }
    Ok(())
}

/// Gives every level of a v1 cpuset the CPUs and memory nodes of the one above, where it has none yet.
fn inherit_cpuset(tree: &Hierarchy, below: &Path) -> Result<()> {
    let mut above = tree.mount.clone();
    for name in below.components() {
        let level = above.join(name);
        let made = make_dir(&level)?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let read = |dir: &Path| {
                let path = dir.join(file);
                read_text(&path).context(|| format!("read {}", path.display()))
            };
            if made || read(&level)?.trim().is_empty() {
                write_file(&level.join(file), read(&above)?.trim())?;
            }
        }
        above = level;
    }
    Ok(())
}

/// Removes a directory and those below it, deepest first. Files in a cgroup cannot be removed and go with it.
fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(why) if missing(&why) => Ok(()),
        Err(why) if why.raw_os_error() == Some(libc::EBUSY) || why.raw_os_error() == Some(libc::ENOTEMPTY) => {
            let mut below = false;
            let entries = match fs::read_dir(dir) {
                Err(why) if missing(&why) => return Ok(()),
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    below = true;
                    remove(&entry.path())?;
                }
            }
            if !below {
                return Err(why);
            }
            match fs::remove_dir(dir) {
                Err(why) if missing(&why) => Ok(()),
                result => result,
            }
        }
        result => result,
    }
}
