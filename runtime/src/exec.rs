//! `exec`: one more process in a running container.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use oci_spec::runtime::Process;

use crate::cgroup::systemd::{Owner, Unit};
use crate::cgroup::{Below, Cgroup, Doors, Layout};
use crate::create::{Created, EXEC_SPACES, Options, Stdio, host, keyring};
use crate::error::{Context, Error, Kind, Result};
use crate::labels;
use crate::launch::{self, Asked, Launched, Outsiders, Words};
use crate::listener;
use crate::mounts;
use crate::plan::{self, Host, Inside, Plan, Wishes};
use crate::spec;
use crate::state::{self, Facts, Home, Init, Life};
use crate::status::{self, Op, Status};
use crate::sys::Solo;
use crate::sys::clone::{self, flags};
use crate::talk::Word;

/// A process to be started inside of a running container.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// Where state lives.
    pub root: &'a Path,
    /// The container.
    pub id: &'a str,
    /// What to run, in full: user, arguments, environment, capabilities.
    pub process: &'a Process,
    /// Standard input, output and error, or who gets the terminal.
    pub stdio: Stdio<'a>,
    /// How many descriptors from 3 on the process inherits.
    pub preserve_fds: u32,
    /// File that receives the pid in decimal, written atomically.
    pub pid_file: Option<&'a Path>,
    /// Unix socket that receives a pidfd of the process (runc's `--pidfd-socket`).
    pub pidfd_socket: Option<&'a Path>,
    /// Cgroups below that of the container to run in; they have to exist.
    pub below: Option<&'a Below>,
    /// Rare wishes.
    pub options: Options,
}

/// Starts the process and returns once its program is executed; the caller is its parent and reaps it.
///
/// # Errors
/// `NotFound`, `WrongState`, `Program`, or `System` with the step that failed.
pub fn exec(request: &ExecRequest<'_>, alone: &Solo) -> Result<Created> {
    let go = || {
        // Before anything is opened: a number that the caller left free is not to be taken for the caller's own.
        launch::check_preserved(request.preserve_fds)?;
        inside(&Opened::new(request.root, request.id)?, request, alone)
    };
    go().context(|| format!("exec in {}", request.id))
}

/// As [`exec`], where the container has been opened already; the preserved descriptors were checked before.
///
/// # Errors
/// As [`exec`].
pub(crate) fn exec_in(opened: &Opened, request: &ExecRequest<'_>, alone: &Solo) -> Result<Created> {
    inside(opened, request, alone).context(|| format!("exec in {}", request.id))
}

/// A container and its record, which is read once: for the defaults of a process, and for the exec of it.
#[derive(Debug)]
pub(crate) struct Opened {
    home: Home,
    facts: Facts,
}

impl Opened {
    /// Opens it.
    ///
    /// # Errors
    /// `NotFound`, or `WrongState` for a half-made one.
    pub(crate) fn new(root: &Path, id: &str) -> Result<Opened> {
        let home = Home::open(root, id)?;
        let facts = home.facts()?.ok_or_else(|| Error::new(Kind::WrongState, "it was never finished"))?;
        Ok(Opened { home, facts })
    }

    /// The process that exec takes its defaults from.
    pub(crate) fn process(&self) -> &Process {
        &self.facts.process
    }

    /// Its first process, if it may be joined. The handle is opened before the process is looked at: the one that has
    /// the recorded start time then is the one that the handle is of.
    fn first(&self, options: Options, frozen: impl FnOnce() -> bool) -> Result<(Init, OwnedFd)> {
        let init = self.home.init().unwrap_or_default();
        let target = init.map(|init| clone::pidfd_open(init.pid).context(|| format!("open process {}", init.pid)));
        let same = |init: Init| Life::of(init.pid).filter(|life| !life.dead && life.start == init.start);
        let life = init.and_then(same);
        allow(status::derive(self.home.seen(init, life.is_some(), frozen)), options)?;
        let (Some(init), Some(target), Some(life)) = (init, target, life) else {
            return Err(Error::new(Kind::WrongState, "it has no process"));
        };
        if life.is_setting_up(init.pid) {
            wait_for_set_up(&self.home, init.pid)?;
            if same(init).is_none() {
                return Err(Error::new(Kind::WrongState, "cannot exec in a stopped container"));
            }
        }
        Ok((init, target?))
    }
}

fn allow(status: Status, options: Options) -> Result<()> {
    match status {
        Status::Paused if options.ignore_paused => Ok(()),
        Status::Paused => {
            let what = "cannot exec in a paused container; --ignore-paused lets the process wait until it is resumed";
            Err(Error::new(Kind::WrongState, what))
        }
        status => status::allow(Op::Exec, status),
    }
}

