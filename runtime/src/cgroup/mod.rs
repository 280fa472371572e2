//! Control groups: limits, membership, freezing, counting and killing, on v1, v2 and any mixture.
//!
//! [`Layout`] says where each controller is mounted, [`resources`] and [`devices`] decide what to write (pure), and
//! [`Cgroup`] is one container's directory in every tree. Whoever owns the parent directory makes and removes it: the
//! runtime itself, or [`systemd`]. An update is [`merged`] with what was, and written by [`Cgroup::change`]: all of it, or
//! nothing as far as the kernel lets old values back in. What a cgroup has used: [`Usage`] for CRI, [`Cgroup::stats`] for
//! `events`.
//!
//! ```text
//! let layout = Layout::discover()?;
//! let cgroup = Cgroup::at(&layout, Path::new("/kubepods/pod1/web"))?;
//! cgroup.create()?;
//! cgroup.apply(&resources)?;
//! let doors = cgroup.doors()?;         // opened by the parent
//! //  clone3(CLONE_INTO_CGROUP, doors.unified), and in the child, before anything else:
//! //  for door in doors.tasks { write(door, "0") }
//! cgroup.delete(Duration::from_secs(10))?;
//! ```
//!
//! The child writes itself into v1's `tasks`: whoever moves another process, or writes to `cgroup.procs` at all, takes
//! the kernel's `cgroup_threadgroup_rwsem` for writing and, after idle, waits for an RCU grace period (a run of
//! `/bin/true` then takes 14.4 ms instead of 5.5).

mod apply;
mod below;
#[cfg(test)]
mod changes;
mod control;
mod controller;
pub mod device_list;
pub mod device_program;
pub mod devices;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod host;
mod layout;
mod merge;
mod oom;
mod owner;
mod place;
#[cfg(test)]
mod real;
pub mod resources;
mod stats;
pub mod systemd;
mod tree;
mod undo;
mod usage;
mod usual;
mod v1;
mod v2;

pub use apply::Changed;
pub use below::Below;
pub use controller::{Controller, Version};
pub(crate) use layout::unescape;
pub use layout::{Hierarchy, Layout, below_mount};
pub use merge::{merged, needed};
pub use oom::OomWatch;
pub use owner::owner;
pub use place::Trees;
pub use tree::{Cgroup, Doors, is_forbidden};
pub use usage::{IoUsage, MemoryUsage, Usage};
use v2::swap as swap_alone;
pub use v2::weight as cpu_weight;
