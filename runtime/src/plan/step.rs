//! The steps of a plan: everything a child does between clone3 and execve, with the memory it needs.
//!
//! `Display` is the golden text of the tests and the words of an error: `create web: mount proc on /proc: ...`.

use std::ffi::{CStr, CString};
use std::fmt;

use super::attributes::EVERY_CPU;
use crate::root::Place;
use crate::sys::clone::flags;
use crate::sys::mount::{Depth, MountAttr};
use crate::sys::process::{CStringArray, CapabilitySets, SchedAttr};
use crate::talk::Word;

/// Which of the descriptors that the parent opens ahead ([`super::Plan::opens`]) a step uses.
pub type Slot = usize;

/// One thing to do.
#[derive(Debug)]
pub enum Step {
    /// Wait for a word of the parent.
    Await(Word),
    /// Say a word to the parent.
    Say(Word),
    /// Uid and gid 0 of the new user namespace.
    BecomeRoot,
    /// Write `0` to every `tasks` that the parent opened.
    EnterCgroups,
    /// Enter the namespaces `.0` behind the slot.
    Join(u64, Slot, String),
    /// The same, unless that is not permitted yet: then a [`Step::Join`] of the same slot follows.
    JoinIfPermitted(u64, Slot, String),
    /// A sibling in these new namespaces goes on from here; this process tells the parent of it and leaves.
    Hop(u64),
    /// A new time namespace for children, with these offsets.
    NewTime(CString),
    /// New namespaces for this process.
    Unshare(u64),
    /// A new cgroup namespace, with the cgroup just entered as its root.
    UnshareCgroup,
    /// `PR_SET_DUMPABLE` 0: the container cannot look into this process.
    Hide,
    /// A session of its own.
    NewSession,
    /// A session keyring of this name; a kernel without keyrings is fine. The first process lets others find it.
    Keyring(CString, Option<u32>),
    /// Run on these CPUs, as far as the cgroup allows: one bit each.
    Affinity(Vec<u64>),
    /// The loopback device of a new network namespace is up.
    Loopback,
    /// A label of a security module, written into this file of procfs for the next exec (or keyring).
    Label(&'static CStr, CString),
    /// `security.selinux` of what is mounted there.
    FileLabel(Place, CString),
    /// Mode with flags, and nodes, of set_mempolicy(2).
    MemoryPolicy(u32, Vec<u64>),
    /// Propagation of every mount of the new namespace, as `MS_*`.
    Propagation(u64),
    /// A private copy of the rootfs, on top of `/`, which is made private first if so.
    Root(CString, bool),
    /// A private copy of the rootfs on top of itself, where others see it (no mount namespace).
    RootOnItself(CString),
    /// Take a mount of the host out of this mount namespace, or cover it.
    TakeAway(CString),
    /// The directory of the slot becomes `/` by chroot(2).
    Confine(Slot),
    /// A mount.
    Mount(Box<Mount>),
    /// A directory; it may be there.
    Directory(Place),
    /// A device node; a bind mount of the host's where nodes cannot be made.
    Device(Box<Device>),
    /// A symbolic link; one that is there stays.
    Link(Place, CString),
    /// A terminal out of the container's devpts, sent to the parent; with its size in rows and columns.
    Terminal(Option<(u16, u16)>),
    /// Mount the terminal there (`/dev/console`).
    Console(Place),
    /// Cover a path: files with the host's null device, directories with an empty read-only tmpfs.
    Mask(Place),
    /// Make a path and all below it read-only.
    ReadOnly(Place),
    /// Make the root mount itself read-only.
    ReadOnlyRoot,
    /// The rootfs becomes `/`, and the old root goes.
    Pivot,
    /// The same without pivot_root(2).
    MoveRoot,
    /// Propagation of the new `/`.
    RootPropagation(u64, Depth),
    /// Host name.
    Hostname(CString),
    /// NIS domain name.
    Domainname(CString),
    /// A value below `/proc/sys`, through the parent's verified procfs.
    Sysctl(CString, CString),
    /// `/proc/self/oom_score_adj`; a value that is not allowed is left out with a warning.
    OomScore(CString),
    /// A resource limit: number, name, soft, hard; lowered to what is allowed, with a warning.
    Limit(u32, String, u64, u64),
    /// Execution domain.
    Personality(u64),
    /// Scheduling.
    Scheduler(SchedAttr),
    /// Priority of input and output.
    IoPriority(i32),
    /// Standard input, output and error.
    Streams,
    /// Hand the standard streams to this user.
    OwnStreams(u32),
    /// Preserve this many descriptors from 3 on and close the others, but for the few that the last steps need.
    CloseOthers(u32),
    /// No more privileges by exec.
    NoNewPrivileges,
    /// System call filter, with the flags of seccomp(2).
    Seccomp(Vec<libc::sock_filter>, u32),
    /// Leave only these capabilities in the bounding set.
    Bounding(u64),
    /// Groups, gid, uid; the permitted capabilities stay.
    User(User),
    /// File mode mask.
    Umask(u32),
    /// Working directory, verified to be inside. Where it may not be entered, the next step tries again.
    WorkingDirectory(CString),
    /// The same once more as the user, whose own directory it may be.
    UsersDirectory(CString),
    /// Effective, permitted, inheritable and ambient sets.
    Capabilities(CapabilitySets, u64),
    /// `HOME` from the container's `/etc/passwd`, as the environment lacks it.
    Home(u32),
    /// Find the program in these places.
    Program(Vec<CString>),
    /// Wait at the exec fifo for `start`.
    AwaitStart,
    /// Run a hook with the state on its standard input.
    Hook(Box<Hook>),
    /// Become the program, which the user calls so.
    Exec(String),
}

/// A mount and where it goes.
#[derive(Debug)]
pub struct Mount {
    /// What is mounted.
    pub what: What,
    /// Where.
    pub to: Place,
    /// What the target has to be.
    pub target: Target,
    /// Attributes of this mount.
    pub attributes: MountAttr,
    /// Attributes of the source that it loses besides, unless they are locked (user namespaces).
    pub replaced: u64,
    /// Those of the source count as locked: the parent has cloned it for a user namespace with fewer rights.
    pub locked: bool,
    /// Attributes of it and all below (`rro`, ...).
    pub recursive: MountAttr,
    /// `MS_*`, in the order given.
    pub propagation: Vec<(u64, Depth)>,
}

/// Rules for the target of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Anything but something inside of procfs.
    Any,
    /// No symbolic link on the way: procfs and sysfs have to be where they seem to be.
    Plain,
    /// As `Any`, and no symbolic link on the way.
    NoFollow,
    /// One of the few files in procfs that may be covered (lxcfs does).
    InProc,
    /// `/proc` itself: what is bound there has to be procfs.
    Proc,
}

