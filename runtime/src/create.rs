//! `create` and `run`: the story of a container up to the point where it waits for `start`, or where it runs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hooks, Spec};

use crate::cgroup::systemd::Unit;
use crate::cgroup::{self, Cgroup, Doors, Hierarchy, Layout, Version};
use crate::error::{Context, Error, Kind, Result};
use crate::launch::{self, Asked, Launched, Outsiders, Words};
use crate::plan::{self, CgroupMount, Filter, Host, Plan, Wishes};
use crate::state::{Facts, Home, Init};
use crate::status::Status;
use crate::sys::clone::{self, Exit, Reap, flags};
use crate::sys::{Solo, process};
use crate::talk::{End, Word};
use crate::{
    clock, fault, hooks, labels, lifecycle, listener, mounts, net_devices, rdt, seccomp, spec, state, trace, userns,
};

/// What a new container is to be made of.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// Name of the container: letters, digits, `_+-.`; unique below `root`.
    pub id: &'a str,
    /// Directory with `config.json`; a relative `root.path` starts here.
    pub bundle: &'a Path,
    /// Where state lives: `<root>/<id>/state.json`.
    pub root: &'a Path,
    /// `config.json` where the caller has already read it; otherwise it is read from the bundle.
    pub spec: Option<&'a Spec>,
    /// Standard input, output and error, or who gets the terminal.
    pub stdio: Stdio<'a>,
    /// How many descriptors from 3 on the container inherits.
    pub preserve_fds: u32,
    /// File that receives the pid in decimal, written atomically.
    pub pid_file: Option<&'a Path>,
    /// Unix socket that receives a pidfd of the first process (runc's `--pidfd-socket`).
    pub pidfd_socket: Option<&'a Path>,
    /// Flags that hardly anybody needs.
    pub options: Options,
}

/// Rare wishes; the default is right for nearly all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// `MS_MOVE` and chroot in place of `pivot_root`, for a rootfs on the initial ramfs.
    pub no_pivot: bool,
    /// Keep the session keyring of the caller.
    pub no_new_keyring: bool,
    /// systemd makes the cgroup, and `linux.cgroupsPath` is `slice:prefix:name`.
    pub systemd_cgroup: bool,
    /// Go on where cgroups may not be made or devices not be kept away; `None`: where this process is less than root of
    /// the whole host.
    pub rootless: Option<bool>,
    /// `exec`: do not refuse a paused container; the process runs once it is resumed.
    pub ignore_paused: bool,
}

/// Where the standard streams of a process lead.
#[derive(Clone, Copy, Debug)]
pub enum Stdio<'a> {
    /// The caller's own 0, 1 and 2; with `terminal: true` the master is returned in [`Created::console`].
    Inherit,
    /// One descriptor each; `None` is `/dev/null`. With `terminal: true` in the process they are left aside and the
    /// master is returned in [`Created::console`].
    Fds {
        /// Standard input.
        stdin: Option<BorrowedFd<'a>>,
        /// Standard output.
        stdout: Option<BorrowedFd<'a>>,
        /// Standard error.
        stderr: Option<BorrowedFd<'a>>,
    },
    /// `terminal: true`: the master is sent to this unix socket (runc's `--console-socket`).
    ConsoleSocket(&'a Path),
}

/// A process that was made, and what its parent needs to look after it.
#[derive(Debug)]
pub struct Created {
    /// Process id, as the caller sees it. The caller is its parent and has to reap it.
    pub pid: i32,
    /// The process, without the races of a number; readable once it has exited.
    pub pidfd: OwnedFd,
    /// Master of the terminal, where `terminal: true` and no console socket was given.
    pub console: Option<OwnedFd>,
    /// What could not be had and was left out, one sentence each.
    pub warnings: Vec<String>,
    talk: End,
    words: Words,
}

impl Created {
    pub(crate) fn new(mut launched: Launched, mut words: Words, mut heard: launch::Heard) -> Created {
        words.forget_done();
        launched.warnings.append(&mut heard.warnings);
        Created {
            pid: launched.pid,
            pidfd: launched.pidfd,
            console: heard.console,
            warnings: launched.warnings,
            talk: launched.talk,
            words,
        }
    }

