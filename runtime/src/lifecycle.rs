//! The short verbs on a container that exists: start, kill, delete, state, list, pause, resume, ps.

use std::collections::HashMap;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::cgroup::{Cgroup, Layout};
use crate::error::{Context, Error, Kind, Result};
use crate::rdt::Group;
use crate::state::{Facts, Home, Init, started};
use crate::status::{self, Op, Status};
use crate::sys::clone::{self, flags};
use crate::{fault, hooks, members, mounts, wreck};

/// Where the containers of one runtime root are.
pub const DEFAULT_ROOT: &str = "/run/gantry/runtime";

/// How long `delete` waits for the last process of a cgroup to be gone.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How long `delete` watches a process that may just have been killed, in milliseconds.
const A_MOMENT: i32 = 100;

/// What `state` and `list` print: the OCI state, and what runc adds to it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Version of the runtime-spec that the configuration follows.
    pub oci_version: String,
    /// Name.
    pub id: String,
    /// Pid of the first process, 0 when it is gone.
    pub pid: i32,
    /// Status right now.
    pub status: Status,
    /// Directory of `config.json`.
    pub bundle: PathBuf,
    /// Root directory on the host.
    pub rootfs: PathBuf,
    /// RFC 3339, UTC.
    pub created: String,
    /// Of the configuration.
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    pub annotations: HashMap<String, String>,
    /// Uid of the owner of the state directory.
    #[serde(skip)]
    pub owner: u32,
}

/// A container as it is found.
struct Found {
    home: Home,
    facts: Option<Facts>,
    init: Option<Init>,
    status: Status,
    /// Why there are no facts, though there is a record.
    damage: Option<Error>,
}

impl Found {
    fn in_home(home: Home) -> Result<Found> {
        let (facts, damage) = home.facts().map_or_else(|why| (None, Some(why)), |facts| (facts, None));
        let frozen = || facts.as_ref().is_some_and(|facts| is_frozen(facts).unwrap_or(false));
        let (seen, init) = home.look(frozen)?;
        Ok(Found { home, init, status: status::derive(seen), facts, damage })
    }

    /// The facts, for verbs that a half-made container does not allow.
    fn facts(&self) -> Result<&Facts> {
        let unfinished = || Error::new(Kind::WrongState, "it was never finished");
        self.facts.as_ref().ok_or_else(|| self.damage().unwrap_or_else(unfinished))
    }

    /// What is wrong with its record, and what to do about it.
    fn damage(&self) -> Option<Error> {
        let why = self.damage.as_ref()?;
        Some(Error::new(why.kind(), format!("{why}; delete --force removes the container")))
    }

    fn cgroup(&self) -> Result<Cgroup> {
        cgroup(self.facts()?)
    }

    /// An ordinary user's container may be in no tree at all.
    fn has_cgroup(&self) -> Result<bool> {
        Ok(self.facts()?.cgroup_trees.as_ref().is_none_or(|trees| !trees.is_empty()))
    }
}

fn is_frozen(facts: &Facts) -> Result<bool> {
    cgroup(facts)?.is_frozen()
}

pub(crate) fn cgroup(facts: &Facts) -> Result<Cgroup> {
    Cgroup::recorded(&Layout::discover()?, &facts.cgroup, facts.cgroup_trees.as_ref())
}

/// Lets a created container run its program, then runs the `poststart` hooks.
///
/// # Errors
/// `NotFound`, `WrongState`, or a hook's failure.
pub fn start(root: &Path, id: &str) -> Result<()> {
    let go = || -> Result<()> {
        let found = Found::in_home(Home::lock(root, id)?)?;
        status::allow(Op::Start, found.status)?;
        let path = found.home.fifo();
        let opened = std::fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path);
        let mut fifo = match opened {
            Err(why) if why.raw_os_error() == Some(libc::ENXIO) => return status::allow(Op::Start, Status::Stopped),
            opened => opened.context(|| format!("open {}", path.display()))?,
        };
        fault::point(format_args!("fifo opened"));
        fifo.write_all(b"0").context(|| format!("write {}", path.display()))?;
        fault::point(format_args!("fifo written"));
        std::fs::remove_file(&path).context(|| format!("remove {}", path.display()))?;
        fault::point(format_args!("fifo removed"));
        let Some(init) = found.init else { return Ok(()) };
        let hooked = poststart(found.facts()?, init);
        if hooked.is_err() {
            // The specification: the container is stopped.
            let _ = signal_init(init, libc::SIGKILL);
        }
        hooked
    };
    go().context(|| format!("start {id}"))
}

