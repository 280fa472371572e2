//! DECIDE: what the child can do by itself while its parent still makes the v1 cgroups.
//!
//! On v1 a container needs a directory in each of a dozen trees: a millisecond of the parent's time, and as much again
//! for the namespaces and the first mounts. With two CPUs they take place at once: the child is cloned into a PID
//! namespace alone, unshares the others itself, builds the file system up to the first mount that shows a cgroup, and
//! enters the cgroups then. No program of the container's runs before that, and no hook.

use std::os::unix::ffi::OsStrExt as _;

use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};

use super::{Host, Plan, Step, What, Wishes};
use crate::spec::is_joined;
use crate::sys::clone::flags;
use crate::talk::Word;

/// What the child may unshare as well as the clone.
const LATER: u64 = flags::MOUNT | flags::UTS | flags::IPC | flags::NETWORK;

/// Whether the child of this specification needs nothing of its cgroups at first, and sees the host's trees by then.
///
/// Not with a user namespace, in which the trees are not its own; not in a mount or cgroup namespace of others; not where
/// the parent works on the child's namespaces right after the clone.
pub fn may_overlap(spec: &Spec) -> bool {
    let fits = |linux: &Linux| {
        let listed = linux.namespaces().as_deref().unwrap_or_default();
        let joins = |kind| listed.iter().any(|space| space.typ() == kind && is_joined(space));
        let user = listed.iter().any(|space| space.typ() == LinuxNamespaceType::User);
        let mount = listed.iter().any(|space| space.typ() == LinuxNamespaceType::Mount);
        let devices = linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty());
        mount && !user && !devices && !joins(LinuxNamespaceType::Mount) && !joins(LinuxNamespaceType::Cgroup)
    };
    spec.linux().as_ref().is_some_and(fits)
}

/// Puts the steps that need the cgroup off for as long as they can be, where that is wished.
pub(super) fn put_off(plan: &mut Plan, host: &Host, wishes: Wishes) {
    if !wishes.overlap {
        return;
    }
    let own = plan.cloned & LATER;
    plan.cloned &= !own;
    let needs = |step: &Step| matches!(step, Step::EnterCgroups | Step::Affinity(_) | Step::UnshareCgroup);
    // The cgroup namespace is the last of them, before the file system.
    let end = plan.steps.iter().position(|step| matches!(step, Step::Propagation(_))).unwrap_or(0);
    let (mut early, mut late) = (Vec::with_capacity(plan.steps.len() + 2), vec![Step::Await(Word::Limited)]);
    let rest = plan.steps.split_off(end);
    for step in plan.steps.drain(..) {
        if matches!(step, Step::EnterCgroups) {
            early.push(Step::Unshare(own));
        }
        if needs(&step) { late.push(step) } else { early.push(step) }
    }
    let mut late = Some(late);
    for step in rest {
        if waits(&step, host) {
            early.extend(late.take().into_iter().flatten());
        }
        early.push(step);
    }
    early.extend(late.into_iter().flatten());
    plan.steps = early;
}

/// Whether this step, or what it starts, has to find the process in its cgroup.
fn waits(step: &Step, host: &Host) -> bool {
    match step {
        Step::Mount(mount) => match &mount.what {
            What::Bind { source, .. } => {
                let shows =
                    |tree: &super::CgroupMount| source.to_bytes().starts_with(tree.mount.as_os_str().as_bytes());
                host.cgroups.iter().any(shows)
            }
            What::New { kind, .. } => matches!(kind.to_bytes(), b"cgroup" | b"cgroup2"),
            What::Again { .. } => false,
        },
        Step::Propagation(_) | Step::Root(..) | Step::Directory(_) | Step::Device(_) | Step::Link(..) => false,
        Step::ReadOnly(_) | Step::Mask(_) => false,
        _ => true,
    }
}