    /// Waits until the program is executed: after `create` that is after `start`, after `run` and `exec` at once.
    ///
    /// Optional; a descriptor to poll for the same is [`AsFd`] of this struct (readable means: ask).
    ///
    /// # Errors
    /// Why it could not be executed; the process then exits with 1.
    pub fn executed(&mut self) -> Result<()> {
        let heard = launch::listen(&self.talk, &self.words, launch::nothing)?;
        self.warnings.extend(heard.warnings);
        Ok(())
    }

    /// Waits for the end of the process and reaps it.
    pub fn wait(&self) -> Result<Exit> {
        clone::wait(self.pidfd.as_fd(), Reap::Yes).context(|| format!("wait for process {}", self.pid))
    }
}

impl AsFd for Created {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.talk.as_fd()
    }
}

/// Makes a container that waits for `start`.
///
/// The caller stays the parent of its first process. On an error nothing is left behind, except after a kill of the
/// caller itself: then `delete` finds the half-made container by its state directory.
///
/// # Errors
/// `Exists`, `Invalid` with a JSON path, `Program`, `Unsupported`, or `System` with the step that failed.
pub fn create(request: &CreateRequest<'_>, alone: &Solo) -> Result<Created> {
    make(request, alone, true).context(|| format!("create {}", request.id))
}

/// Makes a container and lets it run at once: `create` and `start` in one, without a wait at the fifo.
///
/// # Errors
/// As [`create`].
pub fn run(request: &CreateRequest<'_>, alone: &Solo) -> Result<Created> {
    make(request, alone, false).context(|| format!("run {}", request.id))
}

fn make(request: &CreateRequest<'_>, alone: &Solo, wait: bool) -> Result<Created> {
    launch::check_preserved(request.preserve_fds)?;
    let bundle = std::path::absolute(request.bundle).context(|| "find the bundle")?;
    let loaded;
    let mut notes = Vec::new();
    let spec = match request.spec {
        Some(given) => {
            spec::check(given)?;
            given
        }
        None => {
            loaded = spec::load_file(&bundle.join("config.json"), &mut notes)?;
            &loaded
        }
    };
    check_terminal(request, spec)?;
    let home = Home::claim(request.root, request.id)?;
    match build(request, spec, &bundle, &home, alone, wait, notes) {
        Ok(created) => Ok(created),
        Err(why) => {
            // The delete path is the only rollback; the first failure is the one worth telling.
            let _ = lifecycle::destroy(home, lifecycle::PATIENCE);
            Err(why)
        }
    }
}

fn check_terminal(request: &CreateRequest<'_>, spec: &Spec) -> Result<()> {
    let terminal = spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
    match request.stdio {
        Stdio::ConsoleSocket(_) if !terminal => {
            Err(Error::new(Kind::Invalid, "a console socket is given, but process.terminal is false"))
        }
        _ => Ok(()),
    }
}