/// Runs the `poststart` hooks, once the process has become the user's program: `startContainer` hooks run before that,
/// for as long as they are allowed to.
pub(crate) fn poststart(facts: &Facts, init: Init) -> Result<()> {
    let list = facts.hooks.as_ref().and_then(|hooks| hooks.poststart().as_deref()).unwrap_or_default();
    if list.is_empty() {
        return Ok(());
    }
    let pidfd = clone::pidfd_open(init.pid).context(|| format!("open process {}", init.pid))?;
    while crate::state::is_setting_up(init.pid) && !clone::wait_readable(pidfd.as_fd(), 1).unwrap_or(true) {}
    hooks::run("poststart", list, &hooks::told(facts, Status::Running, init.pid)?)
}

/// Sends `signal` to the first process, or with `all` to every process of the container.
///
/// # Errors
/// `NotFound`, or `WrongState` for a container that has stopped (with `all` none: it may have left processes).
pub fn kill(root: &Path, id: &str, signal: i32, all: bool) -> Result<()> {
    let go = || -> Result<()> {
        let found = Found::in_home(Home::open(root, id)?)?;
        let cgroup = found.cgroup()?;
        if all && cgroup.exists() {
            return if signal == libc::SIGKILL { cgroup.kill_all() } else { cgroup.signal_all(signal) };
        }
        if all && found.status == Status::Stopped {
            return Ok(());
        }
        if let (true, Some(init)) = (all, found.init) {
            return members::signal(init, signal);
        }
        status::allow(Op::Kill, found.status)?;
        let stopped = || status::allow(Op::Kill, Status::Stopped);
        let Some(init) = found.init else { return stopped() };
        match signal_init(init, signal)? {
            true => {}
            false => return stopped(),
        }
        let own_pids = found.facts.as_ref().is_some_and(|facts| facts.namespaces & flags::PID != 0);
        match found.status {
            _ if signal == libc::SIGKILL && !own_pids => cgroup.kill_all(),
            // On v1 not even that signal is taken by who is frozen.
            Status::Paused if signal == libc::SIGKILL => cgroup.thaw(),
            _ => Ok(()),
        }
    };
    go().context(|| format!("kill {id}"))
}

/// Whether the process was still there to be signalled. A number that was given to another process is not.
fn signal_init(init: Init, signal: i32) -> Result<bool> {
    let gone = |errno: &crate::sys::Errno| errno.raw() == libc::ESRCH;
    let pidfd = match clone::pidfd_open(init.pid) {
        Err(errno) if gone(&errno) => return Ok(false),
        opened => opened.context(|| format!("open process {}", init.pid))?,
    };
    if started(init.pid) != Some(init.start) {
        return Ok(false);
    }
    crate::trace::say(|| format!("send signal {signal} to process {}", init.pid));
    match clone::pidfd_send_signal(pidfd.as_fd(), signal) {
        Err(errno) if gone(&errno) => Ok(false),
        sent => sent.map(|()| true).context(|| format!("send signal {signal} to process {}", init.pid)),
    }
}

/// Removes a stopped container: its cgroups and its state, then runs the `poststop` hooks.
///
/// With `force` a running one is killed first, and one that does not exist is no error. The only rollback there is:
/// it also removes what a killed `create` left.
///
/// # Errors
/// `NotFound`, `WrongState`, or `System` with what stayed.
pub fn delete(root: &Path, id: &str, force: bool) -> Result<()> {
    delete_within(root, id, force, PATIENCE).map(drop)
}

/// As [`delete`]; a sentence for each `poststop` hook that failed, which changes nothing (runtime-spec, "Lifecycle").
///
/// # Errors
/// As [`delete`].
pub fn delete_noting(root: &Path, id: &str, force: bool) -> Result<Vec<String>> {
    delete_within(root, id, force, PATIENCE)
}

