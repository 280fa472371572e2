//! DO: one container's directory in every tree: create, limit, open for joining, delete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;

use super::controller::{Controller, Version};
use super::layout::{Hierarchy, Layout, below_mount};
use super::resources::{Absent, Write, decide, unified};
use super::{device_program, devices};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::bpf;

/// One cgroup: the same path in every tree of the host. Holds paths only; nothing is opened or made by having one.
#[derive(Clone, Debug)]
pub struct Cgroup {
    layout: Layout,
    below: PathBuf,
}

/// Everything that a new process needs to enter a cgroup by itself.
#[derive(Debug, Default)]
pub struct Doors {
    /// v1: `tasks` of every tree, open for writing. The process writes `0` to each while it has one thread. Not
    /// `cgroup.procs`: that moves a whole process, for which the kernel takes `cgroup_threadgroup_rwsem` for writing
    /// even when it is the caller's own, and waits for an RCU grace period on a quiet host.
    pub tasks: Vec<OwnedFd>,
    /// v2: the directory, for `CLONE_INTO_CGROUP`.
    pub unified: Option<OwnedFd>,
}

impl Cgroup {
    /// The cgroup at `path` below the mount of every tree; a leading slash changes nothing.
    ///
    /// # Errors
    /// `Invalid` for an empty path or one with `..`.
    pub fn at(layout: &Layout, path: &Path) -> Result<Self> {
        Ok(Self { layout: layout.clone(), below: below_mount(path)? })
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
        Some(tree.mount.join(&self.below))
    }

    /// The directory in the v2 tree, if there is such a tree.
    pub fn unified_dir(&self) -> Option<PathBuf> {
        self.layout.unified().map(|tree| tree.mount.join(&self.below))
    }

    /// The directory in every tree.
    pub(super) fn dirs(&self) -> impl Iterator<Item = (&Hierarchy, PathBuf)> {
        self.layout.hierarchies().iter().map(|tree| (tree, tree.mount.join(&self.below)))
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
        for (tree, dir) in self.dirs() {
            if tree.version == Version::V2 {
                hand_down(tree, &self.below)?;
            } else if tree.controllers.contains(&Controller::Cpuset) {
                inherit_cpuset(tree, &self.below)?;
            }
            make_dir(&dir)?;
        }
        Ok(())
    }

    /// Gives the cgroup its limits; what `resources` leaves out stays as it is. Also for updates.
    ///
    /// A write that the kernel refuses is tried once more after all the others: `memory <= memory+swap` and
    /// `quota / period` hold between files, and which of them has to go first depends on the values before.
    ///
    /// # Errors
    /// `Unsupported` for a controller or file that is not there, `Invalid` for contradicting values, `System` with file
    /// and value.
    pub fn apply(&self, resources: &LinuxResources) -> Result<()> {
        self.check_usage(resources)?;
        let mut again = Vec::new();
        for write in decide(resources, |controller| self.layout.version_of(controller))? {
            if self.write(&write).is_err() {
                again.push(write);
            }
        }
        for write in again {
            self.write(&write)?;
        }
        self.write_unified(resources)
    }