fn build(
    request: &CreateRequest<'_>,
    spec: &Spec,
    bundle: &Path,
    home: &Home,
    alone: &Solo,
    wait: bool,
    notes: Vec<String>,
) -> Result<Created> {
    let layout = Layout::discover()?;
    let (mut cgroup, unit) = place(request, spec, &layout)?;
    // Before the first record: what is recorded is what a rollback takes apart.
    refuse_used(&cgroup)?;
    let mut facts = facts(request, spec, bundle, &cgroup, unit);
    if facts.namespaces & flags::MOUNT == 0 {
        facts.mounted_on = Some(mounts::number(&facts.rootfs).context(|| "root.path")?);
    }
    let classes = class(spec, request.id, &mut facts)?;
    home.record(&facts)?;
    trace::say(|| format!("state of {} is in {}", request.id, home.path().display()));
    let filter = compile(spec)?;
    if let Some(filter) = &filter {
        home.record_filter(filter)?;
    }
    let rootless = request.options.rootless;
    let begun = match facts.unit.is_none() && rootless != Some(true) && plan::may_overlap(spec) {
        true if process::is_root_of_host() => cgroup.begin()?,
        _ => None,
    };
    let wishes = Wishes {
        wait,
        placed: facts.unit.is_some(),
        overlap: begun.is_some(),
        no_pivot: request.options.no_pivot,
        no_new_keyring: request.options.no_new_keyring,
        preserve_fds: request.preserve_fds,
    };
    fault::point(format_args!("cgroups begun"));
    let mut doors = match begun {
        Some(doors) => doors,
        None if wishes.placed => Doors::default(),
        None => limit(&mut cgroup, spec, rootless).and_then(|()| cgroup.doors())?,
    };
    if cgroup.trees() != facts.cgroup_trees.as_ref() {
        facts.cgroup_trees = cgroup.trees().cloned();
        home.record(&facts)?;
    }
    if let Some((group, root)) = &classes {
        group.make(root)?;
        doors.tasks.extend(group.doors()?);
    }
    trace::say(|| format!("cgroup {} is made and limited", cgroup.path().display()));
    let full_views = if wishes.no_pivot { mounts::full_views(&facts.rootfs)? } else { Vec::new() };
    let labels = labels::seen(spec.process().as_ref(), spec.linux().as_ref());
    let host = host(&cgroup)?;
    let host = Host { labels, keyring: keyring(request.id), lesser: is_lesser(&host, spec), full_views, ..host };
    let mut plan = plan::create(spec, bundle, &host, filter, wishes)?;
    plan.warnings.splice(0..0, notes);
    let mut ground = launch::ground(&plan, Vec::new(), &mut doors, &request.stdio, alone)?;
    if wait {
        ground.fifo = Some(home.make_fifo()?);
    }
    let streams = in_container_hooks(spec).then(hooks::Streams::new).transpose()?;
    ground.hooks = streams.as_ref().map(hooks::Streams::for_child).transpose()?;
    settle(request, spec, home, &facts, &mut cgroup, plan, ground, doors, streams, alone)
}

/// The class of cache and memory bandwidth that is asked for, with the root of resctrl; put down in the facts.
fn class(spec: &Spec, id: &str, facts: &mut Facts) -> Result<Option<(rdt::Group, PathBuf)>> {
    let asked = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref());
    let Some(asked) = asked else { return Ok(None) };
    let root = rdt::root()?;
    let group = rdt::Group::decide(asked, id, &root);
    facts.lasting.get_or_insert_default().rdt = Some(group.clone());
    Ok(Some((group, root)))
}