/// As [`delete`], for a caller that has others to serve: it may be asked again, and then goes on where this stopped.
pub(crate) fn delete_within(root: &Path, id: &str, force: bool, patience: Duration) -> Result<Vec<String>> {
    let go = || -> Result<Vec<String>> {
        let home = match Home::lock_within(root, id, patience) {
            Err(why) if force && why.kind() == Kind::NotFound => return Ok(Vec::new()),
            locked => locked?,
        };
        if force {
            return destroy(home, patience);
        }
        let found = Found::in_home(home)?;
        found.damage().map_or(Ok(()), Err)?;
        if !(found.status == Status::Running && ends_now(found.init)) {
            status::allow(Op::Delete, found.status)?;
        }
        take_apart(found.home, found.facts, found.init, patience)
    };
    go().context(|| format!("delete {id}"))
}

/// Takes a container apart, in whatever state it is; runs to its end and tells the first failure. Processes have
/// `patience` to be gone, the first one and then the rest of its cgroup.
pub(crate) fn destroy(home: Home, patience: Duration) -> Result<Vec<String>> {
    // A damaged record of the first process: whatever it is dies with its cgroup.
    let init = home.init().unwrap_or_default();
    match home.facts() {
        Ok(facts) => take_apart(home, facts, init, patience),
        Err(_) => wreck::destroy(home, patience, |init| end(init, patience)).map(|()| Vec::new()),
    }
}

fn take_apart(home: Home, facts: Option<Facts>, init: Option<Init>, patience: Duration) -> Result<Vec<String>> {
    let Some(facts) = facts else {
        // Without a first process it was killed before anything else was made.
        return match init {
            None => home.remove().map(|()| Vec::new()),
            Some(_) => wreck::destroy(home, patience, |init| end(init, patience)).map(|()| Vec::new()),
        };
    };
    let cgroup = cgroup(&facts);
    if let Some(init) = init {
        if started(init.pid) == Some(init.start)
            && let Ok(cgroup) = &cgroup
            && cgroup.is_frozen().unwrap_or(false)
        {
            // On v1 a frozen process does not die before it is thawed.
            cgroup.kill_all()?;
        }
        end(init, patience)?;
        fault::point(format_args!("first process ended"));
    }
    let cgroup = cgroup?;
    // As a rule nobody is left in it: then it can go at once.
    let empty = facts.unit.is_none() && cgroup.delete(Duration::ZERO).is_ok();
    let killed = if empty { Ok(()) } else { cgroup.kill_all() };
    fault::point(format_args!("everything killed"));
    let stopped = facts.unit.as_ref().map_or(Ok(()), |unit| unit.stop(&facts.cgroup));
    let deleted = if empty { Ok(()) } else { cgroup.delete(patience) };
    let classed = facts.lasting.as_ref().and_then(|lasting| lasting.rdt.as_ref()).map_or(Ok(()), Group::remove);
    crate::trace::say(|| format!("removed cgroup {}", cgroup.path().display()));
    killed.and(deleted).and(classed)?;
    fault::point(format_args!("cgroups removed"));
    facts.mounted_on.map_or(Ok(()), |below| mounts::undo(&facts.rootfs, below))?;
    // A cgroup without a process is a scope that systemd ends by itself: what counts is that nothing is left.
    drop(stopped);
    let list = facts.hooks.as_ref().and_then(|hooks| hooks.poststop().as_deref()).unwrap_or_default();
    let failed = match list {
        [] => Vec::new(),
        list => hooks::run_all("poststop", list, &hooks::told(&facts, Status::Stopped, 0)?),
    };
    fault::point(format_args!("poststop hooks run"));
    home.remove()?;
    fault::point(format_args!("deleted"));
    Ok(failed)
}

/// Kills the first process and waits until it is gone, or a zombie that its parent has not reaped yet.
fn end(init: Init, patience: Duration) -> Result<()> {
    let Ok(pidfd) = clone::pidfd_open(init.pid) else { return Ok(()) };
    if started(init.pid) != Some(init.start) {
        return Ok(());
    }
    let _ = clone::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
    let limit = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    match clone::wait_readable(pidfd.as_fd(), limit).context(|| format!("wait for process {}", init.pid))? {
        true => Ok(()),
        false => Err(Error::new(Kind::System, format!("process {} does not end", init.pid))),
    }
}

/// Whether the first process goes within a moment. `kill` only sends a signal, and a `delete` right behind it, which
/// scripts are used to from slower runtimes, finds the process on its way out.
fn ends_now(init: Option<Init>) -> bool {
    let Some(init) = init else { return false };
    let Ok(pidfd) = clone::pidfd_open(init.pid) else { return true };
    started(init.pid) != Some(init.start) || clone::wait_readable(pidfd.as_fd(), A_MOMENT).unwrap_or(false)
}