    /// Installs the device rules: deny all, the spec's, the default devices ([`devices::rules`]).
    ///
    /// # Errors
    /// `Invalid` for a wrong rule, `System` with the rule or the failed step of loading the program.
    pub fn apply_devices(&self, resources: Option<&LinuxResources>) -> Result<()> {
        let rules = devices::rules(resources)?;
        match self.layout.version_of(Controller::Devices) {
            Some(Version::V1) => self.write_devices(&devices::v1_writes(&rules)?),
            Some(Version::V2) => self.install_program(&rules),
            None => Err(Error::new(Kind::Unsupported, "this host has no devices cgroup controller and no cgroup v2")),
        }
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
                    let opened = OpenOptions::new().write(true).open(&tasks);
                    doors.tasks.push(opened.context(|| format!("open {}", tasks.display()))?.into());
                }
                Version::V2 => {
                    let open = File::open(&dir).context(|| format!("open {}", dir.display()))?;
                    doors.unified = Some(open.into());
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

    fn write(&self, write: &Write) -> Result<()> {
        let Some(dir) = self.dir(write.controller) else {
            let what = format!("cannot set {}: this host has no {} cgroup controller", write.file, write.controller);
            return Err(Error::new(Kind::Unsupported, what));
        };
        let path = dir.join(&*write.file);
        match (put(&path, &write.value), &write.absent) {
            (Err(why), Absent::Skip) if missing(&why) => Ok(()),
            (Err(why), Absent::Else(other)) if missing(&why) => self.write(other),
            (Err(why), _) if missing(&why) && dir.is_dir() => {
                let what = format!(
                    "cannot set {} to {}: this kernel has no such file in {}",
                    write.file,
                    write.value,
                    dir.display()
                );
                Err(Error::new(Kind::Unsupported, what))
            }
            (put, _) => put.context(|| format!("write {:?} to {}", write.value, path.display())),
        }
    }

    /// The two files of v1 take a rule a write: each is opened once, as there are a dozen rules at least.
    fn write_devices(&self, writes: &[Write]) -> Result<()> {
        let dir = self.dir(Controller::Devices).unwrap_or_default();
        let open = |file: &str| {
            let path = dir.join(file);
            OpenOptions::new().write(true).open(&path).context(|| format!("open {}", path.display()))
        };
        let (mut allow, mut deny) = (open("devices.allow")?, open("devices.deny")?);
        for write in writes {
            let file = if write.file == "devices.allow" { &mut allow } else { &mut deny };
            let put = file.write_all(write.value.as_bytes());
            put.context(|| format!("write {:?} to {}", write.value, dir.join(&*write.file).display()))?;
        }
        Ok(())
    }

    fn write_unified(&self, resources: &LinuxResources) -> Result<()> {
        let files = unified(resources)?;
        let Some((first, _)) = files.first() else { return Ok(()) };
        let Some(dir) = self.unified_dir() else {
            let what = format!("linux.resources.unified: cannot set {first}: this host has no cgroup v2");
            return Err(Error::new(Kind::Unsupported, what));
        };
        for (file, value) in &files {
            write_file(&dir.join(file), value).context(|| "linux.resources.unified")?;
        }
        Ok(())
    }

    /// `checkBeforeUpdate`: a limit below what is in use would make the kernel kill instead of refuse.
    fn check_usage(&self, resources: &LinuxResources) -> Result<()> {
        let Some(memory) = resources.memory() else { return Ok(()) };
        let limit = memory.limit().unwrap_or(0);
        if memory.check_before_update() != Some(true) || limit <= 0 {
            return Ok(());
        }
        let used = self.usage()?.memory.map_or(0, |memory| memory.usage);
        if used > limit.unsigned_abs() {
            let what = format!("linux.resources.memory.limit: {limit} is below the {used} bytes in use");
            return Err(Error::new(Kind::Invalid, what));
        }
        Ok(())
    }

    fn install_program(&self, rules: &[devices::Rule]) -> Result<()> {
        let dir = self.unified_dir().unwrap_or_default();
        let code: Vec<u64> = device_program::assemble(rules).iter().map(|step| step.encode()).collect();
        let cgroup = File::open(&dir).context(|| format!("open {}", dir.display()))?;
        let program = bpf::load_device_program(&code).context(|| "load the device program")?;
        let ids = bpf::device_programs(cgroup.as_fd())
            .context(|| format!("list the device programs of {}", dir.display()))?;
        let mut old = Vec::with_capacity(ids.len());
        for id in ids {
            old.push(bpf::program_by_id(id).context(|| format!("open device program {id}"))?);
        }
        let replaced = match old.as_slice() {
            [only] => Some(only.as_fd()),
            _ => None,
        };
        bpf::attach_device_program(cgroup.as_fd(), program.as_fd(), replaced)
            .context(|| format!("attach the device program to {}", dir.display()))?;
        if old.len() > 1 {
            for program in &old {
                bpf::detach_device_program(cgroup.as_fd(), program.as_fd())
                    .context(|| "detach an older device program")?;
            }
        }
        Ok(())
    }
}

/// Writes a value with one system call, as interface files want it.
fn put(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

pub(super) fn write_file(path: &Path, value: &str) -> Result<()> {
    put(path, value).context(|| format!("write {value:?} to {}", path.display()))
}

fn missing(why: &io::Error) -> bool {
    why.kind() == io::ErrorKind::NotFound
}

fn make_dir(dir: &Path) -> Result<()> {
    match fs::create_dir(dir) {
        Ok(()) => Ok(()),
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(why) if missing(&why) => fs::create_dir_all(dir).context(|| format!("create cgroup {}", dir.display())),
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
        let enabled = fs::read_to_string(&file).unwrap_or_default();
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
        make_dir(&level)?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let read = |dir: &Path| {
                let path = dir.join(file);
                fs::read_to_string(&path).context(|| format!("read {}", path.display()))
            };
            if read(&level)?.trim().is_empty() {
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
            for entry in fs::read_dir(dir)? {
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
