//! DECIDE: an OCI specification and a few facts about the host become a list of steps. Pure; printed by the tests.
//!
//! Nothing here makes a system call. What has to be opened before the clone is listed ([`Opens`]), what a step needs
//! is prepared (C strings, filter programs), so that the child neither allocates nor formats.

mod attributes;
mod devices;
mod identity;
mod idmap;
mod labels;
mod mounts;
mod namespaces;
mod options;
mod overlap;
mod process;
mod step;
mod sysctl;
#[cfg(test)]
mod tests;

use std::ffi::CString;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespaceType, Process, Spec};

use crate::error::{Context, Error, Kind, Result};
use crate::root::Place;
use crate::sys::clone::flags;
use crate::sys::mount::Depth;
use crate::talk::Word;

pub use attributes::{EVERY_CPU, Lasting};
pub use namespaces::flag;
pub use overlap::may_overlap;
pub use process::Image;
pub use step::{Device, Hook, Mount, Slot, Step, Target, User, What, namespace_names};

/// The bit of CAP_SYS_PTRACE: looks into undumpable processes, which exec into a created container has to.
const CAP_SYS_PTRACE: u64 = 1 << 19;

/// What a plan has to know of the host.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// The cgroup trees that the container is in.
    pub cgroups: Vec<CgroupMount>,
    /// Capabilities that this process has, one bit each.
    pub permitted: u64,
    /// It has no CAP_SYS_ADMIN: only in a user namespace of the container can anything be mounted.
    pub rootless: bool,
    /// It is less than root of the whole host, and so may own cgroups that a container must not change.
    pub lesser: bool,
    /// Without pivot_root(2): mounts of procfs and sysfs in full, which would stay in the container's mount namespace.
    pub full_views: Vec<PathBuf>,
    /// Which kinds of labels its kernel knows, as far as any is asked for.
    pub labels: Labels,
    /// What the session keyring of the container's processes is called.
    pub keyring: String,
}

/// Linux security modules that give labels to processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// AppArmor is enabled.
    pub apparmor: bool,
    /// SELinux is enabled.
    pub selinux: bool,
}

/// One cgroup tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupMount {
    /// Its mount point.
    pub mount: PathBuf,
    /// The container's directory in it.
    pub own: PathBuf,
    /// Version 2.
    pub v2: bool,
}

/// A seccomp filter, compiled.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// The program.
    pub program: Vec<libc::sock_filter>,
    /// Flags of seccomp(2).
    pub flags: u32,
}

/// How the caller wants the process to be started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Wait at the exec fifo once everything is set up (`create`), rather than go on (`run`).
    pub wait: bool,
    /// Wait to be put into the cgroup (the systemd driver), rather than enter it.
    pub placed: bool,
    /// Begin while the parent still makes the cgroups ([`may_overlap`]).
    pub overlap: bool,
    /// Without pivot_root(2).
    pub no_pivot: bool,
    /// Keep the session keyring.
    pub no_new_keyring: bool,
    /// Descriptors from 3 on that are handed down.
    pub preserve_fds: u32,
}

/// Descriptors that the parent opens before the clone; steps refer to them by [`Slot`].
#[derive(Debug, Default)]
pub struct Opens {
    list: Vec<Open>,
    /// Sources of bind mounts are cloned by the parent: the child may not (user namespace), or would do it too late,
    /// when `/` is no longer the peer of the host's (shared root propagation).
    by_parent: bool,
    /// What the parent clones does not propagate back unless asked to: the child's user namespace is a lesser one.
    as_slaves: bool,
}

/// One descriptor to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Open {
    /// A namespace of this kind.
    Namespace(u64, CString),
    /// A detached copy of a mount.
    Tree(Tree),
    /// A user namespace that exists only for its mappings.
    Mapping(IdMaps),
}

/// A mount to be cloned before the child is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Path on the host.
    pub path: CString,
    /// With what is mounted below.
    pub depth: Depth,
    /// A symbolic link is followed.
    pub follow: bool,
    /// What is mounted in the copy does not propagate back.
    pub slave: bool,
    /// The slot of the user namespace that maps its ids, and whether those of what is mounted below, too.
    pub idmap: Option<(Slot, Depth)>,
}