/// What is mounted.
#[derive(Debug)]
pub enum What {
    /// A new file system.
    New {
        /// Its type, as in `/proc/filesystems`.
        kind: CString,
        /// What stands in the first column of `/proc/mounts`.
        source: CString,
        /// Key and value of fsconfig(2).
        options: Vec<(CString, Option<CString>)>,
        /// Its root gets the mode of the directory that it covers (tmpfs).
        inherit: bool,
        /// It starts with a copy of what it covers (tmpfs).
        copy_up: bool,
    },
    /// A copy of a mount of the host.
    Bind {
        /// Path on the host.
        source: CString,
        /// Where that is in the rootfs, if it is there.
        inside: Option<Place>,
        /// The parent has opened it already (with a user namespace).
        slot: Option<Slot>,
        /// With what is mounted below.
        depth: Depth,
        /// A symbolic link as the source is followed.
        follow: bool,
        /// The user namespace that maps its ids, and whether those of what is mounted below, too. The parent has done
        /// so already to what it opened.
        idmap: Option<(Slot, Depth)>,
    },
    /// Another look at what is mounted there already.
    Again {
        /// New options of the super block, as key and value of fsconfig(2).
        options: Vec<(CString, Option<CString>)>,
    },
}

/// A device node.
#[derive(Debug)]
pub struct Device {
    /// Where.
    pub to: Place,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`, and permissions.
    pub mode: u32,
    /// As makedev(3) packs it.
    pub number: u64,
    /// Owner.
    pub owner: (u32, u32),
    /// The host's node of the same path, to bind where mknod is refused.
    pub host: CString,
    /// Bind straight away: mknod cannot work here (user namespace).
    pub bind: bool,
}

/// Ids of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// setgroups(2) is denied in this user namespace, and there is nothing to set.
    pub keep_groups: bool,
}

/// A hook that the container's process runs.
#[derive(Debug)]
pub struct Hook {
    /// `createContainer` or `startContainer`.
    pub kind: &'static str,
    /// Program.
    pub path: CString,
    /// Arguments, the name first.
    pub args: CStringArray,
    /// Environment; nothing is inherited.
    pub env: CStringArray,
    /// Milliseconds, -1 for ever.
    pub timeout: i32,
}

/// Names of propagation flags.
pub(super) fn propagation_name(flags: u64, depth: Depth) -> String {
    let name = match flags {
        flags if flags == libc::MS_PRIVATE => "private",
        flags if flags == libc::MS_SHARED => "shared",
        flags if flags == libc::MS_SLAVE => "slave",
        flags if flags == libc::MS_UNBINDABLE => "unbindable",
        _ => "unknown",
    };
    format!("{}{name}", if depth == Depth::All { "r" } else { "" })
}

/// Names of namespaces, in the order of the kernel's flags.
pub fn namespace_names(of: u64) -> String {
    let names = [
        (flags::MOUNT, "mount"),
        (flags::CGROUP, "cgroup"),
        (flags::UTS, "uts"),
        (flags::IPC, "ipc"),
        (flags::USER, "user"),
        (flags::PID, "pid"),
        (flags::NETWORK, "network"),
        (flags::TIME, "time"),
    ];
    let set: Vec<&str> = names.iter().filter(|(flag, _)| of & flag != 0).map(|(_, name)| *name).collect();
    set.join(" ")
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |c: &CString| c.to_string_lossy().into_owned();
        match self {
            Step::Await(word) => write!(f, "await {word:?}"),
            Step::Say(word) => write!(f, "say {word:?}"),
            Step::BecomeRoot => f.write_str("become root of the user namespace"),
            Step::EnterCgroups => f.write_str("enter the cgroup"),
            Step::Join(of, _, path) => write!(f, "join {} namespace {path}", namespace_names(*of)),
            Step::JoinIfPermitted(of, _, path) => {
                write!(f, "join {} namespace {path} if permitted", namespace_names(*of))
            }
            Step::Hop(cloned) => write!(f, "clone {} and go on there", namespace_names(*cloned)),
            Step::NewTime(offsets) => write!(f, "unshare time {}", offsets.to_string_lossy().trim_end()),
            Step::Unshare(of) => write!(f, "unshare {}", namespace_names(*of)),
            Step::UnshareCgroup => f.write_str("unshare the cgroup namespace"),
            Step::Hide => f.write_str("become undumpable"),
            Step::NewSession => f.write_str("start a session"),
            Step::Keyring(name, _) => write!(f, "join session keyring {}", text(name)),
            Step::FileLabel(place, label) => write!(f, "label {place} {}", text(label)),
            Step::Propagation(flags) => write!(f, "make / {}", propagation_name(*flags, Depth::All)),
            Step::RootOnItself(path) => write!(f, "clone rootfs {} onto itself", text(path)),
            Step::TakeAway(path) => write!(f, "take away {}", text(path)),
            Step::Confine(_) => f.write_str("change the root to that of the container"),
            Step::Root(path, false) => write!(f, "clone rootfs {}", text(path)),
            Step::Root(path, true) => write!(f, "clone rootfs {}, make / private", text(path)),
            Step::Mount(mount) => mount.fmt(f),
            Step::Directory(place) => write!(f, "make directory {place}"),
            Step::Device(device) => device.fmt(f),
            Step::Link(place, target) => write!(f, "link {place} to {}", text(target)),
            Step::Terminal(_) => f.write_str("open a terminal"),
            Step::Console(place) => write!(f, "mount the terminal on {place}"),
            Step::Mask(place) => write!(f, "mask {place}"),
            Step::ReadOnly(place) => write!(f, "make {place} read-only"),
            Step::ReadOnlyRoot => f.write_str("make / read-only"),
            Step::Pivot => f.write_str("pivot to the rootfs"),
            Step::MoveRoot => f.write_str("move the rootfs to /"),
            Step::RootPropagation(flags, depth) => write!(f, "make the new / {}", propagation_name(*flags, *depth)),
            Step::Hostname(name) => write!(f, "set hostname {}", text(name)),
            Step::Domainname(name) => write!(f, "set domainname {}", text(name)),
            Step::Sysctl(path, value) => write!(f, "set {} to {}", text(path), text(value)),
            Step::OomScore(score) => write!(f, "set oom_score_adj {}", text(score)),
            Step::Limit(_, name, soft, hard) => write!(f, "limit {name} to {soft}:{hard}"),
            other => other.fmt_process(f),
        }
    }
}

impl Step {
    /// The steps that make a process out of a place to live in.
    fn fmt_process(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Affinity(cpus) if *cpus == EVERY_CPU => f.write_str("run on every cpu"),
            Step::Affinity(cpus) => write!(f, "run on cpus {cpus:x?}"),
            Step::Loopback => f.write_str("bring the loopback device up"),
            Step::Label(file, label) => {
                write!(f, "write {} to {}", label.to_string_lossy(), file.to_string_lossy())
            }
            Step::MemoryPolicy(mode, nodes) => write!(f, "set memory policy {mode:#x} nodes {nodes:x?}"),
            Step::Personality(persona) => write!(f, "set personality {persona:#x}"),
            Step::Scheduler(attributes) => write!(f, "set scheduler policy {}", attributes.policy),
            Step::IoPriority(value) => write!(f, "set io priority {value:#x}"),
            Step::Streams => f.write_str("place the standard streams"),
            Step::OwnStreams(uid) => write!(f, "give the standard streams to uid {uid}"),
            Step::CloseOthers(preserved) => write!(f, "close descriptors from {} on", 3 + preserved),
            Step::NoNewPrivileges => f.write_str("set no_new_privs"),
            Step::Seccomp(program, flags) => {
                write!(f, "install seccomp filter of {} instructions, flags {flags}", program.len())
            }
            Step::Bounding(keep) => write!(f, "keep {} capabilities in the bounding set", keep.count_ones()),
            Step::User(user) => write!(f, "become uid {} gid {} groups {:?}", user.uid, user.gid, user.groups),
            Step::Umask(mask) => write!(f, "set umask {mask:04o}"),
            Step::WorkingDirectory(path) => write!(f, "change to {}", path.to_string_lossy()),
            Step::UsersDirectory(path) => write!(f, "change to {} as the user", path.to_string_lossy()),
            Step::Capabilities(sets, ambient) => write!(
                f,
                "set capabilities effective {:x} permitted {:x} inheritable {:x} ambient {ambient:x}",
                sets.effective, sets.permitted, sets.inheritable
            ),
            Step::Home(uid) => write!(f, "find HOME of uid {uid}"),
            Step::Program(places) => {
                write!(f, "find program {}", places.last().map_or("".into(), |last| last.to_string_lossy()))
            }
            Step::AwaitStart => f.write_str("await start"),
            Step::Hook(hook) => write!(f, "run {} hook {}", hook.kind, hook.path.to_string_lossy()),
            Step::Exec(name) => write!(f, "execute {name}"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::New { kind, options, copy_up, .. } => {
                write!(f, "mount {} on {}", kind.to_string_lossy(), self.to)?;
                write_options(f, options)?;
                f.write_str(if *copy_up { " with a copy of what is there" } else { "" })?;
            }
            What::Bind { source, depth, idmap, .. } => {
                let name = if *depth == Depth::All { "rbind" } else { "bind" };
                write!(f, "{name} {} on {}", source.to_string_lossy(), self.to)?;
                match idmap {
                    None => {}
                    Some((slot, Depth::One)) => write!(f, " ids mapped by slot {slot}")?,
                    Some((slot, Depth::All)) => write!(f, " ids mapped recursively by slot {slot}")?,
                }
            }
            What::Again { options } => {
                write!(f, "change the mount on {}", self.to)?;
                write_options(f, options)?;
            }
        }
        for (label, attributes) in [("set", self.attributes), ("recursively", self.recursive)] {
            if attributes.set != 0 || attributes.clear != 0 {
                write!(f, " {label} +{:x} -{:x}", attributes.set, attributes.clear)?;
            }
        }
        if self.replaced != 0 {
            write!(f, " drop {:x}", self.replaced)?;
        }
        for (flags, depth) in &self.propagation {
            write!(f, " {}", propagation_name(*flags, *depth))?;
        }
        Ok(())
    }
}

fn write_options(f: &mut fmt::Formatter<'_>, options: &[(CString, Option<CString>)]) -> fmt::Result {
    for (key, value) in options {
        write!(f, " {}", key.to_string_lossy())?;
        if let Some(value) = value {
            write!(f, "={}", value.to_string_lossy())?;
        }
    }
    Ok(())
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bind {
            return write!(f, "bind device {} on {}", self.host.to_string_lossy(), self.to);
        }
        let kind = match self.mode & libc::S_IFMT {
            libc::S_IFBLK => 'b',
            libc::S_IFIFO => 'p',
            _ => 'c',
        };
        let (major, minor) = (libc::major(self.number), libc::minor(self.number));
        write!(f, "make device {} {kind} {major}:{minor} mode {:o}", self.to, self.mode & 0o7777)
    }
}
