//! DO: give a cgroup its limits and its device rules, at first and in an update.
//!
//! Values are read back only where that is needed: a new cgroup has nothing worth keeping.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;

use super::controller::{Controller, Version};
use super::device_list::List;
use super::resources::{Absent, Write, decide, unified};
use super::tree::{Cgroup, missing, put, write_file};
use super::undo::undo;
use super::{device_program, devices};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::bpf;

/// Files that were written, and the lines that bring back what each said before.
type Journal = Vec<(PathBuf, Vec<String>)>;

/// Limits that were changed, with what brings back those from before.
#[derive(Debug, Default)]
pub struct Changed {
    journal: Journal,
}

impl Changed {
    /// Puts the old values back because of `why`, which is returned: with what could not be put back, if anything.
    pub fn undo(self, why: Error) -> Error {
        match put_back(&self.journal) {
            Ok(()) => why,
            Err(also) => why.within(format!("the limits from before are not all in force again ({also})")),
        }
    }
}

impl Cgroup {
    /// Gives the cgroup its limits; what `resources` leaves out stays as it is.
    ///
    /// A write that the kernel refuses as contradicting is tried once more after all the others: `memory <= memory+swap`
    /// and `quota / period` hold between files, and which of them has to go first depends on the values before.
    ///
    /// # Errors
    /// `Unsupported` for a controller or file that is not there, `Invalid` for contradicting values, `System` with file
    /// and value.
    pub fn apply(&self, resources: &LinuxResources) -> Result<()> {
        self.put_all(resources, None)
    }

    /// As [`Cgroup::apply`], for processes that live with the limits already: all of it, or nothing as far as the kernel
    /// lets old values back in. Nothing is written where something is wrong from the start.
    ///
    /// # Errors
    /// As [`Cgroup::apply`]; the sentence also says what could not be put back.
    pub fn change(&self, resources: &LinuxResources) -> Result<Changed> {
        let mut changed = Changed::default();
        match self.put_all(resources, Some(&mut changed.journal)) {
            Ok(()) => Ok(changed),
            Err(why) => Err(changed.undo(why)),
        }
    }

    fn put_all(&self, resources: &LinuxResources, mut journal: Option<&mut Journal>) -> Result<()> {
        let writes = decide(resources, |controller| self.version_of(controller))?;
        let files = unified(resources)?;
        self.check_usage(resources)?;
        let mut again = Vec::new();
        for write in &writes {
            match self.write(write, journal.as_deref_mut()) {
                Err(why) if why.errno().is_some_and(|errno| errno.raw() == libc::EINVAL) => again.push(write),
                put => put?,
            }
        }
        for write in again {
            self.write(write, None)?;
        }
        files.iter().try_for_each(|(file, value)| self.write_unified(file, value, journal.as_deref_mut()))
    }

    /// Installs the device rules in a new cgroup: deny all, the spec's, the default devices ([`devices::rules`]).
    ///
    /// Where v1's list can only be wider than the rules, a program on the v2 tree of a hybrid closes the rest: both are
    /// asked by the kernel.
    ///
    /// # Errors
    /// `Invalid` for a wrong rule, `Unsupported` for one that a host without any v2 tree cannot keep, `System` with the
    /// rule or the failed step of loading the program.
    pub fn apply_devices(&self, resources: Option<&LinuxResources>) -> Result<()> {
        self.put_devices(resources, false)
    }

    /// As [`Cgroup::apply_devices`] for processes that have devices open: what both the old and the new rules allow stays
    /// allowed at every moment (v1: only what differs is written; v2: one program takes the place of the other).
    ///
    /// # Errors
    /// As [`Cgroup::apply_devices`].
    pub fn change_devices(&self, resources: Option<&LinuxResources>) -> Result<()> {
        self.put_devices(resources, true)
    }

