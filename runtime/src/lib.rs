//! Gantry's OCI runtime: isolates processes with Linux namespaces, cgroups, capabilities and seccomp.
//!
//! Verbs are functions over plain request structs: [`create()`], [`run`], [`start`], [`exec()`], [`kill`], [`delete`],
//! [`state()`], [`list`]. Synchronous, one thread, no C library. A pure part ([`plan`]) decides what is to be done and prints as
//! text; a thin part does it after `clone3`.
//!
//! Other programs can embed it (`examples/embed.rs` is one, whole):
//!
//! ```no_run
//! use gantry_runtime::{CreateRequest, Solo, seal};
//! use std::path::Path;
//!
//! # fn main() -> gantry_runtime::Result<()> {
//! // The first thing in main(): one thread only, and a binary that nothing in a container can write to.
//! let alone = Solo::prove()?;
//! seal::protect(&alone)?;
//! let (root, bundle) = (Path::new("/run/me"), Path::new("/srv/web"));
//! let created = gantry_runtime::create(&CreateRequest::new(root, "web", bundle), &alone)?;
//! gantry_runtime::start(root, "web")?;
//! let code = created.wait()?.shell_code();
//! gantry_runtime::delete(root, "web", false)?;
//! # Ok(())
//! # }
//! ```
//!
//! A failure is an [`Error`]: a [`Kind`] to branch on, and one sentence for people. A caller that is killed leaves
//! nothing that `delete` with `force` does not find. Times are in seconds and RFC 3339, sizes in bytes, ids as the kernel
//! of this process' own namespaces counts them.
//!
//! | module | what it holds |
//! |---|---|
//! | [`mod@create`], [`mod@exec`], [`lifecycle`] | the story of each verb, top to bottom |
//! | [`mod@update`] | other limits for a container that lives |
//! | [`mod@stats`] | statistics and events, in the words of `runc events` |
//! | [`mod@checkpoint`] | a container's processes to files and back, through criu |
//! | [`cli`] | every command and flag as one table |
//! | [`spec`] | `config.json`: reading, checking, the path of what is wrong |
//! | [`plan`] | DECIDE: specification and host to steps, printable |
//! | [`init`] | DO, after the clone: a loop over the steps |
//! | [`trace`] | what is being done, step by step, for `--debug` |
//! | [`talk`] | what parent and child say to each other, with a diagram |
//! | [`mod@state`], [`status`] | facts on disk; the status that follows from them, and what it allows |
//! | [`root`] | the only way to open a path inside of a rootfs |
//! | [`seal`] | nothing in a container can write to this binary |
//! | [`cgroup`] | v1, v2 and hybrid: resources to writes, join, freeze, usage, delete |
//! | [`seccomp`] | OCI profile to BPF, pure |
//! | [`netlink`] | messages to rtnetlink and nf_tables, one socket |
//! | [`monitor`] | the process that looks after the containers of one pod |
//! | [`sys`] | system calls; all `unsafe` of the project |

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that cannot go on has failed"))]

pub mod cgroup;
pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod create;
pub mod error;
pub mod exec;
mod explain;
mod fault;
mod holder;
mod hooks;
pub mod init;
mod labels;
mod launch;
pub mod lifecycle;
mod listener;
mod members;
pub mod monitor;
mod mounts;
mod net_devices;
pub mod netlink;
pub mod plan;
mod rdt;
mod request;
pub mod root;
pub mod seal;
pub mod seccomp;
pub mod spec;
pub mod state;
pub mod stats;
pub mod status;
pub mod sys;
pub mod talk;
pub mod trace;
pub mod update;
mod userns;
mod wreck;

pub use checkpoint::{CheckpointRequest, CriuOptions, RestoreRequest, Restored, checkpoint, restore};
pub use create::{CreateRequest, Created, Options, Stdio, create, run};
pub use error::{Error, Kind, Result};
pub use exec::{ExecRequest, exec};
pub use lifecycle::{DEFAULT_ROOT, Snapshot, delete, kill, list, pause, process_of, ps, resume, start, state};
pub use stats::stats;
pub use status::Status;
pub use sys::Solo;
pub use update::{UpdateRequest, update};