/// The state of a container (runtime-spec, "State").
///
/// # Errors
/// `NotFound`; `WrongState` for one that was killed in its first moments (`delete` removes it).
pub fn state(root: &Path, id: &str) -> Result<Snapshot> {
    let look = || -> Result<Snapshot> {
        let found = Found::in_home(Home::open(root, id)?)?;
        found.damage().map_or(Ok(()), Err)?;
        Ok(snapshot(found))
    };
    look().context(|| format!("state of {id}"))
}

fn snapshot(found: Found) -> Snapshot {
    let owner = std::fs::metadata(found.home.path()).map_or(0, |about| about.uid());
    let id = found.home.path().file_name().map(|id| id.to_string_lossy().into_owned()).unwrap_or_default();
    let pid = match (found.status, found.init) {
        (Status::Stopped, _) | (_, None) => 0,
        (_, Some(init)) => init.pid,
    };
    let Some(facts) = found.facts else {
        return Snapshot {
            oci_version: crate::spec::VERSION.to_owned(),
            id,
            pid,
            status: found.status,
            bundle: PathBuf::new(),
            rootfs: PathBuf::new(),
            created: String::new(),
            annotations: HashMap::new(),
            owner,
        };
    };
    Snapshot {
        oci_version: facts.oci_version,
        id,
        pid,
        status: found.status,
        bundle: facts.bundle,
        rootfs: facts.rootfs,
        created: facts.created,
        annotations: facts.annotations,
        owner,
    }
}

/// Every container below `root`, sorted by id. One that goes away meanwhile is left out.
///
/// # Errors
/// `System`, if the directory cannot be read; that it is not there is no error.
pub fn list(root: &Path) -> Result<Vec<Snapshot>> {
    let entries = match std::fs::read_dir(root) {
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(|| format!("read {}", root.display()))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.context(|| format!("read {}", root.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        match Home::open(root, &name).and_then(Found::in_home).map(snapshot) {
            Ok(snapshot) => found.push(snapshot),
            Err(why) if why.kind() == Kind::NotFound || why.kind() == Kind::Invalid => {}
            Err(why) => return Err(why.within(format!("state of {name}"))),
        }
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

/// Freezes every process of the container.
///
/// # Errors
/// `NotFound`, `WrongState`, or `System`.
pub fn pause(root: &Path, id: &str) -> Result<()> {
    thaw_or_freeze(root, id, Op::Pause, Cgroup::freeze).context(|| format!("pause {id}"))
}

/// Lets every process of a paused container go on.
///
/// # Errors
/// `NotFound`, `WrongState`, or `System`.
pub fn resume(root: &Path, id: &str) -> Result<()> {
    thaw_or_freeze(root, id, Op::Resume, Cgroup::thaw).context(|| format!("resume {id}"))
}

fn thaw_or_freeze(root: &Path, id: &str, op: Op, act: impl Fn(&Cgroup) -> Result<()>) -> Result<()> {
    let found = Home::lock(root, id).and_then(Found::in_home)?;
    status::allow(op, found.status)?;
    act(&found.cgroup()?)?;
    fault::point(format_args!("frozen or thawed"));
    Ok(())
}

/// Pids of every process of the container, sorted.
///
/// # Errors
/// `NotFound`, or `System`.
pub fn ps(root: &Path, id: &str) -> Result<Vec<i32>> {
    let go = || -> Result<Vec<i32>> {
        let found = Found::in_home(Home::open(root, id)?)?;
        let mut pids = match (found.has_cgroup()?, found.init) {
            (false, Some(init)) => members::pids(init)?,
            _ => found.cgroup()?.pids()?,
        };
        pids.sort_unstable();
        Ok(pids)
    };
    go().context(|| format!("ps {id}"))
}

/// The process that exec in this container takes its defaults from.
///
/// # Errors
/// `NotFound`, or `WrongState` for a half-made one.
pub fn process_of(root: &Path, id: &str) -> Result<oci_spec::runtime::Process> {
    let home = Home::open(root, id)?;
    let facts = home.facts()?.ok_or_else(|| Error::new(Kind::WrongState, format!("{id} was never finished")))?;
    Ok(facts.process)
}