    fn put_devices(&self, resources: Option<&LinuxResources>, changes: bool) -> Result<()> {
        let rules = devices::rules(resources)?;
        match self.version_of(Controller::Devices) {
            Some(Version::V1) => {
                let wanted = List::of(&rules);
                let has_tree = self.unified_dir().is_some();
                if let Some((rule, wider)) = wanted.hole().filter(|_| !has_tree) {
                    let what = format!(
                        "linux.resources.devices: cgroup v1 cannot deny {rule} after {wider} was allowed, and there is no \
                         cgroup v2 beside it: allow the rest by number"
                    );
                    return Err(Error::new(Kind::Unsupported, what));
                }
                let needs_program = wanted.hole().is_some() || changes && has_tree && self.has_program();
                if needs_program {
                    self.install_program(&rules)?;
                }
                self.write_devices(&wanted, changes)
            }
            Some(Version::V2) => self.install_program(&rules),
            None => Err(Error::new(Kind::Unsupported, "this host has no devices cgroup controller and no cgroup v2")),
        }
    }

    fn write(&self, write: &Write, mut journal: Option<&mut Journal>) -> Result<()> {
        let Some(dir) = self.dir(write.controller) else {
            let what = format!("cannot set {}: this host has no {} cgroup controller", write.file, write.controller);
            return Err(Error::new(Kind::Unsupported, what));
        };
        let path = dir.join(&*write.file);
        note(journal.as_deref_mut(), &path, &write.value);
        match (put(&path, &write.value), &write.absent) {
            (Err(why), Absent::Skip) if missing(&why) => Ok(()),
            (Err(why), Absent::Else(other)) if missing(&why) => self.write(other, journal),
            (Err(why), _) if missing(&why) && dir.is_dir() => {
                let what =
                    format!("cannot set {} to {}: {}", write.file, write.value, why_missing(&dir, write.controller));
                Err(Error::new(Kind::Unsupported, what))
            }
            (Err(why), _) if why.raw_os_error() == Some(libc::EBUSY) => {
                let used = in_use(&dir).unwrap_or_default();
                Err(why).context(|| format!("write {:?} to {}{used}", write.value, path.display()))
            }
            (put, _) => put.context(|| format!("write {:?} to {}", write.value, path.display())),
        }
    }