/// From the clone to the finished set-up. Whatever fails takes the child along.
#[allow(clippy::too_many_arguments, reason = "the end of a story has many characters")]
fn settle(
    request: &CreateRequest<'_>,
    spec: &Spec,
    home: &Home,
    facts: &Facts,
    cgroup: &mut Cgroup,
    mut plan: Plan,
    ground: crate::init::Ground,
    doors: Doors,
    streams: Option<hooks::Streams>,
    alone: &Solo,
) -> Result<Created> {
    let maps = plan.maps.take();
    let (waits, overlaps) = (ground.fifo.is_some(), !ground.later.is_empty());
    let mut warnings = std::mem::take(&mut plan.warnings);
    let unified = doors.unified.as_ref().map(AsFd::as_fd);
    let (launched, words) = launch::launch(plan, ground, unified, alone)?;
    let mut finish = || -> Result<(launch::Heard, Init)> {
        if overlaps {
            limit(cgroup, spec, request.options.rootless)?;
            launch::speak(&launched.talk, Word::Limited)?;
        }
        let init = Init { pid: launched.pid, start: state::start_of(launched.pid)? };
        home.record_init(init)?;
        if let Some(unit) = &facts.unit {
            unit.start(cgroup, spec, launched.pid)?;
            launch::speak(&launched.talk, Word::Placed)?;
        }
        spec.linux().as_ref().map_or(Ok(()), |linux| userns::check_joined(launched.pid, linux))?;
        if let Some(maps) = &maps {
            userns::write_maps(launched.pid, maps)?;
            launch::speak(&launched.talk, Word::Mapped)?;
        }
        if let Some(streams) = &streams {
            streams.tell(facts, launched.pid)?;
        }
        launch::speak(&launched.talk, Word::Recorded)?;
        let heard = launch::listen(&launched.talk, &words, |asked| match asked {
            Asked::Hooks => runtime_hooks(spec, facts, launched.pid),
            Asked::Devices => net_devices::hand_over(spec.linux().as_ref(), launched.pid),
            Asked::Listener(number) => listener::hand_over(facts, &launched, number, (Status::Creating, launched.pid)),
        });
        heard.map(|heard| (heard, init)).map_err(|why| match &streams {
            Some(streams) => streams.explain(why),
            None => why,
        })
    };
    let settled = finish().and_then(|(mut heard, init)| {
        if waits && clone::wait_readable(launched.pidfd.as_fd(), 0).unwrap_or(false) {
            return Err(crate::talk::lost());
        }
        let CreateRequest { stdio, pidfd_socket, pid_file, .. } = *request;
        Outsiders { stdio, pidfd_socket, pid_file }.tell(&launched, "standard", &mut heard)?;
        if waits {
            home.finish_fifo()?
        } else {
            lifecycle::poststart(facts, init)?
        }
        Ok(heard)
    });
    let mut heard = settled.inspect_err(|_| clone::kill_and_reap(launched.pidfd.as_fd()))?;
    warnings.append(&mut heard.warnings);
    heard.warnings = warnings;
    Ok(Created::new(launched, words, heard))
}

/// Where the container's cgroup goes, and systemd's unit for it where systemd is to make it.
pub(crate) fn place(request: &CreateRequest<'_>, spec: &Spec, layout: &Layout) -> Result<(Cgroup, Option<Unit>)> {
    if request.options.systemd_cgroup {
        let unit = Unit::of_spec(spec, request.id)?;
        return Ok((Cgroup::at(layout, &unit.cgroup()?)?, Some(unit)));
    }
    let asked = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    Ok((Cgroup::asked(layout, asked, request.id)?, None))
}

pub(crate) fn facts(
    request: &CreateRequest<'_>,
    spec: &Spec,
    bundle: &Path,
    cgroup: &Cgroup,
    unit: Option<Unit>,
) -> Facts {
    let listed = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let after = spec.hooks().as_ref().filter(|hooks| hooks.poststart().is_some() || hooks.poststop().is_some());
    let after = after.map(|hooks| {
        let mut kept = Hooks::default();
        kept.set_poststart(hooks.poststart().clone()).set_poststop(hooks.poststop().clone());
        kept
    });
    Facts {
        format: Facts::format(),
        oci_version: spec.version().clone(),
        id: request.id.to_owned(),
        bundle: bundle.to_owned(),
        rootfs: spec.root().as_ref().map(|root| bundle.join(root.path())).unwrap_or_default(),
        created: clock::rfc3339(std::time::SystemTime::now()),
        cgroup: cgroup.path().to_owned(),
        cgroup_trees: cgroup.trees().cloned(),
        unit,
        resources: spec.linux().as_ref().and_then(|linux| linux.resources().clone()),
        mounted_on: None,
        namespaces: listed.iter().fold(0, |all, space| all | plan::flag(space.typ())),
        process: spec.process().clone().unwrap_or_default(),
        lasting: spec.linux().as_ref().and_then(plan::Lasting::of),
        hooks: after,
        annotations: spec.annotations().clone().unwrap_or_default(),
    }
}

/// The seccomp filter of a configuration.
pub(crate) fn compile(spec: &Spec) -> Result<Option<Filter>> {
    let Some(profile) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) else {
        return Ok(None);
    };
    let compiled = seccomp::compile(profile)?;
    Ok(Some(Filter { program: compiled.program, flags: compiled.flags }))
}