/// The plan of the process.
fn decide(request: &ExecRequest<'_>, facts: &Facts, home: &Home, cgroup: &Cgroup) -> Result<Plan> {
    let wishes = Wishes {
        no_new_keyring: request.options.no_new_keyring,
        preserve_fds: request.preserve_fds,
        ..Wishes::default()
    };
    let inside = Inside {
        spaces: facts.namespaces & EXEC_SPACES,
        confined: facts.namespaces & flags::MOUNT == 0,
        around: facts.namespaces & (flags::PID | flags::TIME),
        lasting: facts.lasting.as_deref(),
    };
    let labels = labels::seen(Some(request.process), None);
    let host = Host { labels, keyring: keyring(request.id), ..host(cgroup)? };
    plan::exec(request.process, inside, &host, home.filter()?, wishes)
}

fn inside(opened: &Opened, request: &ExecRequest<'_>, alone: &Solo) -> Result<Created> {
    spec::check_process(request.process, "process.")?;
    let Opened { home, facts } = opened;
    let layout = Layout::discover()?;
    let cgroup = Cgroup::recorded(&layout, &facts.cgroup, facts.cgroup_trees.as_ref())?;
    let (init, target) = opened.first(request.options, || cgroup.is_frozen().unwrap_or(false))?;
    let mut plan = decide(request, facts, home, &cgroup)?;
    // From another cgroup a user may not move a process by themselves: their systemd does it, once there is one.
    let mover = facts.unit.as_ref().filter(|unit| unit.owner == Owner::User && request.below.is_none());
    let mut doors = match mover {
        Some(_) => Doors::default(),
        None => cgroup.doors_below(request.below, init.pid)?,
    };
    if let Some(group) = facts.lasting.as_ref().and_then(|lasting| lasting.rdt.as_ref()) {
        doors.tasks.extend(group.doors()?);
    }
    let warnings = std::mem::take(&mut plan.warnings);
    let mut given = vec![target];
    if facts.namespaces & flags::MOUNT == 0 {
        given.push(mounts::root_of(init.pid)?);
    }
    let ground = launch::ground(&plan, given, &mut doors, &request.stdio, alone)?;
    let unified = doors.unified.as_ref().map(|fd| fd.as_fd());
    let (launched, words) = launch::launch(plan, ground, unified, alone)?;
    let heard = settle(request, facts, mover, &launched, &words, init.pid);
    match heard {
        Ok(mut heard) => {
            heard.warnings.splice(0..0, warnings);
            forget_known(&mut heard.warnings, &facts.process);
            Ok(Created::new(launched, words, heard))
        }
        Err(why) => {
            clone::kill_and_reap(launched.pidfd.as_fd());
            Err(why)
        }
    }
}

/// From the clone to the program.
fn settle(
    request: &ExecRequest<'_>,
    facts: &Facts,
    mover: Option<&Unit>,
    launched: &Launched,
    words: &Words,
    init: i32,
) -> Result<launch::Heard> {
    mover
        .map_or(Ok(()), |unit| unit.attach(launched.pid))
        .and_then(|()| launch::speak(&launched.talk, Word::Recorded))
        .and_then(|()| {
            launch::listen(&launched.talk, words, |asked| match asked {
                Asked::Listener(number) => listener::hand_over(facts, launched, number, (Status::Running, init)),
                Asked::Hooks | Asked::Devices => launch::nothing(asked),
            })
        })
        .and_then(|mut heard| {
            let ExecRequest { stdio, pidfd_socket, pid_file, .. } = *request;
            Outsiders { stdio, pidfd_socket, pid_file }.tell(launched, "setns", &mut heard)?;
            Ok(heard)
        })
}

/// A limit that the container asks for, too, and that it was told at its creation cannot be had, is no news.
fn forget_known(warnings: &mut Vec<String>, of_container: &Process) {
    if warnings.is_empty() {
        return;
    }
    let limits = of_container.rlimits().iter().flatten();
    let known: Vec<String> =
        limits.map(|limit| format!("limit {} to {}:{}:", limit.typ(), limit.soft(), limit.hard())).collect();
    warnings.retain(|warning| !known.iter().any(|limit| warning.starts_with(limit)));
}

/// How long an exec waits for a container that is just being run.
const PATIENCE: Duration = Duration::from_secs(10);

/// A container that `run` is still building has a process already, but no path of it is masked or read-only yet, and in
/// its first moments its root is the host's: whoever joined it now would find that. One that waits has been built.
fn wait_for_set_up(home: &Home, pid: i32) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while state::is_setting_up(pid) && !home.fifo().exists() {
        if Instant::now() > end {
            return Err(Error::new(Kind::WrongState, "it is still being set up"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
