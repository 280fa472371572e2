//! DECIDE: which namespaces the clone makes, which the child joins, and which the parent stands in around the clone.

use oci_spec::runtime::{Linux, LinuxNamespaceType};

use super::step::Step;
use super::{Around, Host, IdMaps, Opens, idmap, path_text};
use crate::error::{Error, Kind, Result};
use crate::spec::{is_joined, lists};
use crate::sys::clone::flags;
use crate::talk::Word;

/// What the namespaces of a specification come to.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// Made by clone3 itself.
    pub(super) cloned: u64,
    /// Entered or made by the parent around the clone, because a process is born into them (pid, time), or because
    /// the child would no longer be allowed to (a new user namespace).
    pub(super) around: Vec<Around>,
    /// Joined by the child, the user namespace first.
    pub(super) joins: Vec<Step>,
    /// A cgroup namespace is made once the cgroup has been entered: clone3 would root it in the parent's.
    pub(super) own_cgroup: bool,
    /// For a new user namespace.
    pub(super) maps: Option<IdMaps>,
    /// The container lives in another user namespace than the runtime.
    pub(super) other_user: bool,
    /// Made by the child once it is root of its new user namespace.
    pub(super) unshared: u64,
    /// A user namespace is joined: everything else has to be made from inside of it, to belong to it, by a second clone.
    pub(super) hops: bool,
}

/// The kernel's flag for a type of the specification.
pub fn flag(kind: LinuxNamespaceType) -> u64 {
    match kind {
        LinuxNamespaceType::Mount => flags::MOUNT,
        LinuxNamespaceType::Cgroup => flags::CGROUP,
        LinuxNamespaceType::Uts => flags::UTS,
        LinuxNamespaceType::Ipc => flags::IPC,
        LinuxNamespaceType::User => flags::USER,
        LinuxNamespaceType::Pid => flags::PID,
        LinuxNamespaceType::Network => flags::NETWORK,
        LinuxNamespaceType::Time => flags::TIME,
    }
}

/// Network devices are moved by the parent, before anything refers to them (sysctls do).
pub(super) fn devices(linux: &Linux) -> Vec<Step> {
    match linux.net_devices() {
        Some(devices) if !devices.is_empty() => vec![Step::Say(Word::Devices), Step::Await(Word::Moved)],
        _ => Vec::new(),
    }
}

pub(super) fn decide(linux: &Linux, host: &Host, opens: &mut Opens) -> Result<Namespaces> {
    let mut found = Namespaces::default();
    let listed = linux.namespaces().as_deref().unwrap_or_default();
    let makes_user = listed.iter().any(|space| space.typ() == LinuxNamespaceType::User && !is_joined(space));
    found.other_user = lists(linux, LinuxNamespaceType::User);
    // Without privileges the parent can do no more than the child.
    opens.by_parent = found.other_user && !host.rootless;
    opens.as_slaves = found.other_user;
    found.hops = found.other_user && !makes_user;
    for space in listed {
        let of = flag(space.typ());
        match space.path().as_deref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => {
                let path = path_text(path)?;
                let slot = opens.namespace(of, path)?;
                let join = || Step::Join(of, slot, path.to_owned());
                match of {
                    flags::MOUNT if makes_user => {
                        let what =
                            "linux.namespaces: a mount namespace by path does not belong to a new user namespace";
                        return Err(Error::new(Kind::Invalid, what));
                    }
                    _ if found.hops => found.joins.push(join()),
                    _ if makes_user || of == flags::PID || of == flags::TIME => {
                        found.around.push(Around::Join(of, slot));
                    }
                    _ => found.joins.push(join()),
                }
            }
            None if of == flags::CGROUP => found.own_cgroup = true,
            None if of == flags::TIME && linux.time_offsets().is_some() => {
                found.around.push(Around::NewTime(offsets(linux)));
            }
            None => found.cloned |= of,
        }
    }
    // Paths below the rootfs are looked up in the mount namespace that is joined last.
    found.joins.sort_by_key(|join| matches!(join, Step::Join(flags::MOUNT, ..)));
    if found.hops {
        found.joins = around_user(std::mem::take(&mut found.joins));
    }
    // The kernel gives a new message queue file system to whoever makes the IPC namespace: that has to be the root of
    // the user namespace, which its first process is only once the ids are mapped.
    found.unshared = if makes_user { found.cloned & flags::IPC } else { 0 };
    found.cloned &= !found.unshared;
    if makes_user {
        found.maps = Some(idmap::of_container(linux));
    }
    Ok(found)
}

/// The order around a user namespace that is joined: what this process may join before, then that one, then what only
/// belongs to it (runc's order).
fn around_user(joins: Vec<Step>) -> Vec<Step> {
    let (user, others): (Vec<_>, Vec<_>) =
        joins.into_iter().partition(|join| matches!(join, Step::Join(flags::USER, ..)));
    let before: Vec<Step> = others
        .iter()
        .filter_map(|join| match join {
            Step::Join(of, slot, path) => Some(Step::JoinIfPermitted(*of, *slot, path.clone())),
            _ => None,
        })
        .collect();
    before.into_iter().chain(user).chain(others).collect()
}

/// The text of `timens_offsets`.
fn offsets(linux: &Linux) -> String {
    let clocks = linux.time_offsets().iter().flatten();
    let mut lines: Vec<String> = clocks
        .map(|(clock, offset)| {
            format!("{clock} {} {}\n", offset.secs().unwrap_or_default(), offset.nanosecs().unwrap_or_default())
        })
        .collect();
    lines.sort();
    lines.concat()
}