impl Opens {
    fn namespace(&mut self, kind: u64, path: &str) -> Result<Slot> {
        Ok(self.once(Open::Namespace(kind, c_string(path)?)))
    }

    fn mapping(&mut self, maps: IdMaps) -> Slot {
        self.once(Open::Mapping(maps))
    }

    fn tree(&mut self, tree: Tree) -> Slot {
        self.list.push(Open::Tree(Tree { slave: tree.slave && self.as_slaves, ..tree }));
        self.list.len() - 1
    }

    /// One descriptor serves everybody who wants the same.
    fn once(&mut self, open: Open) -> Slot {
        self.list.iter().position(|known| *known == open).unwrap_or_else(|| {
            self.list.push(open);
            self.list.len() - 1
        })
    }

    /// In the order of the slots.
    pub fn list(&self) -> &[Open] {
        &self.list
    }
}

/// What the parent does around the clone and undoes after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Around {
    /// Stand in this namespace.
    Join(u64, Slot),
    /// Make a time namespace with these offsets for the child.
    NewTime(String),
}

/// Texts of `/proc/<pid>/uid_map` and `gid_map`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMaps {
    /// Lines of container id, host id, count.
    pub uid: String,
    /// The same for groups.
    pub gid: String,
}

/// Everything that is to happen.
#[derive(Debug, Default)]
pub struct Plan {
    /// What the parent opens first.
    pub opens: Opens,
    /// What it does around the clone.
    pub around: Vec<Around>,
    /// Namespaces that clone3 makes.
    pub cloned: u64,
    /// For a new user namespace.
    pub maps: Option<IdMaps>,
    /// What the child does.
    pub steps: Vec<Step>,
    /// The program that it becomes.
    pub image: Image,
    /// A joined network namespace must not be the host's: sysctls are going to be written.
    pub guards_network: bool,
    /// The process lives in another user namespace than the runtime.
    pub other_user: bool,
    /// Sentences about what will be missing.
    pub warnings: Vec<String>,
}

