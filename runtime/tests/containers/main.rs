//! Real containers, as root on this host, through the binary's command line as a container engine would use it.
//!
//! Each test has a house of its own: state root, bundle, cgroup path. Its end fails on a process, mount, cgroup or
//! state directory that was left behind.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test that cannot go on has failed")]

mod beside;
mod checkpoint;
mod checkpoint_net;
mod crash;
mod events;
mod exec_flags;
mod faults;
mod hooks;
mod hostile;
mod house;
mod identity;
mod idmap;
mod isolation;
mod lifecycle;
mod limits;
mod mounts;
mod notify;
mod peers;
mod rare;
mod rootless;
mod roots;
mod spaces;
mod systemd;
mod update;