    /// The two files of v1 take a rule a write: each is opened once, as there are a dozen rules at least.
    fn write_devices(&self, wanted: &List, changes: bool) -> Result<()> {
        let dir = self.dir(Controller::Devices).unwrap_or_default();
        let writes = match changes {
            false => wanted.writes(),
            true => {
                let path = dir.join("devices.list");
                let now = fs::read_to_string(&path).context(|| format!("read {}", path.display()))?;
                List::parse(&now).turn_into(wanted)
            }
        };
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

    /// Writes a file of v2 by its own name. One device a write is all that the kernel takes, so each line is one.
    fn write_unified(&self, file: &str, value: &str, journal: Option<&mut Journal>) -> Result<()> {
        let at = || format!("linux.resources.unified[{file:?}]");
        let Some(dir) = self.unified_dir() else {
            return Err(Error::new(Kind::Unsupported, format!("{}: this host has no cgroup v2", at())));
        };
        let path = dir.join(file);
        note(journal, &path, value);
        let lines = value.lines().filter(|line| !line.trim().is_empty());
        let lines: Vec<&str> = lines.collect();
        let lines = if lines.is_empty() { vec!["\n"] } else { lines };
        for line in lines {
            match put(&path, line) {
                Err(why) if missing(&why) && dir.is_dir() => {
                    let controller = file.split('.').next().unwrap_or(file);
                    let what = format!(
                        "{}: {} has no such file: its cgroup v2 has no controller {controller}, or the kernel not this file",
                        at(),
                        dir.display()
                    );
                    return Err(Error::new(Kind::Unsupported, what));
                }
                put => put.context(|| format!("write {line:?} to {}", path.display())).context(at)?,
            }
        }
        Ok(())
    }

    /// `checkBeforeUpdate`: v2's kernel would kill where v1's refuses a limit below what is in use.
    fn check_usage(&self, resources: &LinuxResources) -> Result<()> {
        let Some(memory) = resources.memory().filter(|memory| memory.check_before_update() == Some(true)) else {
            return Ok(());
        };
        if self.version_of(Controller::Memory) != Some(Version::V2) {
            return Ok(());
        }
        let used = self.usage()?.memory.map_or(0, |memory| memory.usage);
        for (field, limit) in [("swap", memory.swap()), ("limit", memory.limit())] {
            let limit = limit.unwrap_or(0);
            if limit > 0 && limit.unsigned_abs() <= used {
                let what = format!("linux.resources.memory.{field}: {limit} is not above the {used} bytes in use");
                return Err(Error::new(Kind::Invalid, what));
            }
        }
        Ok(())
    }

    fn has_program(&self) -> bool {
        let dir = self.unified_dir().and_then(|dir| File::open(dir).ok());
        dir.is_some_and(|dir| bpf::device_programs(dir.as_fd()).is_ok_and(|ids| !ids.is_empty()))
    }

    /// Puts a program for `rules` in the place of whatever is attached to the cgroup itself, without a moment between.
    fn install_program(&self, rules: &[devices::Rule]) -> Result<()> {
        let dir = self.unified_dir().unwrap_or_default();
        let code: Vec<u64> = device_program::assemble(rules).iter().map(|step| step.encode()).collect();
        let cgroup = File::open(&dir).context(|| format!("open {}", dir.display()))?;
        let program = bpf::load_device_program(&code).context(|| "load the device program")?;
        let ids = bpf::device_programs(cgroup.as_fd())
            .context(|| format!("list the device programs of {}", dir.display()))?;
        let mut old = Vec::with_capacity(ids.len());
        for id in ids {
            match bpf::program_by_id(id) {
                // A security module keeps it to itself; as another program can only deny more, it may stay.
                Err(errno) if matches!(errno.raw(), libc::EPERM | libc::EACCES) => {}
                opened => old.push(opened.context(|| format!("open device program {id}"))?),
            }
        }
        let attach = |replaced| bpf::attach_device_program(cgroup.as_fd(), program.as_fd(), replaced);
        let attached = match old.as_slice() {
            [only] => match attach(Some(only.as_fd())) {
                Ok(()) => return Ok(()),
                // One that was attached through a link has no place to give away: beside it, then without it.
                Err(_) => attach(None),
            },
            _ => attach(None),
        };
        attached.context(|| format!("attach the device program to {}", dir.display()))?;
        for program in &old {
            match bpf::detach_device_program(cgroup.as_fd(), program.as_fd()) {
                Err(errno) if errno.raw() == libc::ENOENT => {}
                detached => detached.context(|| "detach an older device program")?,
            }
        }
        Ok(())
    }
}

/// Notes what a file says before it is written. One that cannot be read has nothing to be put back.
fn note(journal: Option<&mut Journal>, path: &Path, value: &str) {
    let Some(journal) = journal else { return };
    let Ok(before) = fs::read_to_string(path) else { return };
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    journal.push((path.to_owned(), undo(&name, value, &before)));
}

/// Writes the old values, the last first; what contradicts for the moment once more at the end.
fn put_back(journal: &Journal) -> Result<()> {
    let lines: Vec<_> =
        journal.iter().rev().flat_map(|(path, lines)| lines.iter().map(move |line| (path, line))).collect();
    let refused: Vec<_> = lines.into_iter().filter(|(path, line)| put(path, line).is_err()).collect();
    refused.into_iter().map(|(path, line)| write_file(path, line)).fold(Ok(()), Result::and)
}

/// Why a cgroup lacks a file: on v2 its controller may stop at a level above.
fn why_missing(dir: &Path, controller: Controller) -> String {
    let given = fs::read_to_string(dir.join("cgroup.controllers"));
    let has =
        |names: &str| names.split_whitespace().any(|name| Controller::named(name, Version::V2) == Some(controller));
    match given {
        Ok(names) if !has(&names) => format!(
            "the {controller} controller does not reach {}: a cgroup above it has processes of its own, or may not be changed",
            dir.display()
        ),
        _ => format!("this kernel has no such file in {}", dir.display()),
    }
}

/// What v1 has in use where it refuses a lower memory limit.
fn in_use(dir: &Path) -> Option<String> {
    let number = |file: &str| fs::read_to_string(dir.join(file)).ok()?.trim().parse::<u64>().ok();
    let (now, most) = (number("memory.usage_in_bytes")?, number("memory.max_usage_in_bytes")?);
    Some(format!(" ({now} bytes are in use, {most} have been)"))
}