/// Plans a container's first process. `bundle` is absolute; `filter` belongs to `linux.seccomp`.
///
/// # Errors
/// `Invalid` with a JSON path.
pub fn create(spec: &Spec, bundle: &Path, host: &Host, filter: Option<Filter>, wishes: Wishes) -> Result<Plan> {
    let (Some(linux), Some(process), Some(root)) = (spec.linux(), spec.process(), spec.root()) else {
        return Err(Error::new(Kind::Invalid, "process, root and linux: are needed"));
    };
    let mut plan = Plan { image: process::image(process)?, ..Plan::default() };
    let spaces = namespaces::decide(linux, host, &mut plan.opens)?;
    plan.cloned = spaces.cloned;
    plan.around = spaces.around;
    plan.maps = spaces.maps;
    plan.other_user = spaces.other_user;
    let hop = spaces.hops.then(|| std::mem::take(&mut plan.cloned));

    // The maps of a process that hides belong to root: an ordinary user could not write them.
    let hides_late = host.rootless && plan.maps.is_some();
    if plan.cloned & flags::PID == 0 && !hides_late {
        // Others live in its pid namespace: they must not look into a process that still holds the host's descriptors.
        plan.steps.push(Step::Hide);
    }
    plan.steps.extend(process::oom_score(process)?);
    match (wishes.placed, hop) {
        (true, Some(_)) => {}
        (true, None) => plan.steps.push(Step::Await(Word::Placed)),
        (false, _) => plan.steps.push(Step::EnterCgroups),
    }
    plan.steps.push(Step::Affinity(attributes::EVERY_CPU.to_vec()));
    if plan.maps.is_some() {
        plan.steps.push(Step::Await(Word::Mapped));
        plan.steps.extend((plan.cloned & flags::PID == 0 && hides_late).then_some(Step::Hide));
    }
    plan.steps.extend(spaces.joins);
    if spaces.other_user {
        plan.steps.push(Step::BecomeRoot);
    }
    plan.steps.extend((spaces.unshared != 0).then_some(Step::Unshare(spaces.unshared)));
    if let Some(cloned) = hop {
        for around in std::mem::take(&mut plan.around) {
            if let Around::NewTime(offsets) = around {
                plan.steps.push(Step::NewTime(c_string(&offsets)?));
            }
        }
        plan.steps.push(Step::Hop(cloned));
        plan.steps.extend(wishes.placed.then_some(Step::Await(Word::Placed)));
    }
    if (plan.cloned | hop.unwrap_or(0)) & flags::NETWORK != 0 {
        plan.steps.push(Step::Loopback);
    }
    plan.steps.extend(namespaces::devices(linux));
    plan.steps.push(Step::NewSession);
    if spaces.own_cgroup {
        plan.steps.push(Step::UnshareCgroup);
    }
    let rootfs = bundle.join(root.path());
    filesystem(&mut plan, spec, linux, &rootfs, bundle, host, spaces.other_user, wishes)?;
    if let Some(name) = spec.hostname().as_ref().filter(|name| !name.is_empty()) {
        plan.steps.push(Step::Hostname(c_string(name)?));
    }
    if let Some(name) = spec.domainname().as_ref().filter(|name| !name.is_empty()) {
        plan.steps.push(Step::Domainname(c_string(name)?));
    }
    let (sysctls, network) = sysctl::decide(linux)?;
    plan.steps.extend(sysctls);
    plan.guards_network = network;
    let runtime_may_look = host.permitted & CAP_SYS_PTRACE != 0;
    let host = if spaces.other_user { &Host { permitted: u64::MAX >> 1, ..host.clone() } } else { host };
    let lasting = Lasting::of(linux);
    process::become_it(&mut plan, Some(spec), lasting.as_deref(), process, host, filter, wishes)?;
    process::hide_while_waiting(&mut plan, runtime_may_look);
    overlap::put_off(&mut plan, host, wishes);
    Ok(plan)
}

/// The part of a plan that builds the container's file system and moves into it.
#[allow(clippy::too_many_arguments, reason = "each is a different kind of fact")]
fn filesystem(
    plan: &mut Plan,
    spec: &Spec,
    linux: &Linux,
    rootfs: &Path,
    bundle: &Path,
    host: &Host,
    other_user: bool,
    wishes: Wishes,
) -> Result<()> {
    let (propagation, mut at_the_end) = mounts::propagation(linux)?;
    let path = c_string(path_text(rootfs)?)?;
    let own_mounts = crate::spec::lists(linux, LinuxNamespaceType::Mount);
    if own_mounts {
        plan.steps.push(Step::Propagation(propagation));
        let shared = propagation == libc::MS_SHARED;
        plan.opens.by_parent |= shared;
        plan.steps.push(Step::Root(path, shared));
    } else {
        // The host's `/` and its propagation are not the container's to change.
        plan.steps.push(Step::RootOnItself(path));
        at_the_end = None;
    }
    let mounts = mounts::decide(spec, linux, (bundle, rootfs), host, &mut plan.opens, &mut plan.warnings)?;
    plan.steps.extend(mounts.mounts);
    let process = spec.process().as_ref();
    if !mounts::binds_dev(spec) {
        plan.steps.extend(devices::decide(spec, linux, other_user)?);
    }
    if let Some(process) = process.filter(|process| process.terminal().unwrap_or(false)) {
        plan.steps.push(Step::Terminal(process::console_size(process)));
        plan.steps.push(Step::Console(Place::new("/dev/console")?));
    }
    process::hooks_in_the_middle(plan, spec)?;
    if let Some(process) = process {
        let cwd = Place::new(path_text(process.cwd())?)?;
        if !cwd.is_root() {
            plan.steps.push(Step::Directory(cwd));
        }
    }
    for path in linux.readonly_paths().iter().flatten() {
        plan.steps.push(Step::ReadOnly(Place::new(path)?));
    }
    for path in linux.masked_paths().iter().flatten() {
        plan.steps.push(Step::Mask(Place::new(path)?));
    }
    plan.steps.extend(mounts.last);
    if spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false) {
        plan.steps.push(Step::ReadOnlyRoot);
    }
    for path in wishes.no_pivot.then_some(&host.full_views).into_iter().flatten().filter(|_| own_mounts) {
        plan.steps.push(Step::TakeAway(c_string(path_text(path)?)?));
    }
    plan.steps.push(if wishes.no_pivot || !own_mounts { Step::MoveRoot } else { Step::Pivot });
    if let Some((flags, depth)) = at_the_end {
        plan.steps.push(Step::RootPropagation(flags, depth));
    }
    Ok(())
}

