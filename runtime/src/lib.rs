//! Gantry's OCI runtime: isolates processes with Linux namespaces, cgroups, capabilities and seccomp.
//!
//! Verbs are functions over plain request structs: [`create`], [`start`], [`exec`], [`kill`], [`delete`], [`state`],
//! [`list`]. Synchronous, one thread, no C library. A pure part ([`plan`]) decides what is to be done and prints as
//! text; a thin part does it after `clone3`.
//!
//! | module | what it holds |
//! |---|---|
//! | [`create`], [`exec`], [`lifecycle`] | the story of each verb, top to bottom |
//! | [`cgroup`] | v1, v2 and hybrid: resources to writes, join, freeze, usage, delete |
//! | [`seccomp`] | OCI profile to BPF, pure |
//! | [`monitor`] | the process that looks after the containers of one pod |
//! | [`sys`] | system calls; all `unsafe` of the project |

pub mod cgroup;
pub mod create;
pub mod error;
pub mod exec;
pub mod lifecycle;
pub mod monitor;
pub mod seccomp;
pub mod sys;

pub use create::{CreateRequest, Created, Options, Stdio, create};
pub use error::{Error, Kind, Result};
pub use exec::{ExecRequest, exec};
pub use lifecycle::{DEFAULT_ROOT, delete, kill, list, start, state};
pub use sys::Solo;