/// The facts about this host that a plan needs.
pub(crate) fn host(cgroup: &Cgroup) -> Result<Host> {
    let tree = |(tree, own): (&Hierarchy, PathBuf)| CgroupMount {
        mount: tree.mount.clone(),
        own,
        v2: tree.version == Version::V2,
    };
    let permitted = process::capget().context(|| "look at the own capabilities")?.permitted;
    Ok(Host {
        cgroups: cgroup.dirs().map(tree).collect(),
        permitted,
        rootless: permitted & 1 << caps::Capability::CAP_SYS_ADMIN.index() == 0,
        ..Host::default()
    })
}

/// The name of a container's session keyring, as runc has it.
pub(crate) fn keyring(id: &str) -> String {
    format!("_ses.{id}")
}

/// Whether this is less than root of the whole host, as far as that matters to a container like this.
fn is_lesser(host: &Host, spec: &Spec) -> bool {
    let spaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let own_cgroups = spaces.iter().any(|space| plan::flag(space.typ()) == flags::CGROUP);
    let mut sources = spec.mounts().iter().flatten().filter_map(|mount| mount.source().as_ref());
    let matters = !own_cgroups || sources.any(|source| source.starts_with("/sys"));
    host.rootless || matters && process::is_unprivileged()
}

pub(crate) fn refuse_used(cgroup: &Cgroup) -> Result<()> {
    if !cgroup.is_populated()? {
        // A process that enters a frozen one stands still for ever.
        return match cgroup.is_frozen() {
            Ok(true) => {
                let what = format!("cgroup {} is frozen; thaw or remove it", cgroup.path().display());
                Err(Error::new(Kind::Exists, what))
            }
            _ => Ok(()),
        };
    }
    let what = format!("cgroup {} has processes in it already", cgroup.path().display());
    Err(Error::new(Kind::Exists, what))
}

/// Makes the cgroup and gives it its limits.
///
/// A user without privileges who asked for no place and no limits does without the trees that are not theirs.
pub(crate) fn limit(cgroup: &mut Cgroup, spec: &Spec, rootless: Option<bool>) -> Result<()> {
    let goes_without = || rootless.unwrap_or_else(process::is_unprivileged);
    let linux = spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let anywhere = linux.and_then(|linux| linux.cgroups_path().as_ref()).is_none_or(|path| path.as_os_str().is_empty());
    let refused = match cgroup.create() {
        Err(why) if anywhere && cgroup::is_forbidden(&why) && goes_without() => cgroup.create_where_permitted()?,
        created => created.map(|()| false)?,
    };
    fault::point(format_args!("cgroups made"));
    if let Some(resources) = resources {
        let without = "limits need a cgroup, and this user may not make one everywhere";
        let applied = cgroup.apply(resources);
        if refused { applied.context(|| without)? } else { applied? }
    }
    match cgroup.apply_devices(resources) {
        // Neither may such a user make a device, nor keep anybody from one.
        Err(_) if goes_without() => {}
        applied => applied?,
    }
    cgroup::owner(spec).map_or(Ok(()), |uid| cgroup.hand_over(uid))
}

fn in_container_hooks(spec: &Spec) -> bool {
    let any = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|list: &Vec<_>| !list.is_empty());
    spec.hooks().as_ref().is_some_and(|hooks| any(hooks.create_container()) || any(hooks.start_container()))
}

#[allow(deprecated, reason = "prestart hooks are deprecated but in wide use")]
pub(crate) fn runtime_hooks(spec: &Spec, facts: &Facts, pid: i32) -> Result<()> {
    let Some(asked) = spec.hooks() else { return Ok(()) };
    let state = hooks::told(facts, Status::Creating, pid)?;
    hooks::run("prestart", asked.prestart().as_deref().unwrap_or_default(), &state)?;
    hooks::run("createRuntime", asked.create_runtime().as_deref().unwrap_or_default(), &state)
}

/// Whether the runtime and the container differ in any of these.
pub(crate) const EXEC_SPACES: u64 =
    flags::MOUNT | flags::CGROUP | flags::UTS | flags::IPC | flags::USER | flags::NETWORK;