/// What an exec has to know of the container it enters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inside<'a> {
    /// Namespaces that differ from the runtime's, without those of pid and time: the parent stands in these.
    pub spaces: u64,
    /// Pid and time namespaces, likewise.
    pub around: u64,
    /// It has no mount namespace of its own: slot 1 is the directory that it is confined to.
    pub confined: bool,
    /// What concerns every process of the container.
    pub lasting: Option<&'a Lasting>,
}

/// Plans one more process in a running container. Slot 0 is a pidfd of its first process.
///
/// # Errors
/// `Invalid` with a path into the process.
pub fn exec(
    process: &Process,
    inside: Inside<'_>,
    host: &Host,
    filter: Option<Filter>,
    wishes: Wishes,
) -> Result<Plan> {
    let mut plan = Plan { image: process::image(process)?, ..Plan::default() };
    // Only from inside of its user namespace may an ordinary user enter the others of a container.
    let hops = host.rootless && inside.spaces & flags::USER != 0;
    let (joined, around) = if hops { (inside.spaces | inside.around, 0) } else { (inside.spaces, inside.around) };
    if around != 0 {
        plan.around.push(Around::Join(around, 0));
    }
    plan.steps.push(Step::Hide);
    plan.steps.extend(process::oom_score(process)?);
    let (initial, last) = attributes::affinity(process)?;
    plan.steps.extend(initial);
    plan.steps.push(Step::EnterCgroups);
    plan.steps.extend(last);
    if joined != 0 {
        plan.steps.push(Step::Join(joined, 0, "of the container".into()));
    }
    let other_user = inside.spaces & flags::USER != 0;
    plan.other_user = other_user;
    if other_user {
        plan.steps.push(Step::BecomeRoot);
    }
    plan.steps.extend(hops.then_some(Step::Hop(0)));
    plan.steps.extend(inside.confined.then_some(Step::Confine(1)));
    plan.steps.push(Step::NewSession);
    if process.terminal().unwrap_or(false) {
        plan.steps.push(Step::Terminal(process::console_size(process)));
    }
    let host = if other_user { &Host { permitted: u64::MAX >> 1, ..host.clone() } } else { host };
    process::become_it(&mut plan, None, inside.lasting, process, host, filter, wishes)?;
    Ok(plan)
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for around in &self.around {
            match around {
                Around::Join(of, _) => writeln!(f, "around the clone: join {}", namespace_names(*of))?,
                Around::NewTime(offsets) => writeln!(f, "around the clone: unshare time {}", offsets.trim_end())?,
            }
        }
        writeln!(f, "clone {}", namespace_names(self.cloned))?;
        if let Some(maps) = &self.maps {
            writeln!(f, "map uids {}, gids {}", maps.uid.trim_end(), maps.gid.trim_end())?;
        }
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

/// Every word of `mounts[].options` that this runtime knows by itself.
pub fn option_words() -> Vec<String> {
    options::words()
}

/// A C string, or the sentence that a zero byte earns.
fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::new(Kind::Invalid, format!("{text:?}: has a zero byte")))
}

/// A path as text: the specification is JSON, so every path in it is.
fn path_text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::new(Kind::Invalid, format!("{}: is not UTF-8", path.display())))
}

/// Steps are numbered with 16 bits on the wire.
pub(crate) fn check_size(plan: &Plan) -> Result<()> {
    match u16::try_from(plan.steps.len()) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::new(Kind::Invalid, "more than 65535 steps")).context(|| "plan"),
    }
}
